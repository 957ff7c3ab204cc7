"""Which series there are: what is stored or growing, and what venues list, under the contract's names."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from openoutcry.api.kiyotaka import contract, encode, names
from openoutcry.api.kiyotaka.piece import Piece
from openoutcry.api.kiyotaka.wire import Filter, MetaQuestion, Question
from openoutcry.clock import Clock
from openoutcry.errors import TooLarge, Unavailable, UnknownVenue
from openoutcry.events import Side
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.market.market import Market
from openoutcry.market.series import Of, SeriesKey, State

# Series of one answer or stream.
SERIES_MAX = 5_000
PLANS_MAX = 2_000


class Catalogue:
    """Finds series by the contract's names. `exchanges`: what the markets of each venue are called, by kind."""

    def __init__(
        self, market: Market, exchanges: Mapping[str, Mapping[Kind, Sequence[Exchange]]], clock: Clock
    ) -> None:
        self._market, self._exchanges, self._clock = market, exchanges, clock
        self._stamp: object = None
        self._begun: Mapping[tuple[Of, str], int] = {}
        self._stored: dict[Of, dict[str, tuple[Instrument, Sequence[int]]]] = {}
        self._plans: OrderedDict[tuple[object, ...], Sequence[Piece]] = OrderedDict()

    async def pieces(self, asked: Question) -> Sequence[Piece]:
        """The series that a question means, in the order in which they are answered.

        Without an exchange and a symbol, those that are stored or growing; with both, also what the venue lists and
        nobody asked for yet. Raises TooLarge, Unavailable.
        """
        await self._refresh()
        plan = (asked.sorts, asked.where, asked.side, asked.interval_s)
        found = self._plans.get(plan)
        if found is None:
            found = sorted(await self._found(asked), key=_order)
            if len(found) > SERIES_MAX:
                raise TooLarge(f"{len(found)} series are more than {SERIES_MAX}: name exchanges, coins or symbols")
            self._plans[plan] = found
            if len(self._plans) > PLANS_MAX:
                self._plans.popitem(last=False)
        return found

    def planned(self, asked: Question) -> Sequence[Piece] | None:
        """The same at once, where it was asked before and nothing changed since; else None."""
        if self._stamp != self._market.stamp():
            return None
        return self._plans.get((asked.sorts, asked.where, asked.side, asked.interval_s))

    async def stored(self, asked: MetaQuestion) -> Iterable[tuple[names.Sort, Instrument, Sequence[int]]]:
        """Type, instrument and exchanges of all series that have points in the stretch that is asked about."""
        await self._refresh()
        return self._overlapping(asked)

    def _overlapping(self, asked: MetaQuestion) -> Iterator[tuple[names.Sort, Instrument, Sequence[int]]]:
        for sort in names.SORTS.values():
            if asked.sorts and sort.number not in asked.sorts:
                continue
            for instrument, numbers in self._stored.get(sort.of, {}).values():
                fitting = _fitting(asked.where, sort, instrument, numbers)
                if fitting and self._has(sort, instrument, asked.start_ns, asked.end_ns):
                    yield sort, instrument, fitting

    def _has(self, sort: names.Sort, instrument: Instrument, start_ns: int, end_ns: int) -> bool:
        sides = set(sort.sides)
        if sort.of is Of.TRADES:
            # Both sides lie in one series of ours.
            sides = {Side.BOTH}
        begun_ns = self._begun.get((sort.of, instrument.name))
        if begun_ns is not None and begun_ns < end_ns and start_ns <= self._clock.now_ns():
            return True
        keys = [key for key in self._market.series(instrument.name) if key.of is sort.of and key.side in sides]
        return any(
            span.state is State.HAVE for key in keys for span in self._market.coverage(key).query(start_ns, end_ns)
        )

    async def _found(self, asked: Question) -> list[Piece]:
        found: list[Piece] = []
        listed = await self._listed(asked.where)
        for sort in asked.sorts:
            instruments = {**self._stored.get(sort.of, {}), **listed}
            for instrument, numbers in instruments.values():
                for exchange in _fitting(asked.where, sort, instrument, numbers):
                    found += self._sides(asked, sort, instrument, exchange)
        return found

    def _sides(self, asked: Question, sort: names.Sort, instrument: Instrument, exchange: int) -> Iterator[Piece]:
        interval_s = asked.interval_s if sort.interval else 0
        for side in sort.sides:
            if asked.side in (None, side) or side is Side.BOTH:
                identity = names.identity(sort, instrument, exchange, interval_s, side)
                # Raw trades of both sides lie in one series of ours.
                key = SeriesKey(instrument.name, sort.of, interval_s, side if sort.interval else Side.BOTH)
                yield Piece(sort, instrument, key, identity, encode.identifier(identity), asked.where.outright)

    async def _listed(self, where: Filter) -> dict[str, tuple[Instrument, Sequence[int]]]:
        """What a question names outright, whether anything of it is stored or not."""
        found: dict[str, tuple[Instrument, Sequence[int]]] = {}
        if not where.outright:
            return found
        for venue, kinds in self._exchanges.items():
            numbers = {contract.EXCHANGES[name.value] for many in kinds.values() for name in many}
            if not numbers & where.exchanges:
                continue
            try:
                listing = await self._market.instruments(venue)
            except (UnknownVenue, Unavailable):
                continue
            if where.raw_symbols:
                some = [listing[symbol] for symbol in where.raw_symbols if symbol in listing]
            else:
                some = [each for each in listing.values() if names.normalized(each) in where.normalized_symbols]
            for each in some:
                found[each.name] = (each, names.exchange_numbers(self._exchanges, each))
        return found

    async def _refresh(self) -> None:
        """Read again what is there, if that changed."""
        stamp = self._market.stamp()
        if stamp == self._stamp:
            return
        listings: dict[str, Mapping[str, Instrument]] = {}
        stored: dict[Of, dict[str, tuple[Instrument, Sequence[int]]]] = {}
        self._begun = self._market.begun()
        for of, name in {*((key.of, key.instrument) for key in self._market.series()), *self._begun}:
            venue, _, symbol = name.partition(":")
            if venue not in listings:
                try:
                    listings[venue] = await self._market.instruments(venue)
                except (UnknownVenue, Unavailable):
                    listings[venue] = {}
            instrument = listings[venue].get(symbol)
            if instrument is not None:
                numbers = names.exchange_numbers(self._exchanges, instrument)
                stored.setdefault(of, {})[name] = (instrument, numbers)
        self._stored = stored
        self._plans.clear()
        self._stamp = stamp


def _fitting(where: Filter, sort: names.Sort, instrument: Instrument, numbers: Sequence[int]) -> Sequence[int]:
    """The exchange under which the series is told, if it fits; an older name of it where only that was asked for."""
    if not (
        names.fits(sort, instrument)
        and (not where.coins or instrument.coin.upper() in where.coins)
        and (not where.raw_symbols or instrument.symbol in where.raw_symbols)
        and (not where.normalized_symbols or names.normalized(instrument) in where.normalized_symbols)
        and (not where.categories or names.CATEGORY_NUMBER[instrument.kind] in where.categories)
    ):
        return ()
    if not where.exchanges:
        return numbers[:1]
    return [number for number in numbers if number in where.exchanges]


def _order(piece: Piece) -> tuple[object, ...]:
    of = piece.identity
    return (of.type, of.exchange, of.raw_symbol, of.category, of.side)
