"""The rolling day against all its minutes added up again."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.ticker import Tickers
from openoutcry.events import NS, Candle, Side, Ticker

NAME = "venue:X"
MINUTE = 60 * NS
T0 = 1_700_000_040 * NS
DAY = 1_440


def minute(at: int, price: int = 10, volume: str = "1", *, closed: bool = True, side: Side = Side.BOTH) -> Candle:
    open_ns, p = T0 + at * MINUTE, Decimal(price)
    return Candle(
        NAME, side, 60, open_ns, p, p + 1, p - 1, p + Decimal("0.5"), Decimal(volume), Decimal(volume) * p, 2,
        None, None, closed, open_ns + MINUTE, "trades",
    )  # fmt: skip


def naive(candles: list[Candle], now_ns: int) -> Ticker | None:
    start_ns = now_ns - now_ns % MINUTE - (DAY - 1) * MINUTE
    newest = {c.open_ns: c for c in candles}
    inside = [c for _, c in sorted(newest.items()) if c.open_ns >= start_ns and c.volume]
    if not inside:
        return None
    return Ticker(
        NAME, now_ns, inside[-1].received_ns, inside[0].open, max(c.high for c in inside), min(c.low for c in inside),
        inside[-1].close, sum((c.volume for c in inside), Decimal(0)), sum((c.quote_volume for c in inside), Decimal(0)),
        sum(c.trades for c in inside),
    )  # fmt: skip


# Minutes at both ends of a day, so that some leave; several times the same, so that some are corrected.
MINUTES = st.lists(
    st.builds(
        minute,
        st.sampled_from((0, 1, 2, 3, 1_000, 1_438, 1_439, 1_440, 1_441, 1_442, 3_000)),
        st.integers(5, 9),
        st.sampled_from(("1", "0.1", "0", "100000000.00000001")),
    ),
    max_size=20,
)


@given(MINUTES, st.sampled_from((0, 1, 3)))
def test_the_day_equals_its_minutes_added_up(candles: list[Candle], later: int) -> None:
    tickers = Tickers()
    seen: list[Candle] = []
    newest_ns = 0
    for candle in candles:
        if candle.open_ns <= newest_ns - DAY * MINUTE:
            continue  # a day late: what it says left long ago
        tickers.on_candle(candle)
        seen.append(candle)
        newest_ns = max(newest_ns, candle.open_ns)
        now_ns = newest_ns + later * MINUTE + 7
        assert tickers.ticker(NAME, now_ns, part=True) == naive(seen, now_ns)


def test_the_growing_minute_counts_and_a_closed_one_of_the_same_time_wins() -> None:
    tickers = Tickers()
    tickers.on_candle(minute(0))
    grown = tickers.ticker(NAME, T0 + MINUTE, minute(1, 20, closed=False), part=True)
    assert grown is not None
    assert (grown.high, grown.close, grown.volume) == (Decimal(21), Decimal("20.5"), Decimal(2))
    tickers.on_candle(minute(1, 15))
    closed = tickers.ticker(NAME, T0 + MINUTE, minute(1, 20, closed=False), part=True)
    assert closed is not None
    assert closed.high == 16


def test_a_growing_minute_alone_is_a_day_of_one_minute() -> None:
    tickers = Tickers()
    tickers.on_candle(minute(0, volume="0"))
    grown = tickers.ticker(NAME, T0 + MINUTE, minute(1, 20, closed=False), part=True)
    assert grown is not None
    assert grown.open == 20


def test_less_than_a_day_is_not_called_a_day() -> None:
    tickers = Tickers()
    tickers.on_candle(minute(0))
    assert tickers.ticker(NAME, T0 + 1_438 * MINUTE) is None
    assert tickers.ticker(NAME, T0 + 1_439 * MINUTE) is not None
    assert tickers.ticker("venue:Y", T0) is None


def test_a_seed_with_its_beginning_makes_the_day_whole_at_once() -> None:
    tickers = Tickers()
    tickers.seed([minute(100), minute(200)], since_ns=T0 - 2 * DAY * MINUTE)
    whole = tickers.ticker(NAME, T0 + 201 * MINUTE)
    assert whole is not None
    assert whole.trades == 4


def test_other_candles_are_ignored_and_instruments_are_bounded() -> None:
    tickers = Tickers(instruments_max=0)
    tickers.on_candle(minute(0))
    assert tickers.instruments_full == 1
    tickers = Tickers()
    for candle in (minute(0, closed=False), minute(0, side=Side.BUY)):
        tickers.on_candle(candle)
        assert tickers.ticker(NAME, T0, part=True) is None
    tickers.on_candle(minute(0))
    tickers.drop(NAME)
    assert tickers.ticker(NAME, T0, part=True) is None
