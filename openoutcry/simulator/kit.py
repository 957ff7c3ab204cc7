"""What a personality is given and gives: questions and answers, lines (WebSocket connections) and frames.

A personality is one file: a subclass of `Personality` that speaks one venue's protocol. The server owns the sockets; the
stage (stage.py) owns time, faults and who hears what.

    answer(asked)                 one REST question -> Answer
    opened(line), heard(line, …)  subscribe by `line.follow(topic)`, answer by `line.send(frame)`
    frames(topic, start, end)     what the venue pushes for one topic in that time, made once for all lines that follow it
    wrap(line, topic, frame)      where a line's envelope differs from another's
    beat(line)                    heartbeats, called at every turn of the pump

Topics are the personality's own strings; a topic says everything that its frames depend on.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.parse import parse_qsl

import msgspec

from openoutcry.simulator.faults import Faults, Switches
from openoutcry.simulator.limits import Pool, Verdict
from openoutcry.simulator.tape import Bar, Listing
from openoutcry.simulator.world import World

NS = 1_000_000_000
MS = 1_000_000
TOPICS_MAX = 2_000


class Asked(NamedTuple):
    """One HTTP request. `path` is below the venue's prefix; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    address: str


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


class Frame(NamedTuple):
    """One pushed message and the moment it is of; `trade` frames are those that gaps, duplicates and disorder befall."""

    ns: int
    body: bytes
    trade: bool = False


class Wire(Protocol):
    """The WebSocket under a line."""

    def text(self, frames: Iterable[bytes]) -> None: ...

    def ping(self) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def cut(self, how: str) -> None: ...


class Line:
    """One WebSocket connection to a personality."""

    def __init__(
        self, wire: Wire, endpoint: str, path: str, query: Mapping[str, str], address: str, now_ns: int
    ) -> None:
        self._wire = wire
        self.endpoint, self.path, self.query, self.address = endpoint, path, query, address
        self.opened_ns = self.heard_ns = self.pinged_ns = self.ponged_ns = self.sent_ns = now_ns
        self.now_ns = now_ns  # kept by the stage
        self.topics: dict[str, int] = {}  # topic -> since when
        self.memo: dict[str, Any] = {}  # whatever the personality wants to remember of this line
        self.open = True
        self.mute = False  # nothing leaves: the stage sets it for half-open faults
        self.announced = False

    def follow(self, topic: str) -> bool:
        """Push that topic's frames from now on; False when there are too many."""
        if len(self.topics) >= TOPICS_MAX:
            return False
        self.topics.setdefault(topic, self.now_ns)
        return True

    def leave(self, topic: str) -> bool:
        """Stop pushing it; False when it was not followed."""
        return self.topics.pop(topic, None) is not None

    def send(self, *frames: bytes) -> None:
        """Send text frames at once."""
        if self.open and not self.mute and frames:
            self.sent_ns = self.now_ns
            self._wire.text(frames)

    def ping(self) -> None:
        """Send a WebSocket ping; `ponged_ns` tells when its answer came."""
        if self.open and not self.mute:
            self.pinged_ns = self.now_ns
            self._wire.ping()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a close frame."""
        if self.open:
            self.open = False
            self._wire.close(code, reason)

    def cut(self, how: str) -> None:
        """End it: `rst`, `close` or `abnormal` (TCP ends without a close frame)."""
        if self.open:
            self.open = False
            self._wire.cut(how)


class Personality(ABC):
    """One venue's protocol over the world. `name` is both its key and the first part of its path."""

    name: ClassVar[str]
    sockets: ClassVar[Mapping[str, str]] = {}  # endpoint -> path below the prefix
    archive: ClassVar[str] = ""  # path below the prefix of its public files of candles; empty: it has none
    pools: ClassVar[Mapping[str, Pool]] = {}  # what `cost` names
    connections: ClassVar[Pool | None] = None  # new WebSockets of an address
    messages: ClassVar[Pool | None] = None  # frames a client may send on one line
    life_s: ClassVar[float | None] = None  # a WebSocket is closed after so long
    purse: ClassVar[str] = ""  # whose pools are used: its own, or those it shares under this name

    def __init__(self, world: World, faults: Faults) -> None:
        self.world, self.faults = world, faults

    # To be given by a personality

    @abstractmethod
    async def answer(self, asked: Asked, now_ns: int) -> Answer:
        """One REST answer."""

    def cost(self, asked: Asked) -> tuple[str, int] | None:  # noqa: ARG002 - for those who override it
        """(pool, units) of a question; None where nothing is counted."""
        return None

    def used(self, pool: str, verdict: Verdict) -> tuple[tuple[str, str], ...]:  # noqa: ARG002 - for those who override it
        """Headers that tell what was used."""
        return ()

    def refuse(self, pool: str, verdict: Verdict) -> Answer:  # noqa: ARG002 - for those who override it
        """What who asked too much hears."""
        retry = (("Retry-After", str(verdict.retry_s)),)
        return Answer(418 if verdict.banned else 429, b'{"msg":"too many requests"}', retry)

    def storm(self, status: int) -> bytes:
        """The body of an error status that has nothing to do with the question."""
        return b'{"msg":"error %d"}' % status

    def endpoint(self, path: str) -> str | None:
        """Which socket that path opens; None: 404."""
        return next((name for name, at in self.sockets.items() if at == path), None)

    def opened(self, line: Line) -> None:
        """A client connected."""

    def heard(self, line: Line, text: bytes) -> None:
        """A client sent a text frame."""

    def frames(self, topic: str, start_ns: int, end_ns: int) -> Iterable[Frame]:  # noqa: ARG002 - for those who override it
        """What is pushed for the topic in [start_ns, end_ns), in order of time; nothing where a venue only answers."""
        return ()

    def wrap(self, line: Line, topic: str, body: bytes) -> bytes:  # noqa: ARG002 - for those who override it
        """The frame as this line gets it."""
        return body

    def beat(self, line: Line) -> None:
        """Heartbeats; called at each turn of the pump."""

    def announce(self, line: Line) -> None:
        """Say that the line will be closed soon, where the venue does."""

    # Help for personalities

    @property
    def switches(self) -> Switches:
        """The venue's faults as they stand."""
        return self.faults.of(self.name)

    def listings(self) -> list[tuple[str, Listing]]:
        """(symbol as told now, listing) of what the venue lists: without the delisted, under the new names."""
        faults = self.switches
        rows = [(a.instrument.symbol, a) for a in self.world.listings(self.name)]
        return [(faults.renamed.get(symbol, symbol), a) for symbol, a in rows if symbol not in faults.delisted]

    def find(self, symbol: str) -> Listing | None:
        """What a symbol means now; None: unknown to the venue."""
        faults = self.switches
        if symbol in faults.renamed or symbol in faults.delisted:
            return None
        old = next((old for old, new in faults.renamed.items() if new == symbol), symbol)
        try:
            return None if old in faults.delisted else self.world.listing(f"{self.name}:{old}")
        except KeyError:
            return None

    def refused(self, topic: str) -> bool:
        """Whether a fault says that this subscription is refused."""
        which = self.switches.refuse_subscriptions
        return which if isinstance(which, bool) else topic in which

    def venue_ms(self, ns: int) -> int:
        """What the venue's clock (which a fault may have put wrong) shows, in ms."""
        return (ns + round(self.switches.skew_s * NS)) // MS

    async def candles(self, name: str, interval_s: int, start_ns: int, end_ns: int) -> list[Bar]:
        """`World.candles`, letting the streams run between the days it has to make."""
        for _ in self.world.warm(name, interval_s, start_ns, end_ns):
            await asyncio.sleep(0)
        return self.world.candles(name, interval_s, start_ns, end_ns)


def json(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer in JSON."""
    return Answer(status, msgspec.json.encode(value), headers)


def beats(start_ns: int, end_ns: int, every_ns: int) -> range:
    """The multiples of `every_ns` in [start_ns, end_ns): when something regular is pushed."""
    return range(-(-start_ns // every_ns) * every_ns, end_ns, every_ns)


def whole(text: str | None, default: int, least: int, most: int) -> int | None:
    """An integer parameter: its default when absent, None when it is none or out of bounds."""
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        return None
    return value if least <= value <= most else None


def pairs(query: str) -> dict[str, str]:
    """A query string as a mapping; of repeated names the last counts."""
    return dict(parse_qsl(query, keep_blank_values=True))
