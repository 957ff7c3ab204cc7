"""What clients see, as messages of the contract. Decimals are plain digits; of a side where nothing rests the price is `0`."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from openoutcry.api.lykke import contract, names
from openoutcry.api.lykke.contract import Message
from openoutcry.api.lykke.wire import plain
from openoutcry.clock import NS
from openoutcry.trading.listings import Asset, Pair
from openoutcry.trading.views import (
    BalanceView,
    BookView,
    OperationView,
    OrderView,
    PriceView,
    PublicTradeView,
    TickerView,
    TradeView,
)

_BUY, _SELL = contract.SIDES["buy"], contract.SIDES["sell"]


def time(ns: int) -> Message:
    """A time."""
    return contract.Timestamp(seconds=ns // NS, nanos=ns % NS)


def side(*, buys: bool) -> int:
    """The number of a side."""
    return _BUY if buys else _SELL


def asset(told: Asset) -> Message:
    """An asset."""
    return contract.Asset(assetId=told.id, name=told.name, symbol=told.symbol, accuracy=told.accuracy)


def pair(told: Pair) -> Message:
    """A pair, with the least that an order of it may be."""
    return contract.AssetPair(
        assetPairId=told.id,
        baseAssetId=told.base,
        quoteAssetId=told.quote,
        name=told.name,
        priceAccuracy=told.price_accuracy,
        baseAssetAccuracy=told.base_accuracy,
        quoteAssetAccuracy=told.quote_accuracy,
        minVolume=plain(Decimal(told.lots_min).scaleb(-told.base_accuracy)),
        minOppositeVolume=plain(Decimal(told.quote_min).scaleb(-told.quote_accuracy)),
    )


def book(view: BookView) -> Message:
    """A book, or the levels of it that changed. The volume of asks is below zero."""
    return contract.Orderbook(
        assetPairId=view.pair,
        timestamp=time(view.at_ns),
        bids=[{"p": plain(price), "v": plain(volume)} for price, volume in view.bids],
        asks=[{"p": plain(price), "v": plain(-volume)} for price, volume in view.asks],
    )


def price(view: PriceView) -> Message:
    """The best of both sides."""
    return contract.PriceUpdate(
        assetPairId=view.pair, bid=_or_zero(view.bid), ask=_or_zero(view.ask), timestamp=time(view.at_ns)
    )


def ticker(view: TickerView) -> Message:
    """What was traded in a day."""
    return contract.TickerUpdate(
        assetPairId=view.pair,
        volumeBase=plain(view.volume_base),
        volumeQuote=plain(view.volume_quote),
        priceChange=_or_zero(view.change),
        lastPrice=_or_zero(view.last),
        high=_or_zero(view.high),
        low=_or_zero(view.low),
        timestamp=time(view.at_ns),
    )


def public_trades(views: Sequence[PublicTradeView]) -> Message:
    """Trades, without a word of who made them."""
    return contract.PublicTradeUpdate(
        trades=[
            contract.PublicTrade(
                id=view.id,
                assetPairId=view.pair,
                dateTime=time(view.at_ns),
                volume=plain(view.volume),
                price=plain(view.price),
                side="Buy" if view.buys else "Sell",
            )
            for view in views
        ]
    )


def balance(view: BalanceView) -> Message:
    """What a wallet has of an asset: `available` is all of it, as the contract's clients expect."""
    return contract.Balance(
        assetId=view.asset, available=plain(view.total), reserved=plain(view.held), timestamp=time(view.at_ns)
    )


def balances(views: Iterable[BalanceView]) -> Message:
    """What changed of a wallet."""
    return contract.BalanceUpdate(balances=[balance(view) for view in views])


def order(view: OrderView) -> Message:
    """An order as it is now."""
    return contract.Order(
        id=view.id,
        timestamp=time(view.made_ns),
        lastTradeTimestamp=None if view.traded_ns is None else time(view.traded_ns),
        status=names.STATUSES[view.status],
        assetPairId=view.pair,
        type="Market" if view.market else "Limit",
        side=side(buys=view.buys),
        price=plain(view.price),
        volume=plain(view.volume),
        filledVolume=plain(view.volume - view.left),
        remainingVolume=plain(view.left),
        cost=plain(view.cost),
    )


def orders(views: Sequence[OrderView]) -> Message:
    """Orders of which something became."""
    return contract.OrderUpdate(orders=[order(view) for view in views])


def trade(view: TradeView) -> Message:
    """A trade as one who took part sees it."""
    fee = None if view.fee is None else {"size": plain(view.fee), "assetId": view.fee_asset}
    return contract.Trade(
        id=view.id,
        timestamp=time(view.at_ns),
        assetPairId=view.pair,
        orderId=view.order,
        role="Maker" if view.maker else "Taker",
        price=plain(view.price),
        baseVolume=plain(view.base_volume),
        quoteVolume=plain(view.quote_volume),
        baseAssetId=view.base,
        quoteAssetId=view.quote,
        fee=fee,
        side=side(buys=view.buys),
    )


def trades(views: Sequence[TradeView]) -> Message:
    """Trades of a wallet."""
    return contract.TradeUpdate(trades=[trade(view) for view in views])


def operation(view: OperationView) -> Message:
    """What came into a wallet or left it. Nothing here has a hash of a chain."""
    return contract.OperationHistory(
        operationId=view.id,
        assetId=view.asset,
        totalVolume=plain(abs(view.amount)),
        fee="0",
        type="deposit" if view.amount > 0 else "withdrawal",
        timestamp=time(view.at_ns),
    )


def _or_zero(number: Decimal | None) -> str:
    return "0" if number is None else plain(number)
