"""GeckoTerminal, played: trending pools, a token, the pools of an exchange. JSON:API, numbers as strings, no key.

https://apiguide.geckoterminal.com

    GET /networks/solana/trending_pools?include=base_token&page=1
    {"data": [{"id": "solana_<pool>", "type": "pool", "attributes": {…}, "relationships": {"base_token": {"data": {…}}}}],
     "included": [{"id": "solana_<token>", "type": "token", "attributes": {…}}]}
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.tokens import SOLANA, Chain, SimToken, TokenMarket, chain_of, shares
from openoutcry.simulator.world import World

PAGE = 20
PAGES_MAX = 10
PUMP_DEXES = ("pump-fun", "pumpswap")


class GeckoTerminal(Personality):
    """https://api.geckoterminal.com/api/v2."""

    name = "geckoterminal"
    pools: ClassVar = {"calls": Pool(30, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._market = TokenMarket(world)

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - all cost the same
        """A call."""
        return "calls", 1

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The three questions."""
        page = whole(asked.query.get("page"), 1, 1, PAGES_MAX)
        if page is None:
            return _refusal(400, "Invalid page")
        match asked.path.removeprefix("/api/v2").split("/"):
            case ["", "networks", name, "trending_pools"] if chain := chain_of(name):
                tokens = self._market.trending(chain.id, now_ns)
                return self._list(chain, tokens, asked.query, page, now_ns)
            case ["", "networks", "solana", "dexes", dex, "pools"] if dex in PUMP_DEXES:
                graduated = dex == PUMP_DEXES[1]
                tokens = [
                    token
                    for token in self._market.trending(SOLANA, now_ns)
                    if token.rhythm_s and token.graduated is graduated
                ]
                chain = chain_of("solana")
                assert chain is not None
                return self._list(chain, tokens, asked.query, page, now_ns)
            case ["", "networks", name, "tokens", address] if chain := chain_of(name):
                token = self._market.find(chain.id, address)
                return _refusal(404, "Not Found") if token is None else self._one(token, asked.query, now_ns)
        return _refusal(404, "Not Found")

    def _list(
        self, chain: Chain, tokens: Sequence[SimToken], query: Mapping[str, str], page: int, now_ns: int
    ) -> Answer:
        rows = tokens[(page - 1) * PAGE : page * PAGE]
        said: dict[str, Any] = {"data": [self._pool(token, token.pools[0], now_ns) for token in rows]}
        if "base_token" in query.get("include", "").split(","):
            said["included"] = [
                {"id": f"{chain.gecko}_{token.address}", "type": "token", "attributes": _attributes(token)}
                for token in rows
            ]
        return json(said)

    def _one(self, token: SimToken, query: Mapping[str, str], now_ns: int) -> Answer:
        told, network = self._market.told(token, now_ns), token.chain.gecko
        more = {
            "total_supply": str(round(token.supply * 10**token.decimals)),
            "price_usd": _text(told.price),
            "fdv_usd": _text(told.cap),
            "market_cap_usd": None,
            "total_reserve_in_usd": _text(told.liquidity),
            "volume_usd": {"h24": _text(told.volume)},
        }
        said: dict[str, Any] = {
            "data": {
                "id": f"{network}_{token.address}",
                "type": "token",
                "attributes": _attributes(token) | more,
                "relationships": {
                    "top_pools": {"data": [{"id": f"{network}_{p}", "type": "pool"} for p in token.pools]}
                },
            }
        }
        if query.get("include") == "top_pools":
            said["included"] = [self._pool(token, pool, now_ns) for pool in token.pools]
        return json(said)

    def _pool(self, token: SimToken, pool: str, now_ns: int) -> dict[str, Any]:
        told, part, network = self._market.told(token, now_ns), dict(shares(token))[pool], token.chain.gecko
        hours = {"h1": 1, "h6": 6, "h24": 24}
        traded_ns = self._market.traded_ns(token, now_ns) if token.rhythm_s else now_ns
        # A coin that is hardly traded was not in each stretch, but in that of its last trade.
        trades = {
            name: {
                "buys": max(round(told.buys * part * count / 24), 1) if now_ns - traded_ns < count * 3_600 * NS else 0,
                "sells": round(told.sells * part * count / 24) if now_ns - traded_ns < count * 3_600 * NS else 0,
            }
            for name, count in hours.items()
        }
        return {
            "id": f"{network}_{pool}",
            "type": "pool",
            "attributes": {
                "address": pool,
                "name": f"{token.symbol} / USDC",
                "base_token_price_usd": _text(told.price),
                "pool_created_at": _iso(token.created_ns),
                "fdv_usd": _text(told.cap),
                "market_cap_usd": None,
                "reserve_in_usd": _text(told.liquidity * part),
                "volume_usd": {name: _text(told.volume * part * count / 24) for name, count in hours.items()},
                "price_change_percentage": {"h24": f"{told.change * 100:.3f}"},
                "transactions": trades,
            },
            "relationships": {"base_token": {"data": {"id": f"{network}_{token.address}", "type": "token"}}},
        }


def _attributes(token: SimToken) -> dict[str, Any]:
    return {
        "address": token.address,
        "name": token.name,
        "symbol": token.symbol,
        "decimals": token.decimals,
        "image_url": token.image,
        "coingecko_coin_id": None,
    }


def _text(number: float) -> str:
    return f"{number:.18f}"


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns // NS, UTC).isoformat().replace("+00:00", "Z")


def _refusal(status: int, text: str) -> Answer:
    return json({"errors": [{"status": str(status), "title": text}]}, status)
