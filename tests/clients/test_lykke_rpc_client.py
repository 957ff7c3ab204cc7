"""A client in a process of its own, with stubs of its own, trades over plaintext and over TLS."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from openoutcry.api.certificate import self_signed
from openoutcry.clock import SystemClock
from tests.api.lykke_rpc_world import floor, generated

CLIENT = Path(__file__).with_name("lykke_client.py")


@pytest.mark.parametrize("secure", [False, True], ids=["plaintext", "tls"])
async def test_a_client_with_generated_stubs_trades(tmp_path: Path, secure: bool) -> None:
    made = self_signed(["localhost", "127.0.0.1"], 1, SystemClock().now_ns()) if secure else None
    config: dict[str, Any] = {} if made is None else {"tls": (made.key, made.certificate)}
    certificate = tmp_path / "certificate.pem"
    if made is not None:
        certificate.write_bytes(made.certificate)
    async with floor(tmp_path, **config) as at:
        bob = await at.account("bob")
        await at.gateway.move("b", bob, "BTC", at.gateway.listings.pairs["BTCUSD"].volume(20_000_000))
        await at.gateway.limit(
            bob,
            "BTCUSD",
            buys=False,
            volume=at.gateway.listings.pairs["BTCUSD"].volume(20_000_000),
            price=at.gateway.listings.pairs["BTCUSD"].price(100_000),
        )
        ann = await at.account("ann")
        await at.gateway.move("a", ann, "USD", at.gateway.listings.assets["USD"].amount(100_000))
        _, key = await at.keys.create("ann", ["trade"], ann)
        command = [sys.executable, str(CLIENT), at.at, key, *([str(certificate)] if secure else [])]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, "PYTHONPATH": generated()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                said, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
    told = {step["step"]: step["told"] for step in map(json.loads, said.splitlines())}
    refused, id_ = told.pop("placed")
    assert not refused
    assert told == {
        "alive": "openoutcry",
        "book": [[], [["100", "-0.2"]]],
        "delta": [[["100.1", "0.3"]], [["100", "0"]]],
        "trade": [id_, "Taker", "0.2", "100", 0],
        "refused": [False, 1100, "Asset pair not found"],
        "cancelled": [False, True],
        "gone": [[["100.1", "0"]], []],
        "balances": [["BTC", "0.2", "0"], ["USD", "980", "0"]],
    }
