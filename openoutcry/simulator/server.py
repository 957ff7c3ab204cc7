"""HTTP and WebSocket on one loopback port, for all personalities, with the rudeness that a test needs of a server.

`http://HOST:PORT/<venue>/…` and `ws://HOST:PORT/<venue>/…`. HTTP is read by httptools; after an upgrade the bytes go to the
sans-IO protocol of `websockets`, and text frames are written straight to the transport.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from websockets.frames import Close, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from openoutcry.clock import Clock
from openoutcry.simulator.kit import Answer, Asked, Line, pairs
from openoutcry.simulator.stage import Stage

BODY_BYTES_MAX = 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
FRAME_BYTES_MAX = 1024 * 1024
UNSENT_BYTES_MAX = 64 * 1024 * 1024  # behind a reader that stalls; then the line is cut
PIPELINE_MAX = 16
NS = 1_000_000_000

log = structlog.get_logger()


class Server:
    """Listens; `stages` by name, the first part of a path."""

    def __init__(self, stages: Mapping[str, Stage], clock: Clock) -> None:
        self.stages, self.clock = stages, clock
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.hushed = False
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free where `port` is 0."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Connection(self), host, port)
        name = self._listening.sockets[0].getsockname()
        return name[0], name[1]

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._listening is None:
            return
        self._listening.close()
        for connection in list(self.connections):
            connection.abort()
        self.hush()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._listening.wait_closed()
        self._listening = None

    def hush(self) -> None:
        """Answer nothing any more; connections stay open."""
        self.hushed = True
        for task in list(self.tasks):
            task.cancel()


class _Connection(asyncio.Protocol):
    """One TCP connection: HTTP questions one after the other, until one of them becomes a WebSocket."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._head = bytearray()
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._waiting: deque[tuple[Asked, bool]] = deque()
        self._busy = False
        self._socket: _Socket | None = None
        self._address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has transports of its own, which are no asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._address = (transport.get_extra_info("peername") or ("",))[0]
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._server.connections.discard(self)
        self._waiting.clear()
        if self._socket is not None:
            self._socket.lost()

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.received(data)
            return
        self._head += data
        if len(self._head) > HEAD_BYTES_MAX + BODY_BYTES_MAX:
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self._write(Answer(400, b"", (), "text/plain"), keep=False)

    def eof_received(self) -> bool:
        return False

    def abort(self) -> None:
        """Break it off."""
        self._transport.abort()

    # httptools calls these

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._head.clear()
        if len(self._waiting) >= PIPELINE_MAX:
            self._transport.abort()
            return
        self._waiting.append((self._asked(), self._parser.should_keep_alive()))
        if not self._busy and not self._server.hushed:
            self._busy = True
            task = asyncio.get_running_loop().create_task(self._work())
            self._server.tasks.add(task)
            task.add_done_callback(self._server.tasks.discard)

    def _asked(self) -> Asked:
        url = httptools.parse_url(self._url)
        query = pairs((url.query or b"").decode("latin-1"))
        path = unquote((url.path or b"/").decode("latin-1"))
        method = self._parser.get_method().decode()
        return Asked(method, path, query, self._headers, bytes(self._body), self._address)

    async def _work(self) -> None:
        while self._waiting:
            asked, keep = self._waiting.popleft()
            answer = await self._answer(asked)
            self._write(answer, keep=keep)
        self._busy = False

    async def _answer(self, asked: Asked) -> Answer:
        stage, path = self._stage(asked.path)
        if stage is None:
            return Answer(404, b"", (), "text/plain")
        clock = self._server.clock
        if stage.switches.slow_s:
            await clock.sleep(stage.switches.slow_s)
        try:
            return await stage.answer(asked._replace(path=path), clock.now_ns())
        except Exception:  # a personality's mistake must be seen as an answer, or the test would wait for ever
            log.exception("simulator failed", venue=stage.name, path=path)
            return Answer(500, b"", (), "text/plain")

    def _stage(self, path: str) -> tuple[Stage | None, str]:
        name, _, rest = path.removeprefix("/").partition("/")
        return self._server.stages.get(name), "/" + rest

    def _write(self, answer: Answer, *, keep: bool) -> None:
        if self._transport.is_closing():
            return
        try:
            reason = HTTPStatus(answer.status).phrase
        except ValueError:
            reason = "Unknown"
        rows = [
            f"HTTP/1.1 {answer.status} {reason}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        if not keep:
            rows.append("Connection: close")
        self._transport.write("\r\n".join([*rows, "", ""]).encode("latin-1") + answer.body)
        if not keep:
            self._transport.close()

    def _upgrade(self) -> None:
        asked = self._asked()
        stage, path = self._stage(asked.path)
        now_ns = self._server.clock.now_ns()
        admitted = stage.admit(path, asked.address, now_ns) if stage else 404
        if stage is None or isinstance(admitted, int):
            self._write(Answer(admitted if isinstance(admitted, int) else 404, b"", (), "text/plain"), keep=False)
            return
        self._socket = _Socket(self._transport, stage, self._server.clock.now_ns)
        line = Line(self._socket, admitted, path, asked.query, asked.address, now_ns)
        self._socket.begin(line, bytes(self._head))
        self._head.clear()


class _Socket:
    """The WebSocket that a connection became."""

    def __init__(self, transport: asyncio.Transport, stage: Stage, now_ns: Callable[[], int]) -> None:
        self._transport, self._stage, self._now_ns = transport, stage, now_ns
        self._protocol = ServerProtocol(max_size=FRAME_BYTES_MAX)
        self._parts = bytearray()
        self._line: Line

    def begin(self, line: Line, head: bytes) -> None:
        """Answer the handshake; `head` is the request as it came, with what followed it."""
        self._line = line
        self._protocol.receive_data(head)
        events = self._protocol.events_received()
        if not events or not isinstance(events[0], Request):
            self._transport.abort()
            return
        self._protocol.send_response(self._protocol.accept(events[0]))
        self._flush()
        if self._protocol.state is not OPEN:
            self._transport.close()
            return
        self._stage.open(line)
        self._events(events[1:])

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._line.mute:
            return  # half open: the client's words and pings vanish
        self._protocol.receive_data(data)
        self._events(self._protocol.events_received())
        self._flush()
        if self._protocol.close_expected():
            self._transport.close()

    def lost(self) -> None:
        """TCP is gone."""
        self._stage.gone(self._line)

    # What a line does

    def text(self, frames: Iterable[bytes]) -> None:
        """Write text frames, joined."""
        if self._transport.is_closing() or self._protocol.state is not OPEN:
            return
        self._transport.write(b"".join([part for frame in frames for part in (_head(len(frame)), frame)]))
        if self._transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self._transport.abort()

    def ping(self) -> None:
        """Ask for a pong."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(str(self._now_ns() // 1_000_000).encode())
            self._flush()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and end."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._flush()
        self._transport.close()

    def cut(self, how: str) -> None:
        """End it the hard way."""
        if how == "close":
            self.close(1000, "")
            return
        if how == "rst":
            raw: Any = self._transport.get_extra_info("socket")
            if raw is not None:
                # Lingering for no time makes the kernel send RST instead of FIN.
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            return
        self._transport.close()

    def _events(self, events: Iterable[Any]) -> None:
        now_ns = self._now_ns()
        for event in events:
            if event.opcode is Opcode.PONG:
                self._line.ponged_ns = self._line.heard_ns = now_ns
            elif event.opcode is Opcode.CLOSE:
                self._line.open = False
                log.debug("client closed", venue=self._stage.name, why=str(Close.parse(event.data)))
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts += event.data
                if event.fin:
                    text, self._parts = bytes(self._parts), bytearray()
                    self._stage.heard(self._line, text, now_ns)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()


def _head(length: int) -> bytes:
    """The header of an unmasked, final text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)
