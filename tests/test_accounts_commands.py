"""Accounts, their keys, grants and the books as a user types them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.tokens import Tokens
from openoutcry.clock import NS, ManualClock, SystemClock
from openoutcry.config import Config
from openoutcry.errors import Unauthenticated
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Balance, Posting
from openoutcry.stores.accounts import SqlAccounts
from openoutcry.stores.keys import SqlKeys, pepper, token_secret
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry

EMAIL, PASSWORD = "me@example.com", "correct horse"


# One process for all commands, since starting one takes longest: each line says one, and is answered by what came of it.
SHELL = """
import contextlib, io, json, sys
from openoutcry.__main__ import main
lines = sys.stdin
for line in lines:
    arguments, typed = json.loads(line)
    sys.argv, sys.stdin = ["openoutcry", *arguments], io.TextIOWrapper(io.BytesIO(typed.encode()))
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as e:
            code = e.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Done(msgspec.Struct, array_like=True):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """Where commands are typed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, *arguments: str, typed: str = "") -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([arguments, typed]), file=self._process.stdin, flush=True)
        return msgspec.json.decode(self._process.stdout.readline(), type=Done)

    def told(self, *arguments: str, typed: str = "") -> Any:
        """The last line of its JSON."""
        done = self.run(*arguments, "--json", typed=typed)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def refused(self, *arguments: str, typed: str = "") -> str:
        """What it said, in one line, when it did nothing."""
        failed = self.run(*arguments, typed=typed)
        assert (failed.returncode, failed.stdout) == (2, "")
        (line,) = failed.stderr.splitlines()
        return line


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with subprocess.Popen(
        [sys.executable, "-c", SHELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Shell(process)
        finally:
            process.kill()


class Parts:
    """What a server on that folder has open."""

    def __init__(self, clock: ManualClock, keys: Keys, accounts: Accounts, ledger: Ledger) -> None:
        settings = Config().accounts
        self.clock, self.keys, self.accounts, self.ledger = clock, keys, accounts, ledger
        self.callers = Callers(keys, accounts, settings.tiers, settings.tier)


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Parts]:
    # Near the commands' own time, for keys that expire; it moves when it is told to.
    clock = ManualClock(SystemClock().now_ns())
    telemetry, accounts_url = Telemetry(), sqlite_url(folder / "accounts.sqlite3")
    with (
        closing(SqlKeys(accounts_url)) as keys,
        closing(SqlAccounts(accounts_url)) as accounts,
        closing(SqlLedger(sqlite_url(folder / "ledger.sqlite3"))) as books,
        closing(Passwords()) as passwords,
    ):
        tokens = Tokens(token_secret(folder), clock)
        yield Parts(
            clock,
            Keys(keys, pepper(folder), clock, telemetry),
            Accounts(accounts, passwords, tokens, clock, telemetry, Config().accounts),
            Ledger(books, clock, telemetry),
        )


async def test_an_account_is_made_listed_and_changed_beside_a_server(tmp_path: Path, shell: Shell) -> None:
    folder = tmp_path / "data"
    at = ("--data", str(folder))
    made = shell.run("accounts", "create", EMAIL, "--name", "Me", "--password-stdin", *at, typed=f"{PASSWORD}\nmore\n")
    assert made.returncode == 0, made.stderr
    async with server(folder) as parts:
        account, token = await parts.accounts.login(EMAIL, PASSWORD)
        assert made.stdout == f"created: {EMAIL} ({account.id}, tier standard)\n"
        assert (await parts.callers.caller(token, "ai")).tier.name == "standard"

        frozen = shell.told("accounts", "set-tier", EMAIL.upper(), "frozen", *at)
        assert frozen == {
            "id": account.id,
            "email": EMAIL,
            "display_name": "Me",
            "tier": "frozen",
            "created_ns": account.created_ns,
        }
        await parts.clock.advance(1)
        assert (await parts.callers.caller(token, "ai")).tier.name == "frozen"

        changed = shell.run("accounts", "set-password", EMAIL, "--password-stdin", *at, typed="battery staple")
        assert changed.stdout == f"changed: {EMAIL} ({account.id}, tier frozen)\n"
        await parts.clock.advance(1)
        with pytest.raises(Unauthenticated):
            await parts.callers.caller(token, "ai")
        with pytest.raises(Unauthenticated):
            await parts.accounts.login(EMAIL, PASSWORD)
        assert (await parts.accounts.login(EMAIL, "battery staple"))[0].tier == "frozen"

    shell.run("accounts", "create", "an@example.com", "--password-stdin", "--tier", "frozen", *at, typed=PASSWORD)
    table = shell.run("accounts", *at).stdout.splitlines()
    assert table[0].split() == ["id", "e-mail", "name", "tier", "created"]
    assert [line.split()[1] for line in table[1:]] == ["an@example.com", EMAIL]
    listed = shell.run("accounts", "list", "--json", *at).stdout.splitlines()
    assert [json.loads(line)["tier"] for line in listed] == ["frozen", "frozen"]
    assert shell.run("accounts", "--json", *at).stdout.splitlines() == listed
    assert "argon2" not in "".join(listed + table)


async def test_an_accounts_keys_are_made_listed_and_ended(tmp_path: Path, shell: Shell) -> None:
    at = ("--data", str(tmp_path))
    account = shell.told("accounts", "create", EMAIL, "--password-stdin", *at, typed=PASSWORD)
    nobodys = shell.told("keys", "create", "nobody's", *at)
    made = shell.told("keys", "create", "bot", "--account", EMAIL, "--scope", "ai", "--expires", "90d", *at)
    assert made["account"] == account["id"]
    assert made["expires_ns"] - made["created_ns"] == pytest.approx(90 * 86_400 * NS, abs=5 * NS)
    async with server(tmp_path) as parts:
        await parts.keys.load()
        caller = await parts.callers.caller(made["key"], "ai")
        assert caller.account is not None
        assert (caller.account.email, caller.tier.name) == (EMAIL, "standard")
        assert (await parts.callers.caller(nobodys["key"], "ai")).tier.name == "operator"
        await parts.keys.close()
        used_ns = caller.key is not None and (await parts.keys.of(account["id"]))[0].used_ns
    shown = shell.run("keys", "create", "second", "--account", EMAIL, "--expires", "2099-01-31", *at)
    assert "(second: ai, market, trade, of me@example.com, until 2099-01-31 00:00Z)" in shown.stderr

    mine = [
        json.loads(line) for line in shell.run("keys", "list", "--account", EMAIL, "--json", *at).stdout.splitlines()
    ]
    assert [(each["name"], each["email"], each["used_ns"]) for each in mine] == [
        ("bot", EMAIL, used_ns),
        ("second", EMAIL, None),
    ]
    table = shell.run("keys", "list", *at).stdout
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
    assert f"{made['prefix']}…{made['last']}  ai               {EMAIL}  2" in table
    for n in range(3):
        shell.told("keys", "create", f"{n}", "--account", EMAIL, *at)
    assert "at most 5 keys that may be used: revoke one" in shell.refused(
        "keys", "create", "6", "--account", EMAIL, *at
    )
    shell.told("keys", "revoke", made["id"], *at)
    shell.told("keys", "create", "6", "--account", EMAIL, *at)


async def test_two_processes_that_mint_a_sixth_key_at_once_mint_one_between_them(tmp_path: Path, shell: Shell) -> None:
    at = ("--data", str(tmp_path))
    account = shell.told("accounts", "create", EMAIL, "--password-stdin", *at, typed=PASSWORD)
    async with server(tmp_path) as parts:
        for n in range(4):
            await parts.keys.create(f"{n}", account=account["id"])
        command = (sys.executable, "-m", "openoutcry", "keys", "create", "bot", "--account", EMAIL, *at)
        nowhere = asyncio.subprocess.DEVNULL
        minting = [await asyncio.create_subprocess_exec(*command, stdout=nowhere, stderr=nowhere) for _ in range(2)]
        codes = await asyncio.gather(*(each.wait() for each in minting))
        assert sorted(codes) == [0, 2]
        assert len(await parts.keys.of(account["id"])) == 5


async def test_what_is_granted_is_in_the_books_once_an_id(tmp_path: Path, shell: Shell) -> None:
    at = ("--data", str(tmp_path))
    account = shell.told("accounts", "create", EMAIL, "--password-stdin", *at, typed=PASSWORD)
    assert shell.run("ledger", EMAIL, *at).stdout == f"{EMAIL}: 0.000000 KAI\n"
    async with server(tmp_path) as parts:
        for _ in range(2):
            given = shell.run("grant", EMAIL, "5.25", "--id", "spring", "--reason", "thank you", *at)
            assert given.stdout == f"granted: 5.250000 KAI to {EMAIL}, who has 5.250000 KAI now; id spring\n"
        assert "another transfer has that id" in shell.refused("grant", EMAIL, "6", "--id", "spring", *at)
        assert await parts.ledger.balance(account["id"], "KAI") == Balance(5_250_000)
        fresh = shell.told("grant", EMAIL, "0.000001", *at)
        assert fresh == {
            "id": fresh["id"],
            "account_id": account["id"],
            "email": EMAIL,
            "micros": 1,
            "balance_micros": 5_250_001,
        }
        assert shell.told("grant", EMAIL, "0.000001", *at)["id"] != fresh["id"]
        await parts.ledger.hold("work", account["id"], "KAI", 250_000, 2**62)
        await parts.ledger.close()

    table = shell.run("ledger", EMAIL, "--limit", "2", *at).stdout.splitlines()
    assert table[0] == f"{EMAIL}: 5.250002 KAI, 0.250000 KAI of it held"
    assert table[1].split() == ["at", "KAI", "balance", "reason", "transfer"]
    assert table[3].endswith(f"0.000001  5.250001  grant   grant/{fresh['id']}")
    stated = shell.told("ledger", EMAIL, *at)
    assert {name: stated[name] for name in stated if name != "entries"} == {
        "account_id": account["id"],
        "email": EMAIL,
        "balance_micros": 5_250_002,
        "held_micros": 250_000,
        "free_micros": 5_000_002,
    }
    assert [(each["amount"], each["total"], each["reason"]) for each in stated["entries"]] == [
        (1, 5_250_002, "grant"),
        (1, 5_250_001, "grant"),
        (5_250_000, 5_250_000, "thank you"),
    ]


async def test_books_that_balance_are_said_so_and_others_end_with_1(tmp_path: Path, shell: Shell) -> None:
    at, file = ("--data", str(tmp_path)), tmp_path / "ledger.sqlite3"
    assert "no books in" in shell.refused("ledger", "--check", *at)
    assert not file.exists()
    with closing(SqlLedger(sqlite_url(file))) as store:
        books = Ledger(store, ManualClock(1), Telemetry())
        await books.transfer("t", [Posting(ISSUANCE, "KAI", -5), Posting("a", "KAI", 5)])
        await books.close()
        assert shell.run("ledger", "--check", *at).stdout == "all books balance\n"
        assert shell.told("ledger", "--check", *at) == {"balances": True, "complaints": []}
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE balances SET total = 6 WHERE owner = 'a'")
    wrong = shell.run("ledger", "--check", *at)
    assert wrong.returncode == 1
    assert "a" in wrong.stdout
    as_json = shell.run("ledger", "--check", "--json", *at)
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout) == {"balances": False, "complaints": wrong.stdout.splitlines()}


def test_a_mistake_is_said_in_one_line_and_changes_nothing(tmp_path: Path, shell: Shell) -> None:
    folder = tmp_path / "typo"
    there, typo = ("--data", str(tmp_path)), ("--data", str(folder))
    commands: tuple[tuple[str, ...], ...] = (
        ("accounts",),
        ("accounts", "set-tier", EMAIL, "frozen"),
        ("grant", EMAIL, "5"),
        ("ledger", EMAIL),
        ("keys", "create", "bot", "--account", EMAIL),
    )
    for command in commands:
        assert "name the server's folder with --data" in shell.refused(*command, *typo)
    assert not folder.exists()
    shell.told("accounts", "create", EMAIL, "--password-stdin", *there, typed=PASSWORD)
    mistakes: list[tuple[tuple[str, ...], str, str]] = [
        (("accounts", "create", EMAIL, "--password-stdin"), PASSWORD, "there is an account with that e-mail"),
        (("accounts", "create", "me@localhost", "--password-stdin"), PASSWORD, "this is no e-mail address"),
        (("accounts", "create", "b@example.com", "--password-stdin"), "short", "8 to 256 characters"),
        (("accounts", "create", "b@example.com"), PASSWORD, "--password-stdin"),
        (("accounts", "create", "b@example.com", "--password-stdin", "--tier", "gold"), PASSWORD, "frozen, standard"),
        (("accounts", "set-tier", EMAIL, "gold"), "", "there is no tier 'gold'; there are frozen, standard"),
        (("accounts", "set-tier", "b@example.com", "frozen"), "", "`openoutcry accounts list` shows all"),
        (("keys", "create", "bot", "--account", "b@example.com"), "", "there is no account 'b@example.com'"),
        (("keys", "create", "bot", "--expires", "2001-01-01"), "", "in the future"),
        (("keys", "create", "bot", "--expires", "soon"), "", "is no time"),
        (("grant", EMAIL, "0"), "", "more than nothing"),
        (("grant", EMAIL, "1e3"), "", "plain decimal digits"),
        (("grant", EMAIL, "0.0000001"), "", "6 decimal places"),
        (("grant", EMAIL, "1", "--id", "two words"), "", "visible ASCII"),
        (("ledger",), "", "name an account, or give --check"),
        (("ledger", EMAIL, "--limit", "0"), "", "1 to 1000 entries"),
    ]
    for command, typed, said in mistakes:
        assert said in shell.refused(*command, *there, typed=typed), command
    assert shell.told("ledger", EMAIL, *there)["balance_micros"] == 0
    assert len(shell.run("accounts", "--json", *there).stdout.splitlines()) == 1
    assert shell.run("keys", "list", "--json", *there).stdout == ""
