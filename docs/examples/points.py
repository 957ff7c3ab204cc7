"""The last hour of BTCUSDT on Binance, minute by minute, and what comes after it: as Kiyotaka's Python SDK asks.

python points.py HOST:PORT KEY, with the stubs that betterproto makes of /proto/ in the folder `stubs` (docs/kiyotaka.md).
"""

import asyncio
import sys
import time

from grpclib.client import Channel
from stubs.api import ApiStub, PointAggregationInterval, PointExchange, PointRequest, PointType


async def main(address: str, key: str) -> None:
    host, port = address.split(":")
    async with Channel(host, int(port)) as channel:
        api = ApiStub(channel, metadata={"x-kiyotaka-key": key}, timeout=3600)
        request = PointRequest(
            type=[PointType.TRADE_SIDE_AGNOSTIC_AGG],
            exchange=[PointExchange.BINANCE],
            raw_symbol=["BTCUSDT"],
            interval=PointAggregationInterval.MINUTE,
            from_=int(time.time()) - 3600,
        )
        async for series in api.stream_points(request):
            for point in series.points:
                candle = point.trade_side_agnostic_aggregation
                print(
                    candle.timestamp.seconds,
                    candle.open,
                    candle.high,
                    candle.low,
                    candle.close,
                    candle.volume,
                    flush=True,
                )


asyncio.run(main(*sys.argv[1:]))
