"""Orders over gRPC by 32 callers at once, each answered once it is written: `python -m bench.orders_grpc`.

Single orders of half who buy and half who sell at one price, and bulks of 100 that take the place of the bulk before. The
floor is the same server with answers that are ready, and the same clients. Rows of milliseconds: fewer are better.
"""

import asyncio
import time
from collections.abc import Iterable

import grpc
import uvloop

from bench.orders_server import CALLERS, PAIR, key
from bench.pair import child
from bench.tables import Row, print_table
from openoutcry.api.lykke import contract

TITLE = "Lykke's orders over gRPC, 32 callers; floor: answers that are ready, on the same server"
SECONDS, WARM_S = 6.0, 1.0
BULK = 100
FILLS = 500

_Limit, _Bulk = contract.message("hft.LimitOrderRequest"), contract.message("hft.BulkLimitOrderRequest")
_Placed, _Done = contract.message("hft.LimitOrderResponse"), contract.message("hft.BulkLimitOrderResponse")


def table() -> Iterable[Row]:
    """Rates beside the floor, then how long each takes."""
    ours, floor = uvloop.run(_rates("ours")), uvloop.run(_rates("bare"))
    for name, unit, many in (("PlaceLimitOrder", "orders/s", 1), (f"bulk of {BULK}", "items/s", BULK)):
        mine, bare = ours[name], floor[name]
        yield Row(name, len(mine) * many / SECONDS, len(bare) * many / SECONDS, unit)
        for share in (0.5, 0.99):
            yield Row(f"{name}, p{share * 100:.0f}", _of(mine, share), _of(bare, share), "ms")
    waited = uvloop.run(_fills())
    for share in (0.5, 0.99):
        yield Row(f"from asking to the trade on its stream, p{share * 100:.0f}", _of(waited, share), None, "ms")


def _of(waited_s: list[float], share: float) -> float:
    return sorted(waited_s)[int(len(waited_s) * share)] * 1_000


async def _rates(which: str) -> dict[str, list[float]]:
    async with child("orders", which) as server:
        return {
            "PlaceLimitOrder": await _asked(server.port, "PlaceLimitOrder", _single, _Placed),
            f"bulk of {BULK}": await _asked(server.port, "PlaceBulkLimitOrder", _bulk, _Done),
        }


def _single(number: int, turn: int) -> bytes:
    asked = _Limit(assetPairId=PAIR, side=number % 2, volume="0.01", price="50000")
    del turn
    return asked.SerializeToString()  # type: ignore[no-any-return]


def _bulk(number: int, turn: int) -> bytes:
    """Quotes on both sides of a price that moves, and never meets another's."""
    orders = [
        {
            "side": n % 2,
            "volume": "0.01",
            "price": f"{(60_000 if n % 2 else 40_000) + n + turn % 10 + number / 100:.2f}",
        }
        for n in range(BULK)
    ]
    asked = _Bulk(assetPairId=PAIR, cancelPreviousOrders=True, cancelMode=1, orders=orders)
    return asked.SerializeToString()  # type: ignore[no-any-return]


async def _asked(port: int, method: str, ask: object, answer: type) -> list[float]:
    """How long each call took that ended while it was measured."""
    waited: list[float] = []
    begins = time.perf_counter() + WARM_S
    ends = begins + SECONDS

    async def caller(number: int) -> None:
        async with _channel(port) as channel:
            call, turn = channel.unary_unary(f"/{contract.PRIVATE}/{method}"), 0
            ready = [ask(number, turn) for turn in range(10)]  # type: ignore[operator]
            while (asked_s := time.perf_counter()) < ends:
                told = await call(ready[turn % 10], metadata=_metadata(number))
                turn += 1
                ended_s = time.perf_counter()
                if begins <= ended_s < ends:
                    waited.append(ended_s - asked_s)
            assert not answer.FromString(told).HasField("error")  # type: ignore[attr-defined]

    await asyncio.gather(*map(caller, range(CALLERS)))
    return waited


async def _fills() -> list[float]:
    """From when a taker asks to when the maker's stream tells the trade, one after the other."""
    waited: list[float] = []
    async with child("orders", "ours") as server, _channel(server.port) as channel:
        call = channel.unary_unary(f"/{contract.PRIVATE}/PlaceLimitOrder")
        stream = channel.unary_stream(f"/{contract.PRIVATE}/GetTradeUpdates")(b"", metadata=_metadata(0))
        await stream.initial_metadata()
        for _ in range(FILLS):
            await call(_single(0, 0), metadata=_metadata(0))
            began_s = time.perf_counter()
            taken = asyncio.ensure_future(call(_single(1, 0), metadata=_metadata(1)))
            await stream.read()
            waited.append(time.perf_counter() - began_s)
            await taken
        stream.cancel()
    return waited


def _channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])


def _metadata(number: int) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key(number)}"),)


if __name__ == "__main__":
    print_table(TITLE, table())
