"""Binance's archive: which files cover a stretch, and what their lines say, held against the REST side's own reading."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Unreadable
from openoutcry.events import NS, Candle, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import ARCHIVES, VENUES
from openoutcry.venues.archive import ROWS_MAX, ROWS_MIN, Archive, ArchiveFile
from openoutcry.venues.venue import Answer, Ask, Query
from tests.venues.conftest import VALUES

MINUTE_NS, DAY_NS = 60 * NS, 86_400 * NS
SYMBOLS = {"binance": "BTCUSDT", "binance_futures": "BTCUSDT", "binance_delivery": "BTCUSD_PERP"}
FOLDERS = {
    "binance": "data/spot",
    "binance_futures": "data/futures/um",
    "binance_delivery": "data/futures/cm",
}
markets = pytest.mark.parametrize("venue", list(ARCHIVES))
HEAD = (
    b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


NOW_NS = at("2026-01-01")


def listed(venue: str, **other: object) -> Instrument:
    about = {
        "venue": venue,
        "symbol": SYMBOLS[venue],
        "kind": Kind.SPOT if venue == "binance" else Kind.PERPETUAL,
        "coin": "BTC",
        "quote": "USD",
        "settle": "BTC",
        "tick_size": Decimal("0.1"),
        "lot_size": Decimal(1),
        "contract_size": Decimal(100) if venue == "binance_delivery" else None,
        "inverse": venue == "binance_delivery",
        **other,
    }
    return Instrument(**about)  # type: ignore[arg-type]


def files(venue: str, start: str, end: str, interval_s: int = 60) -> Sequence[ArchiveFile]:
    return ARCHIVES[venue].files(listed(venue), interval_s, at(start), at(end))


def names(found: Sequence[ArchiveFile]) -> list[str]:
    return [file.path.rpartition("/")[2] for file in found]


def day_file(venue: str, day: str = "2024-01-05") -> ArchiveFile:
    (file,) = files(venue, f"{day}T00:00", f"{day}T23:59")
    return file


def read(venue: str, *lines: bytes, day: str = "2024-01-05", received_ns: int = NOW_NS) -> list[Candle]:
    return list(ARCHIVES[venue].candles(day_file(venue, day), lines, received_ns))


def row(open_ns: int, columns: Mapping[str, str] | None = None, *, micro: bool = False) -> bytes:
    unit = 1_000 if micro else 1_000_000
    told = {
        "open_time": str(open_ns // unit),
        "open": "42000.10",
        "high": "42100.50",
        "low": "41900.00000000",
        "close": "42050.20",
        "volume": "206",
        "close_time": str((open_ns + MINUTE_NS) // unit - 1),
        "quote_volume": "2.13660389",
        "count": "48",
        "taker_buy_volume": "119",
        "taker_buy_quote_volume": "1.23424865",
        "ignore": "0",
        **(columns or {}),
    }
    return ",".join(told.values()).encode()


FIRST_NS = at("2024-01-05")


# Which files


@markets
def test_whole_months_go_by_month_and_the_rest_by_days(venue: str) -> None:
    found = files(venue, "2023-12-30T12:00", "2024-03-02T01:00")
    symbol = SYMBOLS[venue]
    assert names(found) == [
        f"{symbol}-1m-{stamp}.zip"
        for stamp in ("2023-12-30", "2023-12-31", "2024-01", "2024-02", "2024-03-01", "2024-03-02")
    ]
    assert found[0].path == f"{FOLDERS[venue]}/daily/klines/{symbol}/1m/{symbol}-1m-2023-12-30.zip"
    assert found[3].path == f"{FOLDERS[venue]}/monthly/klines/{symbol}/1m/{symbol}-1m-2024-02.zip"
    assert (found[3].start_ns, found[3].end_ns) == (at("2024-02-01"), at("2024-03-01"))
    assert all(before.end_ns == after.start_ns for before, after in pairwise(found))


def test_the_parts_of_a_month_are_its_days_and_a_day_has_none() -> None:
    (month,) = files("binance", "2024-02-01", "2024-03-01")
    days = ARCHIVES["binance"].parts(month)
    assert len(days) == 29
    assert (days[0].start_ns, days[-1].end_ns) == (month.start_ns, month.end_ns)
    assert names(days)[-1] == "BTCUSDT-1m-2024-02-29.zip"
    assert ARCHIVES["binance"].parts(days[0]) == ()


def test_where_a_day_has_too_few_candles_a_month_serves_its_part_too() -> None:
    found = files("binance_futures", "2024-01-20", "2024-03-10", 300)
    assert names(found) == [f"BTCUSDT-5m-2024-0{month}.zip" for month in (1, 2, 3)]
    assert ARCHIVES["binance_futures"].parts(found[0]) == []


def test_short_stretches_and_small_or_huge_files_are_not_worth_it() -> None:
    assert not files("binance", "2024-01-05T00:00", "2024-01-05T16:39")
    assert files("binance", "2024-01-05T00:00", "2024-01-05T16:40")
    assert names(files("binance", "2024-02-01", "2024-03-01", 1_800)) == ["BTCUSDT-30m-2024-02.zip"]
    for interval_s in (1, 3_600, 86_400, 604_800, 61):
        assert not files("binance", "2020-01-01", "2024-01-01", interval_s)


def test_what_is_no_plain_symbol_or_has_no_contract_size_has_no_files() -> None:
    asked = (60, at("2024-01-01"), at("2024-02-01"))
    for symbol in ("../../secret", "A/B", "", "a?b", "A%2FB"):
        assert not ARCHIVES["binance"].files(listed("binance", symbol=symbol), *asked)
    assert not ARCHIVES["binance_delivery"].files(listed("binance_delivery", contract_size=None), *asked)
    assert ARCHIVES["binance"].files(listed("binance", contract_size=None), *asked)


@given(
    st.sampled_from([60, 180, 300, 900, 1_800]),
    st.integers(at("2019-01-01"), at("2025-01-01")),
    st.integers(0, 400 * DAY_NS),
)
def test_files_cover_a_stretch_from_its_start_without_a_hole(interval_s: int, start_ns: int, length_ns: int) -> None:
    end_ns = start_ns + length_ns
    found = ARCHIVES["binance"].files(listed("binance"), interval_s, start_ns, end_ns)
    # Months serve parts of themselves where days are too small, so all that is long enough is covered to its end.
    assert bool(found) == (length_ns >= ROWS_MIN * interval_s * NS)
    if found:
        assert found[0].start_ns <= start_ns < found[0].end_ns
        assert found[-1].start_ns < end_ns <= found[-1].end_ns
        assert all(before.end_ns == after.start_ns for before, after in pairwise(found))
        assert all(ROWS_MIN <= (f.end_ns - f.start_ns) // (interval_s * NS) <= ROWS_MAX for f in found)


def test_absurd_times_find_few_files_or_none() -> None:
    archive, asked = ARCHIVES["binance"], listed("binance")
    assert not archive.files(asked, 60, 2**62, 2**63)
    assert not archive.files(asked, 60, at("2024-02-01"), at("2024-01-01"))
    assert len(archive.files(asked, 60, -(2**63), 2**63)) == 12 * (2100 - 2009)


# What they say


def test_a_row_is_a_candle_with_its_text_s_numbers() -> None:
    (candle,) = read("binance_futures", row(FIRST_NS))
    assert candle == Candle(
        "binance_futures:BTCUSDT", Side.BOTH, 60, FIRST_NS, Decimal("42000.10"), Decimal("42100.50"), Decimal(41900),
        Decimal("42050.20"), Decimal(206), Decimal("2.13660389"), 48, None, None, closed=True, received_ns=NOW_NS,
        origin="venue",
    )  # fmt: skip


def test_contracts_of_coinm_become_coins_and_dollars() -> None:
    (candle,) = read("binance_delivery", HEAD, row(FIRST_NS))
    assert (candle.volume, candle.quote_volume) == (Decimal("2.13660389"), Decimal(20_600))


@markets
def test_a_row_says_what_rest_says_in_the_same_words(venue: str) -> None:
    lines = [row(FIRST_NS + n * MINUTE_NS, {"open": f"4200{n}.1"}) for n in range(3)]
    rows = [[int(c) if n in {0, 6, 8} else c for n, c in enumerate(line.decode().split(","))] for line in lines]
    adapter = VENUES[venue]()
    adapter.learn([listed(venue)])
    ask = Ask(
        query=Query.CANDLES, symbol=SYMBOLS[venue], interval_s=60, start_ns=FIRST_NS, end_ns=FIRST_NS + 3 * MINUTE_NS
    )
    page = adapter.page(ask, Answer(200, {}, json.dumps(rows).encode(), NOW_NS))
    assert read(venue, *lines) == list(page.events)
    assert len(page.events) == 3


@markets
def test_names_at_the_top_and_microseconds_change_nothing(venue: str) -> None:
    lines = [row(FIRST_NS), row(FIRST_NS + MINUTE_NS)]
    plain = read(venue, *lines)
    assert read(venue, HEAD, *lines) == plain
    assert read(venue, *(line + b"\r" for line in [HEAD, *lines])) == plain
    assert read(venue, *(row(FIRST_NS + n * MINUTE_NS, micro=True) for n in range(2))) == plain


def test_candles_come_as_their_lines_are_read() -> None:
    def lines() -> "list[bytes]":
        return [row(FIRST_NS), b"rubbish"]

    candles = ARCHIVES["binance"].candles(day_file("binance"), iter(lines()), NOW_NS)
    assert next(candles).open_ns == FIRST_NS
    with pytest.raises(Unreadable):
        next(candles)


@pytest.mark.parametrize(
    "lines",
    [
        [row(FIRST_NS + MINUTE_NS), row(FIRST_NS)],
        [row(FIRST_NS), row(FIRST_NS)],
        [row(FIRST_NS + 30 * NS)],
        [row(FIRST_NS - MINUTE_NS)],
        [row(FIRST_NS + DAY_NS)],
        [row(FIRST_NS), HEAD],
        [row(FIRST_NS) + b",0"],
        [row(FIRST_NS).rpartition(b",")[0]],
        [b""],
        [b"\xff\xfe" + row(FIRST_NS)],
        [row(FIRST_NS, {"low": "42001.00"})],
        [row(FIRST_NS, {"open_time": "1e99"})],
        [row(FIRST_NS, {"close_time": str(NOW_NS // 1_000_000)})],
    ],
    ids=[
        "order", "twice", "off the grid", "before", "after", "names below", "13 columns", "11 columns", "empty",
        "no ascii", "low above open", "no time", "still grows",
    ],
)  # fmt: skip
def test_what_is_strange_is_unreadable(lines: list[bytes]) -> None:
    with pytest.raises(Unreadable):
        read("binance", *lines)


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume", "quote_volume", "count"])
@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-1", "1e40", "", "x"])
def test_a_number_that_is_none_is_unreadable(column: str, value: str) -> None:
    with pytest.raises(Unreadable):
        read("binance_delivery", row(FIRST_NS, {column: value}))


@given(st.sampled_from(list(ARCHIVES)), st.integers(0, 11), VALUES.map(str))
def test_a_spoilt_column_is_unreadable_or_still_a_candle(venue: str, column: int, value: str) -> None:
    columns = row(FIRST_NS).decode().split(",")
    columns[column] = value
    archive: Archive = ARCHIVES[venue]
    line = ",".join(columns).encode("utf-8", "surrogatepass")
    try:
        candles = list(archive.candles(day_file(venue), [line], NOW_NS))
    except Unreadable:
        return
    for candle in candles:
        assert candle.open_ns % MINUTE_NS == 0
        assert FIRST_NS <= candle.open_ns < FIRST_NS + DAY_NS
        assert 0 < candle.low <= candle.open <= candle.high < Decimal("1e12")
        assert 0 <= candle.volume < Decimal("1e21")
