"""Outside exchanges: frames in, events out. One file a venue and market, one line in VENUES; ARCHIVES has those with files."""

from collections.abc import Callable, Mapping

from openoutcry.venues import binance_archive
from openoutcry.venues.archive import Archive
from openoutcry.venues.binance import BinanceSpot
from openoutcry.venues.binance_delivery import BinanceDelivery
from openoutcry.venues.binance_futures import BinanceFutures
from openoutcry.venues.binance_options import BinanceOptions
from openoutcry.venues.bybit import Bybit, BybitSpot
from openoutcry.venues.bybit_options import BybitOptions
from openoutcry.venues.coinbase import Coinbase
from openoutcry.venues.deribit import Deribit
from openoutcry.venues.hyperliquid import Hyperliquid
from openoutcry.venues.kraken import Kraken
from openoutcry.venues.kraken_futures import KrakenFutures
from openoutcry.venues.okx import Okx
from openoutcry.venues.okx_options import OkxOptions
from openoutcry.venues.venue import Venue

VENUES: Mapping[str, Callable[[], Venue]] = {
    "binance": BinanceSpot,
    "binance_futures": BinanceFutures,
    "binance_delivery": BinanceDelivery,
    "binance_options": BinanceOptions,
    "bybit": Bybit,
    "bybit_spot": BybitSpot,
    "bybit_options": BybitOptions,
    "okx": Okx,
    "okx_options": OkxOptions,
    "hyperliquid": Hyperliquid,
    "kraken_futures": KrakenFutures,
    "coinbase": Coinbase,
    "kraken": Kraken,
    "deribit": Deribit,
}

ARCHIVES: Mapping[str, Archive] = {
    "binance": binance_archive.SPOT,
    "binance_futures": binance_archive.USDM,
    "binance_delivery": binance_archive.COINM,
}
