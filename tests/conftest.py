"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of shared recordings; tests that need it skip where it is absent."""
    named = os.environ.get("RECORDINGS")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip("no recordings: set RECORDINGS to the folder that holds frames/ and candles/")
    return folder
