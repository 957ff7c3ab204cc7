"""Ids that begin with their time."""

import secrets
import uuid

from hypothesis import given
from hypothesis import strategies as st

from openoutcry.trading.ids import RANDOM_BYTES, time_ordered

MS = 1_000_000
_times = st.integers(0, 2**48 * MS - 1)


@given(_times, st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_an_id_is_a_uuid_that_begins_with_its_time(now_ns: int, chance: bytes) -> None:
    text = time_ordered(now_ns, lambda _: chance)
    told = uuid.UUID(text)
    assert str(told) == text
    assert (told.variant, told.int >> 76 & 0xF) == (uuid.RFC_4122, 7)
    assert told.int >> 80 == now_ns // MS


@given(_times, _times)
def test_later_ones_sort_behind(one_ns: int, other_ns: int) -> None:
    one, other = (time_ordered(each, secrets.token_bytes) for each in (one_ns, other_ns))
    if one_ns // MS != other_ns // MS:
        assert (one < other) is (one_ns < other_ns)


def test_no_two_are_the_same() -> None:
    assert len({time_ordered(5, secrets.token_bytes) for _ in range(10_000)}) == 10_000
