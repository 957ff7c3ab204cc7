"""What the feed hears becomes slower events on the same bus, and those are stored."""

from decimal import Decimal
from typing import Any

import pytest

from openoutcry.aggregates.derivatives import Derivatives
from openoutcry.aggregates.ticker import Tickers
from openoutcry.events import NS, Event, LevelsBar, LiquidationLevels, Position, Positions, open_of
from openoutcry.market.building import Building
from openoutcry.market.series import Of, SeriesKey

MINUTE_NS = 60 * NS


@pytest.fixture
def building(box: Any) -> Building:
    """On the bus of a market."""
    return Building(
        bus=box.bus,
        clock=box.clock,
        telemetry=box.telemetry,
        outside=box.outside,
        candles=box.aggregate,
        derivatives=Derivatives(grace_s=0.0),
        tickers=Tickers(),
    )


def holds(size: str, event_ns: int) -> Positions:
    position = Position("fake:BTC", Decimal(size), Decimal("91234.5"))
    return Positions("fake:*", "0xa", event_ns, event_ns, (position,))


async def test_positions_become_levels_and_levels_become_bars_that_are_stored(box: Any, building: Building) -> None:
    told: list[Event] = []
    box.bus.listen(LiquidationLevels, told.append)
    open_ns = open_of(box.clock.now_ns(), 60) + MINUTE_NS
    box.bus.publish([holds("1", open_ns), holds("-3", open_ns + NS)])
    first, second = ((Decimal(91230), Decimal(1)),), ((Decimal(91230), Decimal(3)),)
    assert told == [
        LiquidationLevels("fake:BTC", open_ns, open_ns, first),
        LiquidationLevels("fake:BTC", open_ns + NS, open_ns + NS, second),
    ]
    # What did not move is told once more in the next minute, and that ends the one before.
    box.bus.publish([holds("-3", open_ns + MINUTE_NS)])
    building.beat()
    await box.market.writer.flush()
    bar = LevelsBar("fake:BTC", 60, open_ns, second, closed=True, received_ns=open_ns + NS)
    assert box.series.read(SeriesKey("fake:BTC", Of.LEVELS_BARS, 60)) == [bar]
