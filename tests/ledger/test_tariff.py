"""Prices: rounded once, up; what is held, paid and told agree; a balance affords what it pays for and not one token more."""

from decimal import ROUND_CEILING, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.errors import Invalid
from openoutcry.ledger.tariff import Cost, Tariff

PRICES = st.decimals(0, 1_000, allow_nan=False, places=6)
# Few tokens at odd prices: that is where a rounding shows.
TOKENS = st.integers(0, 40) | st.integers(0, 10**7)
TARIFFS = st.builds(
    Tariff,
    usd_per_1k_in=PRICES,
    usd_per_1k_out=PRICES,
    fee_multiplier=st.decimals("0.01", 100, places=2),
    kai_usd=st.decimals("0.000001", 1_000, places=6),
)


def tariff(per_in: str = "0.0002", per_out: str = "0.0006", fee: str = "1.1", kai: str = "0.01") -> Tariff:
    return Tariff.read(f"{per_in} {per_out} {fee} {kai}")


def test_a_cost_is_told_with_what_it_is_made_of() -> None:
    # 12 in, 200 out: 0.1224 thousandths of a USD, 0.013464 KAI.
    assert tariff().cost(12, 200) == Cost(
        llm_usd=Decimal("0.0001224"),
        fee_multiplier=Decimal("1.1"),
        total_usd=Decimal("0.00013464"),
        micros=13_464,
        kai_usd=Decimal("0.01"),
    )


@pytest.mark.parametrize(
    ("prices", "tokens", "micros"),
    [
        # One token of each: 0.1 and 0.1 micros are one micro together, not one each.
        (("0.000001", "0.000001", "1", "0.01"), (1, 1), 1),
        # Exactly whole is not one more; a float would make 1.1 * 3 more than 3.3.
        (("0.00001", "0", "1.1", "0.011"), (3, 0), 3),
        (("0.00001", "0", "1.1", "0.011"), (0, 9), 0),
        (("0", "0", "1.1", "0.01"), (10**6, 10**6), 0),
        (("0.0002", "0.0006", "1.1", "0.03"), (1, 0), 8),
    ],
)
def test_it_is_rounded_once_and_up(prices: tuple[str, str, str, str], tokens: tuple[int, int], micros: int) -> None:
    assert tariff(*prices).cost(*tokens).micros == micros


@given(TARIFFS, TOKENS, TOKENS)
def test_what_is_told_is_what_is_paid(prices: Tariff, tokens_in: int, tokens_out: int) -> None:
    cost = prices.cost(tokens_in, tokens_out)
    with localcontext(prec=120):
        usd = (tokens_in * prices.usd_per_1k_in + tokens_out * prices.usd_per_1k_out) / 1_000
        assert (cost.llm_usd, cost.total_usd) == (usd, usd * prices.fee_multiplier)
        exact = cost.total_usd * 1_000_000 / prices.kai_usd
        assert cost.micros == int(exact.to_integral_value(ROUND_CEILING))


@given(TARIFFS, TOKENS, st.integers(0, 10**12), st.integers(0, 8_192))
def test_a_balance_affords_what_it_pays_for_and_not_one_more(
    prices: Tariff, tokens_in: int, micros: int, most: int
) -> None:
    affords = prices.affords(micros, tokens_in, most)
    assert 0 <= affords <= most
    if prices.cost(tokens_in, 0).micros <= micros:
        assert prices.cost(tokens_in, affords).micros <= micros
        assert affords == most or prices.cost(tokens_in, affords + 1).micros > micros
    else:
        assert affords == 0


@given(TARIFFS)
def test_a_tariff_is_kept_as_text(prices: Tariff) -> None:
    assert Tariff.read(prices.text) == prices


@pytest.mark.parametrize(
    "text", ["", "1 1 1", "1 1 1 0", "1 1 1 NaN", "1 1 -1 1", "a b c d", "1 1 1 1 1", "1 Infinity 1 1"]
)
def test_what_is_no_tariff_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        Tariff.read(text)
