"""Models: the front door of language models that callers pay for. Hold before the call, settle or release after it.

A call is served by a task of its own, from admission to payment: whoever asked may leave at any moment, and what is to be
paid is paid. An answer is written with its payment, so that the same idempotency key is answered twice and paid once.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import structlog

from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.clock import NS, Clock
from openoutcry.config import AliasConfig, ModelsConfig
from openoutcry.errors import (
    Conflict,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    NoPrice,
    OtherContent,
    Refusal,
    TimedOut,
    Unavailable,
    UnknownModel,
)
from openoutcry.ledger.ledger import Ledger
from openoutcry.ledger.records import KeptAnswer, Row, UsageRow
from openoutcry.ledger.tariff import Cost, Tariff
from openoutcry.llm.answers import AnswerStore, Heard, deltas_of, size_bytes, tokens_of
from openoutcry.llm.routing import Route
from openoutcry.money import AMOUNT_MAX, KAI
from openoutcry.telemetry import Telemetry

# Longest time of a call where no upstream says its own; and how long its hold outlives it.
WHOLE_S = 300.0
HOLD_GRACE_S = 60.0
# A stream is begun after so long, though nothing was said yet.
FIRST_S_MAX = 15.0
# Deltas that wait for a slow reader; above, the upstream waits too.
DELTAS_MAX = 64
# Calls whose reader has left and that are read on, and for how long.
DRAINS_MAX = 32
DRAIN_S_MAX = 60.0
# Whoever affords fewer is not answered in pieces.
OUTPUT_TOKENS_MIN = 16
# How often a hold is tried again with what is left when others spend from the same balance.
HOLD_TRIES_MAX = 5
ANSWER_BYTES_MAX = 4 * 1024 * 1024
# No upstream counts more in one call; what says so is not believed.
TOKENS_MAX = 10**9
UPSTREAM_ID_CHARACTERS_MAX = 200
KEY_CHARACTERS_MAX = 255
# The same key, still running: waited for so long.
RUNNING_S_MAX = 60.0
CROWDED_RETRY_S = 1.0
# A payment that the ledger did not take is asked for again, until the hold's deadline.
RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0
# An upstream that was told to stop is waited for; at the end, calls are, then payments.
STOP_S_MAX = 5.0
CLOSE_S_MAX = 10.0
PRUNE_S = 60.0
PRUNE_BATCH_MAX = 500
MS = 1_000_000
WHO = "model"

log = structlog.get_logger()


class Payer(msgspec.Struct, frozen=True):
    """Who pays. `reserve` takes tokens from its limit, and gives what to call once with those that were used."""

    account: str
    key: str | None
    reserve: Callable[[int], Callable[[int], None]]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, checked at the edge. `model` None: the default; `thinks` None: as the model's name says."""

    endpoint: str
    model: str | None
    messages: tuple[Mapping[str, Any], ...]
    fields: Mapping[str, Any]
    output_tokens_max: int | None
    thinks: bool | None
    idempotency_key: str | None = None
    fingerprint: bytes = b""


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer and what it cost. `usage` is what was paid for; `estimated`: the upstream did not say."""

    request_id: str
    id: str
    created_s: int
    model: str
    said: Said
    usage: Usage
    cost: Cost
    estimated: bool
    latency_ms: int
    replayed: bool = False


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A model as callers are told of it."""

    id: str
    created_s: int
    owned_by: str
    about: str
    thinks: bool
    upstream_model: str
    provider: str
    status: str
    usd_per_1k_in: Decimal
    usd_per_1k_out: Decimal


class Speaking:
    """An answer that is on its way: its deltas, the last of which carries how it finished and the usage that was paid for.

    Raises what went wrong in the middle. Who stops before the end says so: `close`.
    """

    def __init__(
        self, request_id: str, id_: str, created_s: int, model: str, pipe: "_Pipe", leave: Callable[[], None]
    ) -> None:
        self.request_id = request_id
        self.id = id_
        self.created_s = created_s
        self.model = model
        self.replayed = pipe.replayed
        self._pipe = pipe
        self._leave = leave
        self._over = False

    def __aiter__(self) -> "Speaking":
        return self

    async def __anext__(self) -> Delta:
        if self._over:
            raise StopAsyncIteration
        delta = await self._pipe.next()
        if delta is not None:
            return delta
        self._over = True
        ended = self._pipe.ended
        if isinstance(ended, BaseException):
            raise ended
        assert ended is not None
        return Delta(finish=ended.said.finish, usage=ended.usage)

    def close(self) -> None:
        """The reader has left. After the end, or twice, it does nothing."""
        if not self._over:
            self._over = True
            self._leave()


class Models:
    """`routes`: the way of each alias of `config`, and of further names that are found though not listed.

    Raises InsufficientFunds, LimitExceeded, Forbidden (`reserve`), UnknownModel, NoPrice (nothing is sold), Conflict
    (the same key is still running), OtherContent (it was another question), and Unavailable, TimedOut or Invalid as the
    upstream does.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        ledger: Ledger,
        answers: AnswerStore,
        clock: Clock,
        telemetry: Telemetry,
        config: ModelsConfig,
        *,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._ways = _ways(routes, config)
        self._ledger = ledger
        self._answers = answers
        self._clock = clock
        self._config = config
        self._new_id = new_id
        self._tariff = _tariff(config)
        self._whole_s = max((upstream.whole_s for upstream in config.upstreams.values()), default=WHOLE_S)
        self._created_s = clock.now_ns() // NS
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[tuple[str, str], _Running] = {}
        self._in_flight = 0
        self._draining = 0
        self._closed = False
        self._calls = telemetry.counter("chat_calls", "Metered calls, by outcome", ["outcome"])
        self._tokens = telemetry.counter("chat_tokens", "Tokens that were paid for", ["way"])
        self._micros = telemetry.counter("chat_micros", "What calls cost, in micros of KAI")
        self._estimated = telemetry.counter("chat_estimated", "Calls whose tokens the upstream did not count")
        self._replayed = telemetry.counter("chat_replayed", "Answers that were given again under their key")
        self._unbooked = telemetry.counter("chat_unbooked", "Calls that the ledger did not take until their deadline")
        telemetry.gauge("chat_in_flight", "Metered calls that are running").set_function(lambda: self._in_flight)

    def listed(self) -> Sequence[Listed]:
        """Every alias, in the order of the configuration."""
        return [self._told(way) for way in self._ways.values() if way.listed]

    def find(self, name: str) -> Listed:
        """An alias, or a model by the name that its upstream has for it. Raises UnknownModel."""
        return self._told(self._way(name))

    async def complete(self, payer: Payer, ask: Ask) -> Completed:
        """The whole answer. Whoever is cancelled here has left."""
        call = await self._begin(payer, ask, streams=False)
        if isinstance(call, Completed):
            return call
        try:
            while await call.pipe.next() is not None:
                pass
        except asyncio.CancelledError:
            call.leave()
            raise
        ended = call.pipe.ended
        if isinstance(ended, BaseException):
            raise ended
        assert ended is not None
        return ended

    async def stream(self, payer: Payer, ask: Ask) -> Speaking:
        """When its first delta is there, or after FIRST_S_MAX. What goes wrong before is raised here."""
        call = await self._begin(payer, ask, streams=True)
        if isinstance(call, Completed):
            return _again(call)
        first = asyncio.create_task(call.pipe.ready())
        timer = asyncio.create_task(self._clock.sleep(FIRST_S_MAX))
        try:
            await asyncio.wait({first, timer}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            call.leave()
            raise
        finally:
            first.cancel()
            timer.cancel()
        if isinstance(call.pipe.ended, BaseException) and not call.pipe.waiting:
            raise call.pipe.ended
        return Speaking(call.request_id, call.id, call.created_s, call.model, call.pipe, call.leave)

    async def run(self) -> None:
        """Forget answers that are too old or too many, every minute, until cancelled."""
        while True:
            try:
                await self.prune(self._clock.now_ns())
            except Unavailable as e:
                log.warning("kept answers are not pruned", error=e.text)
            await self._clock.sleep(PRUNE_S)

    async def prune(self, now_ns: int) -> int:
        """Forget them now. Returns how many. Raises Unavailable."""
        before_ns, pruned = now_ns - round(self._config.answers_kept_s * NS), 0
        while True:
            gone = await asyncio.to_thread(self._answers.prune, before_ns, self._config.answers_max, PRUNE_BATCH_MAX)
            pruned += gone
            if gone < PRUNE_BATCH_MAX:
                return pruned

    async def close(self, wait_s: float = CLOSE_S_MAX) -> None:
        """No more calls; those that run are waited for, then stopped, free of charge. Each hold is settled or released."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=wait_s)
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_S_MAX)

    # -- before

    def _way(self, name: str | None) -> "_Way":
        way = self._ways.get(self._config.default if name is None else name)
        if way is None:
            raise UnknownModel("there is no such model")
        return way

    def _told(self, way: "_Way") -> Listed:
        return Listed(
            id=way.name,
            created_s=self._created_s,
            owned_by=way.route.provider,
            about=way.alias.about,
            thinks=way.alias.thinks,
            upstream_model=way.route.upstream_model,
            provider=way.route.provider,
            status=way.route.status(),
            usd_per_1k_in=self._config.usd_per_1k_in,
            usd_per_1k_out=self._config.usd_per_1k_out,
        )

    async def _begin(self, payer: Payer, ask: Ask, *, streams: bool) -> "_Call | Completed":
        """A call that is being served, or the answer that its key had."""
        way = self._way(ask.model)
        if self._tariff is None:
            raise NoPrice("models.kai_usd is not set: nothing can be paid for")
        earlier = await self._earlier(payer, ask)
        if earlier is not None:
            self._replayed.inc()
            return earlier
        # From here to the task there is no wait: the key is freed here, or by the task.
        if self._closed or self._in_flight >= self._config.calls_max:
            self._free(payer, ask)
            if self._closed:
                raise Unavailable(WHO, "the server is stopping")
            raise LimitExceeded(f"{self._in_flight} calls are running: try again in a moment", CROWDED_RETRY_S)
        model = way.name if ask.model is None else ask.model
        call = _Call(payer, ask, way, model, self._tariff, self._new_id(), self._clock.now_ns(), streams=streams)
        self._in_flight += 1
        task = asyncio.create_task(self._serve(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    async def _earlier(self, payer: Payer, ask: Ask) -> Completed | None:
        """The answer that is kept under the key; where there is none, the key is ours until it is freed."""
        key = ask.idempotency_key
        if key is None:
            return None
        if not (0 < len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
            raise Invalid(f"an idempotency key is 1 to {KEY_CHARACTERS_MAX} printable ASCII characters")
        while (running := self._running.get((payer.account, key))) is not None:
            _same(running.fingerprint, ask)
            await self._over(running)
        self._running[payer.account, key] = _Running(ask.fingerprint, asyncio.Event())
        try:
            found = await self._kept(payer.account, key)
        except BaseException:  # whatever it was goes on
            self._free(payer, ask)
            raise
        if found is None:
            return None
        self._free(payer, ask)
        _same(found.fingerprint, ask)
        answer = msgspec.convert(json.loads(found.body), Completed)
        return msgspec.structs.replace(answer, replayed=True)

    async def _over(self, running: "_Running") -> None:
        timer = asyncio.create_task(self._clock.sleep(RUNNING_S_MAX))
        over = asyncio.create_task(running.over.wait())
        try:
            await asyncio.wait({over, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            timer.cancel()
        if not running.over.is_set():
            raise Conflict("the same idempotency key is still being answered")

    async def _kept(self, account: str, key: str) -> KeptAnswer | None:
        found = await asyncio.to_thread(self._answers.get, account, key)
        before_ns = self._clock.now_ns() - round(self._config.answers_kept_s * NS)
        if found is None or found.at_ns >= before_ns:
            return found
        # Its place is needed: an answer is not written over another.
        await asyncio.to_thread(self._answers.drop, account, key, before_ns)
        return None

    def _free(self, payer: Payer, ask: Ask) -> None:
        if ask.idempotency_key is not None:
            self._running.pop((payer.account, ask.idempotency_key)).over.set()

    # -- serving

    async def _serve(self, call: "_Call") -> None:
        try:
            try:
                await self._admit(call)
            except Refusal as e:
                self._calls.labels("refused").inc()
                call.pipe.end(e)
                return
            outcome = await self._heard(call)
            await self._book(call, outcome)
        except asyncio.CancelledError:  # of `close`: its hold is released, and the reader told
            call.pipe.end(Unavailable(WHO, "the server is stopping"))
        except Exception as e:  # a bug of ours: nothing stays held for it, and the reader does not wait for ever
            log.exception("a call failed", request_id=call.request_id)
            call.pipe.end(e)
            await self._written(call, Usage(0, 0), (), failed=True)
        finally:
            call.used(0)
            self._in_flight -= 1
            self._free(call.payer, call.ask)

    async def _admit(self, call: "_Call") -> None:
        """Its bound is known, its tokens are reserved, its cost is held; or it is refused, and nothing is left of it."""
        asked = bound = call.ask.output_tokens_max or self._config.output_tokens_default
        call.conversation = call.bounded(asked)
        call.tokens_in = await call.way.route.tokens_in(call.conversation)
        for _ in range(HOLD_TRIES_MAX):
            call.conversation = call.bounded(bound)
            if await self._held(call, bound):
                return
            # Most balances pay for all that is asked: the others are read only now.
            free = (await self._ledger.balance(call.payer.account, KAI.name)).free
            bound, least = call.tariff.affords(free, call.tokens_in, asked), call.most_min(asked)
            if bound < least:
                raise _too_little(bound, least)
        raise InsufficientFunds("the balance is spent by other calls at this moment")

    async def _held(self, call: "_Call", bound: int) -> bool:
        """Whether tokens and money are set aside for so many tokens out; not where the money is not there."""
        call.correct = call.payer.reserve(call.tokens_in + bound)
        call.deadline_ns = self._clock.now_ns() + round((self._whole_s + HOLD_GRACE_S) * NS)
        amount = call.tariff.micros(call.tokens_in, bound)
        if not amount:
            return True
        call.holds = True
        try:
            await self._ledger.hold(call.request_id, call.payer.account, KAI.name, amount, call.deadline_ns)
        except InsufficientFunds:
            call.holds = False
            call.used(0)
            return False
        except BaseException:  # it goes on; it may have been held all the same
            call.used(0)
            await self._written(call, Usage(0, 0), (), failed=True)
            raise
        return True

    async def _heard(self, call: "_Call") -> "_Outcome":
        """What came of it, whatever it was; the upstream is closed afterwards."""
        if call.left.done():  # before anybody was asked
            return _Outcome(error=Unavailable(WHO, "the caller left"))
        work = self._listened(call) if call.streams else self._completed(call)
        listening = asyncio.create_task(work)
        try:
            await self._waited(call, listening)
            finished, left = listening.done(), call.left.done() or call.pipe.full
        except asyncio.CancelledError:
            return _Outcome(error=Unavailable(WHO, "the server is stopping"))
        finally:
            await _stopped(listening)
        if finished and not listening.cancelled():
            return self._finished(call, listening.exception())
        if left:
            return _Outcome(left=True)
        return _Outcome(error=TimedOut(WHO, f"the language model did not answer within {self._whole_s:g} s"))

    async def _waited(self, call: "_Call", listening: "asyncio.Task[None]") -> None:
        """Until it is over, its time is, or its reader has left (then, where it is read on, a while longer)."""
        timers = {asyncio.create_task(self._clock.sleep(self._whole_s))}
        try:
            await asyncio.wait({listening, *timers, call.left}, return_when=asyncio.FIRST_COMPLETED)
            # Whoever brought a key comes again for the answer.
            drains = self._config.on_disconnect == "drain" or call.ask.idempotency_key is not None
            if not call.left.done() or listening.done() or not drains or self._draining >= DRAINS_MAX:
                return
            self._draining += 1
            timers.add(asyncio.create_task(self._clock.sleep(DRAIN_S_MAX)))
            try:
                await asyncio.wait({listening, *timers}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._draining -= 1
        finally:
            for timer in timers:
                timer.cancel()

    async def _completed(self, call: "_Call") -> None:
        call.said = await call.way.route.complete(call.conversation)

    async def _listened(self, call: "_Call") -> None:
        """Every delta to the reader but the finish and the usage, which come when it is paid."""
        async with aclosing(call.way.route.stream(call.conversation)) as deltas:
            async for delta in deltas:
                call.first_ns = call.first_ns or self._clock.now_ns()
                call.heard.add(delta)
                if call.heard.size_bytes > ANSWER_BYTES_MAX:
                    raise Unavailable(WHO, f"the language model answered with more than {ANSWER_BYTES_MAX} bytes")
                shown = msgspec.structs.replace(delta, finish=None, usage=None)
                if shown != _NOTHING:
                    await call.pipe.put(shown)
        if call.heard.finish is None:
            raise Unavailable(WHO, "the language model stopped in the middle")

    def _finished(self, call: "_Call", error: BaseException | None) -> "_Outcome":
        if error is None:
            return _Outcome(said=call.said or call.heard.said())
        if call.heard.finish is not None and isinstance(error, Unavailable):
            # All was said before it went wrong, only the count may lack.
            return _Outcome(said=call.heard.said())
        if not isinstance(error, Refusal):
            log.error("a call failed", request_id=call.request_id, exc_info=error)
        return _Outcome(error=error)

    # -- after

    async def _book(self, call: "_Call", outcome: "_Outcome") -> None:
        """Pay, or give back; then tell the reader. Where the ledger does not answer, it is told first, and asked again."""
        usage, estimated = self._usage(call, outcome)
        now_ns = self._clock.now_ns()
        row = _row(call, outcome, usage, now_ns, estimated=estimated)
        rows: list[Row] = [row]
        answer: Completed | BaseException
        if outcome.said is not None:
            answer = call.answered(outcome.said, usage, row)
            if call.ask.idempotency_key is not None:
                rows.append(call.kept(answer, now_ns))
        else:
            answer = outcome.error or TimedOut(WHO, "what was said was not read in time")
        call.used(usage.tokens_in + usage.tokens_out)
        self._count(call, outcome, usage, estimated=estimated)
        wait_s = RETRY_S_MIN
        try:
            while not await self._written(call, usage, rows, failed=outcome.error is not None):
                call.pipe.end(answer)
                if self._clock.now_ns() >= call.deadline_ns:
                    self._unbooked.inc()
                    log.error("a call was not booked", request_id=call.request_id)
                    return
                await self._clock.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S_MAX)
        finally:
            call.pipe.end(answer)

    async def _written(self, call: "_Call", usage: Usage, rows: Sequence[Row], *, failed: bool) -> bool:
        """Whether the ledger did it, or never will; False: ask again."""
        try:
            if not call.holds:
                if rows:
                    await self._ledger.note(rows)
            elif failed:
                await self._ledger.release(call.request_id, beside=rows)
            else:
                cost = min(call.tariff.micros(usage.tokens_in, usage.tokens_out), AMOUNT_MAX)
                await self._ledger.settle(call.request_id, cost, beside=rows)
        except (LimitExceeded, Unavailable) as e:
            log.warning("a call is not booked yet", request_id=call.request_id, error=e.text)
            return False
        except Refusal as e:
            # Released by a sweep before we came; or, where a hold failed, never held.
            if not failed:
                self._unbooked.inc()
                log.exception("a call was not booked", request_id=call.request_id, error=e.text)
        return True

    def _usage(self, call: "_Call", outcome: "_Outcome") -> tuple[Usage, bool]:
        """What is paid for, and whether it is our estimate."""
        if outcome.error is not None:
            return Usage(0, 0), False
        if outcome.left:
            return _believed(call.heard.usage) or Usage(call.tokens_in, call.heard.tokens), True
        said = outcome.said
        assert said is not None
        told = _believed(said.usage)
        if told is not None:
            return told, False
        return Usage(call.tokens_in, tokens_of(size_bytes(said)) if call.said else call.heard.tokens), True

    def _count(self, call: "_Call", outcome: "_Outcome", usage: Usage, *, estimated: bool) -> None:
        self._calls.labels("failed" if outcome.error is not None else "left" if outcome.left else "done").inc()
        self._tokens.labels("in").inc(usage.tokens_in)
        self._tokens.labels("out").inc(usage.tokens_out)
        self._micros.inc(call.tariff.micros(usage.tokens_in, usage.tokens_out))
        self._estimated.inc(estimated)


_NOTHING = Delta()


class _Way(NamedTuple):
    """A name, and who answers to it."""

    name: str
    alias: AliasConfig
    route: Route
    listed: bool


class _Running(NamedTuple):
    """An idempotency key that is being answered."""

    fingerprint: bytes
    over: asyncio.Event


class _Outcome(NamedTuple):
    """One of three: it was said, the reader left before, or it failed."""

    said: Said | None = None
    left: bool = False
    error: BaseException | None = None


class _Pipe:
    """What is on its way to one reader, and how it ended. Who puts waits while it is full."""

    def __init__(self, *, replayed: bool = False) -> None:
        self.replayed = replayed
        self.waiting: deque[Delta] = deque()
        self.ended: Completed | BaseException | None = None
        self._left = False
        self._moved = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether whoever puts waits for whoever reads."""
        return len(self.waiting) >= DELTAS_MAX

    async def put(self, delta: Delta) -> None:
        while self.full:
            await self._change()
        if not self._left:
            self.waiting.append(delta)
            self._moved.set()

    def end(self, how: "Completed | BaseException") -> None:
        """The first time counts."""
        if self.ended is None:
            self.ended = how
            self._moved.set()

    def leave(self) -> None:
        """Nobody reads any more."""
        self._left = True
        self.waiting.clear()
        self._moved.set()

    async def ready(self) -> None:
        while not self.waiting and self.ended is None:
            await self._change()

    async def next(self) -> Delta | None:
        """None at the end."""
        await self.ready()
        if not self.waiting:
            return None
        self._moved.set()
        return self.waiting.popleft()

    async def _change(self) -> None:
        # One waits for room or one for a delta, never both; and each looks again.
        self._moved.clear()
        await self._moved.wait()


class _Call:
    """One call on its way from admission to payment."""

    def __init__(
        self,
        payer: Payer,
        ask: Ask,
        way: _Way,
        model: str,
        tariff: Tariff,
        number: str,
        began_ns: int,
        *,
        streams: bool,
    ) -> None:
        self.payer = payer
        self.ask = ask
        self.way = way
        self.model = model
        self.tariff = tariff
        self.request_id = f"req_{number}"
        self.id = f"chatcmpl-{number}"
        self.began_ns = began_ns
        self.created_s = began_ns // NS
        self.streams = streams
        self.conversation = self.bounded(0)
        self.tokens_in = 0
        self.holds = False
        self.deadline_ns = began_ns
        self.correct: Callable[[int], None] | None = None
        self.heard = Heard(whole=ask.idempotency_key is not None)
        self.said: Said | None = None
        self.first_ns: int | None = None
        self.pipe = _Pipe()
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        """The reader has left."""
        if not self.left.done():
            self.left.set_result(None)
        self.pipe.leave()

    def bounded(self, output_tokens_max: int) -> Conversation:
        """What the model is asked."""
        thinks = self.way.alias.thinks if self.ask.thinks is None else self.ask.thinks
        return Conversation(
            messages=self.ask.messages, output_tokens_max=output_tokens_max, thinks=thinks, fields=self.ask.fields
        )

    def most_min(self, asked: int) -> int:
        """The fewest tokens out that must be paid for: all, where the caller says how many."""
        return self.ask.output_tokens_max or min(OUTPUT_TOKENS_MIN, asked)

    def used(self, tokens: int) -> None:
        """What was reserved of the limit is corrected, once."""
        if self.correct is not None:
            self.correct(tokens)
            self.correct = None

    def answered(self, said: Said, usage: Usage, row: UsageRow) -> Completed:
        """All of it, as the caller is told."""
        return Completed(
            request_id=self.request_id,
            id=self.id,
            created_s=self.created_s,
            model=self.model,
            said=msgspec.structs.replace(said, usage=usage),
            usage=usage,
            cost=self.tariff.cost(usage.tokens_in, usage.tokens_out),
            estimated=row.estimated,
            latency_ms=row.latency_ms,
        )

    def kept(self, answer: Completed, now_ns: int) -> KeptAnswer:
        """The answer as it is given again."""
        assert self.ask.idempotency_key is not None
        return KeptAnswer(
            account=self.payer.account,
            key=self.ask.idempotency_key,
            fingerprint=self.ask.fingerprint,
            # Half a pair of UTF-16, which an upstream may say, goes through this way, and through no other.
            body=json.dumps(msgspec.to_builtins(answer)).encode(),
            at_ns=now_ns,
        )


def _ways(routes: Mapping[str, Route], config: ModelsConfig) -> dict[str, _Way]:
    """Each name with its way: aliases, what else was named, and what the upstreams call the models of the aliases."""
    ways = {
        name: _Way(name, alias, routes[name], listed=True) for name, alias in config.aliases.items() if name in routes
    }
    # The model of the default alias does by its own name what it does by default.
    aliases = sorted(ways.values(), key=lambda way: way.name != config.default)
    for name, route in routes.items():
        ways.setdefault(name, _Way(name, AliasConfig(), route, listed=False))
    for way in aliases:
        name = way.route.upstream_model
        ways.setdefault(name, way._replace(name=name, listed=False))
    return ways


def _tariff(config: ModelsConfig) -> Tariff | None:
    if config.kai_usd is None:
        return None
    return Tariff(
        usd_per_1k_in=config.usd_per_1k_in,
        usd_per_1k_out=config.usd_per_1k_out,
        fee_multiplier=config.fee_multiplier,
        kai_usd=config.kai_usd,
    )


async def _stopped(task: "asyncio.Task[None]") -> None:
    """It was told to stop, and has, unless it takes too long; how it ended is not looked at here."""
    task.cancel()
    await asyncio.wait({task}, timeout=STOP_S_MAX)
    if task.done() and not task.cancelled():
        task.exception()


def _same(fingerprint: bytes, ask: Ask) -> None:
    if fingerprint != ask.fingerprint:
        raise OtherContent("the idempotency key is that of another question")


def _too_little(affords: int, needed: int) -> InsufficientFunds:
    return InsufficientFunds(f"the balance pays for {affords} tokens of an answer, {needed} are needed")


def _believed(usage: Usage | None) -> Usage | None:
    """As it was told, where it can be: an explicit zero is zero."""
    if usage is None or not (0 <= usage.tokens_in <= TOKENS_MAX and 0 <= usage.tokens_out <= TOKENS_MAX):
        return None
    thought = usage.reasoning_tokens
    if thought is not None and not 0 <= thought <= TOKENS_MAX:
        return msgspec.structs.replace(usage, reasoning_tokens=None)
    return usage


def _row(call: _Call, outcome: _Outcome, usage: Usage, now_ns: int, *, estimated: bool) -> UsageRow:
    error = outcome.error
    upstream_id = "" if outcome.said is None else outcome.said.upstream_id
    return UsageRow(
        request_id=call.request_id,
        account=call.payer.account,
        key=call.payer.key,
        endpoint=call.ask.endpoint,
        model=call.model,
        # Whatever it is, the database must take it.
        upstream_id="".join(filter(str.isprintable, upstream_id))[:UPSTREAM_ID_CHARACTERS_MAX],
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        reasoning_tokens=usage.reasoning_tokens,
        tariff=call.tariff.text,
        latency_ms=max(0, now_ns - call.began_ns) // MS,
        ttft_ms=None if call.first_ns is None else max(0, call.first_ns - call.began_ns) // MS,
        estimated=estimated,
        status="done" if error is None else "failed",
        error="" if error is None else error.code if isinstance(error, Refusal) else "internal",
        at_ns=now_ns,
    )


def _again(answer: Completed) -> Speaking:
    """A kept answer, as a stream."""
    pipe = _Pipe(replayed=True)
    pipe.waiting.extend(deltas_of(answer.said))
    pipe.end(answer)
    return Speaking(answer.request_id, answer.id, answer.created_s, answer.model, pipe, pipe.leave)
