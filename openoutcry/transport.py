"""Http and WebSocket as ports, and the real clients behind them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import httpx2
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

FRAME_BYTES_MAX = 16 * 1024 * 1024
BODY_BYTES_MAX = 64 * 1024 * 1024
CONNECT_S_MAX = 10.0
ANSWER_S_MAX = 20.0
QUEUE_FRAMES_MAX = 1_024
CONNECTIONS_MAX = 64


class TransportError(Exception):
    """The other side cannot be reached, broke off, or sent more than we take. The text holds no address."""


class Response(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http(Protocol):
    """One question, one answer."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Raises TransportError."""
        ...


class Socket(Protocol):
    """An open WebSocket. Iterating yields frames (text as UTF-8 bytes) until it closes; then raises TransportError."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def send(self, frame: bytes) -> None:
        """Send as text. Raises TransportError."""
        ...

    async def close(self) -> None:
        """Close; a second call does nothing."""
        ...


class Sockets(Protocol):
    """Opens WebSockets."""

    async def open(self, url: str) -> Socket:
        """Raises TransportError."""
        ...


class HttpClient:
    """Http on httpx2: pooled, no redirects, no environment proxies, bodies bounded."""

    def __init__(self, answer_s_max: float = ANSWER_S_MAX, *, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._body_bytes_max = body_bytes_max
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(answer_s_max, connect=CONNECT_S_MAX),
            limits=httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Raises TransportError."""
        try:
            async with self._client.stream(
                method, url, params=list(query) or None, headers=dict(headers or {}), content=body
            ) as answer:
                parts: list[bytes] = []
                size = 0
                async for part in answer.aiter_bytes():
                    size += len(part)
                    if size > self._body_bytes_max:
                        raise TransportError(f"answer larger than {self._body_bytes_max} bytes")
                    parts.append(part)
                return Response(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, b"".join(parts))
        except (httpx2.HTTPError, httpx2.InvalidURL) as e:
            raise TransportError(type(e).__name__) from e

    async def close(self) -> None:
        """Close all pooled connections."""
        await self._client.aclose()


class SocketClient:
    """Sockets on the `websockets` library: bounded frames, bounded queue, answers pings by itself."""

    async def open(self, url: str) -> Socket:
        """Raises TransportError."""
        try:
            connection = await connect(
                url,
                max_size=FRAME_BYTES_MAX,
                max_queue=QUEUE_FRAMES_MAX,
                open_timeout=CONNECT_S_MAX,
                close_timeout=1.0,
                # The venue's own heartbeat and our staleness clocks decide; library pings would only add traffic.
                ping_interval=None,
                compression=None,
                proxy=None,
            )
        except (OSError, TimeoutError, InvalidHandshake, ValueError) as e:
            raise TransportError(type(e).__name__) from e
        return _Socket(connection)


class _Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield await self._connection.recv(decode=False)
        except ConnectionClosed as e:
            raise TransportError(_why(e)) from e

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame, text=True)
        except ConnectionClosed as e:
            raise TransportError(_why(e)) from e

    async def close(self) -> None:
        await self._connection.close()


def _why(closed: ConnectionClosed) -> str:
    received = closed.rcvd
    return f"closed {received.code} {received.reason}".strip() if received else "connection lost"
