"""Front door of market data: what is, what was, what is missing. Every dialect asks here, and nowhere else."""

from collections.abc import Mapping, Sequence

import msgspec

from openoutcry.events import Candle, FundingRate, MarkPrice, OpenInterest, PredictedFunding, Side
from openoutcry.instrument import Instrument
from openoutcry.market.outside import VenueState


class Candles(msgspec.Struct, frozen=True):
    """Candles oldest first, the growing one last where the question reaches it.

    `missing` names the stretches [start_ns, end_ns) inside the question that nobody has; empty where all is known.
    """

    rows: Sequence[Candle]
    missing: Sequence[tuple[int, int]] = ()


class Market:
    """Answers from memory where the newest rows are enough, else from the store, else from the venue (asked once)."""

    def venues(self) -> Mapping[str, VenueState]:
        """The venues that are on."""
        raise NotImplementedError

    async def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The venue's listing by symbol. Raises UnknownVenue, Unavailable."""
        raise NotImplementedError

    async def instrument(self, venue: str, symbol: str) -> Instrument:
        """Raises UnknownVenue, UnknownInstrument, Unavailable (no listing yet and the venue does not answer)."""
        raise NotImplementedError

    def newest(
        self, instrument: str, interval_s: int, limit: int, side: Side = Side.BOTH
    ) -> tuple[Sequence[Candle], Candle | None] | None:
        """The newest closed candles (at most `limit`, oldest first) and the growing one, from memory and at once.

        None where memory does not hold that many whole: ask `candles`.
        """
        raise NotImplementedError

    async def candles(
        self,
        instrument: Instrument,
        interval_s: int,
        *,
        limit: int,
        side: Side = Side.BOTH,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Candles:
        """Start given: the first `limit` from there (inside end, if given). Else the newest `limit` (up to end).

        `interval_s` may be any multiple we can roll up (3m 30m 2h 6h 8h 12h 3d too). Both bounds refer to open times,
        end exclusive. Raises BadInterval, BadRange, Unavailable (nobody has it whole and the venue does not answer).
        """
        raise NotImplementedError

    async def open_interest(self, instrument: Instrument) -> OpenInterest:
        """Now, with `value` in USD (from the mark price where the venue gives none). Raises Unsupported, Unavailable."""
        raise NotImplementedError

    async def open_interest_history(
        self, instrument: Instrument, interval_s: int, *, limit: int
    ) -> Sequence[OpenInterest]:
        """The newest `limit` samples, oldest first. Raises Unsupported, BadInterval, Unavailable."""
        raise NotImplementedError

    async def funding(self, instrument: Instrument) -> FundingRate:
        """The running rate and when it will be settled. Raises Unsupported (spot), Unavailable."""
        raise NotImplementedError

    async def funding_history(
        self,
        instrument: Instrument,
        *,
        limit: int,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Sequence[FundingRate]:
        """Settled rates, oldest first, the newest `limit`. Raises Unsupported, Unavailable."""
        raise NotImplementedError

    async def predicted_funding(self, venue: str) -> Sequence[PredictedFunding]:
        """All predictions of that venue, at most a minute old. Raises Unsupported, Unavailable."""
        raise NotImplementedError

    async def mark_price(self, instrument: Instrument) -> MarkPrice:
        """The newest mark price. Raises Unsupported, Unavailable."""
        raise NotImplementedError
