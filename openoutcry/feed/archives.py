"""Long stretches of old candles from the files that venues publish: fetched, checked, unpacked, and told page by page.

What an archive sends is hostile like everything else: a file's checksum is compared before anything of it is opened,
and it is unpacked piece by piece, in a thread, up to limits that do not depend on what it says of itself.
"""

import asyncio
import hashlib
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from io import BytesIO
from itertools import islice, takewhile
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from openoutcry.clock import NS, Clock
from openoutcry.errors import Unavailable, Unreadable
from openoutcry.events import Candle
from openoutcry.instrument import Instrument
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, TransportError
from openoutcry.venues.archive import ROWS_MIN, Archive, ArchiveFile
from openoutcry.venues.venue import Page

ROWS_PER_PAGE = 5_000
# A month of minutes is 2 to 3 MB packed, 7 MB unpacked.
ZIP_BYTES_MAX = 16 * 1024 * 1024
CSV_BYTES_MAX = 16 * 1024 * 1024
RATIO_MAX = 100
CHECKSUM_BYTES_MAX = 1_024
LINE_BYTES_MAX = 1_024
PIECE_BYTES = 64 * 1024
# Entries of a zip's directory that are looked at, to find that there is but one.
ENTRIES_MAX = 100
FETCH_S_MAX = 120.0
# An archive that did not answer so many times in a row is left alone for so long: its callers have somewhere else to ask.
FAILURES_MAX = 3
PAUSE_S = 300.0
SHA256_CHARS = 64
_ENTRY = b"PK\x01\x02"
_ENCRYPTED = 1
# The archive's files are packed: packing them again on the way would only be another thing to unpack.
_HEADERS = {"Accept-Encoding": "identity"}


class _Strange(Exception):
    """A file that is not what it should be; the text says why, in words that go behind the file's name."""


class Archives:
    """The archives of all venues that have one; `addresses` by venue, a venue without one is not served."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        archives: Mapping[str, Archive],
        *,
        http: Http,
        clock: Clock,
        telemetry: Telemetry,
        fetch_s_max: float = FETCH_S_MAX,
    ) -> None:
        self._fetch_s_max = fetch_s_max
        self._addresses, self._archives = addresses, archives
        self._http, self._clock = http, clock
        # By venue: failures in a row, and when the last one was.
        self._failed: dict[str, tuple[int, int]] = {}
        self._files = telemetry.counter(
            "archive_files", "Files of a venue's archive, by what became of them.", ["what"]
        )

    def reach(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> int | None:
        """Up to when files may serve the stretch from its start on; None: not at all, or they are not worth it."""
        files = self._plan(instrument, interval_s, start_ns, end_ns)
        return min(files[-1].end_ns, end_ns) if files else None

    async def pages(
        self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int
    ) -> AsyncGenerator[Page, None]:
        """Oldest first, each complete for its stretch, the first from `start_ns` on and each from where the last ended.

        Ends where a file is not there or lacks a row, which need not mean that nothing was traded: the venue itself is to
        be asked from there on. Raises Unavailable; what was told before stays true.
        """
        files = deque(self._plan(instrument, interval_s, start_ns, end_ns))
        at_ns = start_ns
        while files:
            file = files.popleft()
            until_ns = min(file.end_ns, end_ns)
            body = await self._fetched(file)
            if body is not None:
                async with aclosing(self._pages_of(file, body, at_ns, until_ns)) as pages:
                    async for page in pages:
                        yield page
                        assert page.end_ns is not None
                        at_ns = page.end_ns
            if at_ns < until_ns:
                parts = [part for part in self._over(self._parts(file)) if part.end_ns > at_ns]
                if not parts:
                    return
                # The rest of the month goes by its days; what lies behind is not reached where they break off too.
                files.extendleft(reversed(parts))

    # -- which files

    def _plan(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> Sequence[ArchiveFile]:
        """The files that can be there by now; none where what they cover is not worth it, or nobody answered lately."""
        archive = self._archives.get(instrument.venue)
        if archive is None or not self._addresses.get(instrument.venue) or self._pauses(instrument.venue):
            return ()
        files = archive.files(instrument, interval_s, start_ns, end_ns)
        over = self._over(files)
        if len(over) < len(files):
            # Of a month that is not over there may be days.
            over = [*over, *self._over(self._parts(files[len(over)]))]
        covered_ns = min(over[-1].end_ns, end_ns) - start_ns if over else 0
        return over if covered_ns >= ROWS_MIN * interval_s * NS else ()

    def _over(self, files: Sequence[ArchiveFile]) -> Sequence[ArchiveFile]:
        now_ns = self._clock.now_ns()
        return list(takewhile(lambda file: file.end_ns <= now_ns, files))

    def _parts(self, file: ArchiveFile) -> Sequence[ArchiveFile]:
        return self._archives[file.instrument.venue].parts(file)

    # -- one file

    async def _fetched(self, file: ArchiveFile) -> bytes | None:
        """The file, once it is what its checksum says; None where it is not there. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._fetch_s_max):
                body = await self._sent(file)
        except TimeoutError:
            self._fail(file)
            raise self._refused(file, f"did not come within {self._fetch_s_max:g} s") from None
        except TransportError as e:
            self._fail(file)
            raise self._refused(file, f"did not come: {e}") from e
        except _Strange as e:
            raise self._refused(file, str(e)) from e
        if body is None:
            self._files.labels("missing").inc()
        return body

    async def _sent(self, file: ArchiveFile) -> bytes | None:
        told = await self._get(file, ".CHECKSUM", CHECKSUM_BYTES_MAX)
        if told is None:
            return None
        wanted = _digest(told)
        body = await self._get(file, "", ZIP_BYTES_MAX)
        if body is not None and (await asyncio.to_thread(hashlib.sha256, body)).hexdigest() != wanted:
            raise _Strange("is not what its checksum says")
        return body

    async def _get(self, file: ArchiveFile, suffix: str, bytes_max: int) -> bytes | None:
        address = self._addresses[file.instrument.venue].rstrip("/")
        answer = await self._http.send("GET", f"{address}/{file.path}{suffix}", headers=_HEADERS)
        if answer.status not in {200, 404}:
            self._fail(file)
            raise _Strange(f"was answered with {answer.status}")
        self._failed.pop(file.instrument.venue, None)
        if answer.status == 404:
            return None
        if len(answer.body) > bytes_max:
            raise _Strange(f"is larger than {bytes_max} bytes")
        return answer.body

    async def _pages_of(self, file: ArchiveFile, body: bytes, start_ns: int, end_ns: int) -> AsyncGenerator[Page, None]:
        """Until `end_ns`, or until a row is missing. Raises Unavailable."""
        interval_ns = file.interval_s * NS
        rows = self._archives[file.instrument.venue].candles(file, _lines(body), self._clock.now_ns())
        next_ns = -(-start_ns // interval_ns) * interval_ns
        while start_ns < end_ns:
            try:
                candles, more = await asyncio.to_thread(_next, rows, next_ns, end_ns, interval_ns)
            except Unreadable as e:
                raise self._refused(file, f"holds {e.why}") from e
            except _Strange as e:
                raise self._refused(file, str(e)) from e
            next_ns += len(candles) * interval_ns
            until_ns = min(next_ns, end_ns)
            if until_ns > start_ns:
                yield Page(candles, start_ns=start_ns, end_ns=until_ns)
                start_ns = until_ns
            if not more:
                break
        self._files.labels("read").inc()

    def _fail(self, file: ArchiveFile) -> None:
        failures, _ = self._failed.get(file.instrument.venue, (0, 0))
        self._failed[file.instrument.venue] = failures + 1, self._clock.now_ns()

    def _pauses(self, venue: str) -> bool:
        failures, last_ns = self._failed.get(venue, (0, 0))
        return failures >= FAILURES_MAX and self._clock.now_ns() - last_ns < PAUSE_S * NS

    def _refused(self, file: ArchiveFile, why: str) -> Unavailable:
        self._files.labels("refused").inc()
        venue, name = file.instrument.venue, file.path.rpartition("/")[2]
        return Unavailable(venue, f"{venue}'s archive: {name} {why}")


def _digest(told: bytes) -> str:
    """The SHA-256 that a checksum file tells, in lower case. Raises _Strange."""
    digest, _, _ = told.decode("ascii", "replace").lower().lstrip().partition(" ")
    if len(digest) != SHA256_CHARS or not set(digest) <= set("0123456789abcdef"):
        raise _Strange("has a checksum that is none")
    return digest


def _next(rows: Iterator[Candle], next_ns: int, end_ns: int, interval_ns: int) -> tuple[Sequence[Candle], bool]:
    """Of the next rows those from `next_ns` on that follow on each other, and whether what comes after may follow on.

    Raises Unreadable, _Strange.
    """
    read = list(islice(rows, ROWS_PER_PAGE))
    wanted = [candle for candle in read if next_ns <= candle.open_ns < end_ns]
    missing = next((n for n, candle in enumerate(wanted) if candle.open_ns != next_ns + n * interval_ns), None)
    return wanted[:missing], len(read) == ROWS_PER_PAGE and missing is None


def _lines(body: bytes) -> Iterator[bytes]:
    """The lines of the one file in it, unpacked as they are asked for. Raises _Strange."""
    if body.count(_ENTRY) > ENTRIES_MAX:
        raise _Strange("holds more than one file")
    try:
        with ZipFile(BytesIO(body)) as packed:
            yield from _unpacked(packed, _only(packed), len(body))
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError) as e:
        raise _Strange("cannot be unpacked") from e


def _only(packed: ZipFile) -> ZipInfo:
    found = packed.infolist()
    if len(found) != 1:
        raise _Strange(f"holds {len(found)} files instead of one")
    # The other methods are unpacked in one piece, however large.
    if found[0].compress_type not in {ZIP_STORED, ZIP_DEFLATED} or found[0].flag_bits & _ENCRYPTED:
        raise _Strange("is packed in a way that is not read")
    return found[0]


def _unpacked(packed: ZipFile, entry: ZipInfo, packed_bytes: int) -> Iterator[bytes]:
    bytes_max = min(CSV_BYTES_MAX, packed_bytes * RATIO_MAX)
    size, rest = 0, b""
    with packed.open(entry) as file:
        while piece := file.read(PIECE_BYTES):
            size += len(piece)
            if size > bytes_max:
                raise _Strange(f"unpacks to more than {bytes_max} bytes")
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise _Strange(f"holds a line of more than {LINE_BYTES_MAX} bytes")
            yield from lines
    if rest:
        yield rest
