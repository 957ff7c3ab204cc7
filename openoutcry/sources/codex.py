"""Codex: tokens of all chains by GraphQL, with a key.

https://docs.codex.io/api-reference/queries/filtertokens

    POST /graphql     Authorization: <key>
    {"query": "query($tokens: [String], …) {filterTokens(…) {results {priceUSD …}}}", "variables": {"tokens": ["<address>:1"]}}

    {"data": {"filterTokens": {"results": [
        {"priceUSD": "0.2163", "change24": "-0.1176", "volume24": "41413570", "liquidity": "5120033", "marketCap": "214518552",
         "txnCount24": 55287, "createdAt": 1714564800, "pair": {"address": "<pool>"},
         "token": {"address": "<token>", "networkId": 1, "name": "dogwifhat", "symbol": "WIF", "decimals": 6,
                   "info": {"imageThumbUrl": "https://…"}}}]}}}
    {"errors": [{"message": "…"}], "data": null}

`change24` is a share, all others tell a percentage. `createdAt` is that of the top pair; that of the token says when Codex
first saw it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from openoutcry.errors import Unavailable, Unknown
from openoutcry.sources import reading
from openoutcry.sources.source import Request, Token, TokenAsk, TokenPage, Wanted

ROWS_AT_ONCE_MAX = 200
_FIELDS = (
    "priceUSD change24 volume24 liquidity marketCap txnCount24 createdAt pair {address} "
    "token {address networkId name symbol decimals info {imageThumbUrl}}"
)
# Without what is taken for a fraud, stablecoins and the chain's own coin.
_TRENDING = (
    "query Trending($network: [Int], $limit: Int) {filterTokens("
    "filters: {network: $network, potentialScam: false, trendingIgnored: false} "
    "rankings: [{attribute: trendingScore24, direction: DESC}] limit: $limit"
    ") {results {" + _FIELDS + "}}}"
)
_TOKEN = (
    "query Token($tokens: [String]) {filterTokens(tokens: $tokens filters: {includeScams: true} limit: 1"
    ") {results {" + _FIELDS + "}}}"
)


class Codex:
    """https://graph.codex.io."""

    name = "codex"
    url = "https://graph.codex.io"
    needs_key = True
    answers = frozenset({Wanted.TRENDING, Wanted.TOKEN})
    per_min = 300

    def request(self, ask: TokenAsk, key: str | None) -> Request:
        """What to send."""
        said: dict[str, Any] = (
            {"query": _TOKEN, "variables": {"tokens": [f"{ask.address}:{ask.network.id}"]}}
            if ask.wanted is Wanted.TOKEN
            else {
                "query": _TRENDING,
                "variables": {"network": [ask.network.id], "limit": min(ask.limit, ROWS_AT_ONCE_MAX)},
            }
        )
        headers = {"accept": "application/json", "content-type": "application/json", "authorization": key or ""}
        return Request(path="/graphql", method="POST", headers=headers, body=msgspec.json.encode(said))

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unknown, Unreadable."""
        # An unknown token is an empty list; 404 would be of the address.
        reading.check(self.name, Wanted.TRENDING, status, headers)
        answer = reading.decode(body, _Answer)
        if answer.data is None or answer.data.filter_tokens is None:
            # The text of an error may quote the question or the key.
            raise Unavailable(self.name, "codex refuses the question" if answer.errors else "codex answers nothing")
        rows = answer.data.filter_tokens.results
        if ask.wanted is Wanted.TOKEN and not rows:
            raise Unknown("codex knows no such token")

        def read(row: Any) -> Token:
            return _token(ask, msgspec.convert(row, _Row))

        return reading.page(ask, rows, read, None, body)


class _Info(msgspec.Struct, frozen=True):
    image: Any = msgspec.field(default=None, name="imageThumbUrl")


class _Token(msgspec.Struct, frozen=True):
    address: str
    network_id: int = msgspec.field(name="networkId")
    name: Any = None
    symbol: Any = None
    decimals: Any = None
    info: _Info | None = None


class _Pair(msgspec.Struct, frozen=True):
    address: Any = None


class _Row(msgspec.Struct, frozen=True):
    token: _Token
    price: Any = msgspec.field(default=None, name="priceUSD")
    change: Any = msgspec.field(default=None, name="change24")
    volume: Any = msgspec.field(default=None, name="volume24")
    liquidity: Any = None
    market_cap: Any = msgspec.field(default=None, name="marketCap")
    trades: Any = msgspec.field(default=None, name="txnCount24")
    created_s: Any = msgspec.field(default=None, name="createdAt")
    pair: _Pair | None = None


class _Results(msgspec.Struct, frozen=True):
    results: list[Any]


class _Data(msgspec.Struct, frozen=True):
    filter_tokens: _Results | None = msgspec.field(default=None, name="filterTokens")


class _Answer(msgspec.Struct, frozen=True):
    data: _Data | None = None
    errors: Any = None


def _token(ask: TokenAsk, row: _Row) -> Token:
    """Raises ValueError."""
    told = row.token
    address = reading.address(ask.network, told.address)
    if told.network_id != ask.network.id:
        raise ValueError("another network than was asked for")
    if ask.wanted is Wanted.TOKEN and reading.address_key(address) != reading.address_key(ask.address):
        raise ValueError("another token than was asked for")
    return Token(
        address=address,
        network_id=ask.network.id,
        symbol=reading.symbol(told.symbol),
        name=reading.name(told.name),
        decimals=reading.decimals(told.decimals),
        price=reading.price(row.price),
        change_24h=reading.share(row.change),
        volume_24h=reading.amount(row.volume),
        liquidity=reading.amount(row.liquidity),
        market_cap=reading.amount(row.market_cap),
        trades_24h=reading.count(row.trades),
        image_url=None if told.info is None else reading.url(told.info.image),
        created_ns=reading.seconds(row.created_s),
        top_pool=None if row.pair is None else reading.pool(ask.network, row.pair.address),
        source=Codex.name,
    )
