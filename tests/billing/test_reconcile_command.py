"""`openoutcry reconcile`, as an operator runs it beside a server that has the same books open."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from sqlalchemy import URL

from openoutcry.app import LEDGER
from openoutcry.clock import SystemClock
from openoutcry.stores.sql import sqlite_url
from tests.billing.conftest import Parts
from tests.billing.stripe_fake import KEY, StripeFake


@pytest.fixture
def clock() -> SystemClock:
    """The command asks the machine what time it is."""
    return SystemClock()


@pytest.fixture
def books_url(tmp_path: Path) -> URL:
    return sqlite_url(tmp_path / LEDGER)


@pytest.fixture
def settings(fake: StripeFake) -> Mapping[str, str]:
    return os.environ | {"OPENOUTCRY_STRIPE__SECRET_KEY": KEY, "OPENOUTCRY_STRIPE__API_BASE": fake.url}


async def command(settings: Mapping[str, str], folder: Path, *more: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openoutcry", "reconcile", "--data", str(folder), *more),
        env=settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_what_was_found_is_printed(parts: Parts, settings: Mapping[str, str], tmp_path: Path) -> None:
    lost, told = await parts.begun("a", 512), await parts.begun("b")
    for id_ in (lost, told):
        parts.fake.pay(id_)
    await parts.tell("evt_1", "checkout.session.completed", parts.fake.sessions[told])
    foreign = parts.fake.begin()["id"]
    parts.fake.pay(foreign)
    status, out, _ = await command(settings, tmp_path)
    assert status == 0
    assert out.splitlines() == [
        f"credited: {lost}  5.12 USD, 512.000000 KAI to a",
        f"unknown: {foreign}  paid, and no checkout of ours",
        "1 credited, 1 credited already, 1 unknown, 0 refused",
    ]
    assert await parts.free("a") == 512_000_000
    status, out, _ = await command(settings, tmp_path, "--json")
    assert status == 0
    assert json.loads(out) == {"credited": [], "already": 2, "unknown": [foreign], "refused": [], "whole": True}
    assert await parts.free("a") == 512_000_000


async def test_what_is_wrong_is_said_and_the_key_never(
    parts: Parts, settings: Mapping[str, str], tmp_path: Path
) -> None:
    status, out, err = await command(settings, tmp_path / "mistyped")
    assert (status, out) == (2, "")
    assert "there are no books in" in err
    assert not (tmp_path / "mistyped").exists()
    unset = {name: value for name, value in settings.items() if "SECRET_KEY" not in name}
    status, _, err = await command(unset, tmp_path)
    assert status == 2
    assert "stripe.secret_key is not set" in err
    parts.fake.fail(401, "", None, "invalid_request_error")
    status, _, err = await command(settings, tmp_path)
    assert status == 2
    assert "Stripe does not serve us now" in err
    assert KEY not in err
    assert parts.fake.url not in err
