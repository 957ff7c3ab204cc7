"""Place an order over gRPC, and see what became of it: python orders.py HOST:PORT KEY.

Without generated code: the server itself tells its contract (reflection). Needs grpcio, grpcio-reflection.
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

address, key = sys.argv[1:]


def main() -> None:
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

        def call(service: str, method: str, **fields: object) -> object:
            described = pool.FindServiceByName(service).FindMethodByName(method)
            asked = GetMessageClass(described.input_type)(**fields)
            send = channel.unary_unary(
                f"/{service}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(described.output_type).FromString,
            )
            return send(asked, metadata=[("authorization", f"Bearer {key}")], timeout=10)

        price = call("hft.PublicService", "GetPrices", assetPairIds=["BTCUSD"]).payload[0].ask
        placed = call("hft.PrivateService", "PlaceLimitOrder", assetPairId="BTCUSD", side=0, volume="0.01", price=price)
        if placed.HasField("error"):
            sys.exit(f"{placed.error.code}: {placed.error.message}")
        print(f"placed {placed.payload.orderId}: buy 0.01 BTCUSD at {price}")
        for trade in call("hft.PrivateService", "GetOrderTrades", orderId=placed.payload.orderId).payload:
            print(f"traded {trade.baseVolume} at {trade.price}, as {trade.role.lower()}")


if __name__ == "__main__":
    main()
