"""Recorded frames: the form we write, and two that others wrote, read line by line in bounded memory.

Ours (openoutcry/feed/recorder.py), plain or gzip; every batch begins with the first of these lines:

    openoutcry-recording 1 hyperliquid
    1737918843893903000 open:ws
    1737918843893903000 sent:ws {"method":"subscribe","subscription":{"type":"trades","coin":"BTC"}}
    1737918843893903000 ws {"channel":"trades","data":[…]}
    1737918843893903000 rest:/info#%7B%22type%22%3A%22meta%22%7D {"universe":[…]}
    1737918843893903000 dropped:ws 12
    1737918843893903000 b64:ws eyJtb3JlIjoKInRoYW4gb25lIGxpbmUifQ==

cryptofeed's, times in seconds:

    wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5300605
    wss://ws.okx.com:8443/ws/v5/public <- 1652459225.2987883: {"op":"subscribe","args":[…]}
    1652459225.5037491: {"event":"subscribe","arg":{…}}
    https://dapi.binance.com/dapi/v1/exchangeInfo -> 1626916402.988238: {"timezone":"UTC",…}
    configuration: {"trades":["BTC-USD-PERP"]}

hftbacktest's, times in nanoseconds:

    1737918843893903000 {"channel":"l2Book","data":{…}}

A line that fits none of them is Damaged and named; what a cut or corrupt gzip file still holds is read.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

import msgspec

from openoutcry.clock import NS
from openoutcry.venues.venue import Request

VERSION = 1
MAGIC = b"openoutcry-recording "
# A frame of 16 MiB, the largest we take from a venue, is a third longer in base64; a listing may be larger than a frame.
LINE_BYTES_MAX = 96 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
HEAD_BYTES_MAX = 120

_GZIP = b"\x1f\x8b\x08"
_OURS = re.compile(rb"(\d{1,19}) ([!-~]+)(?: (.*))?", re.DOTALL)
_OPENED = re.compile(rb"(wss?://\S+) <-> (\d{1,12}(?:\.\d*)?)\s*")
_SENT = re.compile(rb"(wss?://\S+) <- (\d{1,12}(?:\.\d*)?): ?(.*)", re.DOTALL)
_ANSWER = re.compile(rb"(https?://\S+) -> (\d{1,12}(?:\.\d*)?): ?(.*)", re.DOTALL)
_FRAME = re.compile(rb"(\d{1,12}(?:\.\d*)?): ?(.*)", re.DOTALL)
_NANOSECONDS = re.compile(rb"(\d{16,19}) (.*)", re.DOTALL)


class Header(msgspec.Struct, frozen=True):
    """Whose frames follow."""

    line: int
    venue: str


class Opened(msgspec.Struct, frozen=True):
    """A connection was opened: what deltas were built on before is void. `endpoint` "" where it is not told."""

    line: int
    received_ns: int
    endpoint: str = ""


class Sent(msgspec.Struct, frozen=True):
    """What the client said."""

    line: int
    received_ns: int
    endpoint: str
    frame: bytes


class Frame(msgspec.Struct, frozen=True):
    """What the venue said on a socket."""

    line: int
    received_ns: int
    endpoint: str
    frame: bytes


class Told(msgspec.Struct, frozen=True):
    """What the venue's REST side answered; `asked` is the request as `target` spells it."""

    line: int
    received_ns: int
    asked: str
    body: bytes


class Dropped(msgspec.Struct, frozen=True):
    """The recorder could not keep up: so many frames are not here."""

    line: int
    received_ns: int
    endpoint: str
    count: int


class Damaged(msgspec.Struct, frozen=True):
    """A line, or all up to the next readable one, that cannot be read."""

    line: int
    why: str
    head: bytes


Entry = Header | Opened | Sent | Frame | Told | Dropped | Damaged


def target(request: Request) -> str:
    """The request in one word: path, query and body."""
    asked = quote(request.path, safe="/")
    if request.query:
        asked += "?" + "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in request.query)
    return f"{asked}#{quote(request.body, safe='')}" if request.body else asked


def entries(path: Path) -> Iterator[Entry]:
    """All that the file holds, in its order. Raises OSError when it cannot be opened or read; nothing else."""
    with path.open("rb") as stream:
        head = stream.read(len(_GZIP))
        stream.seek(0)
        pieces = _inflated(stream) if head == _GZIP else iter(lambda: stream.read(CHUNK_BYTES), b"")
        ours = False
        for number, line in enumerate(_lines(pieces), 1):
            if isinstance(line, _Lost):
                yield Damaged(number, line.why, line.head)
                continue
            line = line.rstrip(b"\r")  # noqa: PLW2901 files that travelled through another system
            if line.startswith(MAGIC):
                header = _header(number, line)
                ours = isinstance(header, Header)
                yield header
            elif line and not line.startswith(b"configuration: "):
                yield _ours(number, line) if ours else _theirs(number, line)


class _Lost(msgspec.Struct, frozen=True):
    why: str
    head: bytes


def _inflated(stream: IO[bytes]) -> Iterator[bytes | str]:
    """The text of a gzip file in pieces; a str where some of it is lost, and why."""
    inflate, begun, lost = zlib.decompressobj(31), False, False
    data = stream.read(CHUNK_BYTES)
    while data:
        begun = True
        try:
            piece = inflate.decompress(data, CHUNK_BYTES)
        except zlib.error:
            if not lost:
                yield "corrupt gzip data"
            lost, begun = True, False
            data, inflate = _next_member(stream, data), zlib.decompressobj(31)
            continue
        if piece:
            lost = False
            yield piece
        data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if inflate.eof:
            inflate, begun = zlib.decompressobj(31), False
        data = data or stream.read(CHUNK_BYTES)
    if begun:
        yield inflate.flush()
        yield "cut short"


def _next_member(stream: IO[bytes], data: bytes) -> bytes:
    """From where the next member may begin; empty at the end of the file."""
    data = data[1:]
    while (at := data.find(_GZIP)) < 0:
        more = stream.read(CHUNK_BYTES)
        if not more:
            return b""
        data = data[-len(_GZIP) + 1 :] + more
    return data[at:]


def _lines(pieces: Iterable[bytes | str]) -> Iterator[bytes | _Lost]:
    parts: list[bytes] = []
    size, skipping = 0, False
    for piece in pieces:
        if isinstance(piece, str):
            yield _Lost(piece, b"".join(parts)[:HEAD_BYTES_MAX])
            parts, size, skipping = [], 0, False
            continue
        first, *others = piece.split(b"\n")
        parts.append(first)
        size += len(first)
        if size > LINE_BYTES_MAX and not skipping:
            yield _Lost(f"a line of more than {LINE_BYTES_MAX} bytes", parts[0][:HEAD_BYTES_MAX])
            skipping = True
        if skipping:
            parts, size = [], 0
        if others:
            if not skipping:
                yield b"".join(parts)
            yield from others[:-1]
            parts, size, skipping = [others[-1]], len(others[-1]), False
    if parts and not skipping:
        yield b"".join(parts)


def _header(number: int, line: bytes) -> Header | Damaged:
    words = line.decode("utf-8", "replace").split()
    if len(words) != 3 or words[1] != str(VERSION):
        return _damaged(number, f"not a recording of version {VERSION}", line)
    return Header(number, words[2])


def _ours(number: int, line: bytes) -> Entry:
    found = _OURS.fullmatch(line)
    if found is None:
        return _damaged(number, "not a line of a recording", line)
    received_ns, word, body = int(found[1]), found[2].decode("ascii"), found[3] or b""
    if word.startswith("b64:"):
        word = word.removeprefix("b64:")
        try:
            body = base64.b64decode(body, validate=True)
        except binascii.Error:
            return _damaged(number, "not base64", line)
    kind, colon, about = word.partition(":")
    if not colon:
        return Frame(number, received_ns, word, body)
    if kind == "open":
        return Opened(number, received_ns, about)
    if kind == "sent":
        return Sent(number, received_ns, about, body)
    if kind == "rest":
        return Told(number, received_ns, about, body)
    if kind == "dropped" and body.isdigit():
        return Dropped(number, received_ns, about, int(body[:18]))
    return _damaged(number, "not a line of a recording", line)


def _theirs(number: int, line: bytes) -> Entry:
    if found := _FRAME.fullmatch(line):
        return Frame(number, _ns(found[1]), "", found[2])
    if found := _NANOSECONDS.fullmatch(line):
        return Frame(number, int(found[1]), "", found[2])
    if found := _SENT.fullmatch(line):
        return Sent(number, _ns(found[2]), "", found[3])
    if found := _OPENED.fullmatch(line):
        return Opened(number, _ns(found[2]))
    if found := _ANSWER.fullmatch(line):
        try:
            address = urlsplit(found[1].decode("utf-8", "replace"))
        except ValueError:
            return _damaged(number, "not an address", line)
        asked = quote(unquote(address.path), safe="/") + (f"?{address.query}" if address.query else "")
        return Told(number, _ns(found[2]), asked, found[3])
    return _damaged(number, "not a line of a recording", line)


def _ns(seconds: bytes) -> int:
    """Exact to the digits written: no float between."""
    whole, _, fraction = seconds.partition(b".")
    return int(whole) * NS + int(fraction[:9].ljust(9, b"0"))


def _damaged(number: int, why: str, line: bytes) -> Damaged:
    return Damaged(number, why, line[:HEAD_BYTES_MAX])
