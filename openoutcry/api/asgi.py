"""One HTTP and WebSocket app, every dialect's routes; and the server that runs it inside our loop.

Origins (CORS) ─▶ Gate (admission, limits, request id, faults) ─▶ a dialect's hot answer, or FastAPI, or a WebSocket route
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openoutcry.api import health
from openoutcry.api.dialect import REQUEST_ID, Dialect, Doors, owner
from openoutcry.api.frames import FAULT, TRY_LATER, Framed, fitting
from openoutcry.api.requests import Bounded
from openoutcry.errors import LimitExceeded, Refusal, TooLarge

BODY_BYTES_MAX = 1024 * 1024
MESSAGE_BYTES_MAX = 64 * 1024  # one WebSocket message from a client
PACKED_BYTES_MIN = 2_000
PING_S = 20.0
KEEP_ALIVE_S = 75
CONNECTIONS_MAX = 25_000
STOP_S_MAX = 3
EXPOSED = (
    *("X-Request-ID", "X-Failed-Exchanges", "X-Missing", "Openoutcry-Coverage", "Retry-After"),
    *("X-Truncated", "X-Next-Start", "Retry-After-Ms", "X-Kai-Cost-Micros", "Idempotent-Replayed"),
    *(f"X-RateLimit-{what}-{of}" for what in ("Limit", "Remaining", "Reset") for of in ("Requests", "Tokens")),
)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOT_HEADERS = [(b"content-type", b"application/json"), (b"vary", b"Accept-Encoding")]

log = structlog.get_logger()


def application(
    doors: Doors,
    dialects: Sequence[Dialect],
    *,
    cors_origins: Sequence[str] = (),
    keyed_origins: Mapping[str, Sequence[str]] | None = None,
    checks: Mapping[str, health.Check] | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> ASGIApp:
    """Everything we serve on the HTTP port. `checks` are what `/ready` asks.

    `keyed_origins` are the origins of single dialects, by name, whose callers bring a key in a header and no cookies.
    """
    routes = _routes(doors, dialects, {} if checks is None else checks, body_bytes_max)
    sockets = Router(routes=[route for dialect in dialects for route in dialect.sockets()])
    gate = Gate(doors, dialects, routes, sockets, body_bytes_max)
    keyed = {name: _cors(gate, origins, cookies=False) for name, origins in (keyed_origins or {}).items()}
    return Origins(dialects, _cors(gate, cors_origins, cookies=True), keyed)


def _cors(app: ASGIApp, origins: Sequence[str], *, cookies: bool) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_credentials=cookies,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=list(EXPOSED),
    )


def _routes(
    doors: Doors, dialects: Sequence[Dialect], checks: Mapping[str, health.Check], body_bytes_max: int
) -> FastAPI:
    first = dialects[0]
    operations = {"name": "Operations", "description": "Is it alive, is it ready, what does it count"}
    # Its pages come from this process: a browser that reaches only us sees them too.
    app = FastAPIOffline(
        title=first.title,
        version=first.version,
        openapi_tags=[dict(tag) for dialect in dialects for tag in dialect.tags] + [operations],
        telemetry={"tracing": False, "metrics": False},
        max_body_size=body_bytes_max,
        # `/docs` and `/docs/` are two pages; a path is served as it is written or not at all.
        redirect_slashes=False,
    )
    # Routes are looked at one after the other: TAKASHI's patterns, which fit most paths, come last.
    for dialect in sorted(dialects, key=lambda each: "/" in each.prefixes):
        app.include_router(dialect.rest())
    app.include_router(health.router(doors.telemetry, checks))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return owner(dialects, request.url.path).refuse(error)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return owner(dialects, request.url.path).malformed(error)

    async def lost(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        dialect = owner(dialects, request.url.path)
        return dialect.lost(request, error.status_code, error.detail, error.headers or {})

    async def broken(request: Request, _: Exception) -> Response:
        # The gate logs it: Starlette raises it again after this answer.
        return owner(dialects, request.url.path).broken()

    # The hot answers are packed before they come here, once for all.
    app.add_middleware(GZipMiddleware, minimum_size=PACKED_BYTES_MIN, compresslevel=1)
    app.add_exception_handler(Exception, broken)
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, lost)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes, tags=app.openapi_tags)
            components = made.setdefault("components", {}).setdefault("schemas", {})
            for dialect in dialects:
                components.update(dialect.schemas)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class Origins:
    """CORS by the dialect that a path belongs to: `keyed` by name, `others` for the rest."""

    def __init__(self, dialects: Sequence[Dialect], others: ASGIApp, keyed: Mapping[str, ASGIApp]) -> None:
        self._dialects, self._others, self._keyed = dialects, others, keyed
        self._prefixes = tuple(prefix for each in dialects if each.name in keyed for prefix in each.prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._others
        # Most requests are decided by this one look.
        if scope["path"].startswith(self._prefixes):
            app = self._keyed.get(owner(self._dialects, scope["path"]).name, app)
        await app(scope, receive, send)


class Gate:
    """What every request passes, whatever its dialect."""

    def __init__(
        self, doors: Doors, dialects: Sequence[Dialect], routes: ASGIApp, sockets: ASGIApp, body_bytes_max: int
    ) -> None:
        self._body_bytes_max = body_bytes_max
        self._admission = doors.admission
        self._dialects = dialects
        self._routes = routes
        self._sockets = sockets
        # Request ids: where this process began, and a number.
        self._run = os.urandom(4).hex().encode()
        self._requests = 0
        counter = doors.telemetry.counter("http_requests", "Requests answered, by status class", ("status",))
        self._answered = {n: counter.labels(f"{n}xx") for n in range(1, 6)}
        gauge = doors.telemetry.gauge("connections", "Open WebSockets of clients")
        gauge.set_function(lambda: doors.admission.connections)
        refused = doors.telemetry.gauge("admission_refused", "Requests and connections refused by a limit")
        refused.set_function(lambda: doors.admission.refused)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._connection(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id, length, packed = self._heads(scope)
        scope[REQUEST_ID] = request_id.decode()
        client = scope["client"]
        path = scope["path"]
        try:
            self._admission.request(client[0] if client else "")
            if length > self._body_bytes_max:
                raise TooLarge(f"a body may have {self._body_bytes_max} bytes")
            for dialect in self._dialects:
                body = dialect.hot(scope, packed=packed)
                if body is not None:
                    await self._answer_hot(body, request_id, send, packed=packed)
                    return
        except Refusal as refusal:
            answer = owner(self._dialects, path).refuse(refusal)
            await answer(scope, receive, self._labelled(send, request_id, _Progress()))
            return
        progress = _Progress()
        labelled = self._labelled(send, request_id, progress)
        try:
            await self._routes(scope, receive, labelled)
        except Exception:  # our own fault, whatever it is: the caller gets an answer, and the next request its turn
            log.exception("request failed", path=path, request_id=request_id.decode())
            if not progress.started:
                await owner(self._dialects, path).broken()(scope, receive, labelled)
            elif not progress.whole:
                raise  # half an answer: uvicorn cuts the connection

    async def _answer_hot(self, body: bytes, request_id: bytes, send: Send, *, packed: bool) -> None:
        self._answered[2].inc()
        headers = [*_HOT_HEADERS, (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
        if packed:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _heads(self, scope: Scope) -> tuple[bytes, int, bool]:
        request_id = b""
        length = 0
        packed = False
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value
            elif name == b"content-length" and value.isdigit():
                length = int(value[:20])
            elif name == b"accept-encoding":
                packed = b"gzip" in value and b"gzip;q=0" not in value.replace(b" ", b"")
        if not request_id:
            self._requests += 1
            request_id = b"req_%b-%d" % (self._run, self._requests)
        return request_id, length, packed

    def _labelled(self, send: Send, request_id: bytes, progress: "_Progress") -> Send:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                progress.started = True
                self._answered[message["status"] // 100].inc()
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            elif message["type"] == "http.response.body":
                progress.whole = not message.get("more_body", False)
            await send(message)

        return labelled

    async def _connection(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope["client"]
        try:
            release = self._admission.connect(client[0] if client else "")
        except LimitExceeded as refusal:
            await _turn_away(receive, send, TRY_LATER, refusal.text)
            return
        try:
            await self._sockets(scope, receive, send)
        except Exception:  # as above: it must not look to the client as if the stream were only quiet
            log.exception("connection failed", path=scope["path"])
            scope["extensions"]["openoutcry.writer"].finish(FAULT, "Internal error")
        finally:
            release()


class _Progress:
    """How far an answer got."""

    started = False
    whole = False


async def _turn_away(receive: Receive, send: Send, code: int, reason: str) -> None:
    # Accepted first: a browser cannot read why a handshake was refused.
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": code, "reason": fitting(reason)})


class HttpServer:
    """uvicorn inside our loop: our protocols, no signal handlers, bounded stop."""

    def __init__(self, app: ASGIApp, host: str, port: int, *, trusted_proxies: Sequence[str] = ()) -> None:
        """`trusted_proxies`: addresses whose X-Forwarded-For says who is calling."""
        self._host = host
        self._port = port
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=Bounded,
                ws=Framed,
                ws_max_size=MESSAGE_BYTES_MAX,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PING_S,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies) or None,
                server_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S_MAX,
            )
        )
        self._running: asyncio.Task[None] | None = None

    @property
    def connections(self) -> Collection[object]:
        """The open connections of clients."""
        return self._server.server_state.connections

    async def start(self) -> str:
        """Listen; returns `host:port` as bound. Raises OSError when the port is taken."""
        listening = _bind(self._host, self._port)
        self._running = asyncio.create_task(self._server.serve(sockets=[listening]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._running, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            self._running.result()  # raises what went wrong
        host, port = listening.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        """Take nobody new, close WebSockets with 1001, let answers finish for a few seconds. Twice does it once."""
        running, self._running = self._running, None
        if running is not None:
            self._server.should_exit = True
            await running
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to __main__


def _bind(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
