"""CoinMarketCap, played: the two category endpoints, with prices and volumes of the world.

https://coinmarketcap.com/api/documentation/v1/#tag/cryptocurrency

    GET /v1/cryptocurrency/categories        header X-CMC_PRO_API_KEY
    {"status": {"timestamp": "...", "error_code": 0, "error_message": null, "elapsed": 1, "credit_count": 1},
     "data": [{"id": "605e2ce9d41eae1066535f7c", "name": "Layer 1", "num_tokens": 5, ...}]}
    {"status": {..., "error_code": 1002, "error_message": "API key missing."}}      with status 401

Every key of KEY_CHARS_MIN characters or more is taken for valid.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality, json, whole
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.listings import COINS
from openoutcry.simulator.noise import key
from openoutcry.simulator.tape import Listing
from openoutcry.simulator.world import World

KEY_CHARS_MIN = 8
CATEGORIES_MAX, COINS_MAX = 5_000, 1_000
DAY_NS = 86_400 * NS
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "Layer 1": ("BTC", "ETH", "SOL", "BNB", "AVAX"),
    "Memes": ("DOGE", "PURR"),
    "Smart Contracts": ("ETH", "SOL", "BNB", "AVAX"),
    "Payments": ("BTC", "XRP", "DOGE"),
    "Oracles": ("LINK",),
    "Hyperliquid Ecosystem": ("HYPE", "PURR"),
    "Restaking": ("LAYER",),
}
NAMES = {"BTC": "Bitcoin", "ETH": "Ethereum", "SOL": "Solana", "BNB": "BNB", "AVAX": "Avalanche", "DOGE": "Dogecoin",
         "PURR": "Purr", "XRP": "XRP", "LINK": "Chainlink", "HYPE": "Hyperliquid", "LAYER": "Solayer"}  # fmt: skip
SUPPLIES = {"BTC": 19_900_000, "ETH": 120_700_000, "SOL": 540_000_000, "BNB": 139_000_000, "AVAX": 422_000_000, "DOGE": 151_000_000_000,
            "PURR": 596_000_000, "XRP": 59_800_000_000, "LINK": 678_000_000, "HYPE": 333_000_000,
            "LAYER": 284_000_000}  # fmt: skip


class CoinMarketCap(Personality):
    """https://pro-api.coinmarketcap.com."""

    name = "coinmarketcap"
    pools: ClassVar = {"credits": Pool(30, 60.0, None)}

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        # A coin is told by its first instrument whose price is that of one coin.
        self._coins: dict[str, Listing] = {}
        for listing in world.listings():
            coin = listing.instrument.coin
            if coin in COINS and listing.price == COINS[coin].price:
                self._coins.setdefault(coin, listing)

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - all cost the same
        """One credit a question."""
        return "credits", 1

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - there is one
        """Too many in a minute."""
        return _refusal(
            429, 1008, "You've exceeded your API Key's HTTP request rate limit. Rate limits reset every minute.", 0
        )

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The two endpoints; the key is looked at first."""
        said = asked.headers.get("x-cmc_pro_api_key", "")
        if not said:
            return _refusal(401, 1002, "API key missing.", now_ns)
        if len(said) < KEY_CHARS_MIN:
            return _refusal(401, 1001, "This API Key is invalid.", now_ns)
        match asked.path:
            case "/v1/cryptocurrency/categories":
                return self._categories(asked.query, now_ns)
            case "/v1/cryptocurrency/category":
                return self._category(asked.query, now_ns)
        return _refusal(404, 404, "Not found", now_ns)

    def _categories(self, query: Mapping[str, str], now_ns: int) -> Answer:
        start, limit = whole(query.get("start"), 1, 1, 10**6), whole(query.get("limit"), 100, 1, CATEGORIES_MAX)
        if start is None or limit is None:
            return _refusal(400, 400, f'"limit" must be between 1 and {CATEGORIES_MAX}', now_ns)
        rows = [self._summary(name, now_ns) for name in CATEGORIES]
        return json({"status": _status(now_ns), "data": rows[start - 1 : start - 1 + limit]})

    def _category(self, query: Mapping[str, str], now_ns: int) -> Answer:
        start, limit = whole(query.get("start"), 1, 1, 10**6), whole(query.get("limit"), 100, 1, COINS_MAX)
        if start is None or limit is None:
            return _refusal(400, 400, f'"limit" must be between 1 and {COINS_MAX}', now_ns)
        name = next((name for name in CATEGORIES if _id(name) == query.get("id")), None)
        if name is None:
            return _refusal(400, 400, 'Invalid value for "id"', now_ns)
        coins = [self._coin(rank, coin, now_ns) for rank, coin in enumerate(self._members(name), 1)]
        return json(
            {
                "status": _status(now_ns),
                "data": self._summary(name, now_ns) | {"coins": coins[start - 1 : start - 1 + limit]},
            }
        )

    def _members(self, name: str) -> list[str]:
        return [coin for coin in CATEGORIES[name] if coin in self._coins]

    def _summary(self, name: str, now_ns: int) -> dict[str, Any]:
        told = [self._quoted(coin, now_ns) for coin in self._members(name)]
        number = max(len(told), 1)
        return {
            "id": _id(name),
            "name": name,
            "title": name,
            "description": f"{name} similar tokens",
            "num_tokens": len(told),
            "avg_price_change": sum(a["percent_change_24h"] for a in told) / number,
            "market_cap": sum(a["market_cap"] for a in told),
            "market_cap_change": sum(a["percent_change_24h"] for a in told) / number,
            "volume": sum(a["volume_24h"] for a in told),
            "volume_change": 0.0,
            "last_updated": _iso(now_ns),
        }

    def _coin(self, rank: int, coin: str, now_ns: int) -> dict[str, Any]:
        supply, name = SUPPLIES[coin], NAMES[coin]
        return {
            "id": key("coin", coin) % 30_000 + 1,
            "name": name,
            "symbol": coin,
            "slug": name.lower(),
            "num_market_pairs": sum(a.instrument.coin == coin for a in self.world.listings()),
            "date_added": "2013-04-28T00:00:00.000Z",
            "tags": [],
            "max_supply": None,
            "circulating_supply": supply,
            "total_supply": supply,
            "is_market_cap_included_in_calc": 1,
            "platform": None,
            "cmc_rank": rank,
            "last_updated": _iso(now_ns),
            "quote": {"USD": self._quoted(coin, now_ns)},
        }

    def _quoted(self, coin: str, now_ns: int) -> dict[str, Any]:
        name = self._coins[coin].name
        price = float(self.world.index(name, now_ns))
        day = self.world.window(name, now_ns - DAY_NS, now_ns)
        speller = self.world.speller(name)
        volume = float(speller.notional(day.notional)) if day else 0.0

        def change(ago_ns: int) -> float:
            before = float(self.world.index(name, now_ns - ago_ns))
            return (price - before) / before * 100.0

        return {
            "price": price,
            "volume_24h": volume,
            "volume_change_24h": 0.0,
            "percent_change_1h": change(DAY_NS // 24),
            "percent_change_24h": change(DAY_NS),
            "percent_change_7d": change(7 * DAY_NS),
            "market_cap": price * SUPPLIES[coin],
            "market_cap_dominance": 0.0,
            "fully_diluted_market_cap": price * SUPPLIES[coin],
            "last_updated": _iso(now_ns),
        }


def _id(name: str) -> str:
    return f"{key('category', name):016x}00000000"


def _iso(now_ns: int) -> str:
    return (
        datetime.fromtimestamp(now_ns // 1_000_000 / 1_000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _status(now_ns: int, code: int = 0, text: str | None = None) -> dict[str, Any]:
    credits_ = 0 if code else 1
    return {
        "timestamp": _iso(now_ns),
        "error_code": code,
        "error_message": text,
        "elapsed": 1,
        "credit_count": credits_,
    }


def _refusal(status: int, code: int, text: str, now_ns: int) -> Answer:
    return json({"status": _status(now_ns, code, text)}, status)
