"""HyperORU's shapes, the translation into them, and its way to say no.

    [{"timestamp":"2026-04-01T00:00:00Z","open":67000.10,"high":67500,"low":66800.5,"close":67200,"volume":1E-8}]
    {"id":"bf-002","symbol":"BTC","interval":"1h","status":"running","progress_pct":62.5,"candles_fetched":5000, …}
    {"error":"no task 'bf-9'","code":"TASK_NOT_FOUND","request_id":"req_5f0c2a91-7"}

Times are UTC with `Z`, whole seconds. Numbers of candles are the decimals that are stored, digit by digit.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openoutcry import errors
from openoutcry.api.dialect import REQUEST_ID
from openoutcry.api.hyperoru.names import INTERVAL_OF, id_text
from openoutcry.events import NS
from openoutcry.llm.store import Analysis
from openoutcry.market.series import CandleTexts, SeriesKey, Summary
from openoutcry.market.stored import Absence
from openoutcry.market.tasks import Task

TASK, ANALYSIS = "bf", "analysis"
STRETCHES_SHOWN = 20
# Rows that are spelled in one go: other threads get their turn between two of them.
ROWS_AT_ONCE = 1_000

Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"}, description="UTC, ISO 8601 with Z")]
Count = Annotated[int, msgspec.Meta(ge=0)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
IntervalName = Annotated[str, msgspec.Meta(examples=["1h"])]


class Kline(msgspec.Struct, frozen=True):
    """A closed candle; `timestamp` is its open time."""

    timestamp: Time
    open: float
    high: float
    low: float
    close: float
    volume: float


class KlineCoverage(msgspec.Struct, frozen=True):
    """What is stored of one symbol and interval: open times of the first and the last candle, and how many there are."""

    symbol: str
    interval: IntervalName
    earliest: Time
    latest: Time
    total_candles: Count
    exchange: str
    expected_candles: Annotated[int, msgspec.Meta(description="Buckets from earliest to latest")]
    coverage_pct: Annotated[Percent, msgspec.Meta(description="100 only where none is missing")]


class KlineSymbols(msgspec.Struct, frozen=True):
    """Symbols that have candles, or can be asked for."""

    symbols: Sequence[str]


class BackfillTask(msgspec.Struct, frozen=True):
    """A backfill task. `progress_pct` never falls, and is 100 only once it is completed."""

    id: str
    symbol: str
    interval: IntervalName
    status: Literal["pending", "running", "completed", "failed"]
    progress_pct: Percent
    candles_fetched: Annotated[Count, msgspec.Meta(description="Received from the exchange and stored for this task")]
    start: Time
    end: Annotated[Time, msgspec.Meta(description="Exclusive")]
    error: Annotated[str | None, msgspec.Meta(description="Why it failed")]
    exchange: str
    force: bool
    created_at: Time
    updated_at: Time


class KlineGap(msgspec.Struct, frozen=True):
    """From the first missing open time to the open time of the first candle after it.

    `at_source`: `absent` where the exchange was asked and has nothing there, and then when that was, where it is known.
    """

    start: Time
    end: Time
    missing_candles: Annotated[int, msgspec.Meta(gt=0)]
    at_source: Literal["absent", "unknown"]
    checked_at: Time | None


class KlineGaps(msgspec.Struct, frozen=True):
    """What is missing of one symbol and interval, oldest first."""

    symbol: str
    gaps: Sequence[KlineGap]
    interval: IntervalName
    exchange: str


class KlineAnalysisBegun(msgspec.Struct, frozen=True):
    """An analysis that is under way."""

    analysis_id: str
    status: Literal["running"]
    symbol: str
    interval: IntervalName
    exchange: str
    created_at: Time


class KlineAnalysisRow(msgspec.Struct, frozen=True):
    """An analysis in a list."""

    id: str
    symbol: str
    status: Literal["running", "completed", "failed"]
    created_at: Time
    interval: IntervalName
    exchange: str
    model: str | None
    error: str | None
    completed_at: Time | None


class KlineAnalysis(msgspec.Struct, frozen=True, omit_defaults=True):
    """An analysis, whole. `analysis` is Markdown once it is completed; `prompt_snapshot` only where it is asked for."""

    id: str
    symbol: str
    status: Literal["running", "completed", "failed"]
    analysis: str | None
    created_at: Time
    interval: IntervalName
    exchange: str
    prompt: str
    error: str | None
    model: str | None
    provider: str | None
    candles_used: int | None
    tokens_in: int | None
    tokens_out: int | None
    completed_at: Time | None
    user: str
    prompt_snapshot: str | msgspec.UnsetType | None = msgspec.UNSET


class KlineDone(msgspec.Struct, frozen=True):
    """It is done."""

    status: Literal["ok"]


class KlineRefused(msgspec.Struct, frozen=True):
    """No: for people, for programs, and the id that is in X-Request-ID too."""

    error: str
    code: str
    request_id: str


def _schemas() -> dict[str, Any]:
    shapes = (
        *(Kline, KlineCoverage, KlineSymbols, BackfillTask, KlineGaps),
        *(KlineAnalysisBegun, KlineAnalysisRow, KlineAnalysis, KlineDone, KlineRefused),
    )
    _, named = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return dict(named)


SCHEMAS: Mapping[str, Any] = _schemas()

encode = msgspec.json.Encoder().encode


# Out


_ROW = ',{"timestamp":"%sZ","open":%s,"high":%s,"low":%s,"close":%s,"volume":%s}'
_ROWS = _ROW * ROWS_AT_ONCE


def klines(rows: Sequence[CandleTexts]) -> bytes:
    """Candles as a list: the texts of their numbers are its numbers."""
    made: list[str] = []
    for at in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[at : at + ROWS_AT_ONCE]
        times, *numbers = zip(*some, strict=True)
        stamps = np.datetime_as_string(np.array(times, "datetime64[ns]"), unit="s").tolist()
        text = _ROWS[: len(_ROW) * len(some)] % tuple(chain.from_iterable(zip(stamps, *numbers, strict=True)))
        if "N" in text or "I" in text or ":." in text or ":-." in text:
            # A text that is no number in JSON, which no venue's file lets in.
            told = [map(_number, texts) for texts in numbers]
            text = _ROWS[: len(_ROW) * len(some)] % tuple(chain.from_iterable(zip(stamps, *told, strict=True)))
        made.append(text)
    return b"[%b]" % "".join(made)[1:].encode()


def coverage(key: SeriesKey, symbol: str, summary: Summary) -> KlineCoverage:
    """What is stored of a series."""
    expected = (summary.last_ns - summary.first_ns) // (key.interval_s * NS) + 1
    share = math.floor(10_000 * summary.rows / expected) / 100
    return KlineCoverage(
        symbol,
        INTERVAL_OF[key.interval_s],
        time_text(summary.first_ns),
        time_text(summary.last_ns),
        summary.rows,
        _exchange(key.instrument),
        expected,
        share,
    )


def task(told: Task, symbol: str) -> BackfillTask:
    """A task as it is."""
    return BackfillTask(
        id_text(TASK, told.id),
        symbol,
        INTERVAL_OF.get(told.interval_s, f"{told.interval_s}s"),
        told.state.value,
        math.floor(told.share * 1_000) / 10,
        told.candles,
        time_text(told.start_ns),
        time_text(told.end_ns),
        told.error or None,
        _exchange(told.instrument),
        told.force,
        time_text(told.created_ns),
        time_text(told.updated_ns),
    )


def begun(told: Task, symbol: str) -> BackfillTask:
    """A task as its maker is told of it: it may wait a moment for a slot."""
    return msgspec.structs.replace(task(told, symbol), status="running")


def gaps(key: SeriesKey, symbol: str, absences: Sequence[Absence]) -> KlineGaps:
    """What is missing of a series."""
    step_ns = key.interval_s * NS
    told = [
        KlineGap(
            time_text(each.start_ns),
            time_text(each.end_ns),
            (each.end_ns - each.start_ns) // step_ns,
            "absent" if each.at_source else "unknown",
            None if each.checked_ns is None else time_text(each.checked_ns),
        )
        for each in absences
    ]
    return KlineGaps(symbol, told, INTERVAL_OF[key.interval_s], _exchange(key.instrument))


def analysis_begun(told: Analysis) -> KlineAnalysisBegun:
    """An analysis as its maker is told of it."""
    return KlineAnalysisBegun(
        id_text(ANALYSIS, told.id),
        "running",
        told.symbol.upper(),
        INTERVAL_OF[told.interval_s],
        _exchange(told.instrument),
        time_text(told.created_ns),
    )


def analysis_row(told: Analysis) -> KlineAnalysisRow:
    """An analysis in a list."""
    return KlineAnalysisRow(
        id_text(ANALYSIS, told.id),
        told.symbol.upper(),
        told.status.value,
        time_text(told.created_ns),
        INTERVAL_OF.get(told.interval_s, f"{told.interval_s}s"),
        _exchange(told.instrument),
        told.model,
        told.error,
        None if told.completed_ns is None else time_text(told.completed_ns),
    )


def analysis(told: Analysis, *, snapshot: bool) -> KlineAnalysis:
    """An analysis, whole; with `snapshot` what was sent to the model too."""
    row = analysis_row(told)
    return KlineAnalysis(
        row.id,
        row.symbol,
        row.status,
        told.analysis,
        row.created_at,
        row.interval,
        row.exchange,
        told.prompt,
        told.error,
        told.model,
        told.provider,
        told.candles_used,
        told.tokens_in,
        told.tokens_out,
        row.completed_at,
        told.user,
        told.prompt_snapshot if snapshot else msgspec.UNSET,
    )


def missing_text(key: SeriesKey, stretches: Sequence[tuple[int, int]]) -> str:
    """Stretches that nobody has, for the header Openoutcry-Coverage: `INSTRUMENT INTERVAL start-end` in Unix seconds."""
    of = f"{key.instrument} {INTERVAL_OF[key.interval_s]}"
    shown = [f"{of} {start_ns // NS}-{end_ns // NS}" for start_ns, end_ns in stretches[:STRETCHES_SHOWN]]
    if len(stretches) > STRETCHES_SHOWN:
        shown.append("...")
    return f"missing {'; '.join(shown)}"


def time_text(ns: int) -> str:
    """`2026-04-01T00:00:00Z`."""
    return f"{_EPOCH + timedelta(seconds=ns // NS):%Y-%m-%dT%H:%M:%SZ}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _exchange(instrument: str) -> str:
    return instrument.partition(":")[0]


def _number(text: str) -> str:
    number = Decimal(text)
    return str(number) if number.is_finite() else "null"


# No


class No(errors.Refusal):
    """A refusal that has a code of its own in this dialect."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


class Refused(Response):
    """An answer of no; the id of its request is known once it is sent."""

    def __init__(self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, status, media_type="application/json")
        self._said, self._more = (text, code), headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say no."""
        body = encode(KlineRefused(*self._said, scope.get(REQUEST_ID, "")))
        answer = Response(body, self.status_code, self._more, media_type="application/json")
        await answer(scope, receive, send)


def refuse(refusal: errors.Refusal) -> Refused:
    """A refusal as an answer."""
    headers = {}
    retry_s = refusal.retry_s if isinstance(refusal, errors.LimitExceeded | errors.Unavailable) else None
    if retry_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_s)))
    if isinstance(refusal, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Refused(*_said(refusal), refusal.text, headers)


def _said(refusal: errors.Refusal) -> tuple[int, str]:
    if isinstance(refusal, No):
        return refusal.status, refusal.code
    return next((said for kind, said in _SAID.items() if isinstance(refusal, kind)), (400, "REFUSED"))


# The first that fits.
_SAID: Mapping[type[errors.Refusal], tuple[int, str]] = {
    errors.UnknownVenue: (404, "SYMBOL_NOT_FOUND"),
    errors.UnknownInstrument: (404, "SYMBOL_NOT_FOUND"),
    errors.Unknown: (404, "NOT_FOUND"),
    errors.BadInterval: (400, "INVALID_INTERVAL"),
    errors.BadRange: (400, "INVALID_RANGE"),
    errors.Invalid: (400, "INVALID_REQUEST"),
    errors.NoData: (422, "NO_DATA"),
    errors.TooLarge: (413, "PAYLOAD_TOO_LARGE"),
    errors.LimitExceeded: (429, "RATE_LIMITED"),
    errors.Unauthenticated: (401, "UNAUTHORIZED"),
    errors.Forbidden: (403, "FORBIDDEN"),
    errors.Unsupported: (422, "UNSUPPORTED"),
    errors.NotConfigured: (503, "NOT_CONFIGURED"),
    errors.Unavailable: (503, "UNAVAILABLE"),
}
LOST: Mapping[int, str] = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE"}
