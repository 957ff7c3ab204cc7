"""Times fall into the intervals the venues use."""

from datetime import UTC, datetime

import pytest

from openoutcry.events import INTERVALS_S, NS, open_of


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


@pytest.mark.parametrize(
    ("interval_s", "opens"),
    [
        (60, "2025-06-04T13:37:00"),
        (300, "2025-06-04T13:35:00"),
        (900, "2025-06-04T13:30:00"),
        (3_600, "2025-06-04T13:00:00"),
        (14_400, "2025-06-04T12:00:00"),
        (86_400, "2025-06-04T00:00:00"),
        (604_800, "2025-06-02T00:00:00"),  # a Monday
    ],
)
def test_an_interval_opens_where_the_venues_open_it(interval_s: int, opens: str) -> None:
    assert open_of(at("2025-06-04T13:37:59") + 999_999_999, interval_s) == at(opens)


@pytest.mark.parametrize("interval_s", INTERVALS_S)
def test_an_opening_time_is_its_own_opening(interval_s: int) -> None:
    opening = open_of(at("2025-06-04T13:37:59"), interval_s)
    assert open_of(opening, interval_s) == opening
    assert open_of(opening - 1, interval_s) == opening - interval_s * NS
