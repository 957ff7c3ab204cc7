"""A small venue with a mind of its own, its sockets and its HTTP side, for the tests of the feed."""

import asyncio
import json
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec
import pytest

from openoutcry.bus import Bus
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import OutOfReach, RateLimited, Unreadable, Unsupported
from openoutcry.events import (
    Abandoned,
    Candle,
    DepthDelta,
    DepthSnapshot,
    Event,
    Gap,
    Liquidation,
    Mended,
    OpenInterest,
    PredictedFunding,
    Quote,
    Side,
    Trade,
    VenueCandle,
)
from openoutcry.feed.desk import Access, Numbers
from openoutcry.feed.feed import Feed as TheFeed
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Response, Socket, TransportError
from openoutcry.venues.venue import (
    Alive,
    Answer,
    Ask,
    Closing,
    Feed,
    Heartbeat,
    Limits,
    Page,
    Query,
    Rate,
    Refused,
    Reply,
    Request,
    Signal,
    Skipped,
    Stream,
    Subscribed,
)

START_NS = 1_700_000_000 * NS  # 22:13:20, so the running minute opened twenty seconds before
PAGE = 10


def instrument(symbol: str, venue: str = "toy", **other: Any) -> Instrument:
    return Instrument(
        venue=venue,
        symbol=symbol,
        kind=Kind.SPOT,
        coin=symbol,
        quote="USD",
        settle="USD",
        tick_size=Decimal("0.1"),
        lot_size=Decimal(1),
        **other,
    )


class ToyVenue:
    """Frames are small JSON objects; see `decode`."""

    def __init__(self, name: str = "toy", **limits: Any) -> None:
        self.name = name
        self.exchanges: Mapping[Kind, tuple[Exchange, ...]] = {}
        self.rest = "https://rest.toy"
        self.sockets: Mapping[str, str] = {"public": "wss://toy/public", "slow": "wss://toy/slow"}
        wanted: dict[str, Any] = {
            "streams_per_connection": 100,
            "streams_per_subscribe": 10,
            "messages": Rate(100, 1.0),
            "connections": Rate(100, 1.0),
            "lifetime_s": 86_400.0,
            "weights": {"weight": Rate(1_000, 60.0)},
            "weight_header": "x-used",
            "silence_s": 60.0,
            "trade_ids": "one",
        }
        self.limits = Limits(**(wanted | limits))
        self.feeds = frozenset({Feed.TRADES, Feed.QUOTES, Feed.LIQUIDATIONS, Feed.DEPTH})
        self.queries = frozenset(Query)
        self.intervals_s = frozenset({60})
        self.page_max: Mapping[Query, int] = {Query.TRADES: PAGE}
        self.silence_s: float | None = None
        self.learned: list[set[str]] = []
        self.resets: list[str] = []
        self.serves_ids = True
        self.bundles = False  # one stream carries the trades of all symbols that begin alike
        self.unnamed_acks = False

    def learn(self, instruments: Iterable[Instrument]) -> None:
        self.learned.append({i.symbol for i in instruments})

    def assume(self, symbol: str) -> Instrument | None:
        return instrument(symbol, self.name)

    def streams(self, feed: Feed, symbols: Iterable[str] | None) -> Sequence[Stream]:
        everything = ["*"] if feed is Feed.LIQUIDATIONS else []
        names = everything if symbols is None else list(symbols)
        silence_s = self.silence_s if feed is Feed.TRADES else None
        if self.bundles:
            heads = dict.fromkeys(name[0] for name in names)
            return [Stream(f"{feed}@{head}*", "public", "*", frozenset({feed}), silence_s) for head in heads]
        return [Stream(f"{feed}@{s}", "public", s, frozenset({feed}), silence_s) for s in names]

    def url(self, address: str, endpoint: str, streams: Sequence[Stream]) -> str:
        return f"{address}?n={len(streams)}"

    def subscribe(self, streams: Sequence[Stream], *, undo: bool = False) -> Sequence[bytes]:
        op = "unsubscribe" if undo else "subscribe"
        return [json.dumps({op: [s.name for s in streams]}).encode()]

    def decode(self, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        try:
            said = json.loads(frame)
        except ValueError as e:
            raise Unreadable("not JSON", frame) from e
        return [self._one(item, received_ns) for item in (said if isinstance(said, list) else [said])]

    def _one(self, said: dict[str, Any], received_ns: int) -> Event | Signal:
        match said:
            case {"trade": [symbol, id_, event_ns, count]}:
                return trade(f"{self.name}:{symbol}", id_, event_ns, received_ns, count)
            case {"quote": symbol}:
                one = Decimal(1)
                return Quote(f"{self.name}:{symbol}", received_ns, received_ns, one, one, one + one, one)
            case {"liquidation": [symbol, id_]}:
                one = Decimal(1)
                return Liquidation(f"{self.name}:{symbol}", received_ns, received_ns, id_, Side.SELL, one, one)
            case {"book": [symbol, seq]}:
                return DepthSnapshot(f"{self.name}:{symbol}", received_ns, received_ns, (), (), seq)
            case {"delta": [symbol, previous, seq]}:
                return DepthDelta(f"{self.name}:{symbol}", received_ns, received_ns, (), (), seq, seq, previous)
            case {"ok": None}:
                return Subscribed()
            case {"ok": names}:
                return Subscribed(tuple(names))
            case {"no": name}:
                return Refused(name, "no such thing")
            case {"ping": n}:
                return Reply(json.dumps({"pong": n}).encode())
            case {"bye": reason}:
                return Closing(reason)
            case {"skip": why}:
                return Skipped(why)
            case {"alive": _}:
                return Alive()
            case {"boom": _}:
                raise ZeroDivisionError
        raise Unreadable("unknown frame")

    def reset(self, endpoint: str) -> None:
        self.resets.append(endpoint)

    def request(self, ask: Ask) -> Request:
        if ask.query is Query.TRADES and ask.from_id is not None and not self.serves_ids:
            raise Unsupported("no trades by id")
        said = {
            "symbol": ask.symbol,
            "from_id": ask.from_id,
            "start": ask.start_ns,
            "end": ask.end_ns,
            "cursor": ask.cursor,
        }
        query = tuple((k, str(v)) for k, v in said.items() if v is not None)
        return Request(path=f"/{ask.query}", query=query, weight=1)

    def page(self, ask: Ask, answer: Answer) -> Page:
        if answer.status == 404:
            raise OutOfReach(self.name, "too old")
        try:
            said = json.loads(answer.body)
        except ValueError as e:
            raise Unreadable("not JSON", answer.body) from e
        if "wait" in said:
            raise RateLimited(self.name, "slow down", float(said["wait"]))
        if ask.query is Query.INSTRUMENTS:
            return Page((), [instrument(s, self.name, contract_size=c) for s, c in said["listed"]])
        name = f"{self.name}:{ask.symbol}"
        if ask.query is Query.DEPTH:
            return Page([DepthSnapshot(name, answer.received_ns, answer.received_ns, (), (), said["book"])])
        events: list[Event] = []
        for id_, event_ns, count in said.get("trades", ()):
            events.append(trade(name, id_, event_ns, answer.received_ns, count))
        for open_ns in said.get("candles", ()):
            events.append(candle(name, open_ns))
        if "interest" in said:
            events.append(OpenInterest(name, answer.received_ns, answer.received_ns, Decimal(said["interest"])))
        if "predicted" in said:
            events.append(PredictedFunding(name, "AAA", "x", answer.received_ns, None, None, None))
        following = None
        if said.get("more") is not None:
            following = msgspec.structs.replace(ask, from_id=None, start_ns=None, cursor=str(said["more"]))
        start_ns, end_ns = said.get("covers", (None, None))
        return Page(events, next=following, start_ns=start_ns, end_ns=end_ns)


def trade(name: str, id_: int | str, event_ns: int, received_ns: int, count: int = 1) -> Trade:
    seq = id_ if isinstance(id_, int) else 0
    return Trade(name, event_ns, received_ns, id_, seq, Side.BUY, Decimal(100), Decimal(1), count)


def candle(name: str, open_ns: int) -> Candle:
    p = Decimal(100)
    return Candle(name, Side.BOTH, 60, open_ns, p, p, p, p, p, p, 1, None, None, True, open_ns, "venue")


class ToySocket:
    """The venue's end of a connection: `say` sends, `cut` breaks it, `sent` is what we told it."""

    def __init__(self, world: "World", url: str) -> None:
        self.url = url
        self.sent: list[bytes] = []
        self.sent_ns: list[int] = []
        self.names: set[str] = set()
        self.closed = False
        self._world = world
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            frame = await self._inbox.get()
            if frame is None:
                raise TransportError("cut")
            yield frame

    async def send(self, frame: bytes) -> None:
        if self.closed:
            raise TransportError("closed")
        self.sent.append(frame)
        self.sent_ns.append(self._world.clock.now_ns())
        self._world.told(self, frame)

    async def close(self) -> None:
        self.closed = True
        self._inbox.put_nowait(None)

    def say(self, *items: dict[str, Any] | bytes) -> None:
        for item in items:
            self._inbox.put_nowait(item if isinstance(item, bytes) else json.dumps(item).encode())

    def cut(self) -> None:
        self.closed = True
        self._inbox.put_nowait(None)


class World:
    """The truth: all trades by symbol, who is connected, what REST answers."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.sockets: list[ToySocket] = []
        self.opened_ns: list[int] = []
        self.asked: list[tuple[int, str, dict[str, str]]] = []
        self.trades: dict[str, list[tuple[int | str, int, int]]] = {}
        self.listed: list[tuple[str, str | None]] = [("AAA", None), ("BBB", None)]
        self.scripted: deque[Response | TransportError] = deque()
        self.script_for: dict[str, Callable[[dict[str, str]], Response]] = {}
        self.refuse_opening = False
        self.acks: Literal["named", "unnamed", "none"] = "named"
        self.bad: set[str] = set()
        self.lag = 0  # how many of the newest trades REST does not show yet
        self.headers: dict[str, str] = {}
        self.answering = asyncio.Event()
        self.answering.set()

    @property
    def live(self) -> list[ToySocket]:
        return [s for s in self.sockets if not s.closed]

    async def open(self, url: str) -> Socket:
        self.opened_ns.append(self.clock.now_ns())
        if self.refuse_opening:
            raise TransportError("refused")
        socket = ToySocket(self, url)
        self.sockets.append(socket)
        return socket

    def told(self, socket: ToySocket, frame: bytes) -> None:
        said = json.loads(frame)
        if "subscribe" not in said and "unsubscribe" not in said:
            return
        names = said.get("subscribe", [])
        refused = [n for n in names if n in self.bad]
        socket.names |= {n for n in names if n not in self.bad}
        socket.names -= set(said.get("unsubscribe", []))
        for name in refused:
            socket.say({"no": None if self.acks == "unnamed" else name})
        if self.acks == "named":
            socket.say({"ok": [n for n in said.get("subscribe", []) if n not in refused]})
        elif self.acks == "unnamed" and not refused:
            socket.say({"ok": None})

    def trade(self, symbol: str, count: int = 1, *, heard: bool = True, id_: int | str | None = None) -> None:
        """Trades happen; whoever is subscribed hears them (unless `heard` is false)."""
        book = self.trades.setdefault(symbol, [])
        for _ in range(count):
            made = id_ if id_ is not None else len(book) + 1
            book.append((made, self.clock.now_ns(), 1))
            if heard:
                self.tell(symbol, book[-1])

    def tell(self, symbol: str, row: tuple[int | str, int, int]) -> None:
        for socket in self.live:
            if {f"trades@{symbol}", f"trades@{symbol[0]}*"} & socket.names:
                socket.say({"trade": [symbol, *row]})

    async def send(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Response:
        path, said = url.removeprefix("https://rest.toy"), dict(query)
        self.asked.append((self.clock.now_ns(), path, said))
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.scripted:
            answer = self.scripted.popleft()
            if isinstance(answer, TransportError):
                raise answer
            return answer
        if path in self.script_for:
            return self.script_for[path](said)
        return Response(200, self.headers, json.dumps(self._answer(path, said)).encode())

    def _answer(self, path: str, said: dict[str, str]) -> dict[str, Any]:
        if path == "/instruments":
            return {"listed": self.listed}
        if path in {"/open_interest", "/option_interest"}:
            return {"interest": "5"}
        if path == "/predicted_funding":
            return {"predicted": True}
        if path == "/candles":
            start, end = int(said["start"]), int(said["end"])
            closed_ns = self.clock.now_ns() // (60 * NS) * 60 * NS
            opens = [t for t in range(start, end, 60 * NS) if t < closed_ns]
            return {"candles": opens}
        if path != "/trades":
            return {}
        book = self.trades.get(said["symbol"], [])
        shown = book[: len(book) - self.lag]
        if "cursor" in said:
            rows = shown[int(said["cursor"]) :]
        elif "from_id" in said:
            rows = [r for r in shown if int(r[0]) > int(said["from_id"])]
        else:
            rows = [r for r in shown if int(said["start"]) <= r[1] < int(said["end"])]
        more = shown.index(rows[PAGE - 1]) + 1 if len(rows) > PAGE else None
        end = int(said.get("end", self.clock.now_ns()))
        return {"trades": rows[:PAGE], "more": more, "covers": (0, end)}


class Tape:
    """All that passed between us and a venue: who spoke, what kind of thing it was, and the rest as it came."""

    def __init__(self, venue: str, said: list[tuple[Any, ...]]) -> None:
        self._venue, self._said = venue, said

    def frame(self, endpoint: str, received_ns: int, frame: bytes) -> None:
        self._said.append((self._venue, "frame", endpoint, received_ns, frame))

    def opened(self, endpoint: str, received_ns: int) -> None:
        self._said.append((self._venue, "opened", endpoint, received_ns))

    def sent(self, endpoint: str, at_ns: int, frame: bytes) -> None:
        self._said.append((self._venue, "sent", endpoint, at_ns, frame))

    def told(self, request: Request, received_ns: int, body: bytes) -> None:
        self._said.append((self._venue, "told", request.path, received_ns, body))


class Rig:
    """A feed over the toy venue, and all that its bus carried."""

    def __init__(self, venues: Sequence[ToyVenue], numbers: Numbers, resume: Any = None) -> None:
        self.clock = ManualClock(START_NS)
        self.world = World(self.clock)
        self.bus = Bus()
        self.telemetry = Telemetry()
        self.heard: list[Any] = []
        kinds: tuple[type, ...] = (Trade, Quote, Liquidation, Gap, Mended, Abandoned, VenueCandle, OpenInterest)
        for kind in (*kinds, PredictedFunding, DepthSnapshot, DepthDelta):
            self.bus.listen(kind, self.heard.append)
        self.venue = venues[0]
        self.frames: list[tuple[Any, ...]] = []
        self.feed = TheFeed(
            {v.name: Access(v, v.rest, v.sockets) for v in venues},
            bus=self.bus,
            clock=self.clock,
            http=self.world,
            sockets=self.world,
            telemetry=self.telemetry,
            chance=random.Random(7),
            numbers=numbers,
            resume=resume or (lambda _name: None),
            taps={v.name: Tape(v.name, self.frames) for v in venues},
        )

    def instrument(self, symbol: str) -> Instrument:
        return instrument(symbol, self.venue.name)

    def follow(self, symbol: str, *feeds: Feed) -> Callable[[], None]:
        return self.feed.follow(self.instrument(symbol), feeds or (Feed.TRADES,))

    async def run(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, a second at a time."""
        while seconds > 0:
            step = min(1.0, seconds)
            await self.clock.advance(step)
            seconds -= step
        for _ in range(60):
            await asyncio.sleep(0)

    def of(self, kind: type, symbol: str = "AAA") -> list[Any]:
        return [e for e in self.heard if type(e) is kind and e.instrument == f"{self.venue.name}:{symbol}"]  # type: ignore[attr-defined]

    def ids(self, symbol: str = "AAA") -> list[int | str]:
        return [e.id for e in self.of(Trade, symbol)]

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"openoutcry_{name}", labels) or 0.0


@pytest.fixture
def toy() -> ToyVenue:
    return ToyVenue()


@pytest.fixture
def make_venue() -> type[ToyVenue]:
    return ToyVenue


@pytest.fixture
def make_trade() -> Callable[..., Trade]:
    return trade


@pytest.fixture
def reset_heartbeat() -> Callable[..., Heartbeat]:
    return Heartbeat


@pytest.fixture
async def make_rig() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*venues: ToyVenue, resume: Any = None, **numbers: Any) -> Rig:
        rig = Rig(venues or [ToyVenue()], Numbers(**numbers), resume)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        await rig.feed.stop()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"still running after stop: {left}"


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    made = make_rig()
    await made.feed.start()
    await made.run()
    return made
