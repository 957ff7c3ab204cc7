"""The resting orders of one pair: by price, then by time of entry.

Keys of a side are ticks, those of asks negated, in ascending order: the best price is always the last one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

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


class Order(msgspec.Struct, eq=False, gc=False):
    """An order that was taken. `left` lots are still to be traded, `reserve` units of `purse` are set aside for them.

    `place` is its time of entry: a whole number that no other order has, and that only grows.
    """

    id: str
    wallet: str
    pair: str
    place: int
    purse: Purse
    buys: bool
    lots: int
    left: int
    ticks: int
    made_ns: int
    changed_ns: int
    market: bool = False
    reserve: int = 0
    status: Status = Status.PLACED
    traded_ns: int | None = None

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
    """Bids or asks: levels by price, and their keys in ascending order. `changed` collects the prices whose level changed."""

    __slots__ = ("by_ticks", "changed", "count", "keys", "sign")

    def __init__(self, *, bids: bool) -> None:
        self.sign = 1 if bids else -1
        self.keys: list[int] = []
        self.by_ticks: dict[int, Level] = {}
        self.count = 0
        self.changed: set[int] = set()

    @property
    def best(self) -> int | None:
        """The best price, in ticks."""
        return self.keys[-1] * self.sign if self.keys else None

    def take(self, order: Order, lots: int) -> None:
        """So much of it was traded; it keeps its place."""
        order.left -= lots
        self.by_ticks[order.ticks].lots -= lots
        self.changed.add(order.ticks)

    def orders(self) -> Iterator[Order]:
        """The best first."""
        for level in self.levels():
            yield from level.orders.values()

    def levels(self) -> Iterator[Level]:
        """The best first."""
        for key in reversed(self.keys):
            yield self.by_ticks[key * self.sign]

    def lots_at(self, ticks: int) -> int:
        """How much rests there."""
        level = self.by_ticks.get(ticks)
        return 0 if level is None else level.lots


class Book:
    """Both sides of a pair, and whose orders they are."""

    __slots__ = ("asks", "bids", "mine", "pair")

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.bids = Side(bids=True)
        self.asks = Side(bids=False)
        self.mine: dict[str, dict[str, Order]] = {}

    # Nearly every command adds or removes: both are one call deep.

    def add(self, order: Order) -> None:
        """Let it rest, behind all others at its price."""
        side = self.bids if order.buys else self.asks
        ticks, id_ = order.ticks, order.id
        level = side.by_ticks.get(ticks)
        if level is None:
            level = side.by_ticks[ticks] = Level(ticks)
            insort(side.keys, ticks * side.sign)
        level.orders[id_] = order
        level.lots += order.left
        side.count += 1
        side.changed.add(ticks)
        mine = self.mine.get(order.wallet)
        if mine is None:
            mine = self.mine[order.wallet] = {}
        mine[id_] = order

    def remove(self, order: Order) -> None:
        """Let it rest no longer."""
        side = self.bids if order.buys else self.asks
        ticks, id_ = order.ticks, order.id
        level = side.by_ticks[ticks]
        del level.orders[id_]
        level.lots -= order.left
        side.count -= 1
        side.changed.add(ticks)
        if not level.orders:
            del side.by_ticks[ticks]
            del side.keys[bisect_left(side.keys, ticks * side.sign)]
        mine = self.mine[order.wallet]
        del mine[id_]
        if not mine:
            del self.mine[order.wallet]
