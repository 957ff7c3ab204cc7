"""What HyperORU's callers write, and what it means."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.api.hyperoru import query
from openoutcry.api.hyperoru.wire import No, time_text
from openoutcry.clock import NS

APRIL_S = 1_775_001_600  # 2026-04-01T00:00:00Z


@pytest.mark.parametrize(
    ("written", "expected_s"),
    [
        ("2026-04-01", APRIL_S),
        ("20260401", APRIL_S),
        (" 2026-04-01 ", APRIL_S),
        ("2026-04-01T00:00:00Z", APRIL_S),
        ("2026-04-01T00:00:00", APRIL_S),
        ("2026-04-01 00:00", APRIL_S),
        ("2026-04-01T02:00:00+02:00", APRIL_S),
        ("2026-04-01T02:00:00+0200", APRIL_S),
        # A plus that a query turned into a blank.
        ("2026-04-01T02:00:00 02:00", APRIL_S),
        ("2026-03-31T19:00:00-05:00", APRIL_S),
        ("2026-04-01T00:00:00.250Z", APRIL_S + 0.25),
        ("2026-04-01T00:00:00,5+00:00", APRIL_S + 0.5),
        (APRIL_S, APRIL_S),
        (APRIL_S * 1_000, APRIL_S),
        (APRIL_S + 0.5, APRIL_S + 0.5),
        (float(APRIL_S), APRIL_S),
        (str(APRIL_S), APRIL_S),
        (f"{APRIL_S}250", APRIL_S + 0.25),
        (f"{APRIL_S}.125", APRIL_S + 0.125),
        ("0", 0),
        (0, 0),
        (-1, -1),
        ("1678-01-01", -9_214_560_000),
        ("2261-12-31T23:59:59Z", 9_214_646_399),
    ],
)
def test_times_are_iso_8601_or_epoch_seconds_or_milliseconds(written: Any, expected_s: float) -> None:
    whole, part = divmod(expected_s, 1)
    assert query.time_ns("start", written) == int(whole) * NS + int(part * NS)


@pytest.mark.parametrize(
    "written",
    [
        *("x", "-", "2026-13-01", "2026-02-30", "2026-4-1", "01/04/2026", "2026-04-01T25:00", "2026-04-01Z00", "1e9"),
        *(
            "NaN",
            "inf",
            "2026-04-0\N{ARABIC-INDIC DIGIT ONE}",
            "2026-04-01T00:00:00+99:00",
            "1677-12-31",
            "2262-01-01",
            "0001-01-01",
            "9" * 20,
        ),
        *(
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00+23:59",
            10**14,
            -(10**13),
            1e300,
            float("nan"),
            "9" * 5_000,
        ),
    ],
)
def test_what_is_no_time_is_invalid(written: Any) -> None:
    with pytest.raises(No) as refused:
        query.time_ns("start", written)
    assert (refused.value.status, refused.value.code) == (400, "INVALID_TIME")
    assert refused.value.text.startswith("start '")
    assert len(refused.value.text) < 200


@pytest.mark.parametrize("written", [True, [], {}, ["2026-04-01"]])
def test_what_cannot_be_a_time_is_of_the_wrong_type(written: Any) -> None:
    with pytest.raises(No) as refused:
        query.time_ns("start", written)
    assert refused.value.code == "INVALID_TYPE"


@given(st.datetimes(datetime(1678, 1, 2), datetime(2261, 12, 30), timezones=st.timezones()))
def test_every_time_is_read_as_it_was_written(at: datetime) -> None:
    micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert query.time_ns("start", at.isoformat()) == micros * 1_000


@given(st.integers(-9_214_560_000, 9_214_646_399))
def test_a_time_that_was_told_is_read_back(seconds: int) -> None:
    assert query.time_ns("start", time_text(seconds * NS)) == seconds * NS


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:]{4,8}([-+][0-9:]+)?"))
def test_whatever_is_written_is_a_time_or_invalid(written: str) -> None:
    found: int | str
    try:
        found = query.time_ns("start", written)
    except No as e:
        found = e.code
    assert found == "INVALID_TIME" or (isinstance(found, int) and query.BEGIN_NS <= found < query.END_NS)


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_whatever_a_body_holds_it_is_an_object_or_refused(body: bytes) -> None:
    found: object
    try:
        found = query.members(None, body)
    except No as e:
        found = e.code
    assert found == "INVALID_JSON" or isinstance(found, dict)
