"""HyperORU over HTTP: one function a route, which parses, asks a door, renders."""

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBearer
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.accounts.keys import MARKET, KeyRecord
from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.api.hyperoru import query, swagger, wire
from openoutcry.api.hyperoru.names import INTERVAL_OF, Names, id_number
from openoutcry.errors import BadRange, Forbidden, NotConfigured, Refusal, TooLarge, Unavailable, Unknown
from openoutcry.events import NS, Side, open_of
from openoutcry.feed.tasks import Tasks
from openoutcry.instrument import Instrument
from openoutcry.llm.analyst import LIST_MAX, Analyst
from openoutcry.market.coins import printable
from openoutcry.market.series import CandleTexts, Of, SeriesKey, Summary
from openoutcry.market.stored import GAPS_MAX, LAG_S
from openoutcry.market.tasks import Task, TaskState

TITLE = "Klines"
PREFIX = "/api/klines"
INTERVAL_DEFAULT = "1h"
# Of candles without a start, and from a start on.
NEWEST_DEFAULT, NEWEST_MAX = 1_000, 10_000
ROWS_MAX = 50_000
TASKS_DEFAULT, TASKS_MAX = 50, 1_000
ANALYSES_DEFAULT = 20
BACKFILL_S_DEFAULT = 30 * 86_400
PACKED_BYTES_MIN = 2_000
# What may be said of a task: one that is cancelled is gone.
STATES = (*(state.value for state in TaskState), "cancelled")

TaskId = Annotated[str, Path(description="Backfill task ID", examples=["bf-002"])]
AnalysisId = Annotated[str, Path(description="Analysis ID", examples=["analysis-001"])]
SymbolName = Annotated[str, Path(description="Symbol name", examples=["BTC"])]


class Hyperoru:
    """The dialect: candles as they are stored, backfill tasks, gaps, and analyses."""

    name = "hyperoru"
    prefixes: Sequence[str] = (PREFIX,)
    title = TITLE
    version = "1.0"
    tags: Sequence[Mapping[str, str]] = (
        {"name": TITLE, "description": "Candles as they are stored, what is missing of them, backfill, and analyses"},
    )
    schemas = wire.SCHEMAS

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._names = Names(doors.market, doors.bare_venue)

    # What the app asks of a dialect

    def sockets(self) -> Sequence[WebSocketRoute]:
        """None: it has no streams."""
        return ()

    def services(self) -> Sequence[Service]:
        """None: it has no gRPC."""
        return ()

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """None: the store is asked each time."""
        del scope, packed
        return None

    def refuse(self, refusal: Refusal) -> Response:
        """{"error": …, "code": …, "request_id": …}"""
        return wire.refuse(refusal)

    def malformed(self, error: RequestValidationError) -> Response:
        """400. Queries and bodies are read by `query`; this is for what FastAPI reads before a route is called."""
        return wire.Refused(400, "INVALID_TYPE", "; ".join(str(each.get("msg")) for each in error.errors()))

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 for a path, 405 for a method, 413 for a body."""
        if status == 404:
            detail = f"there is nothing at {printable(request.url.path)}"
        if status == 405:
            detail = f"{request.method} is not served here"
        return wire.Refused(status, wire.LOST.get(status, "INVALID_REQUEST"), detail, headers)

    def broken(self) -> Response:
        """500."""
        return wire.Refused(500, "INTERNAL_ERROR", "internal error")

    # Routes

    def rest(self) -> APIRouter:
        """Every route of the published page. Ids and symbols may be anything, also with a slash in them.

        The page prints those routes without what follows the last slash: who takes it at its word puts it in the query.
        """
        router = APIRouter(prefix=PREFIX, tags=[TITLE], dependencies=[Depends(self._admitted), *self._locks()])
        self._data(router)
        self._backfill(router)
        self._analyses(router)
        return router

    def _data(self, router: APIRouter) -> None:
        @router.get(
            "/data",
            summary="Candles as they are stored, closed ones only, oldest first",
            responses=swagger.answers(swagger.schema("Kline", many=True), swagger.KLINES_EXAMPLE, 404),
            openapi_extra={
                "parameters": [
                    *(swagger.SYMBOL, swagger.INTERVAL, swagger.START, swagger.END),
                    *(swagger.limit(NEWEST_DEFAULT, ROWS_MAX), swagger.EXCHANGE),
                ]
            },
        )
        async def data(request: Request) -> Response:
            fields = query.Fields(request.query_params)
            symbol = fields.needed(*query.SYMBOL)
            key, instrument = await self._series(fields, symbol)
            start_ns, end_ns = fields.range_ns()
            most = NEWEST_MAX if start_ns is None else ROWS_MAX
            limit = fields.limit(NEWEST_DEFAULT if start_ns is None else ROWS_MAX, most)
            return await self._klines(request, key, instrument, start_ns, end_ns, limit)

        @router.get(
            "/coverage",
            summary="What is stored of each symbol and interval",
            responses=swagger.answers(swagger.schema("KlineCoverage", many=True), swagger.COVERAGE_EXAMPLE, 404),
            openapi_extra={"parameters": [swagger.SYMBOLS, swagger.INTERVAL, swagger.EXCHANGES]},
        )
        async def coverage(request: Request) -> Response:
            fields = query.Fields(request.query_params)
            interval = fields.text(*query.INTERVAL)
            wanted_s = None if interval is None else query.interval_s(interval, list(INTERVAL_OF.values()))
            rows, failed = await self._kept(fields, wanted_s)
            told = [wire.coverage(key, symbol, summary) for symbol, key, summary in rows]
            return _json(wire.encode(told), headers=failed)

        @router.get(
            "/supported-symbols",
            summary="Symbols that have candles, or can be asked for",
            responses=swagger.answers(swagger.schema("KlineSymbols"), swagger.SYMBOLS_EXAMPLE, 404),
            openapi_extra={"parameters": [swagger.EXCHANGES]},
        )
        async def symbols(request: Request) -> Response:
            venues = self._names.venues(query.Fields(request.query_params).text("exchange"))
            coins, failed = await self._coins(venues)
            told = sorted({coin for of in coins.values() for coin in of.values()})
            return _json(wire.encode(wire.KlineSymbols(told)), headers=failed)

        @router.get(
            "/gaps/{symbol:path}",
            summary="What is missing between the first and the last stored candle, or of the range that is given",
            responses=swagger.answers(swagger.schema("KlineGaps"), swagger.GAPS_EXAMPLE, 404),
            openapi_extra={
                "parameters": [
                    *(swagger.INTERVAL, swagger.START, swagger.END),
                    *(swagger.limit(GAPS_MAX, GAPS_MAX), swagger.EXCHANGE),
                ]
            },
        )
        async def gaps(request: Request, symbol: SymbolName) -> Response:
            fields = query.Fields({**request.query_params, **({"symbol": symbol} if symbol else {})})
            key, instrument = await self._series(fields, fields.needed("symbol"))
            start_ns, end_ns = fields.range_ns()
            limit = fields.limit(GAPS_MAX, GAPS_MAX)
            if instrument.expires_ns is not None and end_ns is not None:
                end_ns = min(end_ns, instrument.expires_ns)
            found = await self._doors.market.stored.gaps(
                key, start_ns=start_ns, end_ns=end_ns, listed_ns=instrument.listed_ns, limit=limit + 1
            )
            headers = _truncated(found[limit].start_ns) if len(found) > limit else {}
            told = wire.gaps(key, instrument.coin.upper(), found[:limit])
            return _json(wire.encode(told), headers=headers)

    def _backfill(self, router: APIRouter) -> None:
        listed: dict[str, Any] = {
            "responses": swagger.answers(swagger.schema("BackfillTask", many=True), [swagger.TASK_EXAMPLE]),
            "openapi_extra": {
                "parameters": [
                    swagger.parameter("status", "Only these, divided by commas", "running", enum=list(STATES)),
                    swagger.limit(TASKS_DEFAULT, TASKS_MAX),
                ]
            },
        }

        @router.get("/backfill-tasks", summary="Backfill tasks, newest first", **listed)
        async def tasks(request: Request) -> Response:
            return await self._listed_tasks(request)

        @router.get("/backfill/tasks", summary="The same, at its other address", **listed)
        async def other_tasks(request: Request) -> Response:
            return await self._listed_tasks(request)

        @router.post(
            "/backfill",
            status_code=202,
            summary="Begin to fetch what is not stored of a range; an equal task that is active is told instead",
            responses=swagger.answers(swagger.schema("BackfillTask"), swagger.TASK_EXAMPLE, 404, 413, 415, 422, ok=202),
            openapi_extra={"parameters": [swagger.FORCE, swagger.EXCHANGE], "requestBody": swagger.BACKFILL},
        )
        async def create(request: Request) -> Response:
            fields = await _fields(request)
            symbol, interval = fields.symbol(), fields.needed(*query.INTERVAL)
            exchange = fields.text("exchange")
            interval_s = query.interval_s(interval, self._names.fetched(self._names.venue(exchange)))
            start_ns, end_ns = self._backfill_range(fields)
            force = fields.flag("force")
            instrument = await self._names.find(symbol, exchange)
            try:
                told = await self._tasks.create(instrument, interval_s, start_ns, end_ns, force=force)
            except TooLarge as e:
                raise wire.No(422, "RANGE_TOO_LARGE", e.text) from e
            except BadRange as e:
                raise wire.No(422, "INVALID_RANGE", e.text) from e
            return _json(wire.encode(wire.begun(told, instrument.coin.upper())), 202)

        @router.get(
            "/backfill/status/{task_id:path}",
            summary="How far a backfill task is",
            responses=swagger.answers(swagger.schema("BackfillTask"), swagger.TASK_EXAMPLE, 404),
        )
        async def status(request: Request, task_id: TaskId) -> Response:
            task_id = task_id or request.query_params.get("task_id", "")
            try:
                told = await self._tasks.get(_number(wire.TASK, task_id))
            except Unknown as e:
                raise wire.No(404, "TASK_NOT_FOUND", f"no backfill task '{printable(task_id)}'") from e
            return _json(wire.encode(await self._task(told)))

        @router.delete(
            "/backfill-tasks/{task_id:path}",
            summary="End a backfill task, if it runs, and forget it; the candles stay",
            responses=swagger.answers(swagger.schema("KlineDone"), {"status": "ok"}, 404),
        )
        async def delete(request: Request, task_id: TaskId) -> Response:
            task_id = task_id or request.query_params.get("task_id", "")
            try:
                await self._tasks.delete(_number(wire.TASK, task_id))
            except Unknown as e:
                raise wire.No(404, "TASK_NOT_FOUND", f"no backfill task '{printable(task_id)}'") from e
            return _json(wire.encode(wire.KlineDone("ok")))

    def _analyses(self, router: APIRouter) -> None:
        @router.post(
            "/ai-analysis",
            status_code=202,
            summary="Begin an analysis of stored candles",
            responses=swagger.answers(
                swagger.schema("KlineAnalysisBegun"), swagger.BEGUN_EXAMPLE, 404, 413, 415, 422, ok=202
            ),
            openapi_extra={"parameters": [swagger.EXCHANGE], "requestBody": swagger.ANALYSIS},
        )
        async def create(request: Request) -> Response:
            fields = await _fields(request)
            key, instrument = await self._series(fields, fields.symbol())
            prompt = fields.text("prompt") or ""
            caller = self._caller(request)
            user = "" if caller is None else caller.name
            try:
                told = await self._analyst.create(instrument, key.interval_s, prompt, user)
            except TooLarge as e:
                raise wire.No(422, "PROMPT_TOO_LONG", e.text) from e
            return _json(wire.encode(wire.analysis_begun(told)), 202)

        @router.get(
            "/ai-analysis/history",
            summary="Analyses, newest first",
            responses=swagger.answers(swagger.schema("KlineAnalysisRow", many=True), [swagger.ROW_EXAMPLE], 404),
            openapi_extra={
                "parameters": [
                    {**swagger.SYMBOL, "required": False},
                    *(swagger.limit(ANALYSES_DEFAULT, LIST_MAX), swagger.EXCHANGE),
                ]
            },
        )
        async def history(request: Request) -> Response:
            fields = query.Fields(request.query_params)
            symbol, limit = fields.text(*query.SYMBOL), fields.limit(ANALYSES_DEFAULT, LIST_MAX)
            instrument = None if symbol is None else await self._names.find(symbol, fields.text("exchange"))
            told = await self._analyst.list(instrument, limit)
            return _json(wire.encode([wire.analysis_row(each) for each in told]))

        @router.get(
            "/ai-analysis/{analysis_id:path}",
            summary="One analysis, whole",
            responses=swagger.answers(swagger.schema("KlineAnalysis"), swagger.ANALYSIS_EXAMPLE, 404),
            openapi_extra={
                "parameters": [
                    swagger.parameter("include", "`prompt`: what was sent to the model too", enum=["prompt"]),
                ]
            },
        )
        async def detail(request: Request, analysis_id: AnalysisId) -> Response:
            analysis_id = analysis_id or request.query_params.get("analysis_id", "")
            included = query.Fields(request.query_params).chosen("include", ("prompt",))
            try:
                told = await self._analyst.get(_number(wire.ANALYSIS, analysis_id))
            except Unknown as e:
                raise wire.No(404, "ANALYSIS_NOT_FOUND", f"no analysis '{printable(analysis_id)}'") from e
            return _json(wire.encode(wire.analysis(told, snapshot=bool(included))))

    # Who may ask

    def _locks(self) -> list[Any]:
        """For OpenAPI: where a key may stand."""
        if not self._doors.klines_locked:
            return []
        schemes = (
            HTTPBearer(scheme_name="bearer", auto_error=False),
            APIKeyHeader(name="X-API-Key", scheme_name="klines_key", auto_error=False),
            APIKeyQuery(name="session_token", scheme_name="session_token", auto_error=False),
        )
        return [Security(scheme) for scheme in schemes]

    async def _admitted(self, request: Request) -> None:
        """Raises Unauthenticated, Forbidden."""
        if not self._doors.klines_locked:
            return
        record = self._doors.keys.authenticate(_key(request))
        if MARKET not in record.scopes:
            raise Forbidden(f"the key lacks the scope {MARKET}")

    def _caller(self, request: Request) -> KeyRecord | None:
        text = _key(request)
        return None if text is None else self._doors.keys.known(text)

    # Asking the doors

    @property
    def _tasks(self) -> Tasks:
        if self._doors.tasks is None:
            raise NotConfigured("this server backfills nothing")
        return self._doors.tasks

    @property
    def _analyst(self) -> Analyst:
        if self._doors.analyst is None:
            raise NotConfigured("this server analyses nothing")
        return self._doors.analyst

    async def _series(self, fields: query.Fields, symbol: str) -> tuple[SeriesKey, Instrument]:
        """The candles that are meant, and what they are of. Raises No, UnknownVenue, UnknownInstrument, Unavailable."""
        exchange = fields.text("exchange")
        interval = fields.text(*query.INTERVAL) or INTERVAL_DEFAULT
        interval_s = query.interval_s(interval, self._names.read(self._names.venue(exchange)))
        instrument = await self._names.find(symbol, exchange)
        return SeriesKey(instrument.name, Of.CANDLES, interval_s), instrument

    async def _klines(
        self,
        request: Request,
        key: SeriesKey,
        instrument: Instrument,
        start_ns: int | None,
        end_ns: int | None,
        limit: int,
    ) -> Response:
        # One more than may be told says whether there is more, and where it begins.
        asked = limit if start_ns is None else limit + 1
        rows = await self._doors.market.stored.texts(key, limit=asked, start_ns=start_ns, end_ns=end_ns)
        headers: dict[str, str] = {}
        if len(rows) > limit:
            end_ns = rows[limit][0]
            headers |= _truncated(end_ns)
            rows = rows[:limit]
        missing = self._missing(key, instrument, rows, start_ns, end_ns, limit)
        if missing:
            headers["Openoutcry-Coverage"] = wire.missing_text(key, missing)
        packs = "gzip" in request.headers.get("accept-encoding", "")
        body, packed = await asyncio.to_thread(_spelt, rows, packs=packs)
        if packed:
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return _json(body, headers=headers)

    def _missing(
        self,
        key: SeriesKey,
        instrument: Instrument,
        rows: Sequence[CandleTexts],
        start_ns: int | None,
        end_ns: int | None,
        limit: int,
    ) -> Sequence[tuple[int, int]]:
        """What of the window that was served nobody has."""
        over_ns = open_of(self._doors.clock.now_ns() - round(LAG_S * NS), key.interval_s)
        end_ns = over_ns if end_ns is None else min(end_ns, over_ns)
        if start_ns is None:
            start_ns = end_ns - limit * key.interval_s * NS
            if rows:
                start_ns = min(start_ns, rows[0][0]) if len(rows) < limit else rows[0][0]
        if instrument.listed_ns is not None:
            start_ns = max(start_ns, open_of(instrument.listed_ns, key.interval_s))
        return self._doors.market.coverage(key).absent(start_ns, end_ns) if start_ns < end_ns else ()

    async def _coins(self, venues: Sequence[str]) -> tuple[dict[str, Mapping[str, str]], dict[str, str]]:
        """The coins of each venue, by instrument; of several, those that have no listing now are named in a header.

        Raises Unavailable where that is all of them.
        """
        found: dict[str, Mapping[str, str]] = {}
        failed: dict[str, Unavailable] = {}
        for venue in venues:
            try:
                found[venue] = (await self._names.coins(venue)).coin_of
            except Unavailable as e:
                failed[venue] = e
        if failed and not found:
            raise next(iter(failed.values()))
        return found, {"X-Failed-Exchanges": ",".join(failed)} if failed else {}

    async def _kept(
        self, fields: query.Fields, interval_s: int | None
    ) -> tuple[list[tuple[str, SeriesKey, Summary]], dict[str, str]]:
        """The stored series of coins' instruments, in order of symbol and interval."""
        venues = self._names.venues(fields.text("exchange"))
        wanted = fields.symbols()
        coins, failed = await self._coins(venues)
        only = None
        if wanted is not None:
            only = {
                instrument.name
                for venue in coins
                for text in wanted
                if (instrument := await self._meant(venue, text)) is not None
            }
        rows: list[tuple[str, SeriesKey, Summary]] = []
        for key, summary in (await self._doors.market.stored.summaries()).items():
            symbol = coins.get(key.instrument.partition(":")[0], {}).get(key.instrument)
            if symbol is None or key.side is not Side.BOTH or key.interval_s not in INTERVAL_OF:
                continue
            if (only is None or key.instrument in only) and interval_s in (None, key.interval_s):
                rows.append((symbol, key, summary))
        return sorted(rows, key=lambda row: (row[0], row[1].interval_s, row[1].instrument)), failed

    async def _meant(self, venue: str, text: str) -> Instrument | None:
        try:
            return await self._names.find(text, venue)
        except Unknown:
            return None

    def _backfill_range(self, fields: query.Fields) -> tuple[int, int]:
        now_ns = self._doors.clock.now_ns()
        start_ns, end_ns = fields.range_ns(query.START_DATE, query.END_DATE)
        if start_ns is not None and start_ns > now_ns:
            raise wire.No(422, "INVALID_RANGE", "start_date lies in the future")
        end_ns = now_ns if end_ns is None else end_ns
        start_ns = end_ns - BACKFILL_S_DEFAULT * NS if start_ns is None else start_ns
        if start_ns >= end_ns:
            raise wire.No(400, "INVALID_RANGE", "start_date must be before end_date")
        return start_ns, end_ns

    async def _listed_tasks(self, request: Request) -> Response:
        fields = query.Fields(request.query_params)
        states = fields.chosen("status", STATES)
        limit = fields.limit(TASKS_DEFAULT, TASKS_MAX)
        among = None if states is None else [state for state in TaskState if state.value in states]
        told = await self._tasks.list(among, limit)
        return _json(wire.encode([await self._task(each) for each in told]))

    async def _task(self, told: Task) -> wire.BackfillTask:
        return wire.task(told, await self._names.coin(told.instrument))


async def _fields(request: Request) -> query.Fields:
    """The members of the body, and beside them what may also stand in the query. Raises No."""
    # What curl calls its -d is no form, and is read; a page of somebody else in a browser may send such without being asked.
    kind = request.headers.get("content-type") if "origin" in request.headers else None
    members = query.members(kind, await request.body())
    beside = {name: text for name, text in request.query_params.items() if name in ("exchange", "force")}
    return query.Fields({**beside, **members})


def _key(request: Request) -> str | None:
    """The text of the key that was brought, in the first of the three ways that was used."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or request.query_params.get("session_token")


def _number(kind: str, text: str) -> int:
    number = id_number(kind, text)
    if number is None:
        raise Unknown(f"no id of ours: {printable(text)}")
    return number


def _spelt(rows: Sequence[CandleTexts], *, packs: bool) -> tuple[bytes, bool]:
    body = wire.klines(rows)
    if not packs or len(body) < PACKED_BYTES_MIN:
        return body, False
    return zlib.compress(body, 1, 31), True


def _truncated(next_ns: int) -> dict[str, str]:
    return {"X-Truncated": "true", "X-Next-Start": wire.time_text(next_ns)}


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
