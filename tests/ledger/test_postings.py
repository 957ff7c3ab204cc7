"""What is malformed cannot be made."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from openoutcry.errors import Invalid
from openoutcry.ledger.postings import FEES, ISSUANCE, Hold, Posting, Release, Settle, Transfer
from openoutcry.money import AMOUNT_MAX


def moved(*amounts: int, asset: str = "KAI") -> tuple[Posting, ...]:
    return tuple(Posting(f"o{n}", asset, amount) for n, amount in enumerate(amounts))


def test_what_nets_to_zero_in_each_asset_is_a_transfer() -> None:
    postings = moved(-5, 3, 2) + moved(7, -7, asset="USD")
    assert Transfer("t", postings, "why - because ✓").postings == postings


@pytest.mark.parametrize(
    "make",
    [
        lambda: Transfer("t", ()),
        lambda: Transfer("t", moved(5)),
        lambda: Transfer("t", moved(-5, 4)),
        lambda: Transfer("t", (Posting("a", "KAI", -5), Posting("b", "USD", 5))),
        lambda: Transfer("t", (Posting("a", "KAI", -5), Posting("a", "KAI", 5))),
        lambda: Transfer("t", moved(*[1, -1] * 51)),
        lambda: Transfer("", moved(-5, 5)),
        lambda: Transfer("a b", moved(-5, 5)),
        lambda: Transfer("t\n", moved(-5, 5)),
        lambda: Transfer("t" * 201, moved(-5, 5)),
        lambda: Transfer("t", moved(-5, 5), "two\nlines"),
        lambda: Transfer("t", moved(-5, 5), "x" * 201),
        lambda: Transfer("t", moved(-5, 5), "\ud800"),
        lambda: Posting("a", "KAI", 0),
        lambda: Posting("a", "KAI", AMOUNT_MAX + 1),
        lambda: Posting("a", "KAI", cast("int", 1.0)),
        lambda: Posting("a", "KAI", True),
        lambda: Posting("a", "KAI", cast("int", "1")),
        lambda: Posting("é", "KAI", 1),
        lambda: Posting("a\0", "KAI", 1),
        lambda: Posting("a", "", 1),
        lambda: Posting(cast("str", None), "KAI", 1),
        lambda: Hold("h", "a", "KAI", 0, 1),
        lambda: Hold("h", "a", "KAI", -1, 1),
        lambda: Hold("h", "a", "KAI", AMOUNT_MAX + 1, 1),
        lambda: Hold("h", "a", "KAI", 1, -1),
        lambda: Hold("h", "a", "KAI", 1, 2**63),
        lambda: Hold("h", "a", "KAI", 1, cast("int", 0.5)),
        lambda: Hold("h", ISSUANCE, "KAI", 1, 1),
        lambda: Settle("h", -1),
        lambda: Settle("h", AMOUNT_MAX + 1),
        lambda: Settle("h", cast("int", float("nan"))),
        lambda: Settle("h", 1, "no owner"),
        lambda: Settle("h settle", 1, FEES),
        lambda: Release(" "),
    ],
)
def test_what_is_malformed_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(Invalid):
        make()
