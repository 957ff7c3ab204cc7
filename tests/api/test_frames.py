"""Frames as a server sends them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from openoutcry.api.frames import REASON_BYTES_MAX, fitting, text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_frame_is_what_the_library_makes(size: Any) -> None:
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.text(max_size=200))
def test_a_reason_always_fits_a_close_frame(text: str) -> None:
    cut = fitting(text)
    assert len(cut.encode()) <= REASON_BYTES_MAX
    assert cut == text or cut.endswith("...")
