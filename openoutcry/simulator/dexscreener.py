"""DexScreener, played: pairs of tokens, and what is boosted. No key.

https://docs.dexscreener.com/api/reference

    GET /token-pairs/v1/solana/<token>      GET /tokens/v1/solana/<token>,<token>      GET /token-boosts/top/v1
"""

from typing import Any, ClassVar

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import MS, Answer, Asked, Personality, json
from openoutcry.simulator.limits import Pool
from openoutcry.simulator.tokens import CHAINS, SimToken, TokenMarket, chain_of, shares
from openoutcry.simulator.world import World

ADDRESSES_MAX = 30
BOOSTED_EACH = 6


class DexScreener(Personality):
    """https://api.dexscreener.com."""

    name = "dexscreener"
    pools: ClassVar = {"pairs": Pool(300, 60.0, None), "boosts": Pool(60, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._market = TokenMarket(world)

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        """Boosts are dearer."""
        return ("boosts" if asked.path.startswith("/token-boosts") else "pairs"), 1

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The three questions."""
        match asked.path.split("/"):
            case ["", "token-boosts", "top", "v1"]:
                return json(self._boosts())
            case ["", "token-pairs", "v1", name, address]:
                addresses = [address]
            case ["", "tokens", "v1", name, addressed]:
                addresses = addressed.split(",")
            case _:
                return Answer(404, b"Not Found", (), "text/plain")
        if len(addresses) > ADDRESSES_MAX:
            return json({"error": "too many addresses"}, 400)
        chain = chain_of(name)
        tokens = [self._market.find(chain.id, each) for each in addresses] if chain else []
        return json([self._pair(a, pool, part, now_ns) for a in tokens if a for pool, part in shares(a)])

    def _boosts(self) -> list[dict[str, Any]]:
        # Whoever pays: nothing to do with what is traded.
        paid = [
            token
            for chain in CHAINS
            for token in sorted(self._market.listed(chain.id), key=lambda token: token.address)[:BOOSTED_EACH]
        ]
        return [
            {
                "url": f"https://dexscreener.com/{token.chain.name}/{token.address}",
                "chainId": token.chain.name,
                "tokenAddress": token.address,
                "amount": 10,
                "totalAmount": 500 - 10 * n,
            }
            for n, token in enumerate(paid)
        ]

    def _pair(self, token: SimToken, pool: str, part: float, now_ns: int) -> dict[str, Any]:
        told = self._market.told(token, now_ns)
        return {
            "chainId": token.chain.name,
            "dexId": "uniswap",
            "url": f"https://dexscreener.com/{token.chain.name}/{pool}",
            "pairAddress": pool,
            "baseToken": {"address": token.address, "name": token.name, "symbol": token.symbol},
            "quoteToken": {"address": token.chain.wrapped, "name": token.chain.coin, "symbol": token.chain.coin},
            "priceNative": "1",
            "priceUsd": f"{told.price:.18f}",
            "txns": {"h24": {"buys": round(told.buys * part), "sells": round(told.sells * part)}},
            "volume": {"h24": told.volume * part},
            "priceChange": {"h24": round(told.change * 100, 2)},
            "liquidity": {"usd": told.liquidity * part, "base": 0, "quote": 0},
            "fdv": told.cap,
            "marketCap": told.cap,
            "pairCreatedAt": token.created_ns // MS,
            "info": {"imageUrl": token.image, "websites": [], "socials": []},
        }
