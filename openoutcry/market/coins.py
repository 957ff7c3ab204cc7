"""From a coin, however a caller spells it, to the one instrument that stands for it on a venue."""

import re
from collections.abc import Mapping

from openoutcry.errors import UnknownInstrument
from openoutcry.instrument import Instrument, Kind

SYMBOL_CHARS_MAX = 64
SYMBOLS_SHOWN = 5

# The first that leaves a listed coin counts: BTUSD is BT in USD before it is B in TUSD.
_QUOTES = ("USDT", "USDC", "FDUSD", "USD", "BUSD", "TUSD", "USDP", "DAI")
_SEPARATORS = "-_/: "
_KINDS = (Kind.PERPETUAL, Kind.SPOT, Kind.FUTURE)
_PREFERRED = ("USDT", "USD", "USDC")
_UNPRINTABLE = re.compile(r"[^ -~]")


class Coins:
    """One venue's listing by coin: each has one instrument that stands for it.

    BTC · BTCUSDT · BTC-USD · BTC/USDT · BTC-PERPETUAL · PF_XBTUSD  all mean the coin BTC. Perpetuals come before spot and
    futures, USDT before USD and USDC.
    """

    def __init__(self, venue: str, listing: Mapping[str, Instrument]) -> None:
        self.listing = listing
        self._venue = venue
        standing = [each for each in listing.values() if each.trading and each.kind in _KINDS]
        self.of: dict[str, Instrument] = {}
        for each in sorted(standing, key=_rank):
            self.of.setdefault(each.coin.upper(), each)
        self.coin_of: Mapping[str, str] = {each.name: coin for coin, each in self.of.items()}
        self._spelt = {each.symbol.upper(): each.coin.upper() for each in standing}

    def find(self, text: str) -> Instrument:
        """The instrument of the coin that is meant. Raises UnknownInstrument, naming a few that look alike."""
        written = text[:SYMBOL_CHARS_MAX].strip().upper()
        for coin in (written, self._spelt.get(written, ""), *stripped(written)):
            if coin in self.of:
                return self.of[coin]
        alike = sorted(coin for coin in self.of if written and coin.startswith(written[:2]))[:SYMBOLS_SHOWN]
        hint = f"; it lists {', '.join(alike)}" if alike else ""
        raise UnknownInstrument(f"{self._venue} does not list '{printable(text)}'{hint}")


def printable(text: str) -> str:
    """What a caller wrote, short and plain enough to be said back."""
    return _UNPRINTABLE.sub("?", text[:SYMBOL_CHARS_MAX])


def stripped(upper: str) -> list[str]:
    """What may be the coin of a symbol, by the dollars it ends with."""
    return [upper.removesuffix(quote).rstrip(_SEPARATORS) for quote in _QUOTES if upper.endswith(quote)]


def _rank(each: Instrument) -> tuple[int, int, str, int, str]:
    quote = each.quote.upper()
    place = _PREFERRED.index(quote) if quote in _PREFERRED else len(_PREFERRED)
    return _KINDS.index(each.kind), place, quote, each.expires_ns or 0, each.symbol
