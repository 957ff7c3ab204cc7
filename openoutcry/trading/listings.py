"""What is traded here: assets and pairs, how fine they are counted, and what an order may be."""

from collections.abc import Mapping
from functools import cached_property

import msgspec

from openoutcry.errors import Invalid
from openoutcry.money import AMOUNT_MAX, KAI, SCALE_MAX

PPM = 1_000_000
PLACES_MAX = 12
NAME_CHARACTERS_MAX = 32


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """Something that wallets hold. `accuracy`: decimal places of its smallest unit."""

    id: str
    name: str
    symbol: str
    accuracy: int

    def __post_init__(self) -> None:
        _named(self.id)
        _said(self.name, self.symbol)
        if self.id == KAI.name:
            raise Invalid(f"{KAI.name} pays for calls of language models, and is not traded")
        if not 0 <= self.accuracy <= min(PLACES_MAX, SCALE_MAX):
            raise Invalid(f"{self.id}: an accuracy is 0 to {PLACES_MAX}")


class Pair(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A base asset that is priced in a quote asset.

    A tick is the last place of `price_accuracy`, a lot the base asset's unit. Bounds are lots and units of quote; 0: none.
    Fees are millionths of what an order receives, `deviation_ppm` of the best opposite price. A pair that is not `on` takes
    cancels alone.
    """

    id: str
    name: str
    base: str
    quote: str
    price_accuracy: int
    base_accuracy: int
    quote_accuracy: int
    lots_min: int = 1
    quote_min: int = 0  # told, and not checked: all orders are in base
    lots_max: int = 0
    quote_max: int = 0
    deviation_ppm: int = 0
    maker_fee_ppm: int = 0
    taker_fee_ppm: int = 0
    on: bool = True

    def __post_init__(self) -> None:
        _named(self.id, self.base, self.quote)
        _said(self.name)
        if self.base == self.quote:
            raise Invalid(f"{self.id}: an asset is not traded for itself")
        if not all(0 <= each <= PLACES_MAX for each in (self.price_accuracy, self.base_accuracy, self.quote_accuracy)):
            raise Invalid(f"{self.id}: an accuracy is 0 to {PLACES_MAX}")
        bounds = (self.lots_min, self.quote_min, self.lots_max, self.quote_max, self.deviation_ppm)
        if self.lots_min < 1 or not all(0 <= each <= AMOUNT_MAX for each in bounds):
            raise Invalid(f"{self.id}: a bound is out of reach")
        if not all(0 <= each < PPM for each in (self.maker_fee_ppm, self.taker_fee_ppm)):
            raise Invalid(f"{self.id}: a fee is less than all of it")

    @cached_property
    def _scales(self) -> tuple[int, int]:
        """What lots x ticks is multiplied with and divided by to be units of quote."""
        places = self.quote_accuracy - self.base_accuracy - self.price_accuracy
        return (10**places, 1) if places >= 0 else (1, 10**-places)

    def value_up(self, lots: int, ticks: int) -> int:
        """Units of quote that so much is worth, rounded up."""
        times, by = self._scales
        return -(-lots * ticks * times // by)

    def value_down(self, lots: int, ticks: int) -> int:
        """Units of quote that so much is worth, rounded down."""
        times, by = self._scales
        return lots * ticks * times // by


class Listings(msgspec.Struct, frozen=True):
    """All assets and pairs, by id. Raises Invalid where a pair does not fit its assets."""

    assets: Mapping[str, Asset]
    pairs: Mapping[str, Pair]

    def __post_init__(self) -> None:
        for pair in self.pairs.values():
            for id_, accuracy in ((pair.base, pair.base_accuracy), (pair.quote, pair.quote_accuracy)):
                asset = self.assets.get(id_)
                if asset is None:
                    raise Invalid(f"{pair.id}: there is no asset {id_}")
                if asset.accuracy != accuracy:
                    raise Invalid(f"{pair.id}: {id_} has {asset.accuracy} places")

    def told(self) -> bytes:
        """All of it, for the log of commands: `read` reads it back."""
        return msgspec.json.encode([list(self.assets.values()), list(self.pairs.values())])

    @classmethod
    def read(cls, told: bytes) -> "Listings":
        """What `told` told."""
        assets, pairs = msgspec.json.decode(told, type=tuple[list[Asset], list[Pair]])
        return cls({asset.id: asset for asset in assets}, {pair.id: pair for pair in pairs})


def _named(*names: str) -> None:
    for name in names:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isascii() or not name.isprintable() or " " in name:
            raise Invalid(f"an id is 1 to {NAME_CHARACTERS_MAX} visible ASCII characters")


def _said(*names: str) -> None:
    for name in names:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise Invalid(f"what is shown is 1 to {NAME_CHARACTERS_MAX} printable characters")
