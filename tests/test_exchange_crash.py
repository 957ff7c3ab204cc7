"""An exchange that is killed again and again, at random moments under load: nothing it answered is lost, nothing is done twice.

A nursery process forks each life, which goes on with the same books; what a life answers is a line here.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from os import kill
from pathlib import Path

import msgspec
from sqlalchemy import URL, create_engine, text

from openoutcry.orders import Bulk, Cancel, Command, Limit, Market, Move, Outcome
from openoutcry.stores.exchange import SqlExchange
from openoutcry.stores.ledger import SqlLedger
from openoutcry.trading.engine import Engine
from openoutcry.trading.listings import Listings
from openoutcry.trading.sequencer import engine_of, replayed
from tests.test_crash import integrity

SEED = 6
KILLS = {"sqlite": 100, "postgresql": 8}
# The books are summed after each so many lives.
CHECKED = 10
ANSWERS_MAX = 150
DELAY_S_MAX = 0.01

NURSERY = """
import asyncio, os, random, sys
import msgspec
from openoutcry.clock import SystemClock
from openoutcry.orders import Bulk, Cancel, CancelAll, CancelMode, Item, Limit, Market, Move, Relist
from openoutcry.stores.exchange import SqlExchange
from openoutcry.telemetry import Telemetry
from openoutcry.trading.sequencer import Sequencer
from tests.trading.shaped import LISTINGS
from tests.test_exchange_crash import told

CALLERS = 24

async def live(url, life):
    chance = random.Random(life)
    store = SqlExchange(url)
    sequencer = Sequencer(store, SystemClock(), Telemetry(), snapshot_commands=500)
    kept = await sequencer.start()

    async def ask(command):
        outcome = await sequencer.ask(command)
        os.write(1, told(command, outcome))
        return outcome

    if not kept.number:
        await ask(Relist(LISTINGS.told()))
    rest = {f"w{n}": set() for n in range(CALLERS)}
    for order in kept.orders:
        rest[order.wallet].add(order.id)

    async def caller(wallet):
        known = rest[wallet]
        for asset in LISTINGS.assets:
            await ask(Move(f"{life}.{wallet}.{asset}", wallet, asset, 2_000))
        n = 0
        while True:
            n += 1
            # Some come too late for the next batch.
            for _ in range(chance.choice([0, 0, 0, 1, 9])):
                await asyncio.sleep(0)
            id_, kind, buys = f"{life}.{wallet}.{n}", chance.random(), chance.random() < 0.5
            lots, ticks = chance.randrange(3, 12), 10_000 + chance.randrange(-9, 6) * (1 if buys else -1)
            if kind < 0.45:
                outcome = await ask(Limit(id_, wallet, "BTCUSD", buys, lots, ticks))
            elif kind < 0.55:
                outcome = await ask(Market(id_, wallet, "BTCUSD", buys, lots))
            elif kind < 0.7 and known:
                outcome = await ask(Cancel(wallet, known.pop()))
            elif kind < 0.71:
                outcome = await ask(CancelAll(wallet, None, buys))
            else:
                old = known.pop() if known and kind < 0.9 else None
                items = [Item(f"{id_}.{m}", buys, lots, ticks, old if m == 0 else None) for m in range(3)]
                outcome = await ask(Bulk(wallet, "BTCUSD", tuple(items), chance.choice([None, CancelMode.BUY_SIDE])))
            known.update(change.id for change in outcome.changes if change.wallet == wallet and change.reserve)

    await asyncio.gather(*map(caller, rest))

for line in sys.stdin:
    if pid := os.fork():
        os.write(1, f"{pid}\\n".encode())
        os.waitpid(pid, 0)
        os.write(1, b"dead\\n")
    else:
        asyncio.run(live(sys.argv[1], int(line)))
"""


def key(command: Command) -> str | None:
    """What no other command of any life has; None where nothing tells it from others."""
    match command:
        case Limit() | Market():
            return command.order
        case Bulk():
            return command.items[0].order
        case Move():
            return command.id
        case Cancel():
            return f"cancel {command.order}"
    return None


def told(command: Command, outcome: Outcome) -> bytes:
    """A line for what was answered: the whole of it, where the command can be found again."""
    return msgspec.json.encode((key(command), outcome)) + b"\n"


class Watch:
    """What is kept, followed by an engine that obeys the log; and everything that was ever answered."""

    def __init__(self, url: URL, stack: ExitStack) -> None:
        self.url = url
        self.store = stack.enter_context(closing(SqlExchange(url)))
        self.ledger = stack.enter_context(closing(SqlLedger(url)))
        self.engine = Engine(Listings({}, {}))
        self.number = 0
        self.did: dict[str, list[Outcome]] = {}
        self.answered: dict[str, Outcome] = {}

    def follow(self) -> None:
        """The log goes on without a hole, and comes to what is kept."""
        kept = self.store.load()
        for each in self.store.log(self.number):
            assert each.number == self.number + 1
            self.number = each.number
            outcome = self.engine.obey(*each)
            if (named := key(each.command)) is not None:
                self.did.setdefault(named, []).append(outcome)
        assert self.number == kept.number
        assert self.engine.digest() == engine_of(kept).digest()

    def answers(self, lines: list[bytes]) -> None:
        """What was answered is in the log, once, and was answered as it was done."""
        for line in lines:
            named, outcome = msgspec.json.decode(line, type=tuple[str | None, Outcome])
            if named is None:
                continue
            assert self.did[named] == [outcome]
            self.answered[named] = outcome


@contextmanager
def nursery(url: URL) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", NURSERY, url.render_as_string(hide_password=False)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def life(process: subprocess.Popen[bytes], number: int, chance: random.Random) -> list[bytes]:
    """One life, ended after so many answers and a moment longer. Returns what it answered."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{number}\n".encode())
    process.stdin.flush()
    pid = int(process.stdout.readline())
    lines: list[bytes] = []
    answers = chance.randrange(ANSWERS_MAX)
    while (line := process.stdout.readline()) != b"dead\n":
        assert line, "the nursery ended"
        lines.append(line)
        if len(lines) == answers + 1:
            time.sleep(chance.uniform(0, DELAY_S_MAX))
            kill(pid, signal.SIGKILL)
    assert len(lines) > answers, "it ended by itself"
    return lines


def test_a_hundred_kills_lose_no_answer_and_double_none(books_url: URL) -> None:
    kills = KILLS[books_url.get_backend_name()]
    chance = random.Random(SEED)
    with ExitStack() as stack:
        watch = Watch(books_url, stack)
        process = stack.enter_context(nursery(books_url))
        for number in range(kills):
            lines = life(process, number, chance)
            watch.follow()
            watch.answers(lines)
            if number % CHECKED == 0:
                assert watch.ledger.check() == []
        assert watch.ledger.check() == []
        # Enough was done to mean something, and some of it was done and never answered.
        assert kills < len(watch.answered) < len(watch.did)
        changed = [change for outcome in watch.answered.values() for change in outcome.changes]
        assert {change.id for change in changed} <= kept_ids(books_url)
        for whole in (True, False):
            assert replayed(watch.store, whole=whole) == (watch.number, *[watch.engine.digest()] * 2)
    if books_url.get_backend_name() == "sqlite":
        assert integrity(Path(str(books_url.database))) == "ok"


def kept_ids(url: URL) -> set[str]:
    engine = create_engine(url)
    with engine.begin() as connection:
        found = connection.scalars(text("SELECT id FROM exchange_orders")).all()
    engine.dispose()
    assert len(set(found)) == len(found)
    return set(found)
