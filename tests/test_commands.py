"""Record and replay as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "openoutcry", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


@pytest.mark.parametrize("venue", ["binance_futures", "okx"])
def test_what_is_recorded_of_a_venue_can_be_replayed(tmp_path: Path, venue: str) -> None:
    recorded = run("record", venue, "--simulated", "--seconds", "4", "--folder", "r", "--json", cwd=tmp_path)
    assert recorded.returncode == 0, recorded.stderr
    last = json.loads(recorded.stdout.splitlines()[-1])
    assert last["dropped"] == 0
    files = [str(path) for path in sorted((tmp_path / "r").iterdir())]
    replayed = run("replay", *files, "--json")
    assert replayed.returncode == 0, replayed.stderr
    summary = json.loads(replayed.stdout)
    # What was told last is what the files hold.
    assert summary["frames"] == last["frames"] > 20
    assert summary["sent"] > 0
    assert summary["events"]["Trade"] > 0
    assert summary["events"]["Quote"] > 0
    assert summary["listed"] > 0
    assert (summary["unreadable"], summary["damaged"], summary["assumed"]) == (0, 0, [])


def test_a_replay_prints_events_and_the_candles_they_make(recordings: Path) -> None:
    file = str(recordings / "frames" / "BINANCE_FUTURES.ws.1.0.gz")
    shown = run("replay", file, "--events", "--candles")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {row["event"] for row in rows} == {"Trade", "Quote", "DepthSnapshot", "DepthDelta", "Candle"}
    made = [row for row in rows if row["event"] == "Candle" and row["origin"] == "trades"]
    assert {row["instrument"] for row in made} == {row["instrument"] for row in rows if row["event"] == "Trade"}
    assert "unreadable" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "nowhere.gz"), "nowhere.gz"),
        (("record", "mtgox", "--simulated"), "mtgox"),
        (("replay", "--venue", "mtgox", __file__), "binance_futures"),
    ],
)
def test_a_mistake_is_said_in_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    failed = run(*arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_help_and_version_answer() -> None:
    assert "demo" in run("--help").stdout
    assert run("--version").stdout.startswith("openoutcry ")
