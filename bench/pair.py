"""A server in one process and the load in this one, each on a core of its own where there are two."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

START_S_MAX = 30.0


@dataclass(frozen=True)
class Spent:
    """What the server process had used up by then."""

    cpu_s: float
    rss: int


class Child:
    """The server process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def spent(self) -> Spent:
        return Spent(**await self.tell("cpu"))

    async def tell(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        return await answer_of(self._process)


async def answer_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the server ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


@asynccontextmanager
async def child(kind: str, *which: str, module: str = "bench.child") -> AsyncIterator[Child]:
    """A running server of that kind."""
    cores = sorted(os.sched_getaffinity(0))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, kind, *which, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        answer = await asyncio.wait_for(answer_of(process), START_S_MAX)
        os.sched_setaffinity(process.pid, {cores[0]})
        os.sched_setaffinity(0, {cores[-1]})
        yield Child(process, answer["port"])
    finally:
        os.sched_setaffinity(0, set(cores))
        if process.returncode is None:
            process.terminate()
        await process.wait()
