"""What can be traded, and how its sizes are counted."""

from decimal import Decimal
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What sort of thing an instrument is."""

    SPOT = "spot"
    PERPETUAL = "perpetual"
    FUTURE = "future"
    OPTION = "option"


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One tradable thing on one venue.

    `contract_size` is None where the venue counts sizes in base coins. Otherwise one contract is worth that many base
    coins (`inverse` False) or that many units of the quote currency (`inverse` True, so base coins = contracts x
    contract_size / price).
    """

    venue: str
    symbol: str
    kind: Kind
    coin: str
    quote: str
    settle: str
    tick_size: Decimal
    lot_size: Decimal
    contract_size: Decimal | None = None
    inverse: bool = False
    listed_ns: int | None = None
    expires_ns: int | None = None
    trading: bool = True

    @property
    def name(self) -> str:
        """`venue:symbol`, the one name this instrument has inside the server."""
        return f"{self.venue}:{self.symbol}"
