"""What the tests of several venues share: pages followed as the feed does, and values that look nearly right."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st

from openoutcry import errors
from openoutcry.venues.venue import Answer, Ask, Page, Venue
from tests.venues.pages import Pages, Serve, SpoilAnswer, SpoilFrame, walk

# Values that look nearly right, so that most of them come past the first check.
VALUES = st.one_of(
    st.sampled_from(
        [
            "NaN",
            "sNaN",
            "-Infinity",
            "0",
            "-0",
            "-1",
            "1e308",
            "1e-400",
            "1e999999",
            "9" * 40,
            "9" * 17,
            "",
            " 1",
            "1_0",
            "buy",
        ]
    ),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.fixture
def pages(answered: Callable[[Any], Answer]) -> Pages:
    """Asks page by page; `serve` plays the venue: path and query in, what the answer holds out.

    The file that uses it has a fixture `answered` that puts this into its venue's envelope.
    """

    def follow(venue: Venue, ask: Ask, serve: Serve) -> Iterator[Page]:
        return walk(venue, ask, lambda path, query: answered(serve(path, query)))

    return follow


@pytest.fixture(scope="session")
def spoil_frame() -> SpoilFrame:
    """Changes one value of a frame: it is refused, or what it says still makes sense."""

    def spoil(venue: Venue, frame: bytes, data: st.DataObject) -> None:
        try:
            said = venue.decode(_spoilt(frame, data), 7)
        except errors.Unreadable:
            return
        assert all(_sound(event) for event in said)

    return spoil


@pytest.fixture(scope="session")
def spoil_answer() -> SpoilAnswer:
    """Changes one value of an answer: it is refused in our words, or what it says still makes sense."""

    def spoil(venue: Venue, ask: Ask, answer: Answer, data: st.DataObject) -> None:
        body = _spoilt(answer.body, data)
        try:
            page = venue.page(ask, Answer(answer.status, answer.headers, body, answer.received_ns))
        except (errors.Unreadable, errors.Refusal):
            return
        assert all(_sound(event) for event in [*page.events, *page.instruments])

    return spoil


def _spoilt(text: bytes, data: st.DataObject) -> bytes:
    message = json.loads(text)
    holder, name = data.draw(st.sampled_from(_leaves(message)))
    holder[name] = data.draw(VALUES)
    return json.dumps(message, separators=(",", ":")).encode()


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for name, inner in rows:
        found += [(value, name), *(_leaves(inner) if isinstance(inner, dict | list) else ())]
    return found


def _sound(event: object) -> bool:
    """No event may carry what is no number, or a price or size that cannot be."""
    for name in getattr(event, "__struct_fields__", ()):
        value = getattr(event, name)
        if isinstance(value, int) and abs(value) >= 1 << 63:
            return False  # no store could hold it
        if isinstance(value, Decimal):
            signed = name in ("rate", "predicted")
            if not value.is_finite() or (value < 0 and not signed) or (name == "price" and not value):
                return False
    return True
