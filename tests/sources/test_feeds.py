"""Feeds become items, and whatever is no feed, or means us harm, becomes Unreadable."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.clock import NS
from openoutcry.errors import Unreadable
from openoutcry.sources.feeds import (
    ELEMENTS_MAX,
    FEED_BYTES_MAX,
    ITEMS_MAX,
    MARKUP_CHARS_MAX,
    NESTED_MAX,
    SOURCE_CHARS_MAX,
    TAGS_MAX,
    TEXT_CHARS_MAX,
    TITLE_CHARS_MAX,
    Feeds,
    address,
    plain,
    shortened,
)
from openoutcry.sources.source import Item

NOW_NS = 1_795_179_620 * NS  # 2026-11-20 13:00:20 UTC
NOON_NS = 1_795_176_000 * NS

RSS = b"""\xef\xbb\xbf
<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/" xmlns:content="http://purl.org/rss/1.0/modules/content/"
     xmlns:atom="http://www.w3.org/2005/Atom" xmlns:dc="http://purl.org/dc/elements/1.1/">
<channel>
  <title>The  Paper: News &amp;amp; more</title>
  <link>https://paper.example</link>
  <atom:link href="https://paper.example/feed" rel="self"/>
  <item>
    <title><![CDATA[Bitcoin&#8217;s <b>best</b> day]]></title>
    <media:title>not this</media:title>
    <link> https://paper.example/1?utm_source=rss&amp;id=7 </link>
    <guid isPermaLink="false">paper-1</guid>
    <pubDate>Fri, 20 Nov 2026 12:00:00 +0000</pubDate>
    <description><![CDATA[<p>Up&nbsp;again.</p><script>evil()</script><p>Really <i>up</i>.</p>]]></description>
    <content:encoded>longer, and not wanted</content:encoded>
    <category>Markets</category><category domain="x">BTC</category><category> </category>
    <media:content url="https://paper.example/film.mp4" medium="video"/>
    <media:content url="https://paper.example/1.jpg" medium="image"/>
  </item>
  <item>
    <title>A permalink</title>
    <guid>https://paper.example/2</guid>
    <dc:date>2026-11-20T07:00:00-05:00</dc:date>
    <content:encoded>&lt;p&gt;All of it.&lt;/p&gt;</content:encoded>
    <enclosure url="https://paper.example/2.png" type="image/png" length="1"/>
  </item>
  <item><title>No address</title><guid isPermaLink="false">x</guid></item>
  <item><title>  </title><link>https://paper.example/3</link></item>
  <item><title>A script</title><link>javascript:alert(1)</link></item>
  <item><title>Somewhere here</title><link>/4</link><pubDate>Fri, 20 Nov 2026 07:00:00 EST</pubDate></item>
</channel></rss>"""

ATOM = b"""<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/">
  <title type="html">Atomic &amp;amp; small</title>
  <entry>
    <id>tag:paper.example,2026:1</id>
    <title type="html">Ether &amp;lt; Bitcoin?</title>
    <link rel="self" href="https://paper.example/self"/>
    <link rel="alternate" type="text/html" href="https://paper.example/1"/>
    <link rel="enclosure" type="image/webp" href="https://paper.example/1.webp"/>
    <published>2026-11-20T12:00:00Z</published><updated>2026-11-20T12:30:00Z</updated>
    <summary type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">So <b>small</b>.</div></summary>
    <category term="defi" label="DeFi"/><category term="eth"/>
  </entry>
  <entry>
    <id>2</id><title>Short</title><link href="https://paper.example/2"/>
    <updated>2026-11-20T13:00:00.5+01:00</updated>
    <content type="html">&lt;p&gt;The text.&lt;/p&gt;</content>
    <media:thumbnail url="http://paper.example/2.gif"/>
  </entry>
</feed>"""

RSS_1 = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
<channel><title>Old</title></channel>
<item><title>Still here</title><link>https://old.example/1</link><description>Yes.</description></item></rdf:RDF>"""


def read(body: bytes, host: str = "paper.example") -> list[Item]:
    return list(Feeds().read(body, host, NOW_NS))


def rss(*items: str, title: str = "T") -> bytes:
    return f"<rss><channel><title>{title}</title>{''.join(items)}</channel></rss>".encode()


def item(title: str = "A title", url: str = "https://a.example/1", **more: str) -> str:
    told = "".join(f"<{name}>{text}</{name}>" for name, text in {"title": title, "link": url, **more}.items())
    return f"<item>{told}</item>"


def an_item(**more: Any) -> Item:
    return Item(**{"guid": "", "source": "The Paper: News & more", "published_ns": NOW_NS, **more})


def test_rss_is_read_whole_without_its_markup() -> None:
    assert read(RSS) == [
        an_item(
            guid="paper-1",
            url="https://paper.example/1?utm_source=rss&id=7",
            title="Bitcoin\u2019s best day",
            text="Up again. Really up.",
            published_ns=NOON_NS,
            image_url="https://paper.example/1.jpg",
            tags=("Markets", "BTC"),
        ),
        an_item(
            guid="https://paper.example/2",
            url="https://paper.example/2",
            title="A permalink",
            text="All of it.",
            published_ns=NOON_NS,
            image_url="https://paper.example/2.png",
        ),
        an_item(url="https://paper.example/4", title="Somewhere here", published_ns=NOON_NS),
    ]


def test_atom_is_read_whole_without_its_markup() -> None:
    assert read(ATOM) == [
        an_item(
            source="Atomic & small",
            guid="tag:paper.example,2026:1",
            url="https://paper.example/1",
            title="Ether < Bitcoin?",
            text="So small.",
            published_ns=NOON_NS,
            image_url="https://paper.example/1.webp",
            tags=("DeFi", "eth"),
        ),
        an_item(
            source="Atomic & small",
            guid="2",
            url="https://paper.example/2",
            title="Short",
            text="The text.",
            published_ns=NOON_NS + NS // 2,
            image_url="http://paper.example/2.gif",
        ),
    ]


def test_rss_of_version_1_has_its_items_beside_the_channel() -> None:
    assert read(RSS_1) == [an_item(source="Old", url="https://old.example/1", title="Still here", text="Yes.")]


def test_a_feed_without_a_name_is_called_by_its_host() -> None:
    assert read(rss(item(), title=" "))[0].source == "paper.example"
    assert len(read(rss(item(), title="x" * 1_000))[0].source) == SOURCE_CHARS_MAX


@pytest.mark.parametrize(
    "told",
    [
        "", "yesterday", "Fri, 20 Nov 2026 13:00:21 +0000", "Fri, 20 Nov 2226 12:00:00 +0000", "1970-01-01T00:00:00Z",
        "Wed, 31 Dec 2008 23:59:59 GMT", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
        "Fri, 99 Nov 2026 12:00:00 +0000", "Fri, 20 Nov 2026 12:00:00 +99999999999", "1795176000", "NaN", "," * 60,
        "20 Nov 99999999999999999999 12:00:00 GMT",
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_believed_is_that_of_reading(told: str) -> None:
    assert [each.published_ns for each in read(rss(item(pubDate=told)))] == [NOW_NS]


@pytest.mark.parametrize(
    "told",
    ["Fri, 20 Nov 2026 12:00:00 GMT", "20 Nov 2026 12:00:00 -0000", "2026-11-20T12:00:00", "2026-11-20T14:00:00+02:00",
     "2026-11-20 12:00:00Z", "Fri, 20 Nov 2026 04:00:00 PST", "  Fri, 20 Nov 26 12:00 +0000 "],
)  # fmt: skip
def test_times_are_told_in_many_ways(told: str) -> None:
    assert [each.published_ns for each in read(rss(item(pubDate=told)))] == [NOON_NS]


def test_everything_in_a_feed_is_bounded() -> None:
    tags = "<category>c</category>" * 50
    rows = [item("t " * 5_000, description="w " * 50_000, guid="g" * 9_000) for _ in range(20)]
    many = rss(*rows, f"<item><title>x</title><link>https://a.example</link>{tags}</item>", *[item()] * 2_000)
    found = read(many)
    assert len(found) == ITEMS_MAX
    assert {len(each.title) <= TITLE_CHARS_MAX and len(each.text) <= TEXT_CHARS_MAX for each in found} == {True}
    assert found[0].title.endswith("t…")
    assert len(found[0].guid) == 500
    assert len(found[20].tags) == TAGS_MAX


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol1 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
<!ENTITY lol2 "&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;&lol1;"><!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">
<!ENTITY lol4 "&lol3;&lol3;&lol3;&lol3;&lol3;&lol3;&lol3;&lol3;">]><rss><channel><title>&lol4;</title></channel></rss>"""
EXTERNAL = (
    b"""<!DOCTYPE rss [<!ENTITY x SYSTEM "file:///etc/passwd">]><rss><channel><title>&x;</title></channel></rss>"""
)
PARAMETER = b"""<!DOCTYPE rss [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;]><rss><channel/></rss>"""
BLOWUP = (
    b'<!DOCTYPE r [<!ENTITY a "'
    + b"a" * 50_000
    + b'">]><rss><channel><title>'
    + b"&a;" * 5_000
    + b"</title></channel></rss>"
)


@pytest.mark.parametrize(
    "body",
    [LAUGHS, EXTERNAL, PARAMETER, BLOWUP, b'<!DOCTYPE rss SYSTEM "http://127.0.0.1:9/x.dtd"><rss><channel/></rss>'],
)
def test_entities_and_dtds_are_refused(body: bytes) -> None:
    with pytest.raises(Unreadable, match=r"a feed with (DTDForbidden|EntitiesForbidden)"):
        read(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<!DOCTYPE html><html><head><title>Checking your browser</title></head></html>", "a web page, no feed"),
        (b"<html><body><p>Not closed<br></body></html>", "a web page, no feed"),
        (b"<html><body/></html>", "neither RSS nor Atom"),
        (b"", "no XML"),
        (b"{}", "no XML"),
        (b"<rss><channel><item>", "no XML"),
        (b"<rss/>", "without a channel"),
        (b"<feed/>", "neither RSS nor Atom"),
        (b"<rss><channel><title>\xff\xfe</title></channel></rss>", "no XML"),
        (b"<rss><channel><title>\x00</title></channel></rss>", "no XML"),
        (b"<rss><channel><title>&nbsp;</title></channel></rss>", "no XML"),
        (b'<?xml version="1.0" encoding="klingon"?><rss><channel/></rss>', "no XML"),
        (b'<?xml version="1.0" encoding="shift_jis"?><rss><channel/></rss>', "no XML"),
        (b'<?xml version="1.0" encoding="utf-16"?><rss><channel/></rss>', "no XML"),
        (b" " * (FEED_BYTES_MAX + 1), "larger than"),
        (b"<rss><channel>" + b"<item/>" * ELEMENTS_MAX + b"</channel></rss>", "too many elements"),
        (b"<rss>" * (NESTED_MAX + 1), "too many elements"),
    ],
)  # fmt: skip
def test_what_is_no_feed_is_unreadable(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(body)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252", "us-ascii"])
def test_encodings_that_a_feed_may_have(encoding: str) -> None:
    title = "Zug" if encoding == "us-ascii" else "Zürich"
    body = f'<?xml version="1.0" encoding="{encoding}"?>{rss(item(title)).decode()}'.encode(encoding)
    assert [each.title for each in read(body)] == [title]


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("plain", "plain"),
        ("<p>One.</p><p>Two.</p>", "One. Two."),
        ("a<br/>b<br>c", "a b c"),
        ("mid<b>dle</b> of <a href='x'>it</a>.", "middle of it."),
        ("&lt;b&gt; &amp;amp; &#x1F680; &copy;", "<b> &amp; 🚀 ©"),
        ("<style>p{}</style>x<script>y</script>z<!-- no -->", "x z"),
        ("left \u202eright\u202c \u200b\x07 end", "left right end"),
        ("<p", "<p"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("before <![klingon[ <b>after</b>", "before"),
        ("before <a href=&amp;", "before <a href=&"),
        ("</script>words</style>", "words"),
    ],
)
def test_markup_becomes_words(markup: str, words: str) -> None:
    assert plain(markup, 1_000) == words


def test_what_is_too_long_ends_after_a_word() -> None:
    assert shortened("one two three", 13) == "one two three"
    assert shortened("one two three", 12) == "one two…"
    assert shortened("one two three", 8) == "one two…"
    assert shortened("x" * 20, 8) == "xxxxxxx…"


@pytest.mark.parametrize(
    "text",
    ["ftp://a.example/x", "javascript:alert(1)", "data:text/html,x", "//", "https://", "https://[::1", "http://a:b/x",
     "https://user:word@a.example/", "https://a.example/\u202egpj.exe", "https://a.example/a b", 'https://a.example/"x',
     "https://a.example/" + "x" * 2_000, "", None],
)  # fmt: skip
def test_what_is_no_web_address_is_not_told(text: str | None) -> None:
    assert address(text) is None


@pytest.mark.parametrize(
    "piece", ["<!--", "<a ", "<![CDATA[", "&", "</", "<script>", "<?", "<!", '<a b="', "&#1", "<b><i>"]
)
@pytest.mark.parametrize("end", ["", ">", "-->", '">'])
def test_bad_markup_costs_little(piece: str, end: str) -> None:
    markup = piece * ((MARKUP_CHARS_MAX - len(end)) // len(piece)) + end
    began = time.process_time()
    plain(markup, 100)
    # 0.3 s where each tag is looked for to the end of the text.
    assert time.process_time() - began < 0.15


# Changes that keep most of a feed whole, so that the reading goes far: single bytes, and pieces that mean something.
PIECES = [b"<", b">", b"&", b"]]>", b"<![CDATA[", b"<!DOCTYPE x>", b"<!ENTITY a 'b'>", b"\x00", b"\xff", b"</item>", b"<item>",
          b'="', b"&#0;", b"&#xD800;", b"<!--", b"<?xml?>", b"xmlns=''", b"2026-13-77", b"http://[", b"%s%n", b"\xf0\x9f\x92\xa9",
          b"&amp;lt;![x[", b"+9999", b"&#8238;"]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([RSS, ATOM, RSS_1]),
    st.lists(
        st.tuples(st.integers(0, 4_000), st.integers(0, 30), st.sampled_from(PIECES) | st.binary(max_size=4)),
        max_size=6,
    ),
)
def test_a_spoilt_feed_is_read_or_unreadable_and_nothing_else(
    body: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for place, length, piece in changes:
        at = place % len(body)
        body = body[:at] + piece + body[at + length :]
    try:
        found = read(body)
    except Unreadable:
        return
    for each in found:
        assert each.title
        assert address(each.url) == each.url
        assert 0 < each.published_ns <= NOW_NS
        assert not set(each.title + each.text + each.source) & set("\x00\u202e\n")
        (each.title + each.text + each.guid).encode()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>/!-[]&;#x'\"= abCDATA\n\x00\ud800"), max_size=200), st.integers(1, 300))
def test_any_markup_becomes_words_of_the_length_that_was_allowed(markup: str, chars_max: int) -> None:
    found = plain(markup, chars_max)
    assert len(found) <= chars_max
    found.encode()
