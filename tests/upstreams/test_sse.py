"""Whatever way the bytes of a stream are cut, the same events come out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Unreadable
from openoutcry.upstreams.sse import EVENT_BYTES_MAX, Events


def read(*chunks: bytes) -> list[bytes]:
    events = Events()
    return [*(each for chunk in chunks for each in events.feed(chunk)), *events.end()]


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data:a\ndata: b\ndata:  c\n\n", [b"a\nb\n c"]),
        (b": keep-alive\n\n\n\nevent: message\nid: 7\nretry: 9\ndata: a\n\n", [b"a"]),
        (b"event: ping\n\ndata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"datax: a\n\n Data: b\n\n", []),
        (b"data: a", [b"a"]),
        (b"data: a\n", [b"a"]),
        (b"", []),
        (b"<html>no</html>", []),
    ],
)  # fmt: skip
def test_events_are_read_however_they_are_cut(stream: bytes, told: list[bytes]) -> None:
    assert read(stream) == told
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == told
    for at in range(len(stream) + 1):
        assert read(stream[:at], b"", stream[at:]) == told


# Few bytes and all that mean something: every list has ends of lines and data.
STREAMS = st.lists(
    st.sampled_from([b"data: ", b"a", b":", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]), max_size=30
)


@given(STREAMS, st.data())
def test_any_cut_gives_the_same(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*chunks) == read(stream)


@given(STREAMS)
def test_events_are_those_of_the_obvious_reading(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    told: list[bytes] = []
    data: list[bytes] = []
    for line in [*lines, b""]:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line == b"data":
            data.append(b"")
        elif not line and data:
            told.append(b"\n".join(data))
            data = []
    if data:
        told.append(b"\n".join(data))
    assert read(stream) == told


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * EVENT_BYTES_MAX,
        b": " + b"x" * EVENT_BYTES_MAX + b"\n",
        (b"data: " + b"x" * 1_000 + b"\n") * (EVENT_BYTES_MAX // 1_000 + 1),
        b"data:\n" * (EVENT_BYTES_MAX + 2),
    ],
    ids=["line", "comment", "lines", "empty lines"],
)
def test_what_never_ends_is_not_kept(stream: bytes) -> None:
    events = Events()
    with pytest.raises(Unreadable):
        for at in range(0, len(stream), 65_536):
            list(events.feed(stream[at : at + 65_536]))


def test_a_long_line_that_comes_a_byte_at_a_time_costs_no_more() -> None:
    events = Events()
    size = EVENT_BYTES_MAX - 10
    assert not [each for byte in b"data: " + b"x" * (size - 6) for each in events.feed(bytes([byte]))]
    assert list(events.feed(b"\n\n")) == [b"x" * (size - 6)]
