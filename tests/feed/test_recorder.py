"""What the recorder writes is what it was given, whatever ends it."""

import asyncio
import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.clock import ManualClock
from openoutcry.feed.recorder import Recorder
from openoutcry.feed.recording import Damaged, Dropped, Entry, Frame, Header, Opened, Sent, Told, entries
from openoutcry.venues.venue import Request

START_NS = 1_737_918_843_893_903_000
LISTING = Request(path="/info", method="POST", body=b'{"type":"meta"}')


def held(recorder: Recorder) -> list[Entry]:
    return [entry for path in recorder.files for entry in entries(path)]


def folder_bytes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


async def test_what_was_given_is_read_again(tmp_path: Path) -> None:
    recorder = Recorder("hyperliquid", tmp_path, ManualClock(START_NS))
    recorder.listing(LISTING, 1, b'{"universe":[]}')
    recorder.opened("ws", 2)
    recorder.sent("ws", 3, b'{"method":"ping"}')
    recorder.frame("ws", 4, b'{"channel":"pong"}')
    recorder.frame("ws", 5, b'{"more":\r\n"than one line"}')
    await recorder.close()
    assert [path.name for path in recorder.files] == ["hyperliquid.20250126T191403.893903000Z.gz"]
    assert held(recorder) == [
        Header(1, "hyperliquid"),
        Told(2, 1, "/info#%7B%22type%22%3A%22meta%22%7D", b'{"universe":[]}'),
        Opened(3, 2, "ws"),
        Sent(4, 3, "ws", b'{"method":"ping"}'),
        Frame(5, 4, "ws", b'{"channel":"pong"}'),
        Frame(6, 5, "ws", b'{"more":\r\n"than one line"}'),
    ]


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_any_bytes_survive(tmp_path_factory: pytest.TempPathFactory, frames: list[bytes]) -> None:
    recorder = Recorder("okx", tmp_path_factory.mktemp("any"), ManualClock(START_NS))

    async def record() -> None:
        for frame in frames:
            recorder.frame("public", 7, frame)
        await recorder.close()

    asyncio.run(record())
    assert [e.frame for e in held(recorder) if isinstance(e, Frame)] == frames


async def test_frames_are_written_each_second_and_can_be_read_while_recording_goes_on(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    recorder = Recorder("okx", tmp_path, clock)
    writing = asyncio.create_task(recorder.run())
    recorder.frame("public", 1, b"{}")
    await clock.advance(0.9)
    assert recorder.files == []
    await clock.advance(0.2)
    await recorder.flush()  # waits for the batch that the second took to the writer
    assert [type(e) for e in held(recorder)] == [Header, Frame]
    recorder.frame("public", 2, b"{}")
    await clock.advance(1.0)
    await recorder.flush()
    assert [e.received_ns for e in held(recorder) if isinstance(e, Frame)] == [1, 2]
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await recorder.close()
    await recorder.close()


async def test_each_file_can_be_replayed_by_itself_and_the_oldest_make_room(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    recorder = Recorder("okx", tmp_path, clock, file_bytes_max=400, total_bytes_max=2_000)
    recorder.listing(LISTING, 1, b'{"universe":[]}')
    for count in range(40):
        recorder.frame("public", count, os.urandom(150).hex().encode())
        await recorder.flush()
    await recorder.close()
    assert folder_bytes(tmp_path) == {path.name: path.stat().st_size for path in recorder.files}
    assert len(recorder.files) > 2
    assert sum(folder_bytes(tmp_path).values()) <= 2_000 + 600
    for path in recorder.files:
        told = list(entries(path))
        assert isinstance(told[0], Header)
        assert isinstance(told[1], Told)
    times = [e.received_ns for e in held(recorder) if isinstance(e, Frame)]
    assert times == list(range(times[0], 40))


async def test_frames_beyond_what_may_wait_are_left_out_and_counted_in_the_file(tmp_path: Path) -> None:
    recorder = Recorder("okx", tmp_path, ManualClock(START_NS), pending_bytes_max=100)
    for count in range(50):
        recorder.frame("public", count, b"0123456789")
    await recorder.flush()
    recorder.frame("public", 99, b"late")
    await recorder.close()
    told = held(recorder)
    kept = [e for e in told if isinstance(e, Frame)]
    (dropped,) = [e for e in told if isinstance(e, Dropped)]
    assert (dropped.endpoint, dropped.count) == ("public", recorder.dropped)
    assert len(kept) + recorder.dropped == recorder.frames == 51
    assert kept[-1].frame == b"late"


async def test_a_second_recorder_does_not_write_into_the_files_of_the_first(tmp_path: Path) -> None:
    first, second = (Recorder("okx", tmp_path, ManualClock(START_NS)) for _ in range(2))
    for recorder, frame in ((first, b"1"), (second, b"2")):
        recorder.frame("public", 1, frame)
        await recorder.close()
    assert [[e.frame for e in held(r) if isinstance(e, Frame)] for r in (first, second)] == [[b"1"], [b"2"]]


async def test_a_disk_that_does_not_take_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    recorder = Recorder("okx", folder, ManualClock(START_NS))
    recorder.frame("public", 1, b"{}")
    with pytest.raises(OSError, match="file"):
        await recorder.flush()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from openoutcry.clock import ManualClock
from openoutcry.feed.recorder import Recorder

async def main():
    recorder = Recorder("okx", Path(sys.argv[1]), ManualClock(1))
    for batch in range(3):
        for n in range(100):
            recorder.frame("public", batch * 100 + n, b'{"n": 1}')
        await recorder.flush()
    recorder.frame("public", 999, b"never flushed")
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_kill_9_costs_only_what_was_not_flushed(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    told = list(entries(path))
    assert [e.received_ns for e in told if isinstance(e, Frame)] == list(range(300))
    assert not [e for e in told if isinstance(e, Damaged)]
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 303
