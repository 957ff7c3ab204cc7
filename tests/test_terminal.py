"""A bar at a terminal, lines in a log, JSON for programs: the same figures."""

import io
import json
import os
import pty
import threading
from contextlib import suppress
from typing import TextIO

import pytest

from openoutcry.clock import ManualClock
from openoutcry.terminal import BARS_MAX, LINE_S, Progress


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_772_323_200 * 10**9)


class Terminal:
    """A real terminal of the kernel's, and what was written on it."""

    def __init__(self) -> None:
        self._reader, writer = pty.openpty()
        self.err: TextIO = os.fdopen(writer, "w")
        self._heard = bytearray()
        # The kernel holds little: who writes waits for who reads.
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def text(self) -> str:
        self.err.close()
        self._reading.join(10)
        os.close(self._reader)
        return self._heard.decode()

    def _read(self) -> None:
        with suppress(OSError):  # how Linux says that the other end was closed
            while heard := os.read(self._reader, 65_536):
                self._heard += heard


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    return Terminal()


async def test_a_log_gets_a_line_now_and_then(clock: ManualClock) -> None:
    out, err = io.StringIO(), io.StringIO()
    with Progress(clock, out=out, err=err) as bar:
        for second in range(11):
            bar.told("BTC 1m", done=second * 1_000, total=20_000, state="running", failed=0)
            await clock.advance(1)
        bar.say("by the way")
        bar.told("BTC 1m", done=20_000, total=20_000, state="done")
        bar.told("BTC 1m", done=20_000, total=20_000, state="done")
    assert out.getvalue() == ""
    assert err.getvalue().splitlines() == [
        "BTC 1m: 5,000 of 20,000 candles (25%), 1,000/s, 0:00:15 left, failed 0, running",
        "BTC 1m: 10,000 of 20,000 candles (50%), 1,000/s, 0:00:10 left, failed 0, running",
        "by the way",
        "BTC 1m: 20,000 of 20,000 candles (100%), 1,818/s, done",
    ]


async def test_programs_get_json_on_standard_output(clock: ManualClock) -> None:
    out, err = io.StringIO(), io.StringIO()
    with Progress(clock, as_json=True, out=out, err=err) as bar:
        for _ in range(2):
            bar.told("BTC 1m", done=0)
            bar.told("ETH 1m", done=10, total=40)
            await clock.advance(1)
        bar.told("ETH 1m", done=30, total=40, state="failed", last=True, why="gone")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["progress"], line["done"], line["total"]) for line in lines] == [
        ("BTC 1m", 0, None),
        ("ETH 1m", 10, 40),
        ("ETH 1m", 30, 40),
    ]
    assert lines[-1] == {
        "progress": "ETH 1m", "done": 30, "total": 40, "per_s": 10.0, "left_s": 1.0, "state": "failed", "why": "gone",
    }  # fmt: skip
    assert err.getvalue() == ""


async def test_the_rate_is_that_of_late(clock: ManualClock) -> None:
    err = io.StringIO()
    with Progress(clock, err=err) as bar:
        done = 0
        for pace in (1_000, 10):
            for _ in range(60):
                bar.told("x", done=done)
                done += pace
                await clock.advance(1)
    assert ", 10/s" in err.getvalue().splitlines()[-1]


@pytest.mark.parametrize("step_s", [0, -60])
async def test_a_clock_that_stands_or_goes_back_tells_no_rate(clock: ManualClock, step_s: int) -> None:
    err = io.StringIO()
    with Progress(clock, err=err) as bar:
        bar.told("x", done=0, total=10)
        await clock.advance(step_s)
        bar.told("x", done=10, total=10)
    assert err.getvalue() == "x: 10 of 10 candles (100%)\n"


async def test_a_terminal_gets_a_bar_for_each(clock: ManualClock, terminal: Terminal) -> None:
    with Progress(clock, err=terminal.err) as bar:
        bar.told("BTC [1m]", done=0, total=200, state="running")
        bar.told("ETH 1m", done=0)
        await clock.advance(1)
        bar.told("BTC [1m]", done=100, total=200, state="running")
        bar.say("a word [bold]between[/]")
        bar.told("ETH 1m", done=7, total=7)
    shown = terminal.text()
    assert "BTC [1m]" in shown
    assert "100 of 200 candles (50%), 100/s, 0:00:01 left, running" in shown
    assert "7 of 7 candles (100%)" in shown
    assert "━" in shown
    assert "a word [bold]between[/]" in shown


async def test_of_many_those_that_run_are_shown(clock: ManualClock, terminal: Terminal) -> None:
    with Progress(clock, err=terminal.err) as bar:
        for number in range(BARS_MAX):
            bar.told(f"whole-{number}", done=1, total=1)
        for number in range(BARS_MAX - 1):
            bar.told(f"runs-{number}", done=0, total=1)
        await clock.advance(LINE_S)
    last = terminal.text().rsplit("whole-0", 1)[-1]
    assert [f"runs-{number}" in last for number in range(BARS_MAX - 1)] == [True] * (BARS_MAX - 1)
    assert "whole-" not in last
