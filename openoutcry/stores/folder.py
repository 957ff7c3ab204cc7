"""The data folder: one process at a time may have it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openoutcry.errors import FolderTaken, Unavailable

LOCK_NAME = "openoutcry.lock"
# Keys and journals will live here too: nobody else on the machine needs to look.
FOLDER_MODE = 0o700


class DataFolder:
    """Takes the folder (made if absent) for this process until `close`, or until the process ends, however it ends.

    Raises FolderTaken, naming the process that has it; Unavailable where the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._lock: int | None = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise Unavailable("store", f"the data folder cannot be used: {e.strerror}") from e
        try:
            # The kernel lets go of the lock with the process, so that a kill -9 leaves nothing to clean up.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise FolderTaken(
                f"the data folder {path} is in use by another openoutcry (process {holder}); "
                "stop that one, or name another folder with --data"
            ) from e
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode("ascii"), 0)

    def close(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Whoever is inside is alone in it, among all processes and threads; the others wait. The folder must exist."""
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # the folder itself: no file is left behind
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
