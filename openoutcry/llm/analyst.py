"""Analyst, the front door: candles of an instrument, told about by a language model or, without one, by rules.

An analysis is kept before it is begun and answered for at once; a worker does it. What a life of the server left running
is begun once more in the next one, and then given up.
"""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from openoutcry.aggregates.indicators import Indicators, indicators
from openoutcry.chat import ChatMessage, ChatRequest
from openoutcry.clock import Clock
from openoutcry.errors import Invalid, LimitExceeded, NoData, Refusal, TooLarge, Unavailable, Unknown
from openoutcry.events import Candle
from openoutcry.instrument import Instrument
from openoutcry.llm import narrator
from openoutcry.llm.material import Gather, Material
from openoutcry.llm.prompt import messages
from openoutcry.llm.relay import Relay
from openoutcry.llm.store import Analysis, AnalysisStore, Status
from openoutcry.telemetry import Telemetry

__all__ = ["Analysis", "Analyst", "Status"]

# EMA100 needs 100 candles; the rest lets it forget what it began with.
CANDLES = 150
WORKERS = 2
QUEUE_MAX = 50
# So long is a queue that is full worth no further try; and so long the store, where it does not take a result.
RETRY_S = 30.0
STORE_RETRY_S = 5.0
STORE_TRIES_MAX = 12
LIST_MAX = 500
PROMPT_CHARS_MAX = 4_000
USER_CHARS_MAX = 200
OUTPUT_CHARS_MAX = 32_000
OUTPUT_TOKENS_MAX = 4_000
TEMPERATURE = 0.3
CUT = "\n\n(The answer was cut here: it had reached its limit.)"
INTERRUPTED = "interrupted"
INTERNAL = "internal error"
ID_MAX = 2**63 - 1

log = structlog.get_logger()

Find = Callable[[str], Awaitable[Instrument]]
There = Callable[[Instrument, int], Awaitable[bool]]


class Analyst:
    """`gather` brings what is known of an instrument, `find` the instrument of a name, `there` says whether a candle of that
    length is stored; `relay` None: the narrator tells.

    `run` works until cancelled.
    """

    def __init__(
        self,
        store: AnalysisStore,
        gather: Gather,
        find: Find,
        clock: Clock,
        telemetry: Telemetry,
        *,
        there: There | None = None,
        relay: Relay | None = None,
        indicate: Callable[[Sequence[Candle]], Indicators] = indicators,
        reasoning: bool = False,
        output_tokens_max: int = OUTPUT_TOKENS_MAX,
        workers: int = WORKERS,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self._store = store
        self._gather = gather
        self._find = find
        self._there = there or _unknown
        self._clock = clock
        self._relay = relay
        self._indicate = indicate
        self._reasoning = reasoning
        self._output_tokens_max = output_tokens_max
        self._workers = workers
        self._queue_max = queue_max
        self._queue: asyncio.Queue[Analysis] = asyncio.Queue()  # bounded by `_waiting`, and by what was left running
        self._waiting = 0
        # Of this life, and not over.
        self._own: set[int] = set()
        self._keeping: set[asyncio.Task[Analysis]] = set()
        # Whether one that runs is of this life must not be asked between its being kept and its being known.
        self._turn = asyncio.Lock()
        self._ended = telemetry.counter("analyses", "Analyses that are over, by outcome", ["outcome"])
        telemetry.gauge("analyses_waiting", "Analyses that wait for a worker").set_function(lambda: self._waiting)

    @property
    def model(self) -> str:
        """Who tells about candles now."""
        return narrator.MODEL if self._relay is None else self._relay.model

    @property
    def provider(self) -> str:
        """Whose model it is."""
        return narrator.PROVIDER if self._relay is None else self._relay.provider

    async def create(self, instrument: Instrument, interval_s: int, prompt: str, user: str = "") -> Analysis:
        """A new analysis, kept and waiting for its turn.

        Raises NoData, TooLarge (the prompt), LimitExceeded (too many wait), Unavailable; BadInterval as the market does.
        """
        question = _plain(prompt).strip()
        if len(question) > PROMPT_CHARS_MAX:
            raise TooLarge(f"a prompt has at most {PROMPT_CHARS_MAX} characters")
        if self._waiting >= self._queue_max:
            raise LimitExceeded(f"{self._waiting} analyses wait already: try again in {RETRY_S:g} s", RETRY_S)
        self._waiting += 1
        try:
            # Nobody waits for a venue where candles are at hand; where none is, one look at it says whether there are any.
            if not await self._there(instrument, interval_s):
                _some(await self._gather(instrument, interval_s, CANDLES))
        except BaseException:  # whatever it was goes on; the place in the queue is free again
            self._waiting -= 1
            raise
        record = Analysis(
            instrument=instrument.name,
            symbol=instrument.coin,
            interval_s=interval_s,
            prompt=question,
            model=self.model,
            provider=self.provider,
            created_ns=self._clock.now_ns(),
            user=_plain(user)[:USER_CHARS_MAX],
        )
        # A caller who leaves now must not leave behind one that is kept and never begun.
        keeping = asyncio.create_task(self._keep(record))
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)
        return await asyncio.shield(keeping)

    async def list(self, instrument: Instrument | None, limit: int) -> Sequence[Analysis]:
        """The newest first, at most LIST_MAX, without prompt snapshots. Raises Invalid, Unavailable."""
        if limit < 1:
            raise Invalid("the limit must be at least 1")
        name = None if instrument is None else instrument.name
        return await asyncio.to_thread(self._store.list, name, min(limit, LIST_MAX))

    async def get(self, id_: int) -> Analysis:
        """Raises Unknown, Unavailable."""
        found = await asyncio.to_thread(self._store.get, id_) if 0 < id_ <= ID_MAX else None
        if found is None:
            raise Unknown("no such analysis")
        return found

    async def run(self) -> None:
        """Begin again what was left running, then do what comes, until cancelled."""
        await self._resume()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._work())

    # -- keeping

    async def _keep(self, record: Analysis) -> Analysis:
        async with self._turn:
            try:
                kept = await asyncio.to_thread(self._store.add, record)
            except BaseException:  # it goes on to the caller
                self._waiting -= 1
                raise
            self._own.add(kept.id)
        self._queue.put_nowait(kept)
        return kept

    async def _resume(self) -> None:
        for record in await self._left():
            self._own.add(record.id)
            if record.requeued:
                await self._save(self._over(record, error=INTERRUPTED))
                continue
            again = msgspec.structs.replace(record, requeued=True)
            await self._save(again)
            self._waiting += 1
            self._queue.put_nowait(again)

    async def _left(self) -> Sequence[Analysis]:
        """What runs by the store's account, and not by ours."""
        while True:
            try:
                async with self._turn:
                    running = await asyncio.to_thread(self._store.running)
                    return [record for record in running if record.id not in self._own]
            except Unavailable as e:
                log.warning("analyses of before are not known yet", error=e.text, retry_s=STORE_RETRY_S)
            await self._clock.sleep(STORE_RETRY_S)

    async def _save(self, record: Analysis) -> None:
        for tries in range(STORE_TRIES_MAX):
            if tries:
                await self._clock.sleep(STORE_RETRY_S)
            try:
                await asyncio.to_thread(self._store.update, record)
                break
            except Unavailable as e:
                # After the last try it stays running: the next life of the server begins it again.
                log.warning("an analysis is not stored", id=record.id, tries=tries + 1, error=e.text)
        if record.status is not Status.RUNNING:
            self._own.discard(record.id)
            self._ended.labels(record.status.value).inc()

    # -- working

    async def _work(self) -> None:
        while True:
            record = await self._queue.get()
            self._waiting -= 1
            await self._save(await self._attempt(record))

    async def _attempt(self, record: Analysis) -> Analysis:
        """The same, completed or failed."""
        record = msgspec.structs.replace(record, model=self.model, provider=self.provider)
        try:
            instrument = await self._find(record.instrument)
            material = await self._gather(instrument, record.interval_s, CANDLES)
            told = self._indicate(_some(material).candles)
            sent = messages(material, told, record.prompt)
            snapshot = "\n\n".join(message.text for message in sent)
            record = msgspec.structs.replace(record, prompt_snapshot=snapshot, candles_used=len(material.candles))
            if self._relay is None:
                return self._over(record, analysis=narrator.narrate(material, told, record.prompt))
            return await self._asked(record, self._relay, sent)
        except Refusal as e:
            log.info("an analysis failed", id=record.id, error=e.text)
            return self._over(record, error=e.text)
        except Exception:  # one that we cannot do must not end the worker, and is a record like any other
            log.exception("an analysis failed", id=record.id)
            return self._over(record, error=INTERNAL)

    async def _asked(self, record: Analysis, relay: Relay, sent: tuple[ChatMessage, ...]) -> Analysis:
        answer = await relay.complete(
            ChatRequest(
                model=relay.model,
                messages=sent,
                output_tokens_max=self._output_tokens_max,
                temperature=TEMPERATURE,
                reasoning=self._reasoning,
            )
        )
        text = _plain(answer.text)
        cut = CUT if answer.cut or len(text) > OUTPUT_CHARS_MAX else ""
        usage = answer.usage
        return self._over(
            msgspec.structs.replace(
                record,
                model=_plain(answer.model) or relay.model,
                tokens_in=None if usage is None else usage.tokens_in,
                tokens_out=None if usage is None else usage.tokens_out,
            ),
            analysis=text[:OUTPUT_CHARS_MAX] + cut,
        )

    def _over(self, record: Analysis, *, analysis: str | None = None, error: str | None = None) -> Analysis:
        status = Status.COMPLETED if error is None else Status.FAILED
        now_ns = self._clock.now_ns()
        return msgspec.structs.replace(record, status=status, analysis=analysis, error=error, completed_ns=now_ns)


async def _unknown(_instrument: Instrument, _interval_s: int) -> bool:
    return False


def _some(material: Material) -> Material:
    if not material.candles:
        instrument = material.instrument
        raise NoData(f"there is no closed candle of {instrument.symbol} at {instrument.venue} at this interval")
    return material


def _plain(text: str) -> str:
    """Without characters that control terminals or that a database refuses; line ends and tabs stay."""
    return "".join(each for each in text if each in "\n\t" or unicodedata.category(each) not in {"Cc", "Cs"})
