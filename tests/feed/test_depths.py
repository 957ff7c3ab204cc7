"""A depth whose snapshot must be asked for: when it is asked for, how often, and what becomes of the answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from openoutcry.events import DepthSnapshot
from openoutcry.transport import Response
from openoutcry.venues.venue import Feed

NAME = "toy:AAA"


class Books:
    """What the venue answers: `seq` at the time, or nothing good while `down`."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.seq = 0
        self.status = 200
        rig.world.script_for["/depth"] = self.answer

    def answer(self, _said: dict[str, str]) -> Response:
        return Response(self.status, {}, json.dumps({"book": self.seq}).encode())

    @property
    def asked_s(self) -> list[float]:
        start_ns = self.rig.began_ns
        return [round((at_ns - start_ns) / 1e9, 1) for at_ns, path, _ in self.rig.world.asked if path == "/depth"]

    @property
    def kept(self) -> Any:
        """The number of the last delta, None while nothing is known."""
        return self.rig.feed.depth(NAME).seq

    def delta(self, previous: int, seq: int) -> None:
        for socket in self.rig.world.live:
            socket.say({"delta": ["AAA", previous, seq]})

    async def minutes(self, count: int) -> None:
        """A delta a second."""
        for _ in range(count * 60):
            self.seq += 1
            self.delta(self.seq - 1, self.seq)
            await self.rig.run(1)


@pytest.fixture
async def books(make_rig: Callable[..., Any], make_venue: Any) -> Books:
    rig = make_rig(make_venue(depth_snapshots="asked"))
    await rig.feed.start()
    await rig.run()
    rig.began_ns = rig.clock.now_ns()
    return Books(rig)


async def test_a_snapshot_is_asked_for_when_the_stream_flows_and_deltas_join_it(books: Books) -> None:
    books.seq = 5
    books.rig.follow("AAA", Feed.DEPTH)
    assert books.asked_s == []
    await books.rig.run(1)
    assert [len(books.asked_s), books.kept] == [1, 5]
    assert books.rig.feed.followed(NAME, Feed.DEPTH)
    books.delta(5, 6)
    await books.rig.run(3)
    assert [len(books.asked_s), books.kept] == [1, 6]
    # Whoever listens to the bus can build the same.
    assert [event.seq for event in books.rig.of(DepthSnapshot)] == [5]


async def test_deltas_that_came_while_it_was_asked_for_are_joined_to_it(books: Books) -> None:
    books.rig.world.answering.clear()
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    for seq in range(3, 9):
        books.delta(seq - 1, seq)
    books.seq = 5
    await books.rig.run(1)
    assert books.kept is None
    assert not books.rig.feed.followed(NAME, Feed.DEPTH)
    books.rig.world.answering.set()
    await books.rig.run()
    assert [len(books.asked_s), books.kept] == [1, 8]


async def test_a_missed_delta_costs_one_question(books: Books) -> None:
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    books.delta(0, 1)
    await books.rig.run(20)
    books.seq = 2
    books.delta(2, 3)
    books.delta(3, 4)
    await books.rig.run()
    # The delta that showed the hole is not lost with it.
    assert [len(books.asked_s), books.kept] == [2, 4]
    assert books.rig.count("feed_depth_breaks_total", venue="toy") == 1
    assert books.rig.count("feed_depth_asks_total", venue="toy") == 2


async def test_a_snapshot_older_than_the_stream_is_asked_for_again_and_what_waited_joins_the_next(books: Books) -> None:
    books.rig.world.answering.clear()
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    for seq in range(10, 13):
        books.delta(seq - 1, seq)
    await books.rig.run()
    books.rig.world.answering.set()
    await books.rig.run()
    assert books.kept is None
    books.seq = 9
    await books.rig.run(3)
    assert [len(books.asked_s), books.kept] == [2, 12]


async def test_an_answer_that_was_slow_and_too_old_is_followed_by_one_question_not_two(books: Books) -> None:
    books.rig.world.answering.clear()
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    books.delta(9, 10)
    await books.rig.run(8)
    assert len(books.asked_s) == 1
    books.rig.world.script_for["/depth"] = lambda _said: Response(
        200, {}, b'{"book": %d}' % (9 * (len(books.asked_s) > 1))
    )
    books.rig.world.answering.set()
    await books.rig.run(30)
    assert [len(books.asked_s), books.kept] == [2, 10]


async def test_a_venue_that_does_not_answer_is_asked_ever_more_rarely_and_one_question_at_a_time(books: Books) -> None:
    books.status = 404
    books.rig.follow("AAA", Feed.DEPTH)
    await books.minutes(10)
    waits_s = [later - earlier for earlier, later in zip(books.asked_s, books.asked_s[1:], strict=False)]
    assert waits_s[0] <= 3
    assert all(60 <= wait_s <= 92 for wait_s in waits_s[7:])
    assert len(waits_s) < 16
    books.status = 200
    await books.minutes(2)
    assert books.kept == 720


async def test_after_a_cut_the_depth_is_unknown_until_a_new_snapshot_comes(books: Books) -> None:
    books.seq = 1
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(2)
    assert books.kept == 1
    books.rig.world.live[0].cut()
    await books.rig.run()
    assert books.kept is None
    books.seq = 50
    await books.rig.run(40)
    assert [books.kept, len(books.asked_s)] == [50, 2]


async def test_an_answer_to_a_question_from_before_the_cut_is_not_taken(books: Books) -> None:
    books.rig.world.answering.clear()
    books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    assert len(books.asked_s) == 1
    books.rig.world.refuse_opening = True
    books.rig.world.live[0].cut()
    await books.rig.run(1)
    books.rig.world.answering.set()
    await books.rig.run(5)
    assert books.kept is None


async def test_nobody_asks_for_what_is_not_followed_any_more(books: Books) -> None:
    books.status = 404
    release = books.rig.follow("AAA", Feed.DEPTH)
    await books.rig.run(1)
    release()
    asked = len(books.asked_s)
    books.delta(0, 1)
    await books.rig.run(200)
    assert len(books.asked_s) == asked
    assert books.rig.feed.depth(NAME) is None


async def test_a_stream_that_tells_its_own_snapshots_is_never_asked_about(rig: Any) -> None:
    rig.follow("AAA", Feed.DEPTH)
    await rig.run(1)
    (socket,) = rig.world.live
    socket.say({"delta": ["AAA", 900, 901]}, {"book": ["AAA", 1]}, {"delta": ["AAA", 1, 2]})
    await rig.run(30)
    assert rig.feed.depth(NAME).seq == 2
    assert not [path for _, path, _ in rig.world.asked if path == "/depth"]
