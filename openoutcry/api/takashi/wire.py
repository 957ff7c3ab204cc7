"""TAKASHI's shapes, the translation into them, and its way to say no.

    {"exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:00:00Z","interval":"1h","open":101621.7,
     "high":101958.9,"low":101619.9,"close":101818.8,"volume":1274.0,"quote_volume":129689803.5351,
     "trades_count":39480,"is_closed":true}
    {"type":"liquidation","exchange":"binance","symbol":"BTCUSDT","timestamp":"2025-11-19T12:31:00Z","side":"sell",
     "price":101500.0,"quantity":2.5,"value":253750.0}
    {"detail":"unknown exchange 'kraken': there are binance, bybit, hyperliquid, okx"}

Times are UTC with `Z`, without a fraction where it is zero, else with six digits. Numbers are floats. Fields are sent in
the order they stand here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from openoutcry.api import pages
from openoutcry.api.takashi.names import EXCHANGE_OF, TIMEFRAME_OF, Asked
from openoutcry.errors import (
    Forbidden,
    Invalid,
    LimitExceeded,
    NotConfigured,
    OutOfReach,
    Refusal,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unknown,
    Unsupported,
)
from openoutcry.events import (
    NS,
    Candle,
    FundingRate,
    Liquidation,
    OpenInterest,
    PredictedFunding,
    Side,
    Spike,
    Trade,
)

SECONDS_MAX = 253_402_300_799  # the last second of the year 9999
NS_MAX = 9_223_372_036 * NS  # what fits 64 bits

Time = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"}, description="UTC, ISO 8601 with Z")]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class OHLC(msgspec.Struct, frozen=True):
    """A candle; `timestamp` is its open time, `is_closed` false while it still grows."""

    exchange: str
    symbol: str
    timestamp: Time
    interval: str
    open: Amount
    high: Amount
    low: Amount
    close: Amount
    volume: Amount
    quote_volume: Amount
    trades_count: Annotated[int, msgspec.Meta(ge=0)]
    is_closed: bool


class Interest(msgspec.Struct, frozen=True):
    """Open interest in base coins, one side counted, and in USD."""

    exchange: str
    symbol: str
    timestamp: Time
    open_interest: Amount
    open_interest_value: Amount | None


class Funding(msgspec.Struct, frozen=True):
    """A funding rate, when it was learnt, and when it is (or was) applied."""

    exchange: str
    symbol: str
    timestamp: Time
    funding_rate: float
    funding_time: Time


class VenueFunding(msgspec.Struct, frozen=True):
    """One venue's prediction; rate 0 and time null where it says nothing."""

    venue: str
    funding_rate: float
    next_funding_time: Time | None


class CoinFunding(msgspec.Struct, frozen=True):
    """What several venues predict for one coin."""

    coin: str
    venues: list[VenueFunding]


class LiquidationFrame(msgspec.Struct, frozen=True):
    """A forced close; `sell` means that a long was liquidated."""

    type: Literal["liquidation"]
    exchange: str
    symbol: str
    timestamp: Time
    side: Literal["buy", "sell"]
    price: float
    quantity: float
    value: float


class LargeTradeFrame(msgspec.Struct, frozen=True):
    """A trade worth noticing; `side` is the aggressor's."""

    type: Literal["large_trade"]
    exchange: str
    symbol: str
    timestamp: Time
    side: Literal["buy", "sell"]
    price: float
    quantity: float
    value: float
    is_buyer_maker: bool


class SpikeFrame(msgspec.Struct, frozen=True):
    """Open interest or volume far above the bars before; the fields after `confirmed` are ours."""

    type: Literal["oi_spike"]
    exchange: str
    symbol: str
    timeframe: Literal["5m", "15m", "1h"]
    z_oi: float
    z_vol: float
    confirmed: bool
    timestamp: Time
    price: float
    open_interest: float
    volume: float


def _schemas() -> dict[str, Any]:
    shapes = (OHLC, Interest, Funding, CoinFunding, LiquidationFrame, LargeTradeFrame, SpikeFrame)
    _, named = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    text = {"type": "string"}
    problem = {"type": "object", "properties": {"type": text, "loc": {"type": "array"}, "msg": text}}
    detail = {"anyOf": [text, {"type": "array", "items": problem}]}
    refused = {"type": "object", "required": ["detail"], "properties": {"detail": text}}
    malformed = {"type": "object", "required": ["detail"], "properties": {"detail": detail}}
    return {**named, "Refused": refused, "Malformed": malformed}


SCHEMAS: Mapping[str, Any] = _schemas()

encode = msgspec.json.Encoder().encode


def time_text(ns: int) -> str:
    """`2025-11-19T12:00:00Z`, with six digits of a second where there are any."""
    seconds, micros = divmod(ns // 1_000, 1_000_000)
    whole = datetime.fromtimestamp(min(max(seconds, 0), SECONDS_MAX), UTC).isoformat()[:19]
    return f"{whole}.{micros:06d}Z" if micros else f"{whole}Z"


def ohlc(asked: Asked, interval: str, candle: Candle) -> OHLC:
    """A candle, under the names it was asked by."""
    quote_volume = candle.quote_volume
    if not quote_volume and candle.volume:
        # The venue tells none and we did not see the trades: volume at the typical price.
        quote_volume = candle.volume * (candle.high + candle.low + candle.close) / 3
    return OHLC(
        asked.exchange,
        asked.symbol,
        time_text(candle.open_ns),
        interval,
        float(candle.open),
        float(candle.high),
        float(candle.low),
        float(candle.close),
        float(candle.volume),
        float(quote_volume),
        candle.trades,
        candle.closed,
    )


def ohlc_list(asked: Asked, interval: str, candles: Iterable[Candle]) -> bytes:
    """A list of candles."""
    return encode([ohlc(asked, interval, candle) for candle in candles])


class Pages:
    """The JSON of newest candles, made once."""

    def __init__(self) -> None:
        self._pages = pages.Pages()

    def body(
        self,
        asked: Asked,
        interval: str,
        closed: Sequence[Candle],
        growing: Candle | None,
        limit: int,
        *,
        packed: bool = False,
    ) -> bytes:
        """The newest `limit` of them, the growing one last; with `packed` as gzip."""
        series = (asked.exchange, asked.symbol, interval)
        return self._pages.body(
            series, lambda candle: encode(ohlc(asked, interval, candle)), closed, growing, limit, packed=packed
        )


def interest(asked: Asked, event: OpenInterest) -> Interest:
    """Open interest."""
    value = None if event.value is None else float(event.value)
    return Interest(asked.exchange, asked.symbol, time_text(event.event_ns), float(event.size), value)


def running_funding(asked: Asked, event: FundingRate) -> Funding:
    """The rate of the running period."""
    learnt = time_text(event.received_ns)
    return Funding(asked.exchange, asked.symbol, learnt, float(event.rate), time_text(event.funding_ns))


def settled_funding(asked: Asked, event: FundingRate) -> Funding:
    """A rate that was paid."""
    paid = time_text(event.funding_ns)
    return Funding(asked.exchange, asked.symbol, paid, float(event.rate), paid)


def predicted_funding(events: Iterable[PredictedFunding], coin: str | None) -> list[CoinFunding]:
    """Predictions by coin, all or of one coin, whatever its case."""
    coins: dict[str, list[VenueFunding]] = {}
    for event in events:
        if coin is None or event.coin.upper() == coin.upper():
            next_time = None if event.funding_ns is None or event.rate is None else time_text(event.funding_ns)
            rate = 0.0 if event.rate is None else float(event.rate)
            coins.setdefault(event.coin.upper(), []).append(VenueFunding(event.label, rate, next_time))
    return [CoinFunding(name, venues) for name, venues in coins.items()]


def worth(event: Trade | Liquidation) -> Decimal:
    """What it is worth in the quote currency."""
    return event.price * event.size if event.value is None else event.value


def named(instrument: str) -> tuple[str, str] | None:
    """Exchange and symbol of an instrument's name; None for a venue that this dialect does not know."""
    venue, _, symbol = instrument.partition(":")
    exchange = EXCHANGE_OF.get(venue)
    return None if exchange is None else (exchange, symbol)


def liquidation(exchange: str, symbol: str, event: Liquidation) -> bytes:
    """A liquidation frame."""
    return encode(
        LiquidationFrame(
            "liquidation",
            exchange,
            symbol,
            time_text(event.event_ns),
            "sell" if event.side is Side.SELL else "buy",
            float(event.price),
            float(event.size),
            float(worth(event)),
        )
    )


def large_trade(exchange: str, symbol: str, event: Trade) -> bytes:
    """A large trade frame."""
    sold = event.side is Side.SELL
    return encode(
        LargeTradeFrame(
            "large_trade",
            exchange,
            symbol,
            time_text(event.event_ns),
            "sell" if sold else "buy",
            float(event.price),
            float(event.size),
            float(worth(event)),
            sold,
        )
    )


def spike(exchange: str, symbol: str, event: Spike) -> bytes:
    """A spike frame."""
    return encode(
        SpikeFrame(
            "oi_spike",
            exchange,
            symbol,
            TIMEFRAME_OF[event.interval_s],  # type: ignore[arg-type]
            round(event.z_open_interest, 2),
            round(event.z_volume, 2),
            event.confirmed,
            time_text(event.open_ns),
            float(event.price),
            float(event.open_interest),
            float(event.volume),
        )
    )


def bounds_ns(start_ms: int | None, end_ms: int | None) -> tuple[int | None, int | None]:
    """Milliseconds, both inclusive, as [start, end) in nanoseconds."""
    start_ns = None if start_ms is None else _ns(start_ms)
    end_ns = None if end_ms is None else _ns(end_ms) + 1
    return start_ns, end_ns


def _ns(ms: int) -> int:
    # Numbers that no clock will show mean "from the beginning" and "for ever"; they must still fit 64 bits.
    return min(max(ms, 0), NS_MAX // 1_000_000) * 1_000_000


def missing_text(missing: Sequence[tuple[int, int]]) -> str:
    """Stretches that nobody has, for the header X-Missing: first and last millisecond of each."""
    return ", ".join(f"{start // 1_000_000}-{(end - 1) // 1_000_000}" for start, end in missing[:20])


def json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of ready JSON."""
    return Response(body, status, headers, media_type="application/json")


def detail(status: int, said: object, headers: Mapping[str, str] | None = None) -> Response:
    """No, and why."""
    return json(encode({"detail": said}), status, headers)


def status_of(refusal: Refusal) -> int:
    """The HTTP status that says this no."""
    match refusal:
        case Unknown() | Unsupported() | OutOfReach():
            return 404
        case Unauthenticated():
            return 401
        case Forbidden():
            return 403
        case Invalid():
            return 422
        case TooLarge():
            return 413
        case LimitExceeded():
            return 429
        case Unavailable():
            return 503
        case NotConfigured():
            return 500
        case _:
            return 400


def text_of(refusal: Refusal) -> str:
    """Its words; a venue that does not answer is named as callers know it."""
    if isinstance(refusal, Unavailable) and not isinstance(refusal, OutOfReach):
        return f"{EXCHANGE_OF.get(refusal.who, refusal.who)} is unavailable: {refusal.text}"
    return refusal.text


def retry_after(refusal: Refusal) -> dict[str, str] | None:
    """When to come back, as a header, where that is known."""
    retry_s = refusal.retry_s if isinstance(refusal, LimitExceeded | Unavailable) else None
    return None if retry_s is None else {"Retry-After": str(max(1, math.ceil(retry_s)))}


def refuse(refusal: Refusal) -> Response:
    """A refusal as an answer."""
    return detail(status_of(refusal), text_of(refusal), retry_after(refusal))
