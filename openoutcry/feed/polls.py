"""What a venue does not stream is asked for in turn: open interest of Binance, predicted funding, that of all options."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import Refusal
from openoutcry.events import Event
from openoutcry.venues.venue import Ask, Feed, Page, Query

# Which question stands in for which stream.
POLLED = {
    Feed.OPEN_INTEREST: Query.OPEN_INTEREST,
    Feed.FUNDING: Query.FUNDING,
    Feed.MARK_PRICE: Query.FUNDING,
}
# What no stream tells anywhere.
ASKED = frozenset({Query.PREDICTED_FUNDING, Query.OPTION_INTEREST, Query.POSITIONS})
SPACING_S_MIN = 0.05
# A poll counts as failed when its last answer is older than so many rounds.
ROUNDS_MAX = 3
# Failures are told once in so long: a venue that is down fails every question.
COMPLAINT_S = 60.0

log = structlog.get_logger()


class PollTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long one round over all followed instruments takes."""

    open_interest_s: float = 10.0
    funding_s: float = 10.0
    predicted_funding_s: float = 60.0
    option_interest_s: float = 60.0
    positions_s: float = 60.0

    def of(self, query: Query) -> float:
        """The round of that question."""
        return {
            Query.OPEN_INTEREST: self.open_interest_s,
            Query.PREDICTED_FUNDING: self.predicted_funding_s,
            Query.OPTION_INTEREST: self.option_interest_s,
            Query.POSITIONS: self.positions_s,
        }.get(query, self.funding_s)


class Round:
    """One question, asked for each followed symbol in turn; symbol None asks for all at once."""

    def __init__(
        self,
        venue: str,
        query: Query,
        *,
        asks: Callable[[Ask], AsyncIterator[Page]],
        take: Callable[[Sequence[Event]], None],
        clock: Clock,
        round_s: float,
    ) -> None:
        self._venue = venue
        self._query = query
        self._asks = asks
        self._take = take
        self._clock = clock
        self._round_s = round_s
        self._wanted: dict[str | None, int] = {}
        self._answered_ns: dict[str | None, int] = {}
        self._some_wanted = asyncio.Event()
        self._complained_ns: int | None = None

    def add(self, symbol: str | None) -> None:
        """One more follows it."""
        self._wanted[symbol] = self._wanted.get(symbol, 0) + 1
        self._some_wanted.set()

    def remove(self, symbol: str | None) -> None:
        """One less."""
        left = self._wanted.get(symbol, 0) - 1
        if left > 0:
            self._wanted[symbol] = left
            return
        self._wanted.pop(symbol, None)
        self._answered_ns.pop(symbol, None)
        if not self._wanted:
            self._some_wanted.clear()

    def fresh(self, symbol: str | None) -> bool:
        """Whether it was answered lately."""
        answered_ns = self._answered_ns.get(symbol)
        return answered_ns is not None and self._clock.now_ns() - answered_ns < ROUNDS_MAX * self._round_s * NS

    async def run(self) -> None:
        """Ask round after round, evenly spread, for ever."""
        while True:
            await self._some_wanted.wait()
            symbols = list(self._wanted)
            for symbol in symbols:
                began_ns = self._clock.now_ns()
                if symbol in self._wanted:
                    await self._ask(symbol)
                spent_s = (self._clock.now_ns() - began_ns) / NS
                await self._clock.sleep(max(SPACING_S_MIN, self._round_s / len(symbols) - spent_s))

    async def _ask(self, symbol: str | None) -> None:
        try:
            async for page in self._asks(Ask(query=self._query, symbol=symbol)):
                self._take(page.events)
        except Refusal as e:
            # A symbol that is gone is asked for again all the same: it may be listed again, and others go on.
            self._complain(symbol, e.text)
        else:
            if symbol in self._wanted:
                self._answered_ns[symbol] = self._clock.now_ns()

    def _complain(self, symbol: str | None, reason: str) -> None:
        now_ns = self._clock.now_ns()
        if self._complained_ns is None or now_ns - self._complained_ns >= COMPLAINT_S * NS:
            self._complained_ns = now_ns
            log.warning("poll failed", venue=self._venue, query=str(self._query), symbol=symbol, reason=reason)
