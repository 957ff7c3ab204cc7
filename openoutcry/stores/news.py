"""Articles in a database of their own file, with what their addresses last said; and in memory."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    make_url,
    or_,
    select,
    update,
)

from openoutcry.market.news import Found, Keys, Mark, fresh
from openoutcry.sources.source import Article, Opinion
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.migrations import Schema

BUSY_S = 30.0
WHAT = "the news"
# Addresses that are no longer read are forgotten beyond so many.
MARKS_MAX = 1_000
# Days of which the tokens are remembered.
DAYS_KEPT = 7
# Keys looked for in one statement.
KEYS_AT_ONCE = 500

_metadata = MetaData()
_articles = Table(
    "articles",
    _metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("url_key", BigInteger, nullable=False, index=True),
    Column("title_key", BigInteger, nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("feed", Text, nullable=False),
    Column("published_ns", BigInteger, nullable=False),
    Column("received_ns", BigInteger, nullable=False),
    Column("excerpt", Text, nullable=False),
    Column("image_url", Text),
    Column("label", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("tickers", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("waiting", Boolean, nullable=False),
    Index("articles_by_time", "published_ns", "id"),
    Index("articles_of_category", "category", "published_ns", "id"),
    Index("articles_of_label", "label", "published_ns", "id"),
)
# Few wait, and never for long.
Index("articles_waiting", _articles.c.published_ns, _articles.c.id, sqlite_where=_articles.c.waiting, postgresql_where=_articles.c.waiting)  # fmt: skip
_coins = Table(
    "article_coins",
    _metadata,
    Column("coin", Text, primary_key=True),
    Column("published_ns", BigInteger, primary_key=True),
    Column("article", BigInteger, primary_key=True, index=True),
)
_marks = Table(
    "news_marks",
    _metadata,
    Column("place", Text, primary_key=True),
    Column("etag", Text, nullable=False),
    Column("modified", Text, nullable=False),
    Column("read_ns", BigInteger, nullable=False),
)
_tokens = Table(
    "news_tokens",
    _metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
)


def _1_news(connection: Connection) -> None:
    _metadata.create_all(connection)


NEWS = Schema("news_version", (_1_news,))


class SqlNews:
    """News in SQLite or PostgreSQL. Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S) -> None:
        # One of each at a time, and `close` waits for both. Who reads does not wait for who waits to write.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._engine = opened(make_url(url), busy_s, NEWS, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def add(self, found: Sequence[Found], place: str, mark: Mark, kept_max: int) -> Sequence[Article]:
        """Keep those that are new, the oldest making room, and the mark. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            new = fresh(found, _known(connection, found))
            floor = None
            if new:
                connection.execute(insert(_articles), [_row(each) for each in new])
                _tell_coins(connection, (each.article for each in new))
                floor = _newest_of(connection, kept_max)
                if floor is not None:
                    _drop_before(connection, floor)
            _keep_mark(connection, place, mark, max((each.article.received_ns for each in found), default=0))
        kept = [each.article for each in new]
        return kept if floor is None else [each for each in kept if (each.published_ns, each.id) >= floor]

    def articles(
        self, coin: str | None, category: str | None, label: str | None, since_ns: int | None, limit: int
    ) -> Sequence[Article]:
        """Newest first. Raises Unavailable."""
        asked = select(_articles)
        at, id_ = _articles.c.published_ns, _articles.c.id
        if coin is not None:
            asked = asked.join(_coins, _coins.c.article == _articles.c.id).where(_coins.c.coin == coin)
            at, id_ = _coins.c.published_ns, _coins.c.article
        if category is not None:
            asked = asked.where(_articles.c.category == category)
        if label is not None:
            asked = asked.where(_articles.c.label == label)
        if since_ns is not None:
            asked = asked.where(at >= since_ns)
        return self._read(asked.order_by(at.desc(), id_.desc()).limit(limit))

    def waiting(self, limit: int) -> Sequence[Article]:
        """The newest that waits and others of its feed. Raises Unavailable."""
        newest = select(_articles.c.feed).where(_articles.c.waiting).order_by(*_NEWEST).limit(1).scalar_subquery()
        asked = select(_articles).where(_articles.c.waiting, _articles.c.feed == newest)
        return self._read(asked.order_by(*_NEWEST).limit(limit))

    def judge(self, articles: Sequence[Article], day: int, tokens: int) -> None:
        """Keep their opinions and what was used. Raises Unavailable."""
        with self._writing, refusing(WHAT), self._writer.begin() as connection:
            # One that made room meanwhile stays away.
            there = set(connection.scalars(select(_articles.c.id).where(_articles.c.id.in_([a.id for a in articles]))))
            kept = [article for article in articles if article.id in there]
            connection.execute(delete(_coins).where(_coins.c.article.in_([article.id for article in kept])))
            _tell_coins(connection, kept)
            for article in kept:
                told = {**_opinion(article.opinion), "waiting": False}
                connection.execute(update(_articles).where(_articles.c.id == article.id).values(told))
            if tokens:
                more = update(_tokens).where(_tokens.c.day == day).values(tokens=_tokens.c.tokens + tokens)
                if not connection.execute(more).rowcount:
                    connection.execute(insert(_tokens).values(day=day, tokens=tokens))
                    connection.execute(delete(_tokens).where(_tokens.c.day < day - DAYS_KEPT))

    def used(self, day: int) -> int:
        """The tokens used that day. Raises Unavailable."""
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.scalar(select(_tokens.c.tokens).where(_tokens.c.day == day)) or 0

    def mark(self, place: str) -> Mark:
        """What was kept of that address. Raises Unavailable."""
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            row = connection.execute(select(_marks.c.etag, _marks.c.modified).where(_marks.c.place == place)).first()
        return Mark() if row is None else Mark(*row)

    def count(self) -> int:
        """How many articles are kept. Raises Unavailable."""
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return connection.scalar(select(func.count()).select_from(_articles)) or 0

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._reading, self._writing:
            self._engine.dispose()

    def _read(self, asked: Select[Any]) -> Sequence[Article]:
        with self._reading, refusing(WHAT), self._engine.begin() as connection:
            return [_article(row) for row in connection.execute(asked).mappings()]


class MemoryNews:
    """News that end with the process."""

    def __init__(self) -> None:
        self._kept: dict[int, Found] = {}
        self._marks: dict[str, Mark] = {}
        self._tokens: dict[int, int] = {}
        self._turn = threading.Lock()

    def add(self, found: Sequence[Found], place: str, mark: Mark, kept_max: int) -> Sequence[Article]:
        """Keep those that are new, the oldest making room, and the mark."""
        with self._turn:
            known = [(a.article.id, a.url_key, a.title_key, a.article.published_ns) for a in self._kept.values()]
            new = fresh(found, known)
            whole = sorted([*self._kept.values(), *new], key=_age, reverse=True)[:kept_max]
            self._kept = {each.article.id: each for each in whole}
            self._marks[place] = mark
            return [each.article for each in new if each.article.id in self._kept]

    def articles(
        self, coin: str | None, category: str | None, label: str | None, since_ns: int | None, limit: int
    ) -> Sequence[Article]:
        """Newest first."""
        with self._turn:
            rows = [each.article for each in sorted(self._kept.values(), key=_age, reverse=True)]
        return [
            article
            for article in rows
            if coin is None or coin in article.opinion.tickers
            if category is None or category == article.opinion.category
            if label is None or label == article.opinion.label
            if since_ns is None or article.published_ns >= since_ns
        ][:limit]

    def waiting(self, limit: int) -> Sequence[Article]:
        """The newest that waits and others of its feed."""
        with self._turn:
            rows = [each.article for each in sorted(self._kept.values(), key=_age, reverse=True) if each.waiting]
        return [article for article in rows if article.feed == rows[0].feed][:limit]

    def judge(self, articles: Sequence[Article], day: int, tokens: int) -> None:
        """Keep their opinions and what was used."""
        with self._turn:
            for article in articles:
                if article.id in self._kept:
                    kept = msgspec.structs.replace(self._kept[article.id], article=article, waiting=False)
                    self._kept[article.id] = kept
            self._tokens = {day: self._tokens.get(day, 0) + tokens}

    def used(self, day: int) -> int:
        """The tokens used that day."""
        return self._tokens.get(day, 0)

    def mark(self, place: str) -> Mark:
        """What was kept of that address."""
        return self._marks.get(place, Mark())

    def count(self) -> int:
        """How many articles are kept."""
        return len(self._kept)

    def close(self) -> None:
        """Nothing is open."""


_NEWEST = (_articles.c.published_ns.desc(), _articles.c.id.desc())


def _known(connection: Connection, found: Sequence[Found]) -> list[Keys]:
    """All that are kept and share a key with one of those found."""
    columns = (_articles.c.id, _articles.c.url_key, _articles.c.title_key, _articles.c.published_ns)
    rows: list[Keys] = []
    for start in range(0, len(found), KEYS_AT_ONCE):
        some = found[start : start + KEYS_AT_ONCE]
        shared = or_(
            _articles.c.id.in_([each.article.id for each in some]),
            _articles.c.url_key.in_([each.url_key for each in some]),
            _articles.c.title_key.in_([each.title_key for each in some]),
        )
        rows += [(row[0], row[1], row[2], row[3]) for row in connection.execute(select(*columns).where(shared))]
    return rows


def _newest_of(connection: Connection, kept_max: int) -> tuple[int, int] | None:
    """Time and id of the last one that is kept; None: there is room."""
    last = select(_articles.c.published_ns, _articles.c.id).order_by(*_NEWEST).offset(kept_max - 1).limit(1)
    row = connection.execute(last).first()
    return None if row is None else (row[0], row[1])


def _drop_before(connection: Connection, floor: tuple[int, int]) -> None:
    at_ns, id_ = floor
    older = or_(
        _articles.c.published_ns < at_ns,
        and_(_articles.c.published_ns == at_ns, _articles.c.id < id_),
    )
    connection.execute(delete(_coins).where(_coins.c.article.in_(select(_articles.c.id).where(older))))
    connection.execute(delete(_articles).where(older))


def _keep_mark(connection: Connection, place: str, mark: Mark, read_ns: int) -> None:
    row = {"etag": mark.etag, "modified": mark.modified, "read_ns": read_ns}
    if not connection.execute(update(_marks).where(_marks.c.place == place).values(row)).rowcount:
        connection.execute(insert(_marks).values(place=place, **row))
        newest = select(_marks.c.place).order_by(_marks.c.read_ns.desc(), _marks.c.place).limit(MARKS_MAX)
        connection.execute(delete(_marks).where(_marks.c.place.not_in(newest)))


def _tell_coins(connection: Connection, articles: Iterable[Article]) -> None:
    rows = [
        {"coin": coin, "published_ns": article.published_ns, "article": article.id}
        for article in articles
        for coin in dict.fromkeys(article.opinion.tickers)
    ]
    if rows:
        connection.execute(insert(_coins), rows)


def _age(each: Found) -> tuple[int, int]:
    return each.article.published_ns, each.article.id


def _opinion(opinion: Opinion) -> dict[str, Any]:
    return {**msgspec.structs.asdict(opinion), "tickers": ",".join(opinion.tickers)}


def _row(found: Found) -> dict[str, Any]:
    row = msgspec.structs.asdict(found.article)
    opinion = row.pop("opinion")
    keys = {"url_key": found.url_key, "title_key": found.title_key, "waiting": found.waiting}
    return {**row, **_opinion(opinion), **keys}


def _article(row: Any) -> Article:
    opinion = Opinion(
        label=row["label"],
        score=row["score"],
        tickers=tuple(filter(None, row["tickers"].split(","))),
        category=row["category"],
        summary=row["summary"],
        by=row["by"],
    )
    names = ("id", "url", "title", "source", "feed", "published_ns", "received_ns", "excerpt", "image_url")
    return Article(**{name: row[name] for name in names}, opinion=opinion)
