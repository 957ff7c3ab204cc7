"""The resting orders of one pair: by price, then by time of entry.

Keys of a side are ticks, those of asks negated, in ascending order: the best price is always the last one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from openoutcry.orders import Change, Status
from openoutcry.trading.listings import Pair


class Purse:
    """What a wallet has of an asset, and how much of it its resting orders reserve."""

    __slots__ = ("asset", "held", "total", "wallet")

    def __init__(self, wallet: str, asset: str, total: int = 0, held: int = 0) -> None:
        self.wallet = wallet
        self.asset = asset
        self.total = total
        self.held = held


class Order:
    """An order that was taken. `left` lots are still to be traded, `reserve` units of `purse` are set aside for them.

    `place` is its time of entry: a whole number that no other order has, and that only grows.
    """

    __slots__ = (
        *("buys", "changed_ns", "id", "left", "lots", "made_ns", "market", "pair", "place", "purse", "reserve"),
        *("status", "ticks", "traded_ns", "wallet"),
    )

    def __init__(
        self,
        id_: str,
        wallet: str,
        pair: str,
        place: int,
        purse: Purse,
        made_ns: int,
        *,
        buys: bool,
        lots: int,
        ticks: int,
        market: bool = False,
    ) -> None:
        self.id = id_
        self.wallet = wallet
        self.pair = pair
        self.place = place
        self.purse = purse
        self.buys = buys
        self.lots = self.left = lots
        self.ticks = ticks
        self.market = market
        self.reserve = 0
        self.status = Status.PLACED
        self.made_ns = self.changed_ns = made_ns
        self.traded_ns: int | None = None

    def now(self) -> Change:
        """As it is."""
        return Change(
            self.id,
            self.place,
            self.wallet,
            self.pair,
            self.buys,
            self.market,
            self.ticks,
            self.lots,
            self.left,
            self.reserve,
            self.status,
            self.made_ns,
            self.changed_ns,
            self.traded_ns,
        )


class Level:
    """The orders at one price, first come first, and how much they leave together."""

    __slots__ = ("lots", "orders", "ticks")

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.lots = 0
        self.orders: dict[str, Order] = {}


class Side:
    """Bids or asks. `changed` collects the prices whose level changed."""

    __slots__ = ("_keys", "_levels", "_sign", "changed", "count")

    def __init__(self, *, bids: bool) -> None:
        self._sign = 1 if bids else -1
        self._keys: list[int] = []
        self._levels: dict[int, Level] = {}
        self.count = 0
        self.changed: set[int] = set()

    @property
    def best(self) -> int | None:
        """The best price, in ticks."""
        return self._keys[-1] * self._sign if self._keys else None

    def add(self, order: Order) -> None:
        """Behind all others at its price."""
        ticks = order.ticks
        level = self._levels.get(ticks)
        if level is None:
            level = self._levels[ticks] = Level(ticks)
            insort(self._keys, ticks * self._sign)
        level.orders[order.id] = order
        level.lots += order.left
        self.count += 1
        self.changed.add(ticks)

    def remove(self, order: Order) -> None:
        """What it leaves is no longer there."""
        ticks = order.ticks
        level = self._levels[ticks]
        del level.orders[order.id]
        level.lots -= order.left
        self.count -= 1
        self.changed.add(ticks)
        if not level.orders:
            del self._levels[ticks]
            del self._keys[bisect_left(self._keys, ticks * self._sign)]

    def take(self, order: Order, lots: int) -> None:
        """So much of it was traded; it keeps its place."""
        order.left -= lots
        self._levels[order.ticks].lots -= lots
        self.changed.add(order.ticks)

    def orders(self) -> Iterator[Order]:
        """The best first."""
        for level in self.levels():
            yield from level.orders.values()

    def levels(self) -> Iterator[Level]:
        """The best first."""
        for key in reversed(self._keys):
            yield self._levels[key * self._sign]

    def lots_at(self, ticks: int) -> int:
        """How much rests there."""
        level = self._levels.get(ticks)
        return 0 if level is None else level.lots


class Book:
    """Both sides of a pair, and whose orders they are."""

    __slots__ = ("asks", "bids", "mine", "pair")

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.bids = Side(bids=True)
        self.asks = Side(bids=False)
        self.mine: dict[str, dict[str, Order]] = {}

    def add(self, order: Order) -> None:
        """Let it rest."""
        (self.bids if order.buys else self.asks).add(order)
        mine = self.mine.get(order.wallet)
        if mine is None:
            mine = self.mine[order.wallet] = {}
        mine[order.id] = order

    def remove(self, order: Order) -> None:
        """Let it rest no longer."""
        (self.bids if order.buys else self.asks).remove(order)
        mine = self.mine[order.wallet]
        del mine[order.id]
        if not mine:
            del self.mine[order.wallet]
