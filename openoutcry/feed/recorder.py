"""Writes frames as received, in the form that openoutcry/feed/recording.py shows.

A file is a row of gzip members, one a flush: whatever ends the process, all that was flushed can be read, by us and by
zcat. Frames are only appended to a list when they come; compressing and writing happen in a thread, a batch at a time.
"""

import asyncio
import base64
import gzip
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import structlog

from openoutcry.clock import NS, Clock
from openoutcry.feed.recording import MAGIC, VERSION, target
from openoutcry.instrument import Instrument
from openoutcry.venues.venue import Answer, Ask, Query, Request, Venue

FLUSH_S = 1.0
FILE_BYTES_MAX = 256 * 1024 * 1024
TOTAL_BYTES_MAX = 16 * 1024 * 1024 * 1024
# What may wait for the writer; beyond it frames are left out, and a line says how many.
PENDING_BYTES_MAX = 64 * 1024 * 1024
# Listings are written again at the head of every file, so that each can be replayed by itself.
LISTINGS_MAX = 64
COMPRESSION = 6

log = structlog.get_logger()


class Recorder:
    """Frames of one venue into files `<venue>.<UTC time>.gz` in `folder`.

    A file is closed at `file_bytes_max` (of gzip); of the files this recorder wrote the oldest are removed once all
    together exceed `total_bytes_max`. `run` must be running for anything to be written; `close` writes the rest.
    """

    def __init__(
        self,
        venue: str,
        folder: Path,
        clock: Clock,
        *,
        file_bytes_max: int = FILE_BYTES_MAX,
        total_bytes_max: int = TOTAL_BYTES_MAX,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        flush_s: float = FLUSH_S,
    ) -> None:
        self.frames = 0  # taken
        self.dropped = 0  # left out because the writer could not keep up
        self.bytes_written = 0
        self._header = MAGIC + f"{VERSION} {venue}\n".encode()
        self._venue = venue
        self._folder = folder
        self._clock = clock
        self._file_bytes_max = file_bytes_max
        self._total_bytes_max = total_bytes_max
        self._pending_bytes_max = pending_bytes_max
        self._flush_s = flush_s
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._missing: dict[str, int] = {}
        self._listings: dict[str, bytes] = {}
        self._words: dict[str, bytes] = {}
        self._writing = asyncio.Lock()
        self._file: IO[bytes] | None = None
        self._file_bytes = 0
        self._files: deque[tuple[Path, int]] = deque()

    @property
    def files(self) -> list[Path]:
        """Files written so far and still there, oldest first."""
        return [path for path, _ in self._files]

    def frame(self, endpoint: str, received_ns: int, frame: bytes) -> None:
        """Keep a frame; returns at once."""
        self.frames += 1
        word = self._words.get(endpoint)
        if word is None:
            word = self._words[endpoint] = endpoint.encode()
        if self._pending_bytes > self._pending_bytes_max:
            self.dropped += 1
            self._missing[endpoint] = self._missing.get(endpoint, 0) + 1
            return
        self._keep(_line(received_ns, word, frame))

    def opened(self, endpoint: str, received_ns: int) -> None:
        """The only connection to that endpoint was opened: what deltas were built on before is void."""
        self._keep(_line(received_ns, f"open:{endpoint}".encode(), b""))

    def sent(self, endpoint: str, at_ns: int, frame: bytes) -> None:
        """We said that."""
        self._keep(_line(at_ns, f"sent:{endpoint}".encode(), frame))

    def told(self, request: Request, received_ns: int, body: bytes) -> None:
        """A REST answer without which the frames cannot be understood: the snapshot that deltas build on."""
        self._keep(_line(received_ns, f"rest:{target(request)}".encode(), body))

    def listing(self, request: Request, received_ns: int, body: bytes) -> None:
        """A REST answer of the venue's listing: without it a replay does not know contract sizes."""
        asked = target(request)
        line = _line(received_ns, f"rest:{asked}".encode(), body)
        if asked in self._listings or len(self._listings) < LISTINGS_MAX:
            self._listings[asked] = line
        self._keep(line)

    async def run(self) -> None:
        """Write what came, every `flush_s`, until cancelled. Raises OSError when the disk does not take it."""
        while True:
            await self._clock.sleep(self._flush_s)
            await self.flush()

    async def flush(self) -> None:
        """Write all that came so far. Raises OSError."""
        async with self._writing:
            lines = self._take()
            if lines:
                await asyncio.to_thread(self._write, lines, self._clock.now_ns())

    async def close(self) -> None:
        """Write the rest and close the file; a second call does nothing. Raises OSError."""
        await self.flush()
        async with self._writing:
            self._end_file()

    def _keep(self, line: bytes) -> None:
        self._pending.append(line)
        self._pending_bytes += len(line)

    def _take(self) -> list[bytes]:
        lines, self._pending, self._pending_bytes = self._pending, [], 0
        missing, self._missing = self._missing, {}
        now_ns = self._clock.now_ns()
        for endpoint, count in missing.items():
            log.warning("recorder behind", venue=self._venue, endpoint=endpoint, dropped=count)
            lines.append(_line(now_ns, f"dropped:{endpoint}".encode(), str(count).encode()))
        return lines

    # Below runs in a thread, one call at a time.

    def _write(self, lines: list[bytes], now_ns: int) -> None:
        head: list[bytes] = []
        if self._file is None:
            self._file = self._new_file(now_ns)
            fresh = set(lines)
            head = [line for line in self._listings.values() if line not in fresh]
        member = gzip.compress(b"".join([self._header, *head, *lines]), COMPRESSION, mtime=0)
        self._file.write(member)
        # To the system at once: what was written survives the end of this process.
        self._file.flush()
        self._file_bytes += len(member)
        self.bytes_written += len(member)
        self._files[-1] = (self._files[-1][0], self._file_bytes)
        if self._file_bytes >= self._file_bytes_max:
            self._end_file()
            self._make_room()

    def _new_file(self, now_ns: int) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            at = datetime.fromtimestamp(now_ns // NS, UTC)
            path = self._folder / f"{self._venue}.{at:%Y%m%dT%H%M%S}.{now_ns % NS:09d}Z.gz"
            try:
                file = path.open("xb")
            except FileExistsError:
                now_ns += 1
                continue
            self._files.append((path, 0))
            self._file_bytes = 0
            return file

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _make_room(self) -> None:
        while len(self._files) > 1 and sum(size for _, size in self._files) > self._total_bytes_max:
            path, size = self._files.popleft()
            path.unlink(missing_ok=True)
            log.warning("recording removed to stay below the limit", file=path.name, bytes=size)


async def record_listing(
    recorder: Recorder, venue: Venue, send: Callable[[Request], Awaitable[Answer]]
) -> list[Instrument]:
    """Read the venue's whole listing by `send`, keep its answers, and return it.

    Raises Unavailable and its like, Unreadable, and what `send` raises; what was answered before is kept.
    """
    found: list[Instrument] = []
    ask: Ask | None = Ask(query=Query.INSTRUMENTS)
    pages = 0
    while ask is not None and pages < LISTINGS_MAX:
        request = venue.request(ask)
        answer = await send(request)
        page = venue.page(ask, answer)
        recorder.listing(request, answer.received_ns, answer.body)
        found += page.instruments
        ask, pages = page.next, pages + 1
    return found


def _line(received_ns: int, word: bytes, body: bytes) -> bytes:
    if b"\n" in body or b"\r" in body:
        return b"%d b64:%s %s\n" % (received_ns, word, base64.b64encode(body))
    return b"%d %s %s\n" % (received_ns, word, body)
