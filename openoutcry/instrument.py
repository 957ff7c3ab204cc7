"""What can be traded, and how its sizes are counted."""

from decimal import Decimal
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What sort of thing an instrument is."""

    SPOT = "spot"
    PERPETUAL = "perpetual"
    FUTURE = "future"
    OPTION = "option"


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One tradable thing on one venue.

    `contract_size` is None where the venue counts sizes in base coins. Otherwise one contract is worth that many base
    coins (`inverse` False) or that many units of the quote currency (`inverse` True, so base coins = contracts x
    contract_size / price).
    """

    venue: str
    symbol: str
    kind: Kind
    coin: str
    quote: str
    settle: str
    tick_size: Decimal
    lot_size: Decimal
    contract_size: Decimal | None = None
    inverse: bool = False
    listed_ns: int | None = None
    expires_ns: int | None = None
    trading: bool = True

    @property
    def name(self) -> str:
        """`venue:symbol`, the one name this instrument has inside the server."""
        return f"{self.venue}:{self.symbol}"


class Exchange(StrEnum):
    """What the markets of the world are called in published data, dead ones too; a venue's file says which it serves."""

    BITMEX = "BITMEX"
    DERIBIT = "DERIBIT"
    BINANCE_FUTURES = "BINANCE_FUTURES"
    BINANCE_DELIVERY = "BINANCE_DELIVERY"
    BINANCE_OPTIONS = "BINANCE_OPTIONS"
    BINANCE = "BINANCE"
    FTX = "FTX"
    OKEX_FUTURES = "OKEX_FUTURES"
    OKEX_OPTIONS = "OKEX_OPTIONS"
    OKEX_SWAP = "OKEX_SWAP"
    OKEX = "OKEX"
    HUOBI_DM = "HUOBI_DM"
    HUOBI_DM_SWAP = "HUOBI_DM_SWAP"
    HUOBI_DM_LINEAR_SWAP = "HUOBI_DM_LINEAR_SWAP"
    HUOBI = "HUOBI"
    BITFINEX_DERIVATIVES = "BITFINEX_DERIVATIVES"
    BITFINEX = "BITFINEX"
    COINBASE = "COINBASE"
    CRYPTOFACILITIES = "CRYPTOFACILITIES"
    KRAKEN = "KRAKEN"
    BITSTAMP = "BITSTAMP"
    GEMINI = "GEMINI"
    POLONIEX = "POLONIEX"
    BYBIT = "BYBIT"
    PHEMEX = "PHEMEX"
    DELTA = "DELTA"
    FTX_US = "FTX_US"
    BINANCE_US = "BINANCE_US"
    GATE_IO_FUTURES = "GATE_IO_FUTURES"
    GATE_IO = "GATE_IO"
    OKCOIN = "OKCOIN"
    BITFLYER = "BITFLYER"
    HITBTC = "HITBTC"
    COINFLEX = "COINFLEX"
    BINANCE_JERSEY = "BINANCE_JERSEY"
    BINANCE_DEX = "BINANCE_DEX"
    UPBIT = "UPBIT"
    ASCENDEX = "ASCENDEX"
    DYDX = "DYDX"
    SERUM = "SERUM"
    HUOBI_DM_OPTIONS = "HUOBI_DM_OPTIONS"
    CME = "CME"
    COMMON_BINANCE = "COMMON_BINANCE"
    BITBANK = "BITBANK"
    COMMON_BITFINEX = "COMMON_BITFINEX"
    BITHUMB = "BITHUMB"
    BITTREX = "BITTREX"
    COINCHECK = "COINCHECK"
    COMMON_GATE_IO = "COMMON_GATE_IO"
    COINBASE_PRO = "COINBASE_PRO"
    COMMON_HUOBI = "COMMON_HUOBI"
    KUCOIN = "KUCOIN"
    LMAX = "LMAX"
    COMMON_OKEX = "COMMON_OKEX"
    LIQUID = "LIQUID"
    ZAIF = "ZAIF"
    RIBBON = "RIBBON"
    EMULATOR = "EMULATOR"
    GRAYSCALE = "GRAYSCALE"
    BYBIT_SPOT = "BYBIT_SPOT"
    NYSE_AMERICAN = "NYSE_AMERICAN"
    NASDAQ_BX = "NASDAQ_BX"
    NYSE_NATIONAL = "NYSE_NATIONAL"
    FINRA = "FINRA"
    UNLISTED_TRADING_PRIVILEGES = "UNLISTED_TRADING_PRIVILEGES"
    NASDAQ_ISE = "NASDAQ_ISE"
    CBOE_EDGA = "CBOE_EDGA"
    CBOE_EDGX = "CBOE_EDGX"
    NYSE_CHICAGO = "NYSE_CHICAGO"
    NYSE = "NYSE"
    NYSE_ARCA = "NYSE_ARCA"
    NASDAQ = "NASDAQ"
    CONSOLIDATED_TAPE_ASSOCIATION = "CONSOLIDATED_TAPE_ASSOCIATION"
    LTSE = "LTSE"
    IEX = "IEX"
    CBOE = "CBOE"
    NASDAQ_PHILADELPHIA = "NASDAQ_PHILADELPHIA"
    CBOE_BYX = "CBOE_BYX"
    CBOE_BZX = "CBOE_BZX"
    MIAX_PEARL = "MIAX_PEARL"
    MEMBERS_EXCHANGE = "MEMBERS_EXCHANGE"
    OTC_EQUITY_SECURITY = "OTC_EQUITY_SECURITY"
    BITGET = "BITGET"
    HYPERLIQUID = "HYPERLIQUID"
    HYPERLIQUID_FUTURES = "HYPERLIQUID_FUTURES"
    MARKET_INDEPENDENT = "MARKET_INDEPENDENT"
    NASDAQ_SMALL_CAP = "NASDAQ_SMALL_CAP"
    NASDAQ_INT = "NASDAQ_INT"
    NASDAQ_PSX = "NASDAQ_PSX"
    PYTH_NETWORK = "PYTH_NETWORK"
    COINBASE_INTERNATIONAL = "COINBASE_INTERNATIONAL"
    POLYGON = "POLYGON"
    POLYGON_FX = "POLYGON_FX"
    UNISWAP_V2 = "UNISWAP_V2"
    SUSHISWAP_V2 = "SUSHISWAP_V2"
    PANCAKESWAP_V2 = "PANCAKESWAP_V2"
    SHIBASWAP = "SHIBASWAP"
    FRAXSWAP = "FRAXSWAP"
    SOLIDLY = "SOLIDLY"
    UNISWAP_V3 = "UNISWAP_V3"
    SUSHISWAP_V3 = "SUSHISWAP_V3"
    PANCAKESWAP_V3 = "PANCAKESWAP_V3"
    SOLIDLY_V3 = "SOLIDLY_V3"
    RAYDIUM_V4 = "RAYDIUM_V4"
    RAYDIUM_CLMM = "RAYDIUM_CLMM"
    ORCA_WHIRLPOOL = "ORCA_WHIRLPOOL"
    ORCA_V2 = "ORCA_V2"
    METEORA_POOL = "METEORA_POOL"
    METEORA_DLMM = "METEORA_DLMM"
    UNISWAP_V4 = "UNISWAP_V4"
