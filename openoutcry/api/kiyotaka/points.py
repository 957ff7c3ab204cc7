"""Points of a window and points as they come: what gRPC, REST and JSON-RPC all answer from.

A `Form` is how points are spelled; everything else is the same for all three. A stream replays history out of the store and
passes over to live: it listens first, reads then, and leaves out of what it heard meanwhile what it read already.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from typing import Protocol

import msgspec
import structlog

from openoutcry.api.dialect import Doors
from openoutcry.api.kiyotaka import names
from openoutcry.api.kiyotaka.catalogue import Catalogue
from openoutcry.api.kiyotaka.piece import Piece
from openoutcry.api.kiyotaka.wire import POINTS_MAX, Question
from openoutcry.clock import NS
from openoutcry.errors import Invalid, LimitExceeded, Refusal, TooLarge
from openoutcry.events import Side, Trade, open_of
from openoutcry.market.blocks import Cut
from openoutcry.market.columnar import Told
from openoutcry.market.series import Columns, Of, Row, time_of
from openoutcry.venues.venue import Feed

# Rows of one message: 400 kB of candles, well below the 4 MiB that clients take.
MESSAGE_ROWS_MAX = 5_000
# Points that wait for one slow client before its stream is ended: some 160 bytes each, and two pages of a repaired gap.
WAITING_MAX = 2_000
BUCKETS_WAITING = 8
# A window that is over is ended so long afterwards, when its last buckets have closed.
CLOSING_S = 3.0
# Series of one question that are looked up, or asked for, at the same time.
ASKED_AT_ONCE = 16
# Instruments that one stream has followed for it, where nobody followed them yet.
FOLLOWED_MAX = 50
# What is heard on a stream may be so much older than the moment it began.
LATE_S = 120.0
STREAMS_MAX = 10_000
MISSING_SHOWN = 20
FEEDS_OF: Mapping[Of, frozenset[Feed]] = {
    Of.TRADES: frozenset({Feed.TRADES}),
    Of.CANDLES: frozenset({Feed.TRADES, Feed.CANDLES}),
    Of.INTEREST_BARS: frozenset({Feed.OPEN_INTEREST}),
    Of.FUNDING_BARS: frozenset({Feed.FUNDING}),
    Of.LIQUIDATION_BARS: frozenset({Feed.LIQUIDATIONS}),
}

log = structlog.get_logger()

Stop = Callable[[], None]


class Part(msgspec.Struct, frozen=True):
    """What there is of one series: closed rows as cuts of blocks, then rows that still change."""

    piece: Piece
    told: Told


class Form(Protocol):
    """How points are spelled. Points of one series stand beside each other with `joint` between them."""

    name: str
    joint: bytes

    def cut(self, piece: Piece, cut: Cut) -> bytes:
        """The points of a cut, joined."""
        ...

    def row(self, piece: Piece, row: Row) -> bytes:
        """One point."""
        ...

    def series(self, piece: Piece, points: Sequence[bytes]) -> bytes:
        """A series, of points that are not joined yet."""
        ...


class Leash:
    """How a stream is ended from outside: a key that is revoked. `live` is called once its history is told."""

    def __init__(self) -> None:
        self.refusal: Refusal | None = None
        # Parts of the history that nobody has, a few of them.
        self.holes: list[Part] = []
        self.pull: Callable[[], None] = _nothing
        self.live: Callable[[], None] = _nothing

    def end(self, refusal: Refusal) -> None:
        """Let the stream raise this, as soon as its client takes what is before it."""
        self.refusal = refusal
        self.pull()

    def check(self) -> None:
        """Raises what it was ended with."""
        if self.refusal is not None:
            raise self.refusal


class Points:
    """Answers questions; raw trades older than `Doors.trades_kept_s` are not told, as published."""

    def __init__(self, doors: Doors, catalogue: Catalogue) -> None:
        self._doors, self._catalogue = doors, catalogue
        self._market, self._clock = doors.market, doors.clock
        self.hub = _Hub(doors)
        self.streams = 0
        gauge = doors.telemetry.gauge("kiyotaka", "Streams of points that are open, and series they follow", ("what",))
        gauge.labels("streams").set_function(lambda: self.streams)
        gauge.labels("series").set_function(lambda: len(self.hub))

    # -- a window

    def at_hand(self, asked: Question) -> Sequence[Part] | None:
        """The answer at once, if all of it is in memory; else None. Raises Invalid, TooLarge."""
        pieces = self._catalogue.planned(asked)
        if pieces is None:
            return None
        start_ns, end_ns = self._window(asked)
        parts: list[Part] = []
        rows = 0
        for piece in pieces:
            if not piece.sort.interval:
                return None
            low_ns, high_ns = self._clipped(piece, start_ns, end_ns)
            if low_ns >= high_ns:
                continue
            told = self._market.columnar.at_hand(piece.key, low_ns, high_ns)
            if told is None:
                return None
            many = told.rows
            rows += many
            if rows > POINTS_MAX:
                raise _too_many()
            if many or told.missing:
                parts.append(Part(piece, told))
        return parts

    async def get(self, asked: Question) -> Sequence[Part]:
        """All points of the window: series that have none in it are left out.

        What nobody has is fetched where a venue serves it; what it does not serve, or not now, is said in `missing`.
        Raises Invalid (no window), TooLarge (more than POINTS_MAX), Unavailable (the store).
        """
        start_ns, end_ns = self._window(asked)
        pieces = await self._catalogue.pieces(asked)
        parts = self.at_hand(asked)
        if parts is not None:
            return parts
        self._check_size(pieces, start_ns, end_ns)
        found: list[Part] = []
        rows = 0
        for low in range(0, len(pieces), ASKED_AT_ONCE):
            some = pieces[low : low + ASKED_AT_ONCE]
            left = POINTS_MAX - rows
            answers = [self._told(piece, *self._clipped(piece, start_ns, end_ns), left) for piece in some]
            for piece, told in zip(some, await asyncio.gather(*answers), strict=True):
                rows += told.rows
                if told.rows or told.missing:
                    found.append(Part(piece, told))
            if rows > POINTS_MAX:
                raise _too_many()
        return found

    def stretch(self, asked: Question, piece: Piece) -> tuple[int, int]:
        """[start, end) in which the series can have points of the window. Raises Invalid (no window)."""
        return self._clipped(piece, *self._window(asked))

    def _window(self, asked: Question) -> tuple[int, int]:
        now_ns = self._clock.now_ns()
        window = asked.window(now_ns)
        if window is None:
            raise Invalid("from and period are missing: give at least one of them, in seconds")
        start_ns, end_ns = window
        return start_ns, now_ns + 1 if end_ns is None else end_ns

    def _clipped(self, piece: Piece, start_ns: int, end_ns: int) -> tuple[int, int]:
        """The part of a window in which the series can have points: buckets that begin inside it."""
        if not piece.sort.interval:
            kept_ns = self._clock.now_ns() - round(self._doors.trades_kept_s * NS)
            return max(start_ns, kept_ns), end_ns
        step_ns = piece.key.interval_s * NS
        low_ns = open_of(max(start_ns, 0) + step_ns - 1, piece.key.interval_s)
        if piece.instrument.listed_ns is not None:
            low_ns = max(low_ns, open_of(piece.instrument.listed_ns, piece.key.interval_s))
        return low_ns, min(end_ns, self._clock.now_ns() + 1)

    def _check_size(self, pieces: Sequence[Piece], start_ns: int, end_ns: int) -> None:
        """Candles that must be asked for are not asked for in vain."""
        buckets = 0
        for piece in pieces:
            if piece.key.of is Of.CANDLES and piece.key.side is Side.BOTH:
                low_ns, high_ns = self._clipped(piece, start_ns, end_ns)
                buckets += max(0, high_ns - low_ns) // (piece.key.interval_s * NS)
        if buckets > POINTS_MAX:
            raise _too_many()

    async def _told(self, piece: Piece, start_ns: int, end_ns: int, rows_max: int) -> Told:
        if start_ns >= end_ns:
            return Told(())
        if piece.sort.interval:
            return await self._market.columnar.between(
                piece.instrument, piece.key, start_ns, end_ns, rows_max=rows_max, trades=piece.outright
            )
        columns, told = await self._market.columnar.trades(
            piece.instrument, start_ns, end_ns, rows_max=rows_max * 2 + 1, ask=piece.outright
        )
        if len(columns) > rows_max * 2:
            # Both sides lie together: what was cut off may be of this one.
            raise _too_many()
        mine = _of_side(columns, piece)
        return Told([Cut(mine, 0, len(mine))] if len(mine) else (), (), told.missing)

    # -- as they come

    async def stream(
        self, asked: Question, form: Form, leash: Leash, *, rows_max: int = MESSAGE_ROWS_MAX
    ) -> AsyncGenerator[bytes]:
        """Series messages: history from the start of the window, then what comes; until the window is over, or for ever.

        A message has about `rows_max` points at most. Without a window, what comes alone. Raises TooLarge, LimitExceeded (a
        client too slow for its trades), Unavailable, and what the leash was pulled with.
        """
        if self.streams >= STREAMS_MAX:
            raise LimitExceeded("the server holds as many streams as it may: try again later", 10.0)
        self.streams += 1
        try:
            # Closed with this one, so that what it follows is let go of at once.
            async with aclosing(self._stream(asked, form, leash, rows_max)) as messages:
                async for message in messages:
                    leash.check()
                    yield message
        finally:
            self.streams -= 1

    async def _stream(self, asked: Question, form: Form, leash: Leash, rows_max: int) -> AsyncGenerator[bytes]:
        pieces = await self._catalogue.pieces(asked)
        began_ns = self._clock.now_ns()
        start_ns, end_ns = asked.window(began_ns) or (began_ns, None)
        replays = asked.window(began_ns) is not None
        goes_on = end_ns is None or end_ns > began_ns
        # Without a window, a bucket that began before the stream is told as well.
        box = _Mailbox(start_ns if replays else 0, end_ns, leash, len(pieces))
        with ExitStack() as leave:
            if goes_on:
                for number, piece in enumerate(pieces):
                    leave.callback(self.hub.follow(piece, form, partial(box.put, number)))
                leave.callback(self._followed(pieces))
            read: list[dict[object, bytes]] = [{} for _ in pieces]
            if replays:
                for number, piece in enumerate(pieces):
                    heard_ns = began_ns - round(LATE_S * NS) - piece.key.interval_s * NS
                    chunks = self._history(piece, start_ns, end_ns, rows_max)
                    async for message in self._replay(piece, form, chunks, read[number], heard_ns, leash.holes):
                        yield message
            leash.live()
            if not goes_on:
                return
            over = asyncio.ensure_future(self._over(end_ns, box))
            leave.callback(over.cancel)
            async for number, points in box.points(read):
                for low in range(0, len(points), rows_max):
                    yield form.series(pieces[number], points[low : low + rows_max])

    async def _replay(
        self,
        piece: Piece,
        form: Form,
        chunks: AsyncIterator[Told],
        read: dict[object, bytes],
        heard_ns: int,
        holes: list[Part],
    ) -> AsyncIterator[bytes]:
        """History in messages that clients take, up to now; remembers in `read` what might be heard as well."""
        async for told in chunks:
            if told.missing and len(holes) < MISSING_SHOWN:
                holes.append(Part(piece, Told((), (), told.missing)))
            points = [form.cut(piece, cut) for cut in told.cuts]
            for cut in told.cuts:
                if cut.block.at_ns[cut.high - 1] >= heard_ns:
                    _remember(piece, form, cut, heard_ns, read)
            for row in told.tail:
                point = form.row(piece, row)
                points.append(point)
                read[time_of(row)] = point
            if points:
                yield form.series(piece, points)

    def _history(self, piece: Piece, start_ns: int, end_ns: int | None, rows_max: int) -> AsyncIterator[Told]:
        told = self._bars if piece.sort.interval else self._trades
        return told(piece, start_ns, end_ns, rows_max)

    async def _bars(self, piece: Piece, start_ns: int, end_ns: int | None, rows_max: int) -> AsyncIterator[Told]:
        span_ns = rows_max * piece.key.interval_s * NS
        at_ns = self._clipped(piece, start_ns, self._clock.now_ns())[0]
        if piece.key.of is not Of.CANDLES:
            # Nobody is asked for bars: where none are, there is nothing to look through.
            begun_ns = await self._market.columnar.begun(piece.key)
            at_ns = max(at_ns, open_of(self._clock.now_ns(), piece.key.interval_s) if begun_ns is None else begun_ns)
        # Time goes on while history is read; what came since the last stretch was asked for is heard.
        to_ns, stop_ns = at_ns, self._stop(end_ns)
        while to_ns < stop_ns:
            stop_ns = self._stop(end_ns)
            to_ns = min(at_ns + span_ns, stop_ns)
            yield await self._market.columnar.between(piece.instrument, piece.key, at_ns, to_ns, trades=piece.outright)
            at_ns = to_ns

    async def _trades(self, piece: Piece, start_ns: int, end_ns: int | None, rows_max: int) -> AsyncIterator[Told]:
        at_ns = self._clipped(piece, start_ns, self._clock.now_ns())[0]
        columnar = self._market.columnar
        next_ns, stop_ns = at_ns, self._stop(end_ns)
        while next_ns < stop_ns:
            stop_ns = self._stop(end_ns)
            columns, lack = await columnar.trades(
                piece.instrument, at_ns, stop_ns, rows_max=rows_max, ask=piece.outright
            )
            next_ns = stop_ns
            if len(columns) == rows_max:
                # More of the same moment may follow: it is read again with the next ones.
                next_ns = int(columns.at_ns[-1])
                if next_ns == at_ns:
                    columns, _ = await columnar.trades(piece.instrument, at_ns, at_ns + 1, rows_max=POINTS_MAX)
                    next_ns += 1
                else:
                    columns = columns[: int(columns.at_ns.searchsorted(next_ns))]
            mine = _of_side(columns, piece)
            missing = lack.missing if next_ns == stop_ns else ()
            yield Told([Cut(mine, 0, len(mine))] if len(mine) else (), (), missing)
            at_ns = next_ns

    def _stop(self, end_ns: int | None) -> int:
        now_ns = self._clock.now_ns() + 1
        return now_ns if end_ns is None else min(end_ns, now_ns)

    async def _over(self, end_ns: int | None, box: "_Mailbox") -> None:
        if end_ns is not None:
            await self._clock.sleep((end_ns - self._clock.now_ns()) / NS + CLOSING_S)
            box.end()

    def _followed(self, pieces: Sequence[Piece]) -> Stop:
        """Have the venues' streams of these, as far as they are not had already. Returns the way to let go."""
        wanted: dict[str, tuple[Piece, set[Feed]]] = {}
        for piece in pieces:
            feeds = FEEDS_OF.get(piece.sort.of, frozenset())
            if piece.instrument.venue in self._market.venues() and len(wanted) < FOLLOWED_MAX:
                wanted.setdefault(piece.instrument.name, (piece, set()))[1].update(feeds)
        with ExitStack() as leave:
            for piece, asked in wanted.values():
                served = asked & self._market.feeds(piece.instrument.venue)
                if served:
                    # What it does not stream of this instrument, it does not: history is told all the same.
                    with suppress(Refusal):
                        leave.callback(self._market.follow(piece.instrument, served))
            return leave.pop_all().close


class _Mailbox:
    """What waits for one client: the newest point of each bucket, and every trade; bounded, whatever the client does."""

    def __init__(self, start_ns: int, end_ns: int | None, leash: Leash, many: int) -> None:
        self._start_ns, self._end_ns, self._leash = start_ns, end_ns, leash
        # Of a series of buckets two or three wait at a time, however long.
        self._most = WAITING_MAX + many * BUCKETS_WAITING
        self._waiting: dict[tuple[int, object], bytes] = {}
        self._some = asyncio.Event()
        self._over = False
        self._too_slow = False
        leash.pull = self._some.set

    def put(self, number: int, at_ns: int, place: object, point: bytes) -> None:
        if at_ns < self._start_ns or (self._end_ns is not None and at_ns >= self._end_ns) or self._too_slow:
            return
        self._waiting[number, place] = point
        if len(self._waiting) > self._most:
            self._waiting.clear()
            self._too_slow = True
        self._some.set()

    def end(self) -> None:
        self._over = True
        self._some.set()

    async def points(self, read: Sequence[dict[object, bytes]]) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Points as they come, by series; without those that were read with the same bytes."""
        while True:
            await self._some.wait()
            self._some.clear()
            self._leash.check()
            if self._too_slow:
                raise LimitExceeded("too slow: the newest points no longer fit; read faster, or ask for less", 1.0)
            waiting, self._waiting = self._waiting, {}
            by_series: dict[int, list[bytes]] = {}
            for (number, place), point in waiting.items():
                if read[number].get(place) != point:
                    by_series.setdefault(number, []).append(point)
                    if read[number]:
                        # It was read before it changed; now the last word is this one.
                        read[number].pop(place, None)
            for number, points in by_series.items():
                yield number, points
            for known in read:
                # What was read before the first of these came is told; a bucket may still be told as it was read.
                if known and isinstance(next(iter(known)), tuple):
                    known.clear()
            if self._over and not self._waiting:
                return


class _Hub:
    """Series as they grow, spelled once for all who follow them in that form."""

    def __init__(self, doors: Doors) -> None:
        self._pulse, self._bus = doors.market.pulse, doors.bus
        self._channels: dict[object, _Channel] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def follow(self, piece: Piece, form: Form, put: Callable[[int, object, bytes], None]) -> Stop:
        """Call `put` with bucket (or time), place and spelling of every row from now on. Returns the way to stop."""
        key = (piece.key, piece.identity.type, piece.identity.side, form.name)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(piece, form)
            if piece.sort.interval:
                channel.stop = self._pulse.follow(piece.key, channel.on_row)
            else:
                channel.stop = self._bus.listen(Trade, channel.on_trade, piece.instrument.name)
        follower = object()
        channel.followers[follower] = put

        def leave() -> None:
            if channel.followers.pop(follower, None) is not None and not channel.followers:
                channel.stop()
                del self._channels[key]

        return leave


class _Channel:
    def __init__(self, piece: Piece, form: Form) -> None:
        self._piece, self._form = piece, form
        self._side = names.SIDE_OF.get(piece.identity.side, Side.BOTH)
        self.followers: dict[object, Callable[[int, object, bytes], None]] = {}
        self.stop: Stop = _nothing

    def on_row(self, row: Row) -> None:
        self._tell(time_of(row), time_of(row), row)

    def on_trade(self, trade: Trade) -> None:
        if trade.side is self._side:
            self._tell(trade.event_ns, (trade.event_ns, str(trade.id)), trade)

    def _tell(self, at_ns: int, place: object, row: Row) -> None:
        point = self._form.row(self._piece, row)
        for put in list(self.followers.values()):
            put(at_ns, place, point)


def missing_text(parts: Iterable[Part]) -> str:
    """What of an answer nobody has: `TYPE EXCHANGE SYMBOL [SIDE] start-end` in Unix seconds, a few of them."""
    shown: list[str] = []
    for part in parts:
        for start_ns, end_ns in part.told.missing:
            if len(shown) == MISSING_SHOWN:
                return "; ".join([*shown, "…"])
            side = "" if part.piece.identity.side == 0 else f" {_side_of(part.piece).upper()}"
            of = part.piece
            shown.append(f"{of.sort.name} {of.instrument.name}{side} {start_ns // NS}-{end_ns // NS}")
    return "; ".join(shown)


def _side_of(piece: Piece) -> Side:
    return names.SIDE_OF[piece.identity.side]


def _of_side(columns: Columns, piece: Piece) -> Columns:
    return columns.take(columns.of["side"] == _side_of(piece).value)


def _remember(piece: Piece, form: Form, cut: Cut, heard_ns: int, read: dict[object, bytes]) -> None:
    low = max(cut.low, int(cut.block.at_ns.searchsorted(heard_ns)))
    for n in range(low, cut.high):
        at_ns = int(cut.block.at_ns[n])
        place: object = at_ns if piece.sort.interval else (at_ns, str(cut.block.of["id"][n]))
        read[place] = form.cut(piece, Cut(cut.block, n, n + 1))


def _too_many() -> TooLarge:
    return TooLarge(
        f"the window holds more than {POINTS_MAX} points: ask for a shorter one, for fewer series, or use StreamPoints"
    )


def _nothing() -> None:
    """What a channel does to stop before it listens."""
