"""Liquidation levels against adding up the newest positions of all holders anew."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.aggregates.levels import PRICE_DIGITS, Levels, level_price
from openoutcry.events import NS, LiquidationLevels, Position, Positions

MINUTE_NS = 60 * NS
NOW_NS = 1_700_000_040 * NS  # a minute opens
VENUE = "venue:*"


def holds(holder: str, *positions: tuple[str, str, str | None], event_ns: int = NOW_NS) -> Positions:
    told = tuple(
        Position(f"venue:{coin}", Decimal(size), None if price is None else Decimal(price))
        for coin, size, price in positions
    )
    return Positions(VENUE, holder, event_ns, event_ns + 5, told)


def shown(levels: Sequence[LiquidationLevels]) -> dict[str, list[tuple[str, str]]]:
    return {each.instrument: [(f"{price}", f"{size}") for price, size in each.levels] for each in levels}


def test_longs_and_shorts_are_added_up_at_the_price_that_ends_them() -> None:
    levels = Levels()
    (first,) = levels.on_positions(holds("a", ("BTC", "1.5", "99994")))
    assert first == LiquidationLevels("venue:BTC", NOW_NS, NOW_NS + 5, ((Decimal(99990), Decimal("1.5")),))
    told = levels.on_positions(holds("b", ("BTC", "-0.5", "99991.7"), ("ETH", "-3", "5000")))
    assert shown(told) == {"venue:BTC": [("99990", "2.0")], "venue:ETH": [("5000", "3")]}


def test_levels_are_told_by_price() -> None:
    levels = Levels()
    levels.on_positions(holds("a", ("BTC", "1", "90000")))
    levels.on_positions(holds("b", ("BTC", "1", "7000")))
    assert shown(levels.on_positions(holds("c", ("BTC", "1", "120000"))))["venue:BTC"] == [
        ("7000", "1"),
        ("90000", "1"),
        ("120000", "1"),
    ]


def test_an_instrument_whose_last_position_went_is_told_empty_once() -> None:
    levels = Levels()
    levels.on_positions(holds("a", ("BTC", "1", "90000"), ("ETH", "1", "2000")))
    gone = levels.on_positions(holds("a", ("ETH", "1", "2000"), event_ns=NOW_NS + 1))
    assert shown(gone) == {"venue:BTC": []}
    assert levels.on_positions(holds("a", ("ETH", "1", "2000"), event_ns=NOW_NS + 2)) == []
    later = levels.on_positions(holds("a", ("ETH", "1", "2000"), event_ns=NOW_NS + MINUTE_NS))
    assert shown(later) == {"venue:ETH": [("2000", "1")]}


def test_a_position_that_no_price_ends_makes_no_level() -> None:
    assert Levels().on_positions(holds("a", ("BTC", "1", None))) == []


def test_what_did_not_move_is_told_again_in_the_next_minute_only() -> None:
    levels = Levels()
    same = ("BTC", "1", "90000")
    assert len(levels.on_positions(holds("a", same))) == 1
    assert levels.on_positions(holds("a", same, event_ns=NOW_NS + MINUTE_NS - 1)) == []
    (again,) = levels.on_positions(holds("a", same, event_ns=NOW_NS + MINUTE_NS))
    assert again.event_ns == NOW_NS + MINUTE_NS


def test_an_older_answer_of_a_holder_is_left_out() -> None:
    levels = Levels()
    levels.on_positions(holds("a", ("BTC", "1", "90000")))
    assert levels.on_positions(holds("a", ("BTC", "2", "90000"), event_ns=NOW_NS - 1)) == ()
    assert levels.counts["old"] == 1
    # Of another holder it is no older than anything.
    (told,) = levels.on_positions(holds("b", ("BTC", "2", "90000"), event_ns=NOW_NS - 1))
    assert told.levels == ((Decimal(90000), Decimal(3)),)
    assert told.event_ns == NOW_NS


def test_an_answer_of_next_century_does_not_make_every_later_one_old() -> None:
    levels = Levels()
    late = Positions(VENUE, "a", NOW_NS + 3_601 * NS, NOW_NS, (Position("venue:BTC", Decimal(1), Decimal(5)),))
    assert levels.on_positions(late) == ()
    assert levels.counts["ahead"] == 1
    assert len(levels.on_positions(holds("a", ("BTC", "1", "90000")))) == 1


def test_holders_beyond_the_limit_are_left_out_and_counted() -> None:
    levels = Levels(holders_max=2)
    for holder in ("a", "b"):
        levels.on_positions(holds(holder, ("BTC", "1", "90000")))
    assert levels.on_positions(holds("c", ("BTC", "1", "90000"))) == ()
    assert (levels.counts["full"], len(levels)) == (1, 2)
    (told,) = levels.on_positions(holds("a", ("BTC", "3", "90000")))
    assert told.levels == ((Decimal(90000), Decimal(4)),)


@pytest.mark.parametrize("size", ["1e70", "1e-70", "1." + "3" * 101])
def test_sizes_that_no_sum_can_hold_are_left_out_and_counted(size: str) -> None:
    levels = Levels()
    assert levels.on_positions(holds("a", ("BTC", size, "90000"))) == ()
    assert levels.counts["unsummable"] == 1


@pytest.mark.parametrize(
    ("price", "level"),
    [
        ("99994", "99990"),
        ("12345", "12340"),  # half to even
        ("12355", "12360"),
        ("99995", "100000"),
        ("1234.5", "1234"),
        ("0.0000123456", "0.00001235"),
        ("50", "50"),
        ("1e18", "1000000000000000000"),
    ],
)
def test_a_level_has_four_digits_and_is_written_out(price: str, level: str) -> None:
    assert PRICE_DIGITS == 4
    assert str(level_price(Decimal(price))) == level


# Few holders, coins, prices and moments, so that levels are shared, emptied and answers come out of order; sizes of so many
# digits that a sum which rounds shows.
SIZES = st.sampled_from(["1", "-1", "2.5", "-2.5", "1234567890123456.123456789012345678", "0.000000000000000001"])
HELD = st.dictionaries(
    st.sampled_from(["BTC", "ETH"]),
    st.tuples(SIZES, st.sampled_from([None, "90000", "90004", "90006", "5"])),
)
ANSWERS = st.lists(
    st.tuples(st.sampled_from("abc"), HELD, st.sampled_from([0, 1, 2, MINUTE_NS])), max_size=12
)  # fmt: skip


def obvious(newest: dict[str, Positions]) -> dict[str, list[tuple[Fraction, Fraction]]]:
    sums: dict[str, dict[Fraction, Fraction]] = {}
    for answer in newest.values():
        for each in answer.positions:
            if each.liquidation is not None:
                price = Fraction(f"{each.liquidation:.4g}")
                at = sums.setdefault(each.instrument, {})
                at[price] = at.get(price, Fraction(0)) + abs(Fraction(each.size))
    return {name: sorted(at.items()) for name, at in sums.items()}


@given(ANSWERS)
def test_levels_equal_adding_up_the_newest_of_all_holders(
    answers: list[tuple[str, dict[str, tuple[str, str | None]], int]],
) -> None:
    levels, newest = Levels(), dict[str, Positions]()
    before: dict[str, list[tuple[Fraction, Fraction]]] = {}
    for holder, held, after_ns in answers:
        answer = holds(holder, *[(coin, *what) for coin, what in held.items()], event_ns=NOW_NS + after_ns)
        told = levels.on_positions(answer)
        if holder not in newest or newest[holder].event_ns <= answer.event_ns:
            newest[holder] = answer
        now = obvious(newest)
        changed = {name for name in {*now, *before} if now.get(name, []) != before.get(name, [])}
        assert changed <= {each.instrument for each in told}
        for each in told:
            assert [(Fraction(price), Fraction(size)) for price, size in each.levels] == now.get(each.instrument, [])
        before = now
