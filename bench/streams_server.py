"""agent-k as it is served, over one instrument whose newest candles are at hand: candles over HTTP, and its socket."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import msgspec

from bench import child
from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.limits import Limits
from openoutcry.accounts.passwords import Passwords
from openoutcry.accounts.tokens import Tokens
from openoutcry.api.agentk import candles_wire
from openoutcry.api.agentk.rest import Agentk
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors
from openoutcry.clock import SystemClock
from openoutcry.config import AccountsConfig, AgentkConfig, TierConfig
from openoutcry.events import Candle, open_of
from openoutcry.instrument import Instrument
from openoutcry.stores.accounts import MemoryAccounts
from openoutcry.stores.keys import MemoryKeys

# Of zeros, so that the load knows it too.
KEY = "kai-" + "0" * 64
MANY = 1_000_000_000


class Growing(child.MemoryMarket):
    """The same market, whose growing candle changes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[Callable[[Candle], None]] = []
        self._number = 0
        # Of now: what is long over is told to nobody.
        self._forming = msgspec.structs.replace(self._forming, open_ns=open_of(SystemClock().now_ns(), 60))

    def follow_candles(
        self, instrument: Instrument, interval_s: int, listener: Callable[[Candle], None]
    ) -> Callable[[], None]:
        del instrument, interval_s
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def grow(self) -> None:
        """One change more."""
        self._number += 1
        changed = msgspec.structs.replace(self._forming, close=Decimal("101621.7") + self._number % 1_000)
        for listener in self._listeners:
            listener(changed)


class Ours:
    """The whole dialect, with a key that is looked up and limits that are counted."""

    def __init__(self) -> None:
        doors = child._doors()  # noqa: SLF001  the doors of every benchmark
        self._market = Growing()
        self._keys = Keys(MemoryKeys(), b"pepper", doors.clock, doors.telemetry, random=bytes)
        numbers = AccountsConfig(tiers={"standard": TierConfig(requests_per_min=MANY, tokens_per_min=MANY)})
        self._accounts = Accounts(
            MemoryAccounts(), Passwords(), Tokens(b"s" * 64, doors.clock), doors.clock, doors.telemetry, numbers
        )  # fmt: skip
        self._doors: Doors = replace(
            doors,
            market=self._market,
            keys=self._keys,
            accounts=self._accounts,
            callers=Callers(self._keys, self._accounts, numbers.tiers, numbers.tier),
            limits=Limits(doors.clock, doors.telemetry),
            agentk=AgentkConfig(venue="binance_futures", connections_a_key_max=MANY),
        )

    async def start(self) -> int:
        account, _ = await self._accounts.register("bench@example.com", "a-long-password")
        _, text = await self._keys.create("bench", account=account.id)
        assert text == KEY
        server = HttpServer(application(self._doors, [Agentk(self._doors)]), "127.0.0.1", 0)
        return int((await server.start()).rpartition(":")[2])

    def send(self, payload: bytes) -> None:
        """What is sent is an event of ours, of about the same size."""
        del payload
        self._market.grow()


def bare() -> child.Uvicorn:
    """The same bytes from a bare ASGI application."""
    closed, growing = child.MemoryMarket().newest("", 60, child.ROWS) or ((), None)
    rows = [*closed[1:], *([growing] if growing else [])]
    return child._bare(b'{"v":1,"data":' + candles_wire.rows(rows) + b"}")  # noqa: SLF001
