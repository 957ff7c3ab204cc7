"""Commands of every kind, shaped so that orders meet and queue."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from openoutcry.orders import Bulk, Cancel, CancelAll, CancelMode, Code, Command, Item, Limit, Market, Move, Outcome
from openoutcry.trading.listings import Asset, Listings, Pair

WALLETS = ("a", "b", "c")
ASSETS = {
    "BTC": Asset(id="BTC", name="Bitcoin", symbol="BTC", accuracy=3),
    "USD": Asset(id="USD", name="Dollar", symbol="USD", accuracy=2),
    "EUR": Asset(id="EUR", name="Euro", symbol="EUR", accuracy=2),
}
# A tick times a lot is a thousandth of a cent, so that amounts are rounded.
PAIR = Pair(
    id="BTCUSD",
    name="BTC/USD",
    base="BTC",
    quote="USD",
    price_accuracy=2,
    base_accuracy=3,
    quote_accuracy=2,
    lots_min=3,
)
FINE = Pair(
    id="EURUSD",
    name="EUR/USD",
    base="EUR",
    quote="USD",
    price_accuracy=4,
    base_accuracy=2,
    quote_accuracy=2,
    lots_max=50,
    quote_max=60,
    deviation_ppm=300_000,
    maker_fee_ppm=1_000,
    taker_fee_ppm=2_500,
)
LISTINGS = Listings(ASSETS, {PAIR.id: PAIR, FINE.id: FINE})

# Few prices and few wallets, so that orders meet and queue; money for some of what they ask.
_wallet = st.sampled_from(WALLETS)
_pair = st.sampled_from(["BTCUSD", "BTCUSD", "BTCUSD", "EURUSD", "NOWT"])
_ticks = st.one_of(st.integers(95, 105), st.integers(95, 105), st.sampled_from([0, -1, 9_700, 10_000, 10_300, 1]))
_lots = st.one_of(st.integers(3, 12), st.integers(-1, 60))
_index = st.integers(0, 40)


def _limits() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    return st.builds(
        lambda wallet, pair, buys, lots, ticks: lambda id_, _: Limit(id_, wallet, pair, buys, lots, ticks),
        *(_wallet, _pair, st.booleans(), _lots, _ticks),
    )


def _markets() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    return st.builds(
        lambda wallet, pair, buys, lots, fine: lambda id_, _: Market(id_, wallet, pair, buys, lots, fine),
        *(_wallet, _pair, st.booleans(), _lots, st.sampled_from([True, True, True, True, False])),
    )


def _cancels() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    return st.builds(
        lambda wallet, index: lambda _, known: Cancel(wallet, known[-1 - index] if index < len(known) else "nowt"),
        *(_wallet, _index),
    )


def _mass() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    pair, side = st.one_of(st.none(), _pair), st.one_of(st.none(), st.booleans())
    return st.builds(lambda wallet, pair, buys: lambda *_: CancelAll(wallet, pair, buys), _wallet, pair, side)


def _bulks() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    item = st.tuples(
        st.booleans(),
        _lots,
        _ticks,
        st.one_of(st.none(), _index),
        st.sampled_from([None, None, None, Code.INVALID_PRICE_ACCURACY]),
    )
    cancel = st.one_of(st.none(), st.sampled_from(list(CancelMode)))

    def make(wallet: str, pair: str, items: list[Any], cancel: CancelMode | None) -> Any:
        def bulk(id_: str, known: list[str]) -> Command:
            made = tuple(
                Item(
                    f"{id_}.{n}",
                    buys,
                    lots,
                    ticks,
                    None if old is None else known[-1 - old] if old < len(known) else "nowt",
                    refused,
                )
                for n, (buys, lots, ticks, old, refused) in enumerate(items)
            )
            return Bulk(wallet, pair, made, cancel)

        return bulk

    return st.builds(make, _wallet, _pair, st.lists(item, max_size=5), cancel)


def _moves() -> st.SearchStrategy[Callable[[str, list[str]], Command]]:
    asset = st.sampled_from(["BTC", "USD", "EUR", "NOWT"])
    return st.builds(
        lambda wallet, asset, units: lambda id_, _: Move(id_, wallet, asset, units),
        *(_wallet, asset, st.integers(-20, 30)),
    )


asked = st.lists(
    st.one_of(
        _limits(), _limits(), _limits(), _limits(), _markets(), _cancels(), _bulks(), _bulks(), _mass(), _moves()
    ),
    max_size=40,
)


def said(outcome: Outcome) -> Any:
    """As the naive exchange says it."""
    if outcome.items:
        return [None if done.refused is None else done.refused.value for done in outcome.items]
    return None if outcome.refused is None else outcome.refused.value


def ids(command: Command) -> list[str]:
    """Of the orders that it would make."""
    match command:
        case Limit() | Market():
            return [command.order]
        case Bulk():
            return [item.order for item in command.items]
    return []
