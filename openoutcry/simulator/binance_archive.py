"""Binance's public archive of candles, played: the rows of klines, a day or a month to a file, packed, with their checksums.

https://github.com/binance/binance-public-data

    GET /data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-05.zip            one CSV in a zip
    GET /data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-05.zip.CHECKSUM   <sha256>  BTCUSDT-1m-2024-01-05.zip

Futures have a line of names at the top, spot counts microseconds since 2025. A day is there some hours after its end, a
month some days after; a file that is not there is 404. Files of seconds are left out for their size.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, ClassVar, NamedTuple, Protocol
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from openoutcry.simulator.faults import Switches
from openoutcry.simulator.kit import NS, Answer
from openoutcry.simulator.tape import Bar, Listing
from openoutcry.simulator.world import World

HEAD = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
HOUR_NS = 3_600 * NS
DAY_NS = 24 * HOUR_NS
DAY_LATE_NS, MONTH_LATE_NS = 3 * HOUR_NS, 2 * DAY_NS
# 2025-01-01.
MICROSECONDS_NS = 1_735_689_600 * NS
FILES_KEPT = 8
_OPEN, _CLOSE = 0, 6
_INTERVALS_S = {
    "1m": 60, "3m": 180, "5m": 300, "15m": 900, "30m": 1_800, "1h": 3_600, "2h": 7_200, "4h": 14_400, "6h": 21_600,
    "8h": 28_800, "12h": 43_200, "1d": 86_400,
}  # fmt: skip
_PATH = re.compile(
    r"(?P<span>daily|monthly)/klines/(?P<symbol>\w+)/(?P<interval>\w+)/(?P<file>(?P=symbol)-(?P=interval)-(?P<stamp>[\d-]+)\.zip)"
    r"(?P<checksum>\.CHECKSUM)?"
)
_STAMPS = {"daily": "%Y-%m-%d", "monthly": "%Y-%m"}


class Teller(Protocol):
    """What a file needs of the personality it is of."""

    spot: ClassVar[bool]
    world: World

    @property
    def switches(self) -> Switches: ...

    def find(self, symbol: str) -> Listing | None: ...

    async def bars(
        self, listing: Listing, interval_s: int, from_ns: int, until_ns: int, now_ns: int
    ) -> Sequence[Bar]: ...

    def kline(self, listing: Listing, bar: Bar, interval_ns: int) -> list[Any]: ...


class _File(NamedTuple):
    name: str
    listing: Listing
    interval_s: int
    start_ns: int
    end_ns: int


class ArchiveFiles:
    """The files of one market; those asked for last are kept."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        # One is made at a time: who asks for the same one meanwhile finds it kept.
        self._making = asyncio.Lock()

    async def answer(self, path: str, now_ns: int) -> Answer:
        """A file or its checksum; 404 for what is not there."""
        asked = _PATH.fullmatch(path)
        fault = self._teller.switches.archive
        file = None if asked is None or fault == "missing" else self._file(asked, now_ns)
        if asked is None or file is None:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", (), "application/xml")
        async with self._making:
            body = self._kept.get(file.name)
            if body is None:
                body = self._kept[file.name] = await self._made(file, now_ns)
            self._kept.move_to_end(file.name)
            if len(self._kept) > FILES_KEPT:
                self._kept.popitem(last=False)
        if fault == "cut":
            body = body[: len(body) // 2]
        if asked["checksum"] is None:
            return Answer(200, body, (), "application/zip")
        digest = hashlib.sha256(body + b"?" if fault == "checksum" else body).hexdigest()
        return Answer(200, f"{digest}  {file.name}\n".encode(), (), "binary/octet-stream")

    def _file(self, asked: re.Match[str], now_ns: int) -> _File | None:
        listing, interval_s = self._teller.find(asked["symbol"]), _INTERVALS_S.get(asked["interval"])
        try:
            first = datetime.strptime(asked["stamp"], _STAMPS[asked["span"]]).replace(tzinfo=UTC)
        except ValueError:
            return None
        if listing is None or interval_s is None:
            return None
        daily = asked["span"] == "daily"
        following = first + timedelta(days=1) if daily else (first + timedelta(days=31)).replace(day=1)
        start_ns, end_ns = (int(at.timestamp()) * NS for at in (first, following))
        born_ns, dead_ns = self._teller.world.life(listing.name)
        late_ns = DAY_LATE_NS if daily else MONTH_LATE_NS
        if end_ns + late_ns > now_ns or end_ns <= born_ns or start_ns >= dead_ns:
            return None
        return _File(asked["file"], listing, interval_s, start_ns, end_ns)

    async def _made(self, file: _File, now_ns: int) -> bytes:
        """Day by day, so that the streams run between."""
        born_ns, dead_ns = self._teller.world.life(file.listing.name)
        interval_ns = file.interval_s * NS
        lines = [] if self._teller.spot else [HEAD]
        for day_ns in range(file.start_ns, file.end_ns, DAY_NS):
            from_ns = max(day_ns, born_ns // interval_ns * interval_ns)
            until_ns = min(day_ns + DAY_NS, dead_ns)
            bars = await self._teller.bars(file.listing, file.interval_s, from_ns, until_ns, now_ns)
            lines += [self._line(file.listing, bar, interval_ns) for bar in bars]
            await asyncio.sleep(0)
        return await asyncio.to_thread(_packed, file.name.replace(".zip", ".csv"), "".join(lines).encode())

    def _line(self, listing: Listing, bar: Bar, interval_ns: int) -> str:
        row = self._teller.kline(listing, bar, interval_ns)
        if self._teller.spot and bar.open_ns >= MICROSECONDS_NS:
            row[_OPEN], row[_CLOSE] = row[_OPEN] * 1_000, row[_CLOSE] * 1_000 + 999
        return ",".join(map(str, row)) + "\n"


def _packed(name: str, text: bytes) -> bytes:
    """The same bytes whenever it is made: a checksum told before must hold."""
    packed = BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED) as files:
        files.writestr(ZipInfo(name), text, ZIP_DEFLATED)
    return packed.getvalue()
