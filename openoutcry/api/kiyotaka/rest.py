"""Kiyotaka over HTTP: one function a route. Parse, ask, render."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute

from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.api.kiyotaka import contract
from openoutcry.api.kiyotaka.catalogue import Catalogue
from openoutcry.api.kiyotaka.meta import Meta
from openoutcry.api.kiyotaka.points import Points
from openoutcry.api.kiyotaka.rpc import Rpc
from openoutcry.api.kiyotaka.shapes import Shape
from openoutcry.api.kiyotaka.ws import Sockets
from openoutcry.errors import Refusal


class Kiyotaka:
    """The dialect: points over gRPC, REST and JSON-RPC."""

    name = "kiyotaka"
    prefixes: Sequence[str] = ("/v1/", "/v2/", "/docs/", "/swagger/", "/proto/")
    title = "Points"
    version = "1.0"
    tags: Sequence[Mapping[str, str]] = ({"name": "Points", "description": "Market data as points of series"},)
    schemas: Mapping[str, Any] = {}

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        catalogue = Catalogue(doors.market, doors.exchanges, doors.clock)
        self.points = Points(doors, catalogue)
        self.meta = Meta(catalogue)
        self._rpc = Rpc(doors, self.points, self.meta)
        self._sockets = Sockets(doors, self.points, self.meta, Shape("proto"), self.refuse)

    def services(self) -> Sequence[Service]:
        """`api.API`."""
        return (
            Service(contract.SERVICE, self._rpc.add, tuple(file.SerializeToString() for file in contract.FILES.file)),
        )

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """None: every answer here needs a key."""
        del scope, packed
        return None

    def sockets(self) -> Sequence[WebSocketRoute]:
        """The JSON-RPC socket."""
        return self._sockets.routes()

    def rest(self) -> APIRouter:
        """The seven routes, and the pages."""
        return APIRouter()

    def refuse(self, refusal: Refusal) -> Response:
        """No, in grpc-gateway's form."""
        return JSONResponse({"message": refusal.text}, 400)

    def malformed(self, error: RequestValidationError) -> Response:
        """400."""
        return JSONResponse({"message": str(error)}, 400)

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404, 405."""
        del request
        return JSONResponse({"message": detail}, status, dict(headers))

    def broken(self) -> Response:
        """500."""
        return JSONResponse({"message": "internal error"}, 500)
