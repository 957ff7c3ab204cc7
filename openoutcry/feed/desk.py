"""All that concerns one venue: its gate, its sessions, its gaps, its listing, its polls, and who follows what."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import msgspec
import structlog

from openoutcry.bus import Bus
from openoutcry.clock import NS, Clock
from openoutcry.errors import LimitExceeded, RateLimited, Refusal, Unavailable, Unreadable, Unsupported
from openoutcry.events import MINUTE_S, Abandoned, DepthDelta, DepthSnapshot, Event, Gap, open_of
from openoutcry.feed.backfill import Mender, RepairTiming, Watch
from openoutcry.feed.catalog import Catalog
from openoutcry.feed.dedupe import seen_for
from openoutcry.feed.depth import Depth
from openoutcry.feed.depths import Depths
from openoutcry.feed.gate import Gate, Pools
from openoutcry.feed.intake import Intake
from openoutcry.feed.polls import ASKED, POLLED, PollTiming, Round
from openoutcry.feed.session import Sessions, SessionTiming
from openoutcry.instrument import Instrument
from openoutcry.market.outside import VenueState
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, Sockets
from openoutcry.venues.venue import Answer, Ask, Feed, Page, Query, Request, Signal, Skipped, Stream, Venue

INSTRUMENTS_FOLLOWED_MAX = 5_000
PAGES_MAX = 20_000
# Times a page's plea to slow down is waited out before the asker hears of it.
PLEAS_MAX = 2
FLUSH_S = 1.0
ALIVE_S = 60.0

log = structlog.get_logger()

Resume = Callable[[str], tuple[int | str | None, int | None] | None]


class Tap(Protocol):
    """Who hears all that passes between us and one venue, as it was; every call must be quick."""

    def frame(self, endpoint: str, received_ns: int, frame: bytes) -> None:
        """The venue said that."""
        ...

    def opened(self, endpoint: str, received_ns: int) -> None:
        """The only connection to that endpoint was opened: what deltas were built on before is void."""
        ...

    def sent(self, endpoint: str, at_ns: int, frame: bytes) -> None:
        """We said that."""
        ...

    def told(self, request: Request, received_ns: int, body: bytes) -> None:
        """Its REST side answered that, and its frames cannot be understood without."""
        ...


class Access(msgspec.Struct, frozen=True):
    """A venue, and where it is: the address of its REST side, and of each of its WebSocket endpoints."""

    venue: Venue
    rest: str
    sockets: Mapping[str, str]


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The feed's settings, for all venues alike."""

    session: SessionTiming = SessionTiming()
    backfill: RepairTiming = RepairTiming()
    polls: PollTiming = PollTiming()
    listing_refresh_s: float = 3_600.0
    # After a restart, trades are fetched back to the last stored one, but not further than this.
    resume_s_max: float = 3_600.0
    # A venue from which nothing came for so long is asked whether it is alive.
    pulse_s: float = 30.0


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """What a desk needs of the world."""

    bus: Bus
    clock: Clock
    http: Http
    sockets: Sockets
    telemetry: Telemetry
    chance: random.Random
    resume: Resume
    taps: Mapping[str, Tap]
    spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


class _Carrier(msgspec.Struct):
    """A stream that somebody follows."""

    stream: Stream
    followers: int = 0
    refused: str | None = None


class Desk:
    """One venue."""

    def __init__(self, access: Access, ports: Ports, pools: Pools, numbers: Numbers) -> None:
        venue = access.venue
        self.venue = venue
        self._ports = ports
        self._numbers = numbers
        self._watches: dict[str, Watch] = {}
        self._carriers: dict[tuple[str, str], _Carrier] = {}
        self._followed: dict[tuple[str, Feed], tuple[int, tuple[Stream, ...]]] = {}
        self._instruments: dict[str, tuple[Instrument, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._tap = ports.taps.get(venue.name)
        self._reason = ""
        self._stopping = False
        clock, telemetry, chance = ports.clock, ports.telemetry, ports.chance
        self.gate = Gate(
            venue.name,
            access.rest,
            venue.limits,
            pools=pools,
            http=ports.http,
            clock=clock,
            chance=chance,
            telemetry=telemetry,
        )
        self.mender = Mender(
            venue,
            asks=self._patient,
            publish=ports.bus.publish,
            clock=clock,
            chance=chance,
            telemetry=telemetry,
            timing=numbers.backfill,
            spawn=ports.spawn,
        )
        self.intake = Intake(venue, self._watches, self.mender, bus=ports.bus, clock=clock, telemetry=telemetry)
        self.mender.repaired = self.intake.repaired
        self.sessions = Sessions(
            venue,
            dict(venue.sockets) | dict(access.sockets),
            hearer=self,
            sockets=ports.sockets,
            clock=clock,
            chance=chance,
            timing=numbers.session,
            spawn=ports.spawn,
        )
        self.catalog = Catalog(
            venue.name,
            asks=self.pages,
            taught=self._taught,
            clock=clock,
            chance=chance,
            telemetry=telemetry,
            refresh_s=numbers.listing_refresh_s,
        )
        self._depths = Depths(
            venue,
            renew=self._renew_depth,
            asks=self._patient,
            take=self.events,
            clock=clock,
            chance=chance,
            telemetry=telemetry,
            spawn=ports.spawn,
        )
        # Streams of liquidations that do not flow, and when they last did.
        self._deaf: dict[tuple[str, str], int] = {}
        self._rounds = {query: self._round(query) for query in self._polled()}
        self._reconnects = telemetry.counter(
            "feed_reconnects", "Connections that ended, by reason", ("venue", "reason")
        )
        self._refusals = telemetry.counter("feed_refused_streams", "Streams a venue will not serve", ("venue",))

    # -- running

    def start(self) -> None:
        """Read the listing, and keep everything going."""
        name = self.venue.name
        spawn = self._ports.spawn
        if Query.INSTRUMENTS in self.venue.queries:
            self._tasks.append(spawn(f"{name} catalog", self.catalog.run()))
        self._tasks.append(spawn(f"{name} upkeep", self._upkeep()))
        for query, round_ in self._rounds.items():
            self._tasks.append(spawn(f"{name} polls {query}", round_.run()))

    def stop(self) -> None:
        """No more events of connections being lost: it is we who go."""
        self._stopping = True
        self.catalog.stop()
        self.intake.flush()

    def state(self) -> VenueState:
        """How the venue is doing."""
        heard_ns = max(self.intake.received_ns or 0, self.gate.answered_ns or 0)
        alive = heard_ns > 0 and self._ports.clock.now_ns() - heard_ns < ALIVE_S * NS
        return VenueState(
            self.venue.name,
            alive,
            self.sessions.connections,
            heard_ns or None,
            self.gate.trouble or ("" if alive else self._reason),
        )

    async def _upkeep(self) -> None:
        clock = self._ports.clock
        asked_ns = clock.now_ns()
        while True:
            await clock.sleep(FLUSH_S)
            self.intake.flush()
            self._depths.upkeep()
            heard_ns = max(self.intake.received_ns or 0, self.gate.answered_ns or 0, asked_ns)
            if clock.now_ns() - heard_ns >= self._numbers.pulse_s * NS and Query.TIME in self.venue.queries:
                asked_ns = clock.now_ns()
                try:
                    async for _ in self._patient(Ask(query=Query.TIME)):
                        pass
                except Refusal as e:
                    self._reason = e.text

    # -- following

    def supports(self) -> frozenset[Feed]:
        """What can be followed: streamed, or asked for in turn."""
        return self.venue.feeds | {feed for feed, query in POLLED.items() if query in self.venue.queries}

    def followed(self, instrument: str, feed: Feed) -> bool:
        """Whether it comes in now, with nothing missing before it."""
        entry = self._followed.get((instrument, feed))
        if entry is None:
            return False
        streams = entry[1]
        if not streams:
            symbol = instrument.partition(":")[2]
            return self._rounds[POLLED[feed]].fresh(symbol)
        if feed is Feed.TRADES and not self._watches[instrument].whole:
            return False
        if feed is Feed.DEPTH and not self._depths.known(instrument):
            return False
        return all(self.sessions.covered(stream) for stream in streams)

    def follow(self, instrument: Instrument, feeds: Iterable[Feed]) -> Callable[[], None]:
        """Raises Unsupported, LimitExceeded; then nothing was followed."""
        wanted = {feed: self._streams(instrument.symbol, feed) for feed in sorted(set(feeds))}
        if instrument.name not in self._instruments and len(self._instruments) >= INSTRUMENTS_FOLLOWED_MAX:
            raise LimitExceeded(f"{self.venue.name}: no more than {INSTRUMENTS_FOLLOWED_MAX} instruments", 60.0)
        with ExitStack() as undo:
            self._know(instrument)
            undo.callback(self._forget, instrument)
            for feed, streams in wanted.items():
                undo.callback(self._follow_one(instrument, feed, streams))
            return _once(undo.pop_all().close)

    def follow_all(self, feed: Feed) -> Callable[[], None]:
        """Everything the venue says of `feed`, whatever the instrument. Raises Unsupported."""
        streams = tuple(self.venue.streams(feed, None)) if feed in self.venue.feeds else ()
        if not streams:
            raise Unsupported(f"{self.venue.name} has no stream of all {feed}")
        with ExitStack() as undo:
            for stream in streams:
                undo.callback(self._carry(stream))
            return _once(undo.pop_all().close)

    def follow_asked(self, query: Query, of: str) -> Callable[[], None]:
        """Ask in turn what no stream tells: options' open interest by underlying, positions by holder. Raises Unsupported."""
        if query not in self._rounds:
            raise Unsupported(f"{self.venue.name} cannot be asked for {query.replace('_', ' ')}")
        return _once(self._poll(query, of))

    def _streams(self, symbol: str, feed: Feed) -> tuple[Stream, ...]:
        """The streams that carry it; empty where it is asked for in turn."""
        if feed in self.venue.feeds:
            streams = tuple(self.venue.streams(feed, [symbol]))
            if streams:
                return streams
        if feed in POLLED and POLLED[feed] in self._rounds:
            return ()
        raise Unsupported(f"{self.venue.name} has no {feed} of {symbol}")

    def _follow_one(self, instrument: Instrument, feed: Feed, streams: tuple[Stream, ...]) -> Callable[[], None]:
        key = (instrument.name, feed)
        before = self._followed.get(key)
        self._followed[key] = (before[0] + 1 if before else 1, streams)
        with ExitStack() as undo:
            undo.callback(self._unfollow, key)
            if before is None and feed is Feed.TRADES:
                self._watch(instrument)
            if before is None and feed is Feed.DEPTH:
                self._depths.add(instrument.name)
            for stream in streams:
                undo.callback(self._carry(stream))
            if not streams:
                undo.callback(self._poll(POLLED[feed], instrument.symbol))
            if feed is Feed.FUNDING and Query.PREDICTED_FUNDING in self._rounds:
                undo.callback(self._poll(Query.PREDICTED_FUNDING, None))
            return undo.pop_all().close

    def _unfollow(self, key: tuple[str, Feed]) -> None:
        count, streams = self._followed[key]
        if count > 1:
            self._followed[key] = (count - 1, streams)
            return
        del self._followed[key]
        if key[1] is Feed.TRADES:
            self.mender.release(self._watches.pop(key[0]), "no longer followed")
        if key[1] is Feed.DEPTH:
            self._depths.remove(key[0])

    def _carry(self, stream: Stream) -> Callable[[], None]:
        key = (stream.endpoint, stream.name)
        carrier = self._carriers.get(key)
        if carrier is None:
            self.sessions.add(stream)
            carrier = self._carriers[key] = _Carrier(stream)
        carrier.followers += 1

        def let_go() -> None:
            carrier.followers -= 1
            if carrier.followers == 0:
                del self._carriers[key]
                self._deaf.pop(key, None)
                self.sessions.remove(stream)

        return let_go

    def _poll(self, query: Query, symbol: str | None) -> Callable[[], None]:
        round_ = self._rounds[query]
        round_.add(symbol)
        return lambda: round_.remove(symbol)

    def _watch(self, instrument: Instrument) -> None:
        """Begin a trade stream with the gap from what we have stored (or the running minute's opening) until it flows."""
        watch = self._watches[instrument.name] = Watch(instrument, seen_for(self.venue.limits.trade_ids))
        now_ns = self._ports.clock.now_ns()
        stored = self._ports.resume(instrument.name)
        id_, event_ns = stored or (None, None)
        if event_ns is None:
            self.mender.lost(watch, "start", open_of(now_ns, MINUTE_S))
            return
        earliest_ns = now_ns - round(self._numbers.resume_s_max * NS)
        if event_ns < earliest_ns:
            # What lies before stays missing, and nobody says otherwise.
            self.mender.lost(watch, "start", earliest_ns)
            return
        if id_ is not None:
            watch.seen.remember(id_)
        watch.last_id, watch.last_ns = id_, event_ns
        self.mender.lost(watch, "start", event_ns, id_)

    # -- knowing instruments

    def _know(self, instrument: Instrument) -> None:
        _, count = self._instruments.get(instrument.name, (instrument, 0))
        self._instruments[instrument.name] = (instrument, count + 1)
        if count == 0 and instrument.symbol not in self.catalog.instruments:
            self._teach()

    def _forget(self, instrument: Instrument) -> None:
        known, count = self._instruments[instrument.name]
        if count > 1:
            self._instruments[instrument.name] = (known, count - 1)
        else:
            del self._instruments[instrument.name]

    def _teach(self) -> None:
        # Followed instruments too: the listing may not be read yet, and a delisted one still ends its day.
        listed = self.catalog.instruments
        extra = [i for i, _ in self._instruments.values() if i.symbol not in listed]
        self.venue.learn([*listed.values(), *extra])

    def _taught(self) -> None:
        self._teach()
        for carrier in self._carriers.values():
            symbol = carrier.stream.symbol
            if carrier.refused is not None and (symbol == "*" or symbol in self.catalog.instruments):
                # Listed (again): worth another try, once an hour.
                with suppress(LimitExceeded):
                    self.sessions.add(carrier.stream)
                    carrier.refused = None

    # -- asking

    async def pages(self, ask: Ask, *, patient: bool = False) -> AsyncIterator[Page]:
        """All pages of an answer. Raises UnknownInstrument, Unsupported, Unavailable."""
        if ask.query not in self.venue.queries:
            raise Unsupported(f"{self.venue.name} cannot be asked for {ask.query}")
        following: Ask | None = ask
        for _ in range(PAGES_MAX):
            if following is None:
                return
            page = await self._page(following, patient=patient)
            yield page
            if page.next == following:
                raise Unavailable(self.venue.name, f"{self.venue.name} answers in a circle")
            following = page.next
        raise Unavailable(self.venue.name, f"{self.venue.name} has more pages than we read")

    def _patient(self, ask: Ask) -> AsyncIterator[Page]:
        return self.pages(ask, patient=True)

    async def _page(self, ask: Ask, *, patient: bool) -> Page:
        name = self.venue.name
        request = self.venue.request(ask)
        pleas = 0
        while True:
            answer = await self.gate.send(request, patient=patient)
            if ask.query is Query.DEPTH:
                self._told(request, answer)
            try:
                page = self.venue.page(ask, answer)
            except RateLimited as e:
                # Said in the body of an answer that looks fine: it counts for the whole venue all the same.
                self.gate.pause(e.retry_s or 1.0, banned=e.banned)
                pleas += 1
                if pleas > PLEAS_MAX:
                    raise
            except Unreadable as e:
                self.intake.unreadable(f"answer to {ask.query}: {e.why}", answer.body)
                raise Unavailable(name, f"{name} answers what cannot be read") from e
            except Refusal:
                raise
            except Exception as e:  # a fault in a translator is one question's failure
                self.intake.fault(f"fault in the translator of {ask.query}", answer.body)
                raise Unavailable(name, f"the answer of {name} could not be translated") from e
            else:
                self.intake.left_out(page.unread)
                return page

    async def raw(self, path: str, query: Iterable[tuple[str, str]], weight: int) -> Answer:
        """An answer untouched. Raises Unavailable."""
        pool = next(iter(self.venue.limits.weights), "weight")
        return await self.gate.send(Request(path=path, query=tuple(query), weight=weight, pool=pool), raw=True)

    def _polled(self) -> set[Query]:
        polled = {query for feed, query in POLLED.items() if feed not in self.venue.feeds}
        return (polled | ASKED) & self.venue.queries

    def _round(self, query: Query) -> Round:
        return Round(
            self.venue.name,
            query,
            asks=self._patient,
            take=self.intake.events,
            clock=self._ports.clock,
            round_s=self._numbers.polls.of(query),
        )

    # -- what the sessions say (session.Hearer)

    def hear(self, endpoint: str, frame: bytes, received_ns: int) -> Sequence[Event | Signal]:
        """Decode a frame; never raises."""
        if self._tap is not None:
            self._tapped(lambda tap: tap.frame(endpoint, received_ns, frame))
        return self.intake.hear(frame, received_ns)

    def opened(self, endpoint: str) -> None:
        """An endpoint's only connection was opened."""
        self._tapped(lambda tap: tap.opened(endpoint, self._ports.clock.now_ns()))

    def sent(self, endpoint: str, frame: bytes) -> None:
        """We said that."""
        self._tapped(lambda tap: tap.sent(endpoint, self._ports.clock.now_ns(), frame))

    def _told(self, request: Request, answer: Answer) -> None:
        self._tapped(lambda tap: tap.told(request, answer.received_ns, answer.body))

    def _tapped(self, say: Callable[[Tap], None]) -> None:
        if self._tap is None:
            return
        try:
            say(self._tap)
        except Exception:  # whoever records must not cost the stream
            self.intake.fault("fault in the recorder", b"")

    def events(self, events: Sequence[Event]) -> None:
        """Take what was in it."""
        if self._depths:
            for event in events:
                if isinstance(event, DepthSnapshot | DepthDelta):
                    self._depths.take(event)
        self.intake.events(events)

    def skipped(self, skipped: Skipped) -> None:
        """Count what was not for us."""
        self.intake.skipped(skipped)

    def recovered(self, stream: Stream) -> None:
        """The stream flows."""
        if self._stopping:
            return
        heard_ns = self._deaf.pop((stream.endpoint, stream.name), None)
        if heard_ns is not None:
            self._missed_liquidations(stream, heard_ns)
        if Feed.DEPTH in stream.feeds:
            self._depths.recovered(f"{self.venue.name}:{stream.symbol}")
        for watch in self._watches_of(stream):
            self.mender.recovered(watch)

    def lost(self, stream: Stream, reason: str, heard_ns: int) -> None:
        """The stream stopped."""
        if self._stopping:
            return
        if Feed.LIQUIDATIONS in stream.feeds:
            self._deaf.setdefault((stream.endpoint, stream.name), heard_ns)
        if Feed.DEPTH in stream.feeds:
            self._depths.lost(f"{self.venue.name}:{stream.symbol}", reason)
        for watch in self._watches_of(stream):
            self.mender.lost(watch, reason)

    def refused(self, stream: Stream, reason: str) -> None:
        """The venue will not serve it."""
        log.warning("stream refused", venue=self.venue.name, stream=stream.name, reason=reason[:200])
        self._refusals.labels(self.venue.name).inc()
        carrier = self._carriers.get((stream.endpoint, stream.name))
        if carrier is not None:
            carrier.refused = reason[:200]

    def ended(self, endpoint: str, reason: str, detail: str) -> None:
        """A connection ended."""
        if self._stopping:
            return
        self._reason = f"{reason}: {detail}"[:200]
        self._reconnects.labels(self.venue.name, reason).inc()
        log.info("connection ended", venue=self.venue.name, endpoint=endpoint, reason=reason, detail=detail[:200])

    def depth(self, instrument: str) -> Depth | None:
        """The levels of a followed instrument; its `seq` is None while they are not known."""
        return self._depths.get(instrument)

    def _renew_depth(self, instrument: str) -> None:
        for stream in self._followed[instrument, Feed.DEPTH][1]:
            self.sessions.renew(stream)

    def _missed_liquidations(self, stream: Stream, heard_ns: int) -> None:
        """No venue tells past liquidations: what was missed is said, and said to be lost."""
        now_ns = self._ports.clock.now_ns()
        names = list(self._instruments) if stream.symbol == "*" else [f"{self.venue.name}:{stream.symbol}"]
        for name in names:
            gap = Gap(name, str(Feed.LIQUIDATIONS), heard_ns, now_ns, "not heard")
            self._ports.bus.publish([gap, Abandoned(gap, now_ns, "no venue tells past liquidations", final=True)])

    def _watches_of(self, stream: Stream) -> list[Watch]:
        if Feed.TRADES not in stream.feeds:
            return []
        if stream.symbol == "*":
            # It may carry a part of the venue only: all options on one underlying.
            carried = {name for (name, feed), (_, streams) in self._followed.items() if stream in streams}
            return [watch for name, watch in self._watches.items() if name in carried]
        watch = self._watches.get(f"{self.venue.name}:{stream.symbol}")
        return [] if watch is None else [watch]


def _once(act: Callable[[], None]) -> Callable[[], None]:
    done = False

    def release() -> None:
        nonlocal done
        if not done:
            done = True
            act()

    return release
