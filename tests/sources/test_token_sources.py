"""Catalogues of tokens: answers written by hand after what each documents, and what hostile ones come to."""

import copy
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.errors import RateLimited, Unavailable, Unknown, Unreadable
from openoutcry.events import NS
from openoutcry.sources import TOKEN_SOURCES, reading
from openoutcry.sources.birdeye import Birdeye
from openoutcry.sources.codex import Codex
from openoutcry.sources.dexscreener import DexScreener
from openoutcry.sources.geckoterminal import GeckoTerminal
from openoutcry.sources.pumpfun import PumpFun
from openoutcry.sources.source import NETWORKS, SOLANA, Token, TokenAsk, TokenSource, Wanted

NOW_NS = 1_795_179_620 * NS
MS_NOW = NOW_NS // 1_000_000
HOUR_NS = 3_600 * NS
ETH, SOL, POLYGON = NETWORKS[1], NETWORKS[SOLANA], NETWORKS[137]
MINT = "EKpQGSJtjMFqKZ9KQanSqYXRcF8fBopzLHYxdM65zcjm"
MINT_2 = "7GCihgDB8fe6KNjn2MYtkzZcRjQy3t9GHdC8uHYmW2hr"
POOL = "EP2ib6dYdEeqD8MfE2ezHCxX3kP3K2eLKkirfPm5eyMx"
POOL_2 = "8sLbNZoA1cfnvMJLPfp98ZLAnFSYCFApfJKMbiXNLwxj"
COIN = "9BB6NFEcjBCtnNLFko2FqVQBq8HHM13kCyYcdQbgpump"
PEPE = "0x6982508145454Ce325dDbE47a25d4ec3d2311933"
PEPE_POOL = "0xa43fe16908251ee70ef74718545e4fe6c5ccec9f"
V4_POOL = "0x" + "ab" * 32


def trending(network: Any = SOL, limit: int = 20, **more: Any) -> TokenAsk:
    return TokenAsk(wanted=Wanted.TRENDING, network=network, limit=limit, now_ns=NOW_NS, **more)


def of(address: str, network: Any = SOL) -> TokenAsk:
    return TokenAsk(wanted=Wanted.TOKEN, network=network, address=address, now_ns=NOW_NS)


def pumped(hours: int = 24, **more: Any) -> TokenAsk:
    since_ns = NOW_NS - hours * HOUR_NS
    return TokenAsk(wanted=Wanted.PUMPFUN, network=SOL, limit=50, since_ns=since_ns, now_ns=NOW_NS, **more)


def gecko_pool(token: str, pool: str = POOL, network: str = "solana", **attributes: Any) -> dict[str, Any]:
    return {
        "id": f"{network}_{pool}",
        "type": "pool",
        "attributes": {
            "address": pool,
            "name": "WIF / SOL",
            "base_token_price_usd": "0.216341000000000000000000000000000000000000000000000000000000001",
            "pool_created_at": "2024-05-01T12:00:00Z",
            "fdv_usd": "214518552",
            "market_cap_usd": None,
            "reserve_in_usd": "5120033.1",
            "volume_usd": {"m5": "100.5", "h24": "41413570.131944"},
            "price_change_percentage": {"h1": "2.75", "h24": "-11.76"},
            "transactions": {
                "h1": {"buys": 0, "sells": 0},
                "h6": {"buys": 2, "sells": 0},
                "h24": {"buys": 33874, "sells": 21413, "buyers": 6790, "sellers": 5363},
            },
            **attributes,
        },
        "relationships": {"base_token": {"data": {"id": f"{network}_{token}", "type": "token"}}},
    }


def gecko_token(token: str, network: str = "solana", **attributes: Any) -> dict[str, Any]:
    told = {
        "address": token,
        "name": "dogwifhat",
        "symbol": "$WIF",
        "decimals": 6,
        "image_url": "https://x.example/w.png",
    }
    return {"id": f"{network}_{token}", "type": "token", "attributes": told | attributes}


GECKO_TRENDING = {
    "data": [gecko_pool(MINT), gecko_pool(MINT_2, POOL_2, market_cap_usd="7.5", reserve_in_usd=None)],
    "included": [gecko_token(MINT)],
}
GECKO_TOKEN = {
    "data": {
        **gecko_token(
            PEPE.lower(),
            "polygon_pos",
            name="Pepe",
            symbol="PEPE",
            decimals=18,
            image_url="missing.png",
            price_usd="0.00001",
            market_cap_usd="4200.5",
            fdv_usd="9",
            total_reserve_in_usd="77.25",
            volume_usd={"h24": "12.5"},
        ),
        "relationships": {"top_pools": {"data": [{"id": "polygon_pos_other"}, {"id": f"polygon_pos_{V4_POOL}"}]}},
    },
    "included": [
        # The token is the quote of this one: its change is not the token's.
        {**gecko_pool("0x" + "11" * 20, "other", "polygon_pos"), "id": "polygon_pos_other"},
        gecko_pool(PEPE.lower(), V4_POOL, "polygon_pos"),
    ],
}


def dex_pair(token: str = PEPE, pool: str = PEPE_POOL, chain: str = "ethereum", **more: Any) -> dict[str, Any]:
    return {
        "chainId": chain,
        "dexId": "uniswap",
        "pairAddress": pool,
        "baseToken": {"address": token, "name": "Pepe", "symbol": "PEPE"},
        "quoteToken": {"address": "0x" + "22" * 20, "name": "Wrapped Ether", "symbol": "WETH"},
        "priceNative": "0.00000001",
        "priceUsd": "0.00001234",
        "txns": {"h24": {"buys": 100, "sells": 50}},
        "volume": {"h24": 1000.5, "m5": 1},
        "priceChange": {"h24": 12.5},
        "liquidity": {"usd": 500.25, "base": 1, "quote": 2},
        "fdv": 5_000_000,
        "marketCap": 4_000_000,
        "pairCreatedAt": 1_714_564_800_000,
        "info": {"imageUrl": "https://cdn.example/pepe.png"},
        **more,
    }


DEX_PAIRS = [
    dex_pair(),
    dex_pair(
        pool="0x" + "33" * 20, liquidity={"usd": 900}, priceUsd="0.00001200", pairCreatedAt=1_700_000_000_000, fdv=None
    ),
    # As a quote it has no price here.
    dex_pair(token="0x" + "44" * 20),
]
DEX_BOOSTS = [
    {"url": "https://dexscreener.com/x", "chainId": "solana", "tokenAddress": MINT, "totalAmount": 500},
    {"chainId": "ethereum", "tokenAddress": PEPE},
    {"chainId": "solana", "tokenAddress": MINT_2},
    {"chainId": "solana", "tokenAddress": MINT},
    {"chainId": "solana", "tokenAddress": "../../../etc"},
]
CODEX_ROW = {
    "priceUSD": "0.00001234",
    "change24": "-0.1176",
    "volume24": "41413570",
    "liquidity": "5120033",
    "marketCap": "214518552",
    "txnCount24": 55287,
    "createdAt": 1_714_564_800,
    "pair": {"address": PEPE_POOL},
    "token": {
        "address": PEPE,
        "networkId": 1,
        "name": "Pepe",
        "symbol": "PEPE",
        "decimals": 18,
        "info": {"imageThumbUrl": "https://c.example/p.png"},
    },
}
CODEX = {"data": {"filterTokens": {"results": [CODEX_ROW]}}}
BIRDEYE_TRENDING = {
    "success": True,
    "data": {
        "updateUnixTime": 1726681733,
        "total": 1000,
        "tokens": [
            {
                "address": MINT,
                "decimals": 6,
                "liquidity": 34641.5,
                "logoURI": "https://ipfs.example/a",
                "name": "AVOCATO",
                "symbol": "ATO",
                "volume24hUSD": 1202872.25,
                "volume24hChangePercent": 33,
                "rank": 1,
                "price": 0.0001055,
                "price24hChangePercent": 210,
                "fdv": 17028232129,
                "marketcap": 28232129,
            }
        ],
    },
}
BIRDEYE_TOKEN = {
    "success": True,
    "data": {
        "address": MINT,
        "decimals": 6,
        "symbol": "ATO",
        "name": "AVOCATO",
        "logoURI": None,
        "liquidity": 34641.5,
        "price": 0.0001055,
        "priceChange24hPercent": -5,
        "v24hUSD": 10.5,
        "trade24h": 40120,
        "fdv": 99.5,
    },
}


def pump_coin(mint: str = COIN, ago_s: int = 60, **more: Any) -> dict[str, Any]:
    return {
        "mint": mint,
        "name": "Fartcoin",
        "symbol": "FART",
        "description": "x",
        "image_uri": "https://ipfs.io/ipfs/Q",
        "bonding_curve": POOL,
        "created_timestamp": 1_729_000_000_123,
        "complete": True,
        "total_supply": 1_000_000_000_000_000,
        "market_cap": 29.6,
        "usd_market_cap": 6_085.5,
        "reply_count": 0,
        "last_trade_timestamp": MS_NOW - ago_s * 1_000,
        "king_of_the_hill_timestamp": None,
        "nsfw": False,
        **more,
    }


PUMP = [
    pump_coin(),
    pump_coin(POOL, 3 * 3_600),
    pump_coin(POOL_2, 1, nsfw=True),
    pump_coin(MINT, last_trade_timestamp=None),
    "no coin",
]

TOLD: list[tuple[TokenSource, TokenAsk, Any]] = [
    (GeckoTerminal(), trending(), GECKO_TRENDING),
    (GeckoTerminal(), of(PEPE, POLYGON), GECKO_TOKEN),
    (GeckoTerminal(), pumped(), GECKO_TRENDING),
    (DexScreener(), of(PEPE, ETH), DEX_PAIRS),
    (DexScreener(), trending(), DEX_BOOSTS),
    (DexScreener(), trending(ETH, step=2, addresses=(PEPE,)), DEX_PAIRS),
    (Codex(), trending(ETH), CODEX),
    (Codex(), of(PEPE, ETH), CODEX),
    (Birdeye(), trending(), BIRDEYE_TRENDING),
    (Birdeye(), of(MINT), BIRDEYE_TOKEN),
    (PumpFun(), pumped(), PUMP),
]


def decode(
    source: TokenSource, ask: TokenAsk, said: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Any:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return source.decode(ask, status, headers or {}, body)


def test_geckoterminal_tells_the_token_of_each_trending_pool() -> None:
    page = decode(GeckoTerminal(), trending(), GECKO_TRENDING)
    first = Token(
        address=MINT,
        network_id=SOLANA,
        symbol="$WIF",
        name="dogwifhat",
        decimals=6,
        price=0.216341,
        change_24h=-0.1176,
        volume_24h=41413570.131944,
        liquidity=5120033.1,
        market_cap=214518552.0,
        trades_24h=55287,
        image_url="https://x.example/w.png",
        created_ns=1_714_564_800 * NS,
        top_pool=POOL,
        source="geckoterminal",
    )
    # The second one's token is not described, its liquidity not told: holes, not inventions.
    second = msgspec.structs.replace(
        first,
        address=MINT_2,
        symbol=None,
        name=None,
        decimals=None,
        image_url=None,
        liquidity=None,
        market_cap=7.5,
        top_pool=POOL_2,
    )
    assert list(page.tokens) == [first, second]
    assert (page.skipped, page.next) == (0, None)
    assert first.top_pair_id == f"{POOL}:{SOLANA}"


def test_geckoterminal_is_asked_page_by_page_while_pages_are_full() -> None:
    full = {"data": [gecko_pool(MINT)] * 20, "included": []}
    page = decode(GeckoTerminal(), trending(), full)
    assert page.next == trending(step=2)
    assert GeckoTerminal().request(page.next, None).query == (
        ("include", "base_token"),
        ("duration", "24h"),
        ("page", "2"),
    )
    assert decode(GeckoTerminal(), trending(step=10), full).next is None
    # A page behind the last one is empty, and no fault.
    assert decode(GeckoTerminal(), trending(step=2), {"data": []}).tokens == []


def test_geckoterminal_tells_a_token_and_the_change_of_the_pool_that_it_is_the_base_of() -> None:
    (token,) = decode(GeckoTerminal(), of(PEPE, POLYGON), GECKO_TOKEN).tokens
    assert token == Token(
        address=PEPE.lower(),
        network_id=137,
        symbol="PEPE",
        name="Pepe",
        decimals=18,
        price=0.00001,
        change_24h=-0.1176,
        volume_24h=12.5,
        liquidity=77.25,
        market_cap=4200.5,
        trades_24h=55287,
        image_url=None,
        created_ns=1_714_564_800 * NS,
        top_pool=V4_POOL,
        source="geckoterminal",
    )
    request = GeckoTerminal().request(of(PEPE, POLYGON), None)
    assert request.path == f"/networks/polygon_pos/tokens/{PEPE}"


@pytest.mark.parametrize(("hours", "told"), [(24, True), (6, True), (23, True), (5, False), (1, False)])
def test_geckoterminal_counts_trades_only_in_stretches_that_lie_within_the_hours(hours: int, told: bool) -> None:
    # Two trades in six hours, none in one.
    page = decode(GeckoTerminal(), pumped(hours), {"data": [gecko_pool(COIN)]})
    assert [token.address for token in page.tokens] == ([COIN] if told else [])


def test_geckoterminal_believes_of_pumpswap_only_what_looks_like_pump_fun() -> None:
    page = decode(GeckoTerminal(), pumped(), {"data": [gecko_pool(MINT)]})
    # On pump.fun's own exchange there is nothing else; its older coins end as they like.
    assert [token.address for token in page.tokens] == [MINT]
    assert page.next == pumped(step=2)
    assert "/dexes/pumpswap/" in GeckoTerminal().request(page.next, None).path
    graduated = decode(GeckoTerminal(), page.next, {"data": [gecko_pool(MINT), gecko_pool(COIN)]})
    assert [token.address for token in graduated.tokens] == [COIN]
    assert graduated.next is None


def test_dexscreener_sums_a_tokens_pairs_and_prices_it_where_most_lies() -> None:
    (token,) = decode(DexScreener(), of(PEPE.lower(), ETH), DEX_PAIRS).tokens
    assert token == Token(
        address=PEPE,
        network_id=1,
        symbol="PEPE",
        name="Pepe",
        decimals=None,
        price=0.000012,
        change_24h=0.125,
        volume_24h=2001.0,
        liquidity=1400.25,
        market_cap=4_000_000.0,
        trades_24h=300,
        image_url="https://cdn.example/pepe.png",
        created_ns=1_700_000_000 * NS,
        top_pool="0x" + "33" * 20,
        source="dexscreener",
    )


def test_dexscreener_takes_only_pairs_of_the_network_that_was_asked_for() -> None:
    elsewhere = dex_pair(chain="base", priceUsd="9", liquidity={"usd": 10**9})
    page = decode(DexScreener(), of(PEPE, ETH), [elsewhere, *DEX_PAIRS])
    assert [(token.price, token.liquidity) for token in page.tokens] == [(0.000012, 1400.25)]
    assert page.skipped == 1
    with pytest.raises(Unreadable):
        decode(DexScreener(), of(PEPE, ETH), [elsewhere])


def test_dexscreener_ranks_what_is_boosted_by_what_was_traded() -> None:
    page = decode(DexScreener(), trending(), DEX_BOOSTS)
    assert (list(page.tokens), page.skipped) == ([], 1)
    assert page.next == trending(step=2, addresses=(MINT, MINT_2))
    assert DexScreener().request(page.next, None).path == f"/tokens/v1/solana/{MINT},{MINT_2}"
    pairs = [dex_pair(MINT, POOL, "solana", volume={"h24": 5}), dex_pair(MINT_2, POOL_2, "solana", volume={"h24": 50})]
    assert [token.address for token in decode(DexScreener(), page.next, pairs).tokens] == [MINT_2, MINT]
    with pytest.raises(Unavailable):
        decode(DexScreener(), trending(NETWORKS[10]), DEX_BOOSTS)


def test_codex_tells_the_change_as_a_share() -> None:
    (token,) = decode(Codex(), trending(ETH), CODEX).tokens
    assert token == Token(
        address=PEPE,
        network_id=1,
        symbol="PEPE",
        name="Pepe",
        decimals=18,
        price=0.00001234,
        change_24h=-0.1176,
        volume_24h=41413570.0,
        liquidity=5120033.0,
        market_cap=214518552.0,
        trades_24h=55287,
        image_url="https://c.example/p.png",
        created_ns=1_714_564_800 * NS,
        top_pool=PEPE_POOL,
        source="codex",
    )


def test_codex_says_errors_with_a_good_status_and_they_are_not_told_on() -> None:
    said = {"errors": [{"message": "bad key k-secret-1"}], "data": None}
    with pytest.raises(Unavailable) as refused:
        decode(Codex(), trending(ETH), said)
    assert "secret" not in refused.value.text


def test_birdeye_tells_its_list_and_a_token_under_other_names() -> None:
    (listed,) = decode(Birdeye(), trending(), BIRDEYE_TRENDING).tokens
    expected = Token(
        address=MINT,
        network_id=SOLANA,
        symbol="ATO",
        name="AVOCATO",
        decimals=6,
        price=0.0001055,
        change_24h=2.1,
        volume_24h=1202872.25,
        liquidity=34641.5,
        market_cap=28232129.0,
        image_url="https://ipfs.example/a",
        source="birdeye",
    )
    assert listed == expected
    (token,) = decode(Birdeye(), of(MINT), BIRDEYE_TOKEN).tokens
    assert token == msgspec.structs.replace(
        expected, change_24h=-0.05, volume_24h=10.5, market_cap=99.5, trades_24h=40120, image_url=None
    )


def test_pumpfun_tells_what_was_traded_lately_and_is_fit_to_be_seen() -> None:
    page = decode(PumpFun(), pumped(2), PUMP)
    assert page.tokens == [
        Token(
            address=COIN,
            network_id=SOLANA,
            symbol="FART",
            name="Fartcoin",
            decimals=6,
            price=6_085.5e-9,
            market_cap=6_085.5,
            image_url="https://ipfs.io/ipfs/Q",
            created_ns=1_729_000_000_123_000_000,
            top_pool=POOL,
            source="pumpfun",
        )
    ]
    assert (page.skipped, page.next) == (1, None)
    assert [token.address for token in decode(PumpFun(), pumped(3), PUMP).tokens] == [COIN, POOL]
    following = decode(PumpFun(), pumped(), [pump_coin()] * 50).next
    assert dict(PumpFun().request(following, None).query)["offset"] == "50"
    assert "Mozilla" in PumpFun().request(following, None).headers["user-agent"]


@pytest.mark.parametrize("name", TOKEN_SOURCES)
def test_the_key_goes_into_a_header_and_nowhere_else(name: str) -> None:
    source = TOKEN_SOURCES[name]()
    assert source.name == name
    for wanted in source.answers:
        ask = TokenAsk(wanted=wanted, network=SOL, address=MINT, limit=20)
        request = source.request(ask, "k-secret")
        header = {"codex": "authorization", "birdeye": "x-api-key"}.get(name)
        assert source.needs_key is (header is not None)
        assert {key for key, value in request.headers.items() if "k-secret" in value} == ({header} if header else set())
        assert "k-secret" not in f"{request.path}{request.query}{request.body!r}"


UNKNOWN: list[tuple[TokenSource, int, Any]] = [
    (GeckoTerminal(), 404, {"errors": [{"status": "404"}]}),
    (GeckoTerminal(), 200, {"data": None}),
    (DexScreener(), 200, []),
    (DexScreener(), 200, [dex_pair(MINT_2, POOL, "solana")]),
    (Codex(), 200, {"data": {"filterTokens": {"results": []}}}),
    (Birdeye(), 200, {"success": True, "data": None}),
    (Birdeye(), 200, {"success": True, "data": {}}),
]


@pytest.mark.parametrize(("source", "status", "said"), UNKNOWN)
def test_a_token_that_is_unknown_is_said_to_be(source: TokenSource, status: int, said: Any) -> None:
    with pytest.raises(Unknown):
        decode(source, of(MINT), said, status)


OTHERS: list[tuple[TokenSource, TokenAsk, Any]] = [
    (GeckoTerminal(), of("0x" + "55" * 20, POLYGON), GECKO_TOKEN),
    (Codex(), of("0x" + "55" * 20, ETH), CODEX),
    (Codex(), trending(NETWORKS[10]), CODEX),
    (Birdeye(), of(MINT_2), BIRDEYE_TOKEN),
]


@pytest.mark.parametrize(("source", "ask", "said"), OTHERS)
def test_another_token_or_network_than_was_asked_for_is_not_taken(
    source: TokenSource, ask: TokenAsk, said: Any
) -> None:
    with pytest.raises(Unreadable):
        decode(source, ask, said)


@pytest.mark.parametrize(
    ("status", "headers", "retry_s"),
    [
        (429, {}, 30.0),
        (429, {"retry-after": "7"}, 7.0),
        (429, {"retry-after": "999999"}, 3_600.0),
        (429, {"retry-after": "0"}, 1.0),
        (429, {"retry-after": "nan"}, 30.0),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        (403, {}, 120.0),
        (530, {}, 120.0),
        (401, {}, 300.0),
        (503, {"retry-after": "5"}, 5.0),
    ],
)
@pytest.mark.parametrize(("source", "ask", "said"), TOLD)
def test_pleas_and_bans_say_for_how_long(
    source: TokenSource, ask: TokenAsk, said: Any, status: int, headers: dict[str, str], retry_s: float
) -> None:
    with pytest.raises(RateLimited) as refused:
        decode(source, ask, said, status, headers)
    assert refused.value.retry_s == retry_s


HTML = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"
NOTHING: list[bytes] = [b"", b"null", b"[]", b"{}", b"7", HTML, b"\xff\xfe", b"[" * 100_000, b'{"data":' * 50_000]


@pytest.mark.parametrize(
    "body", [*NOTHING, b"[1,2]", b" " * (reading.ANSWER_BYTES_MAX + 1)], ids=range(len(NOTHING) + 2)
)
@pytest.mark.parametrize(("source", "ask", "said"), TOLD)
def test_what_is_no_answer_is_unreadable(source: TokenSource, ask: TokenAsk, said: Any, body: bytes) -> None:
    with pytest.raises((Unreadable, Unavailable, Unknown)) as refused:
        decode(source, ask, body)
    # Empty lists and answers without data are words of some; a page of Cloudflare's is nobody's.
    if body not in {b"[]", b"{}", b"null"}:
        assert refused.type is Unreadable


@pytest.mark.parametrize(("source", "ask", "said"), TOLD)
def test_an_answer_that_is_too_long_is_not_read(source: TokenSource, ask: TokenAsk, said: Any) -> None:
    body = json.dumps(said).encode()
    source.decode(ask, 200, {}, body.ljust(reading.ANSWER_BYTES_MAX))
    with pytest.raises(Unreadable, match="more than"):
        source.decode(ask, 200, {}, body.ljust(reading.ANSWER_BYTES_MAX + 1))


def test_a_row_that_cannot_be_read_is_skipped_and_counted() -> None:
    spoilt = {"data": [gecko_pool("../../x"), 7, gecko_pool(MINT), {}], "included": "none"}
    page = decode(GeckoTerminal(), trending(), spoilt)
    assert [token.address for token in page.tokens] == [MINT]
    assert page.skipped == 3
    with pytest.raises(Unreadable):
        decode(GeckoTerminal(), trending(), {"data": [gecko_pool("../../x"), 7]})


def test_names_are_shown_without_what_cannot_be_seen() -> None:
    assert reading.symbol("\u202e EVIL\x00\u200b\ud800 ") == "EVIL"
    assert reading.symbol("A" * 300) == "A" * 50
    assert reading.symbol(" \u200b") is None
    assert reading.url("javascript:alert(1)") is None
    assert reading.url('https://x.example/"><script>') is None


def test_a_percentage_becomes_a_share_without_noise() -> None:
    assert reading.share("1.819", 100.0) == 0.01819
    assert reading.share(-100, 100.0) == -1.0
    assert reading.share("-100.01", 100.0) is None


def test_numbers_are_read_up_to_a_length() -> None:
    # Longer ones would cost more to refuse than they are worth.
    assert reading.number("1".rjust(reading.NUMBER_CHARS_MAX, "0")) == 1.0
    assert reading.number("1".rjust(reading.NUMBER_CHARS_MAX + 1, "0")) is None


WRONG: list[Any] = [
    None, True, False, -1, 0, 1e308, -1e308, 10**25, 2**63, 10**400, "", "NaN", "Infinity", "-1", "1e999", "9" * 200, "0x1",
    "1_000", "\u0661", [], {}, [[]], {"h24": "NaN"}, {"data": {}}, "\ud800", "a" * 5_000, "../../x", [None] * 3, {"h24": {"buys": -1}},
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, inner in rows for place in [(value, name), *places(inner)]]


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[TokenSource, TokenAsk, bytes]:
    """A good answer in which up to four values are others, or are gone; sometimes cut short."""
    source, ask, good = draw(st.sampled_from(TOLD))
    said = {"": copy.deepcopy(good)}
    for _ in range(draw(st.integers(1, 4))):
        holder, name = draw(st.sampled_from(places(said)))
        if draw(st.booleans()) and isinstance(holder, dict) and holder is not said:
            del holder[name]
        else:
            holder[name] = draw(
                st.sampled_from(WRONG).map(copy.deepcopy) | st.text(max_size=20) | st.floats() | st.integers()
            )
    body = json.dumps(said[""]).encode()
    return source, ask, body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else body


@settings(max_examples=1_500, deadline=None)
@given(spoilt())
def test_whatever_is_said_only_named_errors_are_raised_and_only_good_tokens_told(
    case: tuple[TokenSource, TokenAsk, bytes],
) -> None:
    source, ask, body = case
    try:
        page = source.decode(ask, 200, {}, body)
    except (Unreadable, Unavailable, Unknown):
        return
    for token in page.tokens:
        hold(token, ask)
    for address in () if page.next is None else page.next.addresses:
        assert reading.is_address(ask.network, address)


def hold(token: Token, ask: TokenAsk) -> None:
    pattern = r"0x[0-9a-fA-F]{40}" if ask.network.evm else r"[1-9A-HJ-NP-Za-km-z]{32,44}"
    assert re.fullmatch(pattern, token.address)
    assert token.network_id == ask.network.id
    numbers = (token.price, token.change_24h, token.volume_24h, token.liquidity, token.market_cap)
    assert all(each is None or (type(each) is float and math.isfinite(each) and abs(each) <= 1e18) for each in numbers)
    assert token.price is None or token.price > 0
    assert token.change_24h is None or token.change_24h >= -1
    assert all(each is None or each >= 0 for each in numbers[2:])
    assert token.trades_24h is None or 0 <= token.trades_24h <= 2**53
    assert token.decimals is None or 0 <= token.decimals <= 255
    assert token.created_ns is None or 0 < token.created_ns < 2**63
    for text in (token.symbol, token.name, token.image_url):
        assert text is None or (text and len(text) <= 2_048 and not re.search(r"[\x00-\x1f\ud800-\udfff]", text))
    assert token.image_url is None or token.image_url.startswith(("https://", "http://"))
    json.dumps(msgspec.to_builtins(token), allow_nan=False).encode()


def test_the_document_lists_the_sources_in_the_order_they_are_asked() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\d+) \| (.+?) \|$", text, re.MULTILINE)
    names = {Wanted.TRENDING: "trending", Wanted.TOKEN: "token", Wanted.PUMPFUN: "pump.fun"}
    assert [(name, key != "none", int(per_min), told.split(", ")) for name, key, per_min, told in rows] == [
        (s.name, s.needs_key, s.per_min, [names[w] for w in Wanted if w in s.answers])
        for s in (make() for make in TOKEN_SOURCES.values())
    ]
    assert all(str(network.id) in text and network.name in text for network in NETWORKS.values())
