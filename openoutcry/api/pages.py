"""Newest candles as JSON: each closed one is spelled once, a whole page of them is kept until one changes.

Growing candles are spelled each time. Bounded: the series and pages used last stay.
"""

import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import msgspec

from openoutcry.events import Candle

SERIES_MAX = 256
PAGES_MAX = 256
ROWS_MAX = 4_000  # of one series

_GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class _Page(msgspec.Struct, frozen=True):
    """Closed candles of one answer, as they begin its text, and the same as they begin its gzip."""

    closed: Sequence[Candle]
    text: bytes
    packed: bytes
    checksum: int


class Pages:
    """The pages of one dialect: `head`, rows with commas between, `foot`."""

    def __init__(self, head: bytes = b"[", foot: bytes = b"]") -> None:
        self._head, self._foot = head, foot
        self._rows: OrderedDict[Hashable, dict[int, tuple[Candle, bytes]]] = OrderedDict()
        self._pages: OrderedDict[tuple[Hashable, int], _Page] = OrderedDict()

    def body(
        self,
        series: Hashable,
        spell: Callable[[Candle], bytes],
        closed: Sequence[Candle],
        growing: Candle | None,
        limit: int,
        *,
        packed: bool = False,
    ) -> bytes:
        """The newest `limit` of them, the growing one last; with `packed` as gzip. `spell` is the same for a series."""
        kept = limit - (growing is not None)
        if len(closed) > kept:
            closed = closed[len(closed) - kept :]
        page = self._page(series, spell, closed, limit)
        tail = self._foot
        if growing is not None:
            tail = (b",%b%b" if closed else b"%b%b") % (spell(growing), self._foot)
        return _packed(page, tail) if packed else page.text + tail

    def _page(self, series: Hashable, spell: Callable[[Candle], bytes], closed: Sequence[Candle], limit: int) -> _Page:
        key = (series, limit)
        page = self._pages.get(key)
        # Comparing 500 of the same objects takes 3 us: each is found to be the same before it is compared.
        if page is None or page.closed != closed:
            text = self._head + b",".join(self._made(series, spell, closed))
            page = self._pages[key] = _Page(closed, text, _deflated(text, zlib.Z_FULL_FLUSH), zlib.crc32(text))
            if len(self._pages) > PAGES_MAX:
                self._pages.popitem(last=False)
        self._pages.move_to_end(key)
        return page

    def _made(self, series: Hashable, spell: Callable[[Candle], bytes], closed: Sequence[Candle]) -> list[bytes]:
        rows = self._rows.setdefault(series, {})
        self._rows.move_to_end(series)
        if len(self._rows) > SERIES_MAX:
            self._rows.popitem(last=False)
        if len(rows) > ROWS_MAX:
            rows.clear()
        made = []
        for candle in closed:
            row = rows.get(candle.open_ns)
            # A candle corrected later is another object.
            if row is None or row[0] is not candle:
                row = rows[candle.open_ns] = (candle, spell(candle))
            made.append(row[1])
        return made


def _packed(page: _Page, tail: bytes) -> bytes:
    # RFC 1952. Deflated blocks may follow each other if each began without memory of those before it, so the page's
    # own are made once and the tail's are put behind them.
    size = len(page.text) + len(tail)
    checksum = zlib.crc32(tail, page.checksum)
    return b"".join((_GZIP, page.packed, _deflated(tail, zlib.Z_FINISH), struct.pack("<II", checksum, size)))


def _deflated(text: bytes, flush: int) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(text) + squeeze.flush(flush)
