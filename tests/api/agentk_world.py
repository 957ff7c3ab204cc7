"""agent-k with its real parts: accounts, keys, limits, books and usage in files, behind a real server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2

from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.limits import Limits
from openoutcry.api.agentk.rest import Agentk
from openoutcry.api.asgi import HttpServer, application
from openoutcry.config import AccountsConfig
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE, Posting
from openoutcry.ledger.usage import UsageLog
from openoutcry.money import KAI
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.stores.usage import SqlUsage
from tests.accounts.cheap import accounts

EMAIL = "me@example.com"
PASSWORD = "a-long-password"


class Shop:
    """The server, and a client of it."""

    def __init__(self, served: Any, folder: Path, numbers: AccountsConfig, **doors: Any) -> None:
        self.clock, self.telemetry = served.clock, served.telemetry
        url = sqlite_url(folder / "ledger.db")
        self.books, self.rows = SqlLedger(url), SqlUsage(url)
        self.ledger = Ledger(self.books, self.clock, self.telemetry)
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry, of_account_max=numbers.keys_max)
        self.accounts = accounts(MemoryAccounts(), self.clock, numbers, self.telemetry)
        self.limits = Limits(self.clock, self.telemetry)
        self.doors = replace(
            served.doors,
            keys=self.keys,
            accounts=self.accounts,
            callers=Callers(self.keys, self.accounts, numbers.tiers, numbers.tier),
            limits=self.limits,
            ledger=self.ledger,
            usage=UsageLog(self.rows, self.clock, self.telemetry, 90 * 86_400),
            **doors,
        )
        self.server = HttpServer(application(self.doors, [Agentk(self.doors)]), "127.0.0.1", 0)
        self.address = ""
        self.http = httpx2.AsyncClient(trust_env=False)

    async def ask(self, method: str, path: str, credential: str | None = None, **more: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {credential}"} if credential else {}
        return await self.http.request(method, path, headers=headers | more.pop("headers", {}), **more)

    async def data(self, method: str, path: str, credential: str | None = None, **more: Any) -> Any:
        """What a good answer holds."""
        answer = await self.ask(method, path, credential, **more)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["v"] == 1
        return told["data"]

    async def no(self, status: int, method: str, path: str, credential: str | None = None, **more: Any) -> Any:
        """The `error` of a refusal, which `detail` repeats."""
        answer = await self.ask(method, path, credential, **more)
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert set(told) == {"detail", "error"}
        assert told["detail"] == told["error"]["message"]
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
        return told["error"]

    async def registered(self, email: str = EMAIL) -> tuple[str, str]:
        """The account's id and login token."""
        told = await self.data("POST", "/v1/auth/register", json={"email": email, "password": PASSWORD})
        return told["account_id"], told["token"]

    async def minted(self, token: str, **asked: Any) -> str:
        """A key's text."""
        return str((await self.data("POST", "/v1/auth/api-keys", token, json=asked))["raw_key"])

    async def grant(self, account: str, micros: int, id_: str = "grant") -> None:
        postings = (Posting(ISSUANCE, KAI.name, -micros), Posting(account, KAI.name, micros))
        await self.ledger.transfer(id_, postings)


@asynccontextmanager
async def shop(served: Any, folder: Path, numbers: AccountsConfig | None = None, **doors: Any) -> AsyncIterator[Shop]:
    made = Shop(served, folder, numbers or AccountsConfig(), **doors)
    made.address = await made.server.start()
    made.http.base_url = httpx2.URL(f"http://{made.address}")
    try:
        yield made
    finally:
        await made.http.aclose()
        await made.server.stop()
        await made.ledger.close()
        made.rows.close()
        made.books.close()
