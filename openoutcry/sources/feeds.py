"""Feeds of news: RSS 2.0 (with its older forms) and Atom, items out.

https://www.rssboard.org/rss-specification, https://www.rfc-editor.org/rfc/rfc4287, https://www.rssboard.org/media-rss

    <rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/"><channel><title>The Paper</title>
      <item><title>Bitcoin &amp; gold</title><link>https://paper.example/1?utm_source=rss</link>
        <guid isPermaLink="false">paper-1</guid><pubDate>Fri, 20 Nov 2026 12:00:00 +0000</pubDate>
        <description><![CDATA[<p>Up again.</p>]]></description><category>Markets</category>
        <media:content url="https://paper.example/1.jpg" medium="image"/></item></channel></rss>

    <feed xmlns="http://www.w3.org/2005/Atom"><title>The Paper</title>
      <entry><id>tag:paper.example,2026:1</id><title type="html">Up &amp;amp; away</title>
        <link rel="alternate" href="https://paper.example/1"/><published>2026-11-20T12:00:00Z</published>
        <summary type="html">&lt;p&gt;Up again.&lt;/p&gt;</summary></entry></feed>

A feed is hostile text. DTDs, entities and whatever they name are refused; what XML can blow up to is counted while it is
read; markup is taken out of all texts; addresses are http or https, or not told. Of a feed the first ITEMS_MAX items are
read; one without a title or an address is left out. A time that is missing, unreadable, before EARLIEST_NS or after the
moment of reading is not believed: the moment of reading stands for it.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from openoutcry.clock import NS
from openoutcry.errors import Unreadable
from openoutcry.sources.source import Item, Request

FEED_BYTES_MAX = 5 * 1024 * 1024
# Where a web page says what it is.
HEAD_BYTES = 2_000
ELEMENTS_MAX = 100_000
NESTED_MAX = 64
ITEMS_MAX = 500
MARKUP_CHARS_MAX = 8_000
TITLE_CHARS_MAX = 300
TEXT_CHARS_MAX = 4_000
SOURCE_CHARS_MAX = 80
URL_CHARS_MAX = 2_000
GUID_CHARS_MAX = 500
TAGS_MAX, TAG_CHARS_MAX = 20, 60
# The first of January 2009: two days later the first bitcoin was made.
EARLIEST_NS = 1_230_768_000 * NS
ATOM, MEDIA, CONTENT, DUBLIN = (
    "{http://www.w3.org/2005/Atom}",
    "{http://search.yahoo.com/mrss/}",
    "{http://purl.org/rss/1.0/modules/content/}",
    "{http://purl.org/dc/elements/1.1/}",
)
RDF, RSS_1 = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/rss/1.0/}"
ACCEPT = "application/rss+xml, application/atom+xml, application/xml;q=0.9, text/xml;q=0.9, */*;q=0.1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SILENT = frozenset({"script", "style", "template", "noscript"})
_INLINE = frozenset({"a", "abbr", "b", "cite", "code", "em", "font", "i", "mark", "small", "span", "strong", "sub", "sup", "u"})  # fmt: skip
_UNTOLD = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\uffff\ud800-\udfff]")


class Feeds:
    """RSS and Atom, told apart by their root."""

    url: str | None = None

    def __init__(self, bytes_max: int = FEED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max

    def request(self, key: str | None) -> Request:  # noqa: ARG002 - feeds take none
        """The address as it is."""
        return Request(path="", headers={"accept": ACCEPT})

    def read(self, body: bytes, host: str, received_ns: int) -> Sequence[Item]:
        """The items in the order of the feed. Raises Unreadable."""
        root = _parsed(body, self._bytes_max)
        if root.tag == f"{ATOM}feed":
            name = _source(root.find(f"{ATOM}title"), host)
            found = (_entry(each, name, host, received_ns) for each in _some(root, f"{ATOM}entry"))
        elif root.tag in {"rss", f"{RDF}RDF"}:
            space = RSS_1 if root.tag == f"{RDF}RDF" else ""
            channel = root.find(f"{space}channel")
            if channel is None:
                raise Unreadable("a feed without a channel", body)
            name = _source(channel.find(f"{space}title"), host)
            # Version 1.0 has its items beside the channel.
            found = (
                _item(each, space, name, host, received_ns)
                for each in _some(root if space else channel, f"{space}item")
            )
        else:
            raise Unreadable("neither RSS nor Atom", body)
        return [item for item in found if item is not None]


class Plain(HTMLParser):
    """Hears markup, keeps the words."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the library's names
        if tag in _SILENT:
            self._silent += 1
        if tag not in _INLINE:
            self.words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        if tag not in _INLINE:
            self.words.append(" ")

    def handle_startendtag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the library's names
        if tag not in _INLINE:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


def plain(markup: str, chars_max: int) -> str:
    """The words of a piece of HTML in one line, `chars_max` at most."""
    parser = Plain()
    # The library looks for the end of each tag anew: behind the last one there is none to look for.
    told, end, rest = markup[:MARKUP_CHARS_MAX].rpartition(">")
    try:
        parser.feed(told + end)
        parser.close()
        parser.handle_data(unescape(rest))
    except AssertionError:
        # What the library says of a marked section that it does not know. The words before it are good.
        parser.words.append(" ")
    return shortened(" ".join(_UNTOLD.sub(" ", "".join(parser.words)).split()), chars_max)


def shortened(text: str, chars_max: int) -> str:
    """The text, or as many whole words of it as fit, and a mark that there is more."""
    if len(text) <= chars_max:
        return text
    head = text[: chars_max - 1]
    words = head if text[chars_max - 1] == " " else head.rpartition(" ")[0]
    return f"{(words or head).rstrip()}…"


def address(text: str | None, base: str = "") -> str | None:
    """A web address, made whole where it is relative; None for all else."""
    if not text or len(text) > URL_CHARS_MAX:
        return None
    text = "".join(text.split()) if "\n" in text else text.strip()
    if _UNTOLD.search(text) or any(char in text for char in ' <>"\\^`{|}'):
        return None
    try:
        whole = urljoin(base, text) if base else text
        parts = urlsplit(whole)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        _ = parts.port  # a number, or this raises
    except ValueError:
        return None
    return whole if good and len(whole) <= URL_CHARS_MAX else None


def believed_ns(at_ns: int | None, received_ns: int) -> int:
    """The moment a source names, or that of reading where there is none that can be."""
    return at_ns if at_ns is not None and EARLIEST_NS <= at_ns <= received_ns else received_ns


class _Builder(TreeBuilder):
    """Builds no more than we take: small elements are a hundred times as large in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._elements = self._nested = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._elements += 1
        self._nested += 1
        if self._elements > ELEMENTS_MAX or self._nested > NESTED_MAX:
            raise Unreadable("a feed of too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._nested -= 1
        return super().end(tag)


def _parsed(body: bytes, bytes_max: int) -> Element:
    if len(body) > bytes_max:
        raise Unreadable(f"a feed larger than {bytes_max} bytes", body)
    parser = DefusedXMLParser(target=_Builder(), forbid_dtd=True, forbid_entities=True, forbid_external=True)
    try:
        # Some put an empty line before the declaration, which XML does not allow.
        parser.feed(body.removeprefix(BOM_UTF8).lstrip())
        root = parser.close()
    except (DefusedXmlException, ParseError, ValueError, LookupError) as e:
        # The latter two: encodings that are unknown or cannot be.
        if b"<html" in body[:HEAD_BYTES].lower():
            raise Unreadable("a web page, no feed", body) from e
        why = "a feed with" if isinstance(e, DefusedXmlException) else "no XML:"
        raise Unreadable(f"{why} {type(e).__name__}", body) from e
    if not isinstance(root, Element):
        raise Unreadable("no XML", body)
    return root


def _some(parent: Element, tag: str) -> Iterator[Element]:
    """The first ITEMS_MAX."""
    for count, each in enumerate(parent.iterfind(tag)):
        if count == ITEMS_MAX:
            return
        yield each


def _source(title: Element | None, host: str) -> str:
    return plain(_text(title), SOURCE_CHARS_MAX) or host[:SOURCE_CHARS_MAX]


def _item(item: Element, space: str, source: str, host: str, received_ns: int) -> Item | None:
    guid = item.find(f"{space}guid")
    known = _guid(_text(guid))
    url = address(_text(item.find(f"{space}link")), f"https://{host}/")
    if url is None and guid is not None and guid.get("isPermaLink", "true") == "true":
        url = address(known)
    title = plain(_text(item.find(f"{space}title")), TITLE_CHARS_MAX)
    if url is None or not title:
        return None
    texts = (plain(_text(item.find(tag)), TEXT_CHARS_MAX) for tag in (f"{space}description", f"{CONTENT}encoded"))
    told = _text(item.find(f"{space}pubDate")) or _text(item.find(f"{DUBLIN}date"))
    return Item(
        guid=known,
        url=url,
        title=title,
        source=source,
        text=next(filter(None, texts), ""),
        published_ns=believed_ns(_moment_ns(told), received_ns),
        image_url=_image(item),
        tags=_tags(_text(each) for each in item.iterfind(f"{space}category")),
    )


def _entry(entry: Element, source: str, host: str, received_ns: int) -> Item | None:
    links: Mapping[str, str] = {
        each.get("rel", "alternate"): each.get("href", "") for each in reversed(entry.findall(f"{ATOM}link"))
    }
    url = address(links.get("alternate"), f"https://{host}/")
    title = plain(_text(entry.find(f"{ATOM}title")), TITLE_CHARS_MAX)
    if url is None or not title:
        return None
    texts = (plain(_text(entry.find(ATOM + tag)), TEXT_CHARS_MAX) for tag in ("summary", "content"))
    told = _text(entry.find(f"{ATOM}published")) or _text(entry.find(f"{ATOM}updated"))
    return Item(
        guid=_guid(_text(entry.find(f"{ATOM}id"))),
        url=url,
        title=title,
        source=source,
        text=next(filter(None, texts), ""),
        published_ns=believed_ns(_moment_ns(told), received_ns),
        image_url=_image(entry),
        tags=_tags(each.get("label") or each.get("term") or "" for each in entry.iterfind(f"{ATOM}category")),
    )


def _text(element: Element | None) -> str:
    """All the text below it, of elements too: Atom may hold XHTML."""
    return "" if element is None else "".join(element.itertext())[:MARKUP_CHARS_MAX]


def _guid(text: str) -> str:
    return " ".join(_UNTOLD.sub(" ", text).split())[:GUID_CHARS_MAX]


def _tags(texts: Iterator[str]) -> tuple[str, ...]:
    words = (plain(text, TAG_CHARS_MAX) for _, text in zip(range(TAGS_MAX), texts, strict=False))
    return tuple(filter(None, words))


def _image(item: Element) -> str | None:
    return next((found for each in _media(item) if (found := address(each)) is not None), None)


def _media(item: Element) -> Iterator[str]:
    for each in item.iter(f"{MEDIA}content"):
        if each.get("medium") == "image" or each.get("type", "").startswith("image/"):
            yield each.get("url", "")
    for each in item.iter(f"{MEDIA}thumbnail"):
        yield each.get("url", "")
    for each in item.iterfind("enclosure"):
        if each.get("type", "").startswith("image/"):
            yield each.get("url", "")
    for each in item.iterfind(f"{ATOM}link"):
        if each.get("rel") == "enclosure" and each.get("type", "").startswith("image/"):
            yield each.get("href", "")


def _moment_ns(text: str) -> int | None:
    """RFC 822 as RSS has it, or ISO as Atom has it; one without a zone is UTC."""
    text = text.strip()[:64]
    for reads in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            at = reads(text)
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
            return (at - _EPOCH) // _MICROSECOND * 1_000
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
