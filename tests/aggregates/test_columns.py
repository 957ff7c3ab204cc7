"""Columns against the live class, which is held against the naive recomputation."""

from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.candles import Candles
from openoutcry.aggregates.columns import candles_of, trades_of
from openoutcry.events import NS, WEEK_S, Candle, Side, Trade, open_of

NAME = "venue:X"
MINUTE = 60 * NS
MONDAY = open_of(1_700_000_000 * NS, WEEK_S) + WEEK_S * NS
START, END = MONDAY - WEEK_S * NS, MONDAY + WEEK_S * NS


def trade(minute: int, offset_ns: int, seq: int, side: Side, price: str, size: str, value: str | None) -> Trade:
    event_ns = MONDAY + minute * MINUTE + offset_ns
    told = None if value is None else Decimal(value)
    return Trade(NAME, event_ns, event_ns + 5, 0, seq, side, Decimal(price), Decimal(size), 2, told)


TRADES = st.lists(
    st.builds(
        trade,
        st.sampled_from((-61, -2, -1, 0, 1, 4, 5, 16, 59, 60)),
        st.sampled_from((0, 1, MINUTE - 1)),
        st.integers(0, 1),
        st.sampled_from((Side.BUY, Side.SELL)),
        st.sampled_from(("10", "10.5", "0.00000001", "98765.4")),
        # Some products fit into 64 bits, some not, and some sizes do not fit alone.
        st.sampled_from(("1", "0.1", "12345678901.2", "123456789.000000001", "123456789012345678901.5")),
        st.sampled_from((None, None, None, "100.25")),
    ),
    min_size=1,
    max_size=25,
).map(lambda made: [msgspec.structs.replace(each, id=n * 7 % 26) for n, each in enumerate(made)])


def live(trades: list[Trade]) -> dict[tuple[int, Side, int], Candle]:
    candles = Candles(minutes_kept=200)
    candles.vouch(NAME, START)
    for each in trades:
        candles.on_trade(each)
    return {(c.interval_s, c.side, c.open_ns): c for c in candles.on_time("venue", END + 2 * NS)}


@given(TRADES)
def test_columns_give_what_the_live_class_gives(trades: list[Trade]) -> None:
    made = candles_of(trades_of(trades), start_ns=START, end_ns=END)
    assert {(c.interval_s, c.side, c.open_ns): c for c in made} == live(trades)


def test_many_trades_whose_sums_leave_64_bits_are_exact() -> None:
    trades = [
        trade(0, n, n, Side.BUY if n % 3 else Side.SELL, "92345.67", f"{10**9 + n}.00000001", None) for n in range(300)
    ]
    columns = trades_of(trades)
    assert columns.size.dtype == np.int64
    made = candles_of(columns, start_ns=START, end_ns=END)
    assert {(c.interval_s, c.side, c.open_ns): c for c in made} == live(trades)


def test_rows_in_any_order_are_put_in_order() -> None:
    trades = [trade(n % 7, n % 3, n, Side.BUY, str(10 + n), "1", None) for n in range(20)]
    columns = trades_of(trades)
    order = np.random.default_rng(7).permutation(20)
    rows = {
        name: getattr(columns, name)[order] for name in ("event_ns", "received_ns", "seq", "sells", "price", "size")
    }
    shuffled = msgspec.structs.replace(columns, count=columns.count, **rows)
    assert candles_of(shuffled, start_ns=START, end_ns=END) == candles_of(columns, start_ns=START, end_ns=END)


def test_candles_that_are_not_wholly_inside_are_left_out() -> None:
    columns = trades_of([trade(n, 0, n, Side.BUY, "10", "1", None) for n in range(10)])
    made = candles_of(columns, start_ns=MONDAY + 1, end_ns=MONDAY + 10 * MINUTE)
    both = [(c.interval_s, (c.open_ns - MONDAY) // MINUTE) for c in made if c.side is Side.BOTH]
    assert both == [(60, n) for n in range(1, 10)] + [(300, 5)]


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
def test_a_side_without_a_trade_has_no_candle(side: Side) -> None:
    made = candles_of(trades_of([trade(0, 0, 0, side, "10", "1", None)]), start_ns=START, end_ns=END)
    assert {c.side for c in made} == {side, Side.BOTH}
