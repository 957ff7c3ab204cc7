"""Record, replay, keys and certificates as a user types them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from openoutcry.accounts.keys import Keys
from openoutcry.clock import SystemClock
from openoutcry.stores.keys import SqlKeys, pepper
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry


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


# -- keys


async def whose(folder: Path, text: str) -> str | None:
    """The id of the key with that text, as a server on that folder would know it."""
    with closing(SqlKeys(sqlite_url(folder / "accounts.sqlite3"))) as store:
        keys = Keys(store, pepper(folder), SystemClock(), Telemetry())
        await keys.load()
        record = keys.known(text)
    return None if record is None else record.id


async def test_a_key_is_made_listed_and_ended_without_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    at = ("--data", str(folder))
    made = run("keys", "create", "my bot", "--scope", "market", "--scope", "trade", *at)
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert made.stdout == f"{text}\n", "the key alone, so that a script can take it"
    id_ = await whose(folder, text)
    assert id_ is not None
    assert f"keys revoke {id_}" in made.stderr
    assert "my bot: market, trade" in made.stderr

    table = run("keys", "list", *at).stdout
    assert table.splitlines()[0].split() == [
        "id",
        "name",
        "key",
        "scopes",
        "account",
        "created",
        "used",
        "expires",
        "revoked",
    ]
    assert f"{id_}  my bot  {text[:12]}…{text[-4:]}  market,trade           2" in table
    listed = run("keys", "list", "--json", *at).stdout
    assert {name: json.loads(listed)[name] for name in ("id", "name", "prefix", "last", "scopes", "revoked_ns")} == {
        "id": id_,
        "name": "my bot",
        "prefix": text[:12],
        "last": text[-4:],
        "scopes": ["market", "trade"],
        "revoked_ns": None,
    }
    assert text not in table + listed

    ended = run("keys", "revoke", text[:12], "--json", *at)
    assert json.loads(ended.stdout)["revoked_ns"] > json.loads(listed)["created_ns"]
    assert await whose(folder, text) is None
    again = run("keys", "revoke", id_, *at)
    assert again.stdout == f"revoked: my bot ({id_}, {text[:12]}…{text[-4:]})\n"


def test_a_new_key_in_json_is_told_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    made = json.loads(run("keys", "create", "bot", "--json", "--data", str(tmp_path)).stdout)
    assert made["scopes"] == ["ai", "market", "trade"]
    assert made["key"].startswith(made["prefix"])
    assert made["key"].endswith(made["last"])


async def test_a_pepper_from_the_settings_leaves_no_file(tmp_path: Path) -> None:
    config = tmp_path / "openoutcry.toml"
    config.write_text(f'data = "{tmp_path / "data"}"\nkeys_pepper = "{"p" * 32}"\n')
    made = run("keys", "create", "bot", "--config", str(config))
    assert not (tmp_path / "data" / "pepper").exists()
    with closing(SqlKeys(sqlite_url(tmp_path / "data" / "accounts.sqlite3"))) as store:
        keys = Keys(store, b"p" * 32, SystemClock(), Telemetry())
        await keys.load()
    assert keys.known(made.stdout.strip()) is not None


def test_keys_are_changed_while_a_demo_runs_on_the_folder(tmp_path: Path) -> None:
    at = ("--data", str(tmp_path))
    config = tmp_path / "openoutcry.toml"
    config.write_text("[exchange]\nmakers = false\n")  # they have keys of their own
    with demo(*at, "--config", str(config)) as ready:
        made = json.loads(run("keys", "create", "bot", "--json", *at).stdout)
        listed = [json.loads(line) for line in run("keys", "list", "--json", *at).stdout.splitlines()]
        assert [(each["name"], each["prefix"]) for each in listed] == [
            *(("demo", key[:12]) for key in ready["keys"]),
            ("bot", made["prefix"]),
        ]
        told(ready, "openoutcry_keys 3.0")
        for id_ in (listed[0]["id"], listed[1]["id"], made["id"]):
            assert run("keys", "revoke", id_, *at).returncode == 0
        told(ready, "openoutcry_keys 0.0")


def told(ready: dict[str, Any], line: str) -> None:
    """Return once the metrics of the running server hold that line."""
    until = time.monotonic() + 20
    while line not in httpx2.get(f"{ready['http']}/metrics", timeout=20).text.splitlines():
        assert time.monotonic() < until, line


@contextmanager
def demo(*arguments: str) -> "Iterator[dict[str, Any]]":
    command = [sys.executable, "-m", "openoutcry", "demo", "--json", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "name the server's folder with --data, or make one with `openoutcry keys create NAME`"),
        (("revoke", "abc"), "name the server's folder with --data"),
    ],
)
def test_a_folder_without_keys_is_not_made_by_looking(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    failed = run("keys", *arguments, "--data", str(tmp_path / "typo"))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert said in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_be_made_or_found_is_said_in_one_line(tmp_path: Path) -> None:
    at = ("--data", str(tmp_path))
    for arguments, said in (
        (("create", "bot", "--scope", "root"), "no scope 'root'; there are ai, market, trade"),
        (("create", ""), "1 to 64 printable"),
        (("revoke", "nobody"), "`openoutcry keys list` shows id and prefix of each"),
    ):
        failed = run("keys", *arguments, *at)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert said in failed.stderr
        assert len(failed.stderr.splitlines()) == 1


# -- certificates


def test_what_the_certificate_command_prints_is_settings_that_make_grpc_speak_tls(tmp_path: Path) -> None:
    made = run("certificate", "--folder", "tls", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    config = tmp_path / "with-tls.toml"
    config.write_text(made.stdout)
    trusted = grpc.ssl_channel_credentials((tmp_path / "tls" / "certificate.pem").read_bytes())
    with demo("--config", str(config)) as ready, grpc.secure_channel(ready["grpc"], trusted) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    again = run("certificate", "--folder", "tls", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force replaces it" in again.stderr
    forced = run("certificate", "--folder", "tls", "--force", "--json", cwd=tmp_path)
    assert json.loads(forced.stdout) == {
        "tls_certificate": str(tmp_path / "tls" / "certificate.pem"),
        "tls_key": str(tmp_path / "tls" / "key.pem"),
    }


def test_without_the_extra_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    # None is how an import says that there is no such module.
    without = "import sys; sys.modules['cryptography'] = None; from openoutcry.__main__ import main; main()"
    command = [sys.executable, "-c", without, "certificate", "--folder", str(tmp_path)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert failed.returncode == 2
    assert "pip install 'openoutcry[tls]'" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(tmp_path.iterdir()) == []
