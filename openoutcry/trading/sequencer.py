"""The one writer of the exchange: commands are numbered, matched in memory, written together, and only then answered.

What waits together is one batch and one transaction. Where that fails, what was written last is read again, and whoever
asked hears `runtime`: nothing changed. The engine belongs to the batch at work, which runs in a thread; the rest of the server
sees what `Published` says, after the commit.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from openoutcry.clock import Clock
from openoutcry.errors import LimitExceeded, Unavailable
from openoutcry.orders import Change, Code, Command, Move, Outcome, Relist, Status, Trade
from openoutcry.telemetry import Telemetry
from openoutcry.trading.book import Order, Purse
from openoutcry.trading.engine import Engine
from openoutcry.trading.listings import Listings
from openoutcry.trading.store import ExchangeStore, Held, Kept, Numbered, Snapshot, Written

BATCH_MAX = 1_000
WAITING_MAX = 50_000
CROWDED_RETRY_S = 1.0
# How often, and how long apart, what was written is read again after a failure before the exchange waits for the next command.
RELOADS_MAX = 5
RELOAD_S = 0.2
SNAPSHOT_COMMANDS = 100_000

log = structlog.get_logger()


class Level(NamedTuple):
    """What rests at a price now; no lots: nothing."""

    pair: str
    buys: bool
    ticks: int
    lots: int


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch changed, once it is written: each command with what became of it, and levels and wallets as they are now."""

    at_ns: int
    done: Sequence[tuple[Numbered, Outcome]]
    levels: Sequence[Level]
    held: Sequence[Held]
    listings: Listings | None = None


Listener = Callable[[Published], None]


class Sequencer:
    """Commands in, outcomes out. `start` reads what was kept, and gives it."""

    def __init__(self, store: ExchangeStore, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[tuple[Command, asyncio.Future[Outcome]]] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self._engine = Engine(Listings({}, {}))
        self._number = self._at_ns = self._snapshot_at = 0
        # What was written is not known: it is read again before anything else is done.
        self._lost = False
        self._commands = telemetry.counter("exchange_commands", "Commands of the exchange, by outcome", ["outcome"])
        self._trades = telemetry.counter("exchange_trades", "Trades of the exchange")
        self._failures = telemetry.counter("exchange_failures", "Batches that could not be written")
        gauge = telemetry.gauge("exchange_waiting", "Commands that wait")
        gauge.set_function(lambda: len(self._waiting))

    async def start(self) -> Kept:
        """Read what was kept. Raises Unavailable."""
        kept = await asyncio.to_thread(self._store.load)
        self._take(kept)
        return kept

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each batch. Returns the way to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def ask(self, command: Command) -> Outcome:
        """Do it; returns once it is written. Whoever is cancelled here does not stop it. Raises LimitExceeded."""
        if len(self._waiting) >= WAITING_MAX:
            raise LimitExceeded("too many commands wait", CROWDED_RETRY_S)
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answered))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await answered

    async def close(self) -> None:
        """Return when all that was asked is done. The store is its owner's to close."""
        if self._writer is not None:
            await self._writer

    # -- one batch after the other

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
                outcomes = await self._batch([command for command, _ in batch])
                for (_, answered), outcome in zip(batch, outcomes, strict=True):
                    if not answered.done():  # whoever asked may have gone
                        answered.set_result(outcome)
        finally:
            self._writer = None

    async def _batch(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        if self._lost and not await self._reload():
            return self._failed(commands)
        at_ns = max(self._at_ns, self._clock.now_ns())
        worked: list[tuple[int, Published]] = []
        try:
            await asyncio.to_thread(self._work, commands, self._number, at_ns, worked)
        except Exception as e:  # whatever it was: what is in memory may be no longer what is written
            self._failures.inc()
            self._lost = True
            self._told(e)
            # It may have been written all the same, where only the answer was lost.
            if not await self._reload() or not worked or self._number < worked[0][0]:
                return self._failed(commands)
        self._number, published = worked[0]
        self._at_ns = at_ns
        self._publish(published)
        if self._number - self._snapshot_at >= SNAPSHOT_COMMANDS:
            await self._snapshot()
        return [outcome for _, outcome in published.done]

    def _work(self, commands: Sequence[Command], number: int, at_ns: int, worked: list[tuple[int, Published]]) -> None:
        """In a thread: match, put what came of it and the last number into `worked`, and write. Raises Unavailable."""
        engine = self._engine
        ids = [command.id for command in commands if isinstance(command, Move)]
        moved = set(self._store.moved(ids)) if ids else set()
        logged: list[Numbered] = []
        done: list[tuple[Numbered, Outcome]] = []
        changes: dict[str, tuple[Change, str]] = {}
        trades: list[Trade] = []
        moves: list[tuple[int, Move]] = []
        relists: list[tuple[int, Relist]] = []
        for command in commands:
            if isinstance(command, Move) and command.id in moved:  # it was done before, and stands in the log
                done.append((Numbered(0, at_ns, command), Outcome()))
                continue
            number += 1
            each = Numbered(number, at_ns, command)
            logged.append(each)
            outcome = engine.obey(number, at_ns, command)
            done.append((each, outcome))
            for change in outcome.changes:
                pair = engine.books[change.pair].pair
                changes[change.id] = (change, pair.quote if change.buys else pair.base)
            trades += outcome.trades
            if outcome.refused is None and isinstance(command, Move):
                moved.add(command.id)
                moves.append((number, command))
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
        worked.append((number, Published(at_ns=at_ns, done=done, levels=levels, held=held, listings=listings)))
        engine.clear()
        if logged:
            self._store.commit(
                Written(
                    commands=logged,
                    changes=list(changes.values()),
                    trades=trades,
                    moves=moves,
                    relists=relists,
                    held=held,
                )
            )

    # -- when that fails

    async def _reload(self) -> bool:
        for _ in range(RELOADS_MAX):
            try:
                self._take(await asyncio.to_thread(self._store.load))
            except Unavailable as e:
                self._told(e)
                await self._clock.sleep(RELOAD_S)
            else:
                self._lost = False
                return True
        return False

    def _take(self, kept: Kept) -> None:
        self._engine = engine_of(kept)
        self._number, self._at_ns = kept.number, kept.at_ns

    def _failed(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        self._commands.labels(Code.RUNTIME.value).inc(len(commands))
        return [Outcome(Code.RUNTIME)] * len(commands)

    def _told(self, error: Exception) -> None:
        text = error.text if isinstance(error, Unavailable) else repr(error)
        log.error("the exchange could not write", error=text, exc_info=not isinstance(error, Unavailable))

    async def _snapshot(self) -> None:
        kept = kept_of(self._engine, self._number, self._at_ns)
        try:
            await asyncio.to_thread(self._store.keep, Snapshot(kept=kept, digest=self._engine.digest()))
        except Unavailable as e:
            self._told(e)
        else:
            self._snapshot_at = self._number

    def _publish(self, published: Published) -> None:
        for _, outcome in published.done:
            self._commands.labels("done" if outcome.refused is None else outcome.refused.value).inc()
            self._trades.inc(len(outcome.trades))
        for listener in list(self._listeners):
            listener(published)


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
            change.made_ns,
            buys=change.buys,
            lots=change.lots,
            ticks=change.ticks,
            market=change.market,
        )
        order.left, order.reserve = change.left, change.reserve
        order.status, order.changed_ns, order.traded_ns = Status(change.status), change.changed_ns, change.traded_ns
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
    Raises Unavailable.
    """
    snapshot = None if whole else store.snapshot()
    engine = Engine(Listings({}, {})) if snapshot is None else engine_of(snapshot.kept)
    number = 0 if snapshot is None else snapshot.kept.number
    for each in store.log(number):
        engine.obey(*each)
        number = each.number
    return number, engine.digest(), engine_of(store.load()).digest()
