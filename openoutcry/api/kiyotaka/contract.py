"""The contract as messages: the files below proto/, as `make proto` compiled them into contract.binpb.

The messages live in a pool of their own: their names are short (`Trade`, `Timestamp`), and other packages bring a
`google/api` of theirs.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

SERVICE = "api.API"
# Message classes are made at run time: for the type checker they are anything.
Message = Any
__all__ = ["DecodeError"]

FILES = descriptor_pb2.FileDescriptorSet.FromString((files(__package__) / "contract.binpb").read_bytes())
POOL = descriptor_pool.DescriptorPool()
for _file in FILES.file:
    POOL.Add(_file)


def message(name: str) -> type[Message]:
    """The class of a message, by its full name."""
    made: type[Message] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
    return made


def values(enum: str) -> dict[str, int]:
    """Number by name of an enum, by its full name."""
    return {value.name: value.number for value in POOL.FindEnumTypeByName(enum).values}


PointRequest = message("api.PointRequest")
PointMetaRequest = message("api.PointMetaRequest")
PointMetaResponse = message("api.PointMetaResponse")
PointResponse = message("api.PointResponse")
PointSeries = message("api.PointSeries")
PointSeriesIdentifier = message("api.PointSeriesIdentifier")
Point = message("api.Point")
TYPES = values("api.PointType")
SIDES = values("api.PointSide")
CATEGORIES = values("api.PointCategory")
INTERVALS = values("api.PointAggregationInterval")
EXCHANGES = values("api.PointExchange")
