"""Export as a user types it."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from pyarrow import feather, parquet

from openoutcry.app import DATABASE
from openoutcry.clock import NS
from openoutcry.events import Candle, Side
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.series import Batch, Of, SeriesKey
from openoutcry.stores.folder import LOCK_NAME, DataFolder
from openoutcry.stores.sql import SqlSeries, sqlite_url

T0_NS = 1_772_323_200 * NS  # 2026-03-01T00:00:00Z


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "openoutcry", "export", *arguments, "--data", str(folder / "data")]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=120)


def keep(store: SqlSeries, name: str, interval_s: int, numbers: list[int]) -> None:
    price, size = Decimal("65000.10"), Decimal("1E-8")
    candles = [
        Candle(
            name, Side.BOTH, interval_s, T0_NS + n * interval_s * NS, price, price, price, price, size, price, n, None,
            None, True, T0_NS, "venue",
        )
        for n in numbers
    ]  # fmt: skip
    store.write(Batch(rows={SeriesKey(name, Of.CANDLES, interval_s): candles}))


def listed(venue: str, symbol: str, kind: Kind, coin: str) -> Instrument:
    return Instrument(
        venue=venue, symbol=symbol, kind=kind, coin=coin, quote="USDT", settle="USDT",
        tick_size=Decimal("0.1"), lot_size=Decimal("0.001"),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place to work in, with a data folder that a server has and writes."""
    taken = DataFolder(tmp_path / "data")
    with closing(taken), closing(SqlSeries(sqlite_url(tmp_path / "data" / DATABASE))) as store:
        keep(store, "binance_futures:BTCUSDT", 60, [0, 1, 2, 5, 6])
        keep(store, "binance_futures:BTCUSDT", 3_600, [0, 1])
        keep(store, "binance:ETHUSDT", 60, [0])
        perpetual = listed("binance_futures", "BTCUSDT", Kind.PERPETUAL, "BTC")
        spot = listed("binance", "ETHUSDT", Kind.SPOT, "ETH")
        store.save_listing("binance_futures", [perpetual])
        store.save_listing("binance", [spot])
        yield tmp_path


def test_csv_is_written_beside_a_server_and_its_holes_are_told(folder: Path) -> None:
    ran = run(folder, "btc")
    assert ran.returncode == 0, ran.stderr
    with (folder / "binance_futures-BTCUSDT-1m.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["timestamp"][11:16] for row in rows] == ["00:00", "00:01", "00:02", "00:05", "00:06"]
    assert {(row["open"], row["volume"]) for row in rows} == {("65000.10", "1E-8")}
    assert ran.stdout == (
        "binance_futures-BTCUSDT-1m.csv: 5 candles of binance_futures:BTCUSDT 1m, "
        "2026-03-01T00:00:00Z to 2026-03-01T00:06:00Z\n"
    )
    assert "2 candles are missing, and not filled in: 2026-03-01T00:03:00Z to 2026-03-01T00:05:00Z" in ran.stderr
    assert (folder / "data" / LOCK_NAME).exists()


def test_every_format_reads_back(folder: Path) -> None:
    assert run(folder, "BTC-USD", "--format", "parquet", "--folder", "deep/er").returncode == 0
    table = parquet.read_table(folder / "deep" / "er" / "binance_futures-BTCUSDT-1m.parquet")
    assert table["volume"].to_pylist() == [Decimal("1E-8")] * 5
    ran = run(folder, "BTC/USDT", "--format", "freqtrade", "--interval", "1h", "--folder", "user")
    assert ran.returncode == 0, ran.stderr
    file = folder / "user" / "futures" / "BTC_USDT_USDT-1h-futures.feather"
    assert feather.read_table(file).column_names == ["date", "open", "high", "low", "close", "volume"]


def test_standard_output_holds_the_rows_alone(folder: Path) -> None:
    ran = run(folder, "BTCUSDT", "--out", "-", "--start", "2026-03-01T00:01", "--end", "2026-03-01T01:03:00+01:00")
    assert [row[0][11:16] for row in csv.reader(io.StringIO(ran.stdout))][1:] == ["00:01", "00:02"]
    assert ran.stderr == "binance_futures:BTCUSDT 1m: 2 of 2 candles (100%)\n"


def test_whoever_stops_reading_ends_it_quietly(folder: Path) -> None:
    with closing(SqlSeries(sqlite_url(folder / "data" / DATABASE))) as store:
        keep(store, "binance_futures:BTCUSDT", 60, list(range(10_000)))
    command = [sys.executable, "-m", "openoutcry", "export", "BTC", "--out", "-", "--data", str(folder / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith("timestamp,")
        running.stdout.close()
        said = running.stderr.read()
        assert running.wait(60) == 1
    assert said == ""


def test_programs_read_json_lines(folder: Path) -> None:
    ran = run(folder, "BTC", "--json", "--out", "a.csv")
    progress, told = (json.loads(line) for line in ran.stdout.splitlines())
    assert (progress["progress"], progress["done"], progress["total"]) == ("binance_futures:BTCUSDT 1m", 5, 5)
    assert told == {
        "instrument": "binance_futures:BTCUSDT",
        "interval": "1m",
        "candles": 5,
        "first": "2026-03-01T00:00:00Z",
        "last": "2026-03-01T00:06:00Z",
        "missing": 2,
        "holes": [{"start": "2026-03-01T00:03:00Z", "end": "2026-03-01T00:05:00Z"}],
        "file": "a.csv",
    }


def test_all_is_every_series(folder: Path) -> None:
    assert run(folder, "--all", "--folder", "every").returncode == 0
    assert sorted(path.name for path in (folder / "every").iterdir()) == [
        "binance-ETHUSDT-1m.csv",
        "binance_futures-BTCUSDT-1h.csv",
        "binance_futures-BTCUSDT-1m.csv",
    ]
    assert run(folder, "--all", "--venue", "binance", "--format", "freqtrade").returncode == 0
    assert (folder / "ETH_USDT-1m.feather").exists()


def test_a_file_is_replaced_only_by_force(folder: Path) -> None:
    assert run(folder, "BTC", "--out", "a.csv", "--interval", "1h").returncode == 0
    before = (folder / "a.csv").read_bytes()
    refused = run(folder, "BTC", "--out", "a.csv")
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    assert (folder / "a.csv").read_bytes() == before
    assert run(folder, "BTC", "--out", "a.csv", "--force").returncode == 0
    assert (folder / "a.csv").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("DOGE",), "of binance_futures it has BTCUSDT"),
        (("BTC", "--interval", "5m"), "only of 1m, 1h"),
        (("BTC", "--interval", "1M"), "no interval"),
        (("BTC", "--venue", "mtgox"), "binance, binance_futures"),
        (("BTC", "--start", "2027-01-01"), "2026-03-01T00:06:00Z"),
        (("BTC", "--start", "2026-03-02", "--end", "2026-03-01"), "--start must be before --end"),
        (("BTC", "--start", "tomorrow"), "2026-03-01T12:00:00Z"),
        (("BTC", "--format", "xlsx"), "csv, parquet, freqtrade"),
        (("BTC", "--format", "parquet", "--out", "-"), "only csv"),
        (("BTC", "--all"), "--all"),
        ((), "--all"),
        (("BTC", "--out", "."), "folder"),
        (("--all", "--interval", "4h"), "binance, binance_futures"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    ran = run(folder, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["data"], "nothing is left behind"


def test_a_folder_without_data_is_named_and_not_made(tmp_path: Path) -> None:
    ran = run(tmp_path, "BTC")
    assert (ran.returncode, "there are no candles in" in ran.stderr, "--data" in ran.stderr) == (2, True, True)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_its_extra_is_named(folder: Path) -> None:
    hidden = "import sys; sys.modules['pyarrow'] = None; from openoutcry.__main__ import main; main()"
    command = [sys.executable, "-c", hidden, "export", "BTC", "--data", "data", "--format"]
    ran = subprocess.run([*command, "parquet"], capture_output=True, text=True, check=False, cwd=folder, timeout=60)
    assert (ran.returncode, "pip install 'openoutcry[export]'" in ran.stderr) == (2, True)
    assert subprocess.run([*command, "csv"], capture_output=True, check=False, cwd=folder, timeout=60).returncode == 0
