"""The stubs that betterproto 2.0.0b6 makes, with grpclib 0.4.7: run with the folder above the stubs on PYTHONPATH.

Prints a JSON line for each step of the conversation; after "live" it waits for what is told then.
"""

import asyncio
import json
import sys

from grpclib import GRPCError
from grpclib.client import Channel
from stubs.api import (  # type: ignore[import-not-found]
    ApiStub,
    PointAggregationInterval,
    PointExchange,
    PointMetaRequest,
    PointRequest,
    PointType,
)


async def main(address: str, key: str, start_s: int) -> None:
    host, _, port = address.rpartition(":")
    async with Channel(host, int(port)) as channel:
        stub = ApiStub(channel, metadata={"x-kiyotaka-key": key})
        request = PointRequest(
            type=[PointType.TRADE_SIDE_AGNOSTIC_AGG],
            exchange=[PointExchange.BINANCE],
            raw_symbol=["BTCUSDT"],
            interval=PointAggregationInterval.MINUTE,
            from_=start_s,
            period=120,
        )
        types = (await stub.get_types(PointMetaRequest())).types
        say("types", [PointType(number).name for number in types])
        say("points", [row for one in (await stub.get_points(request)).series for row in rows(one)])
        say("replay", [row async for one in stub.stream_points(request) for row in rows(one)])
        stranger = ApiStub(channel)
        say(
            "errors",
            [await failed(stranger, request), await failed(stub, PointRequest(type=[PointType(9)], period=60))],
        )
        request.period = 0
        stream = stub.stream_points(request)
        say("live", rows(await stream.__anext__()))
        say("told", rows(await stream.__anext__()))
        await stream.aclose()


def rows(series: object) -> list[list[float]]:
    candles = [point.trade_side_agnostic_aggregation for point in series.points]  # type: ignore[attr-defined]
    return [[candle.timestamp.seconds, candle.close] for candle in candles]


async def failed(stub: object, request: object) -> int:
    try:
        await stub.get_points(request)  # type: ignore[attr-defined]
    except GRPCError as e:
        return int(e.status.value)
    return 0


def say(step: str, told: object) -> None:
    print(json.dumps({"step": step, "told": told}), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
