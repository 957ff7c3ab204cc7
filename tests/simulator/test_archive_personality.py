"""Binance's archive, played: the rows of klines, there once their day or month is over, and the same whenever asked for."""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from io import BytesIO
from zipfile import BadZipFile, ZipFile

import httpx2
import pytest

from openoutcry.clock import ManualClock
from openoutcry.simulator.binance_archive import FILES_KEPT
from openoutcry.simulator.listings import standard
from openoutcry.simulator.simulator import Simulator

Play = Callable[..., Awaitable[Simulator]]
Get = Callable[..., Awaitable[httpx2.Response]]
NS = 1_000_000_000
HOUR_S, DAY_S = 3_600, 86_400
FOLDERS = {
    "binance": ("/data/spot", "BTCUSDT", "/api/v3"),
    "binance_futures": ("/data/futures/um", "BTCUSDT", "/fapi/v1"),
    "binance_delivery": ("/data/futures/cm", "BTCUSD_PERP", "/dapi/v1"),
}
markets = pytest.mark.parametrize("venue", list(FOLDERS))
# Of the simulator's clock: 2026-11-20 13:00:20.
DAY, TODAY, MONTH = "2026-11-18", "2026-11-20", "2026-10"


def url(simulator: Simulator, venue: str, stamp: str, interval: str = "1m", symbol: str = "") -> str:
    folder, known, _ = FOLDERS[venue]
    span, symbol = "daily" if stamp.count("-") == 2 else "monthly", symbol or known
    address = simulator.addresses()[venue]["archive"]
    return f"{address}{folder}/{span}/klines/{symbol}/{interval}/{symbol}-{interval}-{stamp}.zip"


def lines_of(body: bytes) -> list[str]:
    with ZipFile(BytesIO(body)) as packed:
        (name,) = packed.namelist()
        assert name.endswith(".csv")
        return packed.read(name).decode().splitlines()


def at_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000


@markets
async def test_a_file_holds_the_rows_of_klines_in_their_spelling(venue: str, play: Play, get: Get) -> None:
    simulator = await play(venue)
    lines = lines_of((await get(url(simulator, venue, DAY))).content)
    _, symbol, prefix = FOLDERS[venue]
    if venue != "binance":
        assert lines.pop(0).startswith("open_time,open,")
    assert len(lines) == 1_440
    rest = simulator.addresses()[venue]["rest"] + f"{prefix}/klines"
    asked = {"symbol": symbol, "interval": "1m", "startTime": at_ms(DAY), "limit": 1_000}
    rows = (await get(rest, **asked, endTime=at_ms(DAY) + 1_000 * 60_000 - 1)).json()
    assert len(rows) == 1_000
    for line, row in zip(lines, rows, strict=False):
        told = line.split(",")
        if venue == "binance":
            assert (told[0], told[6]) == (f"{row[0]}000", f"{row[6]}999")
            told[0], told[6] = told[0][:-3], told[6][:-3]
        assert told == [str(column) for column in row]


@markets
async def test_the_checksum_is_that_of_the_file_and_costs_no_weight(venue: str, play: Play, get: Get) -> None:
    simulator = await play(venue)
    where = url(simulator, venue, DAY)
    body, told = await get(where), await get(f"{where}.CHECKSUM")
    assert told.text == f"{hashlib.sha256(body.content).hexdigest()}  {where.rpartition('/')[2]}\n"
    assert "x-mbx-used-weight-1m" not in body.headers


async def test_a_file_that_was_dropped_is_made_again_to_the_byte(play: Play, get: Get) -> None:
    simulator = await play("binance")
    first = (await get(url(simulator, "binance", DAY, "30m"))).content
    # The time of its making would make it another every two seconds.
    assert [about.date_time for about in ZipFile(BytesIO(first)).infolist()] == [(1980, 1, 1, 0, 0, 0)]
    for day in range(1, FILES_KEPT + 2):
        assert (await get(url(simulator, "binance", f"2026-11-{day:02}", "30m"))).status_code == 200
    assert (await get(url(simulator, "binance", DAY, "30m"))).content == first


async def test_a_month_is_its_days(play: Play, get: Get) -> None:
    simulator = await play("binance_futures", listings=standard(at_ms("2026-09-20") * 1_000_000))
    month = lines_of((await get(url(simulator, "binance_futures", MONTH, "15m"))).content)
    assert len(month) == 1 + 31 * 96
    day = lines_of((await get(url(simulator, "binance_futures", f"{MONTH}-31", "15m"))).content)
    assert month[-96:] == day[1:]


async def test_a_month_begins_with_the_listing(play: Play, get: Get) -> None:
    simulator = await play("binance_futures")
    born_ns, _ = simulator.world.life("binance_futures:BTCUSDT")
    month = lines_of((await get(url(simulator, "binance_futures", MONTH, "15m"))).content)
    assert month[1].startswith(f"{born_ns // 1_000_000},")
    assert born_ns > at_ms(f"{MONTH}-01") * 1_000_000


async def test_the_files_of_a_dated_contract_end_with_it(play: Play, get: Get) -> None:
    simulator = await play("binance_delivery", listings=standard(at_ms("2026-09-01") * 1_000_000))
    (symbol,) = (
        listing.instrument.symbol
        for listing in simulator.world.listings("binance_delivery")
        if listing.instrument.symbol.startswith("BTCUSD_26")
    )
    assert symbol == "BTCUSD_260925"
    last = lines_of((await get(url(simulator, "binance_delivery", "2026-09-25", symbol=symbol))).content)
    # Until 08:00, below the line of names.
    assert len(last) == 1 + 8 * 60
    after = await get(url(simulator, "binance_delivery", "2026-09-26", symbol=symbol))
    assert after.status_code == 404


async def test_what_is_not_over_or_was_not_listed_is_not_there(play: Play, get: Get) -> None:
    simulator = await play("binance_futures")
    born_ns, _ = simulator.world.life("binance_futures:BTCUSDT")
    before = datetime.fromtimestamp(born_ns // NS - 2 * DAY_S, UTC).date().isoformat()
    for stamp in (TODAY, "2026-11", "2027-01-01", before, "2026-02-30", "2026-13"):
        where = url(simulator, "binance_futures", stamp, "15m")
        assert (await get(where)).status_code == (await get(f"{where}.CHECKSUM")).status_code == 404
    for interval, symbol in (("1s", ""), ("7m", ""), ("15m", "NOSUCHUSDT")):
        assert (await get(url(simulator, "binance_futures", DAY, interval, symbol))).status_code == 404
    elsewhere = simulator.addresses()["binance_futures"]["archive"] + "/data/futures/um/else"
    assert (await get(elsewhere)).status_code == 404


async def test_a_day_is_there_some_hours_after_its_end(get: Get) -> None:
    midnight_ns = at_ms(TODAY) * 1_000_000
    for hours, status in ((2, 404), (3, 200)):
        simulator = Simulator(7, ManualClock(midnight_ns + hours * HOUR_S * NS), ["binance"])
        await simulator.start()
        answer = await get(url(simulator, "binance", "2026-11-19", "30m"))
        await simulator.stop()
        assert answer.status_code == status


async def test_a_month_is_there_some_days_after_its_end(get: Get) -> None:
    for days, status in ((1, 404), (2, 200)):
        simulator = Simulator(7, ManualClock(at_ms("2026-11-01") * 1_000_000 + days * DAY_S * NS), ["binance"])
        await simulator.start()
        answer = await get(url(simulator, "binance", MONTH, "30m"))
        await simulator.stop()
        assert answer.status_code == status


async def test_its_faults(play: Play, get: Get) -> None:
    simulator = await play("binance")
    where = url(simulator, "binance", DAY, "30m")
    good = (await get(where)).content
    simulator.faults.set("binance", archive="checksum")
    assert hashlib.sha256(good).hexdigest() not in (await get(f"{where}.CHECKSUM")).text
    assert (await get(where)).content == good
    simulator.faults.set("binance", archive="cut")
    cut = (await get(where)).content
    assert hashlib.sha256(cut).hexdigest() in (await get(f"{where}.CHECKSUM")).text
    with pytest.raises(BadZipFile):
        lines_of(cut)
    simulator.faults.set("binance", archive="missing")
    assert (await get(where)).status_code == 404
    assert (await get(f"{where}.CHECKSUM")).status_code == 404


async def test_who_has_no_archive_has_no_address_and_no_files(play: Play, get: Get) -> None:
    simulator = await play("binance_options", "okx")
    addresses = simulator.addresses()
    assert addresses["binance_options"]["archive"] == addresses["okx"]["archive"] == ""
    where = f"{addresses['binance_options']['rest']}/data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-{DAY}.zip"
    assert (await get(where)).status_code == 404
