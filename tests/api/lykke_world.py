"""Our exchange with its real parts, in a file, behind a real server that speaks Lykke's API."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.lykke.rest import Lykke
from openoutcry.config import AccountsConfig
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.sql import sqlite_url
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import Sequencer
from tests.accounts.cheap import accounts

PASSWORD = "a-long-password"
LISTINGS = Listings.of(
    {
        "assets": {
            "BTC": {"name": "Bitcoin", "accuracy": 8},
            "USD": {"name": "US dollar", "accuracy": 2},
            "eth-1": {"name": "Ether", "symbol": "ETH", "accuracy": 8},
            "SHIB": {"accuracy": 0},
        },
        "pairs": {
            "BTCUSD": {
                "base": "BTC", "quote": "USD", "price_accuracy": 3, "min_volume": "0.0001", "min_opposite_volume": "1",
                "max_volume": "50", "max_value": "1000000", "price_deviation": "50%",
            },
            "ETHUSD": {"base": "eth-1", "quote": "USD", "price_accuracy": 2, "maker_fee": "0.1%", "taker_fee": "0.2%"},
            "SHIBUSD": {"base": "SHIB", "quote": "USD", "price_accuracy": 8},
            "ETHBTC": {"base": "eth-1", "quote": "BTC", "price_accuracy": 6, "on": False},
        },
    }
)  # fmt: skip


class Floor:
    """The exchange, its server, and clients of it. `key` and `other` are keys of two accounts."""

    def __init__(self, served: Any, folder: Path) -> None:
        self.clock = served.clock
        telemetry = served.telemetry
        self.store = SqlExchange(sqlite_url(folder / "ledger.db"))
        self.sequencer = Sequencer(self.store, self.clock, telemetry)
        # Ids as uuids look, in the order in which they were drawn.
        drawn = itertools.count(1)
        self.gateway = OrderGateway(
            self.sequencer, self.store, self.clock, telemetry, lambda: f"00000000-0000-4000-8000-{next(drawn):012}"
        )
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, telemetry)
        numbers = AccountsConfig()
        self.accounts = accounts(MemoryAccounts(), self.clock, numbers, telemetry)
        self.doors = replace(
            served.doors,
            keys=self.keys,
            accounts=self.accounts,
            callers=Callers(self.keys, self.accounts, numbers.tiers, numbers.tier),
            gateway=self.gateway,
        )
        self.server = HttpServer(application(self.doors, [Lykke(self.doors)]), "127.0.0.1", 0)
        self.http = httpx2.AsyncClient(trust_env=False)
        self.key = self.other = ""
        self.wallet = self.other_wallet = ""

    async def start(self) -> None:
        await self.gateway.start()
        await self.gateway.relist(LISTINGS)
        self.wallet, self.key = await self.trader("me@example.com")
        self.other_wallet, self.other = await self.trader("other@example.com")
        self.http.base_url = httpx2.URL(f"http://{await self.server.start()}")

    async def stop(self) -> None:
        await self.http.aclose()
        await self.server.stop()
        await self.sequencer.close()
        self.store.close()

    async def trader(self, email: str) -> tuple[str, str]:
        """An account, and a key that trades for it."""
        account, _ = await self.accounts.register(email, PASSWORD)
        _, key = await self.keys.create("bot", ["trade"], account.id)
        return account.id, key

    async def give(self, wallet: str, **amounts: str) -> None:
        for asset, amount in amounts.items():
            asset_id = "eth-1" if asset == "ETH" else asset
            await self.gateway.move(f"{wallet} {asset}", wallet, asset_id, Decimal(amount))

    async def ask(self, method: str, path: str, key: str | None = "", **more: Any) -> httpx2.Response:
        """As `self.key`, as another, or (None) without a key."""
        headers = {} if key is None else {"authorization": f"Bearer {key or self.key}"}
        return await self.http.request(method, f"/api{path}", headers=headers | more.pop("headers", {}), **more)

    async def told(self, method: str, path: str, key: str | None = "", **more: Any) -> Any:
        """The payload of a good answer."""
        answer = await self.ask(method, path, key, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        said = answer.json(parse_float=Decimal)
        assert list(said) == ["payload", "error"]
        assert said["error"] is None, answer.text
        return said["payload"]

    async def no(self, method: str, path: str, key: str | None = "", **more: Any) -> tuple[int, str, dict[str, str]]:
        """Number, message and fields of an error, whose HTTP status is 200."""
        answer = await self.ask(method, path, key, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        said = answer.json()
        assert set(said) == {"error", "payload"}
        assert said["payload"] is None, answer.text
        error = said["error"]
        assert set(error) == {"code", "message", "fields"}
        return error["code"], error["message"], error["fields"]

    async def problem(self, status: int, method: str, path: str, key: str | None = "", **more: Any) -> Any:
        """A problem document."""
        answer = await self.ask(method, path, key, **more)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        said = answer.json()
        assert said["status"] == status
        assert said["traceId"] == answer.headers["x-request-id"]
        return said

    async def limit(self, side: str, volume: str, price: str, pair: str = "BTCUSD", key: str = "") -> str:
        """The id of a limit order, whose numbers go out as they are written here."""
        body = f'{{"assetPairId":"{pair}","side":"{side}","volume":{volume},"price":{price}}}'
        return str((await self.told("POST", "/orders/limit", key, content=body))["orderId"])


@asynccontextmanager
async def floor(served: Any, folder: Path) -> AsyncIterator[Floor]:
    made = Floor(served, folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
