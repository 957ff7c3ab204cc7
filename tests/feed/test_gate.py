"""The one way to a venue's REST side."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from openoutcry.clock import NS
from openoutcry.errors import Invalid, RateLimited, Unavailable, Unsupported
from openoutcry.feed import gate as gates
from openoutcry.transport import Response, TransportError
from openoutcry.venues.venue import Ask, Feed, Query, Rate

ASK = Ask(query=Query.OPEN_INTEREST, symbol="AAA")


async def pages(rig: Any, ask: Ask = ASK) -> list[Any]:
    return [page async for page in rig.feed.ask("toy", ask)]


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> Response:
    return Response(status, headers or {}, body)


async def running(rig: Any, work: Any, seconds: float = 0) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    await rig.run(seconds)
    return task


async def test_a_question_is_tried_three_times_with_growing_pauses_and_then_refused(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.extend([TransportError("ConnectError"), answer(500), answer(502), answer(200)])
    task = await running(rig, pages(rig), 30)
    with pytest.raises(Unavailable, match="toy answers with status 502"):
        await task
    at = [ns for ns, _, _ in rig.world.asked]
    assert len(at) == gates.TRIES_MAX
    assert all(later - earlier >= gates.RETRY_S_MIN * NS for earlier, later in itertools.pairwise(at))


async def test_a_fault_that_passes_is_not_noticed(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.extend([TransportError("ReadTimeout"), answer(503)])
    task = await running(rig, pages(rig), 10)
    assert len(await task) == 1
    assert rig.feed.venues()["toy"].alive


@pytest.mark.parametrize("status", [429, 418, 403, 503])
async def test_a_plea_to_slow_down_silences_everybody_for_as_long_as_it_says(make_rig: Any, status: int) -> None:
    rig = make_rig()
    rig.world.scripted.append(answer(status, {"retry-after": "120"}))
    with pytest.raises(RateLimited) as refused:
        await pages(rig)
    assert refused.value.retry_s == pytest.approx(120)
    assert refused.value.banned is (status in {418, 403})
    for _ in range(10):
        with pytest.raises(RateLimited):
            await pages(rig)
        with pytest.raises(RateLimited):
            await rig.feed.raw("toy", "/x", (), 1)
    assert len(rig.world.asked) == 1
    await rig.run(121)
    assert len(await pages(rig)) == 1
    assert rig.count("venue_pauses_total", venue="toy") == 1


async def test_a_short_plea_is_waited_out(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.append(answer(429, {"retry-after": "3"}))
    task = await running(rig, pages(rig))
    other = await running(rig, pages(rig), 2)
    assert len(rig.world.asked) == 1
    await rig.run(3)
    assert len(await task) == len(await other) == 1
    began_ns = rig.world.asked[0][0]
    assert all(ns >= began_ns + 3 * NS for ns, _, _ in rig.world.asked[1:])


@pytest.mark.parametrize(("told", "least_s"), [("", 30), ("soon", 30), ("nan", 30), ("-5", 30), ("1e99", 259_000)])
async def test_a_pause_without_a_sensible_length_gets_a_named_one(make_rig: Any, told: str, least_s: int) -> None:
    rig = make_rig()
    rig.world.scripted.append(answer(429, {"retry-after": told}))
    with pytest.raises(RateLimited) as refused:
        await pages(rig)
    assert refused.value.retry_s is not None
    assert least_s <= refused.value.retry_s <= gates.PAUSE_S_MAX


async def test_a_plea_in_the_body_of_a_good_answer_counts_too(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.append(answer(200, body=b'{"wait": 600}'))
    with pytest.raises(RateLimited):
        await pages(rig)
    with pytest.raises(RateLimited):
        await pages(rig)
    assert len(rig.world.asked) == 1


async def test_the_budget_bounds_what_is_sent_and_the_venues_own_count_is_believed(
    make_rig: Any, make_venue: Any
) -> None:
    rig = make_rig(make_venue(weights={"weight": Rate(5, 60.0)}))
    for _ in range(3):
        await pages(rig)
    rig.world.headers = {"x-used": "5"}
    await pages(rig)
    with pytest.raises(Unavailable, match="budget"):
        await pages(rig)
    assert len(rig.world.asked) == 4
    assert rig.count("venue_weight_used", venue="toy", pool="weight") == 5


async def test_two_venues_at_one_address_draw_from_one_budget(make_rig: Any, make_venue: Any) -> None:
    shared = {"weights": {"weight": Rate(4, 60.0)}, "shared_pools": {"weight": "both"}}
    rig = make_rig(
        make_venue("toy", **shared), make_venue("toy2", **shared), make_venue("toy3", **shared | {"shared_pools": {}})
    )
    for _ in range(4):
        await pages(rig)
    with pytest.raises(Unavailable, match="budget of toy2"):
        [page async for page in rig.feed.ask("toy2", ASK)]
    assert len([page async for page in rig.feed.ask("toy3", ASK)]) == 1


async def test_an_answer_is_handed_on_untouched_when_asked_raw(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.extend([answer(404, {"a": "b"}, b"no"), answer(500), answer(500), answer(500, body=b"oops")])
    got = await rig.feed.raw("toy", "/x", [("symbol", "AAA")], 1)
    assert (got.status, got.headers, got.body) == (404, {"a": "b"}, b"no")
    task = await running(rig, rig.feed.raw("toy", "/x", (), 1), 20)
    assert (await task).body == b"oops"
    with pytest.raises(Invalid):
        await rig.feed.raw("toy", "@elsewhere/x", (), 1)


async def test_an_answer_that_is_too_large_cannot_be_read_or_goes_in_circles_is_refused(make_rig: Any) -> None:
    rig = make_rig()
    rig.world.scripted.extend([answer(200, body=bytes(gates.ANSWER_BYTES_MAX + 1))] * 3)
    task = await running(rig, pages(rig), 20)
    with pytest.raises(Unavailable, match="more than"):
        await task
    rig.world.scripted.append(answer(200, body=b"<html>busy</html>"))
    with pytest.raises(Unavailable, match="cannot be read"):
        await pages(rig)
    rig.world.scripted.append(answer(200, body=b"[]"))  # a fault in the translator: it expects an object
    with pytest.raises(Unavailable, match="translated"):
        await pages(rig)
    rig.world.scripted.extend([answer(200, body=b'{"more": 1}')] * 3)
    with pytest.raises(Unavailable, match="circle"):
        await pages(rig, Ask(query=Query.TRADES, symbol="AAA"))


async def test_no_refusal_tells_the_venues_address(make_rig: Any) -> None:
    rig = make_rig()
    for bad in (TransportError("ConnectError"), answer(500), answer(200, body=b"x"), answer(429)):
        rig.world.scripted.extend([bad] * 3)
        task = await running(rig, pages(rig), 40)
        rig.world.scripted.clear()
        with pytest.raises(Unavailable) as refused:
            await task
        assert "rest.toy" not in refused.value.text
        assert "rest.toy" not in rig.feed.venues()["toy"].reason
        await rig.run(60)


async def test_what_a_venue_cannot_be_asked_is_unsupported(make_rig: Any, toy: Any) -> None:
    toy.queries = frozenset({Query.TRADES})
    rig = make_rig(toy)
    with pytest.raises(Unsupported):
        await pages(rig)
    assert rig.feed.queries("toy") == {Query.TRADES}
    assert Feed.OPEN_INTEREST not in rig.feed.feeds("toy")


async def test_a_silent_venue_is_asked_whether_it_is_alive(rig: Any) -> None:
    await rig.run(300)
    assert rig.feed.venues()["toy"].alive
    assert 5 <= sum(path == "/time" for _, path, _ in rig.world.asked) <= 10
    rig.world.scripted.extend([TransportError("ConnectError")] * 100)
    await rig.run(120)
    state = rig.feed.venues()["toy"]
    assert not state.alive
    assert "ConnectError" in state.reason
