"""HyperORU's routes as OpenAPI describes them: parameters, bodies, answers with the examples of the published page."""

from collections.abc import Mapping, Sequence
from typing import Any

from openoutcry.api.hyperoru.names import INTERVALS
from openoutcry.llm.analyst import PROMPT_CHARS_MAX

_SAYS: Mapping[int, str] = {
    400: "A field is missing or malformed; `code` says which way",
    401: "The key is missing or unknown (only where this server wants one)",
    403: "The key lacks the scope `market` (only where this server wants one)",
    404: "No such symbol, task, analysis or path",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "Well formed, but against a rule",
    429: "Too many requests, or too many tasks; Retry-After says when to come back",
    500: "Fault of this server",
    503: "An exchange or the store does not answer, or a setting is missing",
}
_TEXT: Mapping[str, Any] = {"type": "string"}
_TIME = {"anyOf": [{"type": "string"}, {"type": "number"}], "description": "ISO 8601, or epoch seconds or milliseconds"}


def schema(name: str, *, many: bool = False) -> dict[str, Any]:
    """A shape, or a list of it."""
    ref = {"$ref": f"#/components/schemas/{name}"}
    return {"type": "array", "items": ref} if many else ref


def answers(shape: Mapping[str, Any], example: Any, *statuses: int, ok: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route may answer: a shape with an example, or each refusal."""
    content = {"application/json": {"schema": dict(shape), "example": example}}
    made: dict[int | str, dict[str, Any]] = {ok: {"description": "Accepted" if ok == 202 else "OK", "content": content}}
    no = {"application/json": {"schema": schema("KlineRefused")}}
    told = sorted({400, 401, 403, 429, 500, 503, *statuses})
    made["default"] = {"description": "Any other refusal", "content": no}
    return made | {status: {"description": _SAYS[status], "content": no} for status in told}


def parameter(name: str, text: str, example: Any = None, *, required: bool = False, **more: Any) -> dict[str, Any]:
    """A parameter of a query; `more` is about its schema."""
    shown = {} if example is None else {"example": example}
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": text,
        "schema": {**_TEXT, **more},
        **shown,
    }


def limit(default: int, most: int) -> dict[str, Any]:
    """How many rows."""
    return parameter("limit", "Rows at most", type="integer", minimum=1, maximum=most, default=default)


SYMBOL = parameter("symbol", "Symbol name: BTC, BTCUSDT, BTC-USD, BTC/USDT, in any case", "BTC", required=True)
SYMBOLS = parameter("symbols", "Only these, divided by commas", "BTC,ETH")
INTERVAL = parameter("interval", "Kline interval", "1h", enum=list(INTERVALS), default="1h")
START = parameter("start", "Start time (ISO 8601), inclusive", "2026-04-01")
END = parameter("end", "End time (ISO 8601), exclusive", "2026-04-09")
EXCHANGE = parameter("exchange", "Another exchange than the server's own choice, in any case", "bybit")
EXCHANGES = parameter("exchange", "Another exchange than the server's own choice, or `all`", "all")
FORCE = parameter("force", "Fetch what is stored already as well", type="boolean", default=False)


def body(example: Mapping[str, Any], needed: Sequence[str], **members: Mapping[str, Any]) -> dict[str, Any]:
    """A body of JSON."""
    shape = {"type": "object", "required": list(needed), "properties": {name: dict(m) for name, m in members.items()}}
    return {"required": True, "content": {"application/json": {"schema": shape, "example": dict(example)}}}


_BODY = {
    "symbol": {**_TEXT, "description": "Symbol name"},
    "interval": {**_TEXT, "enum": list(INTERVALS), "description": "Kline interval"},
    "exchange": {**_TEXT, "description": "Another exchange than the server's own choice"},
}
BACKFILL = body(
    {"symbol": "BTC", "interval": "1h", "start_date": "2025-06-01"},
    ("symbol", "interval"),
    **_BODY,
    start_date={**_TIME, "description": "Backfill start date, inclusive; 30 days before the end unless given"},
    end_date={**_TIME, "description": "Backfill end date, exclusive; now unless given"},
    force={"type": "boolean", "default": False, "description": "Fetch what is stored already as well"},
)
ANALYSIS = body(
    {"symbol": "BTC", "interval": "4h"},
    ("symbol",),
    **_BODY,
    prompt={**_TEXT, "maxLength": PROMPT_CHARS_MAX, "description": "Custom analysis prompt"},
)

KLINES_EXAMPLE = [
    {
        "timestamp": "2026-04-01T00:00:00Z",
        "open": 67000.0,
        "high": 67500.0,
        "low": 66800.0,
        "close": 67200.0,
        "volume": 500.0,
    }
]
COVERAGE_EXAMPLE = [
    {
        "symbol": "BTC",
        "interval": "1h",
        "earliest": "2025-01-01T00:00:00Z",
        "latest": "2026-04-09T12:00:00Z",
        "total_candles": 11_124,
        "exchange": "binance_futures",
        "expected_candles": 11_125,
        "coverage_pct": 99.99,
    }
]
SYMBOLS_EXAMPLE = {"symbols": ["ARB", "BTC", "ETH", "SOL"]}
TASK_EXAMPLE = {
    "id": "bf-002",
    "symbol": "BTC",
    "interval": "1h",
    "status": "running",
    "progress_pct": 62.5,
    "candles_fetched": 5_000,
    "start": "2025-06-01T00:00:00Z",
    "end": "2026-05-01T08:00:00Z",
    "error": None,
    "exchange": "binance_futures",
    "force": False,
    "created_at": "2026-05-01T08:10:00Z",
    "updated_at": "2026-05-01T08:10:07Z",
}
GAPS_EXAMPLE = {
    "symbol": "BTC",
    "gaps": [
        {
            "start": "2026-03-15T00:00:00Z",
            "end": "2026-03-15T06:00:00Z",
            "missing_candles": 6,
            "at_source": "unknown",
            "checked_at": None,
        }
    ],
    "interval": "1h",
    "exchange": "binance_futures",
}
BEGUN_EXAMPLE = {
    "analysis_id": "analysis-001",
    "status": "running",
    "symbol": "BTC",
    "interval": "4h",
    "exchange": "binance_futures",
    "created_at": "2026-04-09T10:00:00Z",
}
ROW_EXAMPLE = {
    "id": "analysis-001",
    "symbol": "BTC",
    "status": "completed",
    "created_at": "2026-04-09T10:00:00Z",
    "interval": "4h",
    "exchange": "binance_futures",
    "model": "builtin-narrator",
    "error": None,
    "completed_at": "2026-04-09T10:00:01Z",
}
ANALYSIS_EXAMPLE = {
    "id": "analysis-001",
    "symbol": "BTC",
    "status": "completed",
    "analysis": "BTC is showing a bullish divergence on the 4h chart...",
    "created_at": "2026-04-09T10:00:00Z",
    "interval": "4h",
    "exchange": "binance_futures",
    "prompt": "",
    "error": None,
    "model": "builtin-narrator",
    "provider": None,
    "candles_used": 100,
    "tokens_in": None,
    "tokens_out": None,
    "completed_at": "2026-04-09T10:00:01Z",
    "user": "",
}
