"""Runs recorded frames through the same decode as live ones, at once or in the time they took, and sums up."""

import asyncio
import heapq
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec

from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, Refusal, UnknownVenue, Unreadable
from openoutcry.events import Event, Liquidation, Trade
from openoutcry.feed.dedupe import Recent, Seen, seen_for
from openoutcry.feed.recording import Damaged, Dropped, Entry, Frame, Header, Opened, Sent, Told, entries, target
from openoutcry.feed.session import SIGNALS
from openoutcry.instrument import Instrument
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Alive, Answer, Ask, Closing, Query, Refused, Reply, Skipped, Subscribed, Venue

FILES_MAX = 256
FAULTS_MAX = 20  # unreadable frames and damaged lines that are named; all are counted
LISTING_PAGES_MAX = 100
SYMBOLS_MAX = 10_000  # unlisted symbols whose spelling is tried
HEAD_BYTES_MAX = 120
# In real time, the pause between files that have no moment in common is cut to so much of recorded time.
PAUSE_S_MAX = 5.0
# A replay at full speed lets the others on the loop run after so many frames.
BREATH_FRAMES = 256

_SIGNAL_NAMES: Mapping[type, str] = {
    Reply: "reply",
    Subscribed: "subscribed",
    Refused: "refused",
    Closing: "closing",
    Alive: "alive",
}


# Stands for a symbol in a question that nobody asks.
ANY = "ANY"


class Fault(msgspec.Struct, frozen=True):
    """Where something could not be read, why, and how it begins."""

    file: str
    line: int
    why: str
    head: str


class Summary(msgspec.Struct):
    """What came out of a replay; it grows while the replay runs. Counters are by name of event, reason, signal."""

    files: int = 0
    venues: list[str] = []
    frames: int = 0
    sent: int = 0
    answers: int = 0
    listed: int = 0  # instruments that recorded answers listed
    assumed: list[str] = []  # instruments known by their spelling alone
    events: dict[str, int] = {}
    skipped: dict[str, int] = {}
    signals: dict[str, int] = {}
    duplicates: int = 0
    dropped: int = 0  # frames that the recorder had to leave out
    unreadable: int = 0  # frames
    damaged: int = 0  # lines
    faults: list[Fault] = []
    first_ns: int | None = None
    last_ns: int | None = None
    elapsed_s: float = 0.0

    @property
    def span_s(self) -> float:
        """From the first to the last frame, as they were received."""
        return 0.0 if self.first_ns is None or self.last_ns is None else (self.last_ns - self.first_ns) / NS

    @property
    def frames_per_s(self) -> float:
        """How fast they were run."""
        return self.frames / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def lines(self) -> list[str]:
        """For people."""
        told = [
            f"{self.files} files of {', '.join(self.venues) or 'no venue'}",
            f"{self.frames} frames over {self.span_s:.3f} s, {self.sent} sent, {self.answers} REST answers",
            f"{self.listed} instruments listed, {len(self.assumed)} known by their spelling",
            f"run in {self.elapsed_s:.3f} s, {self.frames_per_s:,.0f} frames/s",
        ]
        for what, counts in (("events", self.events), ("skipped", self.skipped), ("signals", self.signals)):
            told += [f"{what:10} {name:20} {count:>10,}" for name, count in sorted(counts.items())]
        for what, count in (
            ("duplicates", self.duplicates),
            ("dropped", self.dropped),
            ("unreadable", self.unreadable),
            ("damaged", self.damaged),
        ):
            told.append(f"{what:31} {count:>10,}")
        told += [f"{fault.file}:{fault.line}: {fault.why}: {fault.head}" for fault in self.faults]
        return told


class Replay:
    """Recorded files as one stream of events in the order of their receive times.

    Whose frames a file holds says its header, else its name (`BINANCE_FUTURES.ws.1.0.gz`), else `venue`. The listing
    comes from recorded answers, in the files or beside them; an instrument that is not in it is known by its spelling
    where that tells enough. Recorded answers of depth are events like those of frames. Iterate once: plainly for all
    events at once, `paced` for real time. `summary` is whole at the end. Raises UnknownVenue, Invalid; OSError where a file cannot be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        clock: Clock,
        *,
        venue: str | None = None,
        venues: Mapping[str, Callable[[], Venue]] = VENUES,
    ) -> None:
        if not 0 < len(files) <= FILES_MAX:
            raise Invalid(f"a replay takes 1 to {FILES_MAX} files")
        self.summary = Summary(files=len(files))
        self._clock = clock
        self._venues = venues
        self._left_out_ns = 0  # pauses that nobody waits for
        self._players: dict[str, _Player] = {}
        self._tracks = [(path, self._player(path, venue)) for path in files]
        self._beside = [(path, player) for file, player in self._tracks for path in _beside(file, files)]

    def __iter__(self) -> Iterator[Event]:
        """All events, as fast as they can be had."""
        for _, events in self._steps():
            yield from events

    async def paced(self, speed: float | None = 1.0) -> AsyncIterator[tuple[int, Sequence[Event]]]:
        """Receive time and events of each frame that had some, when they are due: `speed` 2 is twice as fast as it was.

        None: at once, but letting others run in between. Files that do not overlap in time are played one after the
        other, with a pause of PAUSE_S_MAX at most in between.
        """
        begun_ns = self._clock.now_ns()
        first_ns: int | None = None
        for count, (received_ns, events) in enumerate(self._steps()):
            if first_ns is None:
                first_ns = received_ns
            if speed is not None:
                due_ns = begun_ns + round((received_ns - self._left_out_ns - first_ns) / speed)
                if due_ns > self._clock.now_ns():
                    await self._clock.sleep((due_ns - self._clock.now_ns()) / NS)
            elif count % BREATH_FRAMES == 0:
                await asyncio.sleep(0)
            if events:
                yield received_ns, events

    def _steps(self) -> Iterator[tuple[int, Sequence[Event]]]:
        begun_ns = self._clock.now_ns()
        try:
            for path, player in self._beside:
                for entry in entries(path):
                    if isinstance(entry, Told):
                        player.told(entry)
            playing: set[int] = set()
            tracks = [_timed(at, path, player, playing) for at, (path, player) in enumerate(self._tracks)]
            tracks += [_depths(at, path, player) for at, (path, player) in enumerate(self._beside, len(tracks))]
            last_ns: int | None = None
            for at_ns, track, _, path, player, entry in heapq.merge(*tracks, key=lambda step: step[:3]):
                if isinstance(entry, Header | Damaged):
                    player.other(path, entry)
                    continue
                if last_ns is not None and not playing:
                    self._left_out_ns += max(0, at_ns - last_ns - round(PAUSE_S_MAX * NS))
                last_ns = at_ns
                if track < len(self._tracks):
                    playing.add(track)
                if isinstance(entry, Frame):
                    yield at_ns, player.frame(path, entry)
                elif isinstance(entry, Told):
                    if track < len(self._tracks):
                        player.told(entry)
                    yield at_ns, player.depth(path, entry)
                else:
                    player.other(path, entry)
        finally:
            self.summary.elapsed_s = (self._clock.now_ns() - begun_ns) / NS

    def _player(self, path: Path, venue: str | None) -> "_Player":
        name = venue or _headed(path) or _named(path, self._venues)
        if name is None or name not in self._venues:
            raise UnknownVenue(f"{path.name}: whose frames? say one of {', '.join(sorted(self._venues))}")
        player = self._players.get(name)
        if player is None:
            player = self._players[name] = _Player(self._venues[name](), self.summary)
            self.summary.venues.append(name)
        return player


def as_json(event: Event) -> bytes:
    """One line: the event's fields, led by its type."""
    return b'{"event":"%s",%s' % (type(event).__name__.encode(), msgspec.json.encode(event)[1:])


class _Player:
    """One venue of a replay: its listing as far as it is known, and what it said already."""

    def __init__(self, venue: Venue, summary: Summary) -> None:
        self._venue = venue
        self._summary = summary
        self._answers: dict[str, Told] = {}
        self._listing: dict[str, Instrument] = {}
        self._tried: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._liquidations = Recent()

    def frame(self, path: Path, entry: Frame) -> list[Event]:
        """The events of one frame that were not there before."""
        summary = self._summary
        summary.frames += 1
        if summary.first_ns is None:
            summary.first_ns = entry.received_ns
        summary.last_ns = entry.received_ns
        try:
            told = self._venue.decode(entry.frame, entry.received_ns)
            if self._assume(told):
                told = self._venue.decode(entry.frame, entry.received_ns)
        except Unreadable as e:
            summary.unreadable += 1
            self._fault(path, entry.line, e.why, entry.frame)
            return []
        events: list[Event] = []
        for one in told:
            if type(one) in SIGNALS:
                self._signal(one)
            elif self._new(one):  # type: ignore[arg-type]  # what is no signal is an event
                events.append(one)  # type: ignore[arg-type]
                name = type(one).__name__
                summary.events[name] = summary.events.get(name, 0) + 1
            else:
                summary.duplicates += 1
        return events

    def other(self, path: Path, entry: Entry) -> None:
        """Take what is no frame."""
        summary = self._summary
        match entry:
            case Opened(endpoint=endpoint):
                for each in [endpoint] if endpoint in self._venue.sockets else self._venue.sockets:
                    self._venue.reset(each)
            case Sent():
                summary.sent += 1
            case Dropped(count=count):
                summary.dropped += count
            case Damaged(line=line, why=why, head=head):
                summary.damaged += 1
                self._fault(path, line, why, head)

    def told(self, told: Told) -> None:
        """Take a REST answer; those of the listing teach the venue."""
        self._summary.answers += 1
        first = Ask(query=Query.INSTRUMENTS)
        if _path(told.asked) != self._venue.request(first).path:
            return
        if len(self._answers) < LISTING_PAGES_MAX:
            self._answers[told.asked] = told
        listing: list[Instrument] = []
        ask: Ask | None = first
        for _ in range(LISTING_PAGES_MAX):
            if ask is None:
                break
            try:
                answer = self._answer(ask)
                if answer is None:
                    break
                page = self._venue.page(ask, Answer(200, {}, answer.body, answer.received_ns))
            except (Unreadable, Refusal):
                # The recorded listing is of another day or damaged: spelling has to do.
                self._summary.skipped["listing"] = self._summary.skipped.get("listing", 0) + 1
                break
            listing += page.instruments
            ask = page.next
        if listing:
            self._listing = {instrument.symbol: instrument for instrument in listing}
            self._venue.learn(self._listing.values())
            self._summary.listed = len(self._listing)

    def depth(self, path: Path, told: Told) -> list[Event]:
        """The snapshot that deltas build on, where the answer is one."""
        symbol = self._symbol_of_depth(told.asked)
        if symbol is None:
            return []
        try:
            ask = Ask(query=Query.DEPTH, symbol=symbol)
            page = self._venue.page(ask, Answer(200, {}, told.body, told.received_ns))
        except (Unreadable, Refusal) as e:
            self._summary.skipped["depth"] = self._summary.skipped.get("depth", 0) + 1
            self._fault(path, told.line, e.why if isinstance(e, Unreadable) else e.text, told.body)
            return []
        for event in page.events:
            name = type(event).__name__
            self._summary.events[name] = self._summary.events.get(name, 0) + 1
        return list(page.events)

    def _symbol_of_depth(self, asked: str) -> str | None:
        """Whose depth was asked for; None where it was something else."""
        if Query.DEPTH not in self._venue.queries:
            return None
        model = self._venue.request(Ask(query=Query.DEPTH, symbol=ANY))
        if _path(asked) != model.path:
            return None
        said = dict(parse_qsl(asked.partition("?")[2]))
        return next((said.get(key) for key, value in model.query if value == ANY), None)

    def _answer(self, ask: Ask) -> Told | None:
        """The recorded answer to that question; one that was asked without a query answers any."""
        asked = target(self._venue.request(ask))
        if asked in self._answers:
            return self._answers[asked]
        query = asked.partition("#")[0].partition("?")[2]
        wanted = set(parse_qsl(query, keep_blank_values=True))
        for told in self._answers.values():
            if "#" not in asked and set(parse_qsl(told.asked.partition("?")[2])) <= wanted and not ask.cursor:
                return told
        return None

    def _assume(self, told: Sequence[object]) -> bool:
        """Whether an instrument was unknown and its spelling tells what it is."""
        learnt = False
        for one in told:
            if not isinstance(one, Skipped) or one.why != "unknown_instrument" or one.name in self._tried:
                continue
            if len(self._tried) >= SYMBOLS_MAX:
                break
            self._tried.add(one.name)
            instrument = self._venue.assume(one.name)
            if instrument is not None:
                self._listing[instrument.symbol] = instrument
                self._summary.assumed.append(instrument.name)
                learnt = True
        if learnt:
            self._venue.learn(self._listing.values())
        return learnt

    def _signal(self, signal: object) -> None:
        if isinstance(signal, Skipped):
            self._summary.skipped[signal.why] = self._summary.skipped.get(signal.why, 0) + 1
        else:
            name = _SIGNAL_NAMES[type(signal)]
            self._summary.signals[name] = self._summary.signals.get(name, 0) + 1

    def _new(self, event: Event) -> bool:
        if isinstance(event, Trade):
            seen = self._seen.get(event.instrument)
            if seen is None:
                seen = self._seen[event.instrument] = seen_for(self._venue.limits.trade_ids)
            # A hole is a trade too: what was missed is missed in a recording.
            return seen.admit(event) is not False
        if isinstance(event, Liquidation):
            return self._liquidations.add((event.instrument, event.id))
        return True

    def _fault(self, path: Path, line: int, why: str, head: bytes) -> None:
        if len(self._summary.faults) < FAULTS_MAX:
            text = head[:HEAD_BYTES_MAX].decode("utf-8", "replace")
            self._summary.faults.append(Fault(path.name, line, why, text))


# When it is due, the track and the place in it, and what is there.
_Step = tuple[int, int, int, Path, _Player, Entry]


def _timed(track: int, path: Path, player: _Player, playing: set[int]) -> Iterator[_Step]:
    """Entries with the time they are due; what has no time of its own follows the one before.

    At its end the track is taken out of those that are `playing`.
    """
    at_ns = 0
    for place, entry in enumerate(entries(path)):
        if not isinstance(entry, Header | Damaged):
            at_ns = entry.received_ns
        yield at_ns, track, place, path, player, entry
    playing.discard(track)


def _depths(track: int, path: Path, player: _Player) -> Iterator[_Step]:
    """The REST answers of a file beside; those of the listing were taken before, and tell nothing again."""
    for place, entry in enumerate(entries(path)):
        if isinstance(entry, Told):
            yield entry.received_ns, track, place, path, player, entry


def _headed(path: Path) -> str | None:
    first = next(entries(path), None)
    return first.venue if isinstance(first, Header) else None


def _named(path: Path, venues: Mapping[str, Callable[[], Venue]]) -> str | None:
    """`BINANCE_FUTURES.ws.1.0.gz`, `HYPERLIQUID_20250126.gz`: the venue, then anything that is not a name."""
    for name in sorted(venues, key=len, reverse=True):
        if re.match(rf"{re.escape(name)}(?![^\W\d_])(?!_[a-z])", path.name.lower()):
            return name
    return None


def _beside(file: Path, files: Sequence[Path]) -> list[Path]:
    """The REST half of a session recorded by cryptofeed: `X.0.gz` and `X.http.*` beside `X.ws.*`."""
    prefix, dot, rest = file.name.partition(".")
    if not dot or not rest.startswith("ws."):
        return []
    others = sorted(file.parent.glob("*"))
    wanted = re.compile(rf"{re.escape(prefix)}\.(\d+|http\.[\d.]+)\.gz")
    return [path for path in others if wanted.fullmatch(path.name) and path not in files][:FILES_MAX]


def _path(asked: str) -> str:
    return asked.partition("#")[0].partition("?")[0]
