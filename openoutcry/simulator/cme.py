"""CME, played as whoever has its figures would hand them over: one CSV in our own form (docs/cme.md), a year of days.

    GET /open-interest.csv     ->     time,symbol,coin,open_interest,value,price,contract_size     with an ETag

A row a weekday and symbol, of that day's first moment; every number is a function of the seed and the day.
"""

import asyncio
from datetime import date, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import NamedTuple

from openoutcry.events import WEEK_OFFSET_S
from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import NS, Answer, Asked, Personality
from openoutcry.simulator.listings import COINS
from openoutcry.simulator.noise import grow, key, waves
from openoutcry.simulator.world import World

PATH = "/open-interest.csv"
HEADER = "time,symbol,coin,open_interest,value,price,contract_size\n"
DAY_S = 86_400
EPOCH = date(1970, 1, 1)
DAYS = 366
WEEKDAYS = 5
CENT = Decimal("0.01")
# Days are made so many at a time, letting the streams run between.
DAYS_AT_ONCE = 10
_INTEREST = ((5, 0.03), (22, 0.08), (90, 0.2))
_BASIS = ((8, 0.001), (60, 0.003))


class _Future(NamedTuple):
    symbol: str
    coin: str
    contract_size: str
    contracts: float


FUTURES = (
    _Future("BTC", "BTC", "5", 30_000.0),
    _Future("MBT", "BTC", "0.1", 22_000.0),
    _Future("ETH", "ETH", "50", 6_000.0),
    _Future("MET", "ETH", "0.1", 70_000.0),
)


class Cme(Personality):
    """No address of CME's: that of somebody who has a file."""

    name = "cme"

    def __init__(self, world: World, faults: Faults) -> None:
        super().__init__(world, faults)
        self._day = -1
        self._body = b""

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """The file; 304 for who has it."""
        if asked.path != PATH:
            return Answer(404, b"", (), "text/plain")
        if asked.method != "GET":
            return Answer(405, b"", (), "text/plain")
        today = now_ns // NS // DAY_S
        if self._day != today:
            self._body = await self._made(today)
            self._day = today
        etag = f'"{blake2b(self._body, digest_size=8).hexdigest()}"'
        if asked.headers.get("if-none-match") == etag:
            return Answer(304, b"", (("ETag", etag),), "text/csv")
        return Answer(200, self._body, (("ETag", etag),), "text/csv; charset=utf-8")

    async def _made(self, today: int) -> bytes:
        rows = [HEADER]
        for first in range(today - DAYS + 1, today + 1, DAYS_AT_ONCE):
            for day in range(first, min(first + DAYS_AT_ONCE, today + 1)):
                if (day * DAY_S - WEEK_OFFSET_S) // DAY_S % 7 < WEEKDAYS:
                    prices = {coin: self._price(coin, day) for coin in {future.coin for future in FUTURES}}
                    rows += [self._row(future, day, prices[future.coin]) for future in FUTURES]
            await asyncio.sleep(0)
        return "".join(rows).encode()

    def _price(self, coin: str, day: int) -> Decimal:
        about = COINS[coin]
        drift = self.world.drift(coin, day * DAY_S * NS, about.wildness)
        basis = 1.0 + float(waves(key(self.world.seed, "cme basis", coin), day, 1, _BASIS)[0])
        return Decimal(about.price * drift * basis).quantize(CENT)

    def _row(self, future: _Future, day: int, price: Decimal) -> str:
        lively = grow(waves(key(self.world.seed, "cme interest", future.symbol), day, 1, _INTEREST))
        contracts = int(future.contracts * float(lively[0]))
        value = (contracts * Decimal(future.contract_size) * price).quantize(CENT)
        on = (EPOCH + timedelta(days=day)).isoformat()
        return f"{on},{future.symbol},{future.coin},{contracts},{value},{price},{future.contract_size}\n"
