"""What agent-k's callers call symbols, intervals and channels, and what we call them.

BTC · btc · BTCUSDT · BTC-USD · BTC/USDT  all mean the coin BTC on the one venue whose candles we give; a channel is market.BTC.1m.
"""

from collections.abc import Mapping

import msgspec

from openoutcry.errors import BadInterval, Unknown
from openoutcry.instrument import Instrument
from openoutcry.market.coins import Coins, printable, stripped
from openoutcry.market.market import Market

INTERVALS: Mapping[str, int] = {
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "1h": 3_600,
    "4h": 14_400,
    "12h": 43_200,
    "1d": 86_400,
}
INTERVAL_DEFAULT = "1h"
CHANNEL_CHARS_MAX = 96
# Spellings that are remembered, so that most questions need no looking up.
SPELLINGS_MAX = 10_000

_MARKET = "market."


class Asked(msgspec.Struct, frozen=True):
    """Candles as they were asked for: `symbol` is the coin, as answers spell it."""

    symbol: str
    instrument: Instrument
    interval: str
    interval_s: int


class Names:
    """The coins of the venue, made once for each listing."""

    def __init__(self, market: Market, venue: str) -> None:
        self._market, self._venue = market, venue
        self._coins: Coins | None = None
        self._spelt: dict[str, Instrument] = {}

    async def ask_for(self, symbol: str, interval: str) -> Asked:
        """Raises BadInterval, UnknownInstrument, UnknownVenue (it is off), Unavailable (no listing yet)."""
        interval_s = INTERVALS.get(interval)
        if interval_s is None:
            raise BadInterval(f"interval '{printable(interval[:16])}' is not one of {' '.join(INTERVALS)}")
        instrument = await self.find(symbol)
        return Asked(instrument.coin.upper(), instrument, interval, interval_s)

    async def channel(self, text: str) -> Asked:
        """What a channel is of: market.{SYMBOL}.{INTERVAL}. Raises Unknown, Unavailable."""
        symbol, dot, interval = text.removeprefix(_MARKET).rpartition(".")
        if not text.startswith(_MARKET) or not dot or len(text) > CHANNEL_CHARS_MAX or interval not in INTERVALS:
            raise Unknown(f"no channel '{printable(text)}': it is market.SYMBOL.INTERVAL, of {' '.join(INTERVALS)}")
        return await self.ask_for(symbol, interval)

    async def find(self, symbol: str) -> Instrument:
        """The instrument that is meant. Raises UnknownInstrument, UnknownVenue (it is off), Unavailable (no listing yet)."""
        listing = await self._market.instruments(self._venue)
        coins = self._coins
        if coins is None or coins.listing is not listing:
            coins = self._coins = Coins(self._venue, listing)
            self._spelt.clear()
        found = self._spelt.get(symbol)
        if found is None:
            found = coins.find(symbol)
            if len(self._spelt) >= SPELLINGS_MAX:
                self._spelt.clear()
            self._spelt[symbol] = found
        return found


def coin_of(symbol: str) -> str:
    """The coin that a symbol names, by its spelling alone: for what knows no venue."""
    upper = symbol.strip().upper()
    return next((coin for coin in stripped(upper) if coin), upper)
