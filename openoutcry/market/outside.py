"""What the market needs of the venues; `feed` implements it, `app` joins the two."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from openoutcry.instrument import Instrument
from openoutcry.venues.venue import Answer, Ask, Feed, Limits, Page, Query


class VenueState(msgspec.Struct, frozen=True):
    """How a venue is doing. `alive`: its feed delivered, or its REST answered, within the last minute."""

    name: str
    alive: bool
    connections: int
    last_received_ns: int | None
    reason: str = ""


class Outside(Protocol):
    """Every question to a venue goes through here, so that one budget and one ban count for all."""

    def venues(self) -> Mapping[str, VenueState]:
        """The venues that are on, by name, without asking them."""
        ...

    def feeds(self, venue: str) -> frozenset[Feed]:
        """What the venue can stream. Raises UnknownVenue."""
        ...

    def queries(self, venue: str) -> frozenset[Query]:
        """What its REST side can be asked. Raises UnknownVenue."""
        ...

    def intervals_s(self, venue: str) -> frozenset[int]:
        """Candle lengths its REST side serves. Raises UnknownVenue."""
        ...

    def limits(self, venue: str) -> Limits:
        """What it allows, and how it behaves. Raises UnknownVenue."""
        ...

    def instruments(self, venue: str) -> Mapping[str, Instrument]:
        """The venue's listing, by symbol; empty until it was read. Raises UnknownVenue."""
        ...

    async def listing(self, venue: str) -> Mapping[str, Instrument]:
        """The listing, read now if it was not yet. Raises UnknownVenue, Unavailable."""
        ...

    def followed(self, instrument: str, feed: Feed) -> bool:
        """Whether that feed of that instrument is subscribed now and without an open gap."""
        ...

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        """Subscribe (one stream, however many follow it). Returns the way to let go; the last one to let go ends it.

        Raises Unsupported, LimitExceeded.
        """
        ...

    def ask(self, venue: str, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        """All pages of an answer, within the venue's limits; `patient` ones come after all others.

        Raises UnknownInstrument, Unsupported, Unavailable.
        """
        ...

    async def raw(self, venue: str, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """An answer untouched, whatever its status, within the venue's limits. Raises Unavailable."""
        ...
