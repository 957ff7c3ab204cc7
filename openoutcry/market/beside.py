"""Venues that are no outside exchange: their instruments are told by files, and nobody can be asked about them."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from openoutcry.errors import Unsupported
from openoutcry.instrument import Instrument
from openoutcry.market.outside import Outside, VenueState
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query

# What comes by itself, whoever follows it.
FEEDS = frozenset({Feed.OPEN_INTEREST})


class Beside:
    """An Outside that also knows what is `listed` beside it: by venue, then by symbol."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self.listed: dict[str, Mapping[str, Instrument]] = {}

    def venues(self) -> Mapping[str, VenueState]:
        """The outside venues that are on."""
        return self._outside.venues()

    def feeds(self, venue: str) -> frozenset[Feed]:
        """What can be followed. Raises UnknownVenue."""
        return FEEDS if venue in self.listed else self._outside.feeds(venue)

    def queries(self, venue: str) -> frozenset[Query]:
        """What can be asked: nothing of a file. Raises UnknownVenue."""
        return frozenset() if venue in self.listed else self._outside.queries(venue)

    def intervals_s(self, venue: str) -> frozenset[int]:
        """Candle lengths that are served. Raises UnknownVenue."""
        return frozenset() if venue in self.listed else self._outside.intervals_s(venue)

    def limits(self, venue: str) -> Limits:
        """What it allows, and how it behaves. Raises UnknownVenue; Unsupported of a file."""
        if venue in self.listed:
            raise Unsupported(f"{venue} cannot be asked")
        return self._outside.limits(venue)

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The listing as far as it is known. Raises UnknownVenue."""
        listed = self.listed.get(venue)
        return self._outside.instruments(venue) if listed is None else listed

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        """The listing. Raises UnknownVenue, Unavailable."""
        listed = self.listed.get(venue)
        return await self._outside.listing(venue) if listed is None else listed

    def followed(self, instrument: str, feed: Feed) -> bool:
        """Whether that feed flows: of a file the newest row is the newest there is."""
        if instrument.partition(":")[0] in self.listed:
            return feed in FEEDS
        return self._outside.followed(instrument, feed)

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        """Subscribe; returns the way to let go. Raises UnknownVenue, Unsupported, LimitExceeded."""
        if instrument.venue not in self.listed:
            return self._outside.follow(instrument, feeds)
        beyond = sorted(frozenset(feeds) - FEEDS)
        if beyond:
            raise Unsupported(f"{instrument.venue} has no {beyond[0]} of {instrument.symbol}")
        return _nothing

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        """All pages of an answer. Raises UnknownInstrument, Unsupported, Unavailable."""
        if venue in self.listed:
            raise Unsupported(f"{venue} cannot be asked for {ask.query.replace('_', ' ')}")
        return self._outside.ask(venue, ask, patient=patient)

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """An answer untouched. Raises UnknownVenue, Unsupported, Unavailable."""
        if venue in self.listed:
            raise Unsupported(f"{venue} has nothing to ask")
        return await self._outside.raw(venue, path, query, weight)


def _nothing() -> None:
    """There was nothing to take, so there is nothing to let go of."""
