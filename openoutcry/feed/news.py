"""News: feeds are read again and again, what is new is judged and kept, and told newest first.

Each address is asked by itself, one question at a time, with what it said of its last answer (ETag, Last-Modified: kept, so
that a restart asks no more than a poll). One that fails is asked less and less often, and not before it says; the others do
not notice. A redirect is followed within the site alone: whoever owns a feed does not choose what our machine asks.

What is new is kept with the opinion of the rules at once; where a model is set, it is asked afterwards, and its opinion takes
that one's place. Nobody who asks for news waits for either.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from urllib.parse import urlsplit

import msgspec
import structlog

from openoutcry import __version__
from openoutcry.clock import NS, Clock
from openoutcry.config import BadConfig, NewsConfig, SourceConfig
from openoutcry.errors import Invalid, Unavailable, Unreadable
from openoutcry.llm import news_rules
from openoutcry.llm.enrich import ARTICLES_A_CALL_MAX, Enricher
from openoutcry.market.news import Found, Mark, NewsStore, id_of, title_key, url_key
from openoutcry.sources import NEWS_SOURCES
from openoutcry.sources.feeds import address, shortened
from openoutcry.sources.source import CATEGORIES, LABELS, Article, Item, NewsSource
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, Response, TransportError

PLACES_MAX = 200
ARTICLES_TOLD_MAX = 200
# One answer, with all its redirects: one that comes in drops is left.
READ_S_MAX = 60.0
REDIRECTS_MAX = 3
BACKOFF_S_MAX = 3_600.0
RETRY_S_MAX = 86_400.0
# So that those that were begun together do not come together for ever.
SPREAD = 0.1
MARK_CHARS_MAX = 300
COIN_CHARS_MAX = 20
# What a database takes for a whole number.
TIME_NS_MAX = 2**63 - 1
DAY_NS = 86_400 * NS
AGENT = f"openoutcry/{__version__} (feed reader)"

log = structlog.get_logger()


class Place(msgspec.Struct, frozen=True):
    """Where news are read: an address, what speaks there, and the key for it."""

    source: NewsSource
    url: str
    key: str | None = None

    @property
    def host(self) -> str:
        """The host's name."""
        return urlsplit(self.url).hostname or ""

    @property
    def name(self) -> str:
        """The address without what may be secret in it."""
        return f"{self.host}{urlsplit(self.url).path}"

    @property
    def id(self) -> str:
        """What its mark is kept under."""
        return blake2b(self.url.encode(), digest_size=16).hexdigest()


def places(news: NewsConfig, sources: Mapping[str, SourceConfig]) -> Sequence[Place]:
    """All that the settings name: the feeds, and of the other sources those that have settings. Raises BadConfig."""
    made = []
    for name, make in NEWS_SOURCES.items():
        source, said = make(news.feed_bytes_max), sources.get(name)
        if source.url is None:
            made += [Place(source, url) for url in dict.fromkeys(news.feeds)]
        elif said is not None and said.on:
            key = None if said.api_key is None else said.api_key.get_secret_value()
            made.append(Place(source, (said.url or source.url).rstrip("/"), key))
    for place in made:
        if address(place.url) is None:
            raise BadConfig(f"news.feeds: {place.name or place.url!r} is no web address")
    if len(made) > PLACES_MAX:
        raise BadConfig(f"news.feeds: more than {PLACES_MAX} addresses")
    return made


class News:
    """Reads `places` with `http`, whose answers are bounded. Without `enricher` the opinions are the rules'."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        store: NewsStore,
        http: Http,
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        poll_s: float,
        articles_max: int,
        enricher: Enricher | None = None,
        tokens_a_day_max: int = 0,
        read_s_max: float = READ_S_MAX,
    ) -> None:
        self._places = tuple(places)
        self._store, self._http, self._clock, self._chance = store, http, clock, chance
        self._poll_s, self._articles_max, self._read_s_max = poll_s, articles_max, read_s_max
        self._enricher, self._tokens_max = enricher, tokens_a_day_max
        # Of each address the answer that was kept: some send it again, whatever they are asked.
        self._seen: dict[str, bytes] = {}
        self._ill: dict[str, str] = {}
        self._arrived = asyncio.Event()
        # Reading XML is work, and the store has one writer: one answer at a time.
        self._turn = asyncio.Lock()
        self._reads = telemetry.counter("news_reads", "Answers of feeds, by outcome", ["outcome"])
        self._judged = telemetry.counter("news_judged", "Opinions on articles, by whom", ["by"])
        self._tokens = telemetry.counter("news_tokens", "Tokens that the model used for news")
        self._kept = telemetry.gauge("news_articles", "Articles that are kept")

    async def articles(
        self,
        coin: str | None = None,
        category: str | None = None,
        sentiment: str | None = None,
        since_ns: int | None = None,
        limit: int = 50,
    ) -> Sequence[Article]:
        """Newest first. Raises Invalid, Unavailable."""
        if not 1 <= limit <= ARTICLES_TOLD_MAX:
            raise Invalid(f"limit is 1 to {ARTICLES_TOLD_MAX}")
        if category is not None and category not in CATEGORIES:
            raise Invalid(f"category is one of {', '.join(CATEGORIES)}")
        if sentiment is not None and sentiment not in LABELS:
            raise Invalid(f"sentiment is one of {', '.join(LABELS)}")
        if coin is not None:
            coin = coin.upper()
            if not (coin.isascii() and coin.isalnum() and len(coin) <= COIN_CHARS_MAX):
                return []
        if since_ns is not None:
            since_ns = min(max(since_ns, 0), TIME_NS_MAX)
        return await asyncio.to_thread(self._store.articles, coin, category, sentiment, since_ns, limit)

    async def run(self) -> None:
        """Read, and read again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for place in self._places:
                tasks.create_task(self._follow(place))
            if self._enricher is not None:
                tasks.create_task(self._judge_all(self._enricher))

    async def close(self) -> None:
        """Let go of the store."""
        await asyncio.to_thread(self._store.close)

    # One address

    async def _follow(self, place: Place) -> None:
        misses = 0
        while True:
            retry_s = 0.0
            try:
                await self._read(place)
            except _Miss as e:
                misses += 1
                retry_s = e.retry_s
                self._reads.labels(e.outcome).inc()
                self._complain(place, e.why)
            else:
                misses = 0
                self._well(place)
            await self._clock.sleep(self._wait_s(misses, retry_s))

    def _wait_s(self, misses: int, retry_s: float) -> float:
        longest_s = max(self._poll_s, BACKOFF_S_MAX)
        wait_s = min(longest_s, self._poll_s * 2.0 ** min(max(misses - 1, 0), 30))
        return max(wait_s, retry_s) * (1 + self._chance.uniform(0, SPREAD))

    async def _read(self, place: Place) -> None:
        """Ask once, and keep what is new. Raises _Miss."""
        try:
            mark = await asyncio.to_thread(self._store.mark, place.id)
            async with asyncio.timeout(self._read_s_max):
                answer = await self._fetch(place, mark)
            await self._take(place, answer)
        except _Miss:
            raise
        except TimeoutError:
            raise _Miss("timeout", f"no whole answer within {self._read_s_max:g} s") from None
        except TransportError as e:
            raise _Miss("unreachable", str(e)) from e
        except Unreadable as e:
            raise _Miss("unreadable", e.why) from e
        except Unavailable as e:
            raise _Miss("store", e.text) from e
        except Exception as e:  # a mistake of ours that one feed brings to light must not silence the others
            log.exception("news failed", place=place.name)
            raise _Miss("failed", "failed") from e

    async def _fetch(self, place: Place, mark: Mark) -> Response:
        """The answer, wherever on its site it was moved to. Raises TransportError, _Miss."""
        asked = place.source.request(place.key)
        headers = {"user-agent": AGENT, **asked.headers}
        if mark.etag:
            headers["if-none-match"] = mark.etag
        if mark.modified:
            headers["if-modified-since"] = mark.modified
        url, query = place.url + asked.path, asked.query
        for _ in range(REDIRECTS_MAX + 1):
            answer = await self._http.send("GET", url, query=query, headers=headers)
            if answer.status not in {301, 302, 303, 307, 308}:
                return answer
            # Where it is, its query is said.
            url, query = _moved(url, answer), ()
        raise _Miss("moved", "moved too often")

    async def _take(self, place: Place, answer: Response) -> None:
        """Raises _Miss, Unreadable, Unavailable."""
        if answer.status == 304:
            self._reads.labels("unchanged").inc()
            return
        if answer.status != 200:
            retry_s = _retry_s(answer, self._clock.now_ns()) if answer.status in {429, 503} else 0.0
            raise _Miss(str(answer.status), f"answered {answer.status}", retry_s)
        digest = blake2b(answer.body, digest_size=16).digest()
        if self._seen.get(place.id) == digest:
            self._reads.labels("unchanged").inc()
            return
        now_ns = self._clock.now_ns()
        mark = Mark(_short(answer.headers.get("etag")), _short(answer.headers.get("last-modified")))
        async with self._turn:
            found = await asyncio.to_thread(self._found, place, answer.body, now_ns)
            kept = await asyncio.to_thread(self._store.add, found, place.id, mark, self._articles_max)
            self._kept.set(await asyncio.to_thread(self._store.count))
        # Not before all of it was kept: what fails is read again.
        self._seen[place.id] = digest
        self._reads.labels("read").inc()
        self._judged.labels(news_rules.BY).inc(len(kept))
        if kept:
            log.info("news", place=place.name, articles=len(kept))
            self._arrived.set()

    def _found(self, place: Place, body: bytes, now_ns: int) -> Sequence[Found]:
        items = place.source.read(body, place.host, now_ns)
        return [self._of_item(item, place.host, now_ns) for item in items]

    def _of_item(self, item: Item, host: str, now_ns: int) -> Found:
        article = Article(
            id=id_of(item, host),
            url=item.url,
            title=item.title,
            source=item.source,
            feed=host,
            published_ns=item.published_ns,
            received_ns=now_ns,
            excerpt=shortened(item.text, news_rules.EXCERPT_CHARS_MAX),
            image_url=item.image_url,
            opinion=news_rules.judged(item),
        )
        return Found(article, url_key(item.url), title_key(item.title), waiting=self._enricher is not None)

    # The model

    async def _judge_all(self, enricher: Enricher) -> None:
        while True:
            # Before it is looked: what comes meanwhile is not missed.
            self._arrived.clear()
            try:
                while await self._judge_some(enricher):
                    pass
            except Unavailable as e:
                log.warning("news not judged", why=e.text)
                await self._clock.sleep(self._poll_s)
                continue
            await self._arrived.wait()

    async def _judge_some(self, enricher: Enricher) -> bool:
        """Ask about the newest that wait; False: none does. Raises Unavailable."""
        waiting = await asyncio.to_thread(self._store.waiting, ARTICLES_A_CALL_MAX)
        if not waiting:
            return False
        day = self._clock.now_ns() // DAY_NS
        left = self._tokens_max - await asyncio.to_thread(self._store.used, day)
        told = await enricher.enrich(waiting, left)
        await asyncio.to_thread(self._store.judge, told.articles, day, told.tokens)
        self._tokens.inc(told.tokens)
        self._judged.labels("model").inc(sum(article.opinion.by != news_rules.BY for article in told.articles))
        return True

    # What is said of an address, once

    def _complain(self, place: Place, why: str) -> None:
        if self._ill.get(place.id) != why:
            self._ill[place.id] = why
            log.warning("news not read", place=place.name, why=why)

    def _well(self, place: Place) -> None:
        if self._ill.pop(place.id, None) is not None:
            log.info("news read again", place=place.name)


class _Miss(Exception):
    """Nothing was read: `outcome` for the counter, `why` for the log; not again before `retry_s`."""

    def __init__(self, outcome: str, why: str, retry_s: float = 0.0) -> None:
        super().__init__(why)
        self.outcome, self.why, self.retry_s = outcome, why, retry_s


def _moved(url: str, answer: Response) -> str:
    """Where it is now. Raises _Miss for a place on another site, or one that is less safe."""
    whole = address(answer.headers.get("location"), url)
    if whole is None:
        raise _Miss("moved", "moved to no web address")
    here, there = urlsplit(url), urlsplit(whole)
    site, other = _site(here.hostname), _site(there.hostname)
    if (other != site and not other.endswith(f".{site}")) or (here.scheme == "https" and there.scheme != "https"):
        raise _Miss("moved", f"moved to {there.scheme}://{there.hostname}: name it in the settings if that is right")
    return whole


def _site(host: str | None) -> str:
    return (host or "").removeprefix("www.")


def _short(header: str | None) -> str:
    """A mark that is too long is none."""
    return header if header is not None and len(header) <= MARK_CHARS_MAX and header.isprintable() else ""


def _retry_s(answer: Response, now_ns: int) -> float:
    """Seconds, or a moment; longer than RETRY_S_MAX is not believed."""
    told = answer.headers.get("retry-after", "").strip()[:40]
    if told.isascii() and told.isdecimal():
        return min(float(told), RETRY_S_MAX)
    try:
        at = parsedate_to_datetime(told)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return min(max(at.timestamp() - now_ns / NS, 0.0), RETRY_S_MAX)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
