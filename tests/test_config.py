"""Settings: later sources win, mistakes are named, secrets stay hidden, and every one is documented."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openoutcry.app import archive_addresses, effective, simulated
from openoutcry.clock import ManualClock
from openoutcry.config import BadConfig, address, described, load
from openoutcry.simulator.simulator import Simulator


def shown(tmp_path: Path, toml: str = "", *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`openoutcry config show` as a user runs it."""
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    command = [sys.executable, "-m", "openoutcry", "config", "show", "--config", str(file), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    toml = 'http = "127.0.0.1:1"\n[store]\nflush_s = 2\nbatch_max = 7\n'
    values = json.loads(shown(tmp_path, toml, OPENOUTCRY_STORE__FLUSH_S="3").stdout)
    assert values["http"] == "127.0.0.1:1"
    assert values["store"]["flush_s"] == 3
    assert values["store"]["batch_max"] == 7
    assert values["store"]["trades_kept_s"] == 86_400


def test_flags_win_over_everything(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('http = "127.0.0.1:1"\n')
    assert load({"http": "127.0.0.1:2"}, file).http == "127.0.0.1:2"


def test_the_effective_addresses_of_a_venue_are_shown_and_can_be_set(tmp_path: Path) -> None:
    values = json.loads(shown(tmp_path, OPENOUTCRY_VENUES__BINANCE__REST="http://127.0.0.1:9/b").stdout)
    assert values["venues"]["binance"]["rest"] == "http://127.0.0.1:9/b"
    assert values["venues"]["binance_futures"]["rest"] == "https://fapi.binance.com"
    assert set(values["venues"]["binance_futures"]["sockets"]) == {"public", "market"}
    assert values["venues"]["binance"]["instruments"]


def test_secrets_are_masked(tmp_path: Path) -> None:
    run = shown(tmp_path, "", COINMARKETCAP_API_KEY="hunter2", OPENOUTCRY_STORE__URL="postgresql://u:hunter2@h/d")
    assert "hunter2" not in run.stdout + run.stderr
    assert json.loads(run.stdout)["coinmarketcap_api_key"] == "**********"


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[store]\nflush = 1\n", "store.flush"),
        ("colour = 1\n", "colour"),
        ('http = "8000"\n', "HOST:PORT"),
        ("[store]\nflush_s = -1\n", "store.flush_s"),
        ("not toml", "settings.toml"),
        ('keys_pepper = "too short"\n', "keys_pepper: Value should have at least 32"),
        ("[venues.mtgox]\non = true\n", "mtgox"),
        ('[venues.okx]\narchive = "http://x"\n', "venues.okx.archive"),
    ],
)
def test_a_mistake_is_named_in_one_line_without_a_traceback(tmp_path: Path, toml: str, named: str) -> None:
    run = shown(tmp_path, toml)
    assert run.returncode == 2
    assert named in run.stderr
    assert "Traceback" not in run.stderr


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadConfig, match="nowhere"):
        load(file=Path("nowhere.toml"))


def test_an_address_is_host_and_port() -> None:
    assert address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert address("[::1]:80") == ("::1", 80)
    for wrong in ("8000", "h:", "h:x", "h:70000", ":1"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            address(wrong)


def test_every_setting_is_documented_as_it_is() -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    for name, kind, default, meaning in described():
        assert meaning, f"{name} has no description"
        assert f"| `{name}` | {kind} | {default} | {meaning} |" in page, f"run: openoutcry config reference ({name})"


def test_the_archive_of_a_venue_is_its_own_unless_another_is_named_or_none(tmp_path: Path) -> None:
    toml = '[venues.binance]\narchive = "http://127.0.0.1:9/a"\n[venues.binance_futures]\narchive = ""\n'
    venues = json.loads(shown(tmp_path, toml).stdout)["venues"]
    assert [venues[name]["archive"] for name in ("binance", "binance_futures", "binance_delivery", "okx")] == [
        "http://127.0.0.1:9/a", "", "https://data.binance.vision", None,
    ]  # fmt: skip
    assert archive_addresses(load(file=tmp_path / "settings.toml")) == {
        "binance": "http://127.0.0.1:9/a",
        "binance_delivery": "https://data.binance.vision",
    }


def test_a_venue_that_is_off_has_no_archive() -> None:
    config = load({"venues": {"binance": {"on": False}}})
    assert set(archive_addresses(config)) == {"binance_futures", "binance_delivery"}


async def test_of_a_played_world_only_its_own_files_are_read() -> None:
    simulator = Simulator(7, ManualClock(1_795_179_620 * 10**9), ["binance", "binance_delivery", "coinmarketcap"])
    at = await simulator.start()
    addresses = archive_addresses(simulated(load({"venues": {"binance": {"archive": "http://x"}}}), simulator))
    await simulator.stop()
    assert addresses == {name: f"http://{at}/{name}" for name in ("binance", "binance_delivery")}


def test_a_catalogue_that_there_is_none_of_is_named() -> None:
    config = load({"sources": {"gecko": {"on": False}}})
    with pytest.raises(BadConfig, match=r"sources\.gecko: no such source; there are birdeye, codex, coindesk"):
        effective(config)
