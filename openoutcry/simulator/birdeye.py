"""Birdeye, played: trending tokens and one token, with a key.

https://docs.birdeye.so/reference

    GET /defi/token_trending?sort_by=rank&sort_type=asc&offset=0&limit=20      X-API-KEY: <key>      x-chain: solana
    GET /defi/token_overview?address=<token>
    {"success": true, "data": {…}}

Every key of KEY_CHARS_MIN characters or more is taken for valid.
"""

from typing import Any, ClassVar

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.tokens import Chain, SimToken, TokenMarket, chain_of
from openoutcry.simulator.world import World

KEY_CHARS_MIN = 8
PAGE_MAX = 20


class Birdeye(Personality):
    """https://public-api.birdeye.so."""

    name = "birdeye"
    pools: ClassVar = {"calls": Pool(60, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._market = TokenMarket(world)

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - all cost the same
        """A call."""
        return "calls", 1

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The two questions; the key is looked at first."""
        if len(asked.headers.get("x-api-key", "")) < KEY_CHARS_MIN:
            return _refusal(401, "Unauthorized")
        chain = chain_of(asked.headers.get("x-chain", "solana"))
        if chain is None:
            return _refusal(400, "chain is invalid")
        if asked.path == "/defi/token_overview":
            token = self._market.find(chain.id, asked.query.get("address", ""))
            return json({"success": True, "data": None if token is None else self._overview(token, now_ns)})
        if asked.path == "/defi/token_trending":
            return self._trending(chain, asked, now_ns)
        return _refusal(404, "Not Found")

    def _trending(self, chain: Chain, asked: Asked, now_ns: int) -> Answer:
        offset = whole(asked.query.get("offset"), 0, 0, 10_000)
        limit = whole(asked.query.get("limit"), PAGE_MAX, 1, PAGE_MAX)
        if offset is None or limit is None or asked.query.get("sort_by") != "rank":
            return _refusal(400, "offset, limit or sort_by is invalid")
        tokens = self._market.trending(chain.id, now_ns)
        rows = [self._listed(token, n, now_ns) for n, token in enumerate(tokens, 1)]
        data = {"updateUnixTime": now_ns // NS, "total": len(rows), "tokens": rows[offset : offset + limit]}
        return json({"success": True, "data": data})

    def _listed(self, token: SimToken, rank: int, now_ns: int) -> dict[str, Any]:
        told = self._market.told(token, now_ns)
        return _about(token) | {
            "rank": rank,
            "price": told.price,
            "price24hChangePercent": told.change * 100,
            "volume24hUSD": told.volume,
            "liquidity": told.liquidity,
            "fdv": told.cap,
            "marketcap": told.cap,
        }

    def _overview(self, token: SimToken, now_ns: int) -> dict[str, Any]:
        told = self._market.told(token, now_ns)
        return _about(token) | {
            "price": told.price,
            "priceChange24hPercent": told.change * 100,
            "v24hUSD": told.volume,
            "trade24h": told.buys + told.sells,
            "liquidity": told.liquidity,
            "fdv": told.cap,
            "marketCap": told.cap,
        }


def _about(token: SimToken) -> dict[str, Any]:
    return {
        "address": token.address,
        "decimals": token.decimals,
        "symbol": token.symbol,
        "name": token.name,
        "logoURI": token.image,
    }


def _refusal(status: int, text: str) -> Answer:
    return json({"success": False, "message": text}, status)
