"""The contract as messages: the files below proto/, as `make proto` compiled them into contract.binpb.

The messages live in a pool of their own: their files and packages have names (`common.proto`, `common`) that others have too.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

MONITORING, PUBLIC, PRIVATE = "common.Monitoring", "hft.PublicService", "hft.PrivateService"
# Message classes are made at run time: for the type checker they are anything.
Message = Any
__all__ = ["DecodeError"]

FILES = descriptor_pb2.FileDescriptorSet.FromString((files(__package__) / "contract.binpb").read_bytes())
POOL = descriptor_pool.DescriptorPool()
for _file in FILES.file:
    POOL.Add(_file)


@cache
def message(name: str) -> type[Message]:
    """The class of a message, by its full name."""
    made: type[Message] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
    return made


def values(enum: str) -> dict[str, int]:
    """Number by name of an enum, by its full name."""
    return {value.name: value.number for value in POOL.FindEnumTypeByName(enum).values}


def described(service: str) -> tuple[bytes, ...]:
    """The files that describe a service, imports first."""
    told: dict[str, bytes] = {}

    def tell(name: str) -> None:
        file = next(each for each in FILES.file if each.name == name)
        for needed in file.dependency:
            tell(needed)
        told[name] = file.SerializeToString()

    tell(POOL.FindServiceByName(service).file.name)
    return tuple(told.values())


Empty = message("google.protobuf.Empty")
Timestamp = message("google.protobuf.Timestamp")
Error = message("hft.common.Error")
Asset = message("hft.Asset")
AssetPair = message("hft.AssetPair")
Balance = message("hft.Balance")
BalanceUpdate = message("hft.BalanceUpdate")
BulkOrderItemStatus = message("hft.BulkOrderItemStatus")
IsAliveRequest = message("common.IsAliveRequest")
IsAliveResponce = message("common.IsAliveResponce")
OperationHistory = message("hft.OperationHistory")
Order = message("hft.Order")
Orderbook = message("hft.Orderbook")
OrderUpdate = message("hft.OrderUpdate")
PriceUpdate = message("hft.PriceUpdate")
PublicTrade = message("hft.PublicTrade")
PublicTradeUpdate = message("hft.PublicTradeUpdate")
TickerUpdate = message("hft.TickerUpdate")
Trade = message("hft.Trade")
TradeUpdate = message("hft.TradeUpdate")
ERRORS = values("hft.common.ErrorCode")
SIDES = values("hft.Side")
CANCEL_MODES = values("hft.CancelMode")
