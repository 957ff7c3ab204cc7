"""What an archive is: files of old candles that a venue publishes beside its REST side, each covering a day or a month.

Long stretches cost no request weight there. `feed/archives.py` fetches, checks and unpacks; an archive says which files
there may be for a stretch, and what their lines say. Whether a file is there shows when it is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from openoutcry.events import Candle
from openoutcry.instrument import Instrument

# Shorter stretches and smaller files are not worth their two requests: REST has as much on a page.
ROWS_MIN = 1_000
# Larger files are left alone: a month of minutes has 44,640.
ROWS_MAX = 50_000


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: `path` below the archive's address, and the stretch [start_ns, end_ns) it covers."""

    path: str
    start_ns: int
    end_ns: int
    instrument: Instrument
    interval_s: int


class Archive(Protocol):
    """Where a venue's files are, and what they say. Has no state."""

    address: str

    def files(self, instrument: Instrument, interval_s: int, start_ns: int, end_ns: int) -> Sequence[ArchiveFile]:
        """What covers the stretch from its start on, oldest first and without a hole between; empty where it is not worth it.

        Ends before the first piece that no file worth its requests covers; the first and the last may reach beyond the
        stretch.
        """
        ...

    def parts(self, file: ArchiveFile) -> Sequence[ArchiveFile]:
        """Smaller files of the same stretch, for where this one is not there yet, or lacks rows; empty where there are none."""
        ...

    def candles(self, file: ArchiveFile, lines: Iterable[bytes], received_ns: int) -> Iterator[Candle]:
        """What the lines of the file say, as REST would say it, one by one as they are read.

        Raises Unreadable: a row that is none, out of order, off the interval's grid or outside of the file's stretch.
        """
        ...
