"""Alive, ready, metrics.

GET /alive     200 {"status": "alive"}                              the process answers
GET /ready     200 {"status": "ready", "parts": {"store": "ok"}}    or 503, naming what is not
GET /metrics   the counters of every part, in the Prometheus text format
"""

from collections.abc import Callable, Mapping

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from openoutcry.telemetry import Telemetry

Check = Callable[[], str | None]


def router(telemetry: Telemetry, checks: Mapping[str, Check]) -> APIRouter:
    """The routes; each check returns None, or what is wrong with its part. Checks must be quick and must not wait."""
    routes = APIRouter(tags=["Operations"])

    @routes.get("/alive", summary="The process answers")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready", summary="Every part works", responses={503: {"description": "A part does not work"}})
    async def ready() -> Response:
        parts = {name: check() or "ok" for name, check in checks.items()}
        well = all(said == "ok" for said in parts.values())
        status = {"status": "ready" if well else "not ready", "parts": parts}
        return JSONResponse(status, 200 if well else 503)

    @routes.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
