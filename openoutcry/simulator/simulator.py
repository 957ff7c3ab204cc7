"""The venues we play: one world, one port, one personality per venue.

simulator = Simulator(seed=7, clock=SystemClock())
await simulator.start("127.0.0.1")
simulator.addresses()   # {"binance_futures": {"rest": "http://…/binance_futures", "sockets": {"public": "ws://…/binance_futures/public", …}}}
simulator.faults.set("binance_futures", cut="rst")
simulator.world.trades("binance_futures:BTCUSDT", start_ns, end_ns)   # the truth
await simulator.stop()
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TypedDict

import structlog

from openoutcry.clock import Clock
from openoutcry.simulator import PERSONALITIES
from openoutcry.simulator.faults import Faults
from openoutcry.simulator.limits import Meter
from openoutcry.simulator.listings import standard
from openoutcry.simulator.server import Server
from openoutcry.simulator.stage import Stage
from openoutcry.simulator.tape import Listing
from openoutcry.simulator.world import World

PUMP_S = 0.1

log = structlog.get_logger()


class Addresses(TypedDict):
    """Where a simulated venue is: REST, each WebSocket endpoint by the name its adapter uses, its archive (empty: none)."""

    rest: str
    sockets: dict[str, str]
    archive: str


class Simulator:
    """Plays `venues` (all of PERSONALITIES where None) on one loopback port.

    `listings` replaces the standard instruments, `activity` multiplies the number of orders, `limits` False lets everybody
    ask as much as they like.
    """

    def __init__(
        self,
        seed: int,
        clock: Clock,
        venues: Iterable[str] | None = None,
        *,
        listings: Sequence[Listing] | None = None,
        activity: float = 1.0,
        limits: bool = True,
        pump_s: float = PUMP_S,
    ) -> None:
        self._clock, self._pump_s = clock, pump_s
        now_ns = clock.now_ns()
        self.world = World(seed, standard(now_ns) if listings is None else listings, activity)
        self.faults = Faults(seed)
        meter = Meter(enforce=limits)
        names = PERSONALITIES if venues is None else list(venues)
        self.stages = {name: Stage(PERSONALITIES[name](self.world, self.faults), meter, now_ns) for name in names}
        self._server = Server(self.stages, clock)
        self._pump: asyncio.Task[None] | None = None
        self._at = ""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and begin to push; returns `host:port`."""
        name, number = await self._server.start(host, port)
        self._at = f"{name}:{number}"
        self._pump = asyncio.get_running_loop().create_task(self._run())
        return self._at

    def hush(self) -> None:
        """Push and answer nothing any more: whoever listens is about to leave, and needs the processor for that."""
        if self._pump is not None:
            self._pump.cancel()
        self._server.hush()

    async def stop(self) -> None:
        """End all connections; a second call does nothing."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        await self._server.stop()

    def addresses(self) -> dict[str, Addresses]:
        """Where each venue is, once started."""
        assert self._at, "not started"
        return {
            name: {
                "rest": f"http://{self._at}/{name}",
                "sockets": {
                    endpoint: f"ws://{self._at}/{name}{path}".rstrip("/")
                    for endpoint, path in stage.personality.sockets.items()
                },
                # Its paths begin where REST's do.
                "archive": f"http://{self._at}/{name}" if stage.personality.archive else "",
            }
            for name, stage in self.stages.items()
        }

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._pump_s)
            for stage in self.stages.values():
                try:
                    stage.pump(self._clock.now_ns())
                except Exception:  # one venue's mistake must not silence the others
                    log.exception("simulator failed", venue=stage.name)
