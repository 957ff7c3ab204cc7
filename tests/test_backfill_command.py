"""`openoutcry backfill` and `openoutcry tasks` as a user types them."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from openoutcry.app import DATABASE
from openoutcry.clock import NS, SystemClock
from openoutcry.events import open_of
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.series import Of, SeriesKey
from openoutcry.market.tasks import Task, TaskState
from openoutcry.stores.export import time_text
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.sql import SqlSeries, sqlite_url

LOOKS_MAX = 3_000
DAY_NS = 86_400 * NS
BTC = Instrument(
    venue="binance_futures", symbol="BTCUSDT", kind=Kind.PERPETUAL, coin="BTC", quote="USDT", settle="USDT",
    tick_size=Decimal("0.1"), lot_size=Decimal("0.001"),
)  # fmt: skip


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "openoutcry", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def days_ago(days: int) -> str:
    return time_text(open_of(SystemClock().now_ns(), 86_400) - days * DAY_NS)


def everything(terminal: int) -> str:
    """What is written to a terminal until its last writer has gone."""
    said = b""
    with closing(os.fdopen(terminal, "rb", buffering=0)) as shown, suppress(OSError):
        while piece := shown.read(4_096):
            said += piece
    return said.decode(errors="replace")


# -- without a server


def test_a_backfill_is_done_shown_and_listed_and_done_again_in_no_time(tmp_path: Path) -> None:
    command = ("backfill", "btc", "--interval", "1h", "--start", days_ago(3), "--end", days_ago(1), "--simulated")
    done = run(*command, "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "48 candles stored" in done.stdout
    assert "binance_futures:BTCUSDT 1h: 48 of 48 candles (100%)" in done.stderr
    again = run(*command, "--data", str(tmp_path), "--json")
    assert again.returncode == 0, again.stderr
    *told, task = (json.loads(line) for line in again.stdout.splitlines())
    assert told[-1]["progress"] == "binance_futures:BTCUSDT 1h"
    assert (task["id"], task["state"], task["candles"], task["progress_pct"]) == (2, "completed", 0, 100.0)
    listed = run("tasks", "--data", str(tmp_path))
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert [row[0] for row in rows] == ["id", "2", "1"]
    assert rows[2] == [
        "1", "binance_futures:BTCUSDT", "1h", days_ago(3), days_ago(1), "completed", "100.0%", "48",
    ]  # fmt: skip
    with closing(SqlSeries(sqlite_url(tmp_path / DATABASE))) as series:
        summary = series.summary(SeriesKey("binance_futures:BTCUSDT", Of.CANDLES, 3_600))
        assert summary is not None
        assert summary.rows == 48


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = ["backfill", "BTC", "--interval", "1h", "--start", days_ago(2), "--simulated", "--data", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "openoutcry", *command],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(theirs)
    # Read while it runs: a terminal that nobody reads stops who writes to it.
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(everything, ours)
        process.communicate(timeout=120)
        shown = reading.result(60)
    assert process.returncode == 0, shown
    assert "━" in shown
    assert "candles (100%)" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("BTC", "--start", "yesterday"), "'yesterday' is no time"),
        (("BTC", "--start", "2026-01-02", "--end", "2026-01-01"), "the start must be before the end"),
        (("BTC", "--start", "2200-01-01", "--end", "2201-01-01"), "the start lies in the future"),
        (("BTC", "--start", "2026-01-01", "--interval", "7m"), "has candles of"),
        (("BTC", "--start", "2026-01-01", "--interval", "often"), "'often' is no interval"),
        (("BTC", "--start", "1990-01-01", "--interval", "1m"), "5000000 candles"),
        (("NOSUCH", "--start", "2026-01-01"), "does not list 'NOSUCH'"),
        (("BTC", "--start", "2026-01-01", "--venue", "nowhere"), "no venue nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    refused = run("backfill", *arguments, "--simulated", "--data", str(tmp_path))
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


# -- beside a server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SqlSeries]:
    """The store of a server that has the folder; what it would do with tasks is in the test's hand."""
    folder = DataFolder(tmp_path)
    with closing(SqlSeries(sqlite_url(tmp_path / DATABASE))) as series:
        series.save_listing("binance_futures", [BTC])
        yield series
    folder.close()


def begun(tmp_path: Path, *more: str) -> "subprocess.Popen[str]":
    command = ["backfill", "BTC", "--interval", "1m", "--start", days_ago(3), "--end", days_ago(2), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "openoutcry", *command, "--data", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def put(series: SqlSeries, process: "subprocess.Popen[str]") -> Task:
    """The task that the command left in the store."""
    for _ in range(LOOKS_MAX):
        for task in series.tasks.tasks():
            return task
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(process.communicate())


def test_a_server_that_has_the_folder_does_it_and_the_command_watches(served: SqlSeries, tmp_path: Path) -> None:
    process = begun(tmp_path)
    task = put(served, process)
    assert (task.instrument, task.interval_s, task.state) == ("binance_futures:BTCUSDT", 60, TaskState.PENDING)
    assert (task.end_ns - task.start_ns) // (60 * NS) == 1_440
    served.tasks.save_task(replace(task, state=TaskState.COMPLETED, candles=1_440, cursor_ns=task.end_ns))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1,440 candles stored" in out
    assert f"task {task.id}, done by the server that has {tmp_path}" in err


def failed(series: SqlSeries, task: Task) -> None:
    series.tasks.save_task(
        replace(task, state=TaskState.FAILED, error="binance_futures answers with status 502 after 6 tries")
    )


def deleted(series: SqlSeries, task: Task) -> None:
    series.tasks.drop_task(task.id)


@pytest.mark.parametrize(("happens", "said"), [(failed, "status 502 after 6 tries"), (deleted, "was deleted")])
def test_a_task_that_fails_or_goes_away_ends_the_command(
    served: SqlSeries, tmp_path: Path, happens: Callable[[SqlSeries, Task], None], said: str
) -> None:
    process = begun(tmp_path, "--json")
    happens(served, put(served, process))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in err
    assert "Traceback" not in err


def test_who_leaves_is_told_that_it_goes_on(served: SqlSeries, tmp_path: Path) -> None:
    process = begun(tmp_path)
    task = put(served, process)
    for _ in range(LOOKS_MAX):
        assert process.stderr is not None
        if "done by the server" in process.stderr.readline():
            break
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the server goes on with it" in err
    assert served.tasks.task(task.id) == task


def test_a_venue_the_server_has_not_heard_of_is_refused(served: SqlSeries, tmp_path: Path) -> None:
    process = begun(tmp_path, "--venue", "okx")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "has not heard of okx yet" in err
    assert list(served.tasks.tasks()) == []


def test_beside_a_server_too_there_are_only_so_many_tasks(served: SqlSeries, tmp_path: Path) -> None:
    wanted = Task(instrument=BTC.name, interval_s=60, start_ns=0, end_ns=1, cursor_ns=0, created_ns=0, updated_ns=0)
    served.tasks.open_task(wanted)
    (tmp_path / "settings.toml").write_text("[backfill]\nactive_max = 1\n")
    process = begun(tmp_path, "--config", str(tmp_path / "settings.toml"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "1 backfill tasks wait or run" in err
    assert len(served.tasks.tasks()) == 1


def test_tasks_are_deleted_by_either_spelling_and_only_once(served: SqlSeries, tmp_path: Path) -> None:
    for end in (1, 2):
        wanted = Task(
            instrument=BTC.name, interval_s=60, start_ns=0, end_ns=end, cursor_ns=0, created_ns=0, updated_ns=0
        )  # fmt: skip
        served.tasks.open_task(wanted)
    assert run("tasks", "delete", "1", "--data", str(tmp_path)).stdout == "deleted: task 1\n"
    assert run("tasks", "delete", "bf-002", "--data", str(tmp_path)).stdout == "deleted: task 2\n"
    for strange in ("2", "bf-", "-1", "two", "9" * 30):
        refused = run("tasks", "delete", "--data", str(tmp_path), "--", strange)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"there is no task {strange}" in refused.stderr


def test_a_folder_without_a_store_is_not_made_by_a_look_at_it(tmp_path: Path) -> None:
    refused = run("tasks", "--data", str(tmp_path / "nowhere"))
    assert refused.returncode == 2
    assert "there is no data in" in refused.stderr
    assert list(tmp_path.iterdir()) == []
