"""Liquidation levels: what watched holders hold, added up by the price that would end it.

A level is |size| of all positions whose liquidation price rounds to it, longs and shorts together: a price can liquidate
only one of the two, the one that it has to fall or to rise to.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException

from openoutcry.aggregates.bars import ZERO
from openoutcry.aggregates.exact import ENTRY, SUM
from openoutcry.events import MINUTE_S, NS, Level, LiquidationLevels, Position, Positions

# Liquidation prices move with every settled funding and every margin that is added: that far digits say nothing.
PRICE_DIGITS = 4
HOLDERS_MAX = 1_000
# An answer so far ahead of our own clock is a fault; taking it would make every real one of its holder look old.
AHEAD_S_MAX = 3_600.0

_ROUND = Context(prec=PRICE_DIGITS, rounding=ROUND_HALF_EVEN)
_ONE = Decimal(1)


class Levels:
    """Keeps the newest positions of each holder, and the levels they add up to.

    `counts`: answers that were `old`, `ahead`, `unsummable`, or of a holder for whom there is no room (`full`).
    """

    def __init__(self, *, holders_max: int = HOLDERS_MAX, ahead_s_max: float = AHEAD_S_MAX) -> None:
        self._holders_max = holders_max
        self._ahead_ns = round(ahead_s_max * NS)
        self._held: dict[tuple[str, str], Positions] = {}
        self._sums: dict[str, _Sum] = {}
        self.counts: Counter[str] = Counter()

    def on_positions(self, positions: Positions) -> Sequence[LiquidationLevels]:
        """Take what a holder holds now in place of what it held before.

        Returns the levels of every instrument where they changed, and of those the holder is still in that were told in
        an earlier minute: a bar of a minute in which nothing moved has levels too. Once the last position is gone they
        are told as empty.
        """
        holder = (positions.instrument, positions.holder)
        before = self._held.get(holder)
        if why := self._refusal(positions, before):
            self.counts[why] += 1
            return ()
        self._held[holder] = positions
        after = dict(_levels(positions))
        was = {} if before is None else dict(_levels(before))
        told: list[LiquidationLevels] = []
        for instrument in dict.fromkeys((*after, *was)):
            levels = self._sums.get(instrument)
            if levels is None:
                levels = self._sums[instrument] = _Sum()
            if levels.change(was.get(instrument), after.get(instrument), positions.event_ns):
                told.append(levels.event(instrument, positions.received_ns))
            if not levels.sizes:
                del self._sums[instrument]
        return told

    def __len__(self) -> int:
        return len(self._held)

    def _refusal(self, positions: Positions, before: Positions | None) -> str | None:
        if positions.event_ns > positions.received_ns + self._ahead_ns:
            return "ahead"
        if before is not None and positions.event_ns < before.event_ns:
            return "old"
        if before is None and len(self._held) >= self._holders_max:
            return "full"
        return None if all(_summable(each) for each in positions.positions) else "unsummable"


class _Sum:
    """The levels of one instrument, and when they were told last."""

    def __init__(self) -> None:
        self.sizes: dict[Decimal, Decimal] = {}
        self.event_ns = 0
        self._told_ns: int | None = None

    def change(self, out: Level | None, into: Level | None, event_ns: int) -> bool:
        """Take one level out and put another in; whether the levels are to be told."""
        self.event_ns = max(self.event_ns, event_ns)
        if out != into:
            if out is not None:
                self._add(out[0], out[1].copy_negate())
            if into is not None:
                self._add(*into)
        elif self._told_ns is not None and self._told_ns // (MINUTE_S * NS) == self.event_ns // (MINUTE_S * NS):
            return False
        self._told_ns = self.event_ns
        return True

    def event(self, instrument: str, received_ns: int) -> LiquidationLevels:
        """As they are."""
        return LiquidationLevels(instrument, self.event_ns, received_ns, tuple(sorted(self.sizes.items())))

    def _add(self, price: Decimal, size: Decimal) -> None:
        total = SUM.add(self.sizes.get(price, ZERO), size)
        if total:
            self.sizes[price] = total
        else:
            del self.sizes[price]


def level_price(price: Decimal) -> Decimal:
    """The level that a liquidation price belongs to."""
    rounded = _ROUND.plus(price)
    # 1.234E+5 is written out.
    return rounded.quantize(_ONE, context=ENTRY) if rounded.adjusted() >= PRICE_DIGITS else rounded


def _levels(positions: Positions) -> Iterator[tuple[str, Level]]:
    """The level of each instrument; a holder has one position in each."""
    for each in positions.positions:
        if each.liquidation is not None:
            yield each.instrument, (level_price(each.liquidation), each.size.copy_abs())


def _summable(position: Position) -> bool:
    try:
        ENTRY.add(ZERO, position.size)
        ENTRY.add(ZERO, position.liquidation or ZERO)
    except DecimalException:
        return False
    return True
