"""Http and WebSocket as ports, and the real clients behind them."""

import asyncio
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


class TransportTimeout(TransportError):
    """The other side did not do in time what it was waited for."""


class Unconnected(TransportError):
    """No connection came about: the other side has not heard of it."""


class UnconnectedTimeout(Unconnected, TransportTimeout):
    """No connection came about in time."""


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


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long an answer that is read as it comes is waited for: the connection, its first bytes, the next ones, the end.

    `first_byte_s` holds from the question to the first bytes of the body, the head of the answer included.
    """

    connect_s: float
    first_byte_s: float
    idle_s: float
    whole_s: float


class Arriving(Protocol):
    """An answer whose head is here. Iterating, once, yields its body as it comes, then raises TransportError where it broke off.

    Nothing more is read than is taken: who reads slowly makes the other side wait.
    """

    status: int
    headers: Mapping[str, str]

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None:
        """Break the connection off, unless all was read; a second call does nothing."""
        ...


class Streams(Protocol):
    """One question, and an answer that is read as it comes."""

    async def begin(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        patience: Patience,
    ) -> Arriving:
        """Raises TransportError, of it Unconnected and TransportTimeout."""
        ...


class Web(Http, Streams, Protocol):
    """Both ways to ask."""


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
    """Http and Streams on httpx2: pooled, no redirects, no environment proxies, bodies bounded."""

    def __init__(
        self,
        answer_s_max: float = ANSWER_S_MAX,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(answer_s_max, connect=CONNECT_S_MAX),
            limits=httpx2.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
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

    async def begin(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        patience: Patience,
    ) -> Arriving:
        """Raises TransportError, of it Unconnected and TransportTimeout."""
        now_s = asyncio.get_running_loop().time()
        whole_s = now_s + patience.whole_s
        first_s = min(now_s + patience.first_byte_s, whole_s)
        try:
            question = self._client.build_request(
                method,
                url,
                # Of packed bytes nobody can say how many they will be.
                headers={**(headers or {}), "accept-encoding": "identity"},
                content=body,
                # Reading is bounded below: one wait for the first bytes, another for each of the next.
                timeout=httpx2.Timeout(None, connect=patience.connect_s, pool=patience.connect_s),
            )
            async with asyncio.timeout_at(first_s):
                answer = await self._client.send(question, stream=True)
        except TimeoutError as e:
            raise TransportTimeout("nothing came in time") from e
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as e:
            raise UnconnectedTimeout(type(e).__name__) from e
        except (httpx2.ConnectError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as e:
            raise Unconnected(type(e).__name__) from e
        except httpx2.HTTPError as e:
            raise TransportError(type(e).__name__) from e
        arriving = _Arriving(answer, patience.idle_s, first_s, whole_s, self._body_bytes_max)
        if arriving.headers.get("content-encoding", "identity") != "identity":
            await arriving.close()
            raise TransportError("packed, which was not asked for")
        return arriving

    async def close(self) -> None:
        """Close all pooled connections."""
        await self._client.aclose()


class _Arriving:
    def __init__(
        self, answer: httpx2.Response, idle_s: float, first_s: float, whole_s: float, body_bytes_max: int
    ) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}
        self._answer = answer
        self._parts = answer.aiter_raw()
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        # On the loop's clock: until when the next bytes are waited for, and the last ones.
        self._until_s = first_s
        self._whole_s = whole_s
        self._size = 0
        self._body_bytes_max = body_bytes_max

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._until_s):
                part = await anext(self._parts)
        except TimeoutError as e:
            await self.close()
            raise TransportTimeout("nothing more came in time" if self._size else "nothing came in time") from e
        except httpx2.HTTPError as e:
            await self.close()
            raise TransportError(type(e).__name__) from e
        self._size += len(part)
        if self._size > self._body_bytes_max:
            await self.close()
            raise TransportError(f"answer larger than {self._body_bytes_max} bytes")
        self._until_s = min(self._loop.time() + self._idle_s, self._whole_s)
        return part

    async def close(self) -> None:
        await self._parts.aclose()
        await self._answer.aclose()


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
