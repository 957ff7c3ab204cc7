"""Lists of CoinDesk's data API become items."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.clock import NS
from openoutcry.errors import Unreadable
from openoutcry.sources.coindesk import CoinDesk
from openoutcry.sources.feeds import ITEMS_MAX
from openoutcry.sources.source import Item

NOW_NS = 1_795_179_620 * NS
ROW: dict[str, Any] = {
    "TYPE": "121", "ID": 41_000_001, "GUID": "https://paper.example/?p=1", "PUBLISHED_ON": 1_795_176_000,
    "IMAGE_URL": "https://images.example/1.png", "TITLE": "Bitcoin &amp; gold", "URL": "https://paper.example/1",
    "BODY": "<p>Up again.</p>", "KEYWORDS": "markets|btc", "SENTIMENT": "POSITIVE", "STATUS": "ACTIVE",
    "SOURCE_DATA": {"NAME": "The Paper"}, "CATEGORY_DATA": [{"NAME": "MARKET"}, {"NAME": "BTC"}],
}  # fmt: skip


def read(*rows: Any) -> list[Item]:
    return list(CoinDesk().read(json.dumps({"Data": rows, "Err": {}}).encode(), "host.example", NOW_NS))


def test_an_article_is_read() -> None:
    assert read(ROW) == [
        Item(
            guid="https://paper.example/?p=1",
            url="https://paper.example/1",
            title="Bitcoin & gold",
            source="The Paper",
            text="Up again.",
            published_ns=1_795_176_000 * NS,
            image_url="https://images.example/1.png",
            tags=("MARKET", "BTC"),
        )
    ]


def test_what_is_asked_names_the_key_in_a_header_alone() -> None:
    asked = CoinDesk().request("secret-key")
    assert asked.headers["authorization"] == "Apikey secret-key"
    assert "secret-key" not in f"{asked.path}{asked.query}"
    assert "authorization" not in CoinDesk().request(None).headers
    assert (asked.path, asked.query) == ("/news/v1/article/list", (("lang", "EN"), ("limit", "50")))


def test_what_is_missing_is_done_without() -> None:
    (found,) = read({"TITLE": "Alone", "URL": "https://a.example/", "ID": 7})
    assert found == Item(guid="7", url="https://a.example/", title="Alone", source="host.example", published_ns=NOW_NS)


@pytest.mark.parametrize("at", [None, "1795176000", 1.5, True, -1, 10**30, 1_795_179_621])
def test_a_time_that_cannot_be_believed_is_that_of_reading(at: Any) -> None:
    assert read({**ROW, "PUBLISHED_ON": at})[0].published_ns == NOW_NS


def test_articles_without_a_title_or_an_address_are_left_out() -> None:
    assert read({**ROW, "URL": "javascript:x"}, {**ROW, "TITLE": None}, {**ROW, "URL": 5}, ROW) == read(ROW)
    assert len(read(*[ROW] * 600)) == ITEMS_MAX


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"<html>", b'{"Data": 5}', b'{"Data": [1]}', b'{"Data": [], "Err": {"type": 1, "message": "no"}}',
     b'{"Err": {"type": 1}}', b'{"Data":' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_list_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        CoinDesk().read(body, "host.example", NOW_NS)


def test_a_list_that_is_too_large_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="larger than 10 bytes"):
        CoinDesk(10).read(b'{"Data": []}', "host.example", NOW_NS)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "http://["]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["NAME", "x"]), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(ROW)), VALUES, max_size=4))
def test_a_strange_row_is_read_or_left_out_or_unreadable(changes: dict[str, Any]) -> None:
    try:
        found = read({**ROW, **changes})
    except Unreadable:
        return
    for each in found:
        assert each.title
        assert 0 < each.published_ns <= NOW_NS
