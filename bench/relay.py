"""Calls of a language model through us beside the same calls of its upstream: `python -m bench relay`.

An upstream in a process of its own answers at once: a fixed body, or PIECES pieces of a stream, each in a write of its own.
Ours stands between: key, limits, hold, upstream, settlement and usage on SQLite. The client is the same both ways, and
shares a core with the upstream. Goals (microseconds): 2,000 added to a call of one caller, 300 of CPU a call, 50 a piece.
"""

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from statistics import quantiles
from typing import cast

import uvloop

from bench import child
from bench.pair import Child, answer_of
from bench.pair import child as started
from bench.tables import Row
from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.limits import Limits
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.tokens import Tokens
from openoutcry.api.agentk.rest import Agentk
from openoutcry.api.asgi import HttpServer, application
from openoutcry.config import AccountsConfig, AgentkConfig, ModelsConfig, TierConfig, UpstreamConfig
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Posting
from openoutcry.llm.models import Models
from openoutcry.llm.routing import Line, Routed
from openoutcry.money import KAI
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import configure_logs
from openoutcry.transport import HttpClient
from openoutcry.upstreams.openai import OpenAi

TITLE = "chat completions through us; floor: the same upstream called directly"
CALLERS = (1, 16, 64)
PIECES = 64
# Between two pieces where each is to come alone.
PAUSE_S = 0.01
PACED_CALLERS = 16
WARM_S = 0.5
SECONDS = 3.0
MANY = 1_000_000_000
PATH = b"/v1/chat/completions"
# Of zeros, so that the load knows it too.
KEY = b"kai-" + b"0" * 64

_SAID = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1795653939,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Up, and on rising volume."},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":64,"total_tokens":73}}'
)
_SAYS = b'"content":" word"'
_PIECE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795653939,"model":"m","choices":[{"index":0,'
    b'"delta":{' + _SAYS + b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_ENDED = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":64,"total_tokens":73}}\n\ndata: [DONE]\n\n'
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
_PLAIN = _HEAD % b"application/json" + b"content-length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
_STREAM = _HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"


def table() -> list[Row]:
    """Rates, what is added to a call, and what a call and a piece cost."""
    return uvloop.run(measured())


async def measured() -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with upstream(0.0) as direct, started("ours", str(direct), folder, module="bench.relay") as ours:
            for stream, kind in ((False, "plain"), (True, "streamed")):
                for callers in CALLERS:
                    rows += await beside(f"{kind}, {callers} callers", direct, ours, callers, stream=stream)
    with tempfile.TemporaryDirectory() as folder:
        async with upstream(PAUSE_S) as direct, started("ours", str(direct), folder, module="bench.relay") as ours:
            _, plain_us = await spending(ours, PACED_CALLERS, stream=False)
            _, streamed_us = await spending(ours, PACED_CALLERS, stream=True)
    piece_us = (streamed_us - plain_us) / PIECES
    return [*rows, Row("CPU a piece that comes alone (less is better)", piece_us, None, "us")]


async def beside(name: str, direct: int, ours: Child, callers: int, *, stream: bool) -> list[Row]:
    floor = await load(direct, callers, stream=stream)
    told, cpu_us = await spending(ours, callers, stream=stream)
    rows = [Row(name, told.per_s, floor.per_s, "calls/s")]
    if stream:
        rows += _added("first piece", told.first_s, floor.first_s)
    return [
        *rows,
        *_added("whole", told.whole_s, floor.whole_s),
        Row("  CPU a call (less is better)", cpu_us, None, "us"),
    ]


def _added(what: str, ours_s: Sequence[float], floor_s: Sequence[float]) -> list[Row]:
    ours, floor = (quantiles(each, n=100) for each in (ours_s, floor_s))
    return [
        Row(f"  {what}, p{at} (less is better)", 1e6 * ours[at - 1], 1e6 * floor[at - 1], "us")
        for at in (50, 99)
    ]  # fmt: skip


async def spending(ours: Child, callers: int, *, stream: bool) -> "tuple[Load, float]":
    """The load, and the server's CPU time a call in microseconds."""
    await load(ours.port, callers, stream=stream, seconds=WARM_S)
    before = await ours.spent()
    told = await load(ours.port, callers, stream=stream)
    after = await ours.spent()
    return told, 1e6 * (after.cpu_s - before.cpu_s) / len(told.whole_s)


@dataclass(frozen=True)
class Load:
    """How many calls a second, and for each how long its first bytes and all of it took."""

    per_s: float
    first_s: Sequence[float]
    whole_s: Sequence[float]


async def load(port: int, callers: int, *, stream: bool, seconds: float = SECONDS) -> Load:
    """Each caller asks again as soon as its answer is whole."""
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: Caller(stream=stream), "127.0.0.1", port))[1] for _ in range(callers)]
    began_s = time.perf_counter()
    await asyncio.sleep(seconds)
    for caller in made:
        caller.last = True
    await asyncio.gather(*(caller.over for caller in made))
    per_s = sum(len(caller.whole_s) for caller in made) / (time.perf_counter() - began_s)
    return Load(
        per_s, [s for caller in made for s in caller.first_s], [s for caller in made for s in caller.whole_s]
    )  # fmt: skip


class Caller(asyncio.Protocol):
    """Asks, reads the answer to its end, and asks again until it is told that this was the last."""

    def __init__(self, *, stream: bool) -> None:
        body = b'{"model":"kai-fast","max_tokens":64,"messages":[{"role":"user","content":"Up?"}]%s}' % (
            b',"stream":true' if stream else b""
        )
        self._question = (
            b"POST %s HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (PATH, KEY, len(body), body)
        )
        self._stream = stream
        self._heard = b""
        self._asked_s = 0.0
        self.first_s: list[float] = []
        self.whole_s: list[float] = []
        self.last = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._heard:
            self.first_s.append(time.perf_counter() - self._asked_s)
        self._heard += data
        if not self._whole():
            return
        self.whole_s.append(time.perf_counter() - self._asked_s)
        wrong = not self._heard.startswith(b"HTTP/1.1 200") or (self._stream and self._heard.count(_SAYS) != PIECES)
        if wrong and not self.over.done():
            self.over.set_exception(AssertionError(self._heard[:1_000]))
        elif self.last and not self.over.done():
            self.over.set_result(None)
            self._transport.close()
        elif not wrong:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionResetError("the server hung up") if exc is None else exc)

    def _ask(self) -> None:
        self._heard = b""
        self._asked_s = time.perf_counter()
        self._transport.write(self._question)

    def _whole(self) -> bool:
        head, found, body = self._heard.partition(b"\r\n\r\n")
        if not found:
            return False
        told = head.lower()
        if b"transfer-encoding: chunked" in told:
            return body.endswith(b"\r\n0\r\n\r\n")
        return len(body) >= int(told.partition(b"content-length:")[2].split(b"\r\n", 1)[0])


# The upstream


@asynccontextmanager
async def upstream(pause_s: float) -> AsyncIterator[int]:
    """A running one, on the core of the load; its port."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.relay", "upstream", str(pause_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        port: int = (await answer_of(process))["port"]
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Upstream:
    """Answers at once, whatever it is asked, as a stream where that is asked for."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    async def start(self) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Answering(self._pause_s), "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    def send(self, payload: bytes) -> None:
        raise AssertionError(f"nobody follows this one, and {payload!r} was pushed")


class _Answering(asyncio.Protocol):
    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._heard = b""
        self._speaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._speaking is not None:
            self._speaking.cancel()

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, found, body = self._heard.partition(b"\r\n\r\n")
        told = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if not found or len(body) < int(told or b"0"):
            return
        self._heard = b""
        if not head.startswith(b"POST " + PATH):  # it counts no tokens, and lists no models
            self._transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        elif b'"stream":true' in body:
            self._speaking = asyncio.get_running_loop().create_task(self._speak())
        else:
            self._transport.write(_PLAIN)

    async def _speak(self) -> None:
        self._transport.write(_STREAM)
        for _ in range(PIECES):
            self._transport.write(b"%x\r\n%s\r\n" % (len(_PIECE), _PIECE))
            # With no pause: a write of its own all the same.
            await asyncio.sleep(self._pause_s)
        self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(_ENDED), _ENDED))


# Ours


class Ours:
    """The whole dialect over books on SQLite, with a key that is looked up and limits that are counted."""

    def __init__(self, port: int, folder: Path) -> None:
        doors = child._doors()  # noqa: SLF001  the doors of every benchmark
        clock, telemetry, url = doors.clock, doors.telemetry, sqlite_url(folder / "ledger.sqlite3")
        self._keys = Keys(MemoryKeys(), b"pepper", clock, telemetry, random=bytes)
        numbers = AccountsConfig(tiers={"standard": TierConfig(requests_per_min=MANY, tokens_per_min=MANY)})
        self._accounts = Accounts(
            MemoryAccounts(), Passwords(), Tokens(b"s" * 64, clock), clock, telemetry, numbers
        )  # fmt: skip
        self._ledger = Ledger(SqlLedger(url), clock, telemetry)
        named = UpstreamConfig(base_url=f"http://127.0.0.1:{port}/v1", model="m")
        config = ModelsConfig(upstreams={"up": named}, kai_usd=Decimal(1))
        http = HttpClient(named.idle_s, connections_max=config.calls_max)
        route = Routed([Line("up", named, OpenAi(), http, clock, telemetry)], clock, random.Random(1))
        models = Models(dict.fromkeys(config.aliases, route), self._ledger, SqlUsage(url), clock, telemetry, config)
        self._doors = replace(
            doors,
            keys=self._keys,
            accounts=self._accounts,
            callers=Callers(self._keys, self._accounts, numbers.tiers, numbers.tier),
            limits=Limits(clock, telemetry),
            ledger=self._ledger,
            models=models,
            agentk=AgentkConfig(venue="binance_futures"),
        )

    async def start(self) -> int:
        account, _ = await self._accounts.register("bench@example.com", "a-long-password")
        _, text = await self._keys.create("bench", account=account.id)
        assert text.encode() == KEY
        much = 10**15
        await self._ledger.transfer("grant", [Posting(ISSUANCE, KAI.name, -much), Posting(account.id, KAI.name, much)])
        server = HttpServer(application(self._doors, [Agentk(self._doors)]), "127.0.0.1", 0)
        return int((await server.start()).rpartition(":")[2])

    def send(self, payload: bytes) -> None:
        raise AssertionError(f"nobody follows this one, and {payload!r} was pushed")


if __name__ == "__main__":
    # Standard output is for answers.
    configure_logs("warning", as_json=True)
    with suppress(KeyboardInterrupt):
        if sys.argv[1] == "upstream":
            uvloop.run(child.obey(Upstream(float(sys.argv[2]))))
        uvloop.run(child.obey(Ours(int(sys.argv[2]), Path(sys.argv[3]))))
