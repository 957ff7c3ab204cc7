"""What Kiyotaka's callers call types, exchanges, categories, intervals and sides, and what we call them."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from openoutcry.api.kiyotaka import contract
from openoutcry.events import Side
from openoutcry.instrument import Exchange, Instrument, Kind
from openoutcry.market.series import Of

_BOTH = (Side.BOTH,)
_SIDES = (Side.SELL, Side.BUY)
_DERIVED = frozenset({Kind.PERPETUAL, Kind.FUTURE})
CME = "cme"


class Sort(msgspec.Struct, frozen=True):
    """A type of point: our series behind it, its sides, and the kinds of instruments that have it.

    `member` is its name inside a Point. `cme` says whether it is about CME's files, or about everybody else.
    """

    name: str
    number: int
    of: Of
    sides: tuple[Side, ...]
    member: str
    kinds: frozenset[Kind]
    cme: bool | None = None

    @property
    def interval(self) -> bool:
        """Whether its points are of buckets."""
        return self.of is not Of.TRADES


def _sort(
    name: str, of: Of, member: str, sides: tuple[Side, ...], kinds: Iterable[Kind] = Kind, *, cme: bool | None = None
) -> Sort:
    return Sort(name, contract.TYPES[name], of, sides, member, frozenset(kinds), cme)


SORTS: Mapping[int, Sort] = {
    sort.number: sort
    for sort in (
        _sort("TRADE", Of.TRADES, "trade", _SIDES),
        _sort("TRADE_AGG", Of.CANDLES, "tradeAggregation", _SIDES),
        _sort("OPEN_INTEREST_AGG", Of.INTEREST_BARS, "openInterestAggregation", _BOTH, _DERIVED, cme=False),
        _sort("FUNDING_RATE_AGG", Of.FUNDING_BARS, "fundingRateAggregation", _BOTH, {Kind.PERPETUAL}),
        _sort("LIQUIDATION_AGG", Of.LIQUIDATION_BARS, "liquidationAggregation", _SIDES),
        _sort("CME_OPEN_INTEREST_AGG", Of.INTEREST_BARS, "cmeOpenInterestAggregation", _BOTH, _DERIVED, cme=True),
        _sort("OPTION_OPEN_INTEREST_AGG", Of.INTEREST_BARS, "optionOpenInterestAggregation", _BOTH, {Kind.OPTION}),
        _sort("TRADE_SIDE_AGNOSTIC_AGG", Of.CANDLES, "tradeSideAgnosticAggregation", _BOTH),
        _sort("HYPERLIQUID_LIQUIDATION_AGG", Of.LEVELS_BARS, "hyperliquidLiquidationAggregation", _BOTH),
    )
}
assert {0, *SORTS} == set(contract.TYPES.values()), "every type of the contract has a source"

INTERVAL_OF: Mapping[int, int] = {
    contract.INTERVALS[name]: seconds
    for name, seconds in {
        "MINUTE": 60,
        "FIVE_MINUTES": 300,
        "FIFTEEN_MINUTES": 900,
        "HOUR": 3_600,
        "FOUR_HOURS": 14_400,
        "DAY": 86_400,
        "WEEK": 604_800,
    }.items()
}
INTERVAL_NUMBER: Mapping[int, int] = {seconds: number for number, seconds in INTERVAL_OF.items()}
SIDE_OF: Mapping[int, Side] = {contract.SIDES["SELL"]: Side.SELL, contract.SIDES["BUY"]: Side.BUY}
SIDE_NUMBER: Mapping[Side, int] = {side: number for number, side in SIDE_OF.items()}
CATEGORY_NUMBER: Mapping[Kind, int] = {kind: contract.CATEGORIES[kind.upper()] for kind in Kind}


class Identity(msgspec.Struct, frozen=True):
    """What the points of a series have in common, in the contract's numbers and spellings; 0 where there is none."""

    type: int
    raw_symbol: str
    exchange: int
    normalized_symbol: str
    category: int
    interval: int
    side: int
    coin: str


def identity(sort: Sort, instrument: Instrument, exchange: int, interval_s: int, side: Side) -> Identity:
    """The identity of a series of ours."""
    return Identity(
        sort.number,
        instrument.symbol,
        exchange,
        normalized(instrument),
        CATEGORY_NUMBER[instrument.kind],
        0 if sort.of is Of.TRADES else INTERVAL_NUMBER[interval_s],
        SIDE_NUMBER.get(side, 0),
        instrument.coin.upper(),
    )


def normalized(instrument: Instrument) -> str:
    """BASE-QUOTE. Where a premium is paid in the coin itself, the quote is that of the strike."""
    quote = "USD" if instrument.quote == instrument.coin else instrument.quote
    return f"{instrument.coin}-{quote}".upper()


def exchange_numbers(
    exchanges: Mapping[str, Mapping[Kind, Sequence[Exchange]]], instrument: Instrument
) -> Sequence[int]:
    """What the instrument's market is called, today's name first; empty where nobody calls it anything."""
    names = exchanges.get(instrument.venue, {}).get(instrument.kind, ())
    return [contract.EXCHANGES[name.value] for name in names]


def fits(sort: Sort, instrument: Instrument) -> bool:
    """Whether such an instrument has points of that type."""
    return instrument.kind in sort.kinds and sort.cme in (None, instrument.venue == CME)
