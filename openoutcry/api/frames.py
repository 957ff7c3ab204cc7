"""Our WebSocket protocol for uvicorn: frames made once go straight to the transport of many clients.

uvicorn's own frames and encodes each message again for each client, and waits for a slow one. Here the handshake, the
client's frames, pings and the closing handshake stay uvicorn's, and `Framed` itself is the way to write: it stands in
the ASGI scope under `extensions` as `WRITER`.

    scope["extensions"]["openoutcry.writer"].write(text_frame(b'{"close":101818.8}'))
"""

import asyncio
import socket
from asyncio.transports import BaseTransport
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

WRITER = "openoutcry.writer"
# What the kernel keeps for a client that does not read; it doubles the number. More would only hide that it is slow.
KERNEL_BYTES = 64 * 1024
# After our close frame, how long we wait for the client's before the connection is cut.
CLOSE_S_MAX = 2.0
SHUTDOWN_S_MAX = 0.5
REASON_BYTES_MAX = 123  # RFC 6455, 5.5: a control frame carries 125 bytes, two of them the code

GOING_AWAY = 1001
POLICY = 1008
FAULT = 1011
TRY_LATER = 1013


def text_frame(payload: bytes) -> bytes:
    """One unfragmented text frame as a server sends it (RFC 6455, 5.2): no mask."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Writer(Protocol):
    """One client's socket, as those who push see it."""

    choked: bool  # more waits in our buffer than `limit` allows
    relieved: Callable[[], None] | None  # called once the buffer is nearly empty again
    pinged: Callable[[], None] | None  # called when the client pings

    def write(self, frames: bytes) -> None:
        """Send ready frames; never waits. Does nothing once the connection is closing."""
        ...

    def buffered(self) -> int:
        """Bytes not yet given to the kernel."""
        ...

    def limit(self, buffered_bytes_max: int) -> None:
        """Say `choked` above this."""
        ...

    def finish(self, code: int, reason: str) -> None:
        """Close with this code; a second call does nothing."""
        ...


def writer_of(scope: MutableMapping[str, Any]) -> Writer:
    """The writer of an accepted WebSocket."""
    writer: Writer = scope["extensions"][WRITER]
    return writer


class Framed(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with a way to write ready frames, and every ending bounded in time."""

    choked = False
    relieved: Callable[[], None] | None = None
    pinged: Callable[[], None] | None = None
    _pong = b""
    _cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        pipe = transport.get_extra_info("socket")
        if pipe is not None:
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The application's task was made but has not run yet.
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[WRITER] = self

    def write(self, frames: bytes) -> None:
        if not (self.close_sent or self.disconnected or self.transport.is_closing()):
            self.transport.write(frames)

    def buffered(self) -> int:
        return 0 if self.disconnected else self.transport.get_write_buffer_size()

    def limit(self, buffered_bytes_max: int) -> None:
        self.transport.set_write_buffer_limits(high=buffered_bytes_max, low=buffered_bytes_max // 4)

    def finish(self, code: int, reason: str) -> None:
        # Not through `send`, which waits for a slow client's buffer to drain.
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        reason = fitting(reason)
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_S_MAX, self.transport.abort)

    def shutdown(self) -> None:
        """The server stops: 1001 for whoever is connected, and no more than half a second for them to answer."""
        if self.handshake_complete:
            self.finish(GOING_AWAY, "the server is shutting down")
        else:
            self.send_500_response()
            self.transport.close()
        self._cut_after(SHUTDOWN_S_MAX)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # A handshake that is refused with an answer is over; uvicorn logs it as a fault of the application.
            self.handshake_complete = True

    def handle_ping(self) -> None:
        if self.pinged is not None:
            self.pinged()
        # Of all pings that came at once, so that there are none for those after the first.
        pongs = self.conn.data_to_send()
        if self.choked and self.conn.state is State.OPEN:
            # A client that pings and does not read is owed the last pong alone (RFC 6455, 5.5.3).
            self._pong = pongs[-1] if pongs else self._pong
        else:
            self.transport.write(b"".join(pongs))

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        # A client may close and never read: what waits for it must not stay.
        self._cut_after(CLOSE_S_MAX)

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._cut_after(CLOSE_S_MAX)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_after(CLOSE_S_MAX)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.choked = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.choked = False
        if self._pong:
            pong, self._pong = self._pong, b""
            self.write(pong)
        if self.relieved is not None:
            self.relieved()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.relieved = self.pinged = None
        if self._cut is not None:
            self._cut.cancel()

    def _cut_after(self, seconds: float) -> None:
        if not self.disconnected:
            if self._cut is not None:
                self._cut.cancel()
            self._cut = self.loop.call_later(seconds, self.transport.abort)


def fitting(reason: str) -> str:
    """`reason`, cut where a close frame would not hold it."""
    raw = reason.encode()
    return reason if len(raw) <= REASON_BYTES_MAX else raw[: REASON_BYTES_MAX - 3].decode(errors="ignore") + "..."
