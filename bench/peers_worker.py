"""Runs under the peers' own interpreter: frames in on standard input, trades per CPU second out as JSON."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

SECONDS = 1.0
# What ccxt would have loaded over the network.
MARKET = {
    "id": "BTCUSDT",
    "symbol": "BTC/USDT:USDT",
    "base": "BTC",
    "quote": "USDT",
    "settle": "USDT",
    "baseId": "BTC",
    "quoteId": "USDT",
    "settleId": "USDT",
    "type": "swap",
    "spot": False,
    "swap": True,
    "future": False,
    "option": False,
    "margin": False,
    "contract": True,
    "linear": True,
    "inverse": False,
    "contractSize": 1,
    "active": True,
    "precision": {"amount": 0.001, "price": 0.1},
    "limits": {},
    "info": {},
}


def rate(frames: list[bytes], handle: Callable[[bytes], object]) -> float:
    """Frames handled per CPU second, best of three."""
    best = 0.0
    for _ in range(3):
        done, began = 0, time.process_time()
        while time.process_time() - began < SECONDS / 3:
            for frame in frames:
                handle(frame)
            done += len(frames)
        best = max(best, done / (time.process_time() - began))
    return best


async def arate(frames: list[str], handle: Callable[[str], Awaitable[object]]) -> float:
    """The same for a handler that is awaited, and takes text."""
    best = 0.0
    for _ in range(3):
        done, began = 0, time.process_time()
        while time.process_time() - began < SECONDS / 3:
            for frame in frames:
                await handle(frame)
            done += len(frames)
        best = max(best, done / (time.process_time() - began))
    return best


async def cryptofeed(frames: list[bytes]) -> float:
    from cryptofeed.defines import TRADES
    from cryptofeed.exchanges import BinanceFutures
    from cryptofeed.symbols import Symbols

    Symbols.set(BinanceFutures.id, {"BTC-USDT-PERP": "BTCUSDT"}, {"instrument_type": {"BTC-USDT-PERP": "perpetual"}})
    heard = 0

    async def on_trade(trade: object, received: float) -> None:
        nonlocal heard
        heard += 1

    feed = BinanceFutures(symbols=["BTC-USDT-PERP"], channels=[TRADES], callbacks={TRADES: on_trade})
    texts = [frame.decode() for frame in frames]

    class Connection:
        uuid = "bench"

    result = await arate(texts, lambda text: feed.message_handler(text, Connection(), 1.0))
    assert heard >= len(frames), heard
    return result


async def ccxt(frames: list[bytes]) -> float:
    import ccxt.pro

    exchange = ccxt.pro.binanceusdm()
    exchange.set_markets([MARKET])
    resolved = 0

    class Client:
        url = "wss://fstream.binance.com/market/stream"
        subscriptions: dict[str, object] = {}

        def resolve(self, result: object, name: str) -> None:
            nonlocal resolved
            resolved += 1

    client = Client()

    def handle(frame: bytes) -> None:
        exchange.handle_message(client, exchange.parse_json(frame.decode()))

    result = rate(frames, handle)
    assert resolved >= len(frames), resolved
    await exchange.close()
    return result


async def main() -> None:
    frames = sys.stdin.buffer.read().splitlines()
    print(json.dumps({"cryptofeed": await cryptofeed(frames), "ccxt.pro": await ccxt(frames)}))


if __name__ == "__main__":
    asyncio.run(main())
