"""Trade frames to events, each venue beside its floor: `python -m bench.decode`.

The floor is what plain Python cannot do without: msgspec reads the same frame into a typed struct that holds only what a
trade needs, prices as Decimal, and one normalised struct is built of each (inverse contracts become coins there too,
or it would not be the same fact). Ours does that and routes, looks the symbol
up, tells the side, checks every number. The second row of a venue leaves prices as text on the floor's side.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import field

from bench.tables import Row, print_table
from openoutcry.events import Side, Trade
from openoutcry.instrument import Instrument, Kind
from openoutcry.venues import VENUES
from openoutcry.venues.venue import Venue

TITLE = "trade frames to events"
UNIT = "trades per CPU second"
CALLS = 20_000
ROUNDS = 5
HUNDRED, SATOSHI = Decimal(100), Decimal("0.00000001")
NOW_NS = 1_760_000_000_200_000_000
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

_BUY, _SELL = Side.BUY, Side.SELL


class Sample(msgspec.Struct, frozen=True):
    """One frame of one trade: which venue and symbol, and the floor's way to read it and to build the normalised struct."""

    venue: str
    symbol: str
    frame: bytes
    wire: Callable[[type[Any]], type[Any]]
    build: Callable[[Any], Trade]


def table() -> list[Row]:
    """Two rows for each venue that is there: the floor with Decimals, and with text."""
    rows = []
    for sample in SAMPLES:
        if sample.venue not in VENUES:
            continue
        venue = taught(sample)
        # In turns, so that a busy neighbour on the machine slows all of them.
        contenders = (
            lambda frame, venue=venue: venue.decode(frame, NOW_NS),
            floor(sample, Decimal),
            floor(sample, str),
        )
        ours, exact, text = rates(sample.frame, contenders)
        rows.append(Row(sample.venue, ours, exact, UNIT))
        rows.append(Row(f"{sample.venue}, floor with text", ours, text, UNIT))
    return rows


def taught(sample: Sample) -> Venue:
    """The venue, knowing the sample's instrument."""
    venue = VENUES[sample.venue]()
    instrument = venue.assume(sample.symbol) or _contract(sample)
    venue.learn([instrument])
    said = venue.decode(sample.frame, NOW_NS)
    assert len(said) == 1, said
    assert isinstance(said[0], Trade), said
    return venue


def floor(sample: Sample, number: type[Any]) -> Callable[[bytes], Trade]:
    """Typed struct of the frame, then one normalised struct."""
    read = msgspec.json.Decoder(sample.wire(number)).decode
    build = sample.build
    return lambda frame: build(read(frame))


def rates(frame: bytes, contenders: tuple[Callable[[bytes], Any], ...]) -> list[float]:
    """Calls per CPU second of each, the best of some rounds."""
    best = [float("inf")] * len(contenders)
    for _ in range(ROUNDS):
        for n, contender in enumerate(contenders):
            started_s = time.process_time()
            for _ in range(CALLS):
                contender(frame)
            best[n] = min(best[n], time.process_time() - started_s)
    return [CALLS / seconds for seconds in best]


def _contract(sample: Sample) -> Instrument:
    """Where the spelling does not tell a contract's size."""
    return Instrument(
        venue=sample.venue,
        symbol=sample.symbol,
        kind=Kind.PERPETUAL,
        coin="BTC",
        quote="USD" if "USDT" not in sample.symbol else "USDT",
        settle="BTC" if "USDT" not in sample.symbol else "USDT",
        tick_size=Decimal("0.1"),
        lot_size=Decimal(1),
        contract_size=Decimal("0.01") if "USDT" in sample.symbol else Decimal(100),
        inverse="USDT" not in sample.symbol,
    )


def _binance(number: type[Any]) -> type[Any]:
    class Data(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="s")
        id: int = field(name="a")
        price: number = field(name="p")  # type: ignore[valid-type]
        size: number = field(name="q")  # type: ignore[valid-type]
        first: int = field(name="f")
        last: int = field(name="l")
        at: int = field(name="T")
        buyer_made: bool = field(name="m")

    class Frame(msgspec.Struct, frozen=True, gc=False):
        data: Data

    return Frame


def _binance_trade(frame: Any) -> Trade:
    row = frame.data
    side = _SELL if row.buyer_made else _BUY
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.id, side, row.price, row.size, row.last - row.first + 1)


def _delivery_trade(frame: Any) -> Trade:
    row = frame.data
    side = _SELL if row.buyer_made else _BUY
    price, contracts = row.price, row.size
    if type(price) is str:
        price, contracts = Decimal(price), Decimal(contracts)
    value = contracts * HUNDRED
    size = (value / price).quantize(SATOSHI)
    count = row.last - row.first + 1
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.id, side, price, size, count, value, contracts)


def _bybit(number: type[Any]) -> type[Any]:
    class Data(msgspec.Struct, frozen=True, gc=False):
        at: int = field(name="T")
        symbol: str = field(name="s")
        side: str = field(name="S")
        size: number = field(name="v")  # type: ignore[valid-type]
        price: number = field(name="p")  # type: ignore[valid-type]
        id: str = field(name="i")
        seq: int

    class Frame(msgspec.Struct, frozen=True, gc=False):
        data: list[Data]

    return Frame


def _bybit_trade(frame: Any) -> Trade:
    row = frame.data[0]
    side = _BUY if row.side == "Buy" else _SELL
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.seq, side, row.price, row.size)


def _okx(number: type[Any]) -> type[Any]:
    class Data(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="instId")
        id: str = field(name="tradeId")
        price: number = field(name="px")  # type: ignore[valid-type]
        size: number = field(name="sz")  # type: ignore[valid-type]
        side: str
        at: str = field(name="ts")
        count: str

    class Frame(msgspec.Struct, frozen=True, gc=False):
        data: list[Data]

    return Frame


def _okx_trade(frame: Any) -> Trade:
    row = frame.data[0]
    side = _BUY if row.side == "buy" else _SELL
    return Trade(row.symbol, int(row.at), NOW_NS, int(row.id), 0, side, row.price, row.size, int(row.count))


def _hyperliquid(number: type[Any]) -> type[Any]:
    class Data(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="coin")
        side: str
        price: number = field(name="px")  # type: ignore[valid-type]
        size: number = field(name="sz")  # type: ignore[valid-type]
        at: int = field(name="time")
        id: int = field(name="tid")

    class Frame(msgspec.Struct, frozen=True, gc=False):
        data: list[Data]

    return Frame


def _hyperliquid_trade(frame: Any) -> Trade:
    row = frame.data[0]
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.id, _BUY if row.side == "B" else _SELL, row.price, row.size)


def _kraken_futures(number: type[Any]) -> type[Any]:
    # Its numbers are not in quotes: what is cheapest is not text but float.
    number = float if number is str else number

    class Frame(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="product_id")
        id: str = field(name="uid")
        side: str
        type: str
        seq: int
        at: int = field(name="time")
        size: number = field(name="qty")  # type: ignore[valid-type]
        price: number  # type: ignore[valid-type]

    return Frame


def _kraken_futures_trade(row: Any) -> Trade:
    side = _SELL if row.side == "sell" else _BUY
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.seq, side, row.price, row.size)


def _coinbase(number: type[Any]) -> type[Any]:
    class Frame(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="product_id")
        id: int = field(name="trade_id")
        side: str
        price: number  # type: ignore[valid-type]
        size: number  # type: ignore[valid-type]
        at: datetime = field(name="time")

    return Frame


def _coinbase_trade(row: Any) -> Trade:
    side = _SELL if row.side == "buy" else _BUY
    return Trade(row.symbol, _ns(row.at), NOW_NS, row.id, row.id, side, row.price, row.size)


def _kraken(number: type[Any]) -> type[Any]:
    # Its numbers are not in quotes: what is cheapest is not text but float.
    number = float if number is str else number

    class Data(msgspec.Struct, frozen=True, gc=False):
        symbol: str
        id: int = field(name="trade_id")
        side: str
        price: number  # type: ignore[valid-type]
        size: number = field(name="qty")  # type: ignore[valid-type]
        at: datetime = field(name="timestamp")

    class Frame(msgspec.Struct, frozen=True, gc=False):
        data: list[Data]

    return Frame


def _kraken_trade(frame: Any) -> Trade:
    row = frame.data[0]
    side = _BUY if row.side == "buy" else _SELL
    return Trade(row.symbol, _ns(row.at), NOW_NS, row.id, row.id, side, row.price, row.size)


def _ns(at: datetime) -> int:
    """Exact, as no float is."""
    return (at - EPOCH) // MICROSECOND * 1_000


def _deribit(number: type[Any]) -> type[Any]:
    told = float if number is str else number  # it tells numbers, never text

    class Data(msgspec.Struct, frozen=True, gc=False):
        symbol: str = field(name="instrument_name")
        id: int = field(name="trade_seq")
        at: int = field(name="timestamp")
        price: told  # type: ignore[valid-type]
        amount: told  # type: ignore[valid-type]
        direction: str

    class Params(msgspec.Struct, frozen=True, gc=False):
        data: list[Data]

    class Frame(msgspec.Struct, frozen=True, gc=False):
        params: Params

    return Frame


def _deribit_trade(frame: Any) -> Trade:
    row = frame.params.data[0]
    side = _BUY if row.direction == "buy" else _SELL
    return Trade(row.symbol, row.at, NOW_NS, row.id, row.id, side, row.price, row.amount)


SAMPLES = (
    Sample(
        "binance",
        "BTCUSDT",
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1760000000123,"s":"BTCUSDT","a":164325012,'
        b'"p":"43000.10000000","q":"0.25300000","f":289001100,"l":289001102,"T":1760000000101,"m":true,"M":true}}',
        _binance,
        _binance_trade,
    ),
    Sample(
        "binance_futures",
        "BTCUSDT",
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1760000000123,"a":164325012,"s":"BTCUSDT",'
        b'"p":"43000.10","q":"0.253","nq":"0.253","f":289001100,"l":289001102,"T":1760000000101,"m":true,"st":1}}',
        _binance,
        _binance_trade,
    ),
    Sample(
        "binance_delivery",
        "BTCUSD_PERP",
        b'{"stream":"btcusd_perp@aggTrade","data":{"e":"aggTrade","E":1760000000123,"a":164325012,"s":"BTCUSD_PERP",'
        b'"p":"43000.1","q":"120","f":289001100,"l":289001102,"T":1760000000101,"m":true}}',
        _binance,
        _delivery_trade,
    ),
    Sample(
        "bybit",
        "BTCUSDT",
        b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1760000000123,"data":[{"T":1760000000101,"s":"BTCUSDT",'
        b'"S":"Buy","v":"0.253","p":"43000.10","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,'
        b'"RPI":false,"seq":1783284617}]}',
        _bybit,
        _bybit_trade,
    ),
    Sample(
        "okx",
        "BTC-USDT-SWAP",
        b'{"arg":{"channel":"trades","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","tradeId":"130639474",'
        b'"px":"43000.1","sz":"12.53","side":"buy","ts":"1760000000101","count":"3","source":"0","seqId":1234567}]}',
        _okx,
        _okx_trade,
    ),
    Sample(
        "hyperliquid",
        "BTC",
        b'{"channel":"trades","data":[{"coin":"BTC","side":"A","px":"43000.0","sz":"0.25300","time":1760000000101,'
        b'"hash":"0x7e60bb8c4d5b3a8f04130419","tid":293353986402527,"users":["0x1","0x2"]}]}',
        _hyperliquid,
        _hyperliquid_trade,
    ),
    Sample(
        "coinbase",
        "BTC-USD",
        b'{"type":"match","trade_id":280232,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16","taker_order_id":'
        b'"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"0.253","price":"43000.1","product_id":"BTC-USD",'
        b'"sequence":177100030,"time":"2025-10-09T08:53:20.101723Z"}',
        _coinbase,
        _coinbase_trade,
    ),
    Sample(
        "kraken",
        "BTC/USD",
        b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":43000.1,"qty":0.253,'
        b'"ord_type":"market","trade_id":4665906,"timestamp":"2025-10-09T08:53:20.101706Z"}]}',
        _kraken,
        _kraken_trade,
    ),
    Sample(
        "kraken_futures",
        "PF_XBTUSD",
        b'{"product_id":"PF_XBTUSD","feed":"trade","uid":"8a2be12f-7a3f-4f8f-a111-d1b5200ab1d0","side":"sell",'
        b'"type":"fill","time":1760000000101,"qty":0.0002,"price":43000.0,"seq":421135}',
        _kraken_futures,
        _kraken_futures_trade,
    ),
    Sample(
        "deribit",
        "SOL_USDC-PERPETUAL",
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.SOL_USDC-PERPETUAL.100ms","data":['
        b'{"trade_seq":30289442,"trade_id":"SOL_USDC-48079269","timestamp":1760000000101,"tick_direction":2,"price":143.21,'
        b'"mark_price":143.2089,"instrument_name":"SOL_USDC-PERPETUAL","index_price":143.2012,"direction":"sell",'
        b'"amount":12.5,"contracts":125.0}]}}',
        _deribit,
        _deribit_trade,
    ),
)


if __name__ == "__main__":
    print_table(TITLE, table())
