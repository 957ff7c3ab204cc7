"""What clients see of our exchange: books, prices, tickers, wallets and streams of them, in the loop, only of what is committed.

A stream begins with what there is, and its registration is a part of the same step: no change is lost between, and none is told
twice. Whoever hears a change sees all of its commit in the views already.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from openoutcry.clock import NS, Clock
from openoutcry.errors import LimitExceeded
from openoutcry.orders import Change, Code, Status, Trade
from openoutcry.telemetry import Telemetry
from openoutcry.trading.listings import Listings, Pair, plain
from openoutcry.trading.risk import PAIR, Rejected
from openoutcry.trading.sequencer import Level, Published
from openoutcry.trading.store import Held, Kept

FOLLOWERS_MAX = 20_000
CROWDED_RETRY_S = 5.0
DAY_S = 86_400
# Newest public trades, which a stream of them begins with.
LATEST_MAX = 50
# Of a ticker's change, which is a share and need not be a finite decimal.
CHANGE_PLACES = 8

_ACTIVE = frozenset({Status.PLACED, Status.PARTIALLY_MATCHED})
_V = TypeVar("_V")

Stop = Callable[[], None]

log = structlog.get_logger()


class BookView(msgspec.Struct, frozen=True):
    """Prices and the whole volume at each, the best first. As a change: those that changed, and 0 where nothing is left."""

    pair: str
    at_ns: int
    bids: Sequence[tuple[Decimal, Decimal]]
    asks: Sequence[tuple[Decimal, Decimal]]


class PriceView(msgspec.Struct, frozen=True):
    """The best bid and the best ask; None: nobody bids, or asks."""

    pair: str
    bid: Decimal | None
    ask: Decimal | None
    at_ns: int


class TickerView(msgspec.Struct, frozen=True):
    """The last 24 hours, by whole seconds. `change`: a share of the first price. None: nobody traded (`last`: ever)."""

    pair: str
    volume_base: Decimal
    volume_quote: Decimal
    change: Decimal
    last: Decimal | None
    high: Decimal | None
    low: Decimal | None
    at_ns: int


class BalanceView(msgspec.Struct, frozen=True):
    """What a wallet has of an asset; of it `held` for resting orders. `at_ns`: when it changed, or when we started."""

    asset: str
    total: Decimal
    held: Decimal
    at_ns: int


class OrderView(msgspec.Struct, frozen=True):
    """An order as it was then. `left` is still to be traded; `cost`: what was traded, at the order's price."""

    id: str
    place: int
    pair: str
    buys: bool
    market: bool
    price: Decimal
    volume: Decimal
    left: Decimal
    status: Status
    made_ns: int
    changed_ns: int
    traded_ns: int | None
    cost: Decimal


class TradeView(msgspec.Struct, frozen=True):
    """One side of a trade. `maker`: its order rested; `fee` is of what it received."""

    id: str
    at_ns: int
    pair: str
    order: str
    maker: bool
    buys: bool
    price: Decimal
    base_volume: Decimal
    quote_volume: Decimal
    base: str
    quote: str
    fee: Decimal | None
    fee_asset: str


class PublicTradeView(msgspec.Struct, frozen=True):
    """A trade without its wallets. `buys`: the taker bought."""

    id: str
    pair: str
    at_ns: int
    buys: bool
    price: Decimal
    volume: Decimal


class OperationView(msgspec.Struct, frozen=True):
    """What was brought into a wallet, or (below zero) taken out of it."""

    id: str
    at_ns: int
    asset: str
    amount: Decimal


class Views:
    """Fed by `take` after each commit. All numbers are plain: no trailing zeros, `format(it, "f")` writes them."""

    def __init__(self, clock: Clock, telemetry: Telemetry, *, followers_max: int = FOLLOWERS_MAX) -> None:
        self.listings = Listings({}, {})
        self._clock = clock
        self._at_ns = 0
        self._markets: dict[str, _Market] = {}
        self._wallets: dict[str, dict[str, _Had]] = defaultdict(dict)
        self._open: dict[str, dict[str, tuple[str, bool]]] = defaultdict(dict)
        self._followers_max = followers_max
        self._count = 0
        self._books = _Followers[BookView]()
        self._prices = _Followers[PriceView]()
        self._tickers = _Followers[TickerView]()
        self._public = _Followers[Sequence[PublicTradeView]]()
        self._balances = _Followers[Sequence[BalanceView]]()
        self._trades = _Followers[Sequence[TradeView]]()
        self._orders = _Followers[Sequence[OrderView]]()
        self._failures = telemetry.counter("exchange_listener_failures", "Followers of the exchange that failed")
        gauge = telemetry.gauge("exchange_followers", "Open streams of the exchange")
        gauge.set_function(lambda: self._count)

    # -- what is there

    def book(self, pair: str, depth: int = 0) -> BookView:
        """The best `depth` prices of each side, or (not above 0) all. Raises Rejected."""
        return self._market(pair).book(depth)

    def price(self, pair: str) -> PriceView:
        """Raises Rejected."""
        return self._market(pair).price

    def ticker(self, pair: str) -> TickerView:
        """As of now. Raises Rejected."""
        market = self._market(pair)
        market.roll(self._now_ns())
        return market.ticker()

    def balances(self, wallet: str) -> Sequence[BalanceView]:
        """Every asset that the wallet ever had, by id."""
        return [self._balance(asset, had) for asset, had in sorted(self._wallets.get(wallet, {}).items())]

    def free(self, wallet: str, asset: str) -> Decimal:
        """What the wallet has and has not reserved."""
        had = self._wallets.get(wallet, {}).get(asset)
        return Decimal(0) if had is None else self.listings.assets[asset].amount(had.total - had.held)

    def latest_trades(self, pair: str) -> Sequence[PublicTradeView]:
        """The newest public trades, newest first, 50 at most. Raises Rejected."""
        return list(self._market(pair).latest)

    def resting(self, wallet: str) -> Mapping[str, tuple[str, bool]]:
        """The wallet's active orders: of which pair, and whether they buy."""
        return self._open.get(wallet, {})

    # -- streams

    def follow_books(self, pairs: Collection[str], hear: Callable[[BookView], None]) -> tuple[Sequence[BookView], Stop]:
        """The whole books of those pairs (none named: of all, later ones too), then what changes. Raises Rejected, LimitExceeded."""
        return self._follow_pairs(self._books, pairs, hear, lambda market: market.book(0))

    def follow_prices(
        self, pairs: Collection[str], hear: Callable[[PriceView], None]
    ) -> tuple[Sequence[PriceView], Stop]:
        """As `follow_books`; told where the best bid or ask changes."""
        return self._follow_pairs(self._prices, pairs, hear, lambda market: market.price)

    def follow_tickers(
        self, pairs: Collection[str], hear: Callable[[TickerView], None]
    ) -> tuple[Sequence[TickerView], Stop]:
        """As `follow_books`; told where somebody traded, and where a trade is a day old."""
        self.roll()
        return self._follow_pairs(self._tickers, pairs, hear, lambda market: market.ticker())

    def follow_public_trades(
        self, pair: str, hear: Callable[[Sequence[PublicTradeView]], None]
    ) -> tuple[Sequence[PublicTradeView], Stop]:
        """The newest, newest first; then those of each commit, newest first. Raises Rejected, LimitExceeded."""
        latest = self.latest_trades(pair)
        return latest, self._follow(self._public, (pair,), hear)

    def follow_balances(
        self, wallet: str, hear: Callable[[Sequence[BalanceView]], None]
    ) -> tuple[Sequence[BalanceView], Stop]:
        """All of them, then those that each commit changed. Raises LimitExceeded."""
        return self.balances(wallet), self._follow(self._balances, (wallet,), hear)

    def follow_trades(
        self, wallet: str, hear: Callable[[Sequence[TradeView]], None]
    ) -> tuple[Sequence[TradeView], Stop]:
        """Nothing first; then the wallet's trades of each command together. Raises LimitExceeded."""
        return (), self._follow(self._trades, (wallet,), hear)

    def follow_orders(
        self, wallet: str, hear: Callable[[Sequence[OrderView]], None]
    ) -> tuple[Sequence[OrderView], Stop]:
        """Nothing first; then what became of the wallet's orders by each command, together. Raises LimitExceeded."""
        return (), self._follow(self._orders, (wallet,), hear)

    # -- what feeds them

    def load(self, kept: Kept, trades: Mapping[str, Sequence[Trade]]) -> None:
        """What was kept, and of each pair the trades of the last day (50 at least), newest first."""
        assert not self._markets
        self._at_ns = kept.at_ns
        if kept.listings is not None:
            self._relist(Listings.read(kept.listings))
        for change in kept.orders:
            self._rests(change)
            side = self._markets[change.pair].side(buys=change.buys)
            side.put(change.ticks, side.lots.get(change.ticks, 0) + change.left)
        for each in kept.held:
            self._wallets[each.wallet][each.asset] = _Had(each.total, each.held, kept.at_ns)
        for pair, newest_first in trades.items():
            for trade in reversed(newest_first):
                self._markets[pair].traded(trade)
        for market in self._markets.values():
            market.at_ns = kept.at_ns
            market.roll(self._now_ns())
            market.best()

    def take(self, published: Published) -> None:
        """A commit. Never raises for what a follower does."""
        self._at_ns = max(self._at_ns, published.at_ns)
        if published.listings is not None:
            self._relist(published.listings)
        told: list[_Told] = []
        public: dict[str, list[Trade]] = defaultdict(list)
        for _, outcome in published.done:
            for change in outcome.changes:
                self._rests(change)
            for trade in outcome.trades:
                public[trade.pair].append(trade)
            told += self._orders_told(outcome.changes)
            told += self._trades_told(outcome.trades)
        told += self._held_told(published.held, published.at_ns)
        told += self._levels_told(published.levels, published.at_ns)
        for pair, trades in public.items():
            market = self._markets[pair]
            views = [market.traded(trade) for trade in trades]
            told += self._public.told(pair, views[::-1])
            market.roll(self._now_ns())
            told += self._tickers.told(pair, market.ticker)
        self._tell(told)

    def roll(self) -> None:
        """A day moved on: what is older is no longer in a ticker, and whoever follows it hears that."""
        now_ns = self._now_ns()
        told: list[_Told] = []
        for pair, market in self._markets.items():
            if market.roll(now_ns):
                told += self._tickers.told(pair, market.ticker)
        self._tell(told)

    # -- parts

    def _market(self, pair: str) -> "_Market":
        market = self._markets.get(pair)
        if market is None:
            raise Rejected(Code.UNKNOWN_PAIR, field=PAIR)
        return market

    def _now_ns(self) -> int:
        return max(self._at_ns, self._clock.now_ns())

    def _relist(self, listings: Listings) -> None:
        self.listings = listings
        for id_, pair in listings.pairs.items():
            market = self._markets.get(id_)
            if market is None:
                self._markets[id_] = _Market(pair, self._at_ns)
            else:
                market.pair = pair

    def _rests(self, change: Change) -> None:
        if change.status in _ACTIVE:
            self._open[change.wallet][change.id] = (change.pair, change.buys)
        elif change.id in self._open.get(change.wallet, {}):
            del self._open[change.wallet][change.id]
            if not self._open[change.wallet]:
                del self._open[change.wallet]

    def _balance(self, asset: str, had: "_Had") -> BalanceView:
        amount = self.listings.assets[asset].amount
        return BalanceView(asset, amount(had.total), amount(had.held), had.at_ns)

    def _orders_told(self, changes: Sequence[Change]) -> "Iterator[_Told]":
        if not changes or not self._orders:
            return
        of: dict[str, list[OrderView]] = defaultdict(list)
        for change in changes:
            if change.wallet in self._orders:
                of[change.wallet].append(order_view(change, self.listings.pairs[change.pair]))
        for wallet, views in of.items():
            yield from self._orders.told(wallet, views)

    def _trades_told(self, trades: Sequence[Trade]) -> "Iterator[_Told]":
        if not trades or not self._trades:
            return
        of: dict[str, list[TradeView]] = defaultdict(list)
        for trade in trades:
            pair = self.listings.pairs[trade.pair]
            for wallet in {trade.maker_wallet, trade.taker_wallet}:
                if wallet in self._trades:
                    of[wallet] += trade_views(trade, wallet, pair)
        for wallet, views in of.items():
            yield from self._trades.told(wallet, views)

    def _held_told(self, held: Sequence[Held], at_ns: int) -> "Iterator[_Told]":
        of: dict[str, list[BalanceView]] = defaultdict(list)
        for each in held:
            mine = self._wallets[each.wallet]
            had = mine.get(each.asset)
            if had is not None and (had.total, had.held) == (each.total, each.held):
                continue
            mine[each.asset] = now = _Had(each.total, each.held, at_ns)
            if each.wallet in self._balances:
                of[each.wallet].append(self._balance(each.asset, now))
        for wallet, views in of.items():
            yield from self._balances.told(wallet, sorted(views, key=lambda view: view.asset))

    def _levels_told(self, levels: Sequence[Level], at_ns: int) -> "Iterator[_Told]":
        changed: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for level in levels:
            if self._markets[level.pair].side(buys=level.buys).put(level.ticks, level.lots):
                changed[level.pair][0 if level.buys else 1].append(level.ticks)
        for pair, (bids, asks) in changed.items():
            market = self._markets[pair]
            market.at_ns = at_ns
            if pair in self._books:
                yield from self._books.told(pair, market.delta(bids, asks))
            if market.best():
                yield from self._prices.told(pair, market.price)

    def _follow_pairs(
        self,
        followers: "_Followers[_V]",
        pairs: Collection[str],
        hear: Callable[[_V], None],
        now: "Callable[[_Market], _V]",
    ) -> tuple[Sequence[_V], Stop]:
        chosen = tuple(dict.fromkeys(pairs))
        first = [now(self._market(pair)) for pair in chosen or self._markets]
        return first, self._follow(followers, chosen or (EVERY,), hear)

    def _follow(self, followers: "_Followers[_V]", keys: Sequence[str], hear: Callable[[_V], None]) -> Stop:
        if self._count >= self._followers_max:
            raise LimitExceeded("too many streams of the exchange are open", CROWDED_RETRY_S)
        self._count += 1
        follower = followers.add(keys, hear)

        def stop() -> None:
            if follower.hear is not None:
                followers.remove(keys, follower)
                self._count -= 1

        return stop

    def _tell(self, told: "Iterable[_Told]") -> None:
        for follower, what in told:
            if follower.hear is None:  # it left while the others were told
                continue
            try:
                follower.hear(what)
            except Exception:  # one follower's fault must not cost the others the commit
                self._failures.inc()
                log.exception("follower failed", follower=repr(follower.hear))


def order_view(change: Change, pair: Pair) -> OrderView:
    """The order, in decimals."""
    return OrderView(
        id=change.id,
        place=change.place,
        pair=change.pair,
        buys=change.buys,
        market=change.market,
        price=pair.price(change.ticks),
        volume=pair.volume(change.lots),
        left=pair.volume(change.left),
        status=change.status,
        made_ns=change.made_ns,
        changed_ns=change.changed_ns,
        traded_ns=change.traded_ns,
        cost=pair.cost(change.lots - change.left, change.ticks),
    )


def trade_views(trade: Trade, wallet: str, pair: Pair) -> Sequence[TradeView]:
    """The wallet's sides of it: one, or both where it traded with itself."""
    sides = (
        (True, trade.maker_wallet, trade.maker, not trade.taker_buys, trade.maker_fee),
        (False, trade.taker_wallet, trade.taker, trade.taker_buys, trade.taker_fee),
    )
    return [
        TradeView(
            id=trade.id,
            at_ns=trade.at_ns,
            pair=trade.pair,
            order=order,
            maker=maker,
            buys=buys,
            price=pair.price(trade.ticks),
            base_volume=pair.volume(trade.lots),
            quote_volume=pair.worth(trade.quote),
            base=pair.base,
            quote=pair.quote,
            fee=None if not fee else pair.volume(fee) if buys else pair.worth(fee),
            fee_asset=pair.base if buys else pair.quote,
        )
        for maker, whose, order, buys, fee in sides
        if whose == wallet
    ]


def public_view(trade: Trade, pair: Pair) -> PublicTradeView:
    """The trade, without its wallets."""
    return PublicTradeView(
        trade.id, trade.pair, trade.at_ns, trade.taker_buys, pair.price(trade.ticks), pair.volume(trade.lots)
    )


# What a follower of all pairs is kept under; no pair has that name.
EVERY = ""


class _Follower(Generic[_V]):
    """Somebody who hears; nobody once `hear` is None."""

    __slots__ = ("hear",)

    def __init__(self, hear: Callable[[_V], None]) -> None:
        self.hear: Callable[[_V], None] | None = hear


_Told = tuple[_Follower[Any], Any]


class _Followers(Generic[_V]):
    """Who follows what, in the order they came."""

    def __init__(self) -> None:
        self._of: dict[str, dict[_Follower[_V], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def __contains__(self, key: str) -> bool:
        return key in self._of or EVERY in self._of

    def add(self, keys: Sequence[str], hear: Callable[[_V], None]) -> _Follower[_V]:
        """One more."""
        follower = _Follower(hear)
        for key in keys:
            self._of.setdefault(key, {})[follower] = None
        return follower

    def remove(self, keys: Sequence[str], follower: _Follower[_V]) -> None:
        """It hears no more."""
        follower.hear = None
        for key in keys:
            mine = self._of[key]
            del mine[follower]
            if not mine:
                del self._of[key]

    def told(self, key: str, what: _V | Callable[[], _V]) -> Iterator[_Told]:
        """Who is to hear it; a function is called where anybody is."""
        if key not in self:
            return
        said = what() if callable(what) else what
        for name in (key, EVERY):
            for follower in self._of.get(name, ()):
                yield follower, said


class _Had:
    """Units of an asset, since then."""

    __slots__ = ("at_ns", "held", "total")

    def __init__(self, total: int, held: int, at_ns: int) -> None:
        self.total = total
        self.held = held
        self.at_ns = at_ns


class _Side:
    """What rests at each price."""

    __slots__ = ("_keys", "bids", "lots")

    def __init__(self, *, bids: bool) -> None:
        self.bids = bids
        self.lots: dict[int, int] = {}
        self._keys: list[int] = []

    @property
    def best(self) -> int | None:
        """In ticks."""
        return None if not self._keys else self._keys[-1] if self.bids else self._keys[0]

    def put(self, ticks: int, lots: int) -> bool:
        """So much rests there now. Returns whether that is news."""
        was = self.lots.get(ticks, 0)
        if lots == was:
            return False
        if not lots:
            del self.lots[ticks]
            del self._keys[bisect_left(self._keys, ticks)]
            return True
        if not was:
            insort(self._keys, ticks)
        self.lots[ticks] = lots
        return True

    def view(self, pair: Pair, depth: int) -> Sequence[tuple[Decimal, Decimal]]:
        """The best first."""
        ordered = reversed(self._keys) if self.bids else iter(self._keys)
        best = islice(ordered, depth) if depth > 0 else ordered
        return [(pair.price(ticks), pair.volume(self.lots[ticks])) for ticks in best]

    def changes(self, pair: Pair, changed: Iterable[int]) -> Sequence[tuple[Decimal, Decimal]]:
        """Those prices, the best first."""
        ordered = sorted(changed, reverse=self.bids)
        return [(pair.price(ticks), pair.volume(self.lots.get(ticks, 0))) for ticks in ordered]


class _Market:
    """A pair as it is traded now."""

    def __init__(self, pair: Pair, at_ns: int) -> None:
        self.pair = pair
        self.at_ns = at_ns
        self.price = PriceView(pair.id, None, None, at_ns)
        self.latest: deque[PublicTradeView] = deque(maxlen=LATEST_MAX)
        self._bids, self._asks = _Side(bids=True), _Side(bids=False)
        self._best: tuple[int | None, int | None] = (None, None)
        self._day = _Day()
        self._moved_ns = at_ns

    def side(self, *, buys: bool) -> _Side:
        """Bids or asks."""
        return self._bids if buys else self._asks

    def book(self, depth: int) -> BookView:
        """All of it, or the best `depth` prices of each side."""
        return BookView(self.pair.id, self.at_ns, self._bids.view(self.pair, depth), self._asks.view(self.pair, depth))

    def delta(self, bids: Iterable[int], asks: Iterable[int]) -> BookView:
        """What is at those prices now."""
        return BookView(
            self.pair.id, self.at_ns, self._bids.changes(self.pair, bids), self._asks.changes(self.pair, asks)
        )

    def best(self) -> bool:
        """Look at the best prices again. Returns whether they changed."""
        best = (self._bids.best, self._asks.best)
        if best == self._best:
            return False
        self._best = best
        bid, ask = (None if ticks is None else self.pair.price(ticks) for ticks in best)
        self.price = PriceView(self.pair.id, bid, ask, self.at_ns)
        return True

    def traded(self, trade: Trade) -> PublicTradeView:
        """Count it."""
        view = public_view(trade, self.pair)
        self.latest.appendleft(view)
        self._day.add(trade)
        self._moved_ns = trade.at_ns
        return view

    def roll(self, now_ns: int) -> bool:
        """Forget what is a day old. Returns whether anything was."""
        if not self._day.roll(now_ns):
            return False
        self._moved_ns = now_ns
        return True

    def ticker(self) -> TickerView:
        """As it was rolled last."""
        day, price = self._day, self.pair.price
        return TickerView(
            pair=self.pair.id,
            volume_base=self.pair.volume(day.lots),
            volume_quote=self.pair.worth(day.quote),
            change=day.change,
            last=None if day.last is None else price(day.last),
            high=None if not day.highs else price(day.highs[0][1]),
            low=None if not day.lows else price(day.lows[0][1]),
            at_ns=self._moved_ns,
        )


class _Second:
    """The trades of one second."""

    __slots__ = ("at_s", "first", "lots", "quote")

    def __init__(self, at_s: int, first: int) -> None:
        self.at_s = at_s
        self.first = first
        self.lots = 0
        self.quote = 0


class _Day:
    """The trades of the last day by whole seconds, of which there are no more than a day has.

    `highs` holds prices that no later one was above, with their seconds; `lows` likewise: the first is that of the day.
    """

    def __init__(self) -> None:
        self.lots = self.quote = 0
        self.last: int | None = None
        self.highs: deque[tuple[int, int]] = deque()
        self.lows: deque[tuple[int, int]] = deque()
        self._seconds: deque[_Second] = deque()

    @property
    def change(self) -> Decimal:
        """The last price against the first of the day, as a share of that."""
        if not self._seconds or self.last is None:
            return Decimal(0)
        first = self._seconds[0].first
        return plain(round(Fraction((self.last - first) * 10**CHANGE_PLACES, first)), CHANGE_PLACES)

    def add(self, trade: Trade) -> None:
        """One more; none is older than the one before."""
        at_s = trade.at_ns // NS
        if not self._seconds or self._seconds[-1].at_s != at_s:
            self._seconds.append(_Second(at_s, trade.ticks))
        second = self._seconds[-1]
        second.lots += trade.lots
        second.quote += trade.quote
        self.lots += trade.lots
        self.quote += trade.quote
        self.last = trade.ticks
        while self.highs and self.highs[-1][1] <= trade.ticks:
            self.highs.pop()
        self.highs.append((at_s, trade.ticks))
        while self.lows and self.lows[-1][1] >= trade.ticks:
            self.lows.pop()
        self.lows.append((at_s, trade.ticks))

    def roll(self, now_ns: int) -> bool:
        """Forget the seconds that are a day old. Returns whether there were any."""
        edge_s = now_ns // NS - DAY_S
        rolled = False
        while self._seconds and self._seconds[0].at_s <= edge_s:
            gone = self._seconds.popleft()
            self.lots -= gone.lots
            self.quote -= gone.quote
            rolled = True
        for extremes in (self.highs, self.lows):
            while extremes and extremes[0][0] <= edge_s:
                extremes.popleft()
        return rolled
