"""The obvious exchange: one list of orders that is searched each time, balances that are summed from all that ever moved.

Where it says how much an order reserves it repeats the rule, not the code: a resting order reserves what it may still cost.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

from openoutcry.orders import Bulk, Cancel, CancelAll, CancelMode, Command, Item, Limit, Market, Move
from openoutcry.trading.engine import FEES
from openoutcry.trading.listings import Listings, Pair

ACTIVE = ("placed", "partially_matched")


@dataclass
class Mine:
    id: str
    wallet: str
    pair: str
    buys: bool
    ticks: int
    lots: int
    left: int
    reserve: int
    entered: int
    status: str = "placed"

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


@dataclass
class Naive:
    listings: Listings
    orders: list[Mine] = field(default_factory=list)
    moves: list[tuple[str, str, int]] = field(default_factory=list)
    trades: list[tuple[str, str, int, int, int]] = field(default_factory=list)  # maker, taker, ticks, lots, quote

    def total(self, wallet: str, asset: str) -> int:
        return sum(units for of, what, units in self.moves if (of, what) == (wallet, asset))

    def held(self, wallet: str, asset: str) -> int:
        return sum(
            each.reserve
            for each in self.orders
            if each.active and each.wallet == wallet and self._gives(each.pair, each.buys) == asset
        )

    def free(self, wallet: str, asset: str) -> int:
        return self.total(wallet, asset) - self.held(wallet, asset)

    def resting(self, pair: str, *, buys: bool) -> list[Mine]:
        """The best first; of those at one price the first to come."""
        found = [each for each in self.orders if each.active and each.pair == pair and each.buys is buys]
        return sorted(found, key=lambda each: (-each.ticks if buys else each.ticks, each.entered))

    def obey(self, command: Command) -> Any:
        """The refusal's word, or None; of a bulk one for each item."""
        match command:
            case Limit():
                return self._limit(command, command.wallet, command.pair)
            case Market():
                return self._market(command)
            case Bulk():
                return self._bulk(command)
            case Cancel():
                found = [each for each in self.orders if each.active and each.id == command.order]
                if not found or found[0].wallet != command.wallet:
                    return "not_found"
                self._end(found[0], "cancelled")
                return None
            case CancelAll():
                if command.pair is not None and command.pair not in self.listings.pairs:
                    return "unknown_pair"
                for each in self.orders:
                    if (
                        each.active
                        and each.wallet == command.wallet
                        and command.pair in (None, each.pair)
                        and command.buys in (None, each.buys)
                    ):
                        self._end(each, "cancelled")
                return None
            case Move():
                if command.asset not in self.listings.assets:
                    return "not_found"
                if not command.units:
                    return "invalid_volume"
                if self.free(command.wallet, command.asset) + command.units < 0:
                    return "not_enough_funds"
                self.moves.append((command.wallet, command.asset, command.units))
                return None

    def _limit(self, asked: Limit | Item, wallet: str, pair_id: str) -> str | None:
        pair = self.listings.pairs.get(pair_id)
        if pair is None:
            return "unknown_pair"
        if not pair.on:
            return "disabled"
        if asked.ticks <= 0:
            return "invalid_price"
        if asked.lots <= 0:
            return "invalid_volume"
        if asked.lots < pair.lots_min:
            return "too_small_volume"
        if pair.lots_max and asked.lots > pair.lots_max:
            return "invalid_volume"
        worth = ceil(self._worth(pair, asked.lots, asked.ticks))
        if pair.quote_max and worth > pair.quote_max:
            return "invalid_order_value"
        if any(each.active and each.id == asked.order for each in self.orders):
            return "duplicate"
        others = self.resting(pair_id, buys=not asked.buys)
        if others and pair.deviation_ppm:
            best = others[0].ticks
            if Fraction(abs(asked.ticks - best), best) > Fraction(pair.deviation_ppm, 10**6):
                return "too_high_price_deviation"
        gives = self._gives(pair_id, asked.buys)
        free = self.free(wallet, gives)
        if free < (worth if asked.buys else asked.lots):
            return "not_enough_funds"
        left, paid = asked.lots, 0
        fills: list[tuple[Mine, int, int]] = []
        dropped: list[Mine] = []
        for maker in others:
            if not left or (maker.ticks > asked.ticks if asked.buys else maker.ticks < asked.ticks):
                break
            if maker.wallet == wallet:
                return "negative_spread"
            lots = min(left, maker.left)
            quote = self._quote(pair, lots, maker.ticks, taker_buys=asked.buys)
            if not quote:
                dropped.append(maker)
                continue
            fills.append((maker, lots, quote))
            paid += quote if asked.buys else lots
            left -= lots
        if not fills:
            reserve = worth if asked.buys else asked.lots
        elif left < pair.lots_min:
            reserve = 0
        else:
            reserve = floor(self._worth(pair, left, asked.ticks)) if asked.buys else left
        if paid + reserve > free:
            return "not_enough_funds"
        mine = Mine(
            asked.order, wallet, pair_id, asked.buys, asked.ticks, asked.lots, asked.lots, reserve, len(self.orders)
        )
        for fill in fills:
            self._trade(pair, mine, *fill)
        for maker in dropped:
            self._end(maker, "cancelled")
        if not mine.left:
            self._end(mine, "matched")
        elif not reserve:
            self._end(mine, "cancelled")
        elif fills:
            mine.status = "partially_matched"
        self.orders.append(mine)
        return None

    def _market(self, asked: Market) -> str | None:
        pair = self.listings.pairs.get(asked.pair)
        if pair is None:
            return "unknown_pair"
        if not pair.on:
            return "disabled"
        others = self.resting(asked.pair, buys=not asked.buys)
        if not others:
            return "no_liquidity"
        if not asked.fine:
            return "invalid_volume_accuracy"
        if asked.lots <= 0 or (pair.lots_max and asked.lots > pair.lots_max):
            return "invalid_volume"
        if asked.lots < pair.lots_min:
            return "too_small_volume"
        if any(each.active and each.id == asked.order for each in self.orders):
            return "duplicate"
        free = self.free(asked.wallet, self._gives(asked.pair, asked.buys))
        left, paid = asked.lots, 0
        fills: list[tuple[Mine, int, int]] = []
        dropped: list[Mine] = []
        for maker in others:
            if not left:
                break
            if maker.wallet == asked.wallet:
                continue
            lots = min(left, maker.left)
            quote = self._quote(pair, lots, maker.ticks, taker_buys=asked.buys)
            if not quote:
                dropped.append(maker)
                continue
            left -= lots
            paid += quote if asked.buys else lots
            if paid > free:
                return "no_liquidity" if left else "not_enough_funds"
            fills.append((maker, lots, quote))
        if left:
            return "no_liquidity"
        average = Fraction(sum(lots * maker.ticks for maker, lots, _ in fills), asked.lots)
        ticks = ceil(average) if asked.buys else floor(average)
        best = others[0].ticks
        if pair.deviation_ppm and Fraction(abs(ticks - best), best) > Fraction(pair.deviation_ppm, 10**6):
            return "too_high_price_deviation"
        if pair.quote_max and ceil(self._worth(pair, asked.lots, ticks)) > pair.quote_max:
            return "invalid_order_value"
        mine = Mine(
            asked.order, asked.wallet, asked.pair, asked.buys, ticks, asked.lots, asked.lots, 0, len(self.orders)
        )
        for fill in fills:
            self._trade(pair, mine, *fill)
        for maker in dropped:
            self._end(maker, "cancelled")
        self._end(mine, "matched")
        self.orders.append(mine)
        return None

    def _bulk(self, asked: Bulk) -> Any:
        if asked.pair not in self.listings.pairs:
            return "unknown_pair"
        lost = []
        for item in asked.items:
            if item.old is None:
                continue
            found = [
                each
                for each in self.orders
                if each.active
                and (each.id, each.wallet, each.pair, each.buys) == (item.old, asked.wallet, asked.pair, item.buys)
            ]
            if found:
                self._end(found[0], "replaced")
            else:
                lost.append(item)
        for each in self.orders:
            if not each.active or (each.wallet, each.pair) != (asked.wallet, asked.pair):
                continue
            if (
                asked.cancel is CancelMode.BOTH_SIDES
                or (asked.cancel is CancelMode.BUY_SIDE and each.buys)
                or (asked.cancel is CancelMode.SELL_SIDE and not each.buys)
                or (asked.cancel is CancelMode.NOT_EMPTY_SIDE and any(each.buys is item.buys for item in asked.items))
            ):
                self._end(each, "cancelled")
        said: list[str | None] = []
        for item in asked.items:
            if item.refused is not None:
                said.append(item.refused.value)
            elif any(item is each for each in lost):
                said.append("not_found_previous")
            else:
                said.append(self._limit(item, asked.wallet, asked.pair))
        return said

    def _trade(self, pair: Pair, taker: Mine, maker: Mine, lots: int, quote: int) -> None:
        buyer, seller = (taker, maker) if taker.buys else (maker, taker)
        self.trades.append((maker.id, taker.id, maker.ticks, lots, quote))
        of = {id(taker): pair.taker_fee_ppm, id(maker): pair.maker_fee_ppm}
        base_fee = ceil(Fraction(lots * of[id(buyer)], 10**6))
        quote_fee = ceil(Fraction(quote * of[id(seller)], 10**6))
        self.moves += [
            (buyer.wallet, pair.quote, -quote),
            (seller.wallet, pair.quote, quote - quote_fee),
            (FEES, pair.quote, quote_fee),
            (seller.wallet, pair.base, -lots),
            (buyer.wallet, pair.base, lots - base_fee),
            (FEES, pair.base, base_fee),
        ]
        for order in (maker, taker):
            order.left -= lots
        maker.reserve -= quote if maker.buys else lots
        if not maker.left:
            self._end(maker, "matched")
        elif maker.left < pair.lots_min or not maker.reserve:
            self._end(maker, "cancelled")
        else:
            maker.status = "partially_matched"

    @staticmethod
    def _end(order: Mine, status: str) -> None:
        order.status = status
        order.reserve = 0

    def _gives(self, pair: str, buys: bool) -> str:
        return self.listings.pairs[pair].quote if buys else self.listings.pairs[pair].base

    @staticmethod
    def _worth(pair: Pair, lots: int, ticks: int) -> Fraction:
        in_quote = Fraction(lots, 10**pair.base_accuracy) * Fraction(ticks, 10**pair.price_accuracy)
        return in_quote * int(10**pair.quote_accuracy)

    def _quote(self, pair: Pair, lots: int, ticks: int, *, taker_buys: bool) -> int:
        worth = self._worth(pair, lots, ticks)
        return ceil(worth) if taker_buys else floor(worth)
