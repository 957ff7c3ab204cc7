"""One session a connection: subscribe, keep alive, notice silence, come back, and renew before the venue cuts.

A `Line` is a set of streams that share one connection and wants it up for ever; a `Link` is one open connection of it.
Usually a line has one link. Before a planned end it opens a second, and retires the first when the second delivers: the
two overlap, and what comes twice is dropped by id. A stream counts as covered while any link of its line has it
subscribed; the hearer is told when that begins (`recovered`) and when it ends (`lost`).
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import LimitExceeded
from openoutcry.events import (
    Candle,
    DepthDelta,
    DepthSnapshot,
    Event,
    FundingRate,
    Liquidation,
    MarkPrice,
    OpenInterest,
    Quote,
    Trade,
)
from openoutcry.feed.budget import Pace
from openoutcry.transport import Socket, Sockets, TransportError
from openoutcry.venues.venue import (
    Alive,
    Closing,
    Feed,
    Refused,
    Reply,
    Signal,
    Skipped,
    Stream,
    Subscribed,
    Venue,
)

LINES_MAX = 32
# Links of one line at a time: the one that serves, and those that are being replaced.
LINKS_MAX = 3
OUTBOX_MAX = 1_024
PENDING_MAX = 8_192
TICK_S = 1.0
# A stream that was neither taken nor refused after so long is asked for again alone; after that it is taken for granted
# and its silence clock decides.
ACK_S = 10.0
HEALTHY_S = 60.0
# Not even after a healthy hour at once: a venue that closes politely in a circle must not be courted in a circle.
BACKOFF_S_FLOOR = 0.1
# A stream that stays silent through a reconnect is given twice the time before the next, up to so many times.
PATIENCE_MAX = 32
CLOSE_S_MAX = 1.0

EVENTS_OF: dict[Feed, tuple[type, ...]] = {
    Feed.TRADES: (Trade,),
    Feed.CANDLES: (Candle,),
    Feed.QUOTES: (Quote,),
    Feed.DEPTH: (DepthSnapshot, DepthDelta),
    Feed.LIQUIDATIONS: (Liquidation,),
    Feed.OPEN_INTEREST: (OpenInterest,),
    Feed.FUNDING: (FundingRate,),
    Feed.MARK_PRICE: (MarkPrice,),
}
SIGNALS = frozenset({Reply, Subscribed, Refused, Closing, Alive, Skipped})

log = structlog.get_logger()


class SessionTiming(msgspec.Struct, frozen=True, kw_only=True):
    """When a session acts. `silence_s` overrides the venue's own silence of a connection."""

    silence_s: float | None = None
    backoff_s_min: float = 0.5
    backoff_s_max: float = 30.0
    # A new connection is opened so long before the old one's end of life, and the two overlap for so long.
    renewal_s: float = 600.0
    overlap_s: float = 5.0


class Hearer(Protocol):
    """Who takes what a session hears."""

    def hear(self, endpoint: str, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """Decode a frame; never raises."""
        ...

    def opened(self, endpoint: str) -> None:
        """The only connection to it was opened: what deltas were built on before is void."""
        ...

    def sent(self, endpoint: str, frame: bytes) -> None:
        """We said that."""
        ...

    def events(self, events: Sequence[Event]) -> None:
        """These were in it."""
        ...

    def skipped(self, skipped: Skipped) -> None:
        """This was in it and is not for us."""
        ...

    def recovered(self, stream: Stream) -> None:
        """From now on what the stream says reaches us."""
        ...

    def lost(self, stream: Stream, reason: str, heard_ns: int) -> None:
        """It does not any more; `heard_ns` is when its connection last said anything."""
        ...

    def refused(self, stream: Stream, reason: str) -> None:
        """The venue will not serve it; it was dropped."""
        ...

    def ended(self, endpoint: str, reason: str, detail: str) -> None:
        """A connection ended or could not be opened."""
        ...


class Sessions:
    """All lines of one venue: a stream is added to a line that has room, or to a new one."""

    def __init__(
        self,
        venue: Venue,
        addresses: dict[str, str],
        *,
        hearer: Hearer,
        sockets: Sockets,
        clock: Clock,
        chance: random.Random,
        timing: SessionTiming,
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._venue = venue
        self._addresses = addresses
        self._hearer = hearer
        self._sockets = sockets
        self._clock = clock
        self._chance = chance
        self._timing = timing
        self._spawn = spawn
        self._pace = Pace(venue.limits.connections, clock)
        self._lines: dict[str, list[Line]] = {}
        self._tasks: dict[Line, asyncio.Task[None]] = {}

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return sum(line.connections for lines in self._lines.values() for line in lines)

    def covered(self, stream: Stream) -> bool:
        """Whether the stream is subscribed on an open connection."""
        return any(line.covers(stream.name) for line in self._lines.get(stream.endpoint, ()))

    def add(self, stream: Stream) -> None:
        """Want this stream. Raises LimitExceeded."""
        lines = self._lines.setdefault(stream.endpoint, [])
        room = self._venue.limits.streams_per_connection
        line = next((line for line in lines if len(line.wanted) < room), None)
        if line is None:
            if sum(map(len, self._lines.values())) >= LINES_MAX:
                raise LimitExceeded(f"{self._venue.name} has no room for another stream", 60.0)
            line = Line(
                self._venue,
                self._addresses[stream.endpoint],
                stream.endpoint,
                hearer=self._hearer,
                sockets=self._sockets,
                clock=self._clock,
                chance=self._chance,
                timing=self._timing,
                pace=self._pace,
                alone=lambda endpoint: len(self._lines[endpoint]) == 1,
            )
            lines.append(line)
            self._tasks[line] = self._spawn(f"{self._venue.name}/{stream.endpoint}", line.run())
        line.add(stream)

    def remove(self, stream: Stream) -> None:
        """Want this stream no more; a connection without streams is closed."""
        lines = self._lines.get(stream.endpoint, [])
        for line in lines:
            if stream.name in line.wanted:
                line.remove(stream)
                if not line.wanted:
                    lines.remove(line)
                    self._tasks.pop(line).cancel()
                return

    def renew(self, stream: Stream) -> None:
        """Give up the stream and ask for it anew, which makes the venue send a fresh snapshot."""
        for line in self._lines.get(stream.endpoint, ()):
            if stream.name in line.wanted:
                line.ask_again(stream)


class Line:
    """Streams that share a connection, and the connection they have now."""

    def __init__(
        self,
        venue: Venue,
        address: str,
        endpoint: str,
        *,
        hearer: Hearer,
        sockets: Sockets,
        clock: Clock,
        chance: random.Random,
        timing: SessionTiming,
        pace: Pace,
        alone: Callable[[str], bool],
    ) -> None:
        self.venue = venue
        self.address = address
        self.endpoint = endpoint
        self.wanted: dict[str, Stream] = {}
        self.hearer = hearer
        self.sockets = sockets
        self.clock = clock
        self.chance = chance
        self.timing = timing
        self.patience: dict[str, int] = {}
        self._pace = pace
        self._alone = alone
        self._links: list[Link] = []
        self._running: set[asyncio.Task[None]] = set()
        self._some_wanted = asyncio.Event()

    @property
    def connections(self) -> int:
        """Links that are open."""
        return sum(link.open for link in self._links)

    def covers(self, name: str) -> bool:
        """Whether some link has the stream subscribed."""
        return any(link.covers(name) for link in self._links)

    def add(self, stream: Stream) -> None:
        """Want a stream."""
        self.wanted[stream.name] = stream
        self._some_wanted.set()
        for link in self._links:
            link.work.set()

    def remove(self, stream: Stream) -> None:
        """Want it no more."""
        self.wanted.pop(stream.name, None)
        self.patience.pop(stream.name, None)
        if not self.wanted:
            self._some_wanted.clear()
        for link in self._links:
            link.work.set()

    def ask_again(self, stream: Stream) -> None:
        """Give it up and ask for it anew on every open link."""
        for link in self._links:
            link.ask_again(stream)

    async def run(self) -> None:
        """Keep a link up, for ever."""
        misses = 0
        try:
            while True:
                await self._some_wanted.wait()
                await self._pace.turn()
                began_ns = self.clock.now_ns()
                link = await self._serve()
                healthy = link.opened and self.clock.now_ns() - began_ns >= HEALTHY_S * NS
                misses = 0 if healthy else misses + 1
                await self.clock.sleep(self._backoff_s(misses))
        finally:
            for link in self._links:
                link.reason, link.detail = "released", "no longer wanted"
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def acknowledged(self, link: "Link", stream: Stream) -> None:
        """A link has the stream subscribed."""
        if not any(other.covers(stream.name) for other in self._links if other is not link):
            self.hearer.recovered(stream)

    def uncovered(self, link: "Link", stream: Stream, reason: str) -> None:
        """A link has it no more."""
        if stream.name in self.wanted and not any(
            other.covers(stream.name) for other in self._links if other is not link
        ):
            self.hearer.lost(stream, reason, link.received_ns)

    def refuse(self, stream: Stream, reason: str) -> None:
        """The venue does not serve it: go on without."""
        if self.wanted.pop(stream.name, None) is not None:
            self.hearer.refused(stream, reason)
        if not self.wanted:
            self._some_wanted.clear()

    def ready(self, link: "Link") -> None:
        """`link` delivers: those before it may go."""
        for other in self._links[: self._links.index(link)]:
            other.stop("renewal", "replaced")

    async def _serve(self) -> "Link":
        """One link, until it ended or asks to be replaced."""
        fresh = False
        if not any(link.open for link in self._links) and self._alone(self.endpoint):
            # With several connections to an endpoint the others' deltas still stand on what they were told.
            self.venue.reset(self.endpoint)
            fresh = True
        for tired in self._links[: -(LINKS_MAX - 1)]:
            tired.stop("renewal", "too many at once")
        link = Link(self, fresh=fresh)
        self._links.append(link)
        task = asyncio.create_task(self._follow_through(link), name=f"{self.venue.name}/{self.endpoint} link")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        leaving = asyncio.create_task(link.leaving.wait())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        return link

    async def _follow_through(self, link: "Link") -> None:
        try:
            await link.run()
        except Exception as e:  # a fault of ours in one link must not end the line: say so and connect again
            log.exception("session failed", venue=self.venue.name, endpoint=self.endpoint)
            link.reason, link.detail = "fault", type(e).__name__
        finally:
            link.end()
            self._links.remove(link)
            self.hearer.ended(self.endpoint, link.reason, link.detail)

    def _backoff_s(self, misses: int) -> float:
        ceiling_s = min(self.timing.backoff_s_max, self.timing.backoff_s_min * 2.0 ** min(misses, 20))
        return max(BACKOFF_S_FLOOR, self.chance.uniform(0, ceiling_s))


class _Slot:
    """A stream on one link. `acked` when it was taken, `seen_ns` when it last said something, `tries` askings alone."""

    __slots__ = ("acked", "asked_ns", "seen_ns", "stream", "tries")

    def __init__(self, stream: Stream, asked_ns: int) -> None:
        self.stream = stream
        self.asked_ns = asked_ns
        self.seen_ns = 0
        self.acked = False
        self.tries = 0


class Link:
    """One open connection; `fresh` where the venue's deltas begin anew with it."""

    def __init__(self, line: Line, *, fresh: bool) -> None:
        self.open = False
        self.opened = False
        self.reason = "cut"
        self.detail = ""
        self.leaving = asyncio.Event()
        self.work = asyncio.Event()
        self._line = line
        self._fresh = fresh
        self._limits = line.venue.limits
        self._clock = line.clock
        self._stopped = asyncio.Event()
        self._slots: dict[str, _Slot] = {}
        self._heard: dict[tuple[type, str], _Slot] = {}
        self._urgent: deque[bytes] = deque()
        self._frames: deque[tuple[bytes, tuple[str, ...], bool]] = deque()
        self._pending: deque[tuple[set[str], bool]] = deque(maxlen=PENDING_MAX)
        self._alone: deque[str] = deque()
        self._opened_ns = 0
        self.received_ns = 0
        self._beat_ns = 0
        self._delivered = False
        self._ready = False
        self._acked_ns = 0

    def covers(self, name: str) -> bool:
        """Whether the stream is subscribed here."""
        slot = self._slots.get(name)
        return self.open and slot is not None and slot.acked

    def stop(self, reason: str, detail: str) -> None:
        """Close soon. Why it was to be replaced stays the reason where it was."""
        if not self.leaving.is_set():
            self.reason, self.detail = reason, detail
        self._stopped.set()

    async def run(self) -> None:
        """Open, serve until the connection ends, close."""
        line = self._line
        try:
            # Streams are asked for on the open connection, always: an address that names hundreds outgrows what is taken.
            url = line.venue.url(line.address, line.endpoint, ())
            socket = await line.sockets.open(url)
        except TransportError as e:
            self.reason, self.detail = "connect", str(e)
            return
        self.open = self.opened = True
        if self._fresh:
            line.hearer.opened(line.endpoint)
        self._opened_ns = self.received_ns = self._beat_ns = self._clock.now_ns()
        self.work.set()
        parts = [
            asyncio.create_task(part, name=f"{line.venue.name}/{line.endpoint} {what}")
            for what, part in (
                ("read", self._read(socket)),
                ("talk", self._talk(socket)),
                ("keep", self._keep()),
                ("stop", self._stop_asked()),
            )
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        except TransportError as e:
            self.reason, self.detail = "cut", str(e)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            # Uncovered before the close handshake, which may take its time.
            self.end()
            with contextlib.suppress(TransportError, TimeoutError):
                await asyncio.wait_for(socket.close(), CLOSE_S_MAX)

    def end(self) -> None:
        """Give up what it covered; a second call does nothing."""
        covered = [slot.stream for slot in self._slots.values() if slot.acked] if self.open else []
        self.open = False
        self._slots.clear()
        self._heard.clear()
        for stream in covered:
            self._line.uncovered(self, stream, self.reason)

    def ask_again(self, stream: Stream) -> None:
        """Unsubscribe and subscribe this stream."""
        if stream.name in self._slots:
            self._queue(self._line.venue.subscribe([stream], undo=True), (stream.name,), undo=True)
            self._alone.append(stream.name)
            self.work.set()

    async def _stop_asked(self) -> None:
        await self._stopped.wait()

    # -- hearing

    async def _read(self, socket: Socket) -> None:
        hear, take = self._line.hearer.hear, self._line.hearer.events
        now_ns, endpoint, heard = self._clock.now_ns, self._line.endpoint, self._heard
        async for frame in socket:
            received_ns = self.received_ns = now_ns()
            said = hear(endpoint, frame, received_ns)
            if not said:
                continue
            events = said if len(said) == 1 and type(said[0]) not in SIGNALS else self._sort(said)
            if events:
                last = events[-1]
                slot = heard.get((type(last), last.instrument)) or heard.get((type(last), "*"))  # type: ignore[union-attr]
                if slot is not None:
                    slot.seen_ns = received_ns
                    if not slot.acked:
                        self._acknowledge(slot)
                self._delivered = True
                take(events)  # type: ignore[arg-type]
        self.reason, self.detail = "closed", "closed without a word"

    def _sort(self, said: Sequence[Event | Signal]) -> list[Event]:
        events: list[Event] = []
        for item in said:
            match item:
                case Skipped():
                    self._line.hearer.skipped(item)
                case Alive():
                    pass
                case Reply(frame):
                    self._say(frame)
                case Subscribed(names):
                    self._take_ack(names)
                case Refused(name, reason):
                    self._take_refusal(name, reason)
                case Closing(reason):
                    log.info("venue will close", venue=self._line.venue.name, reason=reason[:200])
                    self._leave("closing", reason)
                case _:
                    events.append(item)
        return events

    def _take_ack(self, names: tuple[str, ...]) -> None:
        if not names:
            names = tuple(self._oldest_asked())
        for name in names:
            self._settle(name)
            slot = self._slots.get(name)
            if slot is not None and not slot.acked:
                self._acknowledge(slot)

    def _acknowledge(self, slot: _Slot) -> None:
        slot.acked = True
        self._acked_ns = self._clock.now_ns()
        self._line.acknowledged(self, slot.stream)

    def _take_refusal(self, name: str | None, reason: str) -> None:
        if name is None:
            waiting = self._oldest_asked()
            if len(waiting) != 1:
                # One of several: asked for one by one, the bad one shows itself.
                self._alone.extend(sorted(waiting))
                self.work.set()
                log.info("venue refused something", venue=self._line.venue.name, reason=reason[:200], of=len(waiting))
                return
            name = waiting.pop()
        self._settle(name)
        slot = self._slots.pop(name, None)
        if slot is None:
            return
        self._unlist(slot)
        self._line.refuse(slot.stream, reason)

    def _oldest_asked(self) -> set[str]:
        """What an answer without names is about: answers come in the order of the asking."""
        while self._pending:
            names, undo = self._pending.popleft()
            # Whether giving up is answered at all differs by venue.
            if not undo:
                return names
        return set()

    def _settle(self, name: str) -> None:
        for entry in self._pending:
            if name in entry[0]:
                entry[0].discard(name)
                break
        while self._pending and not self._pending[0][0]:
            self._pending.popleft()

    # -- talking

    async def _talk(self, socket: Socket) -> None:
        pace = Pace(self._limits.messages, self._clock)
        while True:
            self.work.clear()
            while self._urgent or self._frames or self._plan():
                await pace.turn()
                if self._urgent:
                    frame = self._urgent.popleft()
                elif self._frames:
                    frame, names, undo = self._frames.popleft()
                    self._pending.append((set(names), undo))
                else:
                    continue
                await socket.send(frame)
                self._line.hearer.sent(self._line.endpoint, frame)
            await self.work.wait()

    def _plan(self) -> bool:
        """Queue the next frames that bring what is subscribed nearer to what is wanted; False when all is done."""
        wanted, slots, most = self._line.wanted, self._slots, max(1, self._limits.streams_per_subscribe)
        gone = [slot for name, slot in slots.items() if name not in wanted][:most]
        if gone:
            for slot in gone:
                del slots[slot.stream.name]
                self._unlist(slot)
            streams = [slot.stream for slot in gone]
            self._queue(self._line.venue.subscribe(streams, undo=True), tuple(s.name for s in streams), undo=True)
            return True
        new = [stream for name, stream in wanted.items() if name not in slots][:most]
        if not new and self._alone:
            alone = slots.get(self._alone.popleft())
            if alone is None:
                return True
            new = [alone.stream]
        if new:
            self._subscribe(new)
        return bool(new)

    def _subscribe(self, streams: Sequence[Stream]) -> None:
        frames = self._line.venue.subscribe(streams)
        for stream in streams:
            slot = self._slots.get(stream.name)
            if slot is None:
                slot = self._slots[stream.name] = _Slot(stream, self._clock.now_ns())
                self._list(slot)
            else:
                slot.asked_ns = self._clock.now_ns()
            if not frames:  # the address carries it
                self._acknowledge(slot)
        self._queue(frames, tuple(stream.name for stream in streams), undo=False)

    def _queue(self, frames: Sequence[bytes], names: tuple[str, ...], *, undo: bool) -> None:
        # One frame for all, or one for each; anything else is acknowledged with its last.
        each = len(frames) == len(names)
        for i, frame in enumerate(frames):
            about = (names[i],) if each else names if i == len(frames) - 1 else ()
            self._frames.append((frame, about, undo))

    def _list(self, slot: _Slot) -> None:
        symbol = slot.stream.symbol
        instrument = "*" if symbol == "*" else f"{self._line.venue.name}:{symbol}"
        for feed in slot.stream.feeds:
            for kind in EVENTS_OF[feed]:
                self._heard[kind, instrument] = slot

    def _unlist(self, slot: _Slot) -> None:
        for key in [key for key, listed in self._heard.items() if listed is slot]:
            del self._heard[key]

    def _say(self, frame: bytes) -> None:
        if len(self._urgent) >= OUTBOX_MAX:
            self.stop("flooded", "more to answer than we may send")
            return
        self._urgent.append(frame)
        self.work.set()

    # -- keeping

    async def _keep(self) -> None:
        timing, limits = self._line.timing, self._limits
        silence_s = timing.silence_s or limits.silence_s
        margin_s = min(timing.renewal_s, limits.lifetime_s / 4)
        # Spread, so that connections opened together are not renewed together.
        life_s = limits.lifetime_s - margin_s * (1 + self._line.chance.random())
        while True:
            await self._clock.sleep(TICK_S)
            now_ns = self._clock.now_ns()
            if now_ns - self.received_ns > silence_s * NS:
                self.reason, self.detail = "silent", f"nothing for {silence_s:g} s"
                return
            self._beat(now_ns)
            self._watch(now_ns)
            if now_ns - self._opened_ns > life_s * NS:
                self._leave("renewal", "end of life")
            self._judge_ready(now_ns)

    def _beat(self, now_ns: int) -> None:
        heartbeat = self._limits.heartbeat
        if heartbeat is None:
            return
        since_ns = max(self.received_ns, self._beat_ns) if heartbeat.idle else self._beat_ns
        if now_ns - since_ns >= heartbeat.every_s * NS:
            self._beat_ns = now_ns
            self._say(heartbeat.frame)

    def _watch(self, now_ns: int) -> None:
        patience = self._line.patience
        for slot in list(self._slots.values()):
            name = slot.stream.name
            if not slot.acked and now_ns - slot.asked_ns > ACK_S * NS:
                self._unanswered(slot)
            if slot.stream.silence_s is None or self.leaving.is_set():
                continue
            if slot.seen_ns:
                patience.pop(name, None)
            quiet_s = (now_ns - max(slot.seen_ns, slot.asked_ns)) / NS
            times = patience.get(name, 1)
            if quiet_s > slot.stream.silence_s * times:
                patience[name] = min(times * 2, PATIENCE_MAX)
                log.warning("stream silent", venue=self._line.venue.name, stream=name, silent_s=round(quiet_s, 1))
                if slot.acked:
                    slot.acked = False
                    self._line.uncovered(self, slot.stream, "silent")
                self._leave("stream_silent", name)

    def _unanswered(self, slot: _Slot) -> None:
        slot.tries += 1
        if slot.tries == 1 and not self.leaving.is_set():
            slot.asked_ns = self._clock.now_ns()
            self._alone.append(slot.stream.name)
            self.work.set()
        elif not self.leaving.is_set():
            log.info("stream not acknowledged", venue=self._line.venue.name, stream=slot.stream.name)
            self._acknowledge(slot)

    def _leave(self, reason: str, detail: str) -> None:
        if not self.leaving.is_set():
            self.reason, self.detail = reason, detail
            self.leaving.set()

    def _judge_ready(self, now_ns: int) -> None:
        if self._ready or not all(slot.acked for slot in self._slots.values()):
            return
        if len(self._slots) < len(self._line.wanted):
            return
        waited_s = (now_ns - self._acked_ns) / NS
        # A market may be asleep: after a while the acknowledgements must do.
        if waited_s >= self._line.timing.overlap_s * (1 if self._delivered else 6):
            self._ready = True
            self._line.ready(self)
