"""Closed candles, gaps and repairs become coverage; never more than is true."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openoutcry.aggregates.candles import Candles
from openoutcry.events import NS, Abandoned, Candle, Event, Gap, LiquidationBar, Mended, Side, Trade
from openoutcry.market.coverage import Book
from openoutcry.market.series import Of, SeriesKey, Span, State
from openoutcry.market.whole import Whole

MINUTE_NS = 60 * NS
START = 1_000 * MINUTE_NS  # a multiple of 5 minutes
NAME = "x:A"
BOTH = SeriesKey(NAME, Of.CANDLES, 60)
SELL = SeriesKey(NAME, Of.CANDLES, 60, Side.SELL)
FIVE = SeriesKey(NAME, Of.CANDLES, 300)
TRADES = SeriesKey(NAME, Of.TRADES)


def candle(minute: int, side: Side = Side.BOTH, interval_s: int = 60) -> Candle:
    n = Decimal(1)
    return Candle(NAME, side, interval_s, START + minute * MINUTE_NS, n, n, n, n, n, n, 1, 1, 1, True, 1, "trades")


def stretch(start: float, end: float) -> tuple[int, int]:
    return START + round(start * MINUTE_NS), START + round(end * MINUTE_NS)


@pytest.fixture
def book() -> Book:
    return Book({})


@pytest.fixture
def whole(book: Book) -> Whole:
    """Followed since START: the first gap is mended at half past the first minute."""
    made = Whole(book)
    gap = Gap(NAME, "trades", START, None, "start")
    made.on_gap(gap)
    made.on_mended(Mended(gap, START + MINUTE_NS // 2))
    return made


def test_quiet_buckets_between_closed_candles_are_had(book: Book, whole: Whole) -> None:
    whole.on_candle(candle(0))
    whole.on_candle(candle(4))
    assert book.of(BOTH).spans == (Span(*stretch(0, 5), State.HAVE),)
    assert book.of(TRADES).spans == (Span(*stretch(0, 5), State.HAVE),)
    whole.on_candle(candle(0, interval_s=300))
    assert book.of(FIVE).spans == (Span(*stretch(0, 5), State.HAVE),)
    whole.on_candle(candle(3, Side.SELL))
    assert book.of(SELL).spans == (Span(*stretch(0, 4), State.HAVE),)


def test_a_candle_confirmed_by_the_venue_says_nothing_of_the_trades(book: Book) -> None:
    whole = Whole(book)
    whole.on_candle(msgspec.structs.replace(candle(3), origin="venue"))
    assert book.of(BOTH).spans == (Span(*stretch(3, 4), State.HAVE),)
    assert book.of(TRADES).spans == ()


@pytest.mark.parametrize("candles_first", [True, False])
def test_a_mended_gap_leaves_nothing_missing_whoever_hears_of_it_first(
    book: Book, whole: Whole, candles_first: bool
) -> None:
    whole.on_candle(candle(0))
    gap = Gap(NAME, "trades", START + MINUTE_NS * 3 // 2, None, "cut")
    whole.on_gap(gap)
    mended = Mended(gap, START + MINUTE_NS * 11 // 2)
    if not candles_first:
        whole.on_mended(mended)
    whole.on_candle(candle(1))
    whole.on_candle(candle(4))  # minutes 2 and 3 were quiet
    if candles_first:
        whole.on_mended(mended)
    assert book.of(BOTH).spans == (Span(*stretch(0, 5), State.HAVE),)
    whole.on_candle(candle(6))
    assert book.of(BOTH).spans == (Span(*stretch(0, 7), State.HAVE),)
    assert book.of(TRADES).spans == (Span(*stretch(0, 7), State.HAVE),)


def test_a_gap_in_what_was_closed_already_takes_it_back(book: Book, whole: Whole) -> None:
    for minute in range(6):
        whole.on_candle(candle(minute))
    whole.on_candle(candle(0, interval_s=300))
    gap = Gap(NAME, "trades", START + MINUTE_NS * 5 // 2, START + MINUTE_NS * 5 // 2 + 5, "missed ids")
    whole.on_gap(gap)
    assert book.of(BOTH).missing(*stretch(0, 6)) == [stretch(2, 3)]
    assert book.of(FIVE).missing(*stretch(0, 5)) == [stretch(0, 5)]
    assert book.of(TRADES).missing(*stretch(0, 6)) == [(gap.start_ns, gap.end_ns)]
    whole.on_mended(Mended(gap, gap.end_ns or 0))
    whole.on_candle(candle(2))
    assert book.of(BOTH).missing(*stretch(0, 6)) == []


def test_an_abandoned_gap_stays_missing_and_a_final_one_is_refused(book: Book, whole: Whole) -> None:
    for minute in range(2):
        whole.on_candle(candle(minute))
        whole.on_candle(candle(minute, Side.SELL))
    gap = Gap(NAME, "trades", START + 2 * MINUTE_NS, None, "cut")
    whole.on_gap(gap)
    whole.on_abandoned(Abandoned(gap, START + 4 * MINUTE_NS, "gone", final=False))
    whole.on_candle(candle(5))
    whole.on_candle(candle(5, Side.SELL))
    assert book.of(BOTH).missing(*stretch(0, 6)) == [stretch(2, 5)]
    assert book.of(TRADES).missing(*stretch(0, 6)) == [stretch(2, 4)]
    gap = Gap(NAME, "trades", START + 6 * MINUTE_NS, None, "cut")
    whole.on_gap(gap)
    whole.on_abandoned(Abandoned(gap, START + 8 * MINUTE_NS, "gone", final=True))
    assert [each.state for each in book.of(TRADES).query(*stretch(6, 8))] == [State.REFUSED]
    assert [each.state for each in book.of(SELL).query(*stretch(6, 8))] == [State.REFUSED]
    # The venue's own candles can still be asked for: they are of both sides.
    assert [each.state for each in book.of(BOTH).query(*stretch(6, 8))] == [State.MISSING]


def test_other_feeds_lose_their_own_bars_only(book: Book, whole: Whole) -> None:
    key = SeriesKey(NAME, Of.LIQUIDATION_BARS, 60, Side.SELL)
    bar = LiquidationBar(NAME, Side.SELL, 60, START, Decimal(1), Decimal(1), 1, True, 1)
    whole.on_candle(candle(0))
    whole.on_bar(key, bar.open_ns)
    whole.on_gap(Gap(NAME, "liquidations", START + 5, START + 6, "cut"))
    assert book.of(key).spans == ()
    assert book.of(BOTH).spans == (Span(*stretch(0, 1), State.HAVE),)


def test_a_trade_that_was_not_kept_is_a_hole_in_the_trades_alone(book: Book, whole: Whole) -> None:
    at_ns = START + MINUTE_NS * 3 // 4
    whole.on_dropped(Trade(NAME, at_ns, 1, 1, 1, Side.BUY, Decimal(1), Decimal(1)))
    whole.on_candle(candle(0))
    whole.on_candle(candle(1))
    assert book.of(TRADES).missing(*stretch(0, 2)) == [stretch(0, 1)]
    assert book.of(BOTH).whole(*stretch(0, 1))


def test_quiet_is_not_said_while_a_gap_is_open_or_a_minute_has_traded(book: Book, whole: Whole) -> None:
    whole.on_candle(candle(0))
    end_ns = START + 4 * MINUTE_NS
    trade = Trade(NAME, START + 2 * MINUTE_NS, 1, 1, 1, Side.BUY, Decimal(1), Decimal(1))
    whole.on_trade(trade)
    whole.quiet(BOTH, end_ns, end_ns)
    assert not book.of(BOTH).whole(*stretch(0, 2))
    whole.on_candle(candle(2))
    gap = Gap(NAME, "trades", START + 3 * MINUTE_NS, None, "cut")
    whole.on_gap(gap)
    whole.quiet(BOTH, end_ns, end_ns)
    assert book.of(BOTH).missing(*stretch(0, 4)) == [stretch(3, 4)]
    whole.on_mended(Mended(gap, end_ns))
    whole.quiet(BOTH, end_ns, end_ns)
    whole.quiet(FIVE, end_ns, end_ns)
    assert book.of(BOTH).whole(*stretch(0, 4))
    assert whole.since(NAME) == START
    whole.forget(NAME)
    assert whole.since(NAME) is None


# Few minutes, many cuts: gaps open inside minutes, over several of them, and before anything closed.
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), st.sampled_from([Side.BUY, Side.SELL])),
        st.tuples(st.just("wait"), st.integers(5, 130)),
        st.tuples(st.sampled_from(["cut", "hole"]), st.booleans()),
    ),
    max_size=25,
)


# The first minute is over but not closed when the stream is cut right after it.
_CUT_AFTER_MINUTE: list[tuple[str, object]] = [
    *[("trade", Side.BUY)] * 4,
    ("wait", 47),
    ("cut", False),
    ("cut", False),
    ("hole", False),
]


@example(steps=_CUT_AFTER_MINUTE, writer_first=False)
@given(steps=_steps, writer_first=st.booleans())
def test_coverage_never_claims_a_bucket_whose_candle_was_not_published(
    steps: list[tuple[str, object]], writer_first: bool
) -> None:
    """The real live candles and the coverage hear a torn stream; the truth is kept beside them."""
    book = Book({})
    whole, live = Whole(book), Candles()
    truth: dict[tuple[Side, int], int] = {}
    published: set[tuple[Side, int]] = set()
    now_ns = START + 7 * NS
    cut: Gap | None = None
    unseen: list[Trade] = []

    def hear(candles: list[Candle]) -> None:
        for closed in candles:
            whole.on_candle(closed)
            if closed.interval_s == 60:
                published.add((closed.side, closed.open_ns))

    def say(event: Event) -> None:
        def ours() -> None:
            match event:
                case Trade():
                    whole.on_trade(event)
                case Gap():
                    whole.on_gap(event)
                case Mended():
                    whole.on_mended(event)
                case Abandoned():
                    whole.on_abandoned(event)

        if writer_first:
            ours()
        match event:
            case Trade():
                hear(list(live.on_trade(event)))
            case Gap():
                live.on_gap(event)
            case Mended():
                hear(list(live.on_mended(event)))
            case Abandoned():
                hear(list(live.on_abandoned(event)))
        if not writer_first:
            ours()

    def mend(gap: Gap, end_ns: int, *, mended: bool) -> None:
        if mended:
            for trade in unseen:
                say(trade)
            say(Mended(gap, end_ns))
        else:
            say(Abandoned(gap, end_ns, "gone", final=False))
        unseen.clear()

    first = Gap(NAME, "trades", START, None, "start")
    say(first)
    mend(first, now_ns, mended=True)
    for number, (step, how) in enumerate(steps):
        now_ns += NS
        match step, how:
            case "trade", Side() as side:
                trade = Trade(NAME, now_ns, now_ns, number, number, side, Decimal(1), Decimal(1))
                minute = now_ns - now_ns % MINUTE_NS
                for each in (side, Side.BOTH):
                    truth[each, minute] = truth.get((each, minute), 0) + 1
                if cut is None:
                    say(trade)
                else:
                    unseen.append(trade)
            case "wait", int() as seconds:
                now_ns += seconds * NS
                if cut is None:
                    hear(list(live.on_time("x", now_ns)))
            case "cut", bool() as mended:
                if cut is None:
                    cut = Gap(NAME, "trades", now_ns, None, "cut")
                    say(cut)
                else:
                    mend(cut, now_ns, mended=mended)
                    cut = None
                    hear(list(live.on_time("x", now_ns)))
            case _:
                if cut is None:
                    for side in (Side.BOTH, Side.BUY, Side.SELL):
                        whole.quiet(SeriesKey(NAME, Of.CANDLES, 60, side), now_ns - now_ns % MINUTE_NS, now_ns - 2 * NS)
        for side in (Side.BOTH, Side.BUY, Side.SELL):
            for span in book.of(SeriesKey(NAME, Of.CANDLES, 60, side)).spans:
                for open_ns in range(span.start_ns, span.end_ns, MINUTE_NS):
                    assert (side, open_ns) in published or (side, open_ns) not in truth
