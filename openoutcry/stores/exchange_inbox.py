"""The exchange's inbox in the ledger's database, SQLite or PostgreSQL: commands write, the server reads and answers."""

import threading
from collections.abc import Sequence

import msgspec
from sqlalchemy import URL, Connection, delete, insert, make_url, select, update

from openoutcry.errors import Conflict
from openoutcry.stores.engine import opened, refusing
from openoutcry.stores.inbox_tables import inbox, waits
from openoutcry.stores.ledger import LEDGER, WHAT
from openoutcry.trading.inbox import Answer, Asked, Letter

BUSY_S = 30.0
# Answers that are kept; an id that is older does nothing twice either: the ledger knows it.
ANSWERS_MAX = 10_000

_ASKED = msgspec.json.Decoder(Asked)


class SqlInbox:
    """Raises Unavailable where the database cannot be opened."""

    def __init__(self, url: URL | str, *, busy_s: float = BUSY_S, answers_max: int = ANSWERS_MAX) -> None:
        self._answers_max = answers_max
        self._lock = threading.Lock()
        self._engine = opened(make_url(url), busy_s, LEDGER, WHAT)
        self._writer = self._engine.execution_options(writing=True)

    def put(self, letter: Letter, now_ns: int) -> None:
        """Have it done, once; what was refused is asked anew. Raises Conflict, Unavailable."""
        body = msgspec.json.encode(letter.asked)
        with self._lock, refusing(WHAT), self._writer.begin() as connection:
            found = connection.execute(select(inbox).where(inbox.c.id == letter.id)).first()
            if found is None:
                self._forget(connection)
                connection.execute(insert(inbox), [{"id": letter.id, "body": body, "asked_ns": now_ns}])
            elif bytes(found.body) != body:
                raise Conflict(f"the id {letter.id} was used for something else")
            elif found.refused is not None:
                asked = update(inbox).where(inbox.c.id == letter.id)
                connection.execute(asked.values(asked_ns=now_ns, answered_ns=None, refused=None))

    def waiting(self, limit: int) -> Sequence[Letter]:
        """Those without an answer, oldest first. Raises Unavailable."""
        asked = select(inbox.c.id, inbox.c.body).where(waits).order_by(inbox.c.asked_ns, inbox.c.id).limit(limit)
        with self._lock, refusing(WHAT), self._engine.begin() as connection:
            return [Letter(row.id, _ASKED.decode(row.body)) for row in connection.execute(asked)]

    def answer(self, id_: str, answer: Answer, now_ns: int) -> None:
        """It is done, or refused. Raises Unavailable."""
        with self._lock, refusing(WHAT), self._writer.begin() as connection:
            asked = update(inbox).where(inbox.c.id == id_, waits)
            connection.execute(asked.values(answered_ns=now_ns, refused=answer.refused))

    def answered(self, id_: str) -> Answer | None:
        """What became of it; None: nothing yet. Raises Unavailable."""
        asked = select(inbox.c.refused).where(inbox.c.id == id_, ~waits)
        with self._lock, refusing(WHAT), self._engine.begin() as connection:
            found = connection.execute(asked).first()
        return None if found is None else Answer(found.refused)

    def close(self) -> None:
        """Close every connection; a second call does nothing."""
        with self._lock:
            self._engine.dispose()

    def _forget(self, connection: Connection) -> None:
        """Of what was answered, all but the newest."""
        kept = select(inbox.c.id).where(~waits).order_by(inbox.c.answered_ns.desc(), inbox.c.id)
        # SQLite knows no offset without a limit.
        old = kept.limit(-1 if connection.dialect.name == "sqlite" else None).offset(self._answers_max)
        connection.execute(delete(inbox).where(inbox.c.id.in_(old)))
