"""Venues we play: one seeded world, one personality file a venue; used by the demo and by tests.

`simulator.Simulator` is the door. One line a venue in PERSONALITIES.
"""

from collections.abc import Mapping

from openoutcry.simulator.binance import BinanceDelivery, BinanceFutures, BinanceSpot
from openoutcry.simulator.binance_options import BinanceOptions
from openoutcry.simulator.birdeye import Birdeye
from openoutcry.simulator.bybit import Bybit, BybitOptions, BybitSpot
from openoutcry.simulator.cme import Cme
from openoutcry.simulator.codex import Codex
from openoutcry.simulator.coinbase import Coinbase
from openoutcry.simulator.coinmarketcap import CoinMarketCap
from openoutcry.simulator.deribit import Deribit
from openoutcry.simulator.dexscreener import DexScreener
from openoutcry.simulator.geckoterminal import GeckoTerminal
from openoutcry.simulator.hyperliquid import Hyperliquid
from openoutcry.simulator.kit import Personality
from openoutcry.simulator.kraken import Kraken
from openoutcry.simulator.kraken_futures import KrakenFutures
from openoutcry.simulator.news import News
from openoutcry.simulator.okx import Okx, OkxOptions
from openoutcry.simulator.pumpfun import PumpFun

PERSONALITIES: Mapping[str, type[Personality]] = {
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
    "deribit": Deribit,
    "kraken": Kraken,
    "coinmarketcap": CoinMarketCap,
    "cme": Cme,
    "codex": Codex,
    "birdeye": Birdeye,
    "pumpfun": PumpFun,
    "geckoterminal": GeckoTerminal,
    "dexscreener": DexScreener,
    "news": News,
}
