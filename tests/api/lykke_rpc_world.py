"""Our exchange in a file, behind a real gRPC server; and the stubs that a client of the contract generates."""

import atexit
import importlib
import itertools
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType, SimpleNamespace
from typing import Any

import grpc
from grpc_tools import protoc

import openoutcry.api.lykke
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.api.lykke.rpc import services
from openoutcry.api.lykke.streams import STALLED_S_MAX
from openoutcry.api.rpc import RpcServer
from openoutcry.clock import NS, ManualClock
from openoutcry.config import AccountsConfig, LykkeConfig
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.keys import MemoryKeys
from openoutcry.stores.sql import sqlite_url
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.listings import Asset, Listings, Pair
from openoutcry.trading.sequencer import Sequencer
from tests.accounts.cheap import accounts
from tests.api.points import World

NOW_NS = 1_785_000_000 * NS
PROTO = Path(openoutcry.api.lykke.__file__).parent / "proto"
FILES = ("common", "isalive", "publicService", "privateService")
LISTINGS = Listings(
    {
        "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=8),
        "ETH": Asset(id="ETH", name="Ether", symbol="ETH", accuracy=8),
        "USD": Asset(id="USD", name="US dollar", symbol="USD", accuracy=2),
    },
    {
        "BTCUSD": Pair(
            id="BTCUSD", name="BTC/USD", base="BTC", quote="USD", price_accuracy=3, base_accuracy=8, quote_accuracy=2,
            lots_min=10_000, quote_min=100, quote_max=100_000_000,
        ),
        "ETHUSD": Pair(
            id="ETHUSD", name="ETH/USD", base="ETH", quote="USD", price_accuracy=2, base_accuracy=8, quote_accuracy=2,
            lots_min=10_000, lots_max=10_000_000_000, deviation_ppm=2_000_000,
        ),
        "ETHBTC": Pair(
            id="ETHBTC", name="ETH/BTC", base="ETH", quote="BTC", price_accuracy=5, base_accuracy=8, quote_accuracy=8,
            on=False,
        ),
    },
)  # fmt: skip


@cache
def generated() -> str:
    """The folder of what grpcio-tools makes of our files."""
    folder = mkdtemp(prefix="oo-lykke-")
    atexit.register(shutil.rmtree, folder)
    made = protoc.main(
        ["", f"-I{PROTO}", f"-I{Path(protoc.__file__).parent / '_proto'}", f"--python_out={folder}",
         f"--grpc_python_out={folder}", *(f"{name}.proto" for name in FILES)]
    )  # fmt: skip
    assert made == 0
    return folder


@cache
def stubs() -> SimpleNamespace:
    """The generated modules: messages `common`, `isalive`, `public`, `private`, and the stubs."""
    folder = generated()
    sys.path.insert(0, folder)
    try:
        common, isalive, public, private = (importlib.import_module(f"{name}_pb2") for name in FILES)
        public_rpc: ModuleType = importlib.import_module("publicService_pb2_grpc")
        private_rpc: ModuleType = importlib.import_module("privateService_pb2_grpc")
        isalive_rpc: ModuleType = importlib.import_module("isalive_pb2_grpc")
    finally:
        sys.path.remove(folder)
    return SimpleNamespace(
        common=common,
        isalive=isalive,
        public=public,
        private=private,
        Public=public_rpc.PublicServiceStub,
        Private=private_rpc.PrivateServiceStub,
        Monitoring=isalive_rpc.MonitoringStub,
    )


class Client:
    """A client that generated its stubs; with a key, or without."""

    def __init__(self, channel: grpc.aio.Channel, key: str | None = None) -> None:
        self.channel = channel
        self.metadata = () if key is None else (("authorization", f"Bearer {key}"),)
        self.public = stubs().Public(channel)
        self.private = stubs().Private(channel)
        self.monitoring = stubs().Monitoring(channel)

    def ask(self, method: str, asked: Any = None, **more: Any) -> Any:
        """A call of the private service. What is asked is an Empty where none is given."""
        return getattr(self.private, method)(empty() if asked is None else asked, metadata=self.metadata, **more)

    def tell(self, method: str, asked: Any = None, **more: Any) -> Any:
        """A call of the public service."""
        return getattr(self.public, method)(empty() if asked is None else asked, **more)

    async def limit(self, side: str, volume: str, price: str, pair: str = "BTCUSD") -> Any:
        m = stubs().private
        asked = m.LimitOrderRequest(assetPairId=pair, side=m.Side.Value(side), volume=volume, price=price)
        return await self.ask("PlaceLimitOrder", asked)

    async def placed(self, side: str, volume: str, price: str, pair: str = "BTCUSD") -> str:
        """The id of an order that was taken."""
        told = await self.limit(side, volume, price, pair)
        assert not told.HasField("error"), told
        return str(told.payload.orderId)

    async def market(self, side: str, volume: str, pair: str = "BTCUSD") -> Any:
        m = stubs().private
        asked = m.MarketOrderRequest(assetPairId=pair, side=m.Side.Value(side), volume=volume)
        return await self.ask("PlaceMarketOrder", asked)


def empty() -> Any:
    from google.protobuf.empty_pb2 import Empty

    return Empty()


class Floor:
    """The exchange with its real parts, an account for each trader, and the server."""

    def __init__(self, folder: Path, tls: tuple[bytes, bytes] | None = None, **config: Any) -> None:
        stalled_s, url = config.pop("stalled_s", STALLED_S_MAX), config.pop("url", None)
        limits = config.pop("limits", {})
        self.clock = ManualClock(NOW_NS)
        world = World(clock=self.clock, **limits)
        self.telemetry = world.telemetry
        self.store = SqlExchange(url or sqlite_url(folder / "ledger.sqlite3"))
        self.sequencer = Sequencer(self.store, self.clock, self.telemetry)
        numbers = itertools.count(1)
        self.gateway = OrderGateway(
            self.sequencer,
            self.store,
            self.clock,
            self.telemetry,
            lambda: f"00000000-0000-4000-8000-{next(numbers):012}",
        )
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry)
        settings = AccountsConfig()
        self.accounts = accounts(MemoryAccounts(), self.clock, settings, self.telemetry)
        self.doors = replace(
            world.doors,
            keys=self.keys,
            accounts=self.accounts,
            callers=Callers(self.keys, self.accounts, settings.tiers, settings.tier),
            gateway=self.gateway,
            lykke=LykkeConfig(**config),
        )
        self.server = RpcServer(services(self.doors, stalled_s=stalled_s), "127.0.0.1", 0, tls=tls)
        self.at = ""
        self._channels: list[grpc.aio.Channel] = []
        self._moves = itertools.count(1)

    def channel(self, **options: Any) -> grpc.aio.Channel:
        """A connection of its own."""
        own = [("grpc.use_local_subchannel_pool", 1), *options.items()]
        self._channels.append(grpc.aio.insecure_channel(self.at, options=own))
        return self._channels[-1]

    def stranger(self) -> Client:
        """A client without a key."""
        return Client(self.channel())

    async def account(self, name: str) -> str:
        """A new account's id."""
        return (await self.accounts.create(f"{name}@example.com", "a-long-password", name)).id

    async def trader(self, name: str, **funds: str) -> Client:
        """A client with a key of a new account, and what it has."""
        account = await self.account(name)
        for asset, amount in funds.items():
            await self.gateway.move(f"move-{next(self._moves)}", account, asset, Decimal(amount))
        _, key = await self.keys.create(name, ["trade"], account)
        client = Client(self.channel(), key)
        client.account, client.key = account, key  # type: ignore[attr-defined]
        return client

    def streams(self) -> float:
        return self.telemetry.registry.get_sample_value("openoutcry_lykke_streams") or 0.0

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self.server.stop()
        await self.sequencer.close()
        self.store.close()


@asynccontextmanager
async def floor(folder: Path, **config: Any) -> AsyncIterator[Floor]:
    made = Floor(folder, **config)
    await made.gateway.start()
    await made.gateway.relist(LISTINGS)
    made.at = await made.server.start()
    try:
        yield made
    finally:
        await made.close()


def words(told: Any) -> dict[str, Any]:
    """A message of plain fields as a dict, times as seconds."""
    return dict(_fields(told))


def _fields(told: Any) -> Iterator[tuple[str, Any]]:
    for field, value in told.ListFields():
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            yield field.name, value.seconds
        elif field.message_type is not None and not field.is_repeated:
            yield field.name, words(value)
        elif field.message_type is not None:
            yield field.name, [words(each) for each in value]
        else:
            yield field.name, value
