"""pump.fun, played: its list of coins. Whoever does not look like a browser is turned away, as Cloudflare does.

GET /coins?offset=0&limit=50&sort=market_cap&order=DESC&includeNsfw=false
[{"mint": "<token>", "name": "…", "symbol": "…", "usd_market_cap": 6085.1, "last_trade_timestamp": 1739259433000, …}]
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import MS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.listings import COINS
from openoutcry.simulator.tokens import SimToken, TokenMarket
from openoutcry.simulator.world import World

PAGE_MAX = 50
BLOCKED = b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head></html>"
_SORTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "market_cap": lambda coin: coin["usd_market_cap"],
    "last_trade_timestamp": lambda coin: coin["last_trade_timestamp"],
    "created_timestamp": lambda coin: coin["created_timestamp"],
}


class PumpFun(Personality):
    """https://frontend-api-v3.pump.fun."""

    name = "pumpfun"
    pools: ClassVar = {"calls": Pool(60, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._market = TokenMarket(world)

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - all cost the same
        """A call."""
        return "calls", 1

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The list."""
        if not asked.headers.get("user-agent", "").startswith("Mozilla/"):
            return Answer(403, BLOCKED, (), "text/html; charset=utf-8")
        offset = whole(asked.query.get("offset"), 0, 0, 10_000)
        limit = whole(asked.query.get("limit"), PAGE_MAX, 1, PAGE_MAX)
        by = _SORTS.get(asked.query.get("sort", "created_timestamp"))
        if asked.path != "/coins" or offset is None or limit is None or by is None:
            return json({"statusCode": 404, "message": "Not Found"}, 404)
        coins = [self._coin(token, now_ns) for token in self._market.pumped()]
        coins.sort(key=by, reverse=asked.query.get("order", "DESC") == "DESC")
        return json(coins[offset : offset + limit])

    def _coin(self, token: SimToken, now_ns: int) -> dict[str, Any]:
        told, traded_ns = self._market.told(token, now_ns), self._market.traded_ns(token, now_ns)
        sol = COINS["SOL"]
        return {
            "mint": token.address,
            "name": token.name,
            "symbol": token.symbol,
            "description": "",
            "image_uri": token.image,
            "twitter": None,
            "telegram": None,
            "website": None,
            "bonding_curve": token.pools[0],
            "creator": token.pools[-1],
            "created_timestamp": token.created_ns // MS,
            "complete": token.graduated,
            "virtual_sol_reserves": 30_000_000_000,
            "virtual_token_reserves": 1_073_000_000_000_000,
            "total_supply": round(token.supply * 10**token.decimals),
            "market_cap": told.cap / (sol.price * self.world.drift("SOL", now_ns, sol.wildness)),
            "usd_market_cap": told.cap,
            "reply_count": 0,
            "last_trade_timestamp": traded_ns // MS,
            "king_of_the_hill_timestamp": None,
            "nsfw": False,
        }
