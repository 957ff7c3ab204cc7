"""The demo as a user starts it: one line when everything answers, real answers, a quick end."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.sync.client import connect

from openoutcry.api.kiyotaka import contract
from openoutcry.app import DEMO_KEY

READY_S_MAX = 60
STOP_S_MAX = 5.0


@contextmanager
def demo(*arguments: str) -> Iterator["tuple[subprocess.Popen[str], dict[str, Any]]"]:
    """`openoutcry demo --json` on free ports, with its ready line."""
    command = [sys.executable, "-m", "openoutcry", "demo", "--json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Any]]:
    with demo() as (_, ready):
        yield ready


@pytest.fixture(scope="module")
def client(running: dict[str, Any]) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=running["http"], timeout=20, trust_env=False) as http:
        yield http


def test_the_ready_line_says_where_everything_is(running: dict[str, Any]) -> None:
    assert set(running) == {"http", "grpc", "keys", "data"}
    assert running["http"].startswith("http://127.0.0.1:")
    assert [re.fullmatch("kai-[0-9a-f]{64}", key) is not None for key in running["keys"]] == [True, True]


@pytest.mark.parametrize("exchange", ["binance", "bybit", "hyperliquid", "okx"])
def test_every_exchange_serves_candles(client: httpx2.Client, exchange: str) -> None:
    symbol = {"okx": "BTC-USDT-SWAP", "hyperliquid": "BTC"}.get(exchange, "BTCUSDT")
    answer = client.get(f"/{exchange}/ohlc/{symbol}/1m", params={"limit": 100})
    assert answer.status_code == 200, answer.text
    rows = answer.json()
    assert len(rows) == 100
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
    assert [row["is_closed"] for row in rows[:-1]] == [True] * 99
    assert all(
        row["low"] <= min(row["open"], row["close"]) <= max(row["open"], row["close"]) <= row["high"] for row in rows
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/exchanges",
        "/ws-catalog",
        "/binance/oi/BTCUSDT",
        "/binance/oi-hist/BTCUSDT?period=5m&limit=5",
        "/binance/funding/BTCUSDT",
        "/binance/funding-hist/BTCUSDT?limit=5",
        "/bybit/oi/BTCUSDT",
        "/hyperliquid/funding/BTC",
        "/multi/ohlc/BTCUSDT/5m?limit=3",
        "/hyperliquid/predicted-funding?coin=BTC",
        "/binance/tickers/24hr",
        "/binance/mark-prices",
        "/binance/klines/BTCUSDT/1h?limit=3",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/alive",
        "/ready",
        "/metrics",
    ],
)
def test_every_page_answers(client: httpx2.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_page_needs_nothing_from_elsewhere(client: httpx2.Client, page: str) -> None:
    html = client.get(page).text
    parts = re.findall(r"""(?:src|href)=["']([^"']+)""", html)
    assert parts
    assert all(part.startswith("/") for part in parts), parts
    assert all(client.get(part).status_code == 200 for part in parts)


def test_every_metric_that_the_documents_name_is_there(client: httpx2.Client) -> None:
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text("utf-8")
    named = set(re.findall(r"openoutcry_\w+", page)) - {"openoutcry_data"}
    told = client.get("/metrics").text
    assert named
    assert [name for name in sorted(named) if name not in told] == []


def test_all_venues_are_healthy(client: httpx2.Client) -> None:
    health = client.get("/health").json()
    assert health["status"] == "healthy"
    assert all(health["exchanges"].values())


def test_a_follower_sees_the_candle_grow(running: dict[str, Any]) -> None:
    url = "ws" + running["http"].removeprefix("http") + "/ws/binance/BTCUSDT/ohlc?interval=1m"
    with connect(url, proxy=None, open_timeout=10) as socket:
        frames = [json.loads(socket.recv(timeout=20)) for _ in range(3)]
    assert {frame["symbol"] for frame in frames} == {"BTCUSDT"}
    assert all(frame["interval"] == "1m" and frame["close"] > 0 for frame in frames)


def test_grpc_says_it_is_serving(running: dict[str, Any]) -> None:
    with grpc.insecure_channel(running["grpc"]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_five_seconds_with_followers_connected(number: signal.Signals) -> None:
    with demo() as (process, ready):
        url = "ws" + ready["http"].removeprefix("http") + "/ws/binance/BTCUSDT/ohlc"
        with connect(url, proxy=None, open_timeout=10) as socket:
            socket.recv(timeout=20)
            began = time.monotonic()
            process.send_signal(number)
            process.wait(timeout=STOP_S_MAX * 2)
            assert time.monotonic() - began < STOP_S_MAX
        assert process.returncode == 0
        assert process.stdout is not None
        assert process.stdout.read() == "", "exactly one line on standard output"


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with demo("--data", str(tmp_path)) as (_, _ready):
        command = [sys.executable, "-m", "openoutcry", "demo", "--json", "--data", str(tmp_path)]
        second = subprocess.run(
            [*command, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"],
            capture_output=True,
            text=True,
            timeout=READY_S_MAX,
            check=False,
            env=os.environ,
        )
    assert second.returncode == 2
    assert str(tmp_path) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_taken_port_is_named_without_a_traceback() -> None:
    with demo() as (_, ready):
        command = [sys.executable, "-m", "openoutcry", "demo", "--grpc", "127.0.0.1:0"]
        second = subprocess.run(
            [*command, "--http", ready["http"].removeprefix("http://")],
            capture_output=True,
            text=True,
            timeout=READY_S_MAX,
            check=False,
        )
    assert second.returncode == 2
    assert ready["http"].removeprefix("http://") in second.stderr
    assert "Traceback" not in second.stderr


def test_a_start_on_the_same_folder_makes_a_new_key_and_ends_the_old(tmp_path: Path) -> None:
    began: list[str] = []
    for _ in range(2):
        with demo("--data", str(tmp_path)) as (_, ready):
            began += ready["keys"]
    listed = subprocess.run(
        [sys.executable, "-m", "openoutcry", "keys", "list", "--json", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    keys = [key for key in map(json.loads, listed.stdout.splitlines()) if key["name"] == DEMO_KEY]
    by_prefix = {key["prefix"]: key["revoked_ns"] is None for key in keys}
    assert [by_prefix[key[:12]] for key in began] == [False, False, True, True]
    assert len(keys) == 4


def test_no_key_is_written_to_a_log_or_to_the_folder(tmp_path: Path) -> None:
    with demo("--data", str(tmp_path), "--config", str(_debug(tmp_path))) as (process, ready):
        texts = [*ready["keys"], "kai-" + "0" * 64]
        for each in texts:
            # Where callers put keys, rightly or not.
            url = f"{ready['http']}/binance/ohlc/{each}/1m?key={each}"
            httpx2.get(url, headers={"X-Kiyotaka-Key": each, "Authorization": f"Bearer {each}"}, timeout=20)
            httpx2.get(f"{ready['http']}/{each}", headers={"X-Kiyotaka-Key": each}, timeout=20)
        told = httpx2.get(f"{ready['http']}/metrics", timeout=20).text
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=READY_S_MAX)
    assert '"level": "debug"' in err, "it said all it may"
    for text in texts:
        assert text not in out + err + told
        held = [path for path in tmp_path.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
        assert held == []


def _debug(folder: Path) -> Path:
    file = folder / "openoutcry.toml"
    file.write_text('[log]\nlevel = "debug"\njson_lines = true\n')
    return file


def test_a_kill_at_any_moment_leaves_a_folder_the_next_start_takes(tmp_path: Path) -> None:
    for _ in range(3):
        with demo("--data", str(tmp_path)) as (process, _ready):
            process.kill()
    with demo("--data", str(tmp_path)) as (_, ready):
        answer = httpx2.get(ready["http"] + "/binance/ohlc/BTCUSDT/1m", params={"limit": 50}, timeout=20)
        assert len(answer.json()) == 50


def test_every_type_of_point_is_there_within_two_minutes(running: dict[str, Any]) -> None:
    """Read as a client would: a stream of each, opened again because what begins later does not join it."""
    missing = {name for name, number in contract.TYPES.items() if number}
    # CME's figures are of weekdays.
    back_s = {"CME_OPEN_INTEREST_AGG": 4 * 86_400}
    metadata = (("x-kiyotaka-key", running["keys"][0]),)
    began = time.monotonic()
    with grpc.insecure_channel(running["grpc"]) as channel:
        stream = channel.unary_stream("/api.API/StreamPoints", response_deserializer=contract.PointSeries.FromString)
        while missing and time.monotonic() - began < 120:
            for name in sorted(missing):
                request = contract.PointRequest(
                    type=[contract.TYPES[name]],
                    interval=contract.INTERVALS["MINUTE"],
                    **{"from": int(time.time()) - back_s.get(name, 600)},
                )
                call = stream(request.SerializeToString(), metadata=metadata, timeout=5.0)
                # Nothing within the deadline: it is asked for again.
                with contextlib.suppress(grpc.RpcError):
                    series = next(call)
                    assert series.id.type == contract.TYPES[name]
                    assert series.points
                    missing.discard(name)
                call.cancel()
    assert not missing
