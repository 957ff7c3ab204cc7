"""A client of the dialect's gRPC side, as a trader with a key calls it: the demo's makers and takers trade through it."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import grpc

from openoutcry.api.lykke import contract, names
from openoutcry.api.lykke.contract import Message
from openoutcry.api.lykke.encode import side
from openoutcry.api.lykke.wire import plain
from openoutcry.errors import LimitExceeded, Unauthenticated, Unavailable
from openoutcry.orders import Code
from openoutcry.simulator.traders import Traded
from openoutcry.trading.gateway import Placed, Rejected, Wanted

CALL_S_MAX = 5.0
# Who is too fast is not told for how long.
RETRY_S = 1.0
# A server that comes back is found soon.
OPTIONS = (("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 5_000))

_CODES: Mapping[int, Code] = {names.NUMBERS[code.value]: code for code in reversed(Code) if code.value in names.NUMBERS}


class Client:
    """Implements `simulator.traders.Api` on the server at `address` (`host:port`, plain text), for the wallet of `key`."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._channel: grpc.aio.Channel | None = None

    async def pairs(self) -> Sequence[Traded]:
        """What is traded."""
        listed = await self._public("GetAssets", contract.Empty(), "hft.AssetsResponse")
        symbols = {asset.assetId: asset.symbol for asset in listed.payload}
        told = await self._public("GetAssetPairs", contract.Empty(), "hft.AssetPairsResponse")
        return [
            Traded(
                each.assetPairId,
                symbols.get(each.baseAssetId, each.baseAssetId),
                symbols.get(each.quoteAssetId, each.quoteAssetId),
                each.priceAccuracy,
                each.baseAssetAccuracy,
                Decimal(each.minVolume),
            )
            for each in told.payload
        ]

    async def price(self, pair: str) -> tuple[Decimal | None, Decimal | None]:
        """Best bid and best ask."""
        asked = contract.message("hft.PricesRequest")(assetPairIds=[pair])
        told = await self._public("GetPrices", asked, "hft.PricesResponse")
        # A side where nothing rests has the price 0.
        for each in told.payload:
            return Decimal(each.bid) or None, Decimal(each.ask) or None
        return None, None

    async def bulk(self, pair: str, items: Sequence[Wanted], *, afresh: bool) -> Sequence[Placed]:
        """Place all of them; `afresh`: after cancelling all own orders of the pair."""
        order = contract.message("hft.BulkOrder")
        asked = contract.message("hft.BulkLimitOrderRequest")(
            assetPairId=pair,
            cancelPreviousOrders=afresh,
            cancelMode=contract.CANCEL_MODES["bothSides"],
            orders=[
                order(
                    side=side(buys=each.buys), volume=plain(each.volume), price=plain(each.price), oldId=each.old or ""
                )
                for each in items
            ],
        )
        told = await self._private("PlaceBulkLimitOrder", asked, "hft.BulkLimitOrderResponse")
        return [
            Placed(status.id, _code(status.error), each.volume, each.price)
            for each, status in zip(items, told.payload.statuses, strict=True)
        ]

    async def take(self, pair: str, *, buys: bool, volume: Decimal) -> None:
        """Trade it now, whole. Raises Rejected where that cannot be."""
        asked = contract.message("hft.MarketOrderRequest")(assetPairId=pair, side=side(buys=buys), volume=plain(volume))
        await self._private("PlaceMarketOrder", asked, "hft.MarketOrderResponse")

    async def close(self) -> None:
        """Cut the connection, and what is on its way with it."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _public(self, method: str, asked: Message, answer: str) -> Message:
        return await self._call(f"/{contract.PUBLIC}/{method}", asked, answer, ())

    async def _private(self, method: str, asked: Message, answer: str) -> Message:
        return await self._call(f"/{contract.PRIVATE}/{method}", asked, answer, self._metadata)

    async def _call(self, path: str, asked: Message, answer: str, metadata: Sequence[tuple[str, str]]) -> Message:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=OPTIONS)
        call: Any = self._channel.unary_unary(path, response_deserializer=contract.message(answer).FromString)
        try:
            told = await call(asked.SerializeToString(), metadata=metadata, timeout=CALL_S_MAX)
        except grpc.aio.AioRpcError as e:
            raise _refusal(e) from e
        if told.HasField("error"):
            raise Rejected(_code(told.error.code) or Code.RUNTIME, told.error.message)
        return told


def _code(number: int) -> Code | None:
    """Ours of the contract's; None: there is nothing wrong."""
    return None if number == names.SUCCESS else _CODES.get(number, Code.RUNTIME)


def _refusal(failed: grpc.aio.AioRpcError) -> LimitExceeded | Unauthenticated | Unavailable:
    status, said = failed.code(), (failed.details() or "")[:200]
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitExceeded(said, RETRY_S)
    if status is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(said)
    return Unavailable("exchange", f"{status.name}: {said}")
