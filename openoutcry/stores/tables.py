"""The tables of market data, and how a row of each becomes an event and back.

Prices and sizes are kept as the text of their Decimal: exact, readable with any SQL tool, the same in every database,
and read back faster than scaled integers (which would need a division for each value).
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from openoutcry.events import (
    Candle,
    FundingBar,
    FundingRate,
    InterestBar,
    Level,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    Ohlc,
    OpenInterest,
    Side,
    Trade,
)
from openoutcry.market.series import Of, SeriesKey, levels_text

metadata = MetaData()

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instrument", Text, nullable=False),
    Column("of", Text, nullable=False),
    Column("interval_s", Integer, nullable=False),
    Column("side", Text, nullable=False),
    UniqueConstraint("instrument", "of", "interval_s", "side"),
)


def _owner() -> Column[int]:
    return Column("series", Integer, ForeignKey("series.id"), primary_key=True, autoincrement=False)


def _time(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _number(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable)


def _ns(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


spans = Table(
    "spans",
    metadata,
    _owner(),
    _time("start_ns"),
    _ns("end_ns"),
    Column("state", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Kept with each write of candles, so that nobody has to count them.
summaries = Table(
    "summaries",
    metadata,
    _owner(),
    _ns("first_ns"),
    _ns("last_ns"),
    Column("rows", BigInteger, nullable=False),
)

checks = Table(
    "checks",
    metadata,
    _owner(),
    _time("start_ns"),
    _ns("end_ns"),
    _ns("checked_ns"),
    sqlite_with_rowid=False,
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instrument", Text, nullable=False),
    Column("interval_s", Integer, nullable=False),
    _ns("start_ns"),
    _ns("end_ns"),
    Column("force", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    _ns("cursor_ns"),
    Column("candles", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    _ns("created_ns"),
    _ns("updated_ns"),
    sqlite_autoincrement=True,  # an id is never used again
)
_ACTIVE = text("state IN ('pending', 'running')")
# However many ask for the same at once, in whatever process: one task.
one_active = Index(
    "tasks_one_active",
    *(tasks.c.instrument, tasks.c.interval_s, tasks.c.start_ns, tasks.c.end_ns),
    unique=True,
    sqlite_where=_ACTIVE,
    postgresql_where=_ACTIVE,
)

listings = Table(
    "listings",
    metadata,
    Column("venue", Text, primary_key=True),
    Column("symbol", Text, primary_key=True),
    Column("instrument", Text, nullable=False),
    sqlite_with_rowid=False,
)

candles = Table(
    "candles",
    metadata,
    _owner(),
    _time("open_ns"),
    _number("open"),
    _number("high"),
    _number("low"),
    _number("close"),
    _number("volume"),
    _number("quote_volume"),
    Column("trades", BigInteger, nullable=False),
    _ns("first_ns", nullable=True),
    _ns("last_ns", nullable=True),
    _ns("received_ns"),
    Column("origin", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)

interest = Table(
    "interest",
    metadata,
    _owner(),
    _time("event_ns"),
    _number("size"),
    _number("value", nullable=True),
    _number("contracts", nullable=True),
    _ns("received_ns"),
    _number("price", nullable=True),
    sqlite_with_rowid=False,
)

interest_bars = Table(
    "interest_bars",
    metadata,
    _owner(),
    _time("open_ns"),
    _number("open"),
    _number("high"),
    _number("low"),
    _number("close"),
    _number("value", nullable=True),
    _ns("received_ns"),
    _number("value_open", nullable=True),
    _number("value_high", nullable=True),
    _number("value_low", nullable=True),
    _number("value_close", nullable=True),
    _number("price_open", nullable=True),
    _number("price_high", nullable=True),
    _number("price_low", nullable=True),
    _number("price_close", nullable=True),
    sqlite_with_rowid=False,
)

funding_rates = Table(
    "funding_rates",
    metadata,
    _owner(),
    _time("funding_ns"),
    _number("rate"),
    Column("interval_s", Integer),
    _ns("event_ns"),
    _ns("received_ns"),
    sqlite_with_rowid=False,
)

funding_bars = Table(
    "funding_bars",
    metadata,
    _owner(),
    _time("open_ns"),
    _number("open"),
    _number("high"),
    _number("low"),
    _number("close"),
    _number("settled", nullable=True),
    _ns("funding_ns", nullable=True),
    _ns("received_ns"),
    _number("predicted_open", nullable=True),
    _number("predicted_high", nullable=True),
    _number("predicted_low", nullable=True),
    _number("predicted_close", nullable=True),
    sqlite_with_rowid=False,
)

liquidation_bars = Table(
    "liquidation_bars",
    metadata,
    _owner(),
    _time("open_ns"),
    _number("volume"),
    _number("quote_volume"),
    Column("count", BigInteger, nullable=False),
    _ns("received_ns"),
    sqlite_with_rowid=False,
)

levels_bars = Table(
    "levels_bars",
    metadata,
    _owner(),
    _time("open_ns"),
    # Price and size of each level, all separated by blanks.
    Column("levels", Text, nullable=False),
    _ns("received_ns"),
    sqlite_with_rowid=False,
)

trades = Table(
    "trades",
    metadata,
    _owner(),
    _time("event_ns"),
    _time("seq"),
    # The venue's id as text, with a mark in front that tells numbers ("#12") from names ("=a-1").
    Column("id", Text, primary_key=True),
    Column("side", Text, nullable=False),
    _number("price"),
    _number("size"),
    Column("count", BigInteger, nullable=False),
    _number("value", nullable=True),
    _number("contracts", nullable=True),
    _ns("received_ns"),
    sqlite_with_rowid=False,
)

liquidations = Table(
    "liquidations",
    metadata,
    _owner(),
    _time("event_ns"),
    Column("id", Text, primary_key=True),
    Column("side", Text, nullable=False),
    _number("price"),
    _number("size"),
    _number("value", nullable=True),
    _number("contracts", nullable=True),
    Column("bankruptcy", SmallInteger, nullable=False),
    _ns("received_ns"),
    sqlite_with_rowid=False,
)


class Shape(msgspec.Struct, frozen=True):
    """How one kind of series lies in its table: values in the order of the columns, without the leading `series`."""

    table: Table
    pack: Callable[[Any], tuple[Any, ...]]
    unpack: Callable[[SeriesKey, Sequence[tuple[Any, ...]]], list[Any]]


_ORIGINS: tuple[Literal["trades", "venue"], ...] = ("trades", "venue")


def _text(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _texts(numbers: Ohlc | None) -> tuple[str | None, ...]:
    return (None, None, None, None) if numbers is None else tuple(map(str, numbers))


def _ohlc(texts: Sequence[str | None]) -> Ohlc | None:
    first, high, low, last = map(_decimal, texts)
    if first is None or high is None or low is None or last is None:
        return None
    return first, high, low, last


def _pack_candle(c: Candle) -> tuple[Any, ...]:
    assert c.closed, "only closed candles are kept"
    return (
        c.open_ns,
        str(c.open),
        str(c.high),
        str(c.low),
        str(c.close),
        str(c.volume),
        str(c.quote_volume),
        c.trades,
        c.first_ns,
        c.last_ns,
        c.received_ns,
        0 if c.origin == "trades" else 1,
    )


def _unpack_candles(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[Candle]:
    # One loop without a call for each row: this is what a question for 500 candles costs beside the SQL itself.
    name, side, interval_s, d, origins = key.instrument, key.side, key.interval_s, Decimal, _ORIGINS
    return [
        Candle(
            name, side, interval_s, at, d(o), d(h), d(low), d(c), d(v), d(q), n, first, last, True, received, origins[who]
        )
        for at, o, h, low, c, v, q, n, first, last, received, who in rows
    ]  # fmt: skip


def _pack_interest(i: OpenInterest) -> tuple[Any, ...]:
    return (i.event_ns, str(i.size), _text(i.value), _text(i.contracts), i.received_ns, _text(i.price))


def _unpack_interest(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[OpenInterest]:
    return [
        OpenInterest(key.instrument, at, received, Decimal(size), _decimal(value), _decimal(contracts), _decimal(price))
        for at, size, value, contracts, received, price in rows
    ]


def _pack_interest_bar(b: InterestBar) -> tuple[Any, ...]:
    assert b.closed, "only closed bars are kept"
    numbers = (str(b.open), str(b.high), str(b.low), str(b.close))
    return (b.open_ns, *numbers, _text(b.value), b.received_ns, *_texts(b.values), *_texts(b.prices))


def _unpack_interest_bars(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[InterestBar]:
    d = Decimal
    return [
        InterestBar(
            key.instrument, key.interval_s, at, d(o), d(h), d(low), d(c), _decimal(value), True, received,
            _ohlc(ranges[:4]), _ohlc(ranges[4:]),
        )
        for at, o, h, low, c, value, received, *ranges in rows
    ]  # fmt: skip


def _pack_funding(f: FundingRate) -> tuple[Any, ...]:
    assert f.settled, "only settled rates are kept"
    return (f.funding_ns, str(f.rate), f.interval_s, f.event_ns, f.received_ns)


def _unpack_funding(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[FundingRate]:
    return [
        FundingRate(key.instrument, event_ns, received, Decimal(rate), at, interval_s, True)
        for at, rate, interval_s, event_ns, received in rows
    ]


def _pack_funding_bar(b: FundingBar) -> tuple[Any, ...]:
    assert b.closed, "only closed bars are kept"
    return (
        b.open_ns,
        str(b.open),
        str(b.high),
        str(b.low),
        str(b.close),
        _text(b.settled),
        b.funding_ns,
        b.received_ns,
        *_texts(b.predicted),
    )


def _unpack_funding_bars(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[FundingBar]:
    d = Decimal
    return [
        FundingBar(
            key.instrument, key.interval_s, at, d(o), d(h), d(low), d(c), _decimal(settled), paid_ns, True, received,
            _ohlc(predicted),
        )
        for at, o, h, low, c, settled, paid_ns, received, *predicted in rows
    ]  # fmt: skip


def _pack_liquidation_bar(b: LiquidationBar) -> tuple[Any, ...]:
    assert b.closed, "only closed bars are kept"
    return (b.open_ns, str(b.volume), str(b.quote_volume), b.count, b.received_ns)


def _unpack_liquidation_bars(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[LiquidationBar]:
    return [
        LiquidationBar(
            key.instrument, key.side, key.interval_s, at, Decimal(volume), Decimal(quote), count, True, received
        )
        for at, volume, quote, count, received in rows
    ]  # fmt: skip


def _pack_levels_bar(b: LevelsBar) -> tuple[Any, ...]:
    assert b.closed, "only closed bars are kept"
    return (b.open_ns, levels_text(b.levels), b.received_ns)


def _unpack_levels_bars(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[LevelsBar]:
    return [
        LevelsBar(key.instrument, key.interval_s, at, _levels(levels), True, received) for at, levels, received in rows
    ]


def _levels(text: str) -> tuple[Level, ...]:
    numbers = list(map(Decimal, text.split()))
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _pack_trade(t: Trade) -> tuple[Any, ...]:
    return (
        t.event_ns,
        t.seq,
        f"#{t.id}" if isinstance(t.id, int) else f"={t.id}",
        t.side.value,
        str(t.price),
        str(t.size),
        t.count,
        _text(t.value),
        _text(t.contracts),
        t.received_ns,
    )


def _unpack_trades(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[Trade]:
    return [
        Trade(
            key.instrument, at, received, int(mark[1:]) if mark[0] == "#" else mark[1:], seq, Side(side), Decimal(price),
            Decimal(size), count, _decimal(value), _decimal(contracts),
        )
        for at, seq, mark, side, price, size, count, value, contracts, received in rows
    ]  # fmt: skip


def _pack_liquidation(x: Liquidation) -> tuple[Any, ...]:
    return (
        x.event_ns,
        x.id,
        x.side.value,
        str(x.price),
        str(x.size),
        _text(x.value),
        _text(x.contracts),
        int(x.bankruptcy),
        x.received_ns,
    )


def _unpack_liquidations(key: SeriesKey, rows: Sequence[tuple[Any, ...]]) -> list[Liquidation]:
    return [
        Liquidation(
            key.instrument, at, received, name, Side(side), Decimal(price), Decimal(size), _decimal(value),
            _decimal(contracts), bool(bankruptcy),
        )
        for at, name, side, price, size, value, contracts, bankruptcy, received in rows
    ]  # fmt: skip


SHAPES: dict[Of, Shape] = {
    Of.CANDLES: Shape(candles, _pack_candle, _unpack_candles),
    Of.INTEREST: Shape(interest, _pack_interest, _unpack_interest),
    Of.INTEREST_BARS: Shape(interest_bars, _pack_interest_bar, _unpack_interest_bars),
    Of.FUNDING: Shape(funding_rates, _pack_funding, _unpack_funding),
    Of.FUNDING_BARS: Shape(funding_bars, _pack_funding_bar, _unpack_funding_bars),
    Of.LIQUIDATION_BARS: Shape(liquidation_bars, _pack_liquidation_bar, _unpack_liquidation_bars),
    Of.LEVELS_BARS: Shape(levels_bars, _pack_levels_bar, _unpack_levels_bars),
    Of.TRADES: Shape(trades, _pack_trade, _unpack_trades),
    Of.LIQUIDATIONS: Shape(liquidations, _pack_liquidation, _unpack_liquidations),
}
