"""One process has the data folder."""

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from openoutcry.errors import FolderTaken, Unavailable
from openoutcry.stores.folder import DataFolder, one_at_a_time

HOLD = """
import sys
from pathlib import Path
from openoutcry.stores.folder import DataFolder
folder = DataFolder(Path(sys.argv[1]))
print("taken", flush=True)
sys.stdin.read()
"""


def test_a_second_taker_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    first = DataFolder(tmp_path / "data")
    with pytest.raises(FolderTaken, match=f"in use by another openoutcry .process {os.getpid()}.; stop that one"):
        DataFolder(tmp_path / "data")
    first.close()
    first.close()
    DataFolder(tmp_path / "data").close()


def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "data")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"taken\n"
        with pytest.raises(FolderTaken, match=str(child.pid)):
            DataFolder(tmp_path / "data")
        child.send_signal(signal.SIGKILL)
        child.wait()
        DataFolder(tmp_path / "data").close()


def test_the_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "deep" / "data")
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.close()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used"):
        DataFolder(tmp_path / "file" / "data")


def test_one_is_alone_in_a_folder_until_it_leaves(tmp_path: Path) -> None:
    order: list[str] = []
    begun = Event()

    def second() -> None:
        begun.set()
        with one_at_a_time(tmp_path):
            order.append("second")

    with ThreadPoolExecutor(1) as threads:
        with one_at_a_time(tmp_path):
            other = threads.submit(second)
            assert begun.wait(10)
            with pytest.raises(TimeoutError):
                other.result(0.05)  # it is there, and waits
            order.append("first")
        other.result(10)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []
