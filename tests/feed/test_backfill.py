"""Gaps: opened, fetched, mended; or abandoned and said so."""

import asyncio
import random
from typing import Any

import pytest

from openoutcry.clock import NS
from openoutcry.events import Abandoned, Gap, Mended, Trade, VenueCandle
from openoutcry.feed import backfill, dedupe
from openoutcry.feed.backfill import NewestFirst
from openoutcry.transport import Response, TransportError
from openoutcry.venues.venue import Feed, Query

MINUTE_NS = 60 * NS


async def flowing(rig: Any, symbol: str = "AAA") -> None:
    """Followed, and past the gap it begins with."""
    rig.follow(symbol)
    await rig.run(4)
    rig.world.trade(symbol)
    await rig.run(1)
    assert rig.feed.followed(f"toy:{symbol}", Feed.TRADES)


async def test_following_begins_with_the_gap_since_the_running_minute_opened(rig: Any) -> None:
    began_ns = rig.clock.now_ns()
    rig.world.trade("AAA", 3)
    rig.follow("AAA")
    (gap,) = rig.of(Gap)
    assert (gap.start_ns, gap.end_ns, gap.reason, gap.after_id) == (
        began_ns // MINUTE_NS * MINUTE_NS,
        None,
        "start",
        None,
    )
    await rig.run(1)
    rig.world.trade("AAA", 2)
    await rig.run(3)
    assert sorted(rig.ids()) == [1, 2, 3, 4, 5]
    (mended,) = rig.of(Mended)
    assert mended.gap == gap
    assert mended.end_ns == began_ns + NS  # where the first live trade stands
    assert rig.heard.index(mended) > max(rig.heard.index(t) for t in rig.of(Trade))


async def test_a_restart_goes_on_after_the_last_stored_trade(make_rig: Any) -> None:
    rig: Any = make_rig(resume=lambda name: (3, rig.clock.now_ns() - 100 * NS) if name == "toy:AAA" else None)
    rig.world.trade("AAA", 30)
    began_ns = rig.clock.now_ns()
    rig.follow("AAA")
    (gap,) = rig.of(Gap)
    assert (gap.start_ns, gap.after_id) == (began_ns - 100 * NS, 3)
    await rig.run(4)
    assert rig.ids() == list(range(4, 31))
    assert [m.gap for m in rig.of(Mended)] == [gap]
    assert rig.world.asked[0][2]["from_id"] == "3"


async def test_a_restart_looks_back_no_further_than_it_may(make_rig: Any) -> None:
    rig: Any = make_rig(resume=lambda _name: (3, rig.clock.now_ns() - 10_000 * NS), resume_s_max=1_000.0)
    rig.follow("AAA")
    (gap,) = rig.of(Gap)
    assert (gap.start_ns, gap.after_id) == (rig.clock.now_ns() - 1_000 * NS, None)


async def test_missing_ids_are_a_gap_although_nothing_was_cut(rig: Any) -> None:
    await flowing(rig)
    rig.world.trade("AAA", 3, heard=False)
    await rig.run(1)
    rig.world.trade("AAA")
    await rig.run()
    gap = rig.of(Gap)[-1]
    assert (gap.reason, gap.after_id) == ("missed ids", 1)
    assert gap.end_ns == rig.clock.now_ns() + 1
    assert rig.heard.index(gap) < rig.heard.index(rig.of(Trade)[-1])
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    await rig.run(4)
    assert rig.ids() == [1, 5, 2, 3, 4]
    assert rig.of(Mended)[-1].gap == gap
    assert rig.feed.followed("toy:AAA", Feed.TRADES)


async def test_a_late_trade_that_fills_its_hole_mends_it_without_a_question(rig: Any) -> None:
    await flowing(rig)
    asked = len(rig.world.asked)
    rig.world.trade("AAA", 2, heard=False)
    rig.world.tell("AAA", rig.world.trades["AAA"][2])
    await rig.run()
    assert len(rig.of(Gap)) == 2
    rig.world.tell("AAA", rig.world.trades["AAA"][1])
    await rig.run(3)
    assert rig.ids() == [1, 3, 2]
    assert len(rig.of(Mended)) == 2
    assert len(rig.world.asked) == asked


async def test_a_reconnect_that_missed_nothing_asks_nothing(rig: Any) -> None:
    await flowing(rig)
    asked = len(rig.world.asked)
    rig.world.live[0].cut()
    await rig.run(1.5)
    rig.world.trade("AAA")
    await rig.run(3)
    assert [g.reason for g in rig.of(Gap)] == ["start", "cut"]
    assert len(rig.of(Mended)) == 2
    assert len(rig.world.asked) == asked


async def test_a_venue_whose_rest_side_lags_is_asked_again_until_nothing_is_missing(rig: Any) -> None:
    await flowing(rig)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 20, heard=False)
    rig.world.lag = 15
    await rig.run(2)
    rig.world.trade("AAA")
    await rig.run(10)
    assert len(rig.of(Mended)) == 1
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    rig.world.lag = 0
    await rig.run(40)
    assert sorted(rig.ids()) == list(range(1, 23))
    assert [m.gap for m in rig.of(Mended)] == rig.of(Gap)


async def test_a_venue_that_does_not_answer_leaves_the_gap_open_and_is_asked_again(rig: Any) -> None:
    await flowing(rig)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 5, heard=False)
    rig.world.scripted.extend([TransportError("ConnectError")] * 12)
    await rig.run(20)
    assert rig.of(Abandoned) == []
    assert len(rig.of(Mended)) == 1
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    gap = rig.of(Gap)[-1]
    await rig.run(180)
    assert gap in [m.gap for m in rig.of(Mended)]
    assert sorted(rig.ids()) == [1, 2, 3, 4, 5, 6]


async def test_a_stream_lost_again_while_its_gap_is_fetched_keeps_the_one_gap_open(rig: Any) -> None:
    await flowing(rig)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 5, heard=False)
    rig.world.scripted.extend([TransportError("ConnectError")] * 3)
    await rig.run(3)
    for socket in rig.world.live:
        socket.cut()
    rig.world.trade("AAA", 5, heard=False)
    await rig.run(60)
    assert [g.reason for g in rig.of(Gap)] == ["start", "cut"]
    assert len(rig.of(Mended)) == 2
    assert sorted(rig.ids()) == list(range(1, 12))


async def test_ids_that_the_venue_skips_do_not_exist(rig: Any) -> None:
    await flowing(rig)
    for id_ in range(10, 10 + 10 * (backfill.EMPTY_HOLES_MAX + 5), 10):
        rig.world.trade("AAA", id_=id_)
        await rig.run(4)
    assert len(rig.ids()) == backfill.EMPTY_HOLES_MAX + 6
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    # After so many empty holes in a row its ids are no longer believed to be contiguous.
    assert len(rig.of(Gap)) == len(rig.of(Mended)) == backfill.EMPTY_HOLES_MAX + 1


async def test_holes_without_end_become_one_open_gap(rig: Any) -> None:
    await flowing(rig)
    rig.world.scripted.extend([TransportError("ConnectError")] * 9)
    for _ in range(backfill.HOLES_MAX + 20):
        rig.world.trade("AAA", heard=False)
        rig.world.trade("AAA")
        await rig.run()
    assert len(rig.of(Gap)) == 1 + backfill.HOLES_MAX + 1
    assert len({g.start_ns for g in rig.of(Gap)}) == len(rig.of(Gap))
    await rig.run(240)
    assert sorted(rig.ids()) == list(range(1, 2 * (backfill.HOLES_MAX + 20) + 2))
    assert len(rig.of(Mended)) == len(rig.of(Gap))
    assert rig.feed.followed("toy:AAA", Feed.TRADES)


async def test_ids_that_tell_nothing_are_fetched_by_time(make_rig: Any, make_venue: Any) -> None:
    rig = make_rig(make_venue(trade_ids="free"))
    rig.follow("AAA")
    await rig.run(4)
    for name in ("x", "y"):
        rig.world.trade("AAA", id_=name)
        await rig.run(1)
    rig.world.live[0].cut()
    await rig.run(0.1)
    rig.world.trade("AAA", heard=False, id_="z")
    await rig.run(6)
    rig.world.trade("AAA", id_="w")
    await rig.run(4)
    assert rig.ids() == ["x", "y", "z", "w"]
    assert [g.after_id for g in rig.of(Gap)] == [None, "y"]
    assert len(rig.of(Mended)) == 2


async def test_a_venue_that_reaches_back_too_little_gives_its_candles_and_the_gap_is_final(
    make_rig: Any, make_venue: Any
) -> None:
    rig = make_rig(make_venue(trade_ids="free"))
    # As Bybit does: only the newest trades, and complete only since the oldest of them.
    newest = b'{"trades": [], "covers": [%d, %d]}'
    rig.world.script_for["/trades"] = lambda said: Response(
        200, {}, newest % (rig.clock.now_ns() - NS, int(said["end"]))
    )
    began_ns = rig.clock.now_ns()
    rig.follow("AAA")
    await rig.run(30)
    assert rig.of(VenueCandle) == []  # the running minute must close first
    assert not rig.feed.followed("toy:AAA", Feed.TRADES)
    await rig.run(20)
    assert [c.candle.open_ns for c in rig.of(VenueCandle)] == [began_ns // MINUTE_NS * MINUTE_NS]
    (abandoned,) = rig.of(Abandoned)
    assert abandoned.final
    assert abandoned.gap == rig.of(Gap)[0]
    assert rig.heard.index(abandoned) > rig.heard.index(rig.of(VenueCandle)[0])
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    assert rig.of(Mended) == []


@pytest.mark.parametrize("candles", [True, False])
async def test_what_the_venue_never_serves_is_abandoned_and_stays_visible(
    make_rig: Any, toy: Any, candles: bool
) -> None:
    toy.queries -= {Query.TRADES} if candles else {Query.TRADES, Query.CANDLES}
    rig = make_rig(toy)
    rig.world.script_for["/candles"] = lambda _said: Response(404, {}, b"")
    rig.follow("AAA")
    await rig.run(55)
    (abandoned,) = rig.of(Abandoned)
    assert abandoned.final
    assert "cannot be asked" in abandoned.reason or "too old" in abandoned.reason
    assert abandoned.end_ns >= abandoned.gap.start_ns
    assert rig.count("feed_gaps_total", venue="toy", outcome="abandoned") == 1


async def test_letting_go_ends_the_gap_unmended(rig: Any) -> None:
    release = rig.follow("AAA")
    await rig.run()
    release()
    await rig.run(10)
    (abandoned,) = rig.of(Abandoned)
    assert not abandoned.final
    assert abandoned.reason == "no longer followed"
    assert rig.of(Mended) == []


async def test_backfill_goes_by_time_where_the_venue_cannot_be_asked_by_id(make_rig: Any, toy: Any) -> None:
    toy.serves_ids = False
    rig = make_rig(toy)
    await flowing(rig)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 25, heard=False)
    await rig.run(2)
    rig.world.trade("AAA")
    await rig.run(4)
    assert sorted(rig.ids()) == list(range(1, 28))
    assert len(rig.of(Mended)) == 2


async def test_a_few_are_repaired_at_a_time_and_the_newest_first() -> None:
    turns, order, free = NewestFirst(2), list[int](), asyncio.Event()

    async def repair(start_ns: int) -> None:
        async with turns.turn(start_ns):
            order.append(start_ns)
            await free.wait()

    tasks = [asyncio.create_task(repair(n)) for n in (1, 2, 5, 9, 7)]
    await asyncio.sleep(0)
    assert order == [1, 2]
    tasks[3].cancel()
    await asyncio.sleep(0)
    free.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [1, 2, 7, 5]


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_every_trade_comes_once_and_every_gap_is_mended(make_rig: Any, seed: int) -> None:
    rig, chance = make_rig(), random.Random(seed)
    rig.follow("AAA")
    rig.follow("BBB")
    for _ in range(150):
        for symbol in ("AAA", "BBB"):
            rig.world.trade(symbol, chance.randrange(4), heard=chance.random() < 0.9)
            book = rig.world.trades.get(symbol, [])
            if book and chance.random() < 0.2:
                rig.world.tell(symbol, chance.choice(book[-5:]))
        fate = chance.random()
        if fate < 0.04:
            for socket in rig.world.live:
                socket.cut()
        elif fate < 0.08:
            rig.world.scripted.append(
                chance.choice([TransportError("x"), Response(500, {}, b""), Response(200, {}, b"<")])
            )
        elif fate < 0.1:
            rig.world.scripted.append(Response(429, {"retry-after": "4"}, b""))
        elif fate < 0.2:
            for socket in rig.world.live:
                socket.say(b"\x00garbage")
        rig.world.lag = chance.choice([0, 0, 0, 3])
        await rig.run(chance.choice([0.2, 1.0]))
    rig.world.lag = 0
    rig.world.scripted.clear()
    for _ in range(3):
        await rig.run(80)
        for symbol in ("AAA", "BBB"):
            rig.world.trade(symbol)
    await rig.run(10)
    for symbol in ("AAA", "BBB"):
        assert sorted(rig.ids(symbol)) == [row[0] for row in rig.world.trades[symbol]]
        assert {m.gap for m in rig.of(Mended, symbol)} == set(rig.of(Gap, symbol))
        assert rig.feed.followed(f"toy:{symbol}", Feed.TRADES)


async def test_a_trade_from_the_far_future_does_not_move_where_a_gap_begins(rig: Any) -> None:
    await flowing(rig)
    last_ns = rig.of(Trade)[-1].event_ns
    rig.world.live[0].say({"trade": ["AAA", 2, rig.clock.now_ns() + 10**9 * NS, 1]})
    await rig.run()
    rig.world.live[0].cut()
    await rig.run()
    assert rig.of(Gap)[-1].start_ns == last_ns


async def test_a_stream_lost_while_the_venue_answers_is_not_called_whole(rig: Any) -> None:
    await flowing(rig)
    rig.world.live[0].cut()
    rig.world.trade("AAA", 3, heard=False)
    rig.world.answering.clear()
    await rig.run(6)
    for socket in rig.world.live:
        socket.cut()
    rig.world.refuse_opening = True
    await rig.run(1)
    rig.world.answering.set()
    await rig.run(2)
    assert rig.ids() == [1, 2, 3, 4]
    assert len(rig.of(Mended)) == 1
    rig.world.trade("AAA", heard=False)
    rig.world.refuse_opening = False
    await rig.run(40)
    assert rig.ids() == [1, 2, 3, 4, 5]
    assert [m.gap for m in rig.of(Mended)] == rig.of(Gap)
    assert len(rig.of(Gap)) == 2


async def test_two_gaps_of_an_instrument_never_begin_at_the_same_time(rig: Any) -> None:
    await flowing(rig)
    rig.world.live[0].say({"trade": ["AAA", 3, rig.of(Trade)[-1].event_ns, 1]})
    await rig.run()
    rig.world.live[0].cut()
    await rig.run()
    starts_ns = [g.start_ns for g in rig.of(Gap)]
    assert len(starts_ns) == len(set(starts_ns)) == 3


async def test_more_holes_than_are_kept_apart_are_abandoned_and_never_called_mended(rig: Any) -> None:
    await flowing(rig)
    rig.world.answering.clear()  # the venue hangs, and the stream loses every other trade
    for _ in range(dedupe.RUNS_MAX + 10):
        rig.world.trade("AAA", heard=False)
        rig.world.trade("AAA")
    await rig.run(1)
    rig.world.answering.set()
    for _ in range(20):
        rig.world.trade("AAA")
        await rig.run(10)
    assert rig.feed.followed("toy:AAA", Feed.TRADES)
    gaps, mended, abandoned = rig.of(Gap), rig.of(Mended), rig.of(Abandoned)
    assert {g.start_ns for g in gaps} == {e.gap.start_ns for e in mended + abandoned}
    assert abandoned
    assert all(e.final for e in abandoned)
    assert len(rig.of(VenueCandle)) >= 1
    known = set(rig.ids())
    for e in mended:
        if e.gap.after_id is not None and e.gap.end_ns is None:
            assert e.gap.after_id + 1 in known
