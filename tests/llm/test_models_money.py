"""Whatever happens to calls, what is gone from a balance is what their rows say, and nobody spends what he has not."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL

from openoutcry.chat import Conversation, Delta, Usage
from openoutcry.clock import NS
from openoutcry.errors import InsufficientFunds, Invalid, TimedOut, Unavailable
from openoutcry.ledger.postings import Balance
from openoutcry.llm import models as door
from openoutcry.llm.models import Completed, Speaking
from openoutcry.stores.ledger import SqlLedger
from tests.llm.calls import Actor, Step, Till, ask, says, until

SPENDERS = 64
DEADLINE_NS = round((door.WHOLE_S + door.HOLD_GRACE_S) * NS)


class Troupe(Actor):
    """A route on which each caller brings the script of his call, in `fields`."""

    def _begun(self, conversation: Conversation) -> Sequence[Step]:
        script: Sequence[Step] = conversation.fields["script"]
        return script


USAGES = st.none() | st.builds(Usage, st.integers(0, 40), st.integers(0, 120), st.none() | st.integers(0, 9))
WORDS = st.builds(Delta, text=st.text("ab", max_size=30), usage=st.none() | USAGES)
ENDS: st.SearchStrategy[list[Any]] = st.one_of(
    st.builds(lambda usage: [Delta(finish="stop", usage=usage)], USAGES),
    st.builds(lambda usage: [Delta(finish="length"), Delta(usage=usage)], USAGES),
    st.sampled_from([Unavailable("model", "no"), TimedOut("model", "no"), Invalid("no"), RuntimeError("a bug")]).map(
        lambda error: [error]
    ),
    st.just([]),
    st.just([asyncio.Event]),  # it never goes on
)
# Few keys, so that they meet; few tokens and little money, so that it runs out.
CALLS = st.fixed_dictionaries(
    {
        "words": st.lists(WORDS, max_size=3),
        "end": ENDS,
        "streams": st.booleans(),
        "key": st.none() | st.sampled_from("kl"),
        "most": st.none() | st.integers(1, 60),
        # How many deltas are read before the reader leaves; None: he stays.
        "reads": st.none() | st.integers(0, 3),
        # How many turns of the loop until he is cancelled; None: he is not.
        "cancelled": st.none() | st.integers(0, 12),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(CALLS, min_size=1, max_size=12),
    granted=st.integers(1, 700),
    drains=st.booleans(),
    fails=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3), st.booleans()), max_size=2),
    closes=st.booleans(),
)
async def test_whatever_happens_to_calls_the_books_balance(
    open_books: Callable[[], SqlLedger],
    books_url: URL,
    calls: list[dict[str, Any]],
    granted: int,
    drains: bool,
    fails: list[tuple[int, int, bool]],
    closes: bool,
) -> None:
    till = await _till(open_books, books_url, granted, drains=drains)
    account = next(iter(till.granted))
    asking = [asyncio.create_task(_ask(till, account, number, call)) for number, call in enumerate(calls)]
    for turns, times, after in fails:
        for _ in range(turns):
            await asyncio.sleep(0)
        till.books.fails, till.books.after = times, after
    for _ in range(20):
        await asyncio.sleep(0)
    if closes:
        await till.models.close(wait_s=0)
    await _over(till, asking)
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    for outcome in outcomes:
        assert not isinstance(outcome, AssertionError)
    till.books.fails = 0
    await till.close()
    # Only what the books would not take is left to the sweep.
    assert fails or (await till.balance(account)).held == 0
    await till.ledger.sweep(till.clock.now_ns() + DEADLINE_NS)
    await till.checked()
    rows = till.rows(account)
    assert len({row.request_id for row in rows}) == len(rows)
    assert all(row.cost == 0 for row in rows if row.status == "failed")
    # Each answer that was told under a key is the same for all who brought it.
    answers: dict[str, set[str]] = {}
    for call, outcome in zip(calls, outcomes, strict=True):
        if isinstance(outcome, Completed) and call["key"] and not outcome.estimated:
            answers.setdefault(call["key"], set()).add(outcome.request_id)
    settled = {row.request_id for row in rows if row.status == "done"}
    booked = till.counted("chat_unbooked_total") == 0 and not closes
    assert not booked or all(len(told) == 1 and told <= settled for told in answers.values())
    till.usage.close()
    till.books.close()


async def _till(open_books: Callable[[], SqlLedger], url: URL, granted: int, *, drains: bool) -> Till:
    till = Till(open_books(), url, prefix=f"{_run()}-")
    await till.open(on_disconnect="drain" if drains else "cancel")
    till.actor = Troupe()
    await till.open(on_disconnect="drain" if drains else "cancel")
    await till.grant(f"account-{till.prefix}", granted)
    return till


_runs = iter(range(10**9))


def _run() -> int:
    return next(_runs)


async def _ask(till: Till, account: str, number: int, call: dict[str, Any]) -> Completed | Speaking | None:
    script = [*call["words"], *(asyncio.Event() if step is asyncio.Event else step for step in call["end"])]
    asked = ask(
        fields={"script": script},
        output_tokens_max=call["most"],
        idempotency_key=call["key"],
        fingerprint=b"same",
        endpoint=str(number),
    )
    work = asyncio.create_task(_read(till, account, asked, call))
    if call["cancelled"] is not None:
        for _ in range(call["cancelled"]):
            await asyncio.sleep(0)
        work.cancel()
    return (await asyncio.gather(work, return_exceptions=True))[0]  # type: ignore[return-value]


async def _read(till: Till, account: str, asked: door.Ask, call: dict[str, Any]) -> Completed | Speaking:
    if not call["streams"]:
        return await till.models.complete(till.payer(account), asked)
    speaking = await till.models.stream(till.payer(account), asked)
    read = 0
    try:
        while call["reads"] is None or read < call["reads"]:
            await anext(speaking)
            read += 1
    except StopAsyncIteration:
        pass
    finally:
        speaking.close()
    return speaking


async def _over(till: Till, asking: list["asyncio.Task[Any]"]) -> None:
    """Time goes by until nothing runs any more."""
    while not all(task.done() for task in asking) or till.counted("chat_in_flight"):
        # Who works in a thread is given the time to do it.
        await asyncio.sleep(0.001)
        await till.clock.advance(5.0)


async def test_spenders_at_once_never_overdraw(open_books: Callable[[], SqlLedger], books_url: URL) -> None:
    """Each can be answered with ten tokens; there is money for ten of them, whichever come first."""
    till = await _till(open_books, books_url, 10 * 30, drains=False)
    account = next(iter(till.granted))
    script = says("x", Usage(10, 10))
    asked = ask(fields={"script": script}, output_tokens_max=10)
    outcomes = await asyncio.gather(
        *(till.models.complete(till.payer(account), asked) for _ in range(SPENDERS)), return_exceptions=True
    )
    paid = [each for each in outcomes if isinstance(each, Completed)]
    assert all(isinstance(each, Completed | InsufficientFunds) for each in outcomes)
    # Who pays holds all he may use, so none fails who has the money; who comes late finds nothing.
    assert len(paid) == 10
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert await till.balance(account) == Balance(0, 0)
    assert len(till.actor.asked) == 10
    await till.close()
    await till.checked()
    till.usage.close()
    till.books.close()


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_spenders_without_a_bound_share_what_there_is(
    open_books: Callable[[], SqlLedger], books_url: URL, streams: bool
) -> None:
    """Each would take all that is left: whoever finds too little is refused, nobody is answered on another's money."""
    till = await _till(open_books, books_url, 1_000, drains=False)
    account = next(iter(till.granted))
    asked = ask(fields={"script": says("x", Usage(10, 30))})

    async def spend() -> None:
        made = await till.models.stream(till.payer(account), asked) if streams else None
        if made is None:
            await till.models.complete(till.payer(account), asked)
        else:
            assert [delta async for delta in made]

    outcomes = await asyncio.gather(*(spend() for _ in range(SPENDERS)), return_exceptions=True)
    await until(lambda: till.counted("chat_in_flight") == 0)
    assert all(each is None or isinstance(each, InsufficientFunds) for each in outcomes)
    paid = sum(each is None for each in outcomes)
    assert paid >= 1
    assert await till.balance(account) == Balance(1_000 - 70 * paid, 0)
    assert {row.shortfall for row in till.rows(account)} == {0}
    await till.close()
    await till.checked()
    till.usage.close()
    till.books.close()
