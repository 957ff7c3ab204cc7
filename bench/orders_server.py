"""Our exchange behind gRPC, and a server that answers the same calls without any of it."""

import itertools
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
from argon2 import PasswordHasher

from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.store import Account, AccountRecord
from openoutcry.accounts.tokens import Tokens
from openoutcry.api.admission import Admission
from openoutcry.api.dialect import Doors
from openoutcry.api.lykke import contract
from openoutcry.api.lykke.rpc import services
from openoutcry.api.push import Push
from openoutcry.api.rpc import RpcServer
from openoutcry.bus import Bus
from openoutcry.clock import SystemClock
from openoutcry.config import AccountsConfig
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.sequencer import Sequencer

CALLERS = 32
PAIR = "BTCUSD"
LISTINGS = Listings(
    {
        "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=8),
        "USD": Asset(id="USD", name="Dollar", symbol="USD", accuracy=2),
    },
    {PAIR: Pair(id=PAIR, name="BTC/USD", base="BTC", quote="USD", price_accuracy=2, base_accuracy=8, quote_accuracy=2)},
)


def key(number: int) -> str:
    """The text of a caller's key, of no randomness: both sides of a bench must know it."""
    return "kai-" + (2 * number).to_bytes(32, "big").hex()


class Ours:
    """The services as they are served, on a SQLite file that is written before each answer."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="openoutcry-bench-")
        store = SqlExchange(sqlite_url(Path(self._folder.name) / "ledger.db"))
        clock, telemetry, settings = SystemClock(), Telemetry(), AccountsConfig()
        orders, drawn = itertools.count(), itertools.count()
        self._sequencer = Sequencer(store, clock, telemetry)
        self._gateway = OrderGateway(
            self._sequencer, store, clock, telemetry, lambda: f"00000000-0000-4000-8000-{next(orders):012}"
        )
        self._keys = Keys(
            MemoryKeys(), b"pepper", clock, telemetry, random=lambda size: next(drawn).to_bytes(size, "big")
        )
        self._store = MemoryAccounts()
        accounts = Accounts(
            self._store, Passwords(PasswordHasher()), Tokens(b"s" * 64, clock, 60.0), clock, telemetry, settings
        )
        self._doors = Doors(
            clock=clock,
            keys=self._keys,
            market=None,  # type: ignore[arg-type]  # nothing of it is asked
            bus=Bus(),
            follow=lambda _instrument, _feeds: lambda: None,
            admission=Admission(clock),
            push=Push(telemetry),
            telemetry=telemetry,
            accounts=accounts,
            callers=Callers(self._keys, accounts, settings.tiers, settings.tier),
            gateway=self._gateway,
        )

    async def start(self) -> int:
        await self._gateway.start()
        await self._gateway.relist(LISTINGS)
        for number in range(CALLERS):
            name = f"caller{number}"
            account = Account(id=name, email=f"{name}@example.com", display_name=name, tier="free", created_ns=0)
            self._store.add(AccountRecord(account=account, email_key=account.email, password=""), CALLERS)
            _, text = await self._keys.create(name, ["trade"], name)
            assert text == key(number)
            for asset in LISTINGS.assets:
                await self._gateway.move(f"{asset} of {name}", name, asset, Decimal(10_000_000))
        self._server = RpcServer(services(self._doors), "127.0.0.1", 0)
        return int((await self._server.start()).rpartition(":")[2])

    def send(self, payload: bytes) -> None:
        raise AssertionError(f"its callers trade, and {payload!r} was pushed")


class Bare:
    """grpcio.aio with answers that are ready: the floor."""

    async def start(self) -> int:
        placed = contract.message("hft.LimitOrderResponse")(payload={"orderId": "0" * 36}).SerializeToString()
        status = {"id": "0" * 36, "volume": "0.01", "price": "50000.01"}
        bulk = contract.message("hft.BulkLimitOrderResponse")(
            payload={"assetPairId": PAIR, "statuses": [status] * 100}
        ).SerializeToString()

        async def limit(asked: bytes, context: Any) -> bytes:
            del asked, context
            return placed  # type: ignore[no-any-return]

        async def many(asked: bytes, context: Any) -> bytes:
            del asked, context
            return bulk  # type: ignore[no-any-return]

        server = grpc.aio.server()
        handlers = {
            "PlaceLimitOrder": grpc.unary_unary_rpc_method_handler(limit),
            "PlaceBulkLimitOrder": grpc.unary_unary_rpc_method_handler(many),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract.PRIVATE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._server = server
        return int(port)

    def send(self, payload: bytes) -> None:
        raise AssertionError(f"its callers trade, and {payload!r} was pushed")
