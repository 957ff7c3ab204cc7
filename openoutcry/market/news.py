"""News as they are kept, and the port to where they are kept; `feed/news.py` reads them.

What says that two articles are one: what their source knows them by, their address, or their title within SAME_TITLE_NS.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from openoutcry.clock import NS
from openoutcry.sources.source import Article, Item

SAME_TITLE_NS = 48 * 3_600 * NS
# Ids are whole numbers that JavaScript keeps exactly.
ID_BITS = 53
# Parts of a query that say how a reader came, not what is read.
TRACKERS = frozenset({"fbclid", "gclid", "mc_cid", "mc_eid", "igshid"})
TRACKER_HEAD = "utm_"


# Of an article: its id, the keys of its address and its title, when it was published.
Keys = tuple[int, int, int, int]


class Found(msgspec.Struct, frozen=True):
    """An article that may be new, with the keys by which it is known. `waiting`: a model is to be asked about it."""

    article: Article
    url_key: int
    title_key: int
    waiting: bool = False


class Mark(msgspec.Struct, frozen=True):
    """What an address said of its last answer, so that it need not send the same again."""

    etag: str = ""
    modified: str = ""


class NewsStore(Protocol):
    """Where articles are kept. Synchronous, called in threads; every method raises Unavailable when it cannot serve."""

    def add(self, found: Sequence[Found], place: str, mark: Mark, kept_max: int) -> Sequence[Article]:
        """Keep those that are new, the oldest making room, and the mark of the address they come from; all or nothing.

        Returns those that were kept. One that is older than all that are kept where there is no room is not new.
        """
        ...

    def articles(
        self, coin: str | None, category: str | None, label: str | None, since_ns: int | None, limit: int
    ) -> Sequence[Article]:
        """Newest first."""
        ...

    def waiting(self, limit: int) -> Sequence[Article]:
        """Of those that a model is to be asked about the newest, and with it only those of its feed, newest first."""
        ...

    def judge(self, articles: Sequence[Article], day: int, tokens: int) -> None:
        """Keep their opinions: they wait no more; and that so many more tokens were used that day, by number since 1970."""
        ...

    def used(self, day: int) -> int:
        """The tokens used that day."""
        ...

    def mark(self, place: str) -> Mark:
        """What was kept of that address."""
        ...

    def count(self) -> int:
        """How many articles are kept."""
        ...

    def close(self) -> None:
        """Let go of the database; a second call does nothing."""
        ...


def fresh(found: Sequence[Found], known: Iterable[Keys]) -> list[Found]:
    """Those that are none of the known, each once: the first of those that are one."""
    ids, urls = set(), set()
    titles: dict[int, list[int]] = {}
    for id_, url, title, at_ns in known:
        ids.add(id_)
        urls.add(url)
        titles.setdefault(title, []).append(at_ns)
    new: list[Found] = []
    for each in found:
        at_ns = each.article.published_ns
        times = titles.setdefault(each.title_key, [])
        if (
            each.article.id in ids
            or each.url_key in urls
            or any(abs(at_ns - other) <= SAME_TITLE_NS for other in times)
        ):
            continue
        ids.add(each.article.id)
        urls.add(each.url_key)
        times.append(at_ns)
        new.append(each)
    return new


def id_of(item: Item, host: str) -> int:
    """What the article is known by here: its guid (among those of its host, unless it is an address), else its address."""
    if not item.guid:
        return _hash("url", canonical(item.url), ID_BITS)
    if item.guid.startswith(("http://", "https://")):
        return _hash("url", canonical(item.guid), ID_BITS)
    return _hash("guid", f"{host} {item.guid}", ID_BITS)


def url_key(url: str) -> int:
    """The same for addresses of one page."""
    return _hash("url", canonical(url), ID_BITS)


def title_key(title: str) -> int:
    """The same for titles of the same words."""
    words = "".join(char if char.isalnum() else " " for char in title.casefold()).split()
    # One of signs alone is as it is.
    return _hash("title", " ".join(words) or title, ID_BITS)


def canonical(url: str) -> str:
    """An address without what makes two of one page: scheme, www, port, trackers, fragment, a slash at the end."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removeprefix("www.")
        port = "" if parts.port in {None, 80, 443} else f":{parts.port}"
    except ValueError:
        return url
    asked = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not name.lower().startswith(TRACKER_HEAD) and name.lower() not in TRACKERS
    ]
    query = f"?{urlencode(asked)}" if asked else ""
    return f"{host}{port}{parts.path.rstrip('/')}{query}"


def _hash(kind: str, text: str, bits: int) -> int:
    digest = blake2b(f"{kind} {text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)
