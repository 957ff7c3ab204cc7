"""What a venue lists: read at the start, refreshed every hour; changes are told, and a failed reading keeps the old one."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping

import structlog

from openoutcry.clock import Clock
from openoutcry.errors import Refusal, Unavailable
from openoutcry.instrument import Instrument
from openoutcry.telemetry import Telemetry
from openoutcry.venues.venue import Ask, Page, Query

INSTRUMENTS_MAX = 50_000
RETRY_S_MIN = 2.0
RETRY_S_MAX = 300.0
# Changes of one reading that are logged one by one; the rest is only counted.
TOLD_MAX = 20

log = structlog.get_logger()


class Catalog:
    """The listing of one venue, by symbol."""

    def __init__(
        self,
        venue: str,
        *,
        asks: Callable[[Ask], AsyncIterator[Page]],
        taught: Callable[[], None],
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        refresh_s: float,
    ) -> None:
        self.instruments: Mapping[str, Instrument] = {}
        self._venue = venue
        self._asks = asks
        self._taught = taught
        self._clock = clock
        self._chance = chance
        self._refresh_s = refresh_s
        self._reading: asyncio.Task[None] | None = None
        self._changes = telemetry.counter(
            "catalog_changes", "Instruments listed, changed, delisted", ("venue", "change")
        )
        self._listed = telemetry.gauge("catalog_instruments", "Instruments a venue lists", ("venue",))

    async def read(self) -> None:
        """Read the listing now; whoever asks meanwhile shares the answer. Raises Unavailable and its like."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name=f"{self._venue} listing")
            # When every asker has gone, nobody is left to take a failure: it is logged by `run`'s next try.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._reading)

    async def run(self) -> None:
        """Read, and read again, for ever."""
        misses = 0
        while True:
            try:
                await self.read()
            except Refusal as e:
                misses += 1
                log.warning("listing not read", venue=self._venue, reason=e.text)
                ceiling_s = min(RETRY_S_MAX, self._refresh_s, RETRY_S_MIN * 2.0 ** min(misses, 20))
                await self._clock.sleep(self._chance.uniform(ceiling_s / 2, ceiling_s))
            else:
                misses = 0
                await self._clock.sleep(self._refresh_s)

    def stop(self) -> None:
        """Give up a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        found: dict[str, Instrument] = {}
        async for page in self._asks(Ask(query=Query.INSTRUMENTS)):
            for instrument in page.instruments:
                if len(found) < INSTRUMENTS_MAX:
                    found[instrument.symbol] = instrument
        if not found:
            raise Unavailable(self._venue, f"{self._venue} lists nothing")
        self._compare(found)
        self.instruments = found
        self._listed.labels(self._venue).set(len(found))
        self._taught()

    def _compare(self, found: Mapping[str, Instrument]) -> None:
        before = self.instruments
        if not before:
            log.info("listing read", venue=self._venue, instruments=len(found))
            return
        changes = [("listed", symbol) for symbol in found if symbol not in before]
        changes += [("delisted", symbol) for symbol in before if symbol not in found]
        for symbol, now in found.items():
            was = before.get(symbol)
            if was is None or was == now:
                continue
            kind = "changed"
            if was.contract_size != now.contract_size:
                kind = "contract_size"
            elif was.trading != now.trading:
                kind = "trading" if now.trading else "halted"
            changes.append((kind, symbol))
        for change, symbol in changes[:TOLD_MAX]:
            log.info("listing changed", venue=self._venue, change=change, symbol=symbol)
        for change, _ in changes:
            self._changes.labels(self._venue, change).inc()
