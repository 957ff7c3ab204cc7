"""A client of Lykke's contract as its vendor shows one in Python: generated stubs, blocking calls, and a key in the channel.

Run with the stubs' folder on PYTHONPATH. Prints a JSON line for each step; with a certificate it speaks TLS, and the channel
sends the key by itself, else each call brings it.
"""

import json
import sys
from pathlib import Path

import grpc
import isalive_pb2  # type: ignore[import-not-found]
import isalive_pb2_grpc  # type: ignore[import-not-found]
import privateService_pb2 as private  # type: ignore[import-not-found]
import privateService_pb2_grpc as private_rpc  # type: ignore[import-not-found]
import publicService_pb2 as public  # type: ignore[import-not-found]
import publicService_pb2_grpc as public_rpc  # type: ignore[import-not-found]
from google.protobuf.empty_pb2 import Empty


def main(address: str, key: str, certificate: str) -> None:
    metadata = None if certificate else (("authorization", f"Bearer {key}"),)
    with opened(address, key, certificate) as channel:
        wallet, market = private_rpc.PrivateServiceStub(channel), public_rpc.PublicServiceStub(channel)
        alive = isalive_pb2_grpc.MonitoringStub(channel).IsAlive(isalive_pb2.IsAliveRequest())
        say("alive", alive.name)
        book = market.GetOrderbookUpdates(public.OrderbookUpdatesRequest(assetPairId="BTCUSD"))
        say("book", levels(next(book)))
        trades = wallet.GetTradeUpdates(Empty(), metadata=metadata)
        trades.initial_metadata()
        order = private.LimitOrderRequest(assetPairId="BTCUSD", side=private.buy, volume="0.5", price="100.10")
        told = wallet.PlaceLimitOrder(order, metadata=metadata)
        say("placed", [told.HasField("error"), told.payload.orderId])
        say("delta", levels(next(book)))
        trade = next(trades).trades[0]
        say("trade", [trade.orderId, trade.role, trade.baseVolume, trade.price, trade.side])
        told = wallet.PlaceLimitOrder(
            private.LimitOrderRequest(assetPairId="NOPE", volume="1", price="1"), metadata=metadata
        )
        say("refused", [told.HasField("payload"), told.error.code, told.error.message])
        told = wallet.CancelAllOrders(private.CancelOrdersRequest(assetPairId="BTCUSD"), metadata=metadata)
        say("cancelled", [told.HasField("error"), told.payload])
        say("gone", levels(next(book)))
        balances = wallet.GetBalances(Empty(), metadata=metadata).payload
        say("balances", [[each.assetId, each.available, each.reserved] for each in balances])
        book.cancel()
        trades.cancel()


def opened(address: str, key: str, certificate: str) -> grpc.Channel:
    if not certificate:
        return grpc.insecure_channel(address)
    tls = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
    return grpc.secure_channel(
        address, grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(key))
    )


def levels(book: object) -> list[list[list[str]]]:
    return [[[level.p, level.v] for level in side] for side in (book.bids, book.asks)]  # type: ignore[attr-defined]


def say(step: str, told: object) -> None:
    print(json.dumps({"step": step, "told": told}), flush=True)


main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
