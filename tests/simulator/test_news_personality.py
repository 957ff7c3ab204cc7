"""The papers that are played are read by the same code as real ones, and print what the seed says."""

from collections.abc import Awaitable, Callable

import httpx2

from openoutcry.clock import NS, ManualClock
from openoutcry.simulator.news import COINDESK_PATH, FEEDS, PAPERS, SHOWN, News
from openoutcry.simulator.simulator import Simulator
from openoutcry.sources.coindesk import CoinDesk
from openoutcry.sources.feeds import Feeds
from openoutcry.sources.source import Item
from tests.simulator.client import START_NS

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]


def at(simulator: Simulator, path: str) -> str:
    return simulator.addresses()["news"]["rest"] + path


def papers(simulator: Simulator) -> News:
    found = simulator.stages["news"].personality
    assert isinstance(found, News)
    return found


def read(answer: httpx2.Response) -> list[Item]:
    assert answer.status_code == 200
    return list(Feeds().read(answer.content, "paper.example", START_NS))


async def test_each_paper_is_read_as_it_was_printed(play: Play, get: Get) -> None:
    simulator = await play("news")
    for name, paper in PAPERS.items():
        items = read(await get(at(simulator, paper.path)))
        printed = papers(simulator).printed(name, START_NS)
        assert len(printed) == SHOWN
        assert [(item.title, item.published_ns) for item in items] == [(row.title, row.at_ns) for row in printed]
        assert [item.text.startswith(row.text) for item, row in zip(items, printed, strict=True)] == [True] * SHOWN
        assert [item.tags for item in items] == [(row.coin,) for row in printed]
        assert {item.source for item in items} == {paper.title}
        assert len({item.guid for item in items}) == SHOWN
        assert all(item.url.startswith(row.url) for item, row in zip(items, printed, strict=True))
    assert len({row.title for row in papers(simulator).printed("courier", START_NS)}) > SHOWN // 2


async def test_what_was_printed_stays_and_more_comes(play: Play, get: Get, clock: ManualClock) -> None:
    simulator = await play("news")
    url = at(simulator, FEEDS[0])
    before = read(await get(url))
    clock._now_ns += 3 * PAPERS["courier"].every_s * NS  # without waking who pushes ten times a second
    after = list(Feeds().read((await get(url)).content, "paper.example", clock.now_ns()))
    assert after[3:] == before[: SHOWN - 3]
    assert [item.published_ns for item in after] == sorted((item.published_ns for item in after), reverse=True)


async def test_who_has_the_feed_is_not_sent_it_again_until_something_is_printed(
    play: Play, get: Get, clock: ManualClock
) -> None:
    simulator = await play("news")
    for path in FEEDS:
        url = at(simulator, path)
        first = await get(url)
        etag, modified = first.headers["etag"], first.headers["last-modified"]
        for headers in ({"if-none-match": etag}, {"if-modified-since": modified}):
            again = await get(url, headers)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        for other in ({"if-none-match": '"other"', "if-modified-since": modified}, {"if-modified-since": "never"}):
            assert (await get(url, other)).status_code == 200
    clock._now_ns += PAPERS["ledger"].every_s * 2 * NS
    for path in FEEDS:
        assert (
            await get(at(simulator, path), {"if-none-match": etag, "if-modified-since": modified})
        ).status_code == 200


async def test_coindesk_lists_what_two_papers_print(play: Play, get: Get) -> None:
    simulator = await play("news")
    request = CoinDesk().request(None)
    assert request.path == COINDESK_PATH
    answer = await get(at(simulator, request.path), **dict(request.query))
    items = CoinDesk().read(answer.content, "api.example", START_NS)
    printed = [row for name in ("courier", "herald") for row in papers(simulator).printed(name, START_NS, 50)]
    printed.sort(key=lambda row: row.at_ns, reverse=True)
    assert [(item.title, item.url, item.published_ns) for item in items] == [
        (row.title, row.url, row.at_ns) for row in printed[:50]
    ]
    assert {item.source for item in items} == {"The Courier: coins & markets", "Herald"}
    assert (await get(at(simulator, request.path), limit="0")).status_code == 400


async def test_some_articles_are_taken_over_from_another_paper(play: Play) -> None:
    simulator = await play("news")
    printed = papers(simulator).printed("herald", START_NS, 60)
    courier = {row.title: row.at_ns for row in papers(simulator).printed("courier", START_NS, 400)}
    taken = [row for row in printed if row.title in courier and 0 < row.at_ns - courier[row.title] < 3_600 * NS]
    assert len(taken) > 3


async def test_another_seed_prints_other_news(play: Play, clock: ManualClock) -> None:
    one = papers(await play("news")).printed("courier", START_NS)
    other = papers(Simulator(8, clock, ["news"])).printed("courier", START_NS)
    assert [row.title for row in one] != [row.title for row in other]


async def test_what_is_not_there_is_404(play: Play, get: Get) -> None:
    simulator = await play("news")
    assert (await get(at(simulator, "/other"))).status_code == 404
