"""Calls of language models, served by a process that is killed again and again at random moments.

The process serves calls of a few accounts, most of them under idempotency keys, and says which were answered. Whatever
moment it was killed at, the books balance once the deadlines have passed, no answer is kept that was not paid, and no
key is answered twice.
"""

import asyncio
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from sqlalchemy import create_engine, text

from openoutcry.clock import ManualClock
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import FEES, ISSUANCE, Balance, Posting
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.stores.usage import SqlUsage
from openoutcry.telemetry import Telemetry
from tests.test_crash import integrity

SEED = 7
KILLS = 50
ACCOUNTS = ("a", "b", "c")
GRANTED = 10**9
# Calls at once in one life, and keys that they take: each key is asked for by several, and again in the next lives.
AT_ONCE = 12
KEYS_A_LIFE = 40
LIVED_S_MAX = 0.25
NS_MAX = 2**63 - 1

CHILD = """
import asyncio, random, sys
from tests.llm.calls import Till, ask, says
from openoutcry.chat import Delta, Usage
from openoutcry.errors import Refusal
from openoutcry.llm.models import Completed
from openoutcry.stores.ledger import SqlLedger

url, life, at_once, keys = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(life)

async def call(till):
    account = chance.choice("abc")
    # Half of the keys are of a life before, so that answers are given again.
    key = None if chance.random() < 0.2 else f"{max(0, int(life) - chance.choice((0, 0, 1)))}.{chance.randrange(keys)}"
    asked = ask(idempotency_key=key, fingerprint=b"f", endpoint=f"{account}/{key}")
    payer = till.payer(account)
    try:
        if chance.random() < 0.5:
            answer = await till.models.complete(payer, asked)
            told, replayed = answer.request_id, answer.replayed
        else:
            speaking = await till.models.stream(payer, asked)
            leaves = chance.random() < 0.2
            async for delta in speaking:
                if leaves:
                    break
            speaking.close()
            if leaves:
                return
            told, replayed = speaking.request_id, speaking.replayed
    except Refusal:
        return
    print(account, key, told, int(replayed), flush=True)

async def serve():
    till = Till(SqlLedger(url), url, prefix=f"{life}-")
    await till.open()
    print("ready", flush=True)
    async def work():
        while True:
            script = says("hello world", Usage(10, chance.randrange(1, 9)))
            till.actor.script = script if chance.random() < 0.9 else [Delta(text="x")]
            await call(till)
    await asyncio.gather(*(work() for _ in range(at_once)))

asyncio.run(serve())
"""


def lives(url: str, chance: random.Random) -> list[tuple[str, str, str, bool]]:
    """So many lives, each killed at a moment of its own; gives what callers were told, in order."""
    told = []
    for life in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, url, str(life), str(AT_ONCE), str(KEYS_A_LIFE)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", f"life {life} did not begin"
            # Some answers, and a random moment longer.
            seen = [child.stdout.readline() for _ in range(chance.randrange(6))]
            try:
                child.wait(chance.uniform(0, LIVED_S_MAX))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
            seen += child.stdout.readlines()
        assert child.returncode == -signal.SIGKILL
        for line in seen:
            # The last line may be a part of one.
            if line.endswith("\n"):
                account, key, request, replayed = line.split()
                told.append((account, key, request, replayed == "1"))
    return told


def checked(store: SqlLedger, usage: SqlUsage, url: str) -> int:
    """The books balance, nothing is held, each answer has its row and each row its payment. Gives how many were paid."""
    assert store.check() == []
    for account in ACCOUNTS:
        balance = store.balance(account, "KAI")
        assert balance == Balance(GRANTED - usage.paid(account), 0)
    engine = create_engine(url)
    with engine.connect() as connection:
        done = connection.execute(text("SELECT request_id, cost, endpoint FROM usage WHERE status = 'done'")).all()
        fees = text("SELECT transfer, amount FROM postings WHERE owner = :owner")
        moved = {row.transfer: row.amount for row in connection.execute(fees, {"owner": FEES})}
        asked = text("SELECT account, key, json_extract(body, '$.request_id') AS request FROM answers")
        kept = connection.execute(asked).all()
    engine.dispose()
    paid = {row.request_id: row.cost for row in done}
    assert len(paid) == len(done)
    # Of each payment one row, and the other way round.
    assert moved == {f"{request} settle": cost for request, cost in paid.items()}
    assert kept
    # A key is paid exactly if its answer is kept, and once: the child writes it where the endpoint stands.
    keyed = {row.endpoint: row.request_id for row in done if not row.endpoint.endswith("/None")}
    assert keyed == {f"{row.account}/{row.key}": row.request for row in kept}
    assert len(keyed) == sum(not row.endpoint.endswith("/None") for row in done)
    return len(paid)


async def test_fifty_kills_leave_every_answer_paid_once(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    url = sqlite_url(file).render_as_string(hide_password=False)
    store, usage = SqlLedger(url), SqlUsage(url)
    ledger = Ledger(store, ManualClock(NS_MAX), Telemetry())
    for account in ACCOUNTS:
        await ledger.transfer(account, [Posting(ISSUANCE, "KAI", -GRANTED), Posting(account, "KAI", GRANTED)])
    told = await asyncio.to_thread(lives, url, random.Random(SEED))
    # What was under way when the process died: all of it is given back, and nothing else.
    swept = await ledger.sweep(NS_MAX)
    await ledger.close()
    paid = checked(store, usage, url)
    answered: dict[tuple[str, str], set[str]] = defaultdict(set)
    for account, key, request, _ in told:
        if key != "None":
            answered[account, key].add(request)
    assert all(len(requests) == 1 for requests in answered.values())
    for (account, key), requests in answered.items():
        kept = usage.get(account, key)
        assert kept is not None
        assert next(iter(requests)).encode() in kept.body
    # Enough happened for it to mean something.
    assert swept > 0
    assert any(replayed for *_, replayed in told)
    assert len(told) > KILLS
    assert paid > KILLS
    usage.close()
    store.close()
    assert integrity(file) == "ok"
