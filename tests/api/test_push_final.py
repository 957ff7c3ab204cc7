"""Readers of many channels: the newest of each waits for them, and all that is final, up to a bound."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.frames import text_frame
from openoutcry.api.push import Final, Push, Reader, Stop
from openoutcry.telemetry import Telemetry
from tests.api.test_push import Pipe, no_stop


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def joined(push: Push, key: str, reader: Reader, want: bytes | None = b"<") -> tuple[Final, Stop]:
    made: list[Final] = []

    def begin() -> tuple[Final, Stop]:
        made.append(push.final())
        return made[0], no_stop

    leave = push.join(key, reader, begin, want)
    return made[0], leave


def framed(*texts: bytes) -> bytes:
    return b"".join(map(text_frame, texts))


async def test_frames_begin_as_each_follower_wants(telemetry: Telemetry) -> None:
    push = Push(telemetry)
    pipes = {want: Pipe() for want in (b"a", b"b", None)}
    readers = {want: Reader(pipe, push.bounds) for want, pipe in pipes.items()}
    channel = push.final()
    for want, reader in readers.items():
        push.join("k", reader, lambda: (channel, no_stop), want)
    channel.send(b"1", final=True)
    await asyncio.sleep(0)
    assert {want: pipe.written for want, pipe in pipes.items()} == {
        b"a": [framed(b"a1")],
        b"b": [framed(b"b1")],
        None: [],
    }


async def test_of_one_turn_the_newest_and_all_that_is_final_is_sent(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    channel, _ = joined(push, "k", Reader(pipe, push.bounds))
    for tail, final in ((b"1", False), (b"2", False), (b"3", True), (b"4", False), (b"5", True), (b"6", False)):
        channel.send(tail, final=final)
    await asyncio.sleep(0)
    assert pipe.written == [framed(b"<3", b"<5", b"<6")]


async def test_who_joins_hears_nothing_of_before(telemetry: Telemetry) -> None:
    push = Push(telemetry)
    first, second = Pipe(), Pipe()
    channel, _ = joined(push, "k", Reader(first, push.bounds))
    channel.send(b"1", final=True)
    push.join("k", Reader(second, push.bounds), lambda: (channel, no_stop), b"<")
    channel.send(b"2", final=True)
    await asyncio.sleep(0)
    assert b"".join(first.written) == framed(b"<1", b"<2")
    assert second.written == [framed(b"<2")]


async def test_what_a_slow_reader_missed_comes_when_it_reads(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    reader = Reader(pipe, push.bounds)
    one, _ = joined(push, "one", reader, b"a")
    two, _ = joined(push, "two", reader, b"b")
    pipe.choked = True
    for tail, final in ((b"1", False), (b"1!", True), (b"2", False), (b"2!", True), (b"3", False), (b"3.", False)):
        for channel in (one, two):
            channel.send(tail, final=final)
        await asyncio.sleep(0)
    assert pipe.written == []
    pipe.choked = False
    pipe.relieved()
    # What grew in a bucket is replaced by what grew in the next one, which stands behind its close.
    assert pipe.written == [framed(b"a1!", b"b1!", b"a2!", b"b2!", b"a3.", b"b3.")]
    assert push.bounds.conflated == 6


async def test_who_left_a_channel_hears_nothing_of_it_and_of_the_others_all(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    reader = Reader(pipe, push.bounds)
    one, leave = joined(push, "one", reader, b"a")
    two, _ = joined(push, "two", reader, b"b")
    pipe.choked = True
    for channel in (one, two):
        channel.send(b"!", final=True)
    await asyncio.sleep(0)
    one.send(b"?", final=True)
    leave()
    await asyncio.sleep(0)
    pipe.relieved()
    assert pipe.written == [framed(b"b!")]
    assert push.bounds.followers == 1


async def test_a_reader_for_whom_too_much_waits_is_closed(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    reader = Reader(pipe, push.bounds, bytes_max=10_000)
    channel, _ = joined(push, "k", reader)
    pipe.choked = True
    pipe.waiting = 2_000
    for _ in range(100):
        channel.send(b"x" * 1_000, final=False)
        await asyncio.sleep(0)
    assert pipe.finished is None
    for number in range(7):
        channel.send(b"x" * 1_000, final=True)
        await asyncio.sleep(0)
        assert (pipe.finished is None) == (number < 6), number
    assert pipe.finished == (1013, "too slow: what must not be missed no longer fits")


async def test_answers_to_a_reader_that_does_not_read_are_bounded_too(telemetry: Telemetry) -> None:
    push, pipe = Push(telemetry), Pipe()
    reader = Reader(pipe, push.bounds, bytes_max=10_000)
    pipe.choked, pipe.waiting = True, 9_999
    reader.write(b"x")
    assert pipe.finished is None
    pipe.waiting = 10_001
    reader.write(b"x")
    assert pipe.finished is not None


_STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "final", "choke", "read", "turn"]), st.integers(0, 1)), max_size=60
)


@given(_STEPS)
def test_no_final_frame_is_lost_and_the_newest_comes_last(steps: list[tuple[str, int]]) -> None:
    """Two channels and a reader that reads now and then: finals in order, and at the end the newest of each."""

    async def play() -> tuple[bytes, list[list[tuple[int, bool]]]]:
        push, pipe = Push(Telemetry()), Pipe()
        reader = Reader(pipe, push.bounds)
        channels = [joined(push, str(n), reader, b"%d:" % n)[0] for n in (0, 1)]
        sent: list[list[tuple[int, bool]]] = [[], []]
        for number, (what, which) in enumerate(steps):
            if what in ("send", "final"):
                channels[which].send(b"%d;" % number, final=what == "final")
                sent[which].append((number, what == "final"))
            elif what == "turn":
                await asyncio.sleep(0)
            else:
                pipe.choked = what == "choke"
                if not pipe.choked:
                    pipe.relieved()
        await asyncio.sleep(0)
        pipe.choked = False
        pipe.relieved()
        return b"".join(pipe.written), sent

    written, sent = asyncio.run(play())
    texts = [frame[1:] for frame in written.split(b"\x81")[1:]]
    for which in (0, 1):
        heard = [int(text[2:-1]) for text in texts if text.startswith(b"%d:" % which)]
        assert heard == sorted(heard)
        finals = [number for number, final in sent[which] if final]
        assert [number for number in heard if number in finals] == finals
        assert heard[-1:] == [number for number, _ in sent[which]][-1:]
