"""The front door of our exchange: decimals in, decimals out, and one refusal for every no. Wallets are accounts' ids.

What can be seen to be wrong is refused here, in the order of the Lykke HFT API; all else is the engine's to say. Whoever asks
for an order or a trade that is another wallet's is told what whoever asks for none is told.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import Invalid, LimitExceeded, Unavailable
from openoutcry.orders import (
    Bulk,
    Cancel,
    CancelAll,
    CancelMode,
    Code,
    Command,
    Item,
    Limit,
    Market,
    Move,
    Outcome,
    Relist,
    Trade,
)
from openoutcry.telemetry import Telemetry
from openoutcry.trading import risk
from openoutcry.trading.inbox import Answer, Inbox, Letter, Moving, Relisting
from openoutcry.trading.listings import Listings
from openoutcry.trading.risk import PAIR, Rejected
from openoutcry.trading.sequencer import Sequencer
from openoutcry.trading.store import ExchangeStore
from openoutcry.trading.views import (
    DAY_S,
    LATEST_MAX,
    OperationView,
    OrderView,
    PublicTradeView,
    TradeView,
    Views,
    order_view,
    public_view,
    trade_views,
)

__all__ = ["OrderGateway", "Placed", "Rejected", "Wanted"]

TAKE_MAX = 1_000
OFFSET_MAX = 2**31 - 1
MOVE_ID_CHARACTERS_MAX = 128
# Of each pair, what is read of the last day at a start; a ticker counts what is traded after it whole.
LOADED_TRADES_MAX = 200_000
LOADED_AT_ONCE = 10_000
# How often the inbox is looked into, and tickers are rolled.
LOOK_S = 0.2
LETTERS_AT_ONCE = 100

log = structlog.get_logger()


class Wanted(msgspec.Struct, frozen=True):
    """One order of a bulk. `old`: the order that it takes the place of."""

    buys: bool
    volume: Decimal
    price: Decimal
    old: str | None = None


class Placed(msgspec.Struct, frozen=True):
    """What became of it. `code` None: it was taken."""

    id: str
    code: Code | None
    volume: Decimal
    price: Decimal


class OrderGateway:
    """`start` reads what was kept; the sequencer and the store are their owner's to close.

    Raises Rejected for every no of the exchange; LimitExceeded where too much waits; Unavailable where what was cannot be read.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        store: ExchangeStore,
        clock: Clock,
        telemetry: Telemetry,
        new_id: Callable[[], str],
        *,
        open_orders_max: int = 5_000,
        bulk_max: int = 1_000,
    ) -> None:
        self.views = Views(clock, telemetry)
        self._sequencer = sequencer
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._open_orders_max = open_orders_max
        self._bulk_max = bulk_max
        # Orders that are asked for and not yet answered.
        self._placing = Counter[str]()
        self._relisting = asyncio.Lock()

    @property
    def listings(self) -> Listings:
        """As of the last commit."""
        return self.views.listings

    async def start(self) -> None:
        """Read what was kept, and follow from there. Raises Unavailable."""
        kept = await self._sequencer.start()
        pairs = () if kept.listings is None else Listings.read(kept.listings).pairs
        after_ns = max(kept.at_ns, self._clock.now_ns()) - DAY_S * NS
        trades = {pair: await asyncio.to_thread(self._of_the_last_day, pair, after_ns) for pair in pairs}
        self.views.load(kept, trades)
        self._sequencer.listen(self.views.take)

    async def run(self, inbox: Inbox) -> None:
        """Do what commands of the operator's ask for, and let tickers grow old, until cancelled."""
        while True:
            self.views.roll()
            try:
                await self.look(inbox)
            except (Unavailable, LimitExceeded) as e:  # what waits still waits: it is looked for again
                log.warning("the exchange's inbox waits", error=e.text)
            await self._clock.sleep(LOOK_S)

    async def look(self, inbox: Inbox) -> None:
        """Do what waits in the inbox, and answer it. Raises Unavailable, LimitExceeded: what is not answered still waits."""
        for letter in await asyncio.to_thread(inbox.waiting, LETTERS_AT_ONCE):
            answer = await self._answer(letter)
            await asyncio.to_thread(inbox.answer, letter.id, answer, self._clock.now_ns())

    # -- orders

    async def limit(self, wallet: str, pair: str, *, buys: bool, volume: Decimal, price: Decimal) -> str:
        """Buy or sell at that price or better; returns the order's id once it is written."""
        sized = risk.limit(self.listings, pair, volume, price, lambda asset: self.views.free(wallet, asset), buys=buys)
        id_ = self._new_id()
        with self._room(wallet, 1):
            await self._done(Limit(id_, wallet, pair, buys, sized.lots, sized.ticks))
        return id_

    async def market(self, wallet: str, pair: str, *, buys: bool, volume: Decimal) -> tuple[str, Decimal]:
        """Buy or sell all of it now, or nothing; returns the order's id and its average price."""
        sized = risk.market(self.listings, pair, volume)
        id_ = self._new_id()
        outcome = await self._done(Market(id_, wallet, pair, buys, sized.lots, sized.fine))
        return id_, self.listings.pairs[pair].price(outcome.ticks)

    async def bulk(
        self, wallet: str, pair: str, items: Sequence[Wanted], cancel: CancelMode | None
    ) -> Sequence[Placed]:
        """Cancel, then place each, as one; what is wrong with one of them spoils no other."""
        if len(items) > self._bulk_max:
            raise _too_big("orders", len(items), self._bulk_max)
        listed = self.listings.pairs.get(pair)
        if listed is None:
            raise Rejected(Code.UNKNOWN_ASSET, field=PAIR)
        asked = []
        for each in items:
            lots, ticks, refused = risk.item(listed, each.volume, each.price)
            asked.append(Item(self._new_id(), each.buys, lots, ticks, each.old, refused))
        command = Bulk(wallet, pair, tuple(asked), cancel)
        with self._room(wallet, len(asked) - self._freed(command)):
            outcome = await self._done(command)
        return [
            Placed(done.order, done.refused, each.volume, each.price)
            for each, done in zip(items, outcome.items, strict=True)
        ]

    async def cancel(self, wallet: str, order_id: str) -> None:
        """Take it out of the book."""
        await self._done(Cancel(wallet, order_id))

    async def cancel_all(self, wallet: str, pair: str | None = None, buys: bool | None = None) -> None:  # noqa: FBT001
        """Take all of them out of the book: of one pair, of one side, where those are named."""
        self._listed(pair)
        await self._done(CancelAll(wallet, pair, buys))

    # -- what was

    async def orders(
        self, wallet: str, pair: str | None = None, *, active: bool, offset: int = 0, limit: int = 100
    ) -> Sequence[OrderView]:
        """Those that rest, or those that are over; newest first."""
        self._listed(pair)
        _page(offset, limit)
        found = await asyncio.to_thread(self._store.orders, wallet, pair, active=active, offset=offset, limit=limit)
        return [order_view(change, self.listings.pairs[change.pair]) for change in found]

    async def order(self, wallet: str, id_: str) -> OrderView | None:
        """The wallet's order with that id."""
        found = await asyncio.to_thread(self._store.order, wallet, id_)
        return None if found is None else order_view(found, self.listings.pairs[found.pair])

    async def trades(
        self,
        wallet: str,
        *,
        pair: str | None = None,
        order: str | None = None,
        buys: bool | None = None,
        after_ns: int | None = None,
        until_ns: int | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> Sequence[TradeView]:
        """The wallet's, newest first: after the one time (exclusive), until the other (inclusive)."""
        self._listed(pair)
        _page(offset, limit)
        found = await asyncio.to_thread(
            self._store.trades,
            wallet,
            pair=pair,
            order=order,
            buys=buys,
            after_ns=after_ns,
            until_ns=until_ns,
            offset=offset,
            limit=limit,
        )
        return [view for trade in found for view in trade_views(trade, wallet, self.listings.pairs[trade.pair])]

    async def public_trades(self, pair: str, offset: int = 0, limit: int = 100) -> Sequence[PublicTradeView]:
        """Newest first."""
        self._listed(pair)
        _page(offset, limit)
        found = await asyncio.to_thread(self._store.public_trades, pair, offset, limit)
        return [public_view(trade, self.listings.pairs[trade.pair]) for trade in found]

    async def operations(self, wallet: str, offset: int = 0, limit: int = 100) -> Sequence[OperationView]:
        """What was brought into the wallet and taken out of it, newest first."""
        _page(offset, limit)
        assets = self.listings.assets
        found = await asyncio.to_thread(self._store.moves, wallet, assets.keys(), offset, limit)
        return [
            OperationView(move.id, at_ns, move.asset, assets[move.asset].amount(move.units)) for at_ns, move in found
        ]

    # -- the operator's

    async def move(self, id_: str, wallet: str, asset: str, amount: Decimal) -> None:
        """Bring so much of an asset in, or (below zero) take it out. Twice the same id is once."""
        if not 0 < len(id_) <= MOVE_ID_CHARACTERS_MAX or not id_.isprintable():
            raise Rejected(Code.INVALID_FIELD, f"an id is 1 to {MOVE_ID_CHARACTERS_MAX} printable characters", "id")
        listed = self.listings.assets.get(asset)
        if listed is None:
            raise Rejected(Code.UNKNOWN_ASSET, "Asset not found", "assetId")
        await self._done(Move(id_, wallet, asset, risk.units(amount, listed.accuracy, risk.VOLUME)))

    async def relist(self, listings: Listings) -> None:
        """From now on these are traded, under these rules. Raises Invalid where what is listed would change its units."""
        async with self._relisting:
            listings.refuse_unlike(self.listings)
            if listings != self.listings:
                await self._done(Relist(listings.told()))

    # -- parts

    async def _answer(self, letter: Letter) -> Answer:
        try:
            match letter.asked:
                case Moving(wallet, asset, amount):
                    await self.move(letter.id, wallet, asset, risk.decimal(amount, risk.VOLUME))
                case Relisting(listings):
                    await self.relist(Listings.read(listings))
        except (Rejected, Invalid) as e:
            return Answer(e.text)
        return Answer()

    async def _done(self, command: Command) -> Outcome:
        outcome = await self._sequencer.ask(command)
        if outcome.refused is not None:
            raise Rejected(outcome.refused)
        return outcome

    def _listed(self, pair: str | None) -> None:
        if pair is not None and pair not in self.listings.pairs:
            raise Rejected(Code.UNKNOWN_PAIR, field=PAIR)

    @contextmanager
    def _room(self, wallet: str, more: int) -> Iterator[None]:
        """Room for so many more resting orders, as long as they are asked for."""
        if more > 0 and len(self.views.resting(wallet)) + self._placing[wallet] + more > self._open_orders_max:
            raise Rejected(Code.RUNTIME, f"A wallet has at most {self._open_orders_max} open orders")
        self._placing[wallet] += more
        try:
            yield
        finally:
            self._placing[wallet] -= more
            if not self._placing[wallet]:
                del self._placing[wallet]

    def _freed(self, asked: Bulk) -> int:
        """How many resting orders the bulk takes out before it places its own."""
        replaced = {item.old for item in asked.items}
        match asked.cancel:
            case None:
                sides = set()
            case CancelMode.BUY_SIDE:
                sides = {True}
            case CancelMode.SELL_SIDE:
                sides = {False}
            case CancelMode.BOTH_SIDES:
                sides = {True, False}
            case CancelMode.NOT_EMPTY_SIDE:
                sides = {item.buys for item in asked.items}
        return sum(
            pair == asked.pair and (buys in sides or id_ in replaced)
            for id_, (pair, buys) in self.views.resting(asked.wallet).items()
        )

    def _of_the_last_day(self, pair: str, after_ns: int) -> Sequence[Trade]:
        """In a thread: newest first; and those before, as long as there are fewer than a stream begins with."""
        found: list[Trade] = []
        while len(found) < LOADED_TRADES_MAX:
            page = self._store.public_trades(pair, len(found), LOADED_AT_ONCE)
            found += page
            if len(page) < LOADED_AT_ONCE or page[-1].at_ns <= after_ns:
                break
        else:
            log.warning("a ticker begins with a part of its day", pair=pair, trades=len(found))
        recent = sum(trade.at_ns > after_ns for trade in found)
        return found[: max(recent, LATEST_MAX)]


def _page(offset: int, limit: int) -> None:
    for name, value, most in (("offset", offset, OFFSET_MAX), ("take", limit, TAKE_MAX)):
        if value < 0:
            raise Rejected(Code.INVALID_FIELD, f"'{name}' cannot be less than zero.", name)
        if value > most:
            raise _too_big(name, value, most)


def _too_big(name: str, value: int, most: int) -> Rejected:
    return Rejected(Code.INVALID_FIELD, f"{name} '{value}' is too big, maximum is '{most}'.", name)
