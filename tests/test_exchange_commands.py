"""Listings, deposits and withdrawals as an operator types them: with the exchange at rest, and beside a server that has it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, text

from openoutcry.app import LEDGER
from openoutcry.clock import SystemClock
from openoutcry.config import Config
from openoutcry.errors import TimedOut
from openoutcry.exchanging import told
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.exchange_inbox import SqlInbox
from openoutcry.stores.folder import DataFolder
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.inbox import Moving
from openoutcry.trading.sequencer import Sequencer
from tests.test_accounts_commands import SHELL

EMAIL = "me@example.com"
LISTED = """
[assets.BTC]
accuracy = 8
[assets.USD]
accuracy = 2
[pairs.BTCUSD]
base = "BTC"
quote = "USD"
price_accuracy = 2
min_volume = "0.0001"
maker_fee = "0.1%"
"""


class Done(msgspec.Struct, array_like=True):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


class Typed:
    """Commands about one data folder, in a process that is not the server's."""

    def __init__(self, data: Path, process: asyncio.subprocess.Process) -> None:
        self.data = data
        self.toml = data.parent / "pairs.toml"
        self.toml.write_text(LISTED)
        self._process = process
        self._one_by_one = asyncio.Lock()

    async def run(self, *arguments: str, typed: str = "") -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._one_by_one:
            line = json.dumps([[*arguments, "--data", str(self.data)], typed])
            self._process.stdin.write(line.encode() + b"\n")
            answer = await asyncio.wait_for(self._process.stdout.readline(), 120)
        return msgspec.json.decode(answer, type=Done)

    async def told(self, *arguments: str, typed: str = "") -> Any:
        done = await self.run(*arguments, "--json", typed=typed)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def refused(self, *arguments: str) -> str:
        done = await self.run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("openoutcry: ")
        return done.stderr.removeprefix("openoutcry: ").strip()


@pytest.fixture
async def typed(tmp_path: Path) -> AsyncIterator[Typed]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SHELL, stdin=pipe, stdout=pipe)
    made = Typed(tmp_path / "data", process)
    await made.told("accounts", "create", EMAIL, "--password-stdin", typed="correct horse\n")
    yield made
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


@asynccontextmanager
async def server(data: Path) -> AsyncIterator[OrderGateway]:
    """The exchange of a server that has the data folder."""
    async with AsyncExitStack() as stack:
        folder = DataFolder(data)
        stack.callback(folder.close)
        url, clock, telemetry = sqlite_url(data / LEDGER), SystemClock(), Telemetry()
        store, inbox = SqlExchange(url), SqlInbox(url)
        stack.callback(store.close)
        stack.callback(inbox.close)
        sequencer = Sequencer(store, clock, telemetry)
        stack.push_async_callback(sequencer.close)
        gateway = OrderGateway(sequencer, store, clock, telemetry, str)
        await gateway.start()
        running = asyncio.create_task(gateway.run(inbox))
        try:
            yield gateway
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_money_comes_and_goes_where_no_server_runs(typed: Typed) -> None:
    assert "there are no books" in await typed.refused("listings")
    assert "there are no books" in await typed.refused("exchange", "check")
    assert await typed.refused("deposit", EMAIL, "1", "BTC") == "Asset not found"
    listed = await typed.told("listings", "load", str(typed.toml))
    assert listed == await typed.told("listings", "show") == await typed.told("listings")
    assert listed["pairs"]["BTCUSD"]["lots_min"] == 10_000
    came = await typed.told("deposit", EMAIL, "1.50", "BTC", "--id", "once")
    assert (came["id"], came["amount"], came["total"], came["held"]) == ("once", "1.50", "1.5", "0")
    assert (await typed.told("deposit", EMAIL, "1.50", "BTC", "--id", "once"))["total"] == "1.5"
    assert "used for something else" in await typed.refused("deposit", EMAIL, "1.6", "BTC", "--id", "once")
    assert await typed.refused("withdraw", EMAIL, "1.51", "BTC") == "Not enough funds"
    went = await typed.run("withdraw", EMAIL, "0.5", "BTC", "--id", "out")
    assert went.stdout == f"withdrawn: 0.5 BTC from {EMAIL}, who has 1 BTC now; id out\n"
    for amount in ("0", "1e3", "NaN"):
        assert "amount" in (await typed.refused("deposit", EMAIL, amount, "BTC")).lower()
    assert await typed.refused("deposit", EMAIL, "1.000000001", "BTC") == "Invalid volume accuracy"
    assert "no account" in (await typed.refused("deposit", "nobody@example.com", "1", "BTC")).lower()
    for whole in ((), ("--whole",)):
        assert (await typed.told("exchange", "check", *whole))["same"]
    assert (await typed.told("ledger", "--check"))["balances"]


async def test_a_running_server_does_what_the_commands_ask(typed: Typed) -> None:
    async with server(typed.data) as gateway:
        await typed.told("listings", "load", str(typed.toml))
        assert list(gateway.listings.pairs) == ["BTCUSD"]
        came, again, usd = await asyncio.gather(
            typed.told("deposit", EMAIL, "2", "BTC", "--id", "a"),
            typed.told("deposit", EMAIL, "2", "BTC", "--id", "a"),
            typed.told("deposit", EMAIL, "100", "USD"),
        )
        assert (came["total"], again["total"], usd["total"]) == ("2", "2", "100")
        wallet = came["account_id"]
        await gateway.limit(wallet, "BTCUSD", buys=False, volume=Decimal("1.5"), price=Decimal(100))
        assert await typed.refused("withdraw", EMAIL, "0.6", "BTC") == "Not enough funds"
        assert (await typed.told("withdraw", EMAIL, "0.5", "BTC"))["held"] == "1.5"
        seen = {view.asset: (view.total, view.held) for view in gateway.views.balances(wallet)}
        assert seen == {"BTC": (Decimal("1.5"), Decimal("1.5")), "USD": (Decimal(100), Decimal(0))}
        typed.toml.write_text(LISTED.replace("price_accuracy = 2", "price_accuracy = 3"))
        assert "never changes" in await typed.refused("listings", "load", str(typed.toml))
        assert (await typed.told("exchange", "check", "--whole"))["same"]


async def test_a_server_that_does_not_answer_is_waited_for_and_does_it_later(typed: Typed) -> None:
    await typed.told("listings", "load", str(typed.toml))
    config = Config(data=typed.data)
    folder = DataFolder(typed.data)
    try:
        with pytest.raises(TimedOut, match="the same command with the id late"):
            await told(config, SystemClock(), "late", Moving("w", "USD", "5"), answer_s_max=0.01)
    finally:
        folder.close()
    await told(config, SystemClock(), "late", Moving("w", "USD", "5"))
    async with server(typed.data) as gateway:
        assert [(view.asset, view.total) for view in gateway.views.balances("w")] == [("USD", Decimal(5))]


async def test_what_was_changed_behind_our_back_is_found(typed: Typed) -> None:
    await typed.told("listings", "load", str(typed.toml))
    await typed.told("deposit", EMAIL, "5", "USD")
    engine = create_engine(sqlite_url(typed.data / LEDGER))
    with engine.begin() as connection:
        connection.execute(text("UPDATE balances SET total = 999 WHERE asset = 'USD' AND total > 0"))
    engine.dispose()
    done = await typed.run("exchange", "check", "--whole")
    assert done.returncode == 1
    assert done.stdout.startswith("not the same: ")


async def test_a_file_of_listings_that_is_wrong_is_named(typed: Typed) -> None:
    typed.toml.write_text(LISTED.replace('"0.0001"', "0.0001"))
    said = await typed.refused("listings", "load", str(typed.toml))
    assert said.endswith('pairs.toml: pairs.BTCUSD.min_volume: text is wanted in quotes, as "0.0001"')
