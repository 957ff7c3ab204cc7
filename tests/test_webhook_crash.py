"""A process that is killed again and again, at random moments, over the webhooks of Stripe.

Stripe is played by this process: it sends every event until it was answered 200, as the real one does, and now and then again.
The child answers on a socket, as a server would, with the books of one data folder.
"""

import asyncio
import random
import signal
import sqlite3
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import httpx2

from openoutcry.billing.billing import Billing
from openoutcry.billing.store import CheckoutRecord
from openoutcry.billing.stripe_api import Stripe
from openoutcry.clock import NS, SystemClock
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.postings import ISSUANCE
from openoutcry.money import KAI
from openoutcry.stores.billing import SqlBilling
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.transport import HttpClient
from tests.billing.stripe_fake import SECRET, event, refunded, signed

SEED = 5
KILLS = 30
ACCOUNTS = ("a", "b", "c")
EVENTS_AT_ONCE = 4
LIVED_S_MAX = 0.12
READY_S_MAX = 60.0
FILE = "ledger.sqlite3"
PRICE = Decimal("0.03")


class Played:
    """What Stripe has to tell: sessions of 1 to 9 USD, each by two events, some refunded in part before or after."""

    def __init__(self, chance: random.Random, store: SqlBilling) -> None:
        self.chance = chance
        self.store = store
        self.waiting: list[bytes] = []
        self.bought: dict[str, tuple[str, int]] = {}
        self.refunds: dict[str, int] = {}

    def more(self) -> None:
        """One more session is paid."""
        number = len(self.bought)
        cents, account = self.chance.randrange(100, 1_000), ACCOUNTS[number % len(ACCOUNTS)]
        id_, payment = f"cs_{number}", f"pi_{number}"
        self.store.add(
            CheckoutRecord(session_id=id_, account=account, cents=cents, price=PRICE, at_ns=SystemClock().now_ns())
        )
        self.bought[id_] = (account, cents)
        session = {
            "id": id_,
            "amount_total": cents,
            "currency": "usd",
            "payment_status": "paid",
            "payment_intent": payment,
        }
        told = [
            event(f"evt_{number}_1", "checkout.session.completed", session),
            event(f"evt_{number}_2", "checkout.session.async_payment_succeeded", session),
        ]
        if number % 2:
            self.refunds[id_] = self.chance.randrange(1, cents)
            for n, part in enumerate((self.refunds[id_] // 2, self.refunds[id_])):
                told.append(event(f"evt_{number}_r{n}", "charge.refunded", refunded(payment, part, f"ch_{number}")))
        self.waiting += told
        self.chance.shuffle(self.waiting)

    def owed(self) -> dict[str, int]:
        """What each account must have at the end."""
        owed = dict.fromkeys(ACCOUNTS, 0)
        for id_, (account, cents) in self.bought.items():
            owed[account] += micros(cents) - micros(self.refunds.get(id_, 0))
        return owed


def micros(cents: int) -> int:
    return int(cents * 10_000 // PRICE)


async def begun(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """A child that answers, and where."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from tests.test_webhook_crash import child; child()", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    async with asyncio.timeout(READY_S_MAX):
        line = await process.stdout.readline()
    assert line, "the child said nothing"
    return process, f"http://127.0.0.1:{int(line)}/"


async def sent(http: httpx2.AsyncClient, url: str, played: Played) -> None:
    """Send what waits, for as long as somebody answers; what was answered 200 waits no more, or comes once again."""
    while played.waiting:
        body = played.waiting.pop()
        answered = False
        try:
            said = await http.post(
                url, content=body, headers={"stripe-signature": signed(body, SystemClock().now_ns() // NS)}
            )
            assert said.status_code == 200, said.text
            answered = True
        except httpx2.TransportError:
            return
        finally:
            if not answered or played.chance.random() < 0.1:
                played.waiting.insert(0, body)


async def life(folder: Path, played: Played, *, killed: bool) -> None:
    process, url = await begun(folder)
    async with httpx2.AsyncClient(trust_env=False) as http:
        work = [asyncio.ensure_future(sent(http, url, played)) for _ in range(EVENTS_AT_ONCE)]
        if killed:
            await asyncio.wait(work, timeout=played.chance.uniform(0.005, LIVED_S_MAX))
            process.send_signal(signal.SIGKILL)
        await asyncio.gather(*work)
    if not killed:
        process.terminate()
    await process.communicate()


async def test_thirty_kills_leave_every_session_credited_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    chance = random.Random(SEED)
    with closing(SqlBilling(sqlite_url(folder / FILE))) as store:
        played = Played(chance, store)
        cut = 0
        for _ in range(KILLS):
            while len(played.waiting) < 60:
                played.more()
            await life(folder, played, killed=True)
            cut += bool(played.waiting)
        assert cut == KILLS, "a child did all that waited before it was killed"
        await life(folder, played, killed=False)
        assert played.waiting == []
        credits_ = store.credits(list(played.bought))
    assert {id_: (each.account, each.cents) for id_, each in credits_.items()} == played.bought
    with closing(SqlLedger(sqlite_url(folder / FILE))) as books:
        assert {account: books.balance(account, KAI.name).free for account in ACCOUNTS} == played.owed()
        assert books.balance(ISSUANCE, KAI.name).total == -sum(played.owed().values())
        assert books.check() == []
    with closing(sqlite3.connect(folder / FILE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def child() -> None:
    """Answer webhooks on a socket until killed."""
    asyncio.run(_answering(Path(sys.argv[1])))


async def _answering(folder: Path) -> None:
    clock, url = SystemClock(), sqlite_url(folder / FILE)
    ledger = Ledger(SqlLedger(url), clock, Telemetry())

    async def freeze(account: str) -> None:
        assert account in ACCOUNTS

    stripe = Stripe(None, SECRET, "http://127.0.0.1:9", HttpClient(), clock)
    billing = Billing(ledger, SqlBilling(url), stripe, freeze, clock, Telemetry(), kai_usd=None)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:])
                body = await reader.readexactly(int(headers["content-length"]))
                await billing.webhook(body, headers["stripe-signature"])
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
