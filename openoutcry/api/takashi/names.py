"""What TAKASHI's callers call exchanges, symbols and intervals, and what we call them.

binance BTCUSDT · bybit BTCUSDT · hyperliquid BTC, BTCUSDT, kPEPE · okx BTC-USDT-SWAP, BTCUSDT
"""

from collections.abc import Iterable, Mapping

import msgspec

from openoutcry.aggregates.rollup import MONTH_S
from openoutcry.errors import BadInterval, UnknownInstrument, UnknownVenue
from openoutcry.instrument import Instrument
from openoutcry.market.market import Market

# Theirs to ours, in the order they are listed: the three of the published page, then what we add.
EXCHANGES: Mapping[str, str] = {
    "binance": "binance_futures",
    "bybit": "bybit",
    "hyperliquid": "hyperliquid",
    "okx": "okx",
}
EXCHANGE_OF: Mapping[str, str] = {venue: exchange for exchange, venue in EXCHANGES.items()}
PUBLISHED = ("binance", "bybit", "hyperliquid")

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
    "3d": 259_200,
    "1w": 604_800,
    "1M": MONTH_S,
}
PERIODS: Mapping[str, int] = {
    name: INTERVALS[name] for name in ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")
}
TIMEFRAMES: Mapping[str, int] = {name: INTERVALS[name] for name in ("5m", "15m", "1h")}
TIMEFRAME_OF: Mapping[int, str] = {seconds: name for name, seconds in TIMEFRAMES.items()}
SYMBOL_CHARS_MAX = 64
SYMBOLS_SHOWN = 5


class Asked(msgspec.Struct, frozen=True):
    """An instrument as it was asked for: `symbol` is how answers spell it."""

    exchange: str
    symbol: str
    instrument: Instrument


def exchange_of(text: str) -> str:
    """The exchange of that name, whatever its case. Raises UnknownVenue, which names those there are."""
    exchange = text.lower()
    if exchange not in EXCHANGES:
        raise UnknownVenue(f"unknown exchange '{text[:SYMBOL_CHARS_MAX]}': there are {', '.join(EXCHANGES)}")
    return exchange


def seconds_of(text: str, allowed: Mapping[str, int], what: str = "interval") -> int:
    """The length of an interval. Raises BadInterval, which names those allowed."""
    seconds = allowed.get(text)
    if seconds is None:
        raise BadInterval(f"{what} '{text[:16]}' is not one of {' '.join(allowed)}")
    return seconds


async def ask_for(market: Market, exchange: str, symbol: str) -> Asked:
    """The instrument that a caller means. Raises UnknownInstrument, UnknownVenue (it is off), Unavailable."""
    venue = EXCHANGES[exchange]
    try:
        instrument = await market.instrument(venue, symbol)
    except UnknownInstrument:
        listing = await market.instruments(venue)
        swap = _swap(listing, symbol.upper()) if exchange == "okx" else None
        if swap is None:
            raise UnknownInstrument(_unknown(exchange, symbol, listing)) from None
        instrument = swap
    # As it was asked, in upper case unless the venue itself spells it otherwise (kPEPE).
    return Asked(exchange, symbol if symbol.startswith(instrument.symbol) else symbol.upper(), instrument)


def _swap(listing: Mapping[str, Instrument], pair: str) -> Instrument | None:
    for quote in ("USDT", "USDC", "USD"):
        if pair.endswith(quote):
            return listing.get(f"{pair.removesuffix(quote)}-{quote}-SWAP")
    return None


def _unknown(exchange: str, symbol: str, listing: Mapping[str, Instrument]) -> str:
    shown = symbol[:SYMBOL_CHARS_MAX]
    if not listing:
        return f"{exchange} has no symbol '{shown}'"
    near = _near(symbol.upper()[:3], listing)
    return f"{exchange} has no symbol '{shown}'; it lists {len(listing)}, such as {', '.join(near)}"


def _near(start: str, listing: Iterable[str]) -> list[str]:
    alike = sorted(name for name in listing if start and name.upper().startswith(start))
    return (alike or sorted(listing))[:SYMBOLS_SHOWN]
