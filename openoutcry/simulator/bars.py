"""Bars as Bybit and OKX tell them: one for every interval since the listing, flat where nothing was traded."""

from openoutcry.simulator.tape import Bar
from openoutcry.simulator.world import World


def still(open_ns: int, ticks: int) -> Bar:
    """The bar of an interval in which nothing was traded."""
    return Bar(open_ns, ticks, ticks, ticks, ticks, 0, 0, 0, 0, 0, 0, 0, 0, 0, open_ns, open_ns)


def still_after(world: World, name: str, open_ns: int) -> Bar:
    """Flat at the last price before it; where nothing was ever traded, at the bid."""
    before = world.last_orders(name, 1, open_ns)
    return still(open_ns, int(before.ticks[0]) if len(before) else world.quote(name, open_ns).bid_ticks)


def running(world: World, name: str, open_ns: int, at_ns: int) -> Bar | None:
    """The bar that opens at `open_ns`, of what was traded before `at_ns`; None before the listing."""
    if open_ns < world.life(name)[0]:
        return None
    made = world.window(name, open_ns, at_ns)
    return still_after(world, name, open_ns) if made is None else made._replace(open_ns=open_ns)
