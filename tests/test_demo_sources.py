"""What the demo tells beside its venues: CME's open interest from a file, liquidation levels from watched addresses."""

import asyncio
from pathlib import Path

from openoutcry.app import DEMO_HOLDERS, Server, simulated_outside
from openoutcry.config import Config, load
from openoutcry.events import InterestBar, LevelsBar, LiquidationLevels, OpenInterest
from openoutcry.venues import VENUES

WAIT_S_MAX = 30.0


def settings(folder: Path) -> Config:
    """The demo's, with one venue."""
    venues = {name: {"on": name == "hyperliquid"} for name in VENUES}
    return load({"data": folder, "http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "venues": venues})


async def test_the_demo_has_cme_and_liquidation_levels_at_once(tmp_path: Path) -> None:
    world = await simulated_outside(settings(tmp_path))
    assert world.config.venues["hyperliquid"].holders == DEMO_HOLDERS
    server = Server(world)
    interest, levels = asyncio.Event(), asyncio.Event()
    told: list[LiquidationLevels] = []
    server.bus.listen(OpenInterest, lambda _: interest.set(), "cme:BTC")
    server.bus.listen(LiquidationLevels, told.append)
    server.bus.listen(LiquidationLevels, lambda _: levels.set())
    await server.start()
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            await interest.wait()
            await levels.wait()
        future = await server.market.instrument("cme", "BTC")
        days = await server.market.open_interest_bars(future, 86_400, limit=1_000)
        assert len(days.rows) > 250
        assert all(isinstance(bar, InterestBar) and bar.prices and bar.values for bar in days.rows)
        assert (await server.market.open_interest(future)).price is not None
        grown = server.building.bar(LevelsBar, told[0].instrument, 86_400)
        assert isinstance(grown, LevelsBar)
        assert grown.levels
    finally:
        await server.stop()
