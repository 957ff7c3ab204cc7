"""Dialect and Doors: what a dialect gives, and all it may touch."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.accounts.accounts import Accounts
from openoutcry.accounts.callers import Callers
from openoutcry.accounts.keys import Keys
from openoutcry.accounts.limits import Limits
from openoutcry.api.admission import Admission
from openoutcry.api.push import Push
from openoutcry.billing.billing import Billing
from openoutcry.bus import Bus
from openoutcry.clock import Clock
from openoutcry.config import AgentkConfig, LykkeConfig
from openoutcry.errors import Refusal
from openoutcry.feed.news import News
from openoutcry.feed.tasks import Tasks
from openoutcry.feed.tokens import Tokens
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.usage import UsageLog
from openoutcry.llm.analyst import Analyst
from openoutcry.llm.models import Models
from openoutcry.market.market import Market
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway
from openoutcry.transport import Response as CatalogueAnswer
from openoutcry.venues.venue import Feed

Scope = MutableMapping[str, Any]
# Where the gate puts the id of a request in its scope: for answers that say it in their body too.
REQUEST_ID = "openoutcry.request_id"


class Catalogue(Protocol):
    """An outside catalogue whose answers are handed on untouched (CoinMarketCap)."""

    async def fetch(self, path: str, query: Sequence[tuple[str, str]]) -> CatalogueAnswer:
        """Whatever its status. Raises Unavailable (it cannot be reached)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """All that a dialect may touch.

    `follow` is `Outside.follow`: it keeps an instrument's feeds subscribed until the function it returns is called.
    `catalogues` holds those that have their key. After `idle_s` without a word of a client whose API asks it for pings,
    its socket is closed. A part that this server has not is None. `bare_venue` is where a coin alone is looked for;
    `klines_locked`: HyperORU wants a key; `takashi_locked`: TAKASHI does. `large_trade_usd` is what counts as large where a caller cannot say,
    the `_default`s are what counts where a caller can say and does not; `points_shape` is the shape of Kiyotaka's JSON.
    """

    clock: Clock
    keys: Keys
    market: Market
    bus: Bus
    follow: Callable[[Instrument, Iterable[Feed]], Callable[[], None]]
    admission: Admission
    push: Push
    telemetry: Telemetry
    catalogues: Mapping[str, Catalogue] = field(default_factory=dict)
    exchanges: Mapping[str, Mapping[Kind, Sequence[Exchange]]] = field(default_factory=dict)
    trades_kept_s: float = 86_400.0
    tasks: Tasks | None = None
    analyst: Analyst | None = None
    bare_venue: str = "binance_futures"
    klines_locked: bool = False
    takashi_locked: bool = False
    points_shape: str = "proto"
    idle_s: float = 60.0
    large_trade_usd: Decimal = Decimal(100_000)
    large_trades_usd_default: Decimal = Decimal(100_000)
    liquidations_usd_default: Decimal = Decimal(5_000)
    accounts: Accounts | None = None
    callers: Callers | None = None
    limits: Limits | None = None
    ledger: Ledger | None = None
    usage: UsageLog | None = None
    billing: Billing | None = None
    models: Models | None = None
    news: News | None = None
    tokens: Tokens | None = None
    agentk: AgentkConfig = field(default_factory=AgentkConfig)
    gateway: OrderGateway | None = None
    lykke: LykkeConfig = field(default_factory=LykkeConfig)


class Dialect(Protocol):
    """One published API. `prefixes` say which paths are its own: the longest that fits decides who answers errors."""

    name: str
    prefixes: Sequence[str]
    title: str
    version: str
    tags: Sequence[Mapping[str, str]]
    schemas: Mapping[str, Any]  # by name, for the components of OpenAPI

    def rest(self) -> APIRouter:
        """Its HTTP routes."""
        ...

    def sockets(self) -> Sequence[WebSocketRoute]:
        """Its WebSocket routes, whose endpoints are ASGI applications."""
        ...

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        """A JSON answer that is at hand for this request, `packed` as gzip; None sends it the ordinary way.

        At once, and never wrong.
        """
        ...

    def services(self) -> Sequence["Service"]:
        """Its gRPC services."""
        ...

    def refuse(self, refusal: Refusal) -> Response:
        """No, in its own way."""
        ...

    def malformed(self, error: RequestValidationError) -> Response:
        """422."""
        ...

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        """404 for a path and 405 for a method that nobody serves."""
        ...

    def broken(self) -> Response:
        """500: our own fault, without a word about it."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service: its full name, how it is added to a server, and the files that describe it, imports first.

    `files` are serialised FileDescriptorProtos: what reflection tells. `leave` ends its streams when the server is to stop.
    """

    name: str
    add: Callable[[Any], None]
    files: Sequence[bytes] = ()
    leave: Callable[[], None] = lambda: None


def owner(dialects: Sequence[Dialect], path: str) -> Dialect:
    """The dialect that answers for `path`."""
    fitting = [(len(prefix), dialect) for dialect in dialects for prefix in dialect.prefixes if path.startswith(prefix)]
    return max(fitting, key=lambda fits: fits[0])[1] if fitting else dialects[0]
