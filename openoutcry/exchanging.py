"""The exchange from the command line: asked of the server that has the data folder, or worked here where none has it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from openoutcry.app import ledger_url
from openoutcry.clock import NS, Clock
from openoutcry.config import Config
from openoutcry.errors import FolderTaken, TimedOut
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.exchange_inbox import SqlInbox
from openoutcry.stores.folder import DataFolder
from openoutcry.telemetry import Telemetry
from openoutcry.trading.gateway import OrderGateway
from openoutcry.trading.ids import time_ordered
from openoutcry.trading.inbox import Answer, Asked, Letter
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import Sequencer, replayed

LOOK_S = 0.05
# A server looks into its inbox five times a second.
ANSWER_S_MAX = 20.0


async def told(config: Config, clock: Clock, id_: str, asked: Asked, *, answer_s_max: float = ANSWER_S_MAX) -> Answer:
    """What became of it, once that is written; twice the same id is once.

    Raises Conflict where the id asked for something else, TimedOut where a server has the folder and does not answer: then it
    does later what was asked. Raises Unavailable.
    """
    async with AsyncExitStack() as stack:
        gateway: OrderGateway | None = None
        try:
            folder = DataFolder(config.data)
        except FolderTaken:
            pass  # its server does it
        else:
            stack.callback(folder.close)
            gateway = await stack.enter_async_context(_worked(config, clock))
        inbox = SqlInbox(ledger_url(config))
        stack.callback(inbox.close)
        await asyncio.to_thread(inbox.put, Letter(id_, asked), clock.now_ns())
        until_ns = clock.now_ns() + round(answer_s_max * NS)
        while (answer := await asyncio.to_thread(inbox.answered, id_)) is None:
            if gateway is not None:
                await gateway.look(inbox)
            elif clock.now_ns() >= until_ns:
                raise TimedOut(
                    "exchange",
                    f"the server that has {config.data} did not answer in {answer_s_max:g} s; it does what was asked when "
                    f"it looks for it, and the same command with the id {id_} says what became of it",
                )
            else:
                await clock.sleep(LOOK_S)
        return answer


def listed(config: Config) -> Listings:
    """What is traded, also while a server runs. Raises Unavailable."""
    store = SqlExchange(ledger_url(config))
    try:
        kept = store.load()
    finally:
        store.close()
    return Listings({}, {}) if kept.listings is None else Listings.read(kept.listings)


def checked(config: Config, *, whole: bool) -> tuple[int, str, str]:
    """As `sequencer.replayed`. Raises Unavailable."""
    store = SqlExchange(ledger_url(config))
    try:
        return replayed(store, whole=whole)
    finally:
        store.close()


@asynccontextmanager
async def _worked(config: Config, clock: Clock) -> AsyncIterator[OrderGateway]:
    """The exchange, worked by ourselves."""
    telemetry = Telemetry()
    store = SqlExchange(ledger_url(config))
    try:
        sequencer = Sequencer(store, clock, telemetry)
        gateway = OrderGateway(
            sequencer, store, clock, telemetry, lambda: time_ordered(clock.now_ns(), secrets.token_bytes)
        )
        try:
            await gateway.start()
            yield gateway
        finally:
            await sequencer.close()
    finally:
        store.close()
