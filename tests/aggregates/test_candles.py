"""Candles against the obvious: all trades sorted, every candle computed from scratch."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import partial
from itertools import count
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openoutcry.aggregates.candles import Candles
from openoutcry.events import INTERVALS_S, NS, WEEK_S, Abandoned, Candle, Gap, Mended, Side, Trade, open_of

NAME = "venue:X"
MINUTE = 60 * NS
# A Monday 00:00 UTC, where minutes, hours, days and weeks end together.
MONDAY = open_of(1_700_000_000 * NS, WEEK_S) + WEEK_S * NS
LONG_AGO = MONDAY - 3 * WEEK_S * NS
FAR = MONDAY + 3 * WEEK_S * NS
# Minutes next to every sort of boundary, few enough that several trades share one.
MINUTES = (-61, -2, -1, 0, 1, 4, 5, 16, 59, 60)
KEYS = [(interval_s, side) for interval_s in INTERVALS_S for side in Side]

Key = tuple[int, Side, int]


def trade(
    minute: int,
    offset_ns: int = 0,
    *,
    trade_id: int = 0,
    seq: int = 0,
    side: Side = Side.BUY,
    price: str = "10",
    size: str = "1",
    late_ns: int = 0,
    value: str | None = None,
) -> Trade:
    event_ns = MONDAY + minute * MINUTE + offset_ns
    return Trade(
        NAME,
        event_ns,
        event_ns + late_ns,
        trade_id,
        seq,
        side,
        Decimal(price),
        Decimal(size),
        value=None if value is None else Decimal(value),
    )


def venue_candle(minute: int, ohlc: str, volume: str, quote: str, trades: int, *, closed: bool = True) -> Candle:
    opened, high, low, close = map(Decimal, ohlc.split())
    open_ns = MONDAY + minute * MINUTE
    return Candle(
        NAME, Side.BOTH, 60, open_ns, opened, high, low, close, Decimal(volume), Decimal(quote), trades,
        None, None, closed, open_ns + MINUTE, "venue",
    )  # fmt: skip


def naive(trades: Iterable[Trade], venue: Iterable[Candle] = (), *, closed: bool = True) -> dict[Key, Candle]:
    """Every candle from scratch."""
    ordered = sorted(trades, key=lambda t: (t.event_ns, t.seq, t.id))
    candles: dict[Key, Candle] = {}
    opens = {t.event_ns - t.event_ns % MINUTE for t in ordered}
    for open_ns in opens:
        inside = [t for t in ordered if open_ns <= t.event_ns < open_ns + MINUTE]
        for side in Side:
            ours = [t for t in inside if side in {t.side, Side.BOTH}]
            if ours:
                candles[60, side, open_ns] = naive_minute(side, open_ns, ours, closed=closed)
    for theirs in venue:
        mine = candles.get((60, Side.BOTH, theirs.open_ns))
        if mine is None or values(mine) != values(theirs):
            received_ns = max(theirs.received_ns, mine.received_ns if mine else 0)
            candles[60, Side.BOTH, theirs.open_ns] = replaced(theirs, received_ns=received_ns, closed=closed)
    minutes = list(candles.values())
    for interval_s in INTERVALS_S[1:]:
        for side in Side:
            for open_ns in {open_of(c.open_ns, interval_s) for c in minutes if c.side is side}:
                inside_ = [c for c in minutes if c.side is side and open_of(c.open_ns, interval_s) == open_ns]
                candles[interval_s, side, open_ns] = naive_fold(inside_, interval_s, open_ns)
    return candles


def naive_minute(side: Side, open_ns: int, trades: Sequence[Trade], *, closed: bool) -> Candle:
    prices = [t.price for t in trades]
    return Candle(
        NAME, side, 60, open_ns, prices[0], max(prices), min(prices), prices[-1],
        sum((t.size for t in trades), Decimal(0)),
        sum((t.price * t.size if t.value is None else t.value for t in trades), Decimal(0)),
        sum(t.count for t in trades), trades[0].event_ns, trades[-1].event_ns, closed,
        max(t.received_ns for t in trades), "trades",
    )  # fmt: skip


def naive_fold(minutes: Sequence[Candle], interval_s: int, open_ns: int) -> Candle:
    ordered = sorted(minutes, key=lambda c: c.open_ns)
    traded = [c for c in ordered if c.volume] or ordered
    return Candle(
        NAME, ordered[0].side, interval_s, open_ns, traded[0].open, max(c.high for c in traded),
        min(c.low for c in traded), traded[-1].close, sum((c.volume for c in ordered), Decimal(0)),
        sum((c.quote_volume for c in ordered), Decimal(0)), sum(c.trades for c in ordered),
        traded[0].first_ns, traded[-1].last_ns, ordered[0].closed, max(c.received_ns for c in ordered),
        "venue" if any(c.origin == "venue" for c in ordered) else "trades",
    )  # fmt: skip


def plain(rows: Iterable[Sequence[object]]) -> list[tuple[object, ...]]:
    return [tuple(row) for row in rows]


def values(candle: Candle) -> tuple[object, ...]:
    return (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume, candle.trades)


def replaced(candle: Candle, **changes: object) -> Candle:
    fields = {name: getattr(candle, name) for name in candle.__struct_fields__}
    return Candle(**{**fields, **changes})


def newest(published: Iterable[Candle]) -> dict[Key, Candle]:
    """What a store holds that keeps the last candle of each key."""
    return {(c.interval_s, c.side, c.open_ns): c for c in published}


def watched(**settings: float) -> Candles:
    candles = Candles(**{"minutes_kept": 200, **settings})  # type: ignore[arg-type]
    candles.vouch(NAME, LONG_AGO)
    return candles


# Few minutes, few moments, few prices: ties in time, in price, and in both at once.
TRADES = st.lists(
    st.builds(
        trade,
        st.sampled_from(MINUTES),
        st.sampled_from((0, 1, NS, MINUTE - 1)),
        seq=st.integers(0, 1),
        side=st.sampled_from((Side.BUY, Side.SELL)),
        price=st.sampled_from(("10", "10.5", "0.00000001", "11")),
        size=st.sampled_from(("1", "0.1", "123456789.000000001")),
        late_ns=st.sampled_from((0, 5, 2 * MINUTE)),
        value=st.sampled_from((None, None, "100")),
    ),
    max_size=25,
).map(lambda made: [numbered(t, n) for t, n in zip(made, count(), strict=False)])


def numbered(made: Trade, number: int) -> Trade:
    # Ids go up and down, so that neither arrival nor id alone is the order.
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return Trade(**{**fields, "id": number * 7 % 26})


TOLD = (("10 10 10 10", "0", "0", 0), ("10 10 10 10", "1", "10", 1), ("10 11 9 10.5", "2.5", "26.25", 2))
VENUE_CANDLES = st.lists(
    st.builds(lambda minute, told: venue_candle(minute, *told), st.sampled_from(MINUTES), st.sampled_from(TOLD)),
    max_size=4,
    unique_by=lambda c: c.open_ns,
)


@given(TRADES, st.randoms(use_true_random=False))
def test_closed_candles_equal_those_computed_from_scratch_after_any_order_of_arrival(
    trades: list[Trade], random: Random
) -> None:
    random.shuffle(trades)
    candles = watched()
    published: list[Candle] = []
    for each in trades:
        published += candles.on_trade(each)
    published += candles.on_time("venue", FAR)
    assert newest(published) == naive(trades)
    assert len(published) == len(newest(published)), "nothing is sent twice that did not change"


@given(TRADES, st.randoms(use_true_random=False), st.data())
def test_whatever_is_returned_is_right_at_that_moment_and_late_trades_correct_all_they_touch(
    trades: list[Trade], random: Random, data: st.DataObject
) -> None:
    random.shuffle(trades)
    candles = watched()
    published: list[Candle] = []
    for at, each in enumerate(trades):
        fresh = list(candles.on_trade(each))
        if data.draw(st.booleans()):
            fresh += candles.on_time("venue", MONDAY + data.draw(st.sampled_from(MINUTES)) * MINUTE + 2 * NS)
        truth = naive(trades[: at + 1])
        assert fresh == [truth[c.interval_s, c.side, c.open_ns] for c in fresh]
        published += fresh
    published += candles.on_time("venue", FAR)
    assert newest(published) == naive(trades)


@given(TRADES, st.randoms(use_true_random=False), st.integers(1, 20))
def test_what_is_kept_is_enough_to_correct_all_that_is_claimed(trades: list[Trade], random: Random, kept: int) -> None:
    """Trades older than what is kept are lost, and with them whatever they belong to; all else is right."""
    random.shuffle(trades)
    candles = watched(minutes_kept=kept)
    published: list[Candle] = []
    taken: list[Trade] = []
    lost: set[int] = set()
    for each in trades:
        before = candles.too_late
        published += candles.on_trade(each)
        if candles.too_late > before:
            lost.add(each.event_ns)
        else:
            taken.append(each)
        published += candles.on_time("venue", max(t.event_ns for t in taken))
    published += candles.on_time("venue", FAR)

    def whole(key: Key) -> bool:
        return not any(key[2] <= event_ns < key[2] + key[0] * NS for event_ns in lost)

    got = {key: candle for key, candle in newest(published).items() if whole(key)}
    assert got == {key: candle for key, candle in naive(taken).items() if whole(key)}


@given(TRADES, st.randoms(use_true_random=False), st.data())
def test_growing_candles_equal_those_computed_from_scratch_at_any_moment(
    trades: list[Trade], random: Random, data: st.DataObject
) -> None:
    random.shuffle(trades)
    candles = watched()
    for at, each in enumerate(trades):
        candles.on_trade(each)
        truth = naive(trades[: at + 1], closed=False)
        newest_ns = max(t.event_ns for t in trades[: at + 1])
        interval_s, side = data.draw(st.sampled_from(KEYS))
        assert candles.growing(NAME, interval_s, side) == truth.get((interval_s, side, open_of(newest_ns, interval_s)))


@given(TRADES, VENUE_CANDLES, st.randoms(use_true_random=False), st.data())
def test_the_candle_of_the_venue_wins_whenever_it_comes(
    trades: list[Trade], venue: list[Candle], random: Random, data: st.DataObject
) -> None:
    events: list[Trade | Candle] = [*trades, *venue]
    for open_ns in {t.event_ns - t.event_ns % MINUTE for t in trades} - {c.open_ns for c in venue}:
        if data.draw(st.booleans()):  # and often it says the same as we do
            same = naive([t for t in trades if t.event_ns - t.event_ns % MINUTE == open_ns])[60, Side.BOTH, open_ns]
            events.append(replaced(same, first_ns=None, last_ns=None, origin="venue", received_ns=open_ns + MINUTE))
    random.shuffle(events)
    candles = watched()
    published: list[Candle] = []
    for each in events:
        if data.draw(st.integers(0, 3)) == 0:
            published += candles.on_time("venue", MONDAY + data.draw(st.sampled_from(MINUTES)) * MINUTE + 2 * NS)
        published += candles.on_trade(each) if isinstance(each, Trade) else candles.on_venue_candle(each)
    published += candles.on_time("venue", FAR)
    assert newest(published) == naive(trades, [e for e in events if isinstance(e, Candle)])


@given(TRADES, st.sampled_from(MINUTES), st.sampled_from((1, 3, 20)), st.booleans(), st.data())
def test_nothing_in_a_gap_closes_before_it_is_mended_and_then_all_is_right(
    trades: list[Trade], first: int, minutes: int, known_end: bool, data: st.DataObject
) -> None:
    start_ns, end_ns = MONDAY + first * MINUTE + 1, MONDAY + (first + minutes) * MINUTE + 1
    gap = Gap(NAME, "trades", start_ns, end_ns if known_end else None, "cut")
    missed = [t for t in trades if start_ns <= t.event_ns < end_ns]
    seen = [t for t in trades if not start_ns <= t.event_ns < end_ns]
    candles = watched()
    published: list[Candle] = []
    gap_at = data.draw(st.integers(0, len(seen)))
    for at, each in enumerate([*seen[:gap_at], None, *seen[gap_at:]]):
        if each is None:
            candles.on_gap(gap)
            continue
        fresh = list(candles.on_trade(each))
        if data.draw(st.booleans()):
            fresh += candles.on_time("venue", each.event_ns + 2 * MINUTE)
        for candle in fresh if at > gap_at else ():
            ends_ns = candle.open_ns + candle.interval_s * NS
            assert ends_ns <= start_ns or (known_end and candle.open_ns >= end_ns)
        published += fresh
    published += candles.on_time("venue", FAR)
    for each in missed:
        assert not candles.on_trade(each)
    published += candles.on_mended(Mended(gap, end_ns))
    assert newest(published) == naive(trades)


@given(TRADES, VENUE_CANDLES, st.sampled_from(MINUTES), st.booleans(), st.data())
def test_an_abandoned_stretch_is_left_out_except_what_the_venue_itself_tells(
    trades: list[Trade], venue: list[Candle], first: int, known_end: bool, data: st.DataObject
) -> None:
    start_ns, end_ns = MONDAY + first * MINUTE, MONDAY + (first + 3) * MINUTE
    gap = Gap(NAME, "trades", start_ns, end_ns if known_end else None, "cut")
    seen = [t for t in trades if not start_ns <= t.event_ns < end_ns]
    told = [c for c in venue if start_ns <= c.open_ns < end_ns]
    candles = watched()
    published: list[Candle] = []
    candles.on_gap(gap)
    for each in seen:
        published += candles.on_trade(each)
    steps: list[Callable[[], None]] = [
        lambda: published.extend(candles.on_abandoned(Abandoned(gap, end_ns, "too old", final=True))),
        lambda: published.extend(candles.on_time("venue", FAR)),
        *[partial(lambda c: published.extend(candles.on_venue_candle(c)), c) for c in told],
    ]
    for step in data.draw(st.permutations(steps)):
        step()
    truth = naive(seen, told)
    flat_minutes = {c.open_ns for c in told if not c.volume}
    told_minutes = {c.open_ns for c in told}
    lost = [start_ns + n * MINUTE for n in range(3)]

    def whole(key: Key) -> bool:
        interval_s, side, open_ns = key
        inside = {m for m in lost if open_ns <= m < open_ns + interval_s * NS}
        # A flat candle of the venue agrees with our having seen nothing: then nothing traded on either side.
        return inside <= (told_minutes if side is Side.BOTH else flat_minutes)

    assert newest(published) == {key: candle for key, candle in truth.items() if whole(key)}


@given(TRADES, st.sampled_from(MINUTES), st.data())
def test_after_a_restart_seeds_make_the_longer_candles_right_at_once(
    trades: list[Trade], minute: int, data: st.DataObject
) -> None:
    cut_ns = MONDAY + minute * MINUTE
    before = [t for t in trades if t.event_ns < cut_ns]
    after = [t for t in trades if t.event_ns >= cut_ns]
    stored = [c for c in naive(before).values() if c.open_ns + c.interval_s * NS <= cut_ns]
    candles = Candles(minutes_kept=200)
    candles.seed(data.draw(st.permutations(stored)))
    candles.vouch(NAME, LONG_AGO, cut_ns)
    candles.vouch(NAME, cut_ns)
    published = list(stored)
    for each in data.draw(st.permutations(after)):
        published += candles.on_trade(each)
        newest_ns = max(t.event_ns for t in after if t.event_ns <= each.event_ns)
        grown = candles.growing(NAME, WEEK_S)
        assert grown is not None
        assert grown.open_ns >= open_of(newest_ns, WEEK_S)
    published += candles.on_time("venue", FAR)
    assert newest(published) == naive(trades)


@given(TRADES)
@example([trade(0, trade_id=1, price="10", size="1"), trade(0, trade_id=2, price="11", size="1"), trade(4, trade_id=3)])
def test_minutes_before_the_first_trade_are_not_claimed(trades: list[Trade]) -> None:
    candles = Candles()
    published: list[Candle] = []
    for each in sorted(trades, key=lambda t: (t.event_ns, t.seq, t.id)):
        published += candles.on_trade(each)
    published += candles.on_time("venue", FAR)
    since_ns = min((t.event_ns for t in trades), default=0)
    truth = naive(trades)
    assert newest(published) == {key: c for key, c in truth.items() if key[2] >= since_ns}


def test_a_trade_for_a_closed_minute_is_returned_with_every_longer_closed_candle() -> None:
    candles = watched()
    candles.on_trade(trade(0, 1, trade_id=1))
    candles.on_trade(trade(7, 1, trade_id=2))
    first = candles.on_time("venue", MONDAY + 8 * MINUTE + 2 * NS)
    assert plain((c.interval_s, c.side.value) for c in first) == [
        (60, "buy"), (60, "both"), (300, "buy"), (300, "both"), (60, "buy"), (60, "both"),
    ]  # fmt: skip
    corrected = candles.on_trade(trade(0, 2, trade_id=3, side=Side.SELL, price="9"))
    assert plain((c.interval_s, c.side.value, c.low, c.closed) for c in corrected) == [
        (60, "sell", 9, True), (60, "both", 9, True), (300, "sell", 9, True), (300, "both", 9, True),
    ]  # fmt: skip
    assert candles.counts["corrected"] == 1


def test_a_minute_closes_only_when_the_grace_is_over() -> None:
    candles = watched(grace_s=2.5)
    candles.on_trade(trade(0, trade_id=1))
    assert not candles.on_time("venue", MONDAY + MINUTE + 2 * NS)
    assert not candles.on_time("other", FAR), "another venue's time closes nothing here"
    assert candles.growing(NAME, 60) is not None
    assert len(candles.on_time("venue", MONDAY + MINUTE + 2 * NS + NS // 2)) == 2
    assert candles.growing(NAME, 60) is None
    assert candles.growing(NAME, 300) is not None


def test_the_candle_of_the_venue_that_agrees_closes_the_minute_before_its_time() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    closed = candles.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    assert plain((c.side.value, c.origin) for c in closed) == [("buy", "trades"), ("both", "trades")]
    assert not candles.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    assert candles.counts == Counter({"confirmed": 1})


def test_the_candle_of_the_venue_that_disagrees_waits_for_trades_on_their_way() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    assert not candles.on_venue_candle(venue_candle(0, "10 12 10 12", "2", "22", 2))
    candles.on_trade(trade(0, 5, trade_id=2, price="12"))
    assert not candles.on_trade(trade(1, trade_id=3))
    closed = candles.on_time("venue", MONDAY + MINUTE + NS)
    assert plain((c.side.value, c.close, c.origin) for c in closed) == [("buy", 12, "trades"), ("both", 12, "trades")]
    assert candles.disagreed == 0


def test_a_correction_by_the_venue_is_counted_and_reaches_the_longer_candles() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    candles.on_trade(trade(4, trade_id=2, price="11"))
    candles.on_time("venue", MONDAY + 5 * MINUTE + NS)
    corrected = candles.on_venue_candle(venue_candle(0, "10 12 10 12", "2", "22", 0))
    assert candles.disagreed == 1
    assert plain((c.interval_s, c.high, c.volume, c.trades, c.origin, c.first_ns) for c in corrected) == [
        (60, 12, 2, 1, "venue", None), (300, 12, 3, 2, "venue", None),
    ]  # fmt: skip
    again = candles.on_venue_candle(corrected[0])
    assert len(again) <= 2, "our own correction, heard again, ends there"
    assert not candles.on_venue_candle(corrected[0])


def test_a_quote_volume_the_venue_only_estimates_is_not_taken_over_ours() -> None:
    candles = Candles(quote_estimated={"venue"})
    candles.vouch(NAME, LONG_AGO)
    candles.on_trade(trade(0, trade_id=1))
    closed = candles.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "9.99", 1))
    assert {c.quote_volume for c in closed} == {Decimal(10)}
    assert candles.disagreed == 0


def test_a_minute_the_venue_calls_quiet_has_neither_trades_nor_quote_volume() -> None:
    candles = Candles(quote_estimated={"venue"})
    candles.vouch(NAME, LONG_AGO)
    candles.on_trade(trade(0, trade_id=1))
    candles.on_time("venue", MONDAY + 2 * MINUTE)
    (minute,) = candles.on_venue_candle(venue_candle(0, "9 9 9 9", "0", "0", 0))
    assert (minute.trades, minute.quote_volume) == (0, Decimal(0))


def test_trades_that_add_up_to_the_candle_of_the_venue_are_all_there_were() -> None:
    """Joined in the middle of the minute, or after a gap: both sides are known after all."""
    joined = Candles()
    joined.on_trade(trade(0, 5, trade_id=1))
    closed = joined.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    assert [c.side for c in closed] == [Side.BUY, Side.BOTH]
    gapped = watched()
    gap = Gap(NAME, "trades", MONDAY, MONDAY + MINUTE, "cut")
    gapped.on_gap(gap)
    gapped.on_trade(trade(0, 5, trade_id=1))
    assert not gapped.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    gapped.on_time("venue", MONDAY + 2 * MINUTE)
    closed = gapped.on_abandoned(Abandoned(gap, MONDAY + MINUTE, "too old", final=True))
    assert [c.side for c in closed] == [Side.BUY, Side.BOTH]


def test_a_minute_inside_a_gap_is_not_compared_with_the_venue_before_it_is_mended() -> None:
    candles = watched()
    gap = Gap(NAME, "trades", MONDAY, MONDAY + MINUTE, "cut")
    candles.on_gap(gap)
    candles.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    candles.on_time("venue", MONDAY + 2 * MINUTE)
    candles.on_trade(trade(0, 5, trade_id=1))
    closed = candles.on_mended(Mended(gap, MONDAY + MINUTE))
    assert [(c.side, c.origin) for c in closed] == [(Side.BUY, "trades"), (Side.BOTH, "trades")]
    assert candles.counts == Counter({"confirmed": 1})


def test_a_gap_before_the_first_trade_tells_from_when_on_all_is_known() -> None:
    candles = Candles()
    gap = Gap(NAME, "trades", MONDAY - MINUTE, MONDAY, "restart")
    candles.on_gap(gap)
    candles.on_trade(trade(0, 5, trade_id=2))
    candles.on_trade(trade(-1, 5, trade_id=1))
    candles.on_mended(Mended(gap, MONDAY))
    closed = candles.on_time("venue", MONDAY + 4 * MINUTE)
    assert plain(((c.open_ns - MONDAY) // MINUTE, c.side) for c in closed) == [
        (-1, Side.BUY), (-1, Side.BOTH), (0, Side.BUY), (0, Side.BOTH),
    ]  # fmt: skip


def test_mending_does_not_vouch_for_what_came_too_late_to_be_kept() -> None:
    candles = watched(minutes_kept=10)
    gap = Gap(NAME, "trades", MONDAY, MONDAY + 5 * MINUTE, "cut")
    candles.on_gap(gap)
    candles.on_trade(trade(1_000, trade_id=1))
    candles.on_trade(trade(1, trade_id=2))
    assert candles.too_late == 1
    candles.on_mended(Mended(gap, MONDAY + 5 * MINUTE))
    assert candles.growing(NAME, 3_600) is not None
    assert candles.growing(NAME, 86_400) is None, "the day holds the lost trade"


def test_what_a_repair_brought_is_folded_before_its_minutes_are_forgotten() -> None:
    candles = watched(minutes_kept=10)
    gap = Gap(NAME, "trades", MONDAY, MONDAY + 5 * MINUTE, "cut")
    candles.on_gap(gap)
    candles.on_trade(trade(1, trade_id=1))
    candles.on_trade(trade(1_000, trade_id=2))
    candles.on_mended(Mended(gap, MONDAY + 5 * MINUTE))
    grown = candles.growing(NAME, 86_400)
    assert grown is not None
    assert grown.trades == 2


def test_a_gap_that_turns_out_shorter_lets_the_minutes_after_it_close() -> None:
    candles = watched()
    candles.on_gap(Gap(NAME, "trades", MONDAY, None, "cut"))
    candles.on_trade(trade(3, trade_id=1))
    assert not candles.on_time("venue", MONDAY + 4 * MINUTE + NS)
    candles.on_gap(Gap(NAME, "trades", MONDAY, MONDAY + MINUTE, "cut"))
    assert len(candles.on_time("venue", MONDAY + 4 * MINUTE + NS)) == 2


def test_a_longer_candle_never_goes_out_without_the_minute_that_still_grew() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    candles.on_trade(trade(4, trade_id=2))
    closed = candles.on_time("venue", MONDAY + 6 * MINUTE)
    assert [c.trades for c in closed if c.interval_s == 300] == [2, 2]
    candles.on_time("venue", MONDAY + 21 * MINUTE)
    candles.on_trade(trade(15, trade_id=6))
    candles.on_trade(trade(16, trade_id=7))
    closed = candles.on_trade(trade(15, trade_id=8))
    assert [(c.interval_s, c.trades) for c in closed] == [(60, 2), (60, 2), (300, 3), (300, 3)]


def test_a_seed_counts_in_candles_that_were_looked_at_before() -> None:
    candles = watched()
    candles.on_trade(trade(1, trade_id=2))
    assert candles.growing(NAME, 300) is not None
    candles.seed([naive([trade(0, trade_id=1)])[60, Side.BOTH, MONDAY]])
    grown = candles.growing(NAME, 300)
    assert grown is not None
    assert grown.trades == 2


def test_a_quiet_minute_takes_the_flat_candle_of_the_venue_as_it_is() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1, price="12"))
    closed = [*candles.on_venue_candle(venue_candle(1, "9 9 9 9", "0", "0", 0))]
    assert plain((c.side.value, c.open, c.volume, c.origin) for c in closed) == [("both", 9, 0, "venue")]
    closed += candles.on_time("venue", MONDAY + 5 * MINUTE + NS)
    five = newest(closed)[300, Side.BOTH, MONDAY]
    assert {five.open, five.high, five.low, five.close} == {Decimal(12)}, "where others traded, it says nothing"


def test_growing_candles_of_the_venue_and_other_intervals_are_ignored() -> None:
    candles = watched()
    assert not candles.on_venue_candle(venue_candle(0, "1 1 1 1", "1", "1", 1, closed=False))
    assert not candles.on_venue_candle(replaced(venue_candle(0, "1 1 1 1", "1", "1", 1), interval_s=300))
    assert candles.growing(NAME, 60) is None


def test_without_a_trade_there_is_no_candle() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    candles.on_trade(trade(3, trade_id=2))
    closed = candles.on_time("venue", MONDAY + 5 * MINUTE + NS)
    assert [(c.open_ns - MONDAY) // MINUTE for c in closed if c.interval_s == 60 and c.side is Side.BOTH] == [0, 3]
    assert newest(closed)[300, Side.BOTH, MONDAY].trades == 2


def test_a_trade_older_than_what_is_kept_is_reported_for_repair_and_its_candles_are_no_longer_claimed() -> None:
    candles = watched(minutes_kept=10)
    candles.on_trade(trade(0, trade_id=1))
    candles.on_trade(trade(20, trade_id=2))
    assert not candles.on_trade(trade(3, trade_id=3))
    assert candles.too_late == 1
    assert candles.take_too_late() == [(NAME, MONDAY + 3 * MINUTE)]
    assert candles.take_too_late() == []
    closed = candles.on_time("venue", FAR)
    assert {c.interval_s for c in closed} == {60, 300, 900}, "the hour holds the lost trade"
    assert candles.growing(NAME, 3_600) is None


def test_an_open_gap_keeps_the_minutes_its_repair_will_need() -> None:
    candles = watched(minutes_kept=10)
    gap = Gap(NAME, "trades", MONDAY, MONDAY + 5 * MINUTE, "cut")
    candles.on_gap(gap)
    candles.on_trade(trade(100, trade_id=1))
    candles.on_trade(trade(1, trade_id=2))
    assert candles.too_late == 0
    closed = candles.on_time("venue", MONDAY + 101 * MINUTE + NS)
    assert {c.open_ns for c in closed} == {MONDAY + 100 * MINUTE}
    mended = candles.on_mended(Mended(gap, MONDAY + 5 * MINUTE))
    assert [c.interval_s for c in mended if c.side is Side.BOTH] == [60, 300, 900, 3_600]


def test_a_trade_inside_a_candle_whose_sides_were_seeded_is_a_repeat() -> None:
    candles = Candles()
    stored = naive([trade(0, trade_id=1)])
    candles.seed(candle for key, candle in stored.items() if key[0] == 60)
    assert not candles.on_trade(trade(0, trade_id=1))
    assert candles.counts == Counter({"seeded": 1})
    assert candles.take_too_late() == [], "side BOTH is known: asking again would bring nothing new"
    sides_only = Candles()
    sides_only.seed([stored[60, Side.BUY, MONDAY]])
    assert not sides_only.on_trade(trade(0, trade_id=1))
    assert sides_only.take_too_late() == [(NAME, MONDAY)]


def test_where_only_both_was_seeded_a_repair_builds_the_sides() -> None:
    """After a restart: the venue's candles are fetched first, the trades of the pause come later."""
    gap = Gap(NAME, "trades", MONDAY, MONDAY + 10 * MINUTE, "restart")
    candles = Candles()
    trades = [trade(0, trade_id=1), trade(0, trade_id=2, side=Side.SELL, price="11"), trade(7, trade_id=3)]
    stored = naive(trades)
    candles.seed(c for key, c in stored.items() if key[0] <= 300 and key[1] is Side.BOTH)
    candles.vouch(NAME, LONG_AGO, MONDAY + 10 * MINUTE, sides=False)
    candles.on_gap(gap)
    published: list[Candle] = []
    for each in trades:
        published += candles.on_trade(each)
    published += candles.on_mended(Mended(gap, MONDAY + 10 * MINUTE))
    published += candles.on_time("venue", MONDAY + 12 * MINUTE)
    assert newest(published).keys() == {key for key in stored if key[0] <= 300 and key[:2] != (300, Side.BOTH)}
    assert newest(published) == {key: stored[key] for key in newest(published)}
    assert candles.take_too_late() == []


def test_a_seeded_candle_stands_whatever_is_seen_inside_it() -> None:
    candles = Candles()
    stored = naive([trade(0, trade_id=1), trade(1, trade_id=2)])
    candles.seed([stored[300, Side.BOTH, MONDAY]])
    candles.on_trade(trade(1, trade_id=2))
    candles.on_trade(trade(6, trade_id=3))
    grown = candles.growing(NAME, 3_600, partial=True)
    assert grown is not None
    assert grown.trades == 3


def test_a_candle_of_the_venue_that_differs_from_a_seed_corrects_the_minute_and_reports_the_longer_one() -> None:
    candles = Candles()
    stored = naive([trade(0, trade_id=1)])
    candles.seed([stored[60, Side.BOTH, MONDAY], stored[300, Side.BOTH, MONDAY]])
    assert not candles.on_venue_candle(venue_candle(0, "10 10 10 10", "1", "10", 1))
    assert candles.take_too_late() == []
    corrected = candles.on_venue_candle(venue_candle(0, "10 11 10 10", "1", "10", 1))
    assert [(c.interval_s, c.high) for c in corrected] == plain([(60, Decimal(11))])
    assert candles.take_too_late() == [(NAME, MONDAY)]


def test_growing_candles_that_are_not_known_whole_are_given_only_when_asked_for() -> None:
    candles = Candles()
    candles.on_trade(trade(0, 5, trade_id=1))
    assert candles.growing(NAME, 60) is None
    part = candles.growing(NAME, 60, partial=True)
    assert part is not None
    assert part.trades == 1
    candles.on_trade(trade(1, 5, trade_id=2))
    assert candles.growing(NAME, 60) is not None
    assert candles.growing(NAME, 300) is None
    candles.on_gap(Gap(NAME, "trades", MONDAY + MINUTE + 6, None, "cut"))
    assert candles.growing(NAME, 60) is None


def test_a_gap_of_another_stream_holds_nothing_up() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    candles.on_gap(Gap(NAME, "quotes", MONDAY, None, "cut"))
    assert candles.on_time("venue", MONDAY + 2 * MINUTE)


def test_numbers_that_cannot_be_added_exactly_are_refused_and_their_minute_is_no_longer_claimed() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    for hostile in ("1E+500", "1E-500", "0." + "123456789" * 20):
        assert not candles.on_trade(trade(0, 1, trade_id=2, size=hostile))
        assert not candles.on_trade(trade(1, 1, trade_id=3, size=hostile))
    assert candles.counts["unsummable"] == 6
    assert candles.on_time("venue", FAR) == []
    assert candles.take_too_late() == [(NAME, MONDAY), (NAME, MONDAY + MINUTE)]


def test_the_smallest_and_the_largest_numbers_that_are_taken_add_up_exactly() -> None:
    candles = watched()
    small, large = "1." + "0" * 98 + "1", "9" * 60
    candles.on_trade(trade(0, 0, trade_id=1, size=small + "E-60", price="1"))
    candles.on_trade(trade(1, 0, trade_id=2, size=large, price="1"))
    five = newest(candles.on_time("venue", FAR))[300, Side.BOTH, MONDAY]
    digits = five.volume.as_tuple().digits
    assert len(digits) == 60 + 60 + 99
    assert digits[-1] == 1


def test_a_trade_far_ahead_of_our_clock_does_not_make_the_others_too_late() -> None:
    candles = watched()
    candles.on_trade(trade(0, trade_id=1))
    candles.on_trade(trade(600, trade_id=2, late_ns=-600 * MINUTE))
    candles.on_trade(trade(0, 1, trade_id=3))
    assert candles.counts == Counter({"ahead": 1})
    grown = candles.growing(NAME, 60)
    assert grown is not None
    assert grown.trades == 2


def test_touched_names_each_changed_instrument_once() -> None:
    candles = watched()
    for n in range(3):
        candles.on_trade(trade(0, n, trade_id=n))
    assert candles.touched() == {NAME}
    assert candles.touched() == set()
    candles.on_time("venue", FAR)
    assert candles.touched() == {NAME}


def test_more_instruments_than_allowed_are_not_taken_until_one_is_dropped() -> None:
    candles = Candles(instruments_max=1)
    candles.on_trade(trade(0, trade_id=1))
    made = trade(0, trade_id=2)
    other = Trade(**{**{n: getattr(made, n) for n in made.__struct_fields__}, "instrument": "venue:Y"})
    candles.on_trade(other)
    assert candles.counts["instruments_full"] == 1
    candles.drop(NAME)
    candles.on_trade(other)
    assert candles.growing("venue:Y", 60, partial=True) is not None
    assert len(candles) == 1
    assert candles.touched() == {"venue:Y"}


@pytest.mark.parametrize("step_ns", [MINUTE // 40, 7 * MINUTE])
def test_memory_stays_constant_over_a_hundred_thousand_trades(step_ns: int) -> None:
    candles = watched(minutes_kept=30)
    most = 0
    for n in range(100_000 if step_ns < MINUTE else 20_000):
        candles.on_trade(trade(0, n * step_ns, trade_id=n))
        if n % 20 == 0:
            candles.on_time("venue", MONDAY + n * step_ns)
            most = max(most, candles.bars_kept(NAME))
    assert most <= 30 + 5 + 6 + 3 + 3 + 4 + 4 + 4 + 4 + 6 + 7 + 2 + 5
