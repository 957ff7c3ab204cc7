"""GeckoTerminal: pools of all chains and what is in them, without a key.

https://apiguide.geckoterminal.com

    GET /networks/solana/trending_pools?include=base_token&duration=24h&page=1        20 pools a page
    {"data": [{"id": "solana_<pool>", "type": "pool",
               "attributes": {"address": "<pool>", "name": "WIF / SOL", "base_token_price_usd": "0.216341",
                              "pool_created_at": "2024-05-01T12:00:00Z", "fdv_usd": "214518552", "market_cap_usd": null,
                              "reserve_in_usd": "5120033.1", "volume_usd": {"h24": "41413570.13"},
                              "price_change_percentage": {"h24": "-11.76"},
                              "transactions": {"h24": {"buys": 33874, "sells": 21413, "buyers": 6790, "sellers": 5363}}},
               "relationships": {"base_token": {"data": {"id": "solana_<token>", "type": "token"}}}}],
     "included": [{"id": "solana_<token>", "type": "token",
                   "attributes": {"address": "<token>", "name": "dogwifhat", "symbol": "WIF", "decimals": 6, "image_url": "https://…"}}]}

    GET /networks/eth/tokens/<token>?include=top_pools
    {"data": {"id": "eth_<token>", "type": "token",
              "attributes": {"address": "<token>", "name": "…", "symbol": "…", "decimals": 18, "image_url": "missing.png",
                             "price_usd": "1.5", "fdv_usd": "…", "market_cap_usd": "…", "total_reserve_in_usd": "…",
                             "volume_usd": {"h24": "…"}},
              "relationships": {"top_pools": {"data": [{"id": "eth_<pool>", "type": "pool"}]}}},
     "included": [<pools, as above>]}

    GET /networks/solana/dexes/pump-fun/pools?include=base_token&sort=h24_volume_usd_desc&page=1

A list is one of pools: the first pool of a token stands for it. Pools do not tell when they were last traded, but how often
in the last hours. On `pumpswap`, where coins of pump.fun go on when they have graduated, anybody may open a pool; those whose
address does not end as pump.fun lets its coins' addresses end are left out.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from openoutcry.errors import Unknown, Unreadable
from openoutcry.events import NS
from openoutcry.sources import reading
from openoutcry.sources.source import Network, Request, Token, TokenAsk, TokenPage, Wanted

PAGE = 20
PAGES_MAX = 10
HOUR_S = 3_600
# Where coins of pump.fun are traded, by step.
PUMP_DEXES = ("pump-fun", "pumpswap")
PUMP_ENDS = "pump"
HEADERS = {"accept": "application/json;version=20230302"}


class GeckoTerminal:
    """https://api.geckoterminal.com/api/v2."""

    name = "geckoterminal"
    url = "https://api.geckoterminal.com/api/v2"
    needs_key = False
    answers = frozenset({Wanted.TRENDING, Wanted.TOKEN, Wanted.PUMPFUN})
    per_min = 30

    def request(self, ask: TokenAsk, key: str | None) -> Request:  # noqa: ARG002 - it takes none
        """What to send."""
        below = f"/networks/{ask.network.gecko}"
        if ask.wanted is Wanted.TOKEN:
            return Request(path=f"{below}/tokens/{ask.address}", query=(("include", "top_pools"),), headers=HEADERS)
        if ask.wanted is Wanted.TRENDING:
            query = (("include", "base_token"), ("duration", "24h"), ("page", str(ask.step)))
            return Request(path=f"{below}/trending_pools", query=query, headers=HEADERS)
        query = (("include", "base_token"), ("sort", "h24_volume_usd_desc"), ("page", "1"))
        return Request(path=f"{below}/dexes/{PUMP_DEXES[ask.step - 1]}/pools", query=query, headers=HEADERS)

    def decode(self, ask: TokenAsk, status: int, headers: Mapping[str, str], body: bytes) -> TokenPage:
        """What was answered. Raises RateLimited, Unavailable, Unknown, Unreadable."""
        reading.check(self.name, ask.wanted, status, headers)
        if ask.wanted is Wanted.TOKEN:
            return TokenPage([_token(ask, body)])
        answer = reading.decode(body, _Pools)
        known = _by_id(answer.included)

        def read(row: Any) -> Token | None:
            pool = msgspec.convert(row, _Pool)
            if ask.wanted is Wanted.PUMPFUN and not _pumped(ask, pool):
                return None
            return _of_pool(ask.network, pool, known)

        return reading.page(ask, answer.data, read, _following(ask, len(answer.data)), body)


class _Attributes(msgspec.Struct, frozen=True):
    """Of a pool or a token; either lacks what the other has."""

    address: Any = None
    name: Any = None
    symbol: Any = None
    decimals: Any = None
    image_url: Any = None
    price_usd: Any = None
    base_token_price_usd: Any = None
    pool_created_at: Any = None
    fdv_usd: Any = None
    market_cap_usd: Any = None
    reserve_in_usd: Any = None
    total_reserve_in_usd: Any = None
    volume_usd: Any = None
    price_change_percentage: Any = None
    transactions: Any = None


class _Id(msgspec.Struct, frozen=True):
    id: str


class _One(msgspec.Struct, frozen=True):
    data: _Id


class _Many(msgspec.Struct, frozen=True):
    data: list[_Id]


class _Base(msgspec.Struct, frozen=True):
    base_token: _One


class _Top(msgspec.Struct, frozen=True):
    top_pools: _Many | None = None


class _Pool(msgspec.Struct, frozen=True):
    attributes: _Attributes
    relationships: _Base


class _Pools(msgspec.Struct, frozen=True):
    data: list[Any]
    included: Any = None


class _Item(msgspec.Struct, frozen=True):
    id: str
    attributes: _Attributes
    relationships: Any = None


class _Told(msgspec.Struct, frozen=True):
    attributes: _Attributes
    relationships: _Top | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: _Told | None
    included: Any = None


def _token(ask: TokenAsk, body: bytes) -> Token:
    answer = reading.decode(body, _Answer)
    if answer.data is None:
        raise Unknown("geckoterminal knows no such token")
    told, pool = answer.data.attributes, _top_pool(answer)
    try:
        address = reading.address(ask.network, told.address)
    except ValueError as e:
        raise Unreadable(str(e), body) from e
    if reading.address_key(address) != reading.address_key(ask.address):
        raise Unreadable("another token than was asked for", body)
    return Token(
        address=address,
        network_id=ask.network.id,
        symbol=reading.symbol(told.symbol),
        name=reading.name(told.name),
        decimals=reading.decimals(told.decimals),
        price=reading.price(told.price_usd),
        change_24h=None if pool is None else _change(pool),
        volume_24h=reading.amount(_of(told.volume_usd, "h24")),
        liquidity=reading.amount(told.total_reserve_in_usd),
        market_cap=_cap(told),
        trades_24h=None if pool is None else _trades(pool, "h24"),
        image_url=reading.url(told.image_url),
        created_ns=None if pool is None else reading.moment(pool.pool_created_at),
        top_pool=None if pool is None else reading.pool(ask.network, pool.address),
        source=GeckoTerminal.name,
    )


def _top_pool(answer: _Answer) -> _Attributes | None:
    """The first of the token's pools, where it is its base: the change of a pool is that of its base."""
    assert answer.data is not None
    about = answer.data.relationships
    told = answer.data.attributes
    if about is None or about.top_pools is None:
        return None
    known = _by_id(answer.included)
    for each in about.top_pools.data[: reading.ROWS_MAX]:
        pool = known.get(each.id)
        if pool is None:
            continue
        try:
            base = msgspec.convert(pool.relationships, _Base).base_token.data.id
        except msgspec.ValidationError:
            continue
        if reading.address_key(base.rpartition("_")[2]) == reading.address_key(str(told.address)):
            return pool.attributes
    return None


def _of_pool(network: Network, pool: _Pool, known: Mapping[str, _Item]) -> Token:
    """Raises ValueError."""
    about, id_ = pool.attributes, pool.relationships.base_token.data.id
    item = known.get(id_)
    told = item.attributes if item is not None else _Attributes()
    return Token(
        # An id is `network_address`, and names of networks may hold an underscore.
        address=reading.address(network, id_.rpartition("_")[2]),
        network_id=network.id,
        symbol=reading.symbol(told.symbol),
        name=reading.name(told.name),
        decimals=reading.decimals(told.decimals),
        price=reading.price(about.base_token_price_usd),
        change_24h=_change(about),
        volume_24h=reading.amount(_of(about.volume_usd, "h24")),
        liquidity=reading.amount(about.reserve_in_usd),
        market_cap=_cap(about),
        trades_24h=_trades(about, "h24"),
        image_url=reading.url(told.image_url),
        created_ns=reading.moment(about.pool_created_at),
        top_pool=reading.pool(network, about.address),
        source=GeckoTerminal.name,
    )


def _following(ask: TokenAsk, rows: int) -> TokenAsk | None:
    if ask.wanted is Wanted.PUMPFUN:
        return msgspec.structs.replace(ask, step=ask.step + 1) if ask.step < len(PUMP_DEXES) else None
    more = rows >= PAGE and ask.step < PAGES_MAX
    return msgspec.structs.replace(ask, step=ask.step + 1) if more else None


def _pumped(ask: TokenAsk, pool: _Pool) -> bool:
    """Whether it is a coin of pump.fun that was traded since: in the longest stretch that is told and is no longer."""
    if ask.step > 1 and not pool.relationships.base_token.data.id.endswith(PUMP_ENDS):
        return False
    hours = (ask.now_ns - ask.since_ns) // (HOUR_S * NS)
    stretch = "h24" if hours >= 24 else "h6" if hours >= 6 else "h1"
    return bool(_trades(pool.attributes, stretch))


def _by_id(included: Any) -> Mapping[str, _Item]:
    found: dict[str, _Item] = {}
    for row in included[: 2 * reading.ROWS_MAX] if isinstance(included, list) else ():
        try:
            item = msgspec.convert(row, _Item)
        except msgspec.ValidationError:
            # Then the pool tells its token without a name.
            continue
        found[item.id] = item
    return found


def _of(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None


def _change(pool: _Attributes) -> float | None:
    return reading.share(_of(pool.price_change_percentage, "h24"), 100.0)


def _trades(pool: _Attributes, stretch: str) -> int | None:
    told = _of(pool.transactions, stretch)
    return reading.count(_of(told, "buys"), _of(told, "sells"))


def _cap(told: _Attributes) -> float | None:
    found = reading.amount(told.market_cap_usd)
    return reading.amount(told.fdv_usd) if found is None else found
