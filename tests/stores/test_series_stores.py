"""Every store does the same: the conformance tests of the port."""

import threading
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openoutcry.events import (
    NS,
    Candle,
    FundingBar,
    FundingRate,
    InterestBar,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    OpenInterest,
    Side,
    Trade,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.series import (
    NUMBERS,
    Batch,
    Of,
    Row,
    Series,
    SeriesKey,
    Span,
    State,
    Unstorable,
    columns_of,
    names,
    time_of,
)
from openoutcry.stores.memory import MemorySeries

MINUTES = SeriesKey("binance:BTCUSDT", Of.CANDLES, 60)


def candle(at_s: int, close: str = "100.10", *, side: Side = Side.BOTH, name: str = "binance:BTCUSDT") -> Candle:
    return Candle(
        name, side, 60, at_s * NS, Decimal("100.00"), Decimal("101.5"), Decimal("0.00000001"), Decimal(close),
        Decimal("12345678901234567890.123456789"), Decimal(0), 7, at_s * NS + 1, None, True, at_s * NS + 60, "trades",
    )  # fmt: skip


ONE_OF_EACH: list[tuple[SeriesKey, Row]] = [
    (MINUTES, candle(60)),
    (
        SeriesKey("x:A", Of.INTEREST, 300),
        OpenInterest("x:A", 300 * NS, 1, Decimal("1.50"), Decimal("2E+3"), Decimal(7)),
    ),
    (SeriesKey("x:A", Of.INTEREST, 60), OpenInterest("x:A", 300 * NS, 1, Decimal("1.50"))),
    (
        SeriesKey("x:A", Of.INTEREST_BARS, 60),
        InterestBar("x:A", 60, 0, Decimal(1), Decimal(2), Decimal("0.5"), Decimal("1.1"), None, True, 5),
    ),
    (
        SeriesKey("x:O", Of.INTEREST_BARS, 60),
        InterestBar(
            "x:O",
            60,
            0,
            Decimal(1),
            Decimal(2),
            Decimal("0.5"),
            Decimal("1.1"),
            Decimal("4.0"),
            True,
            5,
            (Decimal(3), Decimal("4.00"), Decimal(2), Decimal("4.0")),
            (Decimal("64000.10"), Decimal(7), Decimal(6), Decimal(6)),
        ),
    ),
    (
        SeriesKey("x:O", Of.INTEREST, 60),
        OpenInterest("x:O", 300 * NS, 1, Decimal("1.50"), None, Decimal(15), Decimal("64000.10")),
    ),
    (
        SeriesKey("x:A", Of.LEVELS_BARS, 60),
        LevelsBar("x:A", 60, 0, ((Decimal(61230), Decimal("0.50")), (Decimal("6.4E+4"), Decimal(2))), True, 5),
    ),
    (SeriesKey("x:B", Of.LEVELS_BARS, 60), LevelsBar("x:B", 60, 0, (), True, 5)),
    (
        SeriesKey("x:P", Of.FUNDING_BARS, 60),
        FundingBar(
            "x:P",
            60,
            0,
            Decimal(1),
            Decimal(2),
            Decimal(-1),
            Decimal(1),
            None,
            None,
            True,
            5,
            (Decimal("0.10"), Decimal(1), Decimal(0), Decimal(1)),
        ),
    ),
    (SeriesKey("x:A", Of.FUNDING), FundingRate("x:A", 9, 10, Decimal("-0.00010000"), 28_800 * NS, None, True)),
    (
        SeriesKey("x:A", Of.FUNDING_BARS, 3_600),
        FundingBar("x:A", 3_600, 0, Decimal(1), Decimal(2), Decimal(-1), Decimal(1), Decimal("1E-8"), 7, True, 5),
    ),
    (
        SeriesKey("x:A", Of.LIQUIDATION_BARS, 60, Side.SELL),
        LiquidationBar("x:A", Side.SELL, 60, 0, Decimal("0.1"), Decimal("10.05"), 3, True, 5),
    ),
    (SeriesKey("x:A", Of.TRADES), Trade("x:A", 5, 6, 2**62, 1, Side.BUY, Decimal("0.10"), Decimal(3), 2, None)),
    (
        SeriesKey("x:B", Of.TRADES),
        Trade("x:B", 5, 6, "12", 1, Side.SELL, Decimal("0.10"), Decimal(3), 1, Decimal("0.3"), Decimal(30)),
    ),
    (
        SeriesKey("x:A", Of.LIQUIDATIONS),
        Liquidation("x:A", 5, 6, "5-sell", Side.SELL, Decimal("9.9"), Decimal(1), Decimal("9.9"), None, True),
    ),
]


@pytest.mark.parametrize(("key", "row"), ONE_OF_EACH, ids=lambda given: getattr(given, "of", ""))
def test_every_sort_of_row_comes_back_as_it_was_to_the_last_digit(store: Series, key: SeriesKey, row: Row) -> None:
    store.write(Batch({key: [row]}))
    (back,) = store.read(key)
    assert back == row
    assert repr(back) == repr(row)  # Decimal("1.50") == Decimal("1.5"), but it is not what the venue said


@pytest.mark.parametrize(("key", "row"), [each for each in ONE_OF_EACH if each[0].of in NUMBERS])
def test_columns_hold_what_the_rows_hold(store: Series, key: SeriesKey, row: Row) -> None:
    store.write(Batch({key: [row]}))
    told, event = store.columns(key, start_ns=0, end_ns=10**18), columns_of(key.of, [row])
    assert told.at_ns.tolist() == event.at_ns.tolist() == [time_of(row)]
    for name in names(key.of):
        mine, other = told.of[name], event.of[name]
        assert mine.dtype == other.dtype
        # NaN, which is what was not told, equals itself here.
        np.testing.assert_array_equal(mine, other)
    if isinstance(row, Candle):
        assert [told.of[name][0] for name in ("open", "close", "volume")] == [
            100.0,
            100.1,
            12345678901234567890.123456789,
        ]
        assert (told.of["first_ns"][0], told.of["last_ns"][0]) == (60 * NS + 1, 0)
    if isinstance(row, LevelsBar) and row.levels:
        assert told.of["levels"][0] == "61230 0.50 6.4E+4 2"


def test_columns_are_bounded_as_rows_are(store: Series) -> None:
    store.write(Batch({MINUTES: [candle(60 * n) for n in range(10)]}))
    told = store.columns(MINUTES, start_ns=60 * NS, end_ns=240 * NS)
    assert told.at_ns.tolist() == [60 * NS, 120 * NS, 180 * NS]
    assert store.columns(MINUTES, start_ns=60 * NS, end_ns=240 * NS, limit=2).at_ns.tolist() == [60 * NS, 120 * NS]
    assert len(store.columns(MINUTES, start_ns=0, end_ns=60)) == 1
    nobody = store.columns(SeriesKey("x:nobody", Of.CANDLES, 60), start_ns=0, end_ns=10**18)
    assert len(nobody) == 0
    assert set(nobody.of) == set(names(Of.CANDLES))


def test_an_unknown_series_is_empty(store: Series) -> None:
    assert store.read(MINUTES) == []
    assert store.coverages() == {}
    assert store.prune(MINUTES, 10**18, 5) == 0
    assert store.listing("binance") == []


def test_the_same_place_written_twice_keeps_what_came_last(store: Series) -> None:
    store.write(Batch({MINUTES: [candle(60, "1"), candle(60, "2")]}))
    assert store.read(MINUTES) == [candle(60, "2")]
    store.write(Batch({MINUTES: [candle(60, "3")]}))
    assert store.read(MINUTES) == [candle(60, "3")]


def test_sides_intervals_and_instruments_do_not_mix(store: Series) -> None:
    sell = SeriesKey("binance:BTCUSDT", Of.CANDLES, 60, Side.SELL)
    other = SeriesKey("bybit:BTCUSDT", Of.CANDLES, 60)
    rows: dict[SeriesKey, list[Row]] = {
        MINUTES: [candle(60)],
        sell: [candle(60, "5", side=Side.SELL)],
        other: [candle(60, "6", name="bybit:BTCUSDT")],
    }
    store.write(Batch(rows))
    for key, written in rows.items():
        assert store.read(key) == written
    assert set(store.keys(Of.CANDLES)) == rows.keys()
    assert list(store.keys(Of.TRADES)) == []


def test_a_read_is_bounded_by_start_end_and_limit_from_either_end(store: Series) -> None:
    rows = [candle(60 * n) for n in range(10)]
    store.write(Batch({MINUTES: rows}))
    assert store.read(MINUTES, start_ns=60 * NS, end_ns=240 * NS) == rows[1:4]
    assert store.read(MINUTES, start_ns=60 * NS, limit=2) == rows[1:3]
    assert store.read(MINUTES, end_ns=240 * NS, limit=2, newest=True) == rows[2:4]
    assert store.read(MINUTES, limit=3, newest=True) == rows[-3:]
    assert store.read(MINUTES, limit=0) == []
    assert store.read(MINUTES, limit=0, newest=True) == []


def test_coverage_is_replaced_as_a_whole_and_lives_beside_its_rows(store: Series) -> None:
    store.write(Batch({MINUTES: [candle(60)]}, {MINUTES: [Span(0, 5, State.HAVE), Span(5, 9, State.EMPTY)]}))
    assert dict(store.coverages()) == {MINUTES: _same([Span(0, 5, State.HAVE), Span(5, 9, State.EMPTY)])}
    store.write(Batch({}, {MINUTES: [Span(0, 5, State.HAVE), Span(5, 12, State.EMPTY)]}))
    assert dict(store.coverages()) == {MINUTES: _same([Span(0, 5, State.HAVE), Span(5, 12, State.EMPTY)])}
    store.write(Batch({}, {MINUTES: [Span(2, 4, State.REFUSED)]}))
    assert dict(store.coverages()) == {MINUTES: _same([Span(2, 4, State.REFUSED)])}
    store.write(Batch({}, {MINUTES: []}))
    assert dict(store.coverages()) == {}


class _same(list[Span]):  # noqa: N801 - reads as a word
    """Equal to a list or a tuple of the same spans."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | tuple) and list(self) == list(other)

    __hash__ = None


def test_pruning_goes_in_small_steps_from_the_oldest_and_always_moves_on(store: Series) -> None:
    key = SeriesKey("x:A", Of.TRADES)
    # Five trades at one moment: a step that ends inside them must take them all, or it would never get past.
    rows = [Trade("x:A", at, at, n, n, Side.BUY, Decimal(1), Decimal(1)) for n, at in enumerate([1, 2, 2, 2, 2, 2, 3])]
    store.write(Batch({key: rows}))
    assert store.prune(key, 3, 2) == 6
    assert store.prune(key, 3, 2) == 0
    assert store.read(key) == rows[-1:]


def test_a_listing_is_replaced_as_a_whole(store: Series) -> None:
    one, two = (
        Instrument(
            venue="okx", symbol=symbol, kind=Kind.PERPETUAL, coin="BTC", quote="USDT", settle="USDT",
            tick_size=Decimal("0.10"), lot_size=Decimal("0.01"), contract_size=Decimal("0.01"), listed_ns=5,
        )
        for symbol in ("BTC-USDT-SWAP", "ETH-USDT-SWAP")
    )  # fmt: skip
    store.save_listing("okx", [two, one])
    assert list(store.listing("okx")) == [one, two]
    store.save_listing("okx", [two])
    assert list(store.listing("okx")) == [two]
    assert list(store.listing("binance")) == []


def test_what_was_written_is_there_after_it_is_opened_again(reopen: Callable[[], Series]) -> None:
    first = reopen()
    for key, row in ONE_OF_EACH:
        first.write(Batch({key: [row]}, {key: [Span(0, time_of(row) + 1, State.HAVE)]}))
    second = reopen()
    for key, row in ONE_OF_EACH:
        assert list(second.read(key)) == [row]
    assert second.coverages().keys() == {key for key, _ in ONE_OF_EACH}
    second.write(Batch({MINUTES: [candle(120)]}, {MINUTES: [Span(0, 180 * NS, State.HAVE)]}))
    third = reopen()
    assert list(third.read(MINUTES)) == [candle(60), candle(120)]
    assert list(third.coverages()[MINUTES]) == [Span(0, 180 * NS, State.HAVE)]


def test_a_row_the_database_cannot_hold_stores_nothing_of_its_batch(reopen: Callable[[], Series]) -> None:
    store = reopen()
    bad = Trade("x:A", 2**70, 1, 1, 1, Side.BUY, Decimal(1), Decimal(1))
    with pytest.raises(Unstorable):
        store.write(
            Batch({MINUTES: [candle(60)], SeriesKey("x:A", Of.TRADES): [bad]}, {MINUTES: [Span(0, 9, State.HAVE)]})
        )
    assert store.read(MINUTES) == []
    store.write(Batch({MINUTES: [candle(60)]}))
    assert store.read(MINUTES) == [candle(60)]
    assert store.coverages() == {}


def test_readers_see_whole_batches_while_one_writes(reopen: Callable[[], Series]) -> None:
    store = reopen()
    torn: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            count = len(store.read(MINUTES))
            if count % 10:
                torn.append(count)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for batch in range(30):
        store.write(Batch({MINUTES: [candle(60 * (batch * 10 + n)) for n in range(10)]}))
    done.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert len(store.read(MINUTES)) == 300


# Few places and many writes, so that most writes replace something.
_writes = st.lists(
    st.tuples(st.sampled_from([Side.BUY, Side.BOTH]), st.integers(0, 6), st.sampled_from(["1", "2.0"])), max_size=12
)
_bounds = st.one_of(st.none(), st.integers(-1, 8))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=_writes, start=_bounds, end=_bounds, limit=st.one_of(st.none(), st.integers(0, 4)), newest=st.booleans())
def test_a_database_answers_as_memory_does(
    store: Series,
    writes: list[tuple[Side, int, str]],
    start: int | None,
    end: int | None,
    limit: int | None,
    newest: bool,
) -> None:
    oracle = MemorySeries()
    name = f"x:{hash((str(writes), start, end, limit, newest))}"  # the database outlives the example
    for side, minute, close in writes:
        batch = Batch({SeriesKey(name, Of.CANDLES, 60, side): [candle(60 * minute, close, side=side, name=name)]})
        store.write(batch)
        oracle.write(batch)
    start_ns, end_ns = (None if bound is None else bound * 60 * NS for bound in (start, end))
    for side in (Side.BUY, Side.BOTH):
        key = SeriesKey(name, Of.CANDLES, 60, side)
        asked = store.read(key, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
        assert asked == oracle.read(key, start_ns=start_ns, end_ns=end_ns, limit=limit, newest=newest)
