"""Birdeye: tokens of a chain, with a key.

https://docs.birdeye.so/reference

    GET /defi/token_trending?sort_by=rank&sort_type=asc&offset=0&limit=20     X-API-KEY: <key>     x-chain: solana
    {"success": true, "data": {"total": 1000, "tokens": [
        {"address": "<token>", "decimals": 6, "symbol": "ATO", "name": "AVOCATO", "logoURI": "https://…", "rank": 1,
         "price": 0.0001055, "price24hChangePercent": 210, "volume24hUSD": 1202872.3, "liquidity": 34641.8,
         "fdv": 17028232129, "marketcap": 28232129}]}}

    GET /defi/token_overview?address=<token>
    {"success": true, "data": {"address": "<token>", "decimals": 6, "symbol": "ATO", "name": "AVOCATO", "logoURI": "https://…",
                               "price": 0.0001055, "priceChange24hPercent": 210, "v24hUSD": 1202872.3, "trade24h": 40120,
                               "liquidity": 34641.8, "fdv": 17028232129, "marketCap": 28232129}}

Of a token that it does not know it tells `{}` or null.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from openoutcry.errors import Unavailable, Unknown, Unreadable
from openoutcry.sources import reading
from openoutcry.sources.source import Request, Token, TokenAsk, TokenPage, Wanted

PAGE = 20
PAGES_MAX = 10


class Birdeye:
    """https://public-api.birdeye.so."""

    name = "birdeye"
    url = "https://public-api.birdeye.so"
    needs_key = True
    answers = frozenset({Wanted.TRENDING, Wanted.TOKEN})
    per_min = 60  # one a second is what the free plan gives

    def request(self, ask: TokenAsk, key: str | None) -> Request:
        """What to send."""
        headers = {"accept": "application/json", "x-api-key": key or "", "x-chain": ask.network.name}
        if ask.wanted is Wanted.TOKEN:
            return Request(path="/defi/token_overview", query=(("address", ask.address),), headers=headers)
        query = (
            ("sort_by", "rank"),
            ("sort_type", "asc"),
            ("offset", str((ask.step - 1) * PAGE)),
            ("limit", str(PAGE)),
        )
        return Request(path="/defi/token_trending", query=query, headers=headers)

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unknown, Unreadable."""
        reading.check(self.name, ask.wanted, status, headers)
        answer = reading.decode(body, _Answer)
        if answer.success is not True:
            raise Unavailable(self.name, "birdeye refuses the question")
        if ask.wanted is Wanted.TOKEN:
            return TokenPage([_one(ask, answer.data, body)])
        try:
            rows = msgspec.convert(answer.data, _Trending).tokens
        except msgspec.ValidationError as e:
            raise Unreadable("no list of tokens", body) from e

        def read(row: Any) -> Token:
            return _token(ask, msgspec.convert(row, _Row))

        more = len(rows) >= PAGE and ask.step < PAGES_MAX
        return reading.page(ask, rows, read, msgspec.structs.replace(ask, step=ask.step + 1) if more else None, body)


class _Answer(msgspec.Struct, frozen=True):
    success: Any = None
    data: Any = None


class _Trending(msgspec.Struct, frozen=True):
    tokens: list[Any]


class _Row(msgspec.Struct, frozen=True):
    """Of either answer; they name things differently."""

    address: str
    symbol: Any = None
    name: Any = None
    decimals: Any = None
    image: Any = msgspec.field(default=None, name="logoURI")
    price: Any = None
    listed_change: Any = msgspec.field(default=None, name="price24hChangePercent")
    change: Any = msgspec.field(default=None, name="priceChange24hPercent")
    listed_volume: Any = msgspec.field(default=None, name="volume24hUSD")
    volume: Any = msgspec.field(default=None, name="v24hUSD")
    trades: Any = msgspec.field(default=None, name="trade24h")
    liquidity: Any = None
    listed_cap: Any = msgspec.field(default=None, name="marketcap")
    market_cap: Any = msgspec.field(default=None, name="marketCap")
    fdv: Any = None


def _one(ask: TokenAsk, data: Any, body: bytes) -> Token:
    if not data:
        raise Unknown("birdeye knows no such token")
    try:
        token = _token(ask, msgspec.convert(data, _Row))
    except ValueError as e:
        raise Unreadable("no token that can be read", body) from e
    if reading.address_key(token.address) != reading.address_key(ask.address):
        raise Unreadable("another token than was asked for", body)
    return token


def _token(ask: TokenAsk, row: _Row) -> Token:
    """Raises ValueError."""
    caps = (reading.amount(told) for told in (row.market_cap, row.listed_cap, row.fdv))
    return Token(
        address=reading.address(ask.network, row.address),
        network_id=ask.network.id,
        symbol=reading.symbol(row.symbol),
        name=reading.name(row.name),
        decimals=reading.decimals(row.decimals),
        price=reading.price(row.price),
        change_24h=reading.share(row.listed_change if row.change is None else row.change, 100.0),
        volume_24h=reading.amount(row.listed_volume if row.volume is None else row.volume),
        liquidity=reading.amount(row.liquidity),
        market_cap=next((cap for cap in caps if cap is not None), None),
        trades_24h=reading.count(row.trades),
        image_url=reading.url(row.image),
        source=Birdeye.name,
    )
