"""What a batch of commands does to the books: rows in, changed rows out. Knows no database; a command is whole or not at all."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from openoutcry.errors import Conflict, InsufficientFunds, Invalid, Refusal, TooLarge, Unknown
from openoutcry.ledger.postings import (
    SYSTEM,
    Balance,
    Done,
    Hold,
    HoldRecord,
    Posting,
    Release,
    Settle,
    Settlement,
    State,
    Transfer,
)
from openoutcry.ledger.records import Beside, Row, paid
from openoutcry.money import AMOUNT_MAX

Command = Transfer | Hold | Settle | Release | Beside
Outcome = Done | Refusal


class BalanceKey(NamedTuple):
    """Whose money, and of what."""

    owner: str
    asset: str


class Written(NamedTuple):
    """A transfer that was made, with the total of each posting's owner after it."""

    transfer: Transfer
    totals: tuple[int, ...]


class OwnTransfer(Transfer, frozen=True):
    """A transfer of the ledger's own making: its id is that of a hold, a space, and what happened to it."""

    def __post_init__(self) -> None:
        """Nothing is asked of it: we made it, of parts that were checked."""


class Books:
    """The part of the books that a batch is about: the transfers and holds it names, as far as there are any, and the balances
    of all whom it touches, also of those who have nothing yet.

    Afterwards they hold what is true now, `written`, `made` and `ended` what is new: transfers, and the ids of holds; `rows` what
    is to be written beside them.
    """

    def __init__(
        self,
        transfers: Mapping[str, Transfer],
        holds: Mapping[str, HoldRecord],
        balances: Mapping[BalanceKey, Balance],
        now_ns: int,
    ) -> None:
        self.transfers = dict(transfers)
        self.holds = dict(holds)
        self.balances = dict(balances)
        self.written: list[Written] = []
        self.made: list[str] = []
        self.ended: list[str] = []
        self.rows: list[Row] = []
        self._now_ns = now_ns

    def obey(self, command: Command) -> Outcome:
        """Do it, or say why not; a refused one has changed nothing."""
        try:
            match command:
                case Transfer():
                    return self._transfer(command)
                case Hold():
                    return self._hold(command)
                case Settle():
                    return self._settle(command)
                case Release():
                    return self._release(command)
                case Beside():
                    return self._beside(command)
        except Refusal as refusal:
            return refusal

    def _transfer(self, asked: Transfer) -> Done:
        known = self.transfers.get(asked.id)
        if known is not None:
            if known != asked:
                raise Conflict("another transfer has that id")
            return Done(asked, repeated=True)
        self._write([asked], {})
        return Done(asked)

    def _hold(self, asked: Hold) -> Done:
        known = self.holds.get(asked.id)
        if known is not None:
            if known.hold != asked:
                raise Conflict("another hold has that id")
            return Done(asked, repeated=True)
        key = BalanceKey(asked.owner, asked.asset)
        balance = self.balances[key]
        if balance.free < asked.amount:
            raise InsufficientFunds(f"{asked.amount} {asked.asset} are needed, {balance.free} are free")
        self.balances[key] = Balance(balance.total, balance.held + asked.amount)
        self.holds[asked.id] = HoldRecord(asked, self._now_ns)
        self.made.append(asked.id)
        return Done(asked)

    def _settle(self, asked: Settle) -> Done:
        record = self._known(asked.hold)
        if record.state is State.SETTLED:
            if (record.used, record.to) != (asked.used, asked.to):
                raise Conflict("the hold was settled otherwise")
            return Done(record.settlement, repeated=True)
        if record.state is State.RELEASED:
            raise Conflict("the hold was released")
        hold = record.hold
        if asked.to == hold.owner:
            raise Invalid("nobody pays himself")
        charged = min(asked.used, hold.amount)
        # What is free beside this hold: of a cost above it, that much can still be paid.
        excess = min(asked.used - charged, self.balances[BalanceKey(hold.owner, hold.asset)].free)
        paid = [
            _payment(f"{hold.id} {name}", name, hold, asked.to, amount)
            for name, amount in (("settle", charged), ("excess", excess))
            if amount
        ]
        self._write(paid, {BalanceKey(hold.owner, hold.asset): hold.amount})
        shortfall = asked.used - charged - excess
        self._end(record, state=State.SETTLED, used=asked.used, shortfall=shortfall, to=asked.to)
        return Done(self.holds[hold.id].settlement)

    def _release(self, asked: Release) -> Done:
        record = self._known(asked.hold)
        if record.state is State.SETTLED:
            raise Conflict("the hold was settled")
        if record.state is State.RELEASED:
            return Done(None, repeated=True)
        self._write([], {BalanceKey(record.hold.owner, record.hold.asset): record.hold.amount})
        self._end(record, state=State.RELEASED)
        return Done(None)

    def _beside(self, asked: Beside) -> Outcome:
        done = Done(None) if asked.command is None else self.obey(asked.command)
        if isinstance(done, Done) and not done.repeated:
            settlement = done.answer
            self.rows += [paid(row, settlement) if isinstance(settlement, Settlement) else row for row in asked.rows]
        return done

    def _known(self, id_: str) -> HoldRecord:
        record = self.holds.get(id_)
        if record is None:
            raise Unknown("there is no such hold")
        return record

    def _write(self, transfers: list[Transfer], freed: Mapping[BalanceKey, int]) -> None:
        # All of it is worked out beside the books first, so that a refusal leaves them as they were.
        after = {
            key: Balance(self.balances[key].total, self.balances[key].held - amount) for key, amount in freed.items()
        }
        written: list[Written] = []
        for transfer in transfers:
            totals: list[int] = []
            for posting in transfer.postings:
                key = BalanceKey(posting.owner, posting.asset)
                before = after.get(key, self.balances[key])
                after[key] = moved = Balance(before.total + posting.amount, before.held)
                if moved.free < 0 and posting.amount < 0 and not key.owner.startswith(SYSTEM):
                    raise InsufficientFunds(f"{-posting.amount} {key.asset} are needed, {before.free} are free")
                if abs(moved.total) > AMOUNT_MAX:
                    raise TooLarge("a balance would go beyond what can be kept")
                totals.append(moved.total)
            written.append(Written(transfer, tuple(totals)))
        self.balances.update(after)
        self.written.extend(written)
        self.transfers.update((transfer.id, transfer) for transfer in transfers)

    def _end(self, record: HoldRecord, **became: object) -> None:
        self.holds[record.hold.id] = msgspec.structs.replace(record, ended_ns=self._now_ns, **became)
        self.ended.append(record.hold.id)


def _payment(id_: str, reason: str, hold: Hold, to: str, amount: int) -> Transfer:
    # The id is ours, with the space that no caller's can have: what a caller's must look like is not asked of it.
    return OwnTransfer(id_, (Posting(hold.owner, hold.asset, -amount), Posting(to, hold.asset, amount)), reason)
