"""Money: a whole number of an asset's smallest units. No amount is ever a float, and none is ever rounded here."""

import re
from decimal import Decimal

import msgspec

from openoutcry.errors import Invalid

# Of one amount and of one balance, either side of zero: sums of a few still fit the 64 bits of a database.
AMOUNT_MAX = 10**18
SCALE_MAX = 18

_PLAIN = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,18}))?", re.ASCII)


class Asset(msgspec.Struct, frozen=True):
    """What money is of. `scale`: how many decimal places its smallest unit has."""

    name: str
    scale: int

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= SCALE_MAX:
            raise Invalid(f"an asset has 0 to {SCALE_MAX} decimal places")

    def units(self, text: str) -> int:
        """The amount that `text` (plain decimals: `12`, `-0.5`) says, in smallest units. Raises Invalid."""
        said = _PLAIN.fullmatch(text)
        if said is None:
            raise Invalid("an amount is plain decimal digits")
        sign, whole, places = said[1], said[2], said[3] or ""
        if len(places) > self.scale:
            raise Invalid(f"{self.name} has {self.scale} decimal places")
        amount = int(whole + places.ljust(self.scale, "0"))
        if amount > AMOUNT_MAX:
            raise Invalid(f"an amount of {self.name} is at most {self.text(AMOUNT_MAX)}")
        return -amount if sign else amount

    def text(self, units: int) -> str:
        """The amount with all of its decimal places: `units` reads it back."""
        sign, digits = "-" if units < 0 else "", str(abs(units)).rjust(self.scale + 1, "0")
        return f"{sign}{digits[: -self.scale]}.{digits[-self.scale :]}" if self.scale else sign + digits

    def decimal(self, units: int) -> Decimal:
        """The amount as a number, exactly."""
        return Decimal(units).scaleb(-self.scale)


# One KAI is 1,000,000 micros.
KAI = Asset("KAI", 6)
