"""What the simulated venues list: their own spellings, grids and contract sizes, and how lively each instrument is.

Most instruments are 30 to 60 days old, so that long histories stay short; `LAYERUSDT` on Binance futures takes turns between
funding every 8 h and every 4 h, `AVAXUSDT` pays every 4 h, and `HYPEUSDT` was listed six hours before the start.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from openoutcry.events import NS
from openoutcry.instrument import Instrument, Kind
from openoutcry.simulator.tape import Listing

HOUR_NS = 3_600 * NS
DAY_NS = 24 * HOUR_NS
HOURS_8 = (28_800,)
HOURS_4 = (14_400,)
HOURS_8_AND_4 = (28_800, 14_400)
HOURLY = (3_600,)
NON_MARKET_BITS = 11  # one in 2,048
BOOKED_BITS = 6  # one in 64: trades that were not matched on the book
EXPIRY_HOUR = 8
NEWEST_EXPIRY_DAYS = 14
# Strikes of options, and what a call and a put at them cost, all as parts of the coin's price.
PREMIUMS = (
    (0.8, 0.21, 0.01),
    (0.9, 0.12, 0.02),
    (0.95, 0.085, 0.035),
    (1.0, 0.055, 0.055),
    (1.1, 0.02, 0.12),
    (1.2, 0.01, 0.21),
)


class _Coin(NamedTuple):
    """Price in USD, orders a second on the busiest venue, USD of a usual order, age in days, wildness."""

    price: float
    orders_per_s: float
    order_usd: float
    days: float
    wildness: float


COINS = {
    "BTC": _Coin(64_000.0, 6.0, 20_000.0, 32, 1.0),
    "ETH": _Coin(3_400.0, 4.0, 15_000.0, 35, 1.2),
    "SOL": _Coin(150.0, 2.5, 9_000.0, 40, 1.5),
    "XRP": _Coin(0.6, 1.5, 5_000.0, 45, 1.3),
    "DOGE": _Coin(0.13, 1.2, 4_000.0, 45, 1.6),
    "BNB": _Coin(580.0, 1.0, 4_000.0, 45, 0.9),
    "LINK": _Coin(14.0, 0.6, 3_000.0, 45, 1.4),
    "AVAX": _Coin(27.0, 0.5, 3_000.0, 60, 1.5),
    "HYPE": _Coin(28.0, 0.8, 3_000.0, 0.25, 1.7),
    "LAYER": _Coin(1.2, 0.3, 1_500.0, 30, 2.0),
    "PEPE": _Coin(0.000_011, 0.8, 2_500.0, 40, 2.0),
    "PURR": _Coin(0.18, 0.15, 400.0, 90, 2.0),
}


def standard(origin_ns: int) -> Sequence[Listing]:
    """The instruments of all venues; `origin_ns` (the start) sets when they were listed and which futures are traded."""
    today_ns = origin_ns - origin_ns % DAY_NS
    rows = [
        *_binance(today_ns, origin_ns),
        *_binance_futures(today_ns, origin_ns),
        *_binance_delivery(today_ns, origin_ns),
        *_bybit(today_ns, origin_ns),
        *_okx(today_ns, origin_ns),
        *_hyperliquid(today_ns, origin_ns),
        *_okx_options(today_ns, origin_ns),
        *_bybit_options(today_ns, origin_ns),
        *_kraken_futures(today_ns, origin_ns),
        *_coinbase(today_ns, origin_ns),
        *_deribit(today_ns, origin_ns),
        *_kraken(today_ns, origin_ns),
        *_binance_options(today_ns, origin_ns),
    ]
    return tuple(rows)


def _listing(
    today_ns: int,
    origin_ns: int,
    venue: str,
    symbol: str,
    coin: str,
    tick: str,
    lot: str,
    *,
    kind: Kind = Kind.PERPETUAL,
    quote: str = "USDT",
    settle: str | None = None,
    share: float = 1.0,
    contract: str | None = None,
    inverse: bool = False,
    funding_s: tuple[int, ...] = HOURS_8,
    price_units: int = 1,
    reserve_bits: int = 0,
    expires_ns: int | None = None,
    price: float | None = None,
    order: float | None = None,
) -> Listing:
    """`price` and `order` (what a usual order is worth), in the quote, where they are not the coin's: an option's premium."""
    about = COINS[coin]
    worth = about.order_usd if order is None else order
    young = about.days < 1
    listed_ns = (
        origin_ns - origin_ns % HOUR_NS - round(about.days * DAY_NS) if young else today_ns - round(about.days * DAY_NS)
    )
    instrument = Instrument(
        venue=venue,
        symbol=symbol,
        kind=kind,
        coin=coin,
        quote=quote,
        settle=settle or quote,
        tick_size=Decimal(tick),
        lot_size=Decimal(lot),
        contract_size=Decimal(contract) if contract else None,
        inverse=inverse,
        listed_ns=listed_ns,
        expires_ns=expires_ns,
    )
    perpetual = kind is Kind.PERPETUAL
    return Listing(
        instrument=instrument,
        price=about.price * price_units if price is None else price,
        orders_per_s=about.orders_per_s * share,
        order_usd=worth,
        open_interest_usd=0.0 if kind is Kind.SPOT else worth * 40_000.0 * share,
        funding_s=funding_s if perpetual else (),
        # An order of inverse contracts is one trade, so that its coins are rounded once, whoever counts them.
        splits=not inverse,
        reserve_bits=reserve_bits,
        wildness=about.wildness,
    )


def _binance(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    rows = [
        ("BTC", "0.01", "0.00001"),
        ("ETH", "0.01", "0.0001"),
        ("SOL", "0.01", "0.001"),
        ("XRP", "0.0001", "0.1"),
        ("DOGE", "0.00001", "1"),
        ("BNB", "0.01", "0.001"),
        ("LINK", "0.01", "0.01"),
        ("AVAX", "0.01", "0.01"),
    ]
    for coin, tick, lot in rows:
        yield _listing(today_ns, origin_ns, "binance", f"{coin}USDT", coin, tick, lot, kind=Kind.SPOT, share=0.5)


def _binance_futures(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    rows = [
        ("BTC", "0.10", "0.001", HOURS_8),
        ("ETH", "0.01", "0.001", HOURS_8),
        ("SOL", "0.0100", "0.01", HOURS_8),
        ("XRP", "0.0001", "0.1", HOURS_8),
        ("DOGE", "0.000010", "1", HOURS_8),
        ("BNB", "0.010", "0.01", HOURS_8),
        ("LINK", "0.001", "0.01", HOURS_8),
        ("AVAX", "0.0010", "1", HOURS_4),
        ("HYPE", "0.00100", "0.01", HOURS_4),
        ("LAYER", "0.0001000", "0.1", HOURS_8_AND_4),
    ]
    venue = "binance_futures"
    for coin, tick, lot, funding_s in rows:
        yield _listing(
            today_ns,
            origin_ns,
            venue,
            f"{coin}USDT",
            coin,
            tick,
            lot,
            funding_s=funding_s,
            reserve_bits=NON_MARKET_BITS,
        )
    yield _listing(
        today_ns,
        origin_ns,
        venue,
        "1000PEPEUSDT",
        "PEPE",
        "0.0000001",
        "1",
        price_units=1_000,
        reserve_bits=NON_MARKET_BITS,
    )
    expires_ns = next_expiry_ns(origin_ns)
    yield _listing(
        today_ns, origin_ns, venue, f"BTCUSDT_{date_of(expires_ns)}", "BTC", "0.1", "0.001",
        kind=Kind.FUTURE, share=0.05, expires_ns=expires_ns, reserve_bits=NON_MARKET_BITS,
    )  # fmt: skip


def _binance_delivery(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    rows = [("BTC", "0.1", "100"), ("ETH", "0.01", "10"), ("SOL", "0.01", "10"), ("XRP", "0.0001", "10")]
    venue, expires_ns = "binance_delivery", next_expiry_ns(origin_ns)
    for coin, tick, contract in rows:
        yield _listing(
            today_ns, origin_ns, venue, f"{coin}USD_PERP", coin, tick, "1", quote="USD", settle=coin, share=0.15,
            contract=contract, inverse=True, reserve_bits=NON_MARKET_BITS,
        )  # fmt: skip
    yield _listing(
        today_ns, origin_ns, venue, f"BTCUSD_{date_of(expires_ns)}", "BTC", "0.1", "1", quote="USD", settle="BTC", share=0.05,
        kind=Kind.FUTURE, contract="100", inverse=True, expires_ns=expires_ns, reserve_bits=NON_MARKET_BITS,
    )  # fmt: skip


def _bybit(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    linear = [
        ("BTC", "0.10", "0.001"),
        ("ETH", "0.01", "0.01"),
        ("SOL", "0.010", "0.1"),
        ("XRP", "0.0001", "0.1"),
        ("DOGE", "0.00001", "1"),
        ("BNB", "0.10", "0.01"),
        ("LINK", "0.001", "0.1"),
        ("AVAX", "0.001", "0.1"),
        ("HYPE", "0.001", "0.01"),
    ]
    for coin, tick, lot in linear:
        funding_s = HOURS_4 if coin == "AVAX" else HOURS_8
        yield _listing(today_ns, origin_ns, "bybit", f"{coin}USDT", coin, tick, lot, share=0.5, funding_s=funding_s)
    for coin, tick in (("BTC", "0.10"), ("ETH", "0.01")):
        yield _listing(
            today_ns, origin_ns, "bybit", f"{coin}USD", coin, tick, "1", quote="USD", settle=coin, share=0.1,
            contract="1", inverse=True,
        )  # fmt: skip
    for coin, tick, lot in (
        ("BTC", "0.1", "0.000001"),
        ("ETH", "0.01", "0.00001"),
        ("SOL", "0.01", "0.001"),
        ("XRP", "0.0001", "0.01"),
    ):
        yield _listing(today_ns, origin_ns, "bybit_spot", f"{coin}USDT", coin, tick, lot, kind=Kind.SPOT, share=0.3)


def _okx(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    for coin, tick, lot in (
        ("BTC", "0.1", "0.00001"),
        ("ETH", "0.01", "0.0001"),
        ("SOL", "0.01", "0.001"),
        ("XRP", "0.0001", "0.1"),
    ):
        yield _listing(today_ns, origin_ns, "okx", f"{coin}-USDT", coin, tick, lot, kind=Kind.SPOT, share=0.3)
    swaps = [
        ("BTC", "0.1", "0.01", "0.01"),
        ("ETH", "0.01", "0.01", "0.1"),
        ("SOL", "0.01", "0.01", "1"),
        ("XRP", "0.0001", "0.01", "100"),
        ("DOGE", "0.00001", "0.01", "1000"),
        ("LINK", "0.001", "0.1", "1"),
        ("AVAX", "0.01", "0.1", "1"),
    ]
    for coin, tick, lot, contract in swaps:
        yield _listing(
            today_ns, origin_ns, "okx", f"{coin}-USDT-SWAP", coin, tick, lot, share=0.5, contract=contract,
            funding_s=HOURS_4 if coin == "AVAX" else HOURS_8,
        )  # fmt: skip
    for coin, tick, contract in (("BTC", "0.1", "100"), ("ETH", "0.01", "10")):
        yield _listing(
            today_ns, origin_ns, "okx", f"{coin}-USD-SWAP", coin, tick, "1", quote="USD", settle=coin, share=0.1,
            contract=contract, inverse=True,
        )  # fmt: skip
    expires_ns = next_expiry_ns(origin_ns)
    yield _listing(
        today_ns, origin_ns, "okx", f"BTC-USD-{date_of(expires_ns)}", "BTC", "0.1", "1", quote="USD", settle="BTC", share=0.05,
        kind=Kind.FUTURE, contract="100", inverse=True, expires_ns=expires_ns,
    )  # fmt: skip


def _hyperliquid(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    perpetuals = [
        ("BTC", "BTC", "1", "0.00001", 1),
        ("ETH", "ETH", "0.1", "0.0001", 1),
        ("SOL", "SOL", "0.001", "0.01", 1),
        ("XRP", "XRP", "0.0001", "1", 1),
        ("DOGE", "DOGE", "0.00001", "1", 1),
        ("LINK", "LINK", "0.0001", "0.1", 1),
        ("AVAX", "AVAX", "0.0001", "0.01", 1),
        ("HYPE", "HYPE", "0.0001", "0.01", 1),
        ("kPEPE", "PEPE", "0.000001", "1", 1_000),
    ]
    for symbol, coin, tick, lot, units in perpetuals:
        yield _listing(
            today_ns, origin_ns, "hyperliquid", symbol, coin, tick, lot, quote="USD", settle="USDC", share=0.4,
            funding_s=HOURLY, price_units=units,
        )  # fmt: skip
    for symbol, coin, tick, lot in (("PURR/USDC", "PURR", "0.00001", "1"), ("@107", "HYPE", "0.001", "0.01")):
        yield _listing(
            today_ns, origin_ns, "hyperliquid", symbol, coin, tick, lot, kind=Kind.SPOT, quote="USDC", share=0.3
        )


def _kraken_futures(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    venue, expires_ns = "kraken_futures", next_expiry_ns(origin_ns)
    for symbol, coin, tick, lot in (("PF_XBTUSD", "BTC", "1", "0.0001"), ("PF_ETHUSD", "ETH", "0.1", "0.001")):
        yield _listing(
            today_ns, origin_ns, venue, symbol, coin, tick, lot, quote="USD", share=0.2, funding_s=HOURLY,
            reserve_bits=BOOKED_BITS,
        )  # fmt: skip
    yield _listing(
        today_ns, origin_ns, venue, "PI_XBTUSD", "BTC", "0.5", "1", quote="USD", settle="BTC", share=0.05, contract="1",
        inverse=True, funding_s=HOURLY, reserve_bits=BOOKED_BITS,
    )  # fmt: skip
    yield _listing(
        today_ns, origin_ns, venue, f"FI_XBTUSD_{date_of(expires_ns)}", "BTC", "0.5", "1", quote="USD", settle="BTC",
        share=0.02, kind=Kind.FUTURE, contract="1", inverse=True, expires_ns=expires_ns, reserve_bits=BOOKED_BITS,
    )  # fmt: skip


def _coinbase(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    """One pair is so quiet that minutes go by without a trade."""
    for coin, tick, lot, share in (
        ("BTC", "0.01", "0.000001", 0.4),
        ("ETH", "0.01", "0.00001", 0.4),
        ("SOL", "0.01", "0.001", 0.4),
        ("LINK", "0.001", "0.01", 0.02),
    ):
        symbol = f"{coin}-USD"
        yield _listing(
            today_ns, origin_ns, "coinbase", symbol, coin, tick, lot, kind=Kind.SPOT, quote="USD", share=share
        )


def _binance_options(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    """Calls and puts a tenth below, at and above the coin's price, of two quarters."""
    near_ns = next_expiry_ns(origin_ns)
    for coin, tick in (("BTC", "5"), ("ETH", "0.1")):
        price = COINS[coin].price
        for expires_ns, worth in ((near_ns, 1.0), (next_expiry_ns(near_ns), 1.6)):
            for moneyness, call, put in ((0.9, 0.12, 0.02), (1.0, 0.055, 0.055), (1.1, 0.02, 0.12)):
                for side, premium in (("C", call), ("P", put)):
                    symbol = f"{coin}-{date_of(expires_ns)}-{round(price * moneyness)}-{side}"
                    yield _listing(
                        today_ns, origin_ns, "binance_options", symbol, coin, tick, "0.01", kind=Kind.OPTION, share=0.01,
                        contract="1", price=price * premium * worth, order=2_000.0, expires_ns=expires_ns,
                        reserve_bits=BOOKED_BITS,
                    )  # fmt: skip


def _okx_options(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    """Premiums in coins, for one coin."""
    expires_ns = next_expiry_ns(origin_ns)
    for coin, contract in (("BTC", "0.01"), ("ETH", "0.1")):
        for strike, side, premium in _premiums(coin):
            symbol = f"{coin}-USD-{date_of(expires_ns)}-{strike}-{side}"
            yield _listing(
                today_ns, origin_ns, "okx_options", symbol, coin, "0.0001", "1", kind=Kind.OPTION, quote=coin, share=0.01,
                contract=contract, price=premium, order=2_000.0 / COINS[coin].price, expires_ns=expires_ns,
            )  # fmt: skip


def _bybit_options(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    expires_ns = next_expiry_ns(origin_ns)
    expiry = datetime.fromtimestamp(expires_ns // NS, UTC)
    for coin, tick, lot in (("BTC", "5", "0.01"), ("ETH", "0.1", "0.1")):
        for strike, side, premium in _premiums(coin):
            symbol = f"{coin}-{expiry.day}{expiry:%b%y}-{strike}-{side}-USDT".upper()
            yield _listing(
                today_ns, origin_ns, "bybit_options", symbol, coin, tick, lot, kind=Kind.OPTION, share=0.01,
                price=COINS[coin].price * premium, order=2_000.0, expires_ns=expires_ns,
            )  # fmt: skip


def _deribit(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    """Amounts of inverse contracts are dollars, premiums coins. The future is so quiet that minutes go by without a trade."""
    venue, expires_ns = "deribit", next_expiry_ns(origin_ns)
    expiry = datetime.fromtimestamp(expires_ns // NS, UTC)
    date = f"{expiry.day}{expiry:%b%y}".upper()
    for coin, tick, lot in (("BTC", "0.5", "10"), ("ETH", "0.05", "1")):
        yield _listing(
            today_ns, origin_ns, venue, f"{coin}-PERPETUAL", coin, tick, lot, quote="USD", settle=coin, share=0.3,
            contract="1", inverse=True, funding_s=HOURLY,
        )  # fmt: skip
    yield _listing(
        today_ns, origin_ns, venue, "SOL_USDC-PERPETUAL", "SOL", "0.01", "0.1", quote="USDC", share=0.1, funding_s=HOURLY,
    )  # fmt: skip
    yield _listing(
        today_ns, origin_ns, venue, f"BTC-{date}", "BTC", "2.5", "10", quote="USD", settle="BTC", share=0.005,
        kind=Kind.FUTURE, contract="1", inverse=True, expires_ns=expires_ns,
    )  # fmt: skip
    for coin, lot in (("BTC", "0.1"), ("ETH", "1")):
        for strike, side, premium in _premiums(coin):
            yield _listing(
                today_ns, origin_ns, venue, f"{coin}-{date}-{strike}-{side}", coin, "0.0001", lot, kind=Kind.OPTION,
                quote=coin, share=0.01, price=premium, order=2_000.0 / COINS[coin].price, expires_ns=expires_ns,
            )  # fmt: skip


def _premiums(coin: str) -> Iterable[tuple[int, str, float]]:
    """Strike, call or put, premium as a part of the coin's price."""
    for moneyness, call, put in PREMIUMS:
        strike = round(COINS[coin].price * moneyness)
        yield from ((strike, "C", call), (strike, "P", put))


def _kraken(today_ns: int, origin_ns: int) -> Iterable[Listing]:
    for coin, tick, lot, share in (
        ("BTC", "0.1", "0.000001", 0.2),
        ("ETH", "0.01", "0.00001", 0.2),
        ("SOL", "0.01", "0.001", 0.2),
        ("DOGE", "0.0000001", "1", 0.02),
    ):
        symbol = f"{coin}/USD"
        yield _listing(today_ns, origin_ns, "kraken", symbol, coin, tick, lot, kind=Kind.SPOT, quote="USD", share=share)


def next_expiry_ns(origin_ns: int) -> int:
    """08:00 UTC of the last Friday of a quarter, at least NEWEST_EXPIRY_DAYS after the start."""
    day = datetime.fromtimestamp(origin_ns // NS, UTC).date() + timedelta(days=NEWEST_EXPIRY_DAYS)
    while not (day.month % 3 == 0 and day.weekday() == 4 and (day + timedelta(days=7)).month != day.month):
        day += timedelta(days=1)
    return int(datetime(day.year, day.month, day.day, EXPIRY_HOUR, tzinfo=UTC).timestamp()) * NS


def date_of(expires_ns: int) -> str:
    """YYMMDD, as venues write it into symbols."""
    return datetime.fromtimestamp(expires_ns // NS, UTC).strftime("%y%m%d")
