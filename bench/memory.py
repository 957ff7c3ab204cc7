"""Resident memory of `openoutcry serve` over ten minutes, four venues of ten instruments each, played by another process.

`OPENOUTCRY_BENCH_MINUTES` shortens or lengthens it.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.tables import Row
from openoutcry.clock import SystemClock
from openoutcry.config import Config
from openoutcry.simulator.simulator import Simulator

TITLE = "resident memory of the server, MB (floor = the same process with everything imported and nothing running)"
VENUES = ("binance_futures", "bybit", "okx", "hyperliquid")
MINUTES = float(os.environ.get("OPENOUTCRY_BENCH_MINUTES", "10"))
MB = 1_000_000


def table() -> list[Row]:
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    simulator = Simulator(7, SystemClock())
    await simulator.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings = Path(folder) / "settings.toml"
            settings.write_text(_settings(simulator))
            return await asyncio.to_thread(_sample, settings, Path(folder) / "data")
    finally:
        await simulator.stop()


def _settings(simulator: Simulator) -> str:
    lines = []
    addresses = simulator.addresses()
    for name in Config().venues:
        lines.append(f"[venues.{name}]")
        if name not in VENUES:
            lines.append("on = false")
            continue
        sockets = {k: v for k, v in addresses[name]["sockets"].items() if k != "old"}
        lines += [f'rest = "{addresses[name]["rest"]}"', f"[venues.{name}.sockets]"]
        lines += [f'{endpoint} = "{url}"' for endpoint, url in sockets.items()]
    return "\n".join(lines)


def _sample(settings: Path, data: Path) -> list[Row]:
    bare = subprocess.run(
        [sys.executable, "-c", "import psutil, openoutcry.app; print(psutil.Process().memory_info().rss)"],
        capture_output=True,
        check=True,
    )
    floor = int(bare.stdout) / MB
    command = [sys.executable, "-m", "openoutcry", "serve", "--json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--config", str(settings), "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        json.loads(server.stdout.readline())
        ready_s = time.monotonic() - began
        process = psutil.Process(server.pid)
        samples: list[tuple[float, float]] = []
        while time.monotonic() - began < MINUTES * 60:
            time.sleep(5)
            samples.append(((time.monotonic() - began) / 60, process.memory_info().rss / MB))
        cpu_s = sum(process.cpu_times()[:2])
        server.terminate()
    half = samples[len(samples) // 2 :]
    slope = (half[-1][1] - half[0][1]) / max(half[-1][0] - half[0][0], 1e-9)
    return [
        Row("after the first minute", next(mb for at, mb in samples if at >= min(1.0, MINUTES / 2)), floor, "MB"),
        Row(f"after {MINUTES:g} minutes", samples[-1][1], floor, "MB"),
        Row("growth over the second half", slope, None, "MB a minute"),
        Row("ready after", ready_s * 1_000, None, "ms"),
        Row("CPU", cpu_s / MINUTES / 60 * 1_000, None, "ms a second"),
    ]
