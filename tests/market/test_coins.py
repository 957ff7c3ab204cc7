"""Which instrument a coin means, however it is spelt."""

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from openoutcry.errors import UnknownInstrument
from openoutcry.instrument import Instrument, Kind
from openoutcry.market.coins import Coins


def listed(symbol: str, coin: str, quote: str = "USDT", kind: Kind = Kind.PERPETUAL, **more: Any) -> Instrument:
    one = Instrument(
        venue="fake", symbol=symbol, kind=kind, coin=coin, quote=quote, settle=quote, tick_size=Decimal("0.1"),
        lot_size=Decimal(1),
    )  # fmt: skip
    return replace(one, **more)


def coins(*instruments: Instrument) -> Coins:
    return Coins("fake", {each.symbol: each for each in instruments})


USUAL = coins(
    listed("BTCUSDT", "BTC"),
    listed("ETHUSDT", "ETH"),
    listed("1000PEPEUSDT", "1000PEPE"),
    listed("kSHIB", "kSHIB", "USDC"),
    listed("BTC-PERPETUAL", "BTC", "USD"),
    listed("PF_XBTUSD", "BTC", "USD"),
    listed("BTUSD", "BT", "USD", Kind.SPOT),
    listed("B-TUSD", "B", "TUSD", Kind.SPOT),
    listed("USDC-USDT", "USDC", "USDT", Kind.SPOT),
    listed("TUSD-USDT", "TUSD", "USDT", Kind.SPOT),
    listed("T-USDT", "T", "USDT", Kind.SPOT),
    listed("ETHBTC", "ETH", "BTC", Kind.SPOT),
)


@pytest.mark.parametrize(
    ("written", "coin"),
    [
        *((text, "BTC") for text in ("BTC", "btc", " Btc ", "BTCUSDT", "btcusdt", "BTC-USD", "BTC/USDT", "BTC_USDC")),
        *((text, "BTC") for text in ("BTC-USDC", "BTCFDUSD", "BTC:USDT", "BTC-PERPETUAL", "PF_XBTUSD", "pf_xbtusd")),
        *((text, "1000PEPE") for text in ("1000PEPE", "1000pepeusdt", "1000PEPE-USD")),
        *((text, "kSHIB") for text in ("kSHIB", "KSHIB", "kshibusdc")),
        # The first dollar that leaves a listed coin.
        ("BT-USD", "BT"),
        ("BTTUSD", "BT"),
        ("BTUSDT", "BT"),
        # A coin that is itself a dollar, and one that only ends like one.
        *((text, "USDC") for text in ("USDC", "USDCUSDT", "USDC/USD")),
        ("TUSD", "TUSD"),
        ("TUSDT", "T"),
        # What the venue itself spells so.
        ("ETHBTC", "ETH"),
        ("B-TUSD", "B"),
    ],
)
def test_a_coin_is_found_by_every_spelling_that_means_it(written: str, coin: str) -> None:
    assert USUAL.find(written).coin == coin


@pytest.mark.parametrize(
    "written", ["", " ", "USDT", "-USD", "XYZ", "BTCEUR", "PEPE", "BTC-", "\N{PILE OF POO}", "B" * 99]
)
def test_what_means_no_coin_is_unknown(written: str) -> None:
    with pytest.raises(UnknownInstrument, match=r"^fake does not list '[ -~]{0,64}'"):
        USUAL.find(written)


def test_a_refusal_names_a_few_that_look_alike() -> None:
    with pytest.raises(UnknownInstrument, match=r"^fake does not list 'btx'; it lists BT, BTC$"):
        USUAL.find("btx")


def test_perpetuals_stand_for_a_coin_before_spot_and_futures_and_dollars_before_the_rest() -> None:
    def stands(*instruments: Instrument) -> str:
        made = coins(*instruments)
        assert made.coin_of == {made.of["BTC"].name: "BTC"}
        # Neither the order of a listing nor the spelling decides.
        assert coins(*reversed(instruments)).of["BTC"] is made.of["BTC"]
        return made.of["BTC"].symbol

    spot, future = Kind.SPOT, Kind.FUTURE
    every = [
        listed("z", "BTC"),
        listed("y", "BTC", "USD"),
        listed("x", "BTC", "USDC"),
        listed("w", "BTC", "BUSD"),
        listed("v", "BTC", "EUR"),
        listed("u", "BTC", "USDT", spot),
        listed("t", "BTC", "USD", spot),
        listed("s", "BTC", "USDT", future, expires_ns=1),
        listed("r", "BTC", "USDT", future, expires_ns=2),
        listed("q", "BTC", "USD", future, expires_ns=1),
    ]
    for n in range(len(every)):
        assert stands(*every[n:]) == every[n].symbol


def test_options_and_what_does_not_trade_stand_for_nothing() -> None:
    made = coins(
        listed("BTC-1-C", "BTC", kind=Kind.OPTION),
        listed("ETHUSDT", "ETH", trading=False),
        listed("ETHUSDC", "ETH", "USDC"),
        listed("OLDUSDT", "OLD", trading=False),
    )
    assert {coin: each.symbol for coin, each in made.of.items()} == {"ETH": "ETHUSDC"}
    assert made.find("ETHUSDT").symbol == "ETHUSDC"
    for gone in ("BTC", "BTC-1-C", "OLD", "OLDUSDT"):
        with pytest.raises(UnknownInstrument):
            made.find(gone)
