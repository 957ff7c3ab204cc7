"""Open interest that is dropped as files: a file, a folder or an address is looked at in turn, and read when it changed.

What its rows say becomes bars of the past in the store, bars that grow in the live aggregate, and events on the bus: of each
instrument the newest, and whatever comes after it.
"""

import asyncio
import stat
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from openoutcry.aggregates.derivatives import BARS_KEPT, interest_bars
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.errors import Refusal, Unreadable
from openoutcry.events import INTERVALS_S, NS, InterestBar, OpenInterest, open_of
from openoutcry.market.building import Building
from openoutcry.market.market import Market
from openoutcry.market.series import Of, SeriesKey
from openoutcry.sources.interest_files import FILE_BYTES_MAX, VENUE, Sheet, read
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, TransportError

FILES_MAX = 1_000
# Of all files together; each is an event in memory.
SAMPLES_MAX = 300_000
# Refused rows of one reading that are logged one by one.
TOLD_MAX = 20

log = structlog.get_logger()

# What changes with a file: its time and size, or what an address answered.
Mark = tuple[int, int] | str
# By time: the file that told it, and the sample.
Told = Mapping[int, tuple[str, OpenInterest]]


class Drops:
    """Reads `source` every `poll_s`. A source that is bad or gone is said once, and looked at again."""

    def __init__(
        self,
        source: str,
        *,
        market: Market,
        building: Building,
        bus: Bus,
        clock: Clock,
        http: Http,
        telemetry: Telemetry,
        poll_s: float,
        samples_max: int = SAMPLES_MAX,
    ) -> None:
        self._market, self._building, self._bus, self._clock = market, building, bus, clock
        self._place: _Address | _Files = _Address(source, http) if _is_address(source) else _Files(Path(source))
        self._poll_s, self._samples_max = poll_s, samples_max
        self._seen: dict[str, Mark] = {}
        self._told: dict[str, Told] = {}
        self._newest_ns: dict[str, int] = {}
        self._ill: dict[str, str] = {}
        self._rows = telemetry.counter("interest_rows_refused", "Rows of open interest files that were not taken.")
        self._files = telemetry.counter("interest_files_refused", "Files of open interest that were not taken at all.")
        telemetry.gauge("interest_samples", "Rows of open interest files in memory.").set_function(self.__len__)
        building.keep_time(VENUE)

    def __len__(self) -> int:
        return sum(map(len, self._told.values()))

    async def run(self) -> None:
        """Look, and look again, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(self._poll_s)

    async def look(self) -> None:
        """Read what changed. Never raises but when cancelled."""
        try:
            # Also without a file: what was listed before has its bars in the store.
            await self._market.list_beside(VENUE, ())
            async with aclosing(self._place.changed(self._seen)) as changed:
                async for name, mark, body in changed:
                    await self._file(name, mark, body)
            self._well("")
        except (OSError, TransportError, Refusal) as e:
            self._complain("", _why(e))

    async def _file(self, name: str, mark: Mark, body: bytes | OSError) -> None:
        if isinstance(body, OSError):
            self._complain(name, _why(body))
            return
        try:
            sheet = await asyncio.to_thread(read, body, self._clock.now_ns())
        except Unreadable as e:
            self._files.inc()
            self._complain(name, e.why)
        else:
            self._say_refused(name, sheet)
            await self._market.list_beside(VENUE, sheet.instruments)
            by_instrument: dict[str, list[OpenInterest]] = {}
            for sample in sheet.samples:
                by_instrument.setdefault(sample.instrument, []).append(sample)
            for instrument, samples in by_instrument.items():
                await self._take(name, instrument, samples)
            self._well(name)
        # Not before all of it was kept: what fails is read again.
        self._seen[name] = mark

    async def _take(self, name: str, instrument: str, samples: Sequence[OpenInterest]) -> None:
        """The rows of one instrument in one file."""
        known = self._told.get(instrument, {})
        new = [sample for sample in samples if _says_more(known.get(sample.event_ns), name, sample)]
        room = self._samples_max - len(self)
        beyond = [sample for sample in new if sample.event_ns not in known][max(room, 0) :]
        if beyond:
            self._rows.inc(len(beyond))
            log.warning("too many rows of open interest", file=name, rows_max=self._samples_max, left_out=len(beyond))
            left_out = {sample.event_ns for sample in beyond}
            new = [sample for sample in new if sample.event_ns not in left_out]
        if not new:
            return
        told = dict(sorted({**known, **{sample.event_ns: (name, sample) for sample in new}}.items()))
        until_ns = self._clock.now_ns()
        made = await asyncio.to_thread(_folded, told, new, until_ns)
        # First: a bar that is due while the others are stored must close with what the file says.
        self._building.restate(instrument, [bar for _, newest in made.values() for bar in newest])
        span_ns = min(s.event_ns for s in samples), max(s.event_ns for s in samples)
        for interval_s, (bars, _) in made.items():
            start_ns, end_ns = open_of(span_ns[0], interval_s), open_of(span_ns[1], interval_s)
            if end_ns + interval_s * NS <= until_ns:
                end_ns += interval_s * NS
            await self._market.keep(SeriesKey(instrument, Of.INTEREST_BARS, interval_s), bars, start_ns, end_ns)
        self._told[instrument] = told
        self._publish(instrument, new)

    def _publish(self, instrument: str, new: Sequence[OpenInterest]) -> None:
        """What is no history: the newest, and of later readings all that comes after it or corrects it."""
        since_ns = self._newest_ns.get(instrument)
        newest_ns = max(self._told[instrument])
        since_ns = newest_ns if since_ns is None else since_ns
        self._newest_ns[instrument] = newest_ns
        news = sorted((sample for sample in new if sample.event_ns >= since_ns), key=_moment)
        self._bus.publish(news)

    def _say_refused(self, name: str, sheet: Sheet) -> None:
        self._rows.inc(sheet.refused_in_all)
        for refused in sheet.refused[:TOLD_MAX]:
            log.warning("row of open interest refused", at=f"{name}:{refused.line}", why=refused.why)
        if sheet.refused_in_all > TOLD_MAX:
            log.warning("more rows refused", file=name, rows=sheet.refused_in_all)

    def _complain(self, name: str, why: str) -> None:
        """Said once, until it is well or ill of something else."""
        if self._ill.get(name) != why:
            if len(self._ill) > FILES_MAX:
                # Files that came ill and went.
                self._ill.clear()
            self._ill[name] = why
            log.warning("open interest not read", source=name or self._place.name, why=why)

    def _well(self, name: str) -> None:
        if self._ill.pop(name, None) is not None:
            log.info("open interest read again", source=name or self._place.name)


class _Files:
    """One file, or all `*.csv` of a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    async def changed(self, seen: dict[str, Mark]) -> AsyncGenerator[tuple[str, Mark, bytes | OSError], None]:
        """Those that are not as they were seen, with their bytes. Raises OSError where there is nothing."""
        marks = await asyncio.to_thread(self._marks)
        for gone in seen.keys() - {path.name for path, _ in marks}:
            del seen[gone]
        for path, mark in marks:
            if seen.get(path.name) != mark:
                yield path.name, mark, await asyncio.to_thread(_bytes_of, path)

    def _marks(self) -> Sequence[tuple[Path, Mark]]:
        folder = self._path.is_dir()
        # Sorted before it is cut, so that the same ones are read each time.
        paths = sorted(self._path.glob("*.csv"))[:FILES_MAX] if folder else [self._path]
        marks: list[tuple[Path, Mark]] = []
        for path in paths:
            try:
                about = path.stat()
            except OSError:
                if not folder:
                    raise
                continue
            # A pipe would be waited for.
            if stat.S_ISREG(about.st_mode):
                marks.append((path, (about.st_mtime_ns, about.st_size)))
            elif not folder:
                raise FileNotFoundError(0, "no file and no folder")
        return marks


class _Address:
    """One document behind http:// or https://."""

    def __init__(self, url: str, http: Http) -> None:
        self._url, self._http = url, http
        self._etag: str | None = None
        parts = urlsplit(url)
        # Without what may be secret in it.
        self.name = f"{parts.hostname or ''}{parts.path}"

    async def changed(self, seen: dict[str, Mark]) -> AsyncGenerator[tuple[str, Mark, bytes | OSError], None]:
        """The document, if it is not as it was seen. Raises TransportError, OSError."""
        known = seen.get(self.name)
        headers = {"If-None-Match": self._etag} if self._etag and known else {}
        answer = await self._http.send("GET", self._url, headers=headers)
        if answer.status == 304 and known:
            return
        if answer.status != 200:
            raise OSError(answer.status, f"answered {answer.status}")
        mark = blake2b(answer.body, digest_size=16).hexdigest()
        if mark != known:
            yield self.name, mark, answer.body
        self._etag = answer.headers.get("etag")


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _bytes_of(path: Path) -> bytes | OSError:
    """No more than it takes to see that it is too large; a file that cannot be read does not cost the others."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except OSError as e:
        return e


def _why(error: Exception) -> str:
    if isinstance(error, Refusal):
        return error.text
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _moment(sample: OpenInterest) -> int:
    return sample.event_ns


def _says_more(known: tuple[str, OpenInterest] | None, name: str, sample: OpenInterest) -> bool:
    """Whether it is new, or corrects what the same file or one before it said."""
    if known is None:
        return True
    told_by, old = known
    return name >= told_by and (old.size, old.value, old.contracts, old.price) != (
        sample.size, sample.value, sample.contracts, sample.price,
    )  # fmt: skip


def _folded(
    told: Told, new: Iterable[OpenInterest], until_ns: int
) -> dict[int, tuple[Sequence[InterestBar], Sequence[InterestBar]]]:
    """Of each interval the closed bars that the new samples fall into, and the newest bars that the live aggregate keeps."""
    made: dict[int, tuple[Sequence[InterestBar], Sequence[InterestBar]]] = {}
    new = list(new)
    for interval_s in INTERVALS_S:
        touched = {open_of(sample.event_ns, interval_s) for sample in new}
        opens = dict.fromkeys(open_of(at_ns, interval_s) for at_ns in reversed(list(told)))
        newest = set(islice(opens, BARS_KEPT))
        wanted = touched | newest
        bars = interest_bars(
            (sample for at_ns, (_, sample) in told.items() if open_of(at_ns, interval_s) in wanted),
            interval_s,
            until_ns,
        )
        made[interval_s] = (
            [bar for bar in bars if bar.closed and bar.open_ns in touched],
            [bar for bar in bars if bar.open_ns in newest],
        )
    return made
