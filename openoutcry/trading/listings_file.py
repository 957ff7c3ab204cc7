"""Listings from TOML: a file of the operator's, and what the demo trades."""

import tomllib
from importlib import resources
from pathlib import Path

from openoutcry.config import BadConfig
from openoutcry.errors import Invalid
from openoutcry.trading.listings import Listings

# Hundreds of pairs are some 100 kB.
FILE_BYTES_MAX = 10_000_000


def read(file: Path) -> Listings:
    """What the file lists. Raises BadConfig, which names the file and the place in it."""
    try:
        with file.open("rb") as opened:
            told = opened.read(FILE_BYTES_MAX + 1)
        if len(told) > FILE_BYTES_MAX:
            raise BadConfig(f"{file}: more than {FILE_BYTES_MAX:,} bytes")
        return Listings.of(tomllib.loads(told.decode()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise BadConfig(f"{file}: {e}") from e
    except Invalid as e:
        raise BadConfig(f"{file}: {e.text}") from e


def demo() -> Listings:
    """What the demo trades."""
    return Listings.of(tomllib.loads(resources.files("openoutcry.trading").joinpath("demo.toml").read_text("utf-8")))
