"""DexScreener: pairs of a token, without a key.

https://docs.dexscreener.com/api/reference

    GET /token-pairs/v1/solana/<token>
    [{"chainId": "solana", "dexId": "raydium", "pairAddress": "<pool>",
      "baseToken": {"address": "<token>", "name": "dogwifhat", "symbol": "WIF"}, "quoteToken": {…}, "priceUsd": "0.2163",
      "txns": {"h24": {"buys": 33874, "sells": 21413}}, "volume": {"h24": 41413570.13}, "priceChange": {"h24": -11.76},
      "liquidity": {"usd": 5120033.1, "base": 1, "quote": 1}, "fdv": 214518552, "marketCap": 201410163,
      "pairCreatedAt": 1714564800000, "info": {"imageUrl": "https://…"}}]

    GET /token-boosts/top/v1     [{"chainId": "solana", "tokenAddress": "<token>", "totalAmount": 500, …}]
    GET /tokens/v1/solana/<token>,<token>     pairs of up to 30 tokens, as above

It has no trend of its own, and its boosts are paid for. Who asks for a trend is told the boosted tokens of that network by
what they were traded for in 24 h: the money decides who is looked at, not where he stands. It knows no decimals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openoutcry.errors import Unavailable, Unknown, Unreadable
from openoutcry.sources import reading
from openoutcry.sources.source import Network, Request, Token, TokenAsk, TokenPage, Wanted

ADDRESSES_MAX = 30
HEADERS = {"accept": "application/json"}


class DexScreener:
    """https://api.dexscreener.com."""

    name = "dexscreener"
    url = "https://api.dexscreener.com"
    needs_key = False
    answers = frozenset({Wanted.TRENDING, Wanted.TOKEN})
    # Of boosts it takes 60: a list is kept for a minute, so that fewer are asked for.
    per_min = 300

    def request(self, ask: TokenAsk, key: str | None) -> Request:  # noqa: ARG002 - it takes none
        """What to send."""
        if ask.wanted is Wanted.TOKEN:
            return Request(path=f"/token-pairs/v1/{ask.network.name}/{ask.address}", headers=HEADERS)
        if ask.step == 1:
            return Request(path="/token-boosts/top/v1", headers=HEADERS)
        return Request(path=f"/tokens/v1/{ask.network.name}/{','.join(ask.addresses)}", headers=HEADERS)

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unknown, Unreadable."""
        reading.check(self.name, ask.wanted, status, headers)
        rows = reading.decode(body, list[Any])[: reading.ROWS_MAX]
        if ask.wanted is Wanted.TRENDING and ask.step == 1:
            return _boosted(ask, rows, body)
        pairs, skipped = _pairs(ask.network, rows, body)
        tokens = _summed(ask.network, pairs)
        if ask.wanted is Wanted.TRENDING:
            if not tokens:
                raise Unreadable("no rows", body)
            return TokenPage(sorted(tokens, key=_volume, reverse=True), skipped)
        asked = reading.address_key(ask.address)
        mine = [token for token in tokens if reading.address_key(token.address) == asked]
        if not mine:
            raise Unknown("dexscreener knows no pair with that token as its base")
        return TokenPage(mine, skipped)


class _Boost(msgspec.Struct, frozen=True, rename="camel"):
    chain_id: str
    token_address: str


class _Base(msgspec.Struct, frozen=True):
    address: str
    name: Any = None
    symbol: Any = None


class _Pair(msgspec.Struct, frozen=True, rename="camel"):
    chain_id: str
    base_token: _Base
    pair_address: Any = None
    price_usd: Any = None
    txns: Any = None
    volume: Any = None
    price_change: Any = None
    liquidity: Any = None
    fdv: Any = None
    market_cap: Any = None
    pair_created_at: Any = None
    info: Any = None


def _boosted(ask: TokenAsk, rows: Sequence[Any], body: bytes) -> TokenPage:
    found: dict[str, str] = {}
    skipped = 0
    for row in rows:
        try:
            boost = msgspec.convert(row, _Boost)
            if boost.chain_id == ask.network.name:
                address = reading.address(ask.network, boost.token_address)
                found.setdefault(reading.address_key(address), address)
        except ValueError:
            skipped += 1
    if skipped == len(rows):
        raise Unreadable("no row that can be read", body)
    if not found:
        raise Unavailable(DexScreener.name, f"dexscreener names no tokens of {ask.network.name} now")
    addresses = tuple(found.values())[:ADDRESSES_MAX]
    return TokenPage((), skipped, msgspec.structs.replace(ask, step=2, addresses=addresses))


def _pairs(network: Network, rows: Sequence[Any], body: bytes) -> tuple[list[_Pair], int]:
    found: list[_Pair] = []
    for row in rows:
        try:
            pair = msgspec.convert(row, _Pair)
            reading.address(network, pair.base_token.address)
        except ValueError:
            continue
        if pair.chain_id == network.name:
            found.append(pair)
    if rows and not found:
        raise Unreadable("no row that can be read", body)
    return found, len(rows) - len(found)


def _summed(network: Network, pairs: Sequence[_Pair]) -> list[Token]:
    """A token of all pairs that have it as their base; its price is that of the one with the most in it."""
    by_token: dict[str, list[_Pair]] = {}
    for pair in pairs:
        by_token.setdefault(reading.address_key(pair.base_token.address), []).append(pair)
    return [_token(network, sorted(each, key=_depth, reverse=True)) for each in by_token.values()]


def _token(network: Network, pairs: Sequence[_Pair]) -> Token:
    top = pairs[0]
    caps = (reading.amount(told) for told in (top.market_cap, top.fdv))
    days = (_of(pair.txns, "h24") for pair in pairs)
    return Token(
        address=top.base_token.address,
        network_id=network.id,
        symbol=reading.symbol(top.base_token.symbol),
        name=reading.name(top.base_token.name),
        price=reading.price(top.price_usd),
        change_24h=reading.share(_of(top.price_change, "h24"), 100.0),
        volume_24h=_sum([reading.amount(_of(pair.volume, "h24")) for pair in pairs]),
        liquidity=_sum([reading.amount(_of(pair.liquidity, "usd")) for pair in pairs]),
        market_cap=next((cap for cap in caps if cap is not None), None),
        trades_24h=_count([reading.count(_of(day, "buys"), _of(day, "sells")) for day in days]),
        image_url=reading.url(_of(top.info, "imageUrl")),
        created_ns=min(filter(None, (reading.milliseconds(pair.pair_created_at) for pair in pairs)), default=None),
        top_pool=reading.pool(network, top.pair_address),
        source=DexScreener.name,
    )


def _sum(told: Sequence[float | None]) -> float | None:
    """Of those that were told; a pool that tells nothing adds nothing."""
    known = [each for each in told if each is not None]
    return reading.amount(sum(known)) if known else None


def _count(told: Sequence[int | None]) -> int | None:
    known = [each for each in told if each is not None]
    return reading.count(*known) if known else None


def _depth(pair: _Pair) -> float:
    return reading.amount(_of(pair.liquidity, "usd")) or 0.0


def _volume(token: Token) -> float:
    return token.volume_24h or 0.0


def _of(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None
