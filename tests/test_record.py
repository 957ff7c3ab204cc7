"""A recording holds all that its frames need to be understood: connections, what was asked, snapshots."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from openoutcry.clock import ManualClock
from openoutcry.events import DepthDelta, DepthSnapshot
from openoutcry.feed.depth import Depth, Outcome
from openoutcry.feed.recording import Opened, Sent, entries
from openoutcry.feed.replay import Replay


@pytest.mark.parametrize(("venue", "connections"), [("binance", ["market"]), ("binance_futures", ["market", "public"])])
def test_books_are_built_from_what_was_recorded_alone(tmp_path: Path, venue: str, connections: list[str]) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(f'[venues.{venue}]\ndepth = true\ninstruments = ["BTCUSDT"]\n', "utf-8")
    command = [sys.executable, "-m", "openoutcry", "record", venue, "--simulated", "--seconds", "4"]
    command += ["--folder", str(tmp_path / "r"), "--config", str(settings)]
    recorded = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert recorded.returncode == 0, recorded.stderr
    (file,) = (tmp_path / "r").iterdir()
    told = list(entries(file))
    assert sorted(entry.endpoint for entry in told if isinstance(entry, Opened)) == connections
    asked = b"".join(entry.frame for entry in told if isinstance(entry, Sent))
    assert b"btcusdt@depth" in asked

    depth, outcomes = Depth(), Counter[Outcome]()
    for event in Replay([file], ManualClock()):
        if isinstance(event, DepthSnapshot | DepthDelta):
            outcomes[depth.take(event)] += 1
    assert depth.seq is not None
    assert outcomes[Outcome.APPLIED] > 10
    assert outcomes[Outcome.BROKEN] == 0
