"""Makers and takers trade over gRPC as anybody does: the same calls, a key each, a server that may go away."""

import asyncio
import random
from decimal import Decimal
from pathlib import Path

import pytest

from openoutcry.api.lykke.client import Client
from openoutcry.errors import Unauthenticated, Unavailable
from openoutcry.orders import Code
from openoutcry.simulator.traders import Direct, Traders, Walk, furnish
from openoutcry.trading.gateway import Rejected, Wanted
from tests.api.lykke_rpc_world import Floor, floor


async def _key(world: Floor, name: str) -> tuple[str, str]:
    account = await world.account(name)
    await furnish(world.gateway, [account], world.gateway.listings)
    return account, (await world.keys.create(name, ["trade"], account))[1]


async def test_it_says_what_the_gateway_says(tmp_path: Path) -> None:
    async with floor(tmp_path) as world:
        account, key = await _key(world, "anna")
        other, other_key = await _key(world, "bert")
        client, direct = Client(world.at, key), Direct(world.gateway, account)
        assert await client.pairs() == await direct.pairs()
        assert await client.price("BTCUSD") == await direct.price("BTCUSD") == (None, None)
        pair = next(each for each in await client.pairs() if each.id == "BTCUSD")
        lot = pair.volume_min
        first = await client.bulk(
            "BTCUSD",
            [Wanted(True, lot * 5, Decimal("99.5")), Wanted(False, lot * 5, Decimal("100.5"))],
            afresh=True,
        )
        assert [each.code for each in first] == [None, None]
        assert set(world.gateway.views.resting(account)) == {each.id for each in first}
        assert await client.price("BTCUSD") == await direct.price("BTCUSD") == (Decimal("99.5"), Decimal("100.5"))
        again = await client.bulk(
            "BTCUSD",
            [
                Wanted(True, lot * 5, Decimal("99.6"), first[0].id),
                Wanted(False, lot * 5, Decimal("100.4"), "no-such-order"),
            ],
            afresh=False,
        )
        assert [each.code for each in again] == [None, Code.NOT_FOUND_PREVIOUS]
        assert set(world.gateway.views.resting(account)) == {again[0].id, first[1].id}
        taker = Client(world.at, other_key)
        await taker.take("BTCUSD", buys=True, volume=lot * 2)
        with pytest.raises(Rejected) as refused:
            await taker.take("BTCUSD", buys=True, volume=lot * 1_000)
        assert refused.value.code is Code.NO_LIQUIDITY
        assert len(await world.gateway.trades(other)) == 1
        # An empty one takes all out.
        assert await client.bulk("BTCUSD", [], afresh=True) == []
        assert not world.gateway.views.resting(account)
        for each in (client, taker):
            await each.close()


async def test_a_key_that_is_no_key_and_a_server_that_is_gone(tmp_path: Path) -> None:
    async with floor(tmp_path) as world:
        stranger = Client(world.at, "nobody's")
        with pytest.raises(Unauthenticated):
            await stranger.take("BTCUSD", buys=True, volume=Decimal(1))
        await world.server.stop()
        with pytest.raises(Unavailable):
            await stranger.pairs()
        await stranger.close()
        await stranger.close()


async def test_traders_trade_over_the_wire_and_stop_at_once(tmp_path: Path) -> None:
    async with floor(tmp_path) as world:
        keys = [await _key(world, name) for name in ("maker", "taker")]
        chance = random.Random(7)
        traders = Traders(
            [Client(world.at, keys[0][1])],
            [Client(world.at, keys[1][1])],
            Walk(chance, world.clock),
            clock=world.clock,
            chance=chance,
            telemetry=world.telemetry,
        )
        sleeping = world.clock.sleepers
        trading = asyncio.create_task(traders.run())
        for _ in range(40):
            while world.clock.sleepers < sleeping + 2:
                await world.clock.advance(0)
            await world.clock.advance(1)
        for pair in world.gateway.listings.pairs.values():
            book = world.gateway.views.book(pair.id)
            assert (bool(book.bids), bool(book.asks)) == (pair.on, pair.on)
        assert await world.gateway.trades(keys[1][0])
        told = world.telemetry.registry.get_sample_value("openoutcry_traders_calls_total", {"outcome": "failed"})
        assert not told
        trading.cancel()
        _, left = await asyncio.wait([trading], timeout=5)
        assert not left
