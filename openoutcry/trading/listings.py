"""What is traded here: assets and pairs, how fine they are counted, and what an order may be."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from openoutcry import money
from openoutcry.errors import Invalid
from openoutcry.money import AMOUNT_MAX, KAI, SCALE_MAX

PPM = 1_000_000
# A percent is so many decimal places away from a millionth.
PERCENT_PLACES = 4
PLACES_MAX = 12
NAME_CHARACTERS_MAX = 32
LISTED_MAX = 1_000

_T = TypeVar("_T")


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

    def amount(self, units: int) -> Decimal:
        """So many units of it, as a number."""
        return plain(units, self.accuracy)


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

    def price(self, ticks: int) -> Decimal:
        """So many ticks, as a number."""
        return plain(ticks, self.price_accuracy)

    def volume(self, lots: int) -> Decimal:
        """So many lots, as a number of the base asset."""
        return plain(lots, self.base_accuracy)

    def worth(self, units: int) -> Decimal:
        """So many units of quote, as a number."""
        return plain(units, self.quote_accuracy)

    def cost(self, lots: int, ticks: int) -> Decimal:
        """What so many lots come to at that price, not rounded."""
        return plain(lots * ticks, self.base_accuracy + self.price_accuracy)


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

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Listings":
        """What people write: tables `assets` and `pairs`, by id, decimals as text. Raises Invalid, which names the place."""
        read = _Table("", told)
        assets = {id_: _asset(id_, table) for id_, table in read.tables("assets")}
        pairs = {id_: _pair(id_, table, assets) for id_, table in read.tables("pairs")}
        read.end()
        return cls(assets, pairs)

    def refuse_unlike(self, before: "Listings") -> None:
        """Raises Invalid where something that was listed before is missing, or is counted in other units."""
        for id_, asset in before.assets.items():
            now = self.assets.get(id_)
            if now is None:
                raise Invalid(f"assets.{id_}: it is listed, and cannot go: wallets may hold it")
            if now.accuracy != asset.accuracy:
                raise Invalid(f"assets.{id_}.accuracy: it is listed with {asset.accuracy}, which never changes")
        for id_, pair in before.pairs.items():
            listed = self.pairs.get(id_)
            if listed is None:
                raise Invalid(f"pairs.{id_}: it is listed, and cannot go; `on = false` ends its trading")
            for name in ("base", "quote", "price_accuracy"):
                if getattr(listed, name) != getattr(pair, name):
                    raise Invalid(f"pairs.{id_}.{name}: it is listed with {getattr(pair, name)}, which never changes")


def plain(units: int, places: int) -> Decimal:
    """`units` of the last of so many decimal places: exact, without trailing zeros. `format(it, "f")` writes it."""
    while places and units % 10 == 0:
        units //= 10
        places -= 1
    return Decimal(f"{units}e-{places}")


class _Table:
    """A table of what people wrote, read name by name; what is left at the end is refused."""

    def __init__(self, place: str, told: Mapping[str, Any]) -> None:
        self.place = place
        self.id = place.rpartition(".")[2]
        self._told = dict(told)

    def tables(self, name: str) -> "list[tuple[str, _Table]]":
        """The tables in the table of that name."""
        listed = self._take(name, dict, {})
        if len(listed) > LISTED_MAX:
            raise Invalid(f"{self._at(name)}: at most {LISTED_MAX}")
        for id_, each in listed.items():
            if not isinstance(each, dict):
                raise Invalid(f"{self._at(name)}.{id_}: a table is wanted")
        return [(id_, _Table(f"{self._at(name)}.{id_}", each)) for id_, each in listed.items()]

    def text(self, name: str, default: str | None = None) -> str:
        """A name, or what is shown."""
        return self._take(name, str, default)

    def number(self, name: str) -> int:
        """A whole number."""
        return self._take(name, int, None)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        return self._take(name, bool, default)

    def units(self, name: str, places: int, default: str) -> int:
        """Text of a decimal with at most so many places, in the last of them."""
        said = self._take(name, str, default)
        try:
            units = money.Asset("it", places).units(said)
        except Invalid as e:
            raise Invalid(f"{self._at(name)}: {e.text}") from e
        if units < 0:
            raise Invalid(f"{self._at(name)}: it is not below zero")
        return units

    def ppm(self, name: str) -> int:
        """Text of a percentage, `0.1%`, in millionths."""
        said = self._take(name, str, "0%")
        if not said.endswith("%"):
            raise Invalid(f'{self._at(name)}: a percentage is wanted, as "0.1%"')
        self._told[name] = said[:-1].rstrip()
        return self.units(name, PERCENT_PLACES, "0")

    def end(self) -> None:
        """All of it was read."""
        for name in self._told:
            raise Invalid(f"{self._at(name)}: there is nothing of that name to be said")

    def _take(self, name: str, kind: type[_T], default: _T | None) -> _T:
        value = self._told.pop(name, default)
        if value is None:
            raise Invalid(f"{self._at(name)}: it is missing")
        # A bool is an int to Python, and a float is no decimal.
        if type(value) is not kind:
            hint = ' in quotes, as "0.0001"' if isinstance(value, int | float) and kind is str else ""
            raise Invalid(f"{self._at(name)}: {_KINDS[kind]} is wanted{hint}")
        return value

    def _at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name


_KINDS: Mapping[type, str] = {str: "text", int: "a whole number", bool: "true or false", dict: "a table"}


def _asset(id_: str, table: _Table) -> Asset:
    asset = _placed(
        table,
        lambda: Asset(
            id=id_, name=table.text("name", id_), symbol=table.text("symbol", id_), accuracy=table.number("accuracy")
        ),
    )
    table.end()
    return asset


def _pair(id_: str, table: _Table, assets: Mapping[str, Asset]) -> Pair:
    base, quote = (_listed(table, name, assets) for name in ("base", "quote"))
    pair = _placed(
        table,
        lambda: Pair(
            id=id_,
            name=table.text("name", f"{base.symbol}/{quote.symbol}"),
            base=base.id,
            quote=quote.id,
            price_accuracy=table.number("price_accuracy"),
            base_accuracy=base.accuracy,
            quote_accuracy=quote.accuracy,
            lots_min=max(1, table.units("min_volume", base.accuracy, "0")),
            quote_min=table.units("min_opposite_volume", quote.accuracy, "0"),
            lots_max=table.units("max_volume", base.accuracy, "0"),
            quote_max=table.units("max_value", quote.accuracy, "0"),
            deviation_ppm=table.ppm("price_deviation"),
            maker_fee_ppm=table.ppm("maker_fee"),
            taker_fee_ppm=table.ppm("taker_fee"),
            on=table.flag("on", default=True),
        ),
    )
    table.end()
    return pair


def _listed(table: _Table, name: str, assets: Mapping[str, Asset]) -> Asset:
    id_ = table.text(name)
    asset = assets.get(id_)
    if asset is None:
        raise Invalid(f"{table.place}.{name}: there is no asset {id_}")
    return asset


def _placed(table: _Table, make: Callable[[], _T]) -> _T:
    """What `make` makes; what is wrong with it as a whole is said with the table's place."""
    try:
        return make()
    except Invalid as e:
        if e.text.startswith(table.place):
            raise
        raise Invalid(f"{table.place}: {e.text.removeprefix(table.id + ': ')}") from e


def _named(*names: str) -> None:
    for name in names:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isascii() or not name.isprintable() or " " in name:
            raise Invalid(f"an id is 1 to {NAME_CHARACTERS_MAX} visible ASCII characters")


def _said(*names: str) -> None:
    for name in names:
        if not 0 < len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
            raise Invalid(f"what is shown is 1 to {NAME_CHARACTERS_MAX} printable characters")
