"""What is exported is what is stored, to the last digit, and nothing but whole files comes of it."""

import io
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet
from sqlalchemy import make_url, text

from openoutcry.clock import NS
from openoutcry.errors import (
    BadInterval,
    BadRange,
    Invalid,
    Refusal,
    Unavailable,
    Unknown,
    UnknownInstrument,
    Unsupported,
)
from openoutcry.events import Candle, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.series import Batch, Of, SeriesKey
from openoutcry.stores.export import (
    HOLES_SHOWN_MAX,
    Exported,
    Stored,
    StoredCandles,
    export,
    file_name,
    find,
    interval_name,
    interval_of,
    time_of,
    time_text,
    whole_file,
)
from openoutcry.stores.formats import NUMBERS, Misfit, Parquet, Slice, measured_scales, usual_scales
from openoutcry.stores.sql import SqlSeries, sqlite_url

T0_NS = 1_772_323_200 * NS  # 2026-03-01T00:00:00Z, a Sunday
LATER_NS = T0_NS + 365 * 86_400 * NS
NAME = "binance_futures:BTCUSDT"
HOSTILE = ("1E-8", "0.00000001", "123456789012345678.123456789", "0E-8", "1E+3", "-0.5", "65000.10", "0", "3")


def candle(minute: int, price: str = "65000.10", volume: str = "1.5", name: str = NAME, interval_s: int = 60) -> Candle:
    told, size = Decimal(price), Decimal(volume)
    at_ns = T0_NS + minute * interval_s * NS
    return Candle(
        name,
        Side.BOTH,
        interval_s,
        at_ns,
        told,
        told,
        told,
        told,
        size,
        told,
        minute + 7,
        None,
        None,
        True,
        at_ns,
        "venue",
    )


def instrument(symbol: str, kind: Kind = Kind.PERPETUAL, *, venue: str = "binance_futures", **told: Any) -> Instrument:
    named = {"coin": "BTC", "quote": "USDT", "settle": "USDT"} | told
    return Instrument(
        venue=venue, symbol=symbol, kind=kind, tick_size=Decimal("0.1"), lot_size=Decimal("0.001"), **named
    )


def keep(store: SqlSeries, candles: Sequence[Candle]) -> None:
    rows: dict[SeriesKey, list[Candle]] = {}
    for each in candles:
        rows.setdefault(SeriesKey(each.instrument, Of.CANDLES, each.interval_s, each.side), []).append(each)
    store.write(Batch(rows=rows))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return sqlite_url(tmp_path / "market.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def kept(url: Any) -> Iterator[SqlSeries]:
    store = SqlSeries(url)
    yield store
    store.close()


@pytest.fixture
def opened(kept: SqlSeries, url: Any) -> Iterator[StoredCandles]:
    candles = StoredCandles(url)
    yield candles
    candles.close()


def written(candles: StoredCandles, form: str, **asked: Any) -> tuple[bytes, Exported]:
    out = io.BytesIO()
    (stored,) = candles.series()
    result = export(candles, stored, out, form, now_ns=LATER_NS, told=lambda done, total: None, **asked)
    return out.getvalue(), result


def csv_rows(data: bytes) -> list[list[str]]:
    head, *lines = data.decode("ascii").splitlines()
    assert head == "timestamp,open,high,low,close,volume,quote_volume,trades"
    return [line.split(",") for line in lines]


# -- exactness


def test_csv_holds_the_texts_that_are_stored(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n, number, number) for n, number in enumerate(HOSTILE)])
    data, result = written(opened, "csv")
    rows = csv_rows(data)
    assert [row[0] for row in rows[:2]] == ["2026-03-01T00:00:00Z", "2026-03-01T00:01:00Z"]
    assert [row[1:7] for row in rows] == [[str(Decimal(number))] * 6 for number in HOSTILE]
    assert [int(row[7]) for row in rows] == [n + 7 for n in range(len(HOSTILE))]
    assert (result.rows, result.missing, result.first_ns, result.last_ns) == (9, 0, T0_NS, T0_NS + 8 * 60 * NS)


def test_parquet_holds_the_numbers_exactly(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n, number, number) for n, number in enumerate(HOSTILE)])
    table = parquet.read_table(io.BytesIO(written(opened, "parquet")[0]))
    assert table.column_names == ["timestamp", *NUMBERS, "trades"]
    assert table.schema.field("timestamp").type == pa.timestamp("ms", tz="UTC")
    assert table["timestamp"][1].as_py() == datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    assert table["trades"].to_pylist() == [n + 7 for n in range(len(HOSTILE))]
    for name in NUMBERS:
        assert pa.types.is_decimal(table.schema.field(name).type)
        assert table[name].to_pylist() == [Decimal(number) for number in HOSTILE]
    told = table.schema.metadata
    assert (told[b"openoutcry.instrument"], told[b"openoutcry.interval"]) == (NAME.encode(), b"1m")


@pytest.mark.parametrize(
    ("prices", "kind"),
    [
        (("1", "1E-20"), pa.decimal128(38, 20)),
        (("1", "1E+30"), pa.decimal128(38, 0)),  # Arrow itself would wrap around here
        (("1", "123456789012345678901.5"), pa.decimal128(38, 1)),
        (("1E-20", "123456789012345678901"), pa.string()),
        (("1", "1" + "0" * 39), pa.string()),
    ],
)
def test_a_column_grows_to_fit(kept: SqlSeries, opened: StoredCandles, prices: tuple[str, ...], kind: Any) -> None:
    keep(kept, [candle(n, price) for n, price in enumerate(prices)])
    table = parquet.read_table(io.BytesIO(written(opened, "parquet")[0]))
    assert table.schema.field("open").type == kind
    assert [Decimal(number) for number in table["open"].to_pylist()] == [Decimal(price) for price in prices]
    assert table.schema.field("volume").type == pa.decimal128(38, 18), "the others stay as they are"


def test_freqtrade_finds_its_columns(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n, number, number) for n, number in enumerate(HOSTILE)])
    data, _ = written(opened, "freqtrade")
    table = feather.read_table(io.BytesIO(data))
    assert table.schema.names == ["date", "open", "high", "low", "close", "volume"]
    assert [field.type for field in table.schema] == [pa.timestamp("ms", tz="UTC"), *[pa.float64()] * 5]
    assert table["date"][1].as_py() == datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    assert table["close"].to_pylist() == [float(number) for number in HOSTILE]
    assert table["volume"].to_pylist() == [float(number) for number in HOSTILE]


def test_freqtrade_s_files_are_under_lz4(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in range(1_000)])
    data, _ = written(opened, "freqtrade")
    assert (0x184D2204).to_bytes(4, "little") in data, "the mark of a frame of lz4"
    assert len(data) < 1_000 * 6 * 8 / 2


def test_freqtrade_gets_no_infinity(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(0, "1E+400")])
    with pytest.raises(Invalid, match="float64"):
        written(opened, "freqtrade")


numbers = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False),
    st.decimals(min_value=0, max_value=10**9, places=8),
    # Around what a column holds: 38 digits, 18 of them after the point.
    st.builds(lambda whole, places: Decimal(whole).scaleb(-places), st.integers(0, 10**40), st.integers(-3, 40)),
)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_any_decimal_survives_parquet(prices: list[Decimal]) -> None:
    texts = [str(price) for price in prices]
    rows = Slice(np.arange(len(texts), dtype="int64") * NS, dict.fromkeys(NUMBERS, texts), [0] * len(texts))
    out = io.BytesIO()
    try:
        _fill(out, rows, usual_scales())
    except Misfit:
        out = io.BytesIO()
        _fill(out, rows, measured_scales([rows]))
    read = parquet.read_table(io.BytesIO(out.getvalue()))["open"].to_pylist()
    assert [Decimal(number) for number in read] == prices


def _fill(out: io.BytesIO, rows: Slice, scales: dict[str, int | None]) -> None:
    writer = Parquet(out, scales, {})
    try:
        writer.add(rows)
        writer.finish()
    finally:
        writer.drop()


# -- what is asked for


def test_a_stretch_has_its_start_and_not_its_end(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in range(10)])
    data, result = written(opened, "csv", start_ns=T0_NS + 3 * 60 * NS, end_ns=T0_NS + 6 * 60 * NS)
    assert [row[0][11:16] for row in csv_rows(data)] == ["00:03", "00:04", "00:05"]
    assert (result.rows, result.missing) == (3, 0)


def test_slices_follow_one_another(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in range(10)])
    (stored,) = opened.series()
    slices = list(opened.slices(stored, T0_NS, LATER_NS, rows=4))
    assert [len(each.open_ns) for each in slices] == [4, 4, 2]
    assert [int(at) for each in slices for at in each.open_ns] == [T0_NS + n * 60 * NS for n in range(10)]


def test_holes_are_told_and_never_filled(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in (2, 3, 6, 7, 10)])
    data, result = written(opened, "csv")
    assert len(csv_rows(data)) == result.rows == 5
    minutes = [tuple((at_ns - T0_NS) // (60 * NS) for at_ns in hole) for hole in result.holes]
    assert (result.missing, minutes) == (4, [(4, 6), (8, 10)])


def test_holes_at_the_edges_are_those_of_the_stretch_that_was_asked(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in (2, 3)])
    out = io.BytesIO()
    (stored,) = opened.series()
    # Asked from the middle of a minute to the end of time, in the sixth minute: the one that runs is not missing.
    asked: dict[str, Any] = {"start_ns": T0_NS - 30 * NS, "end_ns": LATER_NS, "now_ns": T0_NS + 5 * 60 * NS + 1}
    result = export(opened, stored, out, "csv", told=lambda done, total: None, **asked)
    minutes = [tuple((at_ns - T0_NS) // (60 * NS) for at_ns in hole) for hole in result.holes]
    assert (result.missing, minutes) == (3, [(0, 2), (4, 5)])


def test_no_more_holes_are_named_than_one_reads(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(2 * n) for n in range(20)])
    _, result = written(opened, "csv")
    assert (result.missing, len(result.holes)) == (19, HOLES_SHOWN_MAX)


def test_nothing_there_is_a_refusal(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(0), candle(1)])
    with pytest.raises(Unknown, match=r"from 2026-03-01T00:00:00Z to 2026-03-01T00:01:00Z"):
        written(opened, "csv", start_ns=T0_NS + 60 * 60 * NS)


def test_how_far_it_is_comes_to_the_whole(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(n) for n in range(5)])
    (stored,) = opened.series()
    heard: list[tuple[int, int]] = []
    export(
        opened, stored, io.BytesIO(), "csv", start_ns=T0_NS + 90 * NS, now_ns=LATER_NS,
        told=lambda done, total: heard.append((done, total)),
    )  # fmt: skip
    assert heard[-1] == (3, 3)


def test_only_candles_of_both_sides_are_listed(kept: SqlSeries, opened: StoredCandles) -> None:
    keep(kept, [candle(0), msgspec.structs.replace(candle(0), side=Side.BUY), candle(0, interval_s=3_600)])
    kept.save_listing("binance_futures", [instrument("BTCUSDT")])
    found = opened.series()
    assert [(each.name, each.interval, each.rows) for each in found] == [(NAME, "1m", 1), (NAME, "1h", 1)]
    assert [each.instrument for each in found] == [instrument("BTCUSDT")] * 2


# -- the database


def test_it_is_read_while_another_writes(kept: SqlSeries, opened: StoredCandles) -> None:
    """Neither waits for the other, and every candle is whole: its six numbers belong together."""
    keep(kept, [candle(n, "1", "1") for n in range(3_000)])
    stop = threading.Event()

    def write() -> None:
        for turn in range(2, 10_000):
            if stop.is_set():
                return
            keep(kept, [candle(n, str(turn), str(turn)) for n in range(turn % 1_000, 3_000, 100)])
            keep(kept, [candle(3_000 + turn, "1", "1")])

    writing = threading.Thread(target=write)
    writing.start()
    try:
        seen = set()
        for _ in range(20):
            rows = csv_rows(written(opened, "csv")[0])
            assert len(rows) >= 3_000
            assert all(len(set(row[1:7])) == 1 for row in rows)
            assert [row[0] for row in rows] == sorted({row[0] for row in rows})
            seen |= {row[1] for row in rows}
    finally:
        stop.set()
        writing.join()
    assert len(seen) > 2, "it was written meanwhile, and what was written was read"


def test_nothing_can_be_written(kept: SqlSeries, opened: StoredCandles) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"), opened._cursor() as cursor:
        cursor.execute("DELETE FROM candles")


@pytest.mark.parametrize(("version", "said"), [(1_000, "newer openoutcry"), (1, "older openoutcry"), (0, "nothing of")])
def test_another_schema_is_refused_and_left_alone(kept: SqlSeries, url: Any, version: int, said: str) -> None:
    with kept._engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = :version"), {"version": version})
    with pytest.raises(Unavailable, match=said):
        StoredCandles(url)
    with kept._engine.begin() as connection:
        assert connection.scalar(text("SELECT version FROM schema_version")) == version


def test_a_postgres_of_others_is_refused(postgres_url: str) -> None:
    with pytest.raises(Unavailable, match="nothing of openoutcry"):
        StoredCandles(postgres_url)


def test_a_folder_without_a_database_stays_without(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="--data"):
        StoredCandles(sqlite_url(tmp_path / "market.sqlite3"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "market.sqlite3"
    file.write_bytes(b"not a database at all" * 1_000)
    with pytest.raises(Unavailable, match="cannot be read"):
        StoredCandles(sqlite_url(file))
    with sqlite3.connect(tmp_path / "strange ?#%.db") as other:
        other.execute("CREATE TABLE schema_version (version INTEGER)")
    other.close()
    with pytest.raises(Unavailable, match="nothing of openoutcry"):
        StoredCandles(make_url("sqlite://").set(database=str(tmp_path / "strange ?#%.db")))


# -- what a caller writes


def stored(symbol: str, interval_s: int = 60, *, venue: str = "binance_futures", **told: Any) -> Stored:
    listed = instrument(symbol, venue=venue, **told) if told else None
    return Stored(1, venue, symbol, interval_s, T0_NS, T0_NS, 1, listed)


FUTURES = [
    stored("BTCUSDT", coin="BTC"),
    stored("BTCUSDT", 3_600, coin="BTC"),
    stored("BTCUSDT_260327", coin="BTC", kind=Kind.FUTURE),
    stored("BTCUSDC", coin="BTC", quote="USDC"),
    stored("ETHUSDT", coin="ETH"),
    stored("1000PEPEUSDT", coin="1000PEPE"),
    stored("OLDUSDT"),
    stored("BTC-USDT-SWAP", venue="okx", coin="BTC"),
    stored("XBT/USD", venue="kraken", kind=Kind.SPOT, coin="BTC", quote="USD"),
    stored("BTC", venue="hyperliquid", coin="BTC", quote="USDC"),
    stored("XETHZEUR", venue="kraken", kind=Kind.SPOT, coin="ETH", quote="EUR"),
    stored("XETHZGBP", venue="kraken", kind=Kind.SPOT, coin="ETH", quote="GBP"),
]


@pytest.mark.parametrize(
    ("venue", "written", "meant"),
    [
        ("binance_futures", "BTC", "BTCUSDT"),
        ("binance_futures", "btc", "BTCUSDT"),
        ("binance_futures", "BTCUSDT", "BTCUSDT"),
        ("binance_futures", "btcusdt", "BTCUSDT"),
        ("binance_futures", "BTC-USD", "BTCUSDT"),
        ("binance_futures", "BTC/USDT", "BTCUSDT"),
        ("binance_futures", "BTC/USDT:USDT", "BTCUSDT"),
        ("binance_futures", "BTC_USDC", "BTCUSDC"),
        ("binance_futures", "btcusdt_260327", "BTCUSDT_260327"),
        ("binance_futures", "OLD", "OLDUSDT"),
        ("binance_futures", "old-usd", "OLDUSDT"),
        ("okx", "BTC", "BTC-USDT-SWAP"),
        ("okx", "btcusdt", "BTC-USDT-SWAP"),
        ("kraken", "BTC", "XBT/USD"),
        ("kraken", "BTC/USDT", "XBT/USD"),
        ("hyperliquid", "BTCUSDT", "BTC"),
        ("kraken", "ETHEUR", "XETHZEUR"),
    ],
)
def test_a_symbol_is_found_however_it_is_written(venue: str, written: str, meant: str) -> None:
    assert find(FUTURES, venue, written, 60).symbol == meant


@pytest.mark.parametrize(
    ("venue", "written", "interval_s", "refusal", "said"),
    [
        ("binance_futures", "DOGE", 60, UnknownInstrument, "ETHUSDT"),
        ("binance_futures", "PEPE", 60, UnknownInstrument, "1000PEPEUSDT"),
        ("binance_futures", "", 60, UnknownInstrument, "ETHUSDT"),
        ("binance_futures", "B" * 10_000, 60, UnknownInstrument, "ETHUSDT"),
        ("binance_futures", "BTC", 300, BadInterval, "only of 1m, 1h"),
        ("bybit", "BTC", 60, Unknown, "binance_futures, hyperliquid, kraken, okx"),
        ("kraken", "ETH", 60, UnknownInstrument, "XETHZEUR, XETHZGBP"),
    ],
)
def test_what_is_not_stored_is_refused_with_what_is(
    venue: str, written: str, interval_s: int, refusal: type[Refusal], said: str
) -> None:
    with pytest.raises(refusal, match=said) as refused:
        find(FUTURES, venue, written, interval_s)
    assert len(refused.value.text) < 500


def test_times_are_read_as_utc() -> None:
    assert time_of("2026-03-01") == T0_NS
    assert time_of("2026-03-01T00:00:00") == T0_NS
    assert time_of("2026-03-01T02:00:00+02:00") == T0_NS
    assert time_of("2026-03-01T00:00:00.000001Z") == T0_NS + 1_000
    assert time_text(T0_NS) == "2026-03-01T00:00:00Z"
    for wrong in ("", "yesterday", "1772323200", "2026-02-30"):
        with pytest.raises(Invalid):
            time_of(wrong)
    with pytest.raises(BadRange):
        time_of("9999-12-31")
    with pytest.raises(BadRange):
        time_of("0001-01-01T00:00:00+14:00")


def test_intervals_are_named_and_read() -> None:
    for name, seconds in {"1m": 60, "15m": 900, "4h": 14_400, "1d": 86_400, "1w": 604_800, "1s": 1}.items():
        assert (interval_of(name), interval_name(seconds)) == (seconds, name)
    for wrong in ("", "1M", "0m", "1", "m", "1.5h", "1m ", "9999999d"):
        with pytest.raises(BadInterval):
            interval_of(wrong)


# -- files


def test_files_are_named_as_freqtrade_names_them() -> None:
    def named(symbol: str, **told: Any) -> str:
        return str(file_name(stored(symbol, 3_600, **told), "freqtrade"))

    assert named("BTCUSDT", kind=Kind.SPOT) == "BTC_USDT-1h.feather"
    assert named("BTCUSDT", kind=Kind.PERPETUAL) == "futures/BTC_USDT_USDT-1h-futures.feather"
    expires_ns = time_of("2026-03-27T08:00:00Z")
    dated = named("BTCUSDT_260327", kind=Kind.FUTURE, expires_ns=expires_ns)
    assert dated == "futures/BTC_USDT_USDT-260327-1h-futures.feather"
    with pytest.raises(Unsupported, match="option"):
        named("BTC-260327-50000-C", kind=Kind.OPTION)
    with pytest.raises(Unsupported, match="listing"):
        named("BTCUSDT")


@pytest.mark.parametrize("form", ["csv", "parquet", "freqtrade"])
@pytest.mark.parametrize(
    "symbol", ["BTC/USDT:USDT", "..", ".", "/etc/passwd", "a\0b", "a\\b", "CON", "~", "a\nb", "", "\ud800", "币安USDT"]
)
def test_a_symbol_never_leads_elsewhere(form: str, symbol: str, tmp_path: Path) -> None:
    it = stored(symbol, coin=symbol, quote=symbol, settle=symbol)
    path = tmp_path / file_name(it, form)
    assert path.parent in {tmp_path, tmp_path / "futures"}
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    assert path.resolve().parent == path.parent.resolve()
    assert path.stem.partition(".")[0].upper() not in {"CON", "NUL", "AUX", "PRN"}


def test_two_symbols_are_never_one_file() -> None:
    symbols = ["BTC/USD", "BTC_USD", "BTC-USD", "BTC%2FUSD", "BTCUSD", "btcusd"]
    assert len({file_name(stored(symbol), "csv") for symbol in symbols}) == len(symbols)


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    with whole_file(target, force=False) as out:
        out.write(b"first")
        out.flush()
        assert not target.exists()
    assert target.read_bytes() == b"first"
    with pytest.raises(Invalid, match="--force"), whole_file(target, force=False):
        pass
    with whole_file(target, force=True) as out:
        out.write(b"second")
    with pytest.raises(ZeroDivisionError), whole_file(target, force=True) as out:
        out.write(b"third")
        raise ZeroDivisionError
    with pytest.raises(Invalid, match="folder"), whole_file(tmp_path, force=True):
        pass
    assert target.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_that_came_meanwhile_is_left(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    with pytest.raises(Invalid, match="--force"), whole_file(target, force=False) as out:
        out.write(b"ours")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


FULL = """
import resource, sys
from pathlib import Path
from openoutcry.stores.export import StoredCandles, export, whole_file
from openoutcry.stores.sql import sqlite_url

room = 40_000  # SQLite's own file beside its log is 32 KiB
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
candles = StoredCandles(sqlite_url(Path(sys.argv[1])))
(stored,) = candles.series()
target = Path(sys.argv[2])
try:
    with whole_file(target, force=False) as out:
        export(candles, stored, out, sys.argv[3], now_ns=0, told=lambda done, total: None)
except OSError as e:
    print("refused", e.errno)
candles.close()
"""


@pytest.mark.parametrize("form", ["csv", "parquet", "freqtrade"])
def test_no_room_leaves_no_half_file(tmp_path: Path, form: str) -> None:
    database, folder = tmp_path / "market.db", tmp_path / "out"
    folder.mkdir()
    store = SqlSeries(sqlite_url(database))
    # Numbers that compress badly: each is another.
    keep(
        store,
        [
            candle(n, str(Decimal(n * 7_919_993 % 1_000_003).scaleb(-3)), f"{n * 104_729 % 99_991}")
            for n in range(5_000)
        ],
    )
    store.close()
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(database), str(folder / "a"), form],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "refused 27\n", "")
    assert list(folder.iterdir()) == []
