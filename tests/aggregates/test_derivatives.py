"""Bars of open interest, funding, liquidations and liquidation levels against all their samples sorted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal, Inexact
from functools import reduce

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.derivatives import DerivativeBar, Derivatives, Sample, interest_bars
from openoutcry.events import (
    INTERVALS_S,
    NS,
    WEEK_S,
    FundingBar,
    FundingRate,
    InterestBar,
    LevelsBar,
    Liquidation,
    LiquidationBar,
    LiquidationLevels,
    Ohlc,
    OpenInterest,
    PredictedFunding,
    Side,
    open_of,
)

NAME = "venue:X"
EXACT = Context(prec=200, traps=[Inexact])
MINUTE = 60 * NS
MONDAY = open_of(1_700_000_000 * NS, WEEK_S) + WEEK_S * NS
LONG_AGO = MONDAY - 3 * WEEK_S * NS
FAR = MONDAY + 3 * WEEK_S * NS
# Three neighbours, so that none is too late, at the end of every interval at once: what is predicted comes 7 ns later and
# still in time.
TIMES = st.sampled_from([MONDAY + n * MINUTE + ns for n in (-1, 0, 1) for ns in (0, 1, MINUTE - 8)])


def interest(
    event_ns: int, size: int, value: int | None = None, late_ns: int = 0, price: int | None = None
) -> OpenInterest:
    told = None if value is None else Decimal(value)
    beside = None if price is None else Decimal(price)
    return OpenInterest(NAME, event_ns, event_ns + late_ns, Decimal(size), told, None, beside)


def rate(
    event_ns: int, percent: int, *, settled: bool = False, late_ns: int = 0, predicted: int | None = None
) -> FundingRate:
    after = None if predicted is None else Decimal(predicted) / 100
    return FundingRate(NAME, event_ns, event_ns + late_ns, Decimal(percent) / 100, event_ns, 28_800, settled, after)


def predicted(event_ns: int, percent: int) -> PredictedFunding:
    # A nanosecond after whatever else was told then, so that the order is known.
    return PredictedFunding(NAME, "X", "Toy", event_ns + 7, Decimal(percent) / 100, None, None, own=True)


def levels(event_ns: int, prices: list[int], late_ns: int = 0) -> LiquidationLevels:
    return LiquidationLevels(NAME, event_ns, event_ns + late_ns, tuple((Decimal(p), Decimal(1)) for p in prices))


def at(sample: Sample) -> tuple[int, int]:
    event_ns = sample.received_ns if isinstance(sample, PredictedFunding) else sample.event_ns
    return event_ns, sample.received_ns


def ohlc(numbers: list[Decimal]) -> Ohlc | None:
    return (numbers[0], max(numbers), min(numbers), numbers[-1]) if numbers else None


def liquidation(
    event_ns: int, side: Side, size: str = "0.1", price: str = "3", value: str | None = None
) -> Liquidation:
    told = None if value is None else Decimal(value)
    return Liquidation(NAME, event_ns, event_ns, "", side, Decimal(price), Decimal(size), told)


SAMPLES = st.lists(
    st.one_of(
        st.builds(
            interest,
            TIMES,
            st.integers(1, 3),
            st.none() | st.integers(1, 2),
            st.sampled_from((0, 5)),
            st.none() | st.integers(1, 3),
        ),
        st.builds(
            rate,
            TIMES,
            st.integers(-2, 2),
            settled=st.booleans(),
            late_ns=st.sampled_from((0, 5)),
            predicted=st.none() | st.integers(-2, 2),
        ),
        st.builds(predicted, TIMES, st.integers(-2, 2)),
        st.builds(levels, TIMES, st.lists(st.integers(1, 9), max_size=2), st.sampled_from((0, 5))),
        st.builds(
            liquidation,
            TIMES,
            st.sampled_from((Side.BUY, Side.SELL)),
            st.sampled_from(("0.1", "123456789012345678.000000000001")),
            value=st.sampled_from((None, "7")),
        ),
    ),
    max_size=15,
    # Equal times and arrivals have no order of their own.
    unique_by=lambda s: (type(s), at(s), getattr(s, "side", None)),
)
Key = tuple[type, int, int, Side | None]


def key(bar: DerivativeBar) -> Key:
    return type(bar), bar.interval_s, bar.open_ns, getattr(bar, "side", None)


def exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, numbers, Decimal(0))


def naive(samples: Sequence[Sample], *, closed: bool = True) -> dict[Key, DerivativeBar]:
    bars: dict[Key, DerivativeBar] = {}
    ordered = sorted(samples, key=at)
    for interval_s in INTERVALS_S:
        for open_ns in {open_of(at(s)[0], interval_s) for s in samples}:
            inside = [s for s in ordered if open_of(at(s)[0], interval_s) == open_ns]
            for bar in naive_bars(inside, interval_s, open_ns, closed=closed):
                bars[key(bar)] = bar
    return bars


def naive_bars(inside: Sequence[Sample], interval_s: int, open_ns: int, *, closed: bool) -> Iterable[DerivativeBar]:
    interests = [s for s in inside if isinstance(s, OpenInterest)]
    if interests:
        sizes = [s.size for s in interests]
        told = [s.value for s in interests if s.value is not None]
        yield InterestBar(
            NAME, interval_s, open_ns, sizes[0], max(sizes), min(sizes), sizes[-1], told[-1] if told else None,
            closed, max(s.received_ns for s in interests),
            ohlc([s.value for s in interests if s.value is not None and s.price is not None]),
            ohlc([s.price for s in interests if s.price is not None]),
        )  # fmt: skip
    rates = [s for s in inside if isinstance(s, FundingRate)]
    told_after = [s.rate if isinstance(s, PredictedFunding) else s.predicted for s in inside
                  if isinstance(s, FundingRate | PredictedFunding)]  # fmt: skip
    after = [number for number in told_after if number is not None]
    if told_after:
        paid = [s for s in rates if s.settled]
        running = [s.rate for s in rates if not s.settled] or [s.rate for s in paid[-1:]] or after
        yield FundingBar(
            NAME, interval_s, open_ns, running[0], max(running), min(running), running[-1],
            paid[-1].rate if paid else None, paid[-1].funding_ns if paid else None,
            closed, max(s.received_ns for s in inside if isinstance(s, FundingRate | PredictedFunding)), ohlc(after),
        )  # fmt: skip
    maps = [s for s in inside if isinstance(s, LiquidationLevels)]
    if maps:
        yield LevelsBar(NAME, interval_s, open_ns, maps[-1].levels, closed, maps[-1].received_ns)
    for side in (Side.BUY, Side.SELL):
        forced = [s for s in inside if isinstance(s, Liquidation) and s.side is side]
        if forced:
            yield LiquidationBar(
                NAME, side, interval_s, open_ns, exact_sum(s.size for s in forced),
                exact_sum(EXACT.multiply(s.price, s.size) if s.value is None else s.value for s in forced),
                len(forced), closed, max(s.received_ns for s in forced),
            )  # fmt: skip


def followed() -> Derivatives:
    derivatives = Derivatives()
    for kind in (InterestBar, FundingBar, LiquidationBar, LevelsBar):
        derivatives.follow(kind, NAME, LONG_AGO)
    return derivatives


@given(SAMPLES, st.data())
def test_closed_bars_equal_their_samples_sorted_after_any_order_of_arrival(
    samples: list[Sample], data: st.DataObject
) -> None:
    derivatives = followed()
    published: list[DerivativeBar] = []
    arrived = data.draw(st.permutations(samples))
    # Of settled rates that share a time, the one that came last counts: keep one each.
    for sample in arrived:
        if data.draw(st.booleans()):
            published += derivatives.on_time("venue", data.draw(TIMES) + 2 * NS)
        published += derivatives.on_sample(sample)
    published += derivatives.on_time("venue", FAR)
    paid: dict[int, Sample] = {s.event_ns: s for s in arrived if isinstance(s, FundingRate) and s.settled}
    truth = naive([s for s in samples if not (isinstance(s, FundingRate) and s.settled and paid[s.event_ns] is not s)])
    got = {key(bar): bar for bar in published}
    assert got.keys() == truth.keys()
    for at, bar in truth.items():
        mine = got[at]
        if isinstance(bar, FundingBar) and isinstance(mine, FundingBar):
            assert mine.received_ns >= bar.received_ns
            assert (mine.open, mine.high, mine.low, mine.close, mine.settled, mine.funding_ns) == (
                bar.open, bar.high, bar.low, bar.close, bar.settled, bar.funding_ns,
            )  # fmt: skip
        else:
            assert mine == bar


@given(SAMPLES, st.sampled_from([LONG_AGO, MONDAY, MONDAY + MINUTE, FAR]), st.data())
def test_bars_of_samples_that_are_all_there_equal_them_sorted(
    samples: list[Sample], until_ns: int, data: st.DataObject
) -> None:
    told = [s for s in samples if isinstance(s, OpenInterest)]
    truth = {name: bar for name, bar in naive(told).items() if isinstance(bar, InterestBar)}
    for interval_s in INTERVALS_S:
        bars = interest_bars(data.draw(st.permutations(told)), interval_s, until_ns)
        assert [bar.open_ns for bar in bars] == sorted({open_of(s.event_ns, interval_s) for s in told})
        for bar in bars:
            assert bar.closed is (bar.open_ns + interval_s * NS <= until_ns)
            assert msgspec.structs.replace(bar, closed=True) == truth[key(bar)]


@given(SAMPLES)
def test_growing_bars_are_those_of_the_newest_sample(samples: list[Sample]) -> None:
    derivatives = followed()
    forced: list[Sample] = [s for s in samples if isinstance(s, Liquidation)]
    for sample in forced:
        derivatives.on_sample(sample)
    for side in (Side.BUY, Side.SELL):
        times = [s.event_ns for s in forced if isinstance(s, Liquidation) and s.side is side]
        for interval_s in INTERVALS_S:
            truth = naive(forced, closed=False)
            grown = derivatives.growing(LiquidationBar, NAME, interval_s, side)
            newest_ns = open_of(max(times), interval_s) if times else 0
            assert grown == truth.get((LiquidationBar, interval_s, newest_ns, side))


def test_an_interval_without_a_sample_has_no_bar() -> None:
    derivatives = followed()
    derivatives.on_sample(interest(MONDAY, 5))
    derivatives.on_sample(interest(MONDAY + 3 * MINUTE, 6))
    closed = derivatives.on_time("venue", MONDAY + 4 * MINUTE + NS)
    assert [(bar.open_ns - MONDAY) // MINUTE for bar in closed] == [0, 3]


def test_bars_that_began_before_the_first_sample_are_not_returned() -> None:
    derivatives = Derivatives()
    derivatives.on_sample(interest(MONDAY + 1, 5))
    derivatives.on_sample(interest(MONDAY + MINUTE, 6))
    closed = derivatives.on_time("venue", FAR)
    assert [(bar.interval_s, bar.open_ns) for bar in closed] == [(60, MONDAY + MINUTE)]


def test_a_seed_lets_growing_bars_go_on() -> None:
    before = followed()
    for sample in (interest(MONDAY, 5, 50), rate(MONDAY, 1), liquidation(MONDAY, Side.SELL)):
        before.on_sample(sample)
    kinds: list[tuple[type[DerivativeBar], Side]] = [
        (InterestBar, Side.BOTH), (FundingBar, Side.BOTH), (LiquidationBar, Side.SELL),
    ]  # fmt: skip
    bars = [before.growing(kind, NAME, interval_s, side) for kind, side in kinds for interval_s in INTERVALS_S]
    after = Derivatives()
    after.seed([bar for bar in bars if bar is not None])
    more = (interest(MONDAY + MINUTE, 3), rate(MONDAY + MINUTE, 2), liquidation(MONDAY + MINUTE, Side.SELL))
    for sample in more:
        before.on_sample(sample)
        after.on_sample(sample)
    for kind, side in kinds:
        for interval_s in INTERVALS_S:
            assert after.growing(kind, NAME, interval_s, side) == before.growing(kind, NAME, interval_s, side)


def test_a_late_sample_corrects_and_one_far_too_late_is_counted() -> None:
    derivatives = Derivatives(bars_kept=2)
    derivatives.follow(InterestBar, NAME, LONG_AGO)
    for n in range(4):
        derivatives.on_sample(interest(MONDAY + n * MINUTE, 5))
    derivatives.on_time("venue", MONDAY + 4 * MINUTE + NS)
    corrected = derivatives.on_sample(interest(MONDAY + 2 * MINUTE + 1, 9))
    assert [(bar.interval_s, bar.closed) for bar in corrected] == [(60, True)]
    derivatives.on_sample(interest(MONDAY, 9))
    assert derivatives.counts == Counter({"corrected": 1, "too_late": 1})


@pytest.mark.parametrize(
    ("sample", "count"),
    [
        (liquidation(MONDAY, Side.SELL, size="1E+500"), "unsummable"),
        (liquidation(MONDAY, Side.SELL, price="1E-500"), "unsummable"),
        (interest(MONDAY, 1, late_ns=-7_200 * NS), "ahead"),
    ],
)
def test_hostile_samples_are_counted_and_change_nothing(sample: Sample, count: str) -> None:
    derivatives = followed()
    assert derivatives.on_sample(sample) == ()
    assert derivatives.counts == Counter({count: 1})
    assert derivatives.on_time("venue", FAR) == []


def test_series_are_bounded_and_can_be_dropped() -> None:
    derivatives = Derivatives(series_max=1)
    derivatives.on_sample(interest(MONDAY, 1))
    derivatives.on_sample(rate(MONDAY, 1))
    assert derivatives.counts == Counter({"series_full": 1})
    assert derivatives.touched() == {NAME}
    derivatives.drop(NAME)
    assert len(derivatives) == 0
    assert derivatives.growing(InterestBar, NAME, 60) is None
    assert derivatives.on_time("venue", FAR) == []
