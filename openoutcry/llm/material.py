"""What is known of an instrument when candles are analysed; whoever has the market gathers it."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal

import msgspec

from openoutcry.clock import NS
from openoutcry.events import Candle
from openoutcry.instrument import Instrument


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """Closed candles, oldest first, and what is known beside them; None where it is not known.

    `missing` are stretches [start_ns, end_ns) among the candles that nobody has. Volumes are base coins (`quote_volume`
    quote currency), open interest base coins and USD, rates and `change` shares of one. `bought` and `sold` are what
    aggressors took in the same candles, `liquidated` what was closed by force: longs, shorts.
    """

    instrument: Instrument
    interval_s: int
    now_ns: int
    candles: Sequence[Candle]
    missing: Sequence[tuple[int, int]] = ()
    price: Decimal | None = None
    change: Decimal | None = None
    volume: Decimal | None = None
    quote_volume: Decimal | None = None
    open_interest: Decimal | None = None
    open_interest_usd: Decimal | None = None
    open_interest_before: Decimal | None = None  # where the candles begin
    funding_rate: Decimal | None = None
    funding_ns: int | None = None
    funding_interval_s: int | None = None
    bought: Decimal | None = None
    sold: Decimal | None = None
    liquidated_longs: Decimal | None = None
    liquidated_shorts: Decimal | None = None

    @property
    def last(self) -> Decimal:
        """The newest price there is."""
        return self.candles[-1].close if self.price is None else self.price

    @property
    def missing_candles(self) -> int:
        """How many candles nobody has."""
        return sum(max(end_ns - start_ns, 0) // (self.interval_s * NS) for start_ns, end_ns in self.missing)


Gather = Callable[[Instrument, int, int], Awaitable[Material]]
