"""Files of old candles: what is whole becomes pages, equal to what REST says; what is not is refused before it does harm."""

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile, ZipInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Unavailable
from openoutcry.events import Candle, Event
from openoutcry.feed.archives import (
    CSV_BYTES_MAX,
    FAILURES_MAX,
    LINE_BYTES_MAX,
    PAUSE_S,
    RATIO_MAX,
    ROWS_PER_PAGE,
    ZIP_BYTES_MAX,
    Archives,
)
from openoutcry.instrument import Instrument, Kind
from openoutcry.simulator.listings import standard
from openoutcry.simulator.simulator import Simulator
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient, Response
from openoutcry.venues import ARCHIVES, VENUES
from openoutcry.venues.venue import Answer, Ask, Page, Query, Venue

MINUTE_NS, DAY_NS = 60 * NS, 86_400 * NS
HEAD = b"open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
SYMBOLS = {"binance": "BTCUSDT", "binance_futures": "BTCUSDT", "binance_delivery": "BTCUSD_PERP"}


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


NOW_NS = at("2024-03-10T13:00:20")
BTC = Instrument(
    venue="binance", symbol="BTCUSDT", kind=Kind.SPOT, coin="BTC", quote="USDT", settle="USDT",
    tick_size=Decimal("0.01"), lot_size=Decimal("0.00001"),
)  # fmt: skip


def row(open_ns: int, *, micro: bool = False) -> bytes:
    unit = 1_000 if micro else 1_000_000
    return b"%d,42000.1,42100.5,41900.0,42050.2,1.5,%d,63000.15,48,0.7,29400.07,0\n" % (
        open_ns // unit,
        (open_ns + MINUTE_NS) // unit - 1,
    )


def rows(start: str, count: int, *, micro: bool = False) -> list[bytes]:
    return [row(at(start) + n * MINUTE_NS, micro=micro) for n in range(count)]


def zipped(lines: Iterable[bytes], *, method: int = ZIP_DEFLATED, members: int = 1, extra: bytes = b"") -> bytes:
    packed = BytesIO()
    with ZipFile(packed, "w") as files:
        for n in range(members):
            about = ZipInfo(f"{n}.csv")
            about.extra = extra
            files.writestr(about, b"".join(lines), method)
    return packed.getvalue()


def path(stamp: str) -> str:
    span = "daily" if stamp.count("-") == 2 else "monthly"
    return f"/data/spot/{span}/klines/BTCUSDT/1m/BTCUSDT-1m-{stamp}.zip"


class Shelf:
    """A small archive on a real socket: what lies at a path is sent as it is, or with a head made for it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.raw: dict[str, bytes] = {}
        self.stuck: set[str] = set()
        self.asked: list[str] = []

    def put(self, stamp: str, body: bytes, *, checksum: bytes | None = None) -> None:
        self.files[path(stamp)] = body
        told = hashlib.sha256(body).hexdigest().encode() if checksum is None else checksum
        self.files[path(stamp) + ".CHECKSUM"] = told + b"  whatever.zip\n"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(wanted.rpartition("/")[2])
        if wanted in self.stuck:
            await reader.read()
        elif wanted in self.raw:
            writer.write(self.raw[wanted])
        elif wanted in self.files:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.files[wanted]))
            writer.write(self.files[wanted])
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()


class Reader:
    """Archives with the real client, in front of a shelf."""

    def __init__(self, address: str, http: HttpClient, clock: ManualClock, **numbers: float) -> None:
        self.telemetry = Telemetry()
        self.archives = Archives(
            {"binance": address}, ARCHIVES, http=http, clock=clock, telemetry=self.telemetry, **numbers
        )

    async def pages(self, start: str, end: str) -> list[Page]:
        return [page async for page in self.archives.pages(BTC, 60, at(start), at(end))]

    def reach(self, start: str, end: str, instrument: Instrument = BTC, interval_s: int = 60) -> int | None:
        return self.archives.reach(instrument, interval_s, at(start), at(end))

    def count(self, what: str) -> float:
        return self.telemetry.registry.get_sample_value("openoutcry_archive_files_total", {"what": what}) or 0.0


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def address(shelf: Shelf) -> AsyncIterator[str]:
    server = await asyncio.start_server(shelf.answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@pytest.fixture
def reader(address: str, http: HttpClient) -> Reader:
    return Reader(address, http, ManualClock(NOW_NS))


def whole(pages: Iterable[Page], start_ns: int, end_ns: int) -> None:
    """The pages are complete for the stretch, each from where the last ended, and hold every minute of it once."""
    reached_ns, opens = start_ns, list[int]()
    for page in pages:
        assert page.start_ns == reached_ns
        assert page.end_ns is not None
        assert page.end_ns > reached_ns
        assert len(page.events) <= ROWS_PER_PAGE
        reached_ns = page.end_ns
        opens += [event.open_ns for event in page.events if isinstance(event, Candle)]
    assert reached_ns == end_ns
    assert opens == list(range(-(-start_ns // MINUTE_NS) * MINUTE_NS, end_ns, MINUTE_NS))


# Against the simulator


async def from_rest(venue: Venue, http: HttpClient, rest: str, ask: Ask, now_ns: int) -> list[Event]:
    found: list[Event] = []
    following: Ask | None = ask
    while following is not None:
        request = venue.request(following)
        said = await http.send(request.method, rest + request.path, query=request.query)
        page = venue.page(following, Answer(said.status, said.headers, said.body, now_ns))
        if ask.query is Query.INSTRUMENTS:
            venue.learn(page.instruments)
        found += page.events
        following = page.next
    return found


@pytest.mark.parametrize("name", list(SYMBOLS))
async def test_files_and_rest_of_the_same_minutes_are_the_same_candles(name: str, http: HttpClient) -> None:
    now_ns = at("2026-11-20T13:00:20")
    clock = ManualClock(now_ns)
    simulator = Simulator(7, clock, [name], listings=standard(at("2026-10-28")), limits=False)
    await simulator.start()
    places = simulator.addresses()[name]
    venue, symbol = VENUES[name](), SYMBOLS[name]
    archives = Archives({name: places["archive"]}, ARCHIVES, http=http, clock=clock, telemetry=Telemetry())
    start_ns, end_ns = at("2026-09-29T22:30:30"), at("2026-11-02T11:00")
    await from_rest(venue, http, places["rest"], Ask(query=Query.INSTRUMENTS), now_ns)
    ask = Ask(query=Query.CANDLES, symbol=symbol, interval_s=60, start_ns=start_ns, end_ns=end_ns)
    told = await from_rest(venue, http, places["rest"], ask, now_ns)
    (instrument,) = [a.instrument for a in simulator.world.listings(name) if a.instrument.symbol == symbol]
    assert archives.reach(instrument, 60, start_ns, end_ns) == end_ns
    pages = [page async for page in archives.pages(instrument, 60, start_ns, end_ns)]
    await simulator.stop()
    whole(pages, start_ns, end_ns)
    assert [event for page in pages for event in page.events] == told
    assert all(isinstance(event, Candle) and event.volume > 0 for event in told)


@pytest.mark.parametrize(
    ("fault", "says"), [("checksum", "not what its checksum says"), ("cut", "cannot be unpacked"), ("missing", None)]
)
async def test_the_simulator_s_faults_are_noticed(fault: str, says: str | None, http: HttpClient) -> None:
    clock = ManualClock(at("2026-11-20T13:00:20"))
    simulator = Simulator(7, clock, ["binance"])
    await simulator.start()
    simulator.faults.set("binance", archive=fault)
    reader = Reader(simulator.addresses()["binance"]["archive"], http, clock)
    try:
        if says is None:
            assert await reader.pages("2026-11-17", "2026-11-18") == []
        else:
            with pytest.raises(Unavailable, match=says):
                await reader.pages("2026-11-17", "2026-11-18")
    finally:
        await simulator.stop()


# Which files


def test_reach_ends_where_no_file_can_be_yet(reader: Reader) -> None:
    assert reader.reach("2024-03-01", "2024-03-08") == at("2024-03-08")
    assert reader.reach("2024-03-01", "2024-03-10T12:00") == at("2024-03-10")
    assert reader.reach("2024-02-01", "2024-06-01") == at("2024-03-10")
    assert reader.reach("2024-03-08T12:00", "2024-03-09T11:30") == at("2024-03-09T11:30")
    assert reader.reach("2024-03-10", "2024-03-11") is None
    assert reader.reach("2024-03-08", "2024-03-08T16:00") is None
    assert reader.reach("2024-03-09T20:00", "2024-03-11") is None


def test_reach_is_nowhere_without_an_archive(http: HttpClient) -> None:
    reader = Reader("", http, ManualClock(NOW_NS))
    assert reader.reach("2024-01-01", "2024-02-01") is None
    reader = Reader("http://127.0.0.1:1", http, ManualClock(NOW_NS))
    assert reader.reach("2024-01-01", "2024-02-01") == at("2024-02-01")
    assert reader.reach("2024-01-01", "2024-02-01", replace(BTC, venue="okx")) is None
    assert reader.reach("2024-01-01", "2024-02-01", replace(BTC, venue="binance_futures")) is None
    assert reader.reach("2024-01-01", "2024-02-01", interval_s=3_600) is None


async def test_a_month_and_days_come_in_pages_without_what_lies_outside(shelf: Shelf, reader: Reader) -> None:
    shelf.put("2024-01-31", zipped(rows("2024-01-31", 1_440)))
    shelf.put("2024-02", zipped(rows("2024-02-01", 29 * 1_440)))
    shelf.put("2024-03-01", zipped(rows("2024-03-01", 1_440)))
    pages = await reader.pages("2024-01-31T23:00:01", "2024-03-01T00:30")
    whole(pages, at("2024-01-31T23:00:01"), at("2024-03-01T00:30"))
    assert len(pages) == 1 + 9 + 1
    assert {event.received_ns for page in pages for event in page.events if isinstance(event, Candle)} == {NOW_NS}
    # The checksum before what it is of.
    assert shelf.asked[:2] == ["BTCUSDT-1m-2024-01-31.zip.CHECKSUM", "BTCUSDT-1m-2024-01-31.zip"]
    assert len(shelf.asked) == 6
    assert reader.count("read") == 3


async def test_names_at_the_top_and_microseconds_are_read(shelf: Shelf, reader: Reader) -> None:
    shelf.put("2024-03-01", zipped([HEAD, *rows("2024-03-01", 1_440, micro=True)]))
    whole(await reader.pages("2024-03-01", "2024-03-02"), at("2024-03-01"), at("2024-03-02"))


async def test_a_month_that_is_not_there_goes_by_its_days(shelf: Shelf, reader: Reader) -> None:
    for day in range(1, 30):
        shelf.put(f"2024-02-{day:02}", zipped(rows(f"2024-02-{day:02}", 1_440)))
    whole(await reader.pages("2024-02-01", "2024-03-01"), at("2024-02-01"), at("2024-03-01"))
    assert reader.count("missing") == 1


async def test_a_month_that_lacks_rows_goes_on_by_its_days(shelf: Shelf, reader: Reader) -> None:
    lines = rows("2024-02-01", 29 * 1_440)
    # Nobody reads what lies far behind the hole.
    del lines[27 * 1_440 + 5]
    lines[-1] = b"rubbish"
    shelf.put("2024-02", zipped(lines))
    for day in (28, 29):
        shelf.put(f"2024-02-{day:02}", zipped(rows(f"2024-02-{day:02}", 1_440)))
    shelf.put("2024-03-01", zipped(rows("2024-03-01", 1_440)))
    pages = await reader.pages("2024-02-01", "2024-03-02")
    whole(pages, at("2024-02-01"), at("2024-03-02"))
    assert not any("2024-02-27" in name for name in shelf.asked)


async def test_it_ends_quietly_before_the_first_file_that_is_not_there(shelf: Shelf, reader: Reader) -> None:
    for day in (1, 2, 4):
        shelf.put(f"2024-03-{day:02}", zipped(rows(f"2024-03-{day:02}", 1_440)))
    del shelf.files[path("2024-03-02")]
    whole(await reader.pages("2024-03-01", "2024-03-05"), at("2024-03-01"), at("2024-03-02"))
    assert await reader.pages("2024-03-03", "2024-03-05") == []


@pytest.mark.parametrize(("left_out", "until"), [((700, 701), "11:40"), ((0, 3), None), ((1_400, 1_440), "23:20")])
async def test_it_ends_where_a_row_is_missing(
    left_out: tuple[int, int], until: str | None, shelf: Shelf, reader: Reader
) -> None:
    lines = rows("2024-03-01", 1_440)
    del lines[slice(*left_out)]
    shelf.put("2024-03-01", zipped(lines))
    shelf.put("2024-03-02", zipped(rows("2024-03-02", 1_440)))
    pages = await reader.pages("2024-03-01", "2024-03-03")
    if until is None:
        assert pages == []
    else:
        whole(pages, at("2024-03-01"), at(f"2024-03-01T{until}"))


async def test_the_loop_turns_while_a_file_is_unpacked() -> None:
    body = zipped(rows("2024-02-01", 29 * 1_440))
    reader = Archives(
        {"binance": "http://x"}, ARCHIVES, http=Canned(body), clock=ManualClock(NOW_NS), telemetry=Telemetry()
    )
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    seen: list[int] = []
    async for page in reader.pages(BTC, 60, at("2024-02-01"), at("2024-03-01")):
        assert page.events
        seen.append(turns)
    task.cancel()
    assert len(seen) == 9
    assert len(set(seen)) == 9


# What is refused


class Canned:
    """The same file, with its checksum, whatever is asked for."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def send(self, method: str, url: str, **_: object) -> Response:
        assert method == "GET"
        told = f"{hashlib.sha256(self._body).hexdigest()}  a.zip\n".encode()
        return Response(200, {}, told if url.endswith(".CHECKSUM") else self._body)


def field(body: bytes, signature: bytes, offset: int, shape: str, value: int) -> bytes:
    """The zip with one number of one of its heads replaced."""
    where = body.rindex(signature) + offset
    return body[:where] + struct.pack(shape, value) + body[where + struct.calcsize(shape) :]


GOOD = zipped(rows("2024-03-01", 1_440))
ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"
# Its entry, in the form for huge files, is said to lie further away than there are addresses.
FAR = field(zipped([b""], extra=struct.pack("<HHQ", 1, 8, 2**64 - 1)), ENTRY, 42, "<I", 2**32 - 1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (zipped(rows("2024-03-01", 1_440), members=2), "holds 2 files instead of one"),
        (zipped([b""], members=200), "holds more than one file"),
        (END + bytes(18), "holds 0 files instead of one"),
        (zipped([b"0" * 60_000]), "unpacks to more than"),
        (zipped([b"0" * 50_000_000]), "holds a line of more than"),
        (GOOD[: len(GOOD) // 2], "cannot be unpacked"),
        (b"", "cannot be unpacked"),
        (b"<html>", "cannot be unpacked"),
        (zipped(rows("2024-03-01", 1_440), method=ZIP_LZMA), "is packed in a way that is not read"),
        (field(GOOD, ENTRY, 8, "<H", 1), "is packed in a way that is not read"),
        (field(GOOD, ENTRY, 24, "<I", 5_000), "cannot be unpacked"),
        (field(GOOD, ENTRY, 42, "<I", 2**31), "cannot be unpacked"),
        (field(GOOD, ENTRY, 20, "<I", 10**6), "cannot be unpacked"),
        (field(GOOD, ENTRY, 6, "<H", 255), "cannot be unpacked"),
        (GOOD[:60] + b"\xff" * 100 + GOOD[160:], "cannot be unpacked"),
        (FAR, "cannot be unpacked"),
        (field(field(GOOD, ENTRY, 8, "<H", 0x800), ENTRY, 46, "<B", 0xFF), "cannot be unpacked"),
        (zipped([b"0" * LINE_BYTES_MAX * 80], method=0), "holds a line of more than"),
        (zipped([*rows("2024-03-01", 9), b"NaN,1\n"]), "holds a row of 2 columns"),
        (zipped(rows("2024-03-02", 9)), "holds a candle of another stretch"),
        (zipped(reversed(rows("2024-03-01", 9))), "holds rows that are not in order"),
    ],
    ids=[
        "two members", "many members", "no member", "small bomb", "large bomb", "cut zip", "empty", "page", "other method", "encrypted",
        "header says less", "header points out", "header packs more",
            "of a later version", "spoilt", "far away", "name no text", "endless line", "bad row", "other day", "order",
    ],
)  # fmt: skip
async def test_a_file_that_is_not_what_it_should_be_is_refused(
    body: bytes, says: str, shelf: Shelf, reader: Reader
) -> None:
    shelf.put("2024-03-01", body)
    with pytest.raises(Unavailable) as refused:
        await reader.pages("2024-03-01", "2024-03-02")
    assert refused.value.who == "binance"
    assert refused.value.text.startswith(f"binance's archive: BTCUSDT-1m-2024-03-01.zip {says}")
    assert "\n" not in refused.value.text
    assert reader.count("refused") == 1


async def test_how_large_a_file_says_it_is_makes_no_difference(shelf: Shelf, reader: Reader) -> None:
    shelf.put("2024-03-01", field(GOOD, ENTRY, 24, "<I", 2**32 - 2))
    whole(await reader.pages("2024-03-01", "2024-03-02"), at("2024-03-01"), at("2024-03-02"))


async def test_unpacked_it_has_a_limit_whatever_its_ratio(shelf: Shelf, reader: Reader) -> None:
    # Good rows, but for their last column, which nobody reads.
    lines = rows("2024-02-01", 20_000)
    body = zipped(line[:-2] + f"{n * 7_919:016}".encode() * 55 + b"\n" for n, line in enumerate(lines))
    assert CSV_BYTES_MAX < 20_000 * 900 < len(body) * RATIO_MAX
    shelf.put("2024-02", body)
    with pytest.raises(Unavailable, match=f"unpacks to more than {CSV_BYTES_MAX} bytes"):
        await reader.pages("2024-02-01", "2024-03-01")


@pytest.mark.parametrize("checksum", [b"0" * 64, b"", b"x" * 64, b"0" * 63, b"\xff" * 64])
async def test_a_file_is_not_opened_before_its_checksum_is_right(checksum: bytes, shelf: Shelf, reader: Reader) -> None:
    # Opened, it would be refused with other words.
    shelf.put("2024-03-01", b"no zip at all", checksum=checksum)
    with pytest.raises(Unavailable, match="checksum"):
        await reader.pages("2024-03-01", "2024-03-02")


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (head("302 Found", "Location: /elsewhere", "Content-Length: 0"), "was answered with 302"),
        (head("503 Slow Down", "Content-Length: 0"), "was answered with 503"),
        (head("200 OK", f"Content-Length: {len(GOOD)}") + GOOD[:-10], "did not come: "),
        (head("200 OK", f"Content-Length: {ZIP_BYTES_MAX + 1}") + bytes(ZIP_BYTES_MAX + 1), "is larger than"),
        (b"rubbish\r\n\r\n", "did not come: "),
    ],
    ids=["redirect", "busy", "cut body", "huge body", "no HTTP"],
)
@pytest.mark.parametrize("suffix", ["", ".CHECKSUM"])
async def test_an_answer_that_is_not_the_file_is_refused(
    raw: bytes, says: str, suffix: str, shelf: Shelf, reader: Reader
) -> None:
    shelf.put("2024-03-01", GOOD)
    shelf.raw[path("2024-03-01") + suffix] = raw
    with pytest.raises(Unavailable, match=says) as refused:
        await reader.pages("2024-03-01", "2024-03-02")
    assert "127.0.0.1" not in refused.value.text
    assert "elsewhere" not in shelf.asked


async def test_nobody_there_is_unavailable(http: HttpClient) -> None:
    with pytest.raises(Unavailable, match="did not come"):
        await Reader("http://127.0.0.1:1", http, ManualClock(NOW_NS)).pages("2024-03-01", "2024-03-02")


async def test_an_archive_that_does_not_answer_is_left_alone_for_a_while(
    shelf: Shelf, address: str, http: HttpClient
) -> None:
    clock = ManualClock(NOW_NS)
    reader = Reader(address, http, clock)
    asked = "2024-03-01", "2024-03-02"
    shelf.raw[path("2024-03-01") + ".CHECKSUM"] = head("503 Slow Down", "Content-Length: 0")

    async def fail(times: int) -> None:
        for _ in range(times):
            assert reader.reach(*asked) == at("2024-03-02")
            with pytest.raises(Unavailable):
                await reader.pages(*asked)

    await fail(FAILURES_MAX - 1)
    # Whoever answers at all is there.
    assert await reader.pages("2024-03-03", "2024-03-04") == []
    await fail(FAILURES_MAX)
    count = len(shelf.asked)
    assert reader.reach(*asked) is None
    assert await reader.pages(*asked) == []
    assert len(shelf.asked) == count
    await clock.advance(PAUSE_S)
    await fail(1)
    assert reader.reach(*asked) is None
    await clock.advance(PAUSE_S)
    shelf.raw.clear()
    shelf.put("2024-03-01", GOOD)
    whole(await reader.pages(*asked), at("2024-03-01"), at("2024-03-02"))
    assert reader.reach(*asked) == at("2024-03-02")


async def test_silence_and_a_broken_line_count_as_no_answer(shelf: Shelf, address: str, http: HttpClient) -> None:
    shelf.stuck.add(path("2024-03-01") + ".CHECKSUM")
    for reader in (
        Reader(address, http, ManualClock(NOW_NS), fetch_s_max=0.05),
        Reader("http://127.0.0.1:1", http, ManualClock(NOW_NS)),
    ):
        for _ in range(FAILURES_MAX):
            assert reader.reach("2024-03-01", "2024-03-02") is not None
            with pytest.raises(Unavailable):
                await reader.pages("2024-03-01", "2024-03-02")
        assert reader.reach("2024-03-01", "2024-03-02") is None


async def test_a_file_that_never_ends_is_given_up(shelf: Shelf, address: str, http: HttpClient) -> None:
    shelf.put("2024-03-01", GOOD)
    shelf.stuck.add(path("2024-03-01"))
    with pytest.raises(Unavailable, match=r"did not come within 0\.05 s"):
        await Reader(address, http, ManualClock(NOW_NS), fetch_s_max=0.05).pages("2024-03-01", "2024-03-02")


async def test_what_was_told_before_a_bad_file_was_told(shelf: Shelf, reader: Reader) -> None:
    shelf.put("2024-03-01", GOOD)
    shelf.put("2024-03-02", b"")
    told: list[Page] = []
    with pytest.raises(Unavailable):
        async for page in reader.archives.pages(BTC, 60, at("2024-03-01"), at("2024-03-03")):
            told.append(page)
    whole(told, at("2024-03-01"), at("2024-03-02"))


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 40))
def test_a_spoilt_file_is_refused_or_says_what_it_said(changes: list[tuple[int, int]], cut: int) -> None:
    short = bytearray(zipped(rows("2024-03-01", 3)))
    for where, value in changes:
        # Most of them in the heads, which lie at both ends.
        short[(where % 160 if where % 2 else -1 - where % 120) % len(short)] = value
    body = bytes(short[: len(short) - cut])

    async def told() -> list[Event]:
        reader = Archives(
            {"binance": "http://x"}, ARCHIVES, http=Canned(body), clock=ManualClock(NOW_NS), telemetry=Telemetry()
        )
        pages = reader.pages(BTC, 60, at("2024-03-01"), at("2024-03-02"))
        return [event async for page in pages for event in page.events]

    try:
        events = asyncio.run(told())
    except Unavailable:
        return
    assert [event.open_ns for event in events if isinstance(event, Candle)] in (
        [], [at("2024-03-01") + n * MINUTE_NS for n in range(3)],
    )  # fmt: skip
