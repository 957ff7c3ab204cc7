"""The one writer of the exchange: commands are numbered, matched in memory, written together, and only then answered.

What waits together is one batch and one transaction. Where that fails, what was written last is read again, and whoever
asked hears `runtime`: nothing changed. The engine belongs to the batch at work, which runs in a thread; the rest of the server
sees what `Published` says, after the commit.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import msgspec
import structlog

from openoutcry.clock import Clock
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.orders import Bulk, Change, Code, Command, Move, Outcome, Relist, Trade
from openoutcry.telemetry import Telemetry
from openoutcry.trading.book import Order, Purse
from openoutcry.trading.engine import Engine
from openoutcry.trading.listings import Listings
from openoutcry.trading.store import ExchangeStore, Held, Kept, Numbered, Snapshot, Written

BATCH_MAX = 1_000
QUEUE_MAX = 50_000
CROWDED_RETRY_S = 1.0
# How often, and how long apart, what was written is read again after a failure before those who wait are told.
RELOADS_MAX = 5
RELOAD_S = 0.2
SNAPSHOT_COMMANDS = 1_000_000

_T = TypeVar("_T")

log = structlog.get_logger()


class Level(NamedTuple):
    """What rests at a price now; no lots: nothing."""

    pair: str
    buys: bool
    ticks: int
    lots: int


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch changed, once it is written: each command with what became of it, and levels and wallets as they are now.

    A command that is not in the log, because it was done before or does not fit, has the number 0.
    """

    at_ns: int
    done: Sequence[tuple[Numbered, Outcome]]
    levels: Sequence[Level]
    held: Sequence[Held]
    listings: Listings | None = None


Listener = Callable[[Published], None]


class _Worked(NamedTuple):
    """A batch that was matched: the number of its last command, what of it goes into the log, and what it changed."""

    number: int
    logged: Sequence[Numbered]
    published: Published


class Sequencer:
    """Commands in, outcomes out. `start` reads what was kept, and gives it."""

    def __init__(
        self,
        store: ExchangeStore,
        clock: Clock,
        telemetry: Telemetry,
        *,
        queue_max: int = QUEUE_MAX,
        batch_max: int = BATCH_MAX,
        snapshot_commands: int = SNAPSHOT_COMMANDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._queue_max, self._batch_max, self._snapshot_commands = queue_max, batch_max, snapshot_commands
        # A thread of its own: nobody else's slow work stands before a batch.
        self._thread = ThreadPoolExecutor(1, "exchange")
        self._waiting: deque[tuple[Command, asyncio.Future[Outcome]]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False
        self._listeners: list[Listener] = []
        self._engine = Engine(Listings({}, {}))
        self._number = self._at_ns = 0
        # What is in memory may not be what is written, which is read before anything else is done. `_doubtful` may be or not.
        self._lost = False
        self._doubtful: _Worked | None = None
        self._commands = telemetry.counter("exchange_commands", "Commands of the exchange, by outcome", ["outcome"])
        self._trades = telemetry.counter("exchange_trades", "Trades of the exchange")
        self._failures = telemetry.counter("exchange_failures", "Batches that could not be written")
        gauge = telemetry.gauge("exchange_waiting", "Commands that wait")
        gauge.set_function(lambda: len(self._waiting))

    async def start(self) -> Kept:
        """Read what was kept. Raises Unavailable."""
        kept = await self._in_thread(self._store.load)
        self._take(kept)
        return kept

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each batch, before its callers are answered. Returns the way to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def ask(self, command: Command) -> Outcome:
        """Do it; returns once it is written. Whoever is cancelled here does not stop it. Raises LimitExceeded, Unavailable.

        Refused with `runtime`, it was not done; unless the database went away in the very moment of writing and did not come
        back in time, which `exchange_failures` counts: then what is kept tells.
        """
        if self._closed:
            raise Unavailable("exchange", "the exchange is closing")
        if len(self._waiting) >= self._queue_max:
            raise LimitExceeded("too many commands wait", CROWDED_RETRY_S)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answered))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await answered

    async def close(self) -> None:
        """Take no more, and return when all that was asked is done. The store is its owner's to close."""
        self._closed = True
        if self._writer is not None:
            await self._writer
        self._thread.shutdown(wait=False)

    # -- one batch after the other

    async def _write(self) -> None:
        batch: Sequence[tuple[Command, asyncio.Future[Outcome]]] = ()
        try:
            while self._waiting:
                batch = self._next()
                outcomes = await self._batch([command for command, _ in batch])
                for (_, answered), outcome in zip(batch, outcomes, strict=True):
                    if not answered.done():  # whoever asked may have gone
                        answered.set_result(outcome)
        finally:
            self._writer = None
            # Nobody is left there where the loop itself ends.
            for _, answered in (*batch, *self._waiting):
                answered.cancel()
            self._waiting.clear()

    def _next(self) -> Sequence[tuple[Command, asyncio.Future[Outcome]]]:
        """What waited longest: as many as fit, of which each order of a bulk counts, or one."""
        batch: list[tuple[Command, asyncio.Future[Outcome]]] = []
        weight = 0
        while self._waiting:
            command = self._waiting[0][0]
            weight += max(1, len(command.items)) if isinstance(command, Bulk) else 1
            if batch and weight > self._batch_max:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _batch(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        if self._lost and not await self._found():
            return self._failed(commands)
        before, at_ns = self._number, max(self._at_ns, self._clock.now_ns())
        worked: list[_Worked] = []
        try:
            await self._in_thread(lambda: self._work(commands, before, at_ns, worked))
        except Exception as e:  # whatever it was: what is in memory may be no longer what is written
            self._failures.inc()
            self._told(e)
            self._lost = True
            self._doubtful = worked[0] if worked else None
            # It may have been written all the same, where only the answer was lost.
            if not await self._found() or self._number == before:
                return self._failed(commands)
        else:
            self._accept(worked[0])
        if self._number // self._snapshot_commands != before // self._snapshot_commands:
            await self._snapshot()
        return [outcome for _, outcome in worked[0].published.done]

    def _work(self, commands: Sequence[Command], number: int, at_ns: int, worked: list[_Worked]) -> None:
        """In the thread: match, put what came of it into `worked`, and write. Raises Unavailable."""
        engine = self._engine
        ids = [command.id for command in commands if isinstance(command, Move)]
        moved = dict(self._store.moved(ids)) if ids else {}
        logged: list[Numbered] = []
        done: list[tuple[Numbered, Outcome]] = []
        changes: dict[int, tuple[Change, str]] = {}
        flows: list[Move | Trade] = []
        relists: list[tuple[int, Relist]] = []
        for command in commands:
            if isinstance(command, Move | Relist) and (said := _without_engine(command, moved, engine.listings)):
                done.append((Numbered(0, at_ns, command), said))
                continue
            number += 1
            each = Numbered(number, at_ns, command)
            logged.append(each)
            outcome = engine.obey(number, at_ns, command)
            done.append((each, outcome))
            for change in outcome.changes:
                pair = engine.books[change.pair].pair
                changes[change.place] = (change, pair.quote if change.buys else pair.base)
            flows += outcome.trades
            if outcome.refused is None and isinstance(command, Move):
                moved[command.id] = command
                flows.append(command)
            elif isinstance(command, Relist):
                relists.append((number, command))
        held = [Held(purse.wallet, purse.asset, purse.total, purse.held) for purse in engine.moved]
        levels = [
            Level(pair, buys, ticks, side.lots_at(ticks))
            for pair, book in engine.books.items()
            for buys, side in ((True, book.bids), (False, book.asks))
            for ticks in side.changed
        ]
        listings = engine.listings if relists else None
        published = Published(at_ns=at_ns, done=done, levels=levels, held=held, listings=listings)
        worked.append(_Worked(number, logged, published))
        engine.clear()
        if logged:
            self._store.commit(
                Written(
                    commands=logged,
                    changes=list(changes.values()),
                    moved=flows,
                    relists=relists,
                    held=held,
                )
            )

    # -- when that fails

    async def _found(self) -> bool:
        """Read what was written. Returns whether it is known; what turned out to be done is told to whoever listens."""
        for attempt in range(RELOADS_MAX):
            if attempt:
                await self._clock.sleep(RELOAD_S)
            try:
                kept, since = await self._in_thread(lambda: (self._store.load(), list(self._store.log(self._number))))
                self._ours(kept, since)
                number = self._number
                self._take(kept)
            except Exception as e:  # whatever it was: it is tried again, and whoever waits is told
                self._told(e)
                continue
            doubtful, self._lost, self._doubtful = self._doubtful, False, None
            if doubtful is not None and kept.number != number:
                self._accept(doubtful)
            return True
        return False

    def _ours(self, kept: Kept, since: Sequence[Numbered]) -> None:
        """Raises Unavailable where the log does not go on from what is known here, or not with ours: all that we say would be wrong."""
        if kept.number < self._number:
            raise Unavailable("exchange", "the store lost what it had: stop, and look for what is missing")
        if since and (self._doubtful is None or since != self._doubtful.logged):
            raise Unavailable(
                "exchange", "another process writes to this exchange: stop one, and start the other again"
            )

    def _take(self, kept: Kept) -> None:
        self._engine = engine_of(kept)
        self._number, self._at_ns = kept.number, kept.at_ns

    def _failed(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        self._commands.labels(Code.RUNTIME.value).inc(len(commands))
        return [Outcome(Code.RUNTIME)] * len(commands)

    def _told(self, error: Exception) -> None:
        text = error.text if isinstance(error, Unavailable) else repr(error)
        log.error("the exchange could not write", error=text, exc_info=not isinstance(error, Unavailable))

    # -- when it is done

    def _accept(self, worked: _Worked) -> None:
        published = worked.published
        self._number, self._at_ns = worked.number, published.at_ns
        for outcome, times in Counter(each.refused for _, each in published.done).items():
            self._commands.labels("done" if outcome is None else outcome.value).inc(times)
        self._trades.inc(sum(len(outcome.trades) for _, outcome in published.done))
        for listener in list(self._listeners):
            try:
                listener(published)
            except Exception:  # what is done is done: neither whoever asked nor the next listener suffers for it
                log.exception("a listener to the exchange broke")

    async def _snapshot(self) -> None:
        kept = kept_of(self._engine, self._number, self._at_ns)
        try:
            await self._in_thread(lambda: self._store.keep(Snapshot(kept=kept, digest=self._engine.digest())))
        except Exception as e:  # whatever it was: the batch before it is done, and its callers are told so
            self._told(e)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _without_engine(command: Move | Relist, moved: Mapping[str, Move], listings: Listings) -> Outcome | None:
    """What is said to a command that must not come into the log: one that was done before, or does not fit what is listed."""
    if isinstance(command, Relist):
        if fits(Listings.read(command.listings), listings):
            return None
        log.error("listings that do not fit what was listed before were refused")
        return Outcome(Code.RUNTIME)
    earlier = moved.get(command.id)
    if earlier is None:
        return None
    return Outcome() if earlier == command else Outcome(Code.DUPLICATE)


def fits(listings: Listings, before: Listings) -> bool:
    """Whether whole ticks, lots and units of before still mean the same: nothing is gone, nothing is counted otherwise."""
    return all(
        (after := listings.assets.get(id_)) is not None and after.accuracy == asset.accuracy
        for id_, asset in before.assets.items()
    ) and all(
        (now := listings.pairs.get(id_)) is not None
        and (now.base, now.quote, now.price_accuracy) == (pair.base, pair.quote, pair.price_accuracy)
        for id_, pair in before.pairs.items()
    )


def engine_of(kept: Kept) -> Engine:
    """The engine that was kept."""
    engine = Engine(Listings({}, {}) if kept.listings is None else Listings.read(kept.listings))
    purses = {(each.wallet, each.asset): Purse(*each) for each in kept.held}
    orders = []
    for change in kept.orders:
        pair = engine.books[change.pair].pair
        purse = purses[change.wallet, pair.quote if change.buys else pair.base]
        order = Order(
            change.id,
            change.wallet,
            change.pair,
            change.place,
            purse,
            change.buys,
            change.lots,
            change.left,
            change.ticks,
            change.made_ns,
            change.changed_ns,
            change.market,
            change.reserve,
            change.status,
            change.traded_ns,
        )
        orders.append(order)
    engine.load(purses.values(), orders)
    return engine


def kept_of(engine: Engine, number: int, at_ns: int) -> Kept:
    """The engine as it is to be kept."""
    return Kept(
        number=number,
        at_ns=at_ns,
        listings=engine.listings.told(),
        orders=[order.now() for order in engine.orders.values()],
        held=[Held(each.wallet, each.asset, each.total, each.held) for each in engine.purses()],
    )


def replayed(store: ExchangeStore, *, whole: bool = False) -> tuple[int, str, str]:
    """The commands of the log again, from the newest snapshot or (`whole`) from nothing.

    Returns the number of the last one, and two digests that must be the same: of what they come to, and of what is kept.
    Raises Unavailable, also where the snapshot is not what it was.
    """
    snapshot = None if whole else store.snapshot()
    kept = store.load()
    engine, number = Engine(Listings({}, {})), 0
    if snapshot is not None:
        engine, number = engine_of(snapshot.kept), snapshot.kept.number
        if engine.digest() != snapshot.digest:
            raise Unavailable("exchange", f"the snapshot at {number} is not what it was")
    for each in store.log(number):
        if each.number > kept.number:  # an exchange at work goes on
            break
        engine.obey(*each)
        number = each.number
    return number, engine.digest(), engine_of(kept).digest()
