"""What options of all venues have under them: the price of the coin, by which their premiums move."""

from collections.abc import Iterable
from decimal import Decimal

from openoutcry.simulator.listings import COINS
from openoutcry.simulator.tape import Listing
from openoutcry.simulator.world import World

CENT = Decimal("0.01")


def underlying(world: World, listings: Iterable[Listing], at_ns: int) -> Decimal:
    """The coin's price then, told by the dearest of these options on it: its premium has the most digits."""
    dearest = max(listings, key=lambda listing: listing.price)
    usual = Decimal(COINS[dearest.instrument.coin].price)
    return (world.index(dearest.name, at_ns) / Decimal(dearest.price) * usual).quantize(CENT)
