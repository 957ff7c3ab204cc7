"""The stubs that grpcio-tools makes, with grpcio: run with the stubs' folder on PYTHONPATH.

Prints a JSON line for each step of the conversation; after "live" it waits for what is told then.
"""

import json
import sys

import api.api_pb2 as pb  # type: ignore[import-not-found]
import api.api_pb2_grpc as rpc  # type: ignore[import-not-found]
import grpc


def main(address: str, key: str, start_s: int) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = rpc.APIStub(channel)
        metadata = (("x-kiyotaka-key", key),)
        request = pb.PointRequest(
            type=[pb.TRADE_SIDE_AGNOSTIC_AGG],
            exchange=[pb.BINANCE],
            rawSymbol=["BTCUSDT"],
            interval=pb.MINUTE,
            period=120,
        )
        setattr(request, "from", start_s)
        types = stub.GetTypes(pb.PointMetaRequest(), metadata=metadata).types
        say("types", [pb.PointType.Name(number) for number in types])
        say("points", [row for one in stub.GetPoints(request, metadata=metadata).series for row in rows(one)])
        say("replay", [row for one in stub.StreamPoints(request, metadata=metadata) for row in rows(one)])
        say("errors", [failed(stub, request, None), failed(stub, pb.PointRequest(type=[9], period=60), metadata)])
        request.ClearField("period")
        stream = stub.StreamPoints(request, metadata=metadata)
        say("live", [row for one in [next(stream)] for row in rows(one)])
        say("told", rows(next(stream)))
        stream.cancel()


def rows(series: object) -> list[list[float]]:
    candles = [point.tradeSideAgnosticAggregation for point in series.points]  # type: ignore[attr-defined]
    return [[candle.timestamp.seconds, candle.close] for candle in candles]


def failed(stub: object, request: object, metadata: object) -> int:
    try:
        stub.GetPoints(request, metadata=metadata)  # type: ignore[attr-defined]
    except grpc.RpcError as e:
        return int(e.code().value[0])
    return 0


def say(step: str, told: object) -> None:
    print(json.dumps({"step": step, "told": told}), flush=True)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
