"""From what a caller writes to what a venue lists."""

from collections.abc import Mapping, Sequence

from openoutcry.errors import UnknownInstrument
from openoutcry.instrument import Instrument, Kind

# Where a venue names an instrument by its coin alone, these may stand after the coin: they say nothing it could mean else.
DOLLARS = ("USDT", "USDC", "BUSD", "TUSD", "USDP", "DAI", "USD")
NEARBY_MAX = 5
SYMBOL_LENGTH_MAX = 64


class Symbols:
    """One venue's listing, found by any spelling that means one instrument: exact, any case, `BTCUSDT` for a bare `BTC`."""

    def __init__(self, venue: str, listing: Mapping[str, Instrument]) -> None:
        self.listing = listing
        self._venue = venue
        self._any_case: dict[str, Instrument] = {}
        self._bare: dict[str, Instrument] = {}
        for symbol, instrument in listing.items():
            self._any_case.setdefault(symbol.upper(), instrument)
            if _is_bare(instrument):
                self._bare.setdefault(symbol.upper(), instrument)

    def find(self, symbol: str) -> Instrument:
        """Raises UnknownInstrument, naming a few that look alike."""
        written = symbol[:SYMBOL_LENGTH_MAX]
        upper = written.upper()
        found = self.listing.get(written) or self.listing.get(upper) or self._any_case.get(upper)
        for dollar in DOLLARS:
            if found is None and upper.endswith(dollar):
                found = self._bare.get(upper.removesuffix(dollar).rstrip("-_/"))
        if found is not None:
            return found
        nearby = self._nearby(upper)
        hint = f"; listed are {', '.join(nearby)}" if nearby else ""
        raise UnknownInstrument(f"{self._venue} does not list {written}{hint}")

    def _nearby(self, upper: str) -> Sequence[str]:
        for length in (4, 3, 2):
            head = upper[:length]
            found = [
                each.symbol for name, each in self._any_case.items() if len(head) == length and name.startswith(head)
            ]
            if found:
                return sorted(found, key=lambda name: (len(name), name))[:NEARBY_MAX]
        return ()


def _is_bare(instrument: Instrument) -> bool:
    """Whether the venue spells it without what it is quoted in, as one perpetual of that coin."""
    return instrument.kind is Kind.PERPETUAL and instrument.quote.upper() not in instrument.symbol.upper()
