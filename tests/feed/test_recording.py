"""Three forms of recordings, whole and damaged."""

import gzip
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.feed.recording import Damaged, Dropped, Entry, Frame, Header, Opened, Sent, Told, entries, target
from openoutcry.venues.venue import Request


def read(folder: Path, text: bytes, *, compressed: bool = False) -> list[Entry]:
    path = folder / "recording"
    path.write_bytes(gzip.compress(text) if compressed else text)
    return list(entries(path))


CRYPTOFEED = b"""wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5300605
wss://ws.okx.com:8443/ws/v5/public <- 1652459225.2987883: {"op":"subscribe","args":[]}
1652459225.5037491: {"event":"subscribe","note":"12: 3"}

https://dapi.binance.com/dapi/v1/exchangeInfo?a=1&b=2 -> 1626916402.988238: {"x": "wss://y <-> 1.5"}
configuration: {"trades":["BTC-USD-PERP"]}
1652459226: pong"""


@pytest.mark.parametrize("compressed", [False, True])
def test_the_form_of_cryptofeed(tmp_path: Path, compressed: bool) -> None:
    assert read(tmp_path, CRYPTOFEED, compressed=compressed) == [
        Opened(1, 1_652_459_224_530_060_500),
        Sent(2, 1_652_459_225_298_788_300, "", b'{"op":"subscribe","args":[]}'),
        Frame(3, 1_652_459_225_503_749_100, "", b'{"event":"subscribe","note":"12: 3"}'),
        Told(5, 1_626_916_402_988_238_000, "/dapi/v1/exchangeInfo?a=1&b=2", b'{"x": "wss://y <-> 1.5"}'),
        Frame(7, 1_652_459_226_000_000_000, "", b"pong"),
    ]


def test_the_form_of_hftbacktest(tmp_path: Path) -> None:
    assert read(tmp_path, b'1737918843893903001 {"channel":"pong"}\n') == [
        Frame(1, 1_737_918_843_893_903_001, "", b'{"channel":"pong"}')
    ]


def test_our_own_form(tmp_path: Path) -> None:
    text = b"""openoutcry-recording 1 okx
5 open:public
6 sent:public {"op":"subscribe"}
7 public {"event": "subscribe"}
8 rest:/api/v5/public/instruments?instType=SWAP {"code":"0"}
9 dropped:public 12
10 b64:public eyJhIjoKMX0=
11 public
"""
    assert read(tmp_path, text) == [
        Header(1, "okx"),
        Opened(2, 5, "public"),
        Sent(3, 6, "public", b'{"op":"subscribe"}'),
        Frame(4, 7, "public", b'{"event": "subscribe"}'),
        Told(5, 8, "/api/v5/public/instruments?instType=SWAP", b'{"code":"0"}'),
        Dropped(6, 9, "public", 12),
        Frame(7, 10, "public", b'{"a":\n1}'),
        Frame(8, 11, "public", b""),
    ]


@given(st.integers(0, 10**11), st.integers(0, 10**9 - 1), st.integers(1, 9))
def test_times_are_exact_to_the_digits_written(
    tmp_path_factory: pytest.TempPathFactory, seconds: int, fraction: int, digits: int
) -> None:
    written = f"{fraction:09d}"[:digits]
    folder = tmp_path_factory.getbasetemp()
    (entry,) = read(folder, f"{seconds}.{written}: x".encode())
    assert isinstance(entry, Frame)
    assert entry.received_ns == seconds * 10**9 + int(written.ljust(9, "0"))


def test_damaged_lines_are_named_by_their_number_and_the_others_are_read(tmp_path: Path) -> None:
    damaged = b'52459225.5: {}\nnonsense\n1.5.5: {}\n-3: {}\n\xff\xfe\n1652459225.5: {"cut":\n'
    told = read(tmp_path, damaged)
    assert [(type(e), e.line) for e in told] == [
        (Frame, 1),
        (Damaged, 2),
        (Damaged, 3),
        (Damaged, 4),
        (Damaged, 5),
        (Frame, 6),
    ]
    assert told[1] == Damaged(2, "not a line of a recording", b"nonsense")
    assert [type(e) for e in read(tmp_path, b"https://[ -> 1.5: {}\n")] == [Damaged]
    ours = b"openoutcry-recording 1 okx\n1 b64:public !!\n2 what:is this\nx public {}\n3 public {}\n"
    assert [type(e) for e in read(tmp_path, ours)] == [Header, Damaged, Damaged, Damaged, Frame]
    assert [type(e) for e in read(tmp_path, b"openoutcry-recording 2 okx\n")] == [Damaged]


WORDS = [
    b"openoutcry-recording 1 okx", b"openoutcry-recording", b"1652459225.5", b"1737918843893903000", b": ", b" ", b"\n",
    b"\r", b" -> ", b" <- ", b" <-> ", b"https://[", b"https://x/y?z", b"wss://y", b"rest:/a", b"b64:ws", b"sent:", b"dropped:ws",
    b"open:", b"12", b"{}", b"\xff", b"=", b"configuration: ",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS)), st.booleans())
def test_no_bytes_are_fatal(tmp_path_factory: pytest.TempPathFactory, words: list[bytes], compressed: bool) -> None:
    text = b"".join(words)
    told = read(tmp_path_factory.getbasetemp(), text, compressed=compressed)
    assert len(told) <= text.count(b"\n") + 1


def members(count: int) -> list[bytes]:
    head = b"openoutcry-recording 1 okx\n"
    return [gzip.compress(head + b"%d public {}\n%d public {}\n" % (2 * n, 2 * n + 1)) for n in range(count)]


def test_a_file_cut_anywhere_gives_all_that_is_whole(tmp_path: Path) -> None:
    parts = members(3)
    whole, path = b"".join(parts), tmp_path / "cut.gz"
    for end in range(3, len(whole)):
        path.write_bytes(whole[:end])
        told = list(entries(path))
        times = [e.received_ns for e in told if isinstance(e, Frame)]
        complete = sum(end >= sum(map(len, parts[: n + 1])) for n in range(3))
        assert times == list(range(len(times)))
        assert len(times) >= 2 * complete
        at_an_edge = any(end == sum(map(len, parts[:n])) for n in range(4))
        assert isinstance(told[-1], Damaged) is not at_an_edge


def test_a_corrupt_stretch_costs_no_more_than_itself(tmp_path: Path) -> None:
    parts, path = members(4), tmp_path / "corrupt.gz"
    for at in range(12, len(parts[1]) - 1):
        spoilt = bytearray(parts[1])
        spoilt[at] ^= 0xFF
        path.write_bytes(parts[0] + bytes(spoilt) + parts[2] + parts[3])
        told = list(entries(path))
        times = [e.received_ns for e in told if isinstance(e, Frame)]
        assert times[:2] == [0, 1]
        assert times[-4:] == [4, 5, 6, 7]
        assert any(isinstance(e, Damaged) for e in told)


def test_an_endless_line_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b"\n1.5: {}\n")
    tracemalloc.start()
    told = list(entries(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [type(e) for e in told] == [Damaged, Frame]
    assert most < 110_000_000


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == []


def test_a_request_is_spelled_in_one_word() -> None:
    assert target(Request(path="/a/b", query=(("x", "1 2"), ("y", "ü&")))) == "/a/b?x=1%202&y=%C3%BC%26"
    assert target(Request(path="/info", method="POST", body=b'{"type": "meta"}')) == (
        "/info#%7B%22type%22%3A%20%22meta%22%7D"
    )
