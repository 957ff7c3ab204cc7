"""News of CoinDesk's data API (before: CryptoCompare), items out.

https://developers.coindesk.com/documentation/data-api/news_v1_article_list

    GET /news/v1/article/list?lang=EN&limit=50      Authorization: Apikey ...
    {"Data": [{"TYPE": "121", "ID": 41000001, "GUID": "https://paper.example/?p=1", "PUBLISHED_ON": 1795176000,
               "IMAGE_URL": "https://images.example/1.png", "TITLE": "Bitcoin up", "URL": "https://paper.example/1",
               "BODY": "Up again.", "KEYWORDS": "markets|btc", "SENTIMENT": "POSITIVE", "STATUS": "ACTIVE",
               "SOURCE_DATA": {"NAME": "The Paper"}, "CATEGORY_DATA": [{"NAME": "MARKET"}, {"NAME": "BTC"}]}], "Err": {}}

`PUBLISHED_ON` is in seconds. `SENTIMENT` is the opinion of somebody's model and not told on: ours is made the same way for
every source. It answers without a key now and then; a free one is good for 11,000 calls a month, one in four minutes.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from openoutcry.clock import NS
from openoutcry.errors import Unreadable
from openoutcry.sources.feeds import (
    FEED_BYTES_MAX,
    GUID_CHARS_MAX,
    ITEMS_MAX,
    SOURCE_CHARS_MAX,
    TAG_CHARS_MAX,
    TAGS_MAX,
    TEXT_CHARS_MAX,
    TITLE_CHARS_MAX,
    address,
    believed_ns,
    plain,
)
from openoutcry.sources.source import Item, Request

LIMIT = 50


class CoinDesk:
    """The newest articles of all its sources."""

    url: str | None = "https://data-api.coindesk.com"

    def __init__(self, bytes_max: int = FEED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max

    def request(self, key: str | None) -> Request:
        """The newest LIMIT, in English."""
        headers = {"accept": "application/json"} | ({} if key is None else {"authorization": f"Apikey {key}"})
        return Request(path="/news/v1/article/list", query=(("lang", "EN"), ("limit", str(LIMIT))), headers=headers)

    def read(self, body: bytes, host: str, received_ns: int) -> Sequence[Item]:
        """The articles in the order of the answer; those without a title or an address are left out. Raises Unreadable."""
        if len(body) > self._bytes_max:
            raise Unreadable(f"a list larger than {self._bytes_max} bytes", body)
        try:
            answer = _ANSWER.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as e:
            raise Unreadable(f"no list of articles: {type(e).__name__}", body) from e
        if not answer.articles and answer.error:
            raise Unreadable("an error in place of articles", body)
        found = (_item(row, host, received_ns) for row in answer.articles[:ITEMS_MAX])
        return [item for item in found if item is not None]


class _Answer(msgspec.Struct, frozen=True):
    articles: list[dict[str, Any]] = msgspec.field(name="Data", default_factory=list)
    error: Any = msgspec.field(name="Err", default=None)


_ANSWER = msgspec.json.Decoder(_Answer)


def _item(row: dict[str, Any], host: str, received_ns: int) -> Item | None:
    url, title = address(_text(row, "URL")), plain(_text(row, "TITLE"), TITLE_CHARS_MAX)
    if url is None or not title:
        return None
    number, at_s = row.get("ID"), row.get("PUBLISHED_ON")
    told = row.get("SOURCE_DATA")
    source = plain(_text(told, "NAME"), SOURCE_CHARS_MAX) if isinstance(told, dict) else ""
    rows = row.get("CATEGORY_DATA")
    tags = [
        _text(each, "NAME") for each in (rows if isinstance(rows, list) else ())[:TAGS_MAX] if isinstance(each, dict)
    ]
    guid = " ".join(_text(row, "GUID").split())[:GUID_CHARS_MAX]
    return Item(
        guid=guid or (str(number) if type(number) is int else ""),
        url=url,
        title=title,
        source=source or host,
        text=plain(_text(row, "BODY"), TEXT_CHARS_MAX),
        published_ns=believed_ns(at_s * NS if type(at_s) is int else None, received_ns),
        image_url=address(_text(row, "IMAGE_URL")),
        tags=tuple(filter(None, (plain(tag, TAG_CHARS_MAX) for tag in tags))),
    )


def _text(row: dict[str, Any], name: str) -> str:
    told = row.get(name)
    return told if isinstance(told, str) else ""
