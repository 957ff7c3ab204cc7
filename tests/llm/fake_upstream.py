"""An upstream on a socket of this machine that does what a test tells it, call by call.

async with FakeUpstream([whole("Up."), status(500), streamed("U", "p.")]) as upstream:
    ...  upstream.url ends with /v1; upstream.asked are the questions it heard
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from openoutcry.clock import NS, ManualClock


class Talk:
    """One question, and the connection to answer it on."""

    def __init__(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self._writer = writer

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def answer(self, status: int, body: bytes, *headers: str) -> None:
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
        await self.raw("\r\n".join([*head, "", ""]).encode() + body)

    async def begin(self) -> None:
        await self.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def more(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def cut(self) -> None:
        """Break the connection off."""
        self._writer.transport.abort()


Behaviour = Callable[[Talk], Awaitable[None]]


class FakeUpstream:
    """Answers each chat with the next of `script` (the last one for ever); other paths with `paths`, else with 404."""

    def __init__(self, script: Sequence[Behaviour], paths: dict[str, Behaviour] | None = None) -> None:
        self.script = list(script)
        self.paths = paths or {}
        self.asked: list[Talk] = []
        self.beside: list[Talk] = []
        self.connections = 0
        self.heard = asyncio.Event()  # the first question is here
        self.left = asyncio.Event()  # a caller broke off before it was answered
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self.connections += 1
        try:
            first = await reader.read(1)
            while first:
                first = await self._one(first, reader, writer)
        except ConnectionError:
            self.left.set()
        except asyncio.IncompleteReadError:
            return  # it asks no more
        finally:
            writer.close()

    async def _one(self, begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Answer one question, whose first byte is read; gives the next one's, or nothing where there is none."""
        first, *lines = (begun + await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = first.split(" ")
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        talk = Talk(method, path, headers, body, writer)
        if path == "/v1/chat/completions":
            self.asked.append(talk)
            self.heard.set()
            behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        else:
            self.beside.append(talk)
            behaviour = self.paths.get(path, status(404))
        answering = asyncio.ensure_future(behaviour(talk))
        # Nothing more is asked before the answer is over: what can be read meanwhile is the end of the connection.
        following = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, following}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.left.set()
                return b""
            await answering
            return b"" if writer.is_closing() else await following
        finally:
            for each in (answering, following):
                each.cancel()
            await asyncio.gather(answering, following, return_exceptions=True)


def whole(text: str = "Up.", tokens: tuple[int, int] | None = (9, 2), **message: Any) -> Behaviour:
    """A whole answer."""

    async def behave(talk: Talk) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        told = {"id": "up-1", "model": "m-1", "choices": [choice], "usage": _usage(tokens)}
        await talk.answer(200, json.dumps(told).encode())

    return behave


def status(code: int, body: bytes = b"{}", *headers: str) -> Behaviour:
    """That status."""

    async def behave(talk: Talk) -> None:
        await talk.answer(code, body, *headers)

    return behave


def pieces(
    *texts: str, finish: str | None = "stop", tokens: tuple[int, int] | None = (9, 2), done: bool = True
) -> bytes:
    """What is streamed, as server-sent events."""
    lines: list[Any] = [
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts
    ]
    if finish is not None:
        lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if tokens is not None:
        lines.append({"choices": [], "usage": _usage(tokens)})
    return "".join(f"data: {json.dumps(line)}\n\n" for line in lines).encode() + (b"data: [DONE]\n\n" if done else b"")


def streamed(*texts: str, bytewise: bool = False, **how: Any) -> Behaviour:
    """A streamed answer; `bytewise`: a byte at a time."""

    async def behave(talk: Talk) -> None:
        await talk.begin()
        body = pieces(*texts, **how)
        for at in range(0, len(body), 1 if bytewise else len(body)):
            await talk.more(body[at : at + 1] if bytewise else body)
        await talk.end()

    return behave


def cut_after(*texts: str) -> Behaviour:
    """Breaks off after it has said something, or before it says anything."""

    async def behave(talk: Talk) -> None:
        await talk.begin()
        if texts:
            await talk.more(pieces(*texts, finish=None, tokens=None, done=False))
        talk.cut()

    return behave


def silent_after(*texts: str) -> Behaviour:
    """Says something, or nothing, and then no more."""

    async def behave(talk: Talk) -> None:
        if texts:
            await talk.begin()
            await talk.more(pieces(*texts, finish=None, tokens=None, done=False))
        await asyncio.Event().wait()

    return behave


async def dropped(talk: Talk) -> None:
    """Breaks off without a byte."""
    talk.cut()


async def moving(clock: ManualClock, work: Awaitable[Any], step_s: float = 0.25) -> Any:
    """What the work comes to; the clock is moved on whenever somebody waits for it."""
    task = asyncio.ensure_future(work)
    async with asyncio.timeout(30):
        while not task.done():
            if clock.sleepers:
                await clock.advance(step_s)
            await asyncio.sleep(0)
    return await task


def waited_s(clock: ManualClock, since_ns: int) -> float:
    """How far it was moved."""
    return (clock.now_ns() - since_ns) / NS


def _usage(tokens: tuple[int, int] | None) -> Any:
    return None if tokens is None else {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
