"""Connections: subscribing, staying alive, noticing silence, coming back, renewing."""

import json
from itertools import pairwise
from typing import Any

import pytest

from openoutcry.clock import NS
from openoutcry.errors import LimitExceeded, Unsupported
from openoutcry.events import Abandoned, Gap, Liquidation, Mended, Quote, Trade
from openoutcry.feed import session
from openoutcry.venues.venue import Feed, Heartbeat, Rate


async def test_a_followed_instrument_is_subscribed_and_heard(rig: Any) -> None:
    rig.follow("AAA")
    await rig.run(3)
    rig.world.trade("AAA", 3)
    await rig.run()
    assert rig.ids() == [1, 2, 3]
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    assert rig.feed.venues()["toy"].alive
    assert rig.feed.venues()["toy"].connections == 1
    assert [said[1:3] for said in rig.frames[:3]] == [("opened", "public"), ("sent", "public"), ("frame", "public")]
    assert rig.frames[-1][:3] == ("toy", "frame", "public")


async def test_many_followers_share_one_stream_and_the_last_to_let_go_ends_it(rig: Any) -> None:
    first, second = rig.follow("AAA"), rig.follow("AAA")
    other = rig.follow("BBB")
    await rig.run(1)
    (socket,) = rig.world.sockets
    assert [json.loads(f) for f in socket.sent] == [{"subscribe": ["trades@AAA", "trades@BBB"]}]
    first()
    first()  # twice does it once
    await rig.run(1)
    assert socket.names == {"trades@AAA", "trades@BBB"}
    second()
    await rig.run(1)
    assert socket.names == {"trades@BBB"}
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    other()
    await rig.run(2)
    assert not rig.world.live


async def test_a_stream_is_added_to_an_open_connection(rig: Any) -> None:
    rig.follow("AAA")
    await rig.run(1)
    rig.follow("BBB")
    await rig.run(1)
    assert len(rig.world.sockets) == 1
    assert rig.world.live[0].names == {"trades@AAA", "trades@BBB"}


async def test_streams_are_grouped_and_subscribed_in_batches_at_the_venues_rate(make_rig: Any, make_venue: Any) -> None:
    venue = make_venue(streams_per_connection=25, streams_per_subscribe=10, messages=Rate(1, 5.0))
    rig = make_rig(venue)
    for i in range(30):
        rig.follow(f"S{i}")
    await rig.run(30)
    sizes = [[len(json.loads(f)["subscribe"]) for f in s.sent] for s in rig.world.sockets]
    assert sizes == [[10, 10, 5], [5]]
    sent_ns = rig.world.sockets[0].sent_ns
    assert all(later - earlier >= 5 * NS for earlier, later in pairwise(sent_ns))


async def test_connections_are_opened_no_faster_than_the_venue_allows(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(streams_per_connection=1, connections=Rate(2, 10.0)))
    for i in range(6):
        rig.follow(f"S{i}")
    await rig.run(40)
    opened = rig.world.opened_ns
    assert len(opened) == 6
    assert all(later - earlier >= 10 * NS for earlier, later in zip(opened, opened[2:], strict=False))


async def test_a_cut_opens_a_gap_at_once_and_is_mended_before_the_stream_counts_as_whole(rig: Any) -> None:
    rig.follow("AAA")
    await rig.run(1)
    rig.world.trade("AAA", 3)
    await rig.run(3)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 25, heard=False)
    await rig.run()
    assert rig.of(Gap)[-1].end_ns is None
    assert rig.of(Gap)[-1].after_id == 3
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    await rig.run(2)
    rig.world.trade("AAA", 2)
    await rig.run(5)
    assert sorted(rig.ids()) == list(range(1, 31))
    assert len(rig.ids()) == 30
    mended = rig.of(Mended)[-1]
    assert mended.gap == rig.of(Gap)[-1]
    where = rig.heard.index(mended)
    assert {e.id for e in rig.heard[:where] if type(e) is Trade} >= set(range(4, 29))
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    assert rig.count("feed_reconnects_total", venue="toy", reason="cut") == 1


async def test_a_silent_connection_is_reopened_and_said_so(rig: Any) -> None:
    rig.follow("AAA")
    await rig.run(1)
    rig.world.trade("AAA")
    await rig.run(3)
    await rig.run(65)
    assert len(rig.world.sockets) == 2
    assert rig.count("feed_reconnects_total", venue="toy", reason="silent") == 1
    assert len(rig.of(Gap)) == 2


async def test_the_silence_of_a_connection_is_a_setting(make_rig: Any) -> None:
    rig = make_rig(session=session.SessionTiming(silence_s=5.0))
    rig.follow("AAA")
    await rig.run(8)
    assert len(rig.world.sockets) == 2


async def test_one_silent_stream_is_noticed_although_others_speak(make_rig: Any, toy: Any) -> None:
    toy.silence_s = 20.0
    rig = make_rig(toy)
    rig.follow("AAA")
    rig.follow("BBB")
    await rig.run(3)
    rig.world.trade("AAA")
    # The venue forgot one subscription: the gap is of that stream alone, and the other is not interrupted.
    rig.world.trade("AAA", heard=False)
    for _ in range(35):
        rig.world.trade("BBB")
        await rig.run(1)
    assert len(rig.world.sockets) == 2
    assert [g.reason for g in rig.of(Gap)] == ["start", "silent"]
    assert [g.reason for g in rig.of(Gap, "BBB")] == ["start"]
    assert rig.ids() == [1, 2]
    assert rig.ids("BBB") == list(range(1, 36))
    assert len(rig.of(Mended)) == 2
    assert rig.count("feed_reconnects_total", venue="toy", reason="stream_silent") == 1


async def test_a_market_that_sleeps_is_given_more_time_each_round(make_rig: Any, toy: Any) -> None:
    toy.silence_s = 10.0
    rig = make_rig(toy)
    rig.follow("AAA")
    rig.follow("AAA", Feed.QUOTES)
    for _ in range(300):
        for socket in rig.world.live:
            socket.say({"quote": "AAA"})
        await rig.run(1)
    # 10, 20, 40, 80, 160 seconds instead of thirty times ten.
    assert len(rig.world.sockets) in {5, 6}


async def test_a_venue_that_closes_politely_is_not_courted_in_a_circle(rig: Any) -> None:
    rig.follow("AAA")
    for _ in range(120):
        await rig.run(0.5)
        for socket in rig.world.live:
            socket.cut()
    assert len(rig.world.sockets) <= 15
    gaps = [b - a for a, b in pairwise(rig.world.opened_ns)]
    assert min(gaps) >= session.BACKOFF_S_FLOOR * NS


async def test_backoff_starts_anew_after_a_healthy_minute(rig: Any) -> None:
    rig.follow("AAA")
    rig.world.refuse_opening = True
    await rig.run(60)
    tried = len(rig.world.opened_ns)
    assert 3 <= tried <= 20
    assert rig.count("feed_reconnects_total", venue="toy", reason="connect") == tried
    rig.world.refuse_opening = False
    for _ in range(100):
        rig.world.trade("AAA")
        await rig.run(1)
    before = len(rig.world.opened_ns)
    rig.world.live[0].cut()
    await rig.run(2)
    assert len(rig.world.opened_ns) == before + 1


@pytest.mark.parametrize("by", ["lifetime", "notice"])
async def test_a_renewed_connection_overlaps_the_old_one_without_a_gap(make_rig: Any, make_venue: Any, by: str) -> None:
    rig = make_rig(make_venue(lifetime_s=400.0 if by == "lifetime" else 86_400.0))
    await rig.feed.start()
    rig.follow("AAA")
    await rig.run(3)
    for second in range(390):
        rig.world.trade("AAA")
        if by == "notice" and second == 200:
            rig.world.live[0].say({"bye": "maintenance"})
        await rig.run(1)
    assert len(rig.world.sockets) == 2
    assert len(rig.world.live) == 1
    assert rig.ids() == list(range(1, 391))
    assert [g.reason for g in rig.of(Gap)] == ["start"]
    assert rig.count("feed_duplicates_total", venue="toy") >= 4
    assert rig.count("feed_reconnects_total", venue="toy", reason="renewal" if by == "lifetime" else "closing") == 1
    # One connection of an endpoint: what deltas stood on is forgotten only when none is left.
    assert rig.venue.resets == ["public"]


async def test_a_renewal_that_fails_leaves_the_old_connection_serving(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(lifetime_s=400.0))
    rig.follow("AAA")
    await rig.run(3)
    rig.world.refuse_opening = True
    for _ in range(390):
        rig.world.trade("AAA")
        await rig.run(1)
    assert rig.ids() == list(range(1, 391))
    assert [g.reason for g in rig.of(Gap)] == ["start"]


@pytest.mark.parametrize("acks", ["named", "unnamed"])
async def test_one_refused_stream_is_dropped_and_the_others_go_on(rig: Any, acks: str) -> None:
    rig.world.acks = acks
    rig.world.bad = {"trades@BAD"}
    for symbol in ("AAA", "BAD", "BBB"):
        rig.follow(symbol)
    await rig.run(5)
    rig.world.trade("AAA")
    rig.world.trade("BBB")
    await rig.run(1)
    assert rig.ids("AAA") == rig.ids("BBB") == [1]
    assert len(rig.world.sockets) == 1
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    assert not rig.feed.followed("toy:BAD", Feed.TRADES)
    assert rig.count("feed_refused_streams_total", venue="toy") == 1


async def test_a_refused_stream_is_tried_again_when_the_venue_lists_it(rig: Any) -> None:
    rig.world.bad = {"trades@NEW"}
    release = rig.follow("NEW")
    rig.follow("AAA")
    await rig.run(5)
    rig.world.bad = set()
    rig.world.listed.append(("NEW", None))
    for _ in range(361):
        rig.world.trade("AAA")
        await rig.clock.advance(10)
    rig.world.trade("NEW")
    await rig.run(5)
    assert rig.ids("NEW") == [1]
    release()


async def test_a_stream_that_is_never_acknowledged_is_taken_for_granted_after_a_second_asking(rig: Any) -> None:
    rig.world.acks = "none"
    rig.follow("AAA")
    await rig.run(35)
    (socket,) = rig.world.sockets
    assert len(socket.sent) == 2
    assert rig.feed.followed("toy:AAA", Feed.TRADES)


async def test_the_first_event_of_a_stream_acknowledges_it(rig: Any) -> None:
    rig.world.acks = "none"
    rig.follow("AAA")
    await rig.run(1)
    rig.world.trade("AAA")
    await rig.run(4)
    assert rig.feed.followed("toy:AAA", Feed.TRADES)


async def test_garbage_is_counted_and_never_fatal(rig: Any) -> None:
    rig.follow("AAA")
    await rig.run(1)
    socket = rig.world.live[0]
    for _ in range(50):
        socket.say(b"\xff<html>", {"boom": 1}, {"what": 1})
    socket.say({"skip": "non_market"})
    rig.world.trade("AAA")
    await rig.run(3)
    assert rig.ids() == [1]
    assert rig.world.sockets == [socket]
    assert rig.count("feed_unreadable_total", venue="toy") == 100
    assert rig.count("feed_faults_total", venue="toy") == 50
    assert rig.count("feed_skipped_total", venue="toy", why="non_market") == 1
    assert rig.count("feed_frames_total", venue="toy") == 153


async def test_a_ping_is_answered_and_heartbeats_are_sent_in_the_venues_manner(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(heartbeat=Heartbeat(20.0, b'"hello"')))
    rig.world.told = lambda socket, frame: socket.say({"ok": ["trades@AAA"]})
    rig.follow("AAA")
    await rig.run(1)
    socket = rig.world.live[0]
    socket.say({"ping": 4})
    await rig.run()
    assert json.loads(socket.sent[-1]) == {"pong": 4}
    await rig.run(45)
    assert socket.sent.count(b'"hello"') == 2


async def test_an_idle_heartbeat_is_sent_only_into_silence(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(heartbeat=Heartbeat(20.0, b'{"subscribe": []}', idle=True)))
    rig.follow("AAA")
    await rig.run(1)
    socket = rig.world.live[0]
    for _ in range(50):
        rig.world.trade("AAA")
        await rig.run(1)
    assert b'{"subscribe": []}' not in socket.sent
    await rig.run(25)
    assert socket.sent.count(b'{"subscribe": []}') == 1


async def test_liquidations_of_all_instruments_come_once_although_two_connections_overlap(rig: Any) -> None:
    release = rig.feed.follow_all("toy", Feed.LIQUIDATIONS)
    await rig.run(1)
    socket = rig.world.live[0]
    assert socket.names == {"liquidations@*"}
    socket.say({"liquidation": ["AAA", "x"]}, {"liquidation": ["AAA", "x"]}, {"liquidation": ["BBB", "x"]})
    await rig.run(1)
    assert len(rig.of(Liquidation)) == len(rig.of(Liquidation, "BBB")) == 1
    release()
    await rig.run(1)
    assert not rig.world.live
    with pytest.raises(Unsupported):
        rig.feed.follow_all("toy", Feed.TRADES)


async def test_following_what_a_venue_lacks_or_has_no_room_for_is_refused_whole(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(streams_per_connection=1))
    with pytest.raises(Unsupported):
        rig.follow("AAA", Feed.TRADES, Feed.CANDLES)
    assert not rig.heard
    for i in range(session.LINES_MAX - 1):
        rig.follow(f"S{i}")
    with pytest.raises(LimitExceeded):
        rig.follow("AAA", Feed.QUOTES, Feed.TRADES)
    await rig.run(1)
    assert len(rig.world.live) == session.LINES_MAX - 1
    rig.follow("AAA", Feed.QUOTES)


async def test_quotes_pass_untouched(rig: Any) -> None:
    rig.follow("AAA", Feed.QUOTES)
    await rig.run(1)
    rig.world.live[0].say({"quote": "AAA"}, {"quote": "AAA"})
    await rig.run()
    assert len(rig.of(Quote)) == 2
    assert rig.feed.followed("toy:AAA", Feed.QUOTES)


@pytest.mark.parametrize("everything", [True, False])
async def test_liquidations_that_nobody_heard_are_a_gap_that_nobody_can_mend(rig: Any, everything: bool) -> None:
    rig.follow("AAA", Feed.LIQUIDATIONS, Feed.QUOTES)
    if everything:
        rig.feed.follow_all("toy", Feed.LIQUIDATIONS)
        rig.follow("BBB", Feed.QUOTES)
    await rig.run(1)
    heard_ns = rig.clock.now_ns()
    for socket in rig.world.live:
        socket.say({"quote": "AAA"})
    await rig.run(5)
    rig.world.live[0].cut()
    await rig.run(5)
    gap = rig.of(Gap)[0]
    assert (gap.of, gap.start_ns) == ("liquidations", heard_ns)
    assert heard_ns + 5 * NS < gap.end_ns <= rig.clock.now_ns()
    assert rig.of(Abandoned)[0] == Abandoned(gap, gap.end_ns, "no venue tells past liquidations", final=True)
    assert len(rig.of(Gap, "BBB")) == int(everything)
    assert not rig.of(Mended)
