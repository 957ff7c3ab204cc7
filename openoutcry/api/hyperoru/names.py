"""What HyperORU's callers call symbols, exchanges, intervals, tasks and analyses, and what we call them."""

import re
from collections.abc import Iterable, Mapping, Sequence

from openoutcry.errors import Unavailable, Unknown, UnknownVenue
from openoutcry.events import INTERVALS_S
from openoutcry.instrument import Instrument
from openoutcry.market.coins import Coins, printable, stripped
from openoutcry.market.market import Market

INTERVALS: Mapping[str, int] = {
    "1m": 60,
    "3m": 180,
    "5m": 300,
    "15m": 900,
    "30m": 1_800,
    "1h": 3_600,
    "2h": 7_200,
    "4h": 14_400,
    "6h": 21_600,
    "8h": 28_800,
    "12h": 43_200,
    "1d": 86_400,
    "1w": 604_800,
}
INTERVAL_OF: Mapping[int, str] = {seconds: name for name, seconds in INTERVALS.items()}
ALL = "all"
DIGITS_MIN = 3

_NUMBER = re.compile(r"[0-9]{3,18}")


class Names:
    """The coins of every venue, made once for each listing."""

    def __init__(self, market: Market, bare_venue: str) -> None:
        self._market, self._bare = market, bare_venue
        self._coins: dict[str, Coins] = {}  # bounded by the venues there are

    def venues(self, exchange: str | None) -> Sequence[str]:
        """The venues that are meant: one, or with `all` each that is on. Raises UnknownVenue."""
        if exchange is not None and exchange.strip().lower() == ALL:
            return sorted(self._market.venues())
        return (self.venue(exchange),)

    def venue(self, exchange: str | None) -> str:
        """The venue of that name, whatever its case; without one the server's own choice. Raises UnknownVenue."""
        name = self._bare if exchange is None else exchange.strip().lower()
        if name not in self._market.venues():
            there = ", ".join(sorted(self._market.venues()))
            raise UnknownVenue(f"no exchange '{printable(name)}'; there are {there}")
        return name

    async def coins(self, venue: str) -> Coins:
        """Raises UnknownVenue, Unavailable."""
        listing = await self._market.instruments(venue)
        known = self._coins.get(venue)
        if known is None or known.listing is not listing:
            known = self._coins[venue] = Coins(venue, listing)
        return known

    async def find(self, symbol: str, exchange: str | None) -> Instrument:
        """What a caller means. Raises UnknownVenue, UnknownInstrument, Unavailable."""
        return (await self.coins(self.venue(exchange))).find(symbol)

    async def coin(self, instrument: str) -> str:
        """What an instrument of that name is called here, also where its venue lists it no more, or is off."""
        venue, _, symbol = instrument.partition(":")
        try:
            listed = (await self.coins(venue)).listing.get(symbol)
        except (Unknown, Unavailable):
            listed = None
        if listed is not None:
            return listed.coin.upper()
        return next((coin for coin in stripped(symbol.upper()) if coin), symbol.upper())

    def read(self, venue: str) -> Sequence[str]:
        """Names of the intervals whose candles may be stored: built here, or served by the venue. Raises UnknownVenue."""
        return _named({*INTERVALS_S, *self._market.intervals_s(venue)})

    def fetched(self, venue: str) -> Sequence[str]:
        """Names of the intervals that the venue serves. Raises UnknownVenue."""
        return _named(self._market.intervals_s(venue))


def id_text(kind: str, number: int) -> str:
    """bf-001, analysis-001."""
    return f"{kind}-{number:0{DIGITS_MIN}d}"


def id_number(kind: str, text: str) -> int | None:
    """The number of an id as we spell it; None for anything else."""
    head, _, digits = text.partition("-")
    if head != kind or _NUMBER.fullmatch(digits) is None or id_text(kind, int(digits)) != text:
        return None
    return int(digits)


def _named(lengths_s: Iterable[int]) -> list[str]:
    return [INTERVAL_OF[seconds] for seconds in sorted(lengths_s) if seconds in INTERVAL_OF]
