"""Depth against the obvious: a dict of levels that never misses anything."""

from decimal import Decimal
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.events import DepthDelta, DepthSnapshot, Level
from openoutcry.feed import depth as depths
from openoutcry.feed.depth import Depth, Outcome, checksum_of
from openoutcry.venues.venue import Feed

D = Decimal


def levels(*pairs: tuple[str, str]) -> tuple[Level, ...]:
    return tuple((D(price), D(size)) for price, size in pairs)


def snapshot(seq: int, bids: Any = (), asks: Any = (), checksum: int | None = None) -> DepthSnapshot:
    return DepthSnapshot("toy:A", seq, 0, bids, asks, seq, checksum)


def delta(first: int, seq: int, previous: int | None, bids: Any = (), asks: Any = (), **more: Any) -> DepthDelta:
    return DepthDelta("toy:A", seq, 0, bids, asks, first, seq, previous, **more)


# Bids at 1 to 4 and asks at 5 to 8, so that levels collide and vanish often.
change = st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2))
fates = st.sampled_from(["come"] * 6 + ["lost", "twice", "snapshot", "stale"])


@pytest.mark.parametrize("chained", [True, False])
@given(st.lists(st.tuples(st.lists(change, max_size=3), fates), max_size=40))
def test_depth_is_the_truth_of_its_number_or_says_that_it_is_broken(
    chained: bool, steps: list[tuple[list[tuple[bool, int, int]], str]]
) -> None:
    depth, bids, asks = Depth(), dict[int, int](), dict[int, int]()
    truth = {0: (dict(bids), dict(asks))}
    depth.take(snapshot(0))
    earlier = delta(0, 0, -1)
    for seq, (changes, fate) in enumerate(steps, 1):
        told: dict[bool, dict[int, int]] = {True: {}, False: {}}
        for bid, at, size in changes:
            price = 1 + at if bid else 5 + at
            side = bids if bid else asks
            told[bid][price] = side[price] = size
            if not size:
                del side[price]
        truth[seq] = (dict(bids), dict(asks))
        rows = {bid: tuple((D(p), D(s)) for p, s in side.items()) for bid, side in told.items()}
        now = delta(seq, seq, seq - 1 if chained else None, rows[True], rows[False])
        before = depth.seq
        if fate == "come":
            outcome = depth.take(now)
            if before is None:
                assert outcome is Outcome.WAITING
            else:
                assert outcome is (Outcome.APPLIED if before == seq - 1 else Outcome.BROKEN)
        elif fate == "twice":
            depth.take(now)
            assert depth.take(now) is (Outcome.WAITING if depth.seq is None else Outcome.OLD)
        elif fate == "snapshot":
            all_bids, all_asks = (tuple((D(p), D(s)) for p, s in side.items()) for side in (bids, asks))
            assert depth.take(snapshot(seq, all_bids, all_asks)) is Outcome.APPLIED
        elif fate == "stale":
            depth.take(now)
            depth.take(earlier)
        earlier = now
        if depth.seq is None:
            assert not depth.bids(9)
            assert not depth.asks(9)
            continue
        true_bids, true_asks = truth[depth.seq]
        assert depth.bids(9) == tuple((D(p), D(s)) for p, s in sorted(true_bids.items(), reverse=True))
        assert depth.asks(9) == tuple((D(p), D(s)) for p, s in sorted(true_asks.items()))


def test_binance_spot_deltas_join_a_snapshot_that_came_after_them() -> None:
    depth = Depth()
    for first, last in ((90, 95), (96, 103), (104, 110)):
        assert depth.take(delta(first, last, None, levels((str(first), "1")))) is Outcome.WAITING
    assert depth.take(snapshot(100)) is Outcome.APPLIED
    assert depth.seq == 110
    assert [price for price, _ in depth.bids(9)] == [104, 96]
    assert depth.take(delta(112, 113, None)) is Outcome.BROKEN


@pytest.mark.parametrize(("first", "previous", "fits"), [(98, 97, True), (101, 100, True), (102, 101, False)])
def test_binance_futures_deltas_join_by_range_or_by_the_number_before(first: int, previous: int, fits: bool) -> None:
    depth = Depth()
    depth.take(snapshot(100))
    assert depth.take(delta(first, 105, previous)) is (Outcome.APPLIED if fits else Outcome.BROKEN)
    if fits:
        # From then on only the number before counts.
        assert depth.take(delta(104, 109, 104)) is Outcome.BROKEN


def test_okx_may_count_anew_and_repeats_its_number_when_nothing_changed() -> None:
    depth = Depth()
    depth.take(snapshot(100, levels(("1", "1"))))
    assert depth.take(delta(100, 100, 100)) is Outcome.OLD
    assert depth.take(delta(5, 5, 100, levels(("1", "2")))) is Outcome.APPLIED
    assert depth.take(delta(6, 6, 5)) is Outcome.APPLIED
    assert depth.bids(1) == levels(("1", "2"))


def test_a_restart_of_the_venue_is_a_snapshot_with_a_small_number() -> None:
    depth = Depth()
    depth.take(snapshot(100, levels(("1", "1"))))
    assert depth.take(snapshot(1, levels(("2", "1")))) is Outcome.APPLIED
    assert depth.take(delta(2, 2, 1)) is Outcome.APPLIED


def test_the_checksum_is_over_the_text_as_sent() -> None:
    bids, asks = levels(("3366.1", "7"), ("3366.0", "6.00")), levels(("3366.8", "9"))
    text = b"3366.1:7:3366.8:9:3366.0:6.00"
    want = crc32(text)
    want = want - 2**32 if want >= 2**31 else want
    assert checksum_of(bids, asks) == want
    depth = Depth()
    assert depth.take(snapshot(1, bids, asks, want)) is Outcome.APPLIED
    assert depth.take(delta(2, 2, 1, checksum=want)) is Outcome.APPLIED
    assert depth.take(delta(3, 3, 2, levels(("3366.1", "8")), checksum=want)) is Outcome.BROKEN
    assert depth.why == "checksum differs"
    assert checksum_of(levels(("0.00000001", "1")), ()) == checksum_of(levels(("1E-8", "1")), ())


def test_a_crossed_book_is_broken() -> None:
    depth = Depth()
    assert depth.take(snapshot(1, levels(("2", "1")), levels(("3", "1")))) is Outcome.APPLIED
    assert depth.take(delta(2, 2, 1, levels(("3", "1")))) is Outcome.BROKEN
    assert depth.bids(1) == ()
    assert depth.take(snapshot(1, levels(("3", "1")), levels(("3", "1")))) is Outcome.BROKEN


def test_levels_and_waiting_deltas_are_bounded() -> None:
    depth = Depth()
    for n in range(depths.WAITING_MAX + 10):
        depth.take(delta(n, n, n - 1))
    assert len(depth._waiting) == depths.WAITING_MAX
    bids = tuple((D(n), D(1)) for n in range(1, depths.LEVELS_MAX + 100))
    depth.lose("test")
    depth.take(snapshot(1, bids))
    depth.take(delta(2, 2, 1, ((D(10**6), D(1)),)))
    kept = depth.bids(10**9)
    assert len(kept) == depths.LEVELS_MAX
    assert kept[0][0] == 10**6


async def test_a_followed_depth_is_asked_for_anew_when_it_breaks(rig: Any) -> None:
    release = rig.follow("AAA", Feed.DEPTH)
    await rig.run(1)
    (socket,) = rig.world.live
    socket.say({"book": ["AAA", 1]}, {"delta": ["AAA", 1, 2]})
    await rig.run()
    assert rig.feed.depth("toy:AAA").seq == 2
    sent = len(socket.sent)
    socket.say({"delta": ["AAA", 7, 8]}, {"delta": ["AAA", 8, 9]})
    await rig.run(1)
    assert rig.feed.depth("toy:AAA").seq is None
    assert socket.sent[sent:] == [b'{"unsubscribe": ["depth@AAA"]}', b'{"subscribe": ["depth@AAA"]}']
    socket.say({"book": ["AAA", 20]})
    await rig.run()
    assert rig.feed.depth("toy:AAA").seq == 20
    assert rig.count("feed_depth_breaks_total", venue="toy") == 1
    release()
    assert rig.feed.depth("toy:AAA") is None


async def test_a_depth_that_keeps_breaking_is_not_asked_for_in_a_circle(rig: Any) -> None:
    rig.follow("AAA", Feed.DEPTH)
    await rig.run(1)
    (socket,) = rig.world.live
    for n in range(35):
        socket.say({"book": ["AAA", 1]}, {"delta": ["AAA", 7 + n, 8 + n]})
        await rig.run(1)
    assert len(socket.sent) <= 1 + 2 * 4
    # What broke in between is made good in its turn.
    before = len(socket.sent)
    await rig.run(12)
    assert len(socket.sent) == before + 2
