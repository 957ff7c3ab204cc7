"""The sides of a backfill, each in a process of its own: the venue, our server's parts, and what is the least to be done.

python -m bench.backfill_child venue                  ─▶ {"port": 40123}
python -m bench.backfill_child ours 40123 rest FOLDER ─▶ {"port": 0}
backfill 0 600                                        ─▶ {"candles": 525600, "cpu_s": 14.2, ...}
"""

import asyncio
import json
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import uvloop
from msgspec.structs import replace

from bench.points_server import END_S, Outside
from bench.store import COLUMNS, INSERT, plain_file
from openoutcry.accounts.keys import Keys
from openoutcry.aggregates.candles import Candles
from openoutcry.api.admission import Admission
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.api.hyperoru.rest import Hyperoru
from openoutcry.api.push import Push
from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock, SystemClock
from openoutcry.feed.archives import Archives
from openoutcry.feed.desk import Access
from openoutcry.feed.feed import Feed
from openoutcry.feed.tasks import Tasks
from openoutcry.market.market import Market
from openoutcry.market.tasks import ACTIVE
from openoutcry.simulator.binance import BinanceFutures as Played
from openoutcry.simulator.faults import Faults
from openoutcry.simulator.kit import Answer, Asked
from openoutcry.simulator.limits import Meter, Verdict
from openoutcry.simulator.listings import standard
from openoutcry.simulator.server import Server
from openoutcry.simulator.stage import Stage
from openoutcry.simulator.world import World
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.sql import SqlSeries, sqlite_url
from openoutcry.telemetry import Telemetry, configure_logs
from openoutcry.transport import HttpClient, SocketClient
from openoutcry.venues import ARCHIVES
from openoutcry.venues.binance_futures import BinanceFutures
from openoutcry.venues.venue import Ask, Query, Rate

VENUE, SYMBOL = "binance_futures", "BTCUSDT"
# A year of whole months: 2024-12-01 to 2025-12-01. It was listed a month before.
START_NS, END_NS = 1_733_011_200 * NS, 1_764_547_200 * NS
LISTED_NS = START_NS - 30 * 86_400 * NS
MINUTES = (END_NS - START_NS) // (60 * NS)
SEED = 7
SAMPLE_S = 0.02
LOOK_S = 0.05
UNTOLD = {"Accept-Encoding": "identity"}

Act = Callable[..., Awaitable[Mapping[str, Any]]]


async def main(kind: str, *words: str) -> None:
    configure_logs("warning", as_json=True)
    async with AsyncExitStack() as stack:
        side = SIDES[kind](*words)
        port = await side.start(stack)
        say({"port": port})
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            name, *told = line.decode().split()
            say(spent() if name == "cpu" else await side.acts[name](*told))


def say(answer: Mapping[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def spent() -> dict[str, Any]:
    return {"cpu_s": time.process_time(), "rss": psutil.Process().memory_info().rss}


class Ready(Played):
    """The simulated venue, whose candles of the past lie ready once they were asked for: what it costs to make them is not
    what is measured. It remembers what it was asked, what that weighed, and how often it refused.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world, Faults(SEED))
        self._ready: dict[str, Answer] = {}
        self.weighed: list[tuple[float, int]] = []
        self.turned_away = 0

    @property
    def asked(self) -> Sequence[str]:
        return list(self._ready)

    def cost(self, asked: Asked) -> tuple[str, int] | None:
        cost = super().cost(asked)
        if cost is not None and cost[0] == "weight":
            self.weighed.append((time.monotonic(), cost[1]))
        return cost

    def refuse(self, pool: str, verdict: Verdict) -> Answer:
        self.turned_away += 1
        return super().refuse(pool, verdict)

    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        # What has an end lies in the past here.
        if "endTime" not in asked.query and not asked.path.startswith(f"{self.archive}/"):
            return await super().answer(asked, now_ns)
        target = "&".join(f"{name}={value}" for name, value in asked.query.items())
        target = f"{asked.path}?{target}" if target else asked.path
        if target not in self._ready:
            self._ready[target] = await super().answer(asked, now_ns)
        return self._ready[target]


class Venue:
    """Binance's futures, played; its limits are off until it is told otherwise."""

    def __init__(self) -> None:
        clock = SystemClock()
        listings = [each for each in standard(clock.now_ns()) if each.name == f"{VENUE}:{SYMBOL}"]
        aged = [replace(each, instrument=replace(each.instrument, listed_ns=LISTED_NS)) for each in listings]
        self._ready, self._clock = Ready(World(SEED, aged)), clock
        self._server = Server({VENUE: self._stage(limits=False)}, clock)
        self.acts: Mapping[str, Act] = {"asked": self._asked, "limit": self._limit, "weighed": self._weighed}

    async def start(self, stack: AsyncExitStack) -> int:
        _, port = await self._server.start("127.0.0.1", 0)
        stack.push_async_callback(self._server.stop)
        return port

    def _stage(self, *, limits: bool) -> Stage:
        return Stage(self._ready, Meter(enforce=limits), self._clock.now_ns())

    async def _asked(self, file: str) -> Mapping[str, Any]:
        await asyncio.to_thread(Path(file).write_text, json.dumps(self._ready.asked))
        return {"questions": len(self._ready.asked)}

    async def _limit(self) -> Mapping[str, Any]:
        """From now on, with nothing used."""
        self._server.stages = {VENUE: self._stage(limits=True)}
        self._ready.weighed, self._ready.turned_away = [], 0
        return {"limit": self._ready.pools["weight"].count}

    async def _weighed(self) -> Mapping[str, Any]:
        return {"weighed": self._ready.weighed, "refused": self._ready.turned_away}


class Unhurried(BinanceFutures):
    """The adapter of a venue that lets everybody ask as much as they like."""

    limits = replace(BinanceFutures.limits, weights={"weight": Rate(10**9, 60.0)})


class Ours:
    """Feed, market, store and tasks, joined as the server joins them; `road` is `rest`, `files` or `polite`."""

    def __init__(self, port: str, road: str, folder: str) -> None:
        address = f"http://127.0.0.1:{port}/{VENUE}"
        clock, bus, telemetry = SystemClock(), Bus(), Telemetry()
        self._http = HttpClient()
        self._series = SqlSeries(sqlite_url(Path(folder) / "market.sqlite3"))
        venue = BinanceFutures() if road == "polite" else Unhurried()
        self._feed = Feed(
            {VENUE: Access(venue, address, {})},
            bus=bus,
            clock=clock,
            http=self._http,
            sockets=SocketClient(),
            telemetry=telemetry,
            chance=random.Random(SEED),
        )
        self._market = Market(self._feed, self._series, bus, clock, telemetry, Candles())
        archive = Archives({VENUE: address}, ARCHIVES, http=self._http, clock=clock, telemetry=telemetry)
        self._tasks = Tasks(
            market=self._market,
            outside=self._feed,
            store=self._series.tasks,
            clock=clock,
            chance=random.Random(SEED),
            telemetry=telemetry,
            archive=archive if road == "files" else None,
        )
        self.acts: Mapping[str, Act] = {"backfill": self._backfill, "live": self._live}

    async def start(self, stack: AsyncExitStack) -> int:
        stack.callback(self._series.close)
        stack.push_async_callback(self._http.close)
        stack.push_async_callback(self._feed.stop)
        stack.push_async_callback(self._market.close)
        await self._feed.start()
        self._instrument = (await self._market.instruments(VENUE))[SYMBOL]
        work = [asyncio.create_task(self._market.run()), asyncio.create_task(self._tasks.run())]

        async def end() -> None:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)

        stack.push_async_callback(end)
        return 0

    async def _backfill(self, every: str, seconds: str) -> Mapping[str, Any]:
        """The year, or so many seconds of it; with `every` above zero a live question every so many seconds."""
        over = asyncio.Event()
        asking = asyncio.create_task(self._ask(float(every), over)) if float(every) else None
        with Peak() as peak:
            before, began = spent(), time.monotonic()
            task = await self._tasks.create(self._instrument, 60, START_NS, END_NS)
            while task.state in ACTIVE and time.monotonic() - began < float(seconds):
                await asyncio.sleep(LOOK_S)
                task = await self._tasks.get(task.id)
            after, took_s = spent(), time.monotonic() - began
        over.set()
        return {
            "state": task.state,
            "error": task.error,
            "candles": task.candles,
            "cpu_s": after["cpu_s"] - before["cpu_s"],
            "wall_s": took_s,
            "before": before["rss"],
            "peak": peak.rss,
            "after": after["rss"],
            "live_s": [] if asking is None else await asking,
        }

    async def _live(self, every: str, seconds: str) -> Mapping[str, Any]:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(float(seconds), over.set)
        return {"live_s": await self._ask(float(every), over)}

    async def _ask(self, every_s: float, over: asyncio.Event) -> Sequence[float]:
        """How long each answer took from when its question was due, whether or not the one before had come."""
        took_s: list[float] = []

        async def ask(due_s: float) -> None:
            question = Ask(query=Query.CANDLES, symbol=SYMBOL, interval_s=60, limit=2, newest=True)
            async for _ in self._feed.ask(VENUE, question):
                break
            took_s.append(time.monotonic() - due_s)

        async with asyncio.TaskGroup() as asked:
            due_s = time.monotonic()
            while not over.is_set():
                asked.create_task(ask(due_s))
                due_s += every_s
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), max(0.0, due_s - time.monotonic()))
        return took_s


class Peak:
    """The most memory this process held while it lasted."""

    def __enter__(self) -> "Peak":
        self.rss = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._over.is_set():
            self.rss = max(self.rss, process.memory_info().rss)
            self._over.wait(SAMPLE_S)


class Least:
    """The floors: the same bodies fetched and thrown away, the same rows written by the sqlite3 module."""

    def __init__(self, port: str) -> None:
        self._address = f"http://127.0.0.1:{port}/{VENUE}"
        self.acts: Mapping[str, Act] = {"fetch": self._fetch, "write": self._write}

    async def start(self, stack: AsyncExitStack) -> int:
        self._http = HttpClient()
        stack.push_async_callback(self._http.close)
        return 0

    async def _fetch(self, file: str) -> Mapping[str, Any]:
        asked = json.loads(await asyncio.to_thread(Path(file).read_text))
        targets = [f"{self._address}{target}" for target in asked]
        before, began, size = spent(), time.monotonic(), 0
        for target in targets:
            answer = await self._http.send("GET", target, headers=UNTOLD)
            assert answer.status == 200, target
            size += len(answer.body)
        return {
            "cpu_s": spent()["cpu_s"] - before["cpu_s"],
            "wall_s": time.monotonic() - began,
            "bytes": size,
        }

    async def _write(self, source: str, file: str, rows: str) -> Mapping[str, Any]:
        """What stands in `source`, so many rows a transaction."""
        with closing(sqlite3.connect(source)) as theirs:
            ready = theirs.execute(f"SELECT {', '.join(COLUMNS)} FROM candles ORDER BY open_ns").fetchall()
        with closing(plain_file(Path(file))) as plain:
            before, began = spent(), time.monotonic()
            for low in range(0, len(ready), int(rows)):
                plain.executemany(INSERT, ready[low : low + int(rows)])
                plain.commit()
            return {"cpu_s": spent()["cpu_s"] - before["cpu_s"], "wall_s": time.monotonic() - began}


class Klines:
    """HyperORU as it is served, on a store that is there."""

    def __init__(self, file: str) -> None:
        clock, bus, telemetry = ManualClock(END_S * NS), Bus(), Telemetry()
        market = Market(Outside(), SqlSeries(sqlite_url(Path(file))), bus, clock, telemetry, Candles())
        doors = Doors(
            clock=clock,
            keys=Keys(MemoryKeys(), b"pepper", clock, telemetry),
            market=market,
            bus=bus,
            follow=market.follow,
            admission=Admission(clock, requests_per_s=1e9, burst=1_000_000_000, loopback=True),
            push=Push(telemetry),
            telemetry=telemetry,
            bare_venue="binance",
        )
        self._server = HttpServer(application(doors, [Hyperoru(doors)]), "127.0.0.1", 0)
        self.acts: Mapping[str, Act] = {}

    async def start(self, stack: AsyncExitStack) -> int:
        del stack
        return int((await self._server.start()).rpartition(":")[2])


SIDES: Mapping[str, Callable[..., Any]] = {"venue": Venue, "ours": Ours, "least": Least, "klines": Klines}


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(main(*sys.argv[1:]))
