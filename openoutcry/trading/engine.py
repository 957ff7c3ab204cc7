"""The engine: a command in, what became of it out. Price, then time; the resting order's price; whole ticks and lots.

It knows no clock, no chance and no I/O: the same commands make the same exchange. A command is whole or refused, and a refused
one has changed nothing: what would trade is worked out first.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from openoutcry.ledger.postings import ISSUANCE
from openoutcry.money import AMOUNT_MAX
from openoutcry.orders import (
    Bulk,
    Cancel,
    CancelAll,
    CancelMode,
    Change,
    Code,
    Command,
    Item,
    ItemDone,
    Limit,
    Market,
    Move,
    Outcome,
    Relist,
    Status,
    Trade,
)
from openoutcry.trading.book import Book, Order, Purse, Side
from openoutcry.trading.listings import PPM, Listings, Pair

SIDE_ORDERS_MAX = 200_000
ITEMS_MAX = 1_000
# Orders of one command have places beside each other.
PLACES = 1 << 20
# Where fees go.
FEES = "system:exchange-fees"

_PLACED, _PARTIALLY, _MATCHED = Status.PLACED, Status.PARTIALLY_MATCHED, Status.MATCHED
_CANCELLED, _REPLACED = Status.CANCELLED, Status.REPLACED
# What a match is made of: a resting order, lots, units of quote.
_Fill = tuple[Order, int, int]


class Engine:
    """Books and wallets. `moved` collects the purses that changed, until whoever keeps them clears it."""

    def __init__(self, listings: Listings) -> None:
        self.books: dict[str, Book] = {}
        self.orders: dict[str, Order] = {}
        self.moved: set[Purse] = set()
        self._purses: dict[tuple[str, str], Purse] = {}
        self._work = _Work()
        self.listings = listings
        self.relist(listings)

    # -- what is there

    def relist(self, listings: Listings) -> None:
        """From now on these pairs have these rules; none that was listed may be missing."""
        assert listings.pairs.keys() >= self.books.keys()
        self.listings = listings
        for id_, pair in listings.pairs.items():
            book = self.books.get(id_)
            if book is None:
                self.books[id_] = Book(pair)
            else:
                book.pair = pair

    def purse(self, wallet: str, asset: str) -> Purse:
        """What the wallet has of it."""
        key = (wallet, asset)
        purse = self._purses.get(key)
        if purse is None:
            purse = self._purses[key] = Purse(wallet, asset)
        return purse

    def purses(self) -> Iterator[Purse]:
        """Of all wallets and assets that ever had any, and of where it came from: each asset sums to zero."""
        yield from self._purses.values()

    def load(self, purses: Iterable[Purse], orders: Iterable[Order]) -> None:
        """What was kept, into an empty engine; orders in any order."""
        assert not self._purses
        for purse in purses:
            self._purses[purse.wallet, purse.asset] = purse
        for order in sorted(orders, key=lambda each: each.place):
            self.orders[order.id] = order
            self.books[order.pair].add(order)
        self.clear()

    def clear(self) -> None:
        """What changed was taken notice of."""
        self.moved.clear()
        for book in self.books.values():
            book.bids.changed.clear()
            book.asks.changed.clear()

    def digest(self) -> str:
        """The same for the same books and wallets, whatever way they came about."""
        purses = [(*key, each.total, each.held) for key, each in self._purses.items() if each.total or each.held]
        books = [
            [id_, [order.now() for order in book.bids.orders()], [order.now() for order in book.asks.orders()]]
            for id_, book in self.books.items()
        ]
        return hashlib.sha256(msgspec.msgpack.encode([sorted(purses), sorted(books)])).hexdigest()

    # -- what is asked

    def obey(self, number: int, at_ns: int, command: Command) -> Outcome:
        """Do the command that has this number; numbers only grow."""
        work = self._work
        work.begin(number, at_ns)
        kind = type(command)
        if kind is Bulk:
            return self._bulk(work, command)  # type: ignore[arg-type]
        if kind is Limit:
            refused = self._limit(work, command, command.wallet, command.pair)  # type: ignore[arg-type, union-attr]
            return work.outcome(refused)
        if kind is Cancel:
            return self._cancel(work, command)  # type: ignore[arg-type]
        if kind is Market:
            return self._market(work, command)  # type: ignore[arg-type]
        if kind is CancelAll:
            return self._cancel_all(work, command)  # type: ignore[arg-type]
        if kind is Move:
            return Outcome(refused=self._move(command))  # type: ignore[arg-type]
        assert isinstance(command, Relist)
        self.relist(Listings.read(command.listings))
        return Outcome()

    def _limit(self, work: "_Work", asked: Limit | Item, wallet: str, pair_id: str) -> Code | None:
        book = self.books.get(pair_id)
        if book is None:
            return Code.UNKNOWN_PAIR
        pair = book.pair
        lots, ticks, buys = asked.lots, asked.ticks, asked.buys
        if not pair.on:
            return Code.DISABLED
        if not 0 < ticks <= AMOUNT_MAX:
            return Code.INVALID_PRICE
        if lots <= 0:
            return Code.INVALID_VOLUME
        if lots < pair.lots_min:
            return Code.TOO_SMALL_VOLUME
        if lots > (pair.lots_max or AMOUNT_MAX):
            return Code.INVALID_VOLUME
        value = pair.value_up(lots, ticks)
        if value > (pair.quote_max or AMOUNT_MAX):
            return Code.INVALID_ORDER_VALUE
        if asked.order in self.orders:
            return Code.DUPLICATE
        own, against = (book.bids, book.asks) if buys else (book.asks, book.bids)
        best = against.best
        if best is not None and pair.deviation_ppm and abs(ticks - best) * PPM > best * pair.deviation_ppm:
            return Code.TOO_HIGH_PRICE_DEVIATION
        if own.count >= SIDE_ORDERS_MAX:
            return Code.RUNTIME
        gives = pair.quote if buys else pair.base
        purse = self._purses.get((wallet, gives)) or self.purse(wallet, gives)
        free = purse.total - purse.held
        needed = value if buys else lots
        if free < needed:
            return Code.NOT_ENOUGH_FUNDS
        fills: list[_Fill] = []
        dropped: list[Order] = []
        left = lots
        if best is not None and (ticks >= best if buys else ticks <= best):
            paid = 0
            for maker in _crossing(against, ticks, buys=buys):
                if maker.wallet == wallet:
                    return Code.NEGATIVE_SPREAD
                traded = min(left, maker.left)
                quote = pair.value_up(traded, maker.ticks) if buys else pair.value_down(traded, maker.ticks)
                if not quote:
                    dropped.append(maker)
                    continue
                fills.append((maker, traded, quote))
                paid += quote if buys else traded
                left -= traded
                if not left:
                    break
            if fills:
                needed = 0 if left < pair.lots_min else pair.value_down(left, ticks) if buys else left
                # Each fill is rounded by itself: together they may cost a little more than the whole.
                if paid + needed > free:
                    return Code.NOT_ENOUGH_FUNDS
        at_ns = work.at_ns
        order = Order(asked.order, wallet, pair_id, work.place(), purse, buys, lots, lots, ticks, at_ns, at_ns)
        if fills:
            self._fill(work, book, order, fills)
        for maker in dropped:
            self._end(work, book, maker, _CANCELLED)
        if order.left and needed:
            order.reserve = needed
            order.status = _PARTIALLY if fills else _PLACED
            purse.held += needed
            self.orders[order.id] = order
            self.moved.add(purse)
            book.add(order)
        elif order.left:
            order.status = _CANCELLED
        work.changes.append(order.now())
        return None

    def _market(self, work: "_Work", asked: Market) -> Outcome:
        book = self.books.get(asked.pair)
        if book is None:
            return Outcome(Code.UNKNOWN_PAIR)
        pair, lots, buys = book.pair, asked.lots, asked.buys
        against = book.asks if buys else book.bids
        best = against.best
        refused = None
        if not pair.on:
            refused = Code.DISABLED
        elif best is None:
            refused = Code.NO_LIQUIDITY
        elif not asked.fine:
            refused = Code.INVALID_VOLUME_ACCURACY
        elif lots <= 0 or lots > (pair.lots_max or AMOUNT_MAX):
            refused = Code.INVALID_VOLUME
        elif lots < pair.lots_min:
            refused = Code.TOO_SMALL_VOLUME
        elif asked.order in self.orders:
            refused = Code.DUPLICATE
        if refused is not None or best is None:
            return Outcome(refused)
        purse = self.purse(asked.wallet, pair.quote if buys else pair.base)
        free = purse.total - purse.held
        fills: list[_Fill] = []
        dropped: list[Order] = []
        left, paid, worth = lots, 0, 0
        for maker in against.orders():
            if maker.wallet == asked.wallet:
                continue
            traded = min(left, maker.left)
            quote = pair.value_up(traded, maker.ticks) if buys else pair.value_down(traded, maker.ticks)
            if not quote:
                dropped.append(maker)
                continue
            paid += quote if buys else traded
            left -= traded
            if paid > free:
                return Outcome(Code.NO_LIQUIDITY if left else Code.NOT_ENOUGH_FUNDS)
            fills.append((maker, traded, quote))
            worth += traded * maker.ticks
            if not left:
                break
        if left:
            return Outcome(Code.NO_LIQUIDITY)
        # The average of what it traded at, rounded against whoever took.
        ticks = -(-worth // lots) if buys else worth // lots
        if pair.deviation_ppm and abs(ticks - best) * PPM > best * pair.deviation_ppm:
            return Outcome(Code.TOO_HIGH_PRICE_DEVIATION)
        if pair.quote_max and pair.value_up(lots, ticks) > pair.quote_max:
            return Outcome(Code.INVALID_ORDER_VALUE)
        at_ns = work.at_ns
        order = Order(
            *(asked.order, asked.wallet, asked.pair, work.place(), purse, buys, lots, lots, ticks, at_ns, at_ns),
            market=True,
        )
        self._fill(work, book, order, fills)
        for maker in dropped:
            self._end(work, book, maker, _CANCELLED)
        work.changes.append(order.now())
        return work.outcome(None, ticks)

    def _bulk(self, work: "_Work", asked: Bulk) -> Outcome:
        book = self.books.get(asked.pair)
        if book is None:
            return Outcome(Code.UNKNOWN_PAIR)
        if len(asked.items) > ITEMS_MAX:
            return Outcome(Code.INVALID_VOLUME)
        lost: set[int] = set()
        for index, item in enumerate(asked.items):
            if item.old is not None:
                old = self.orders.get(item.old)
                if old is None or old.wallet != asked.wallet or old.pair != asked.pair or old.buys is not item.buys:
                    lost.add(index)
                else:
                    self._end(work, book, old, _REPLACED)
        if asked.cancel is not None:
            self._cancel_side(work, book, asked)
        done: list[ItemDone] = []
        for index, item in enumerate(asked.items):
            refused = item.refused
            if refused is None:
                if index in lost:
                    refused = Code.NOT_FOUND_PREVIOUS
                else:
                    refused = self._limit(work, item, asked.wallet, asked.pair)
            done.append(ItemDone(item.order, refused))
        return work.outcome(None, items=tuple(done))

    def _cancel_side(self, work: "_Work", book: Book, asked: Bulk) -> None:
        match asked.cancel:
            case CancelMode.BUY_SIDE:
                sides = {True}
            case CancelMode.SELL_SIDE:
                sides = {False}
            case CancelMode.BOTH_SIDES:
                sides = {True, False}
            case _:
                sides = {item.buys for item in asked.items}
        for order in list(book.mine.get(asked.wallet, {}).values()):
            if order.buys in sides:
                self._end(work, book, order, _CANCELLED)

    def _cancel(self, work: "_Work", asked: Cancel) -> Outcome:
        order = self.orders.get(asked.order)
        if order is None or order.wallet != asked.wallet:
            return Outcome(Code.NOT_FOUND)
        self._end(work, self.books[order.pair], order, _CANCELLED)
        return work.outcome(None)

    def _cancel_all(self, work: "_Work", asked: CancelAll) -> Outcome:
        if asked.pair is not None and asked.pair not in self.books:
            return Outcome(Code.UNKNOWN_PAIR)
        for book in [self.books[asked.pair]] if asked.pair is not None else self.books.values():
            for order in list(book.mine.get(asked.wallet, {}).values()):
                if asked.buys is None or order.buys is asked.buys:
                    self._end(work, book, order, _CANCELLED)
        return work.outcome(None)

    def _move(self, asked: Move) -> Code | None:
        if asked.asset not in self.listings.assets:
            return Code.NOT_FOUND
        source = self.purse(ISSUANCE, asked.asset)
        # Nobody can have more than all that was brought in, and that can be kept.
        if not asked.units or source.total - asked.units < -AMOUNT_MAX:
            return Code.INVALID_VOLUME
        purse = self.purse(asked.wallet, asked.asset)
        if purse.total - purse.held + asked.units < 0:
            return Code.NOT_ENOUGH_FUNDS
        source.total -= asked.units
        purse.total += asked.units
        self.moved.add(source)
        self.moved.add(purse)
        return None

    # -- what is done

    def _fill(self, work: "_Work", book: Book, taker: Order, fills: list[_Fill]) -> None:
        pair, buys, at_ns = book.pair, taker.buys, work.at_ns
        against = book.asks if buys else book.bids
        for maker, lots, quote in fills:
            buyer, seller = (taker, maker) if buys else (maker, taker)
            buyer_fee, seller_fee = _fees(pair, lots, quote, taker_buys=buys)
            self._pay(buyer.wallet, seller.wallet, pair.quote, quote, seller_fee)
            self._pay(seller.wallet, buyer.wallet, pair.base, lots, buyer_fee)
            given = lots if buys else quote
            assert maker.reserve >= given
            maker.reserve -= given
            maker.purse.held -= given
            against.take(maker, lots)
            maker.traded_ns = at_ns
            taker.left -= lots
            work.trades.append(
                Trade(
                    f"{work.number}-{len(work.trades)}",
                    pair.id,
                    at_ns,
                    maker.ticks,
                    lots,
                    quote,
                    buys,
                    maker.id,
                    maker.wallet,
                    taker.id,
                    taker.wallet,
                    seller_fee if buys else buyer_fee,
                    buyer_fee if buys else seller_fee,
                )
            )
            if not maker.left:
                self._end(work, book, maker, _MATCHED)
            elif maker.left < pair.lots_min or not maker.reserve:
                self._end(work, book, maker, _CANCELLED)
            else:
                maker.status = _PARTIALLY
                maker.changed_ns = at_ns
                work.changes.append(maker.now())
        taker.traded_ns = at_ns
        if not taker.left:
            taker.status = _MATCHED

    def _pay(self, giver: str, taker: str, asset: str, units: int, fee: int) -> None:
        given, taken = self.purse(giver, asset), self.purse(taker, asset)
        given.total -= units
        taken.total += units - fee
        self.moved.add(given)
        self.moved.add(taken)
        if fee:
            kept = self.purse(FEES, asset)
            kept.total += fee
            self.moved.add(kept)

    def _end(self, work: "_Work", book: Book, order: Order, status: Status) -> None:
        book.remove(order)
        del self.orders[order.id]
        purse = order.purse
        purse.held -= order.reserve
        self.moved.add(purse)
        order.reserve = 0
        order.status = status
        order.changed_ns = work.at_ns
        work.changes.append(order.now())


class _Work:
    """The command under way: there is one of these, which is cheaper than one a command."""

    __slots__ = ("_places", "at_ns", "changes", "number", "trades")

    def __init__(self) -> None:
        self.begin(0, 0)

    def begin(self, number: int, at_ns: int) -> None:
        """From now on it is this one."""
        self.number = number
        self.at_ns = at_ns
        self.changes: list[Change] = []
        self.trades: list[Trade] = []
        # Places of one command are beside each other.
        self._places = number * PLACES

    def place(self) -> int:
        """The time of entry of the next order."""
        self._places += 1
        return self._places

    def outcome(self, refused: Code | None, ticks: int = 0, items: tuple[ItemDone, ...] = ()) -> Outcome:
        """What was done so far."""
        return Outcome(refused, ticks, items, tuple(self.changes), tuple(self.trades))


def _crossing(against: Side, ticks: int, *, buys: bool) -> Iterator[Order]:
    """The resting orders at a price as good as that, the best first."""
    for level in against.levels():
        if level.ticks > ticks if buys else level.ticks < ticks:
            return
        yield from level.orders.values()


def _fees(pair: Pair, lots: int, quote: int, *, taker_buys: bool) -> tuple[int, int]:
    """Of the buyer (in base) and of the seller (in quote), rounded up."""
    buyer_ppm, seller_ppm = (
        (pair.taker_fee_ppm, pair.maker_fee_ppm) if taker_buys else (pair.maker_fee_ppm, pair.taker_fee_ppm)
    )
    return -(-lots * buyer_ppm // PPM), -(-quote * seller_ppm // PPM)
