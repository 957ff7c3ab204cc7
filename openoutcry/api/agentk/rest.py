"""agent-k: accounts, credits, language models, market data, news and tokens, over HTTP and WebSocket."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.api.agentk import accounts, asyncapi, billing, catalogues, chat, chat_wire, market, wire, ws
from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.errors import Refusal

TITLE = "agent-k"


class Agentk:
    """The dialect."""

    name = "agentk"
    prefixes: Sequence[str] = (
        *("/v1/auth/", "/v1/billing/", "/v1/chat/", "/v1/ai/", "/v1/models", "/v1/market/", "/v1/news"),
        *("/v1/tokens/", "/v1/pumpfun/", "/v1/ws", "/v1/asyncapi.json", "/v1/health"),
    )
    title = TITLE
    version = "1.0"
    tags: Sequence[Mapping[str, str]] = (
        {"name": accounts.TAG, "description": "Register, log in, mint and revoke keys"},
        {"name": billing.TAG, "description": "Credits: balance, usage, top-ups"},
        {"name": chat.TAG, "description": "Language models, paid from the balance by the token"},
        {"name": market.TAG, "description": "Candles; live ones at `/v1/ws` (`/v1/asyncapi.json`)"},
        {"name": catalogues.TAG, "description": "What outside catalogues tell"},
    )
    schemas: Mapping[str, Any] = chat_wire.SCHEMAS

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._gate = wire.Gate(doors)

    def rest(self) -> APIRouter:
        """Every HTTP route."""
        routes = APIRouter()
        # For the page that tries routes out: where a key may stand.
        keyed = [
            Security(HTTPBearer(scheme_name="account", auto_error=False)),
            Security(APIKeyHeader(name="X-API-Key", scheme_name="account_key", auto_error=False)),
        ]
        # First, and saying itself where a key may stand: each route before it, and each of FastAPI's locks, takes its time.
        routes.include_router(market.router(self._doors, self._gate))
        for part in (accounts, billing, chat, catalogues):
            routes.include_router(part.router(self._doors, self._gate), dependencies=keyed)

        @routes.get("/v1/health", tags=["Operations"], summary="Alive")
        async def health() -> Response:
            return Response(b'{"status":"ok"}', media_type="application/json")

        @routes.get("/v1/asyncapi.json", tags=[market.TAG], summary="The WebSocket, described")
        async def described() -> Response:
            return Response(wire.encode(asyncapi.document(self._doors)), media_type="application/json")

        return routes

    def sockets(self) -> Sequence[WebSocketRoute]:
        """/v1/ws."""
        return ws.sockets(self._doors, self._gate)

    def services(self) -> Sequence[Service]:
        """It has no gRPC."""
        return ()

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """None: each answer tells the caller's limits in its headers."""
        del scope, packed
        return None

    def refuse(self, refusal: Refusal) -> Response:
        """{"detail": …, "error": {…}}"""
        return wire.refuse(refusal)

    def malformed(self, error: RequestValidationError) -> Response:
        """422."""
        return wire.malformed(error)

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 for a path, 405 for a method, 413 for a body."""
        if status == 404:
            detail = "there is nothing at this path"
        elif status == 405:
            detail = f"{request.method} is not served here"
        return wire.no(status, detail, "invalid_request_error", None, None, headers)

    def broken(self) -> Response:
        """500."""
        return wire.no(500, "internal error", "api_error", "internal_error")
