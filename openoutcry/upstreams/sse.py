"""Server-sent events: bytes in, the data of events out, however the bytes are cut.

https://html.spec.whatwg.org/multipage/server-sent-events.html

    : a comment
    event: message
    data: {"a": 1}

Lines end with CR LF, LF or CR; an empty line ends an event; several lines of data are one text. Names, ids and retry times
of events mean nothing here.
"""

from collections.abc import Iterator

from openoutcry.errors import Unreadable

EVENT_BYTES_MAX = 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Events:
    """One stream of events."""

    def __init__(self) -> None:
        # The line that has not ended, in pieces: one that comes a byte at a time costs no more than another.
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that are complete now. Raises Unreadable where a line or an event is above EVENT_BYTES_MAX."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk, self._after_cr = chunk[1:], False
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = chunk.split(b"\n")
        for each in ended:
            self._more(each)
            line = b"".join(self._line)
            self._line, self._line_bytes = [], 0
            if line or not self._begun:
                self._read(line)
            elif self._data:
                yield self._event()
        if rest:
            self._more(rest)

    def end(self) -> Iterator[bytes]:
        """The event that nothing ended, where there is one: some servers leave out the last line end."""
        self._read(b"".join(self._line))
        self._line, self._line_bytes = [], 0
        if self._data:
            yield self._event()

    def _more(self, piece: bytes) -> None:
        self._line_bytes += len(piece)
        if self._line_bytes > EVENT_BYTES_MAX:
            raise Unreadable(f"a line of more than {EVENT_BYTES_MAX} bytes")
        self._line.append(piece)

    def _read(self, line: bytes) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        self._data_bytes += len(value)
        # Lines without a byte count too: many of them would not be seen otherwise.
        if self._data_bytes + len(self._data) > EVENT_BYTES_MAX:
            raise Unreadable(f"an event of more than {EVENT_BYTES_MAX} bytes")
        self._data.append(value.removeprefix(b" "))

    def _event(self) -> bytes:
        data = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        return data
