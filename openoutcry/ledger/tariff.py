"""What tokens cost: in USD by the thousand, times a fee, paid in KAI at a price. Rounded once, up, to whole micros.

A tariff is fixed when a call is admitted: what is held, what is paid and what is told come from the same one.
"""

from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import lcm

import msgspec

from openoutcry.errors import Invalid
from openoutcry.money import KAI

_MICROS = 10**KAI.scale
# Tariffs whose rates are remembered: a server has one at a time.
RATES_MAX = 16
# Far more digits than prices and counts of tokens have: nothing is rounded on the way.
_EXACT = Context(prec=200)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one call costs, and of what it is made: the model's price, times the fee, at the price of one KAI."""

    llm_usd: Decimal
    fee_multiplier: Decimal
    total_usd: Decimal
    micros: int
    kai_usd: Decimal


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """The prices of one call."""

    usd_per_1k_in: Decimal
    usd_per_1k_out: Decimal
    fee_multiplier: Decimal
    kai_usd: Decimal

    def __post_init__(self) -> None:
        parts = (self.usd_per_1k_in, self.usd_per_1k_out, self.fee_multiplier, self.kai_usd)
        if not all(part.is_finite() and part >= 0 for part in parts) or not self.kai_usd:
            raise Invalid("a tariff is made of prices, and that of KAI is above zero")

    def cost(self, tokens_in: int, tokens_out: int) -> Cost:
        """What so many tokens cost."""
        priced = ((tokens_in, self.usd_per_1k_in), (tokens_out, self.usd_per_1k_out))
        by_way = [_EXACT.multiply(Decimal(tokens), usd) for tokens, usd in priced]
        llm_usd = _EXACT.scaleb(_EXACT.add(*by_way), -3)
        return Cost(
            llm_usd=llm_usd,
            fee_multiplier=self.fee_multiplier,
            total_usd=_EXACT.multiply(llm_usd, self.fee_multiplier),
            micros=self.micros(tokens_in, tokens_out),
            kai_usd=self.kai_usd,
        )

    def micros(self, tokens_in: int, tokens_out: int) -> int:
        """The same in whole micros, rounded up."""
        each_in, each_out, of = _rates(self)
        return -(-(tokens_in * each_in + tokens_out * each_out) // of)

    def affords(self, micros: int, tokens_in: int, most: int) -> int:
        """How many tokens out so much pays for, beside so many in; at most `most`."""
        each_in, each_out, of = _rates(self)
        left = micros * of - tokens_in * each_in
        if left < 0:
            return 0
        return most if not each_out else min(most, left // each_out)

    @property
    def text(self) -> str:
        """All of it in one line, as it is kept with each call: `read` reads it back."""
        parts = (self.usd_per_1k_in, self.usd_per_1k_out, self.fee_multiplier, self.kai_usd)
        return " ".join(f"{part:f}" for part in parts)

    @classmethod
    def read(cls, text: str) -> "Tariff":
        """What `text` says. Raises Invalid."""
        try:
            per_1k_in, per_1k_out, fee, kai = map(Decimal, text.split(" "))
        except (ArithmeticError, ValueError) as e:
            raise Invalid("a tariff is four numbers") from e
        return cls(usd_per_1k_in=per_1k_in, usd_per_1k_out=per_1k_out, fee_multiplier=fee, kai_usd=kai)


@lru_cache(RATES_MAX)
def _rates(tariff: Tariff) -> tuple[int, int, int]:
    """What a token in and one out cost, in parts of a micro; and how many parts a micro has."""
    per_usd = Fraction(tariff.fee_multiplier) / Fraction(tariff.kai_usd) * Fraction(_MICROS, 1_000)
    each_in, each_out = Fraction(tariff.usd_per_1k_in) * per_usd, Fraction(tariff.usd_per_1k_out) * per_usd
    of = lcm(each_in.denominator, each_out.denominator)
    return int(each_in * of), int(each_out * of), of
