"""Every store of news keeps its word: in memory, on SQLite, on PostgreSQL; and says of two articles when they are one."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openoutcry.clock import NS
from openoutcry.errors import Unavailable
from openoutcry.market.news import (
    SAME_TITLE_NS,
    Found,
    Keys,
    Mark,
    NewsStore,
    canonical,
    fresh,
    id_of,
    title_key,
    url_key,
)
from openoutcry.sources.source import Article, Item, Opinion
from openoutcry.stores.news import MARKS_MAX, MemoryNews, SqlNews
from openoutcry.stores.sql import sqlite_url

Open = Callable[[], SqlNews]

ALL = 1_000
HOUR_NS = 3_600 * NS
OPINION = Opinion(label="neutral", score=0.0, tickers=(), category="general", summary="S.", by="rules")


def found(number: int, at: int | None = None, **more: Any) -> Found:
    """The article of that number, published `at` hours after the first moment."""
    waiting, feed = more.pop("waiting", False), more.pop("feed", "a.example")
    opinion = {name: more.pop(name) for name in ("label", "score", "tickers", "category", "by") if name in more}
    told = {"url": f"https://{feed}/{number}", "title": f"Title {number}", "guid": f"g{number}"} | more
    item = Item(source="A \u2713", text="T", published_ns=(number if at is None else at) * HOUR_NS, **told)
    article = Article(
        id=id_of(item, feed),
        url=item.url,
        title=item.title,
        source=item.source,
        feed=feed,
        published_ns=item.published_ns,
        received_ns=2**62,
        excerpt="x" * 600,
        image_url=None if number % 2 else "https://i.example/1.png",
        opinion=msgspec.structs.replace(OPINION, **opinion),
    )
    return Found(article, url_key(item.url), title_key(item.title), waiting)


def add(store: NewsStore, *some: Found, kept_max: int = ALL) -> list[Article]:
    return list(store.add(some, "place", Mark(), kept_max))


def told(store: NewsStore, **asked: Any) -> list[Article]:
    wanted: dict[str, Any] = {"coin": None, "category": None, "label": None, "since_ns": None, "limit": ALL}
    return list(store.articles(**wanted | asked))


def articles(*some: Found) -> list[Article]:
    return [each.article for each in some]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same database, once more each time, as another process would."""
    sqlite = request.param == "sqlite"
    url = sqlite_url(tmp_path / "news.sqlite3") if sqlite else request.getfixturevalue("postgres_url")
    stores: list[SqlNews] = []

    def again() -> SqlNews:
        stores.append(SqlNews(url))
        return stores[-1]

    yield again
    for each in stores:
        each.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewsStore]:
    """An empty store."""
    made: MemoryNews | SqlNews
    if request.param == "memory":
        made = MemoryNews()
    else:
        sqlite = request.param == "sqlite"
        made = SqlNews(sqlite_url(tmp_path / "n.sqlite3") if sqlite else request.getfixturevalue("postgres_url"))
    yield made
    made.close()


def test_what_is_added_is_told_newest_first(store: NewsStore) -> None:
    some = [found(2, tickers=("BTC", "ETH"), score=-0.25, label="negative"), found(3), found(1)]
    assert add(store, *some) == articles(*some)
    assert told(store) == articles(some[1], some[0], some[2])
    assert told(store, limit=2) == articles(some[1], some[0])
    assert store.count() == 3


def test_articles_are_told_by_coin_category_label_and_time(store: NewsStore) -> None:
    one = found(1, tickers=("BTC", "ETH"), category="etf", label="positive")
    two = found(2, tickers=("ETH",), category="etf", label="negative")
    three = found(3, tickers=("BTC",), category="mining", label="positive")
    add(store, one, two, three)
    assert told(store, coin="BTC") == articles(three, one)
    assert told(store, coin="btc") == []
    assert told(store, category="etf") == articles(two, one)
    assert told(store, label="positive") == articles(three, one)
    assert told(store, since_ns=2 * HOUR_NS) == articles(three, two)
    assert told(store, since_ns=2 * HOUR_NS + 1) == articles(three)
    assert told(store, coin="ETH", category="etf", label="negative", since_ns=2 * HOUR_NS) == articles(two)
    assert told(store, coin="BTC", category="etf", since_ns=2 * HOUR_NS) == []
    assert told(store, coin="BTC", limit=1) == articles(three)


def test_an_article_is_kept_once_whatever_says_that_it_is_the_same(store: NewsStore) -> None:
    first = found(1)
    assert add(store, first) == articles(first)
    same_guid = found(2, guid="g1")
    same_url = found(3, url="http://www.a.example/1/?utm_source=x#part")
    same_title = found(4, title="  TITLE 1! ", at=1 + 48)
    assert add(store, first, same_guid, same_url, same_title) == []
    assert told(store) == articles(first)
    later = found(5, title="Title 1", at=1 + 49)
    assert add(store, later) == articles(later)
    other_feed = found(6, guid="g1", feed="b.example")
    assert add(store, other_feed) == articles(other_feed)


def test_of_those_that_come_together_the_first_is_kept(store: NewsStore) -> None:
    first, same, other = found(1), found(2, title="title 1"), found(3)
    assert add(store, first, same, other) == articles(first, other)


def test_the_newest_are_kept(store: NewsStore) -> None:
    assert add(store, found(5), found(3), found(4), kept_max=3) == articles(found(5), found(3), found(4))
    assert add(store, found(6), found(7), found(2), kept_max=3) == articles(found(6), found(7))
    assert told(store) == articles(found(7), found(6), found(5))
    assert told(store, coin="BTC") == []
    # What made room is not new when its feed shows it again.
    assert add(store, found(4), found(3), kept_max=3) == []
    assert store.count() == 3


def test_more_at_once_than_are_kept(store: NewsStore) -> None:
    some = [found(number, tickers=("BTC",)) for number in range(1, 10)]
    assert add(store, *some, kept_max=4) == articles(*some[5:])
    assert told(store, coin="BTC") == articles(*reversed(some[5:]))


def test_articles_of_one_moment_are_told_in_one_order(store: NewsStore) -> None:
    some = [found(number, at=1, tickers=("BTC",)) for number in range(20)]
    add(store, *some)
    by_id = sorted(articles(*some), key=lambda article: article.id, reverse=True)
    assert told(store) == told(store, coin="BTC") == by_id
    add(store, found(50, at=2), kept_max=5)
    assert told(store) == [found(50, at=2).article, *by_id[:4]]


def test_those_that_wait_are_told_feed_by_feed(store: NewsStore) -> None:
    mine = [found(number, feed="a.example", waiting=True) for number in (1, 3, 5)]
    other = [found(number, feed="b.example", waiting=True) for number in (2, 4)]
    add(store, *mine, *other, found(9))
    assert store.waiting(10) == articles(mine[2], mine[1], mine[0])
    assert store.waiting(2) == articles(mine[2], mine[1])
    store.judge(articles(*mine), 1, 0)
    assert store.waiting(10) == articles(other[1], other[0])
    store.judge(articles(*other), 1, 0)
    assert store.waiting(10) == []


def test_an_opinion_takes_the_place_of_the_one_before(store: NewsStore) -> None:
    one, two = found(1, tickers=("BTC", "ETH"), waiting=True), found(2, tickers=("BTC",), waiting=True)
    add(store, one, two)
    new = Opinion(label="positive", score=0.75, tickers=("SOL", "BTC"), category="etf", summary="New.", by="wise-1")
    judged = msgspec.structs.replace(one.article, opinion=new)
    store.judge([judged], 1, 0)
    assert told(store) == [two.article, judged]
    assert told(store, coin="SOL") == [judged]
    assert told(store, coin="ETH") == []
    assert told(store, category="etf", label="positive") == [judged]
    assert store.waiting(10) == articles(two)


def test_an_opinion_does_not_bring_back_what_made_room(store: NewsStore) -> None:
    one = found(1, waiting=True)
    add(store, one, kept_max=1)
    add(store, found(2), kept_max=1)
    store.judge(
        [msgspec.structs.replace(one.article, opinion=msgspec.structs.replace(OPINION, tickers=("BTC",)))], 1, 0
    )
    assert told(store) == articles(found(2))
    assert told(store, coin="BTC") == []
    if isinstance(store, SqlNews):
        with store._engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM article_coins").scalar() == 0


def test_tokens_are_counted_by_day(store: NewsStore) -> None:
    assert store.used(20_000) == 0
    store.judge([], 20_000, 5)
    store.judge([], 20_000, 7)
    assert store.used(20_000) == 12
    assert store.used(20_001) == 0
    store.judge([], 20_001, 1)
    assert store.used(20_001) == 1


def test_marks_are_kept_with_what_came_with_them(store: NewsStore) -> None:
    assert store.mark("p") == Mark()
    store.add([found(1)], "p", Mark('"1"', "then"), ALL)
    assert store.mark("p") == Mark('"1"', "then")
    store.add([], "p", Mark('"2"'), ALL)
    assert (store.mark("p"), store.mark("q")) == (Mark('"2"'), Mark())


def test_all_is_there_after_a_restart(opened: Open) -> None:
    store = opened()
    store.add([found(1, tickers=("BTC",), waiting=True)], "p", Mark('"1"', "then"), ALL)
    store.judge([], 3, 9)
    before = told(store, coin="BTC")
    store.close()
    store.close()
    again = opened()
    assert told(again, coin="BTC") == before == articles(found(1, tickers=("BTC",)))
    assert (again.waiting(5), again.mark("p"), again.used(3)) == (before, Mark('"1"', "then"), 9)
    assert add(again, found(1)) == []


def test_marks_of_addresses_that_are_read_no_more_are_forgotten(opened: Open) -> None:
    store = opened()
    for number in range(3):
        store.add([], f"p{number}", Mark("m"), ALL)
    with store._writer.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO news_marks (place, etag, modified, read_ns) VALUES "
            + ", ".join(f"('q{number}', 'm', '', 5)" for number in range(MARKS_MAX))
        )
    store.add([found(1)], "new", Mark("m"), ALL)
    with store._engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM news_marks").scalar() == MARKS_MAX
    assert store.mark("new") == Mark("m")
    assert store.mark("p0") == Mark()


def test_whatever_is_half_done_is_not_done(opened: Open) -> None:
    """The mark would say that all was kept: it goes with the articles or not at all."""
    store = opened()
    broken = msgspec.structs.replace(found(2), article=msgspec.structs.replace(found(2).article, published_ns=2**70))
    with pytest.raises((Unavailable, OverflowError)):
        store.add([found(1), broken], "p", Mark("m"), ALL)
    assert (told(store), store.mark("p"), store.count()) == ([], Mark(), 0)


def test_news_of_a_newer_version_are_refused(opened: Open) -> None:
    store = opened()
    with store._writer.begin() as connection:
        connection.exec_driver_sql("UPDATE news_version SET version = 99")
    with pytest.raises(Unavailable, match=r"written by a newer openoutcry \(schema 99, ours 1\)"):
        opened()


def test_what_is_told_is_found_by_an_index(tmp_path: Path) -> None:
    store = SqlNews(sqlite_url(tmp_path / "n.sqlite3"))
    add(store, *[found(n, tickers=("BTC",), category="etf", waiting=True) for n in range(300)])
    statements: list[str] = []

    def plan(asked: Any) -> None:
        from sqlalchemy import text

        spelled = asked.compile(store._engine, compile_kwargs={"literal_binds": True})
        with store._engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
            rows = connection.execute(text(f"EXPLAIN QUERY PLAN {spelled}")).all()
        statements.append(" | ".join(row[3] for row in rows))

    read = store._read
    store._read = lambda asked: (plan(asked), read(asked))[1]  # type: ignore[method-assign,func-returns-value]
    for wanted in ({}, {"coin": "BTC"}, {"category": "etf"}, {"label": "neutral"}, {"since_ns": 5}):
        told(store, **wanted, limit=5)
    store.close()
    assert len(statements) == 5
    for each in statements:
        assert "INDEX" in each
        assert "TEMP B-TREE" not in each


# -- when two are one


def naive(some: list[Found], known: list[Keys]) -> list[Found]:
    """Each is held against all before it."""
    before = list(known)
    new = []
    for each in some:
        keys = (each.article.id, each.url_key, each.title_key, each.article.published_ns)
        if not any(
            keys[0] == other[0]
            or keys[1] == other[1]
            or (keys[2] == other[2] and abs(keys[3] - other[3]) <= SAME_TITLE_NS)
            for other in before
        ):
            new.append(each)
            before.append(keys)
    return new


# Few guids, addresses and titles, and times about two days apart, so that each of the three decides now and then.
SOME = st.lists(
    st.builds(
        lambda guid, url, title, at: found(1, at, guid=guid, url=f"https://a.example/{url}", title=title),
        st.sampled_from(["", "1", "2", "https://a.example/p", "3", "4"]),
        st.sampled_from(["p", "q", "q?utm_medium=x", "r?a=1", "s#t", "s"]),
        st.sampled_from(["One", "one!", "Two", "Three", "\u2014"]),
        st.sampled_from([0, 24, 48, 49, 97]),
    ),
    max_size=8,
)


@given(SOME, SOME)
def test_fresh_ones_are_those_that_a_slow_reader_finds(some: list[Found], known: list[Found]) -> None:
    keys = [(each.article.id, each.url_key, each.title_key, each.article.published_ns) for each in known]
    assert fresh(some, keys) == naive(some, keys)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(SOME, max_size=4), kept_max=st.integers(1, 4))
def test_a_database_does_what_memory_does(tmp_path: Path, batches: list[list[Found]], kept_max: int) -> None:
    with_file = SqlNews(sqlite_url(tmp_path / f"{next(NUMBERS)}.sqlite3"))
    plain = MemoryNews()
    for batch in batches:
        assert add(with_file, *batch, kept_max=kept_max) == add(plain, *batch, kept_max=kept_max)
        assert told(with_file) == told(plain)
    with_file.close()


NUMBERS = itertools.count()


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://a.example/x?utm_source=rss&id=7&UTM_Medium=feed", "https://a.example/x?id=7"),
        ("http://www.A.example:80/x/", "https://a.example/x"),
        ("https://a.example/x#comments", "https://a.example/x?fbclid=1"),
        ("https://a.example", "https://a.example/"),
    ],
)
def test_addresses_of_one_page(url: str, same: str) -> None:
    assert canonical(url) == canonical(same)
    assert url_key(url) == url_key(same)


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("https://a.example/x?id=7", "https://a.example/x?id=8"),
        ("https://a.example/x", "https://b.example/x"),
        ("https://a.example/x", "https://a.example/X"),
        ("https://a.example/x", "https://a.example:8443/x"),
        ("https://a.example/?p=1", "https://a.example/?q=1"),
    ],
)
def test_addresses_of_two_pages(url: str, other: str) -> None:
    assert url_key(url) != url_key(other)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_ids_are_whole_numbers_that_javascript_keeps(guid: str, url: str, title: str) -> None:
    item = Item(guid=guid, url=url, title=title, source="", published_ns=1)
    for number in (id_of(item, "h"), url_key(url), title_key(title)):
        assert 0 <= number < 2**53
    assert id_of(item, "h") == id_of(item, "h")


def test_an_id_is_the_same_in_every_process() -> None:
    """A number that was told stays what the article is known by."""
    assert found(1).article.id == 4_679_779_860_279_611
