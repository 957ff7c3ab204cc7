"""What our own exchange is asked and what becomes of it. Prices are whole ticks, volumes whole lots: units of the pair's accuracies.

A command carries all that it needs, ids and times too, so that the same commands make the same exchange again.
"""

from enum import StrEnum

import msgspec


class Code(StrEnum):
    """Why something was not done. A dialect has numbers of its own for them."""

    LOW_BALANCE = "low_balance"
    UNKNOWN_PAIR = "unknown_pair"
    NO_LIQUIDITY = "no_liquidity"
    NOT_ENOUGH_FUNDS = "not_enough_funds"
    NOT_FOUND = "not_found"
    NEGATIVE_SPREAD = "negative_spread"
    TOO_SMALL_VOLUME = "too_small_volume"
    INVALID_FEE = "invalid_fee"
    INVALID_PRICE = "invalid_price"
    NOT_FOUND_PREVIOUS = "not_found_previous"
    DUPLICATE = "duplicate"
    INVALID_VOLUME_ACCURACY = "invalid_volume_accuracy"
    INVALID_PRICE_ACCURACY = "invalid_price_accuracy"
    INVALID_VOLUME = "invalid_volume"
    TOO_HIGH_PRICE_DEVIATION = "too_high_price_deviation"
    INVALID_ORDER_VALUE = "invalid_order_value"
    DISABLED = "disabled"
    RUNTIME = "runtime"
    # What the front door finds before the engine is asked.
    INVALID_FIELD = "invalid_field"
    UNKNOWN_ASSET = "unknown_asset"
    UNKNOWN_ORDER = "unknown_order"
    ACTION_FORBIDDEN = "action_forbidden"


class Status(StrEnum):
    """How far an order is; the first two are active."""

    PLACED = "placed"
    PARTIALLY_MATCHED = "partially_matched"
    MATCHED = "matched"
    CANCELLED = "cancelled"
    REPLACED = "replaced"


class CancelMode(StrEnum):
    """Which resting orders of the pair a bulk cancels first."""

    NOT_EMPTY_SIDE = "not_empty_side"  # the sides that its items are on
    BOTH_SIDES = "both_sides"
    SELL_SIDE = "sell_side"
    BUY_SIDE = "buy_side"


class Limit(msgspec.Struct, frozen=True, gc=False, tag="limit"):
    """Buy or sell `lots` at `ticks` or better; what does not trade now rests in the book."""

    order: str
    wallet: str
    pair: str
    buys: bool
    lots: int
    ticks: int


class Market(msgspec.Struct, frozen=True, gc=False, tag="market"):
    """Buy or sell all of `lots` now, or nothing. `fine` False: the volume has more places than the pair."""

    order: str
    wallet: str
    pair: str
    buys: bool
    lots: int
    fine: bool = True


class Item(msgspec.Struct, frozen=True, gc=False):
    """One order of a bulk. `old`: an order that it takes the place of. `refused`: it was found wrong before it came here."""

    order: str
    buys: bool
    lots: int
    ticks: int
    old: str | None = None
    refused: Code | None = None


class Bulk(msgspec.Struct, frozen=True, gc=False, tag="bulk"):
    """Cancel, then place each, as one: nobody sees a half of it. `cancel` None cancels nothing first."""

    wallet: str
    pair: str
    items: tuple[Item, ...]
    cancel: CancelMode | None = None


class Cancel(msgspec.Struct, frozen=True, gc=False, tag="cancel"):
    """Take one order of the wallet's out of the book."""

    wallet: str
    order: str


class CancelAll(msgspec.Struct, frozen=True, gc=False, tag="cancel_all"):
    """Take all orders of the wallet's out of the book: of one pair, of one side, where those are named."""

    wallet: str
    pair: str | None = None
    buys: bool | None = None


class Relist(msgspec.Struct, frozen=True, tag="relist"):
    """From now on these assets and pairs are traded, under these rules: `listings` is what `Listings.told` gives."""

    listings: bytes


class Move(msgspec.Struct, frozen=True, gc=False, tag="move"):
    """Bring so many units of an asset in, or (below zero) take them out. `id` is the caller's: twice does it once."""

    id: str
    wallet: str
    asset: str
    units: int


Command = Limit | Market | Bulk | Cancel | CancelAll | Relist | Move


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One match. `quote` and the fees are units of the assets that were received; `taker_buys` says who took."""

    id: str
    pair: str
    at_ns: int
    ticks: int
    lots: int
    quote: int
    taker_buys: bool
    maker: str
    maker_wallet: str
    taker: str
    taker_wallet: str
    maker_fee: int = 0
    taker_fee: int = 0


class Change(msgspec.Struct, frozen=True, gc=False):
    """An order as it was right after something became of it. `place` is its time of entry, which no other order has."""

    id: str
    place: int
    wallet: str
    pair: str
    buys: bool
    market: bool
    ticks: int
    lots: int
    left: int
    reserve: int
    status: Status
    made_ns: int
    changed_ns: int
    traded_ns: int | None


class ItemDone(msgspec.Struct, frozen=True, gc=False):
    """What became of one item of a bulk."""

    order: str
    refused: Code | None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What a command did. `refused`: nothing. `ticks`: a market order's average price; `items`: a bulk's, in their order."""

    refused: Code | None = None
    ticks: int = 0
    items: tuple[ItemDone, ...] = ()
    changes: tuple[Change, ...] = ()
    trades: tuple[Trade, ...] = ()
