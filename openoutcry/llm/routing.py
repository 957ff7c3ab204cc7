"""Routing: a model's upstreams in order, the next one where one fails before anything was said.

A try that fails in a way that may pass (no connection, broken off, 408, 429, 5xx) leaves the same upstream its further
tries; one that will not (our key refused, nothing in time, an answer nobody can read) leaves only the next upstream. What
is the caller's fault is told at once. After the first piece of an answer nothing is tried again.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from openoutcry.chat import Conversation, Delta, Said
from openoutcry.clock import NS, Clock
from openoutcry.config import UpstreamConfig
from openoutcry.errors import Invalid, Refusal, TimedOut, Unavailable, Unreadable
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Arriving, Patience, TransportError, TransportTimeout, Unconnected, Web
from openoutcry.upstreams import tokens
from openoutcry.upstreams.upstream import Manner, Upstream

WHO = "model"
# An upstream that failed is asked last for so long; for as long as it says where it says so, up to the latter.
COOLDOWN_S = 15.0
COOLDOWN_S_MAX = 60.0
RETRY_S_MIN = 0.25
RETRY_S_MAX = 4.0
ERROR_BYTES_MAX = 64 * 1024
# Of an answer, streamed or whole: 8,192 tokens with twenty likely ones beside each.
STREAM_BYTES_MAX = 32 * 1024 * 1024
# Whoever said that there is no more may close the connection in good order so long: it can be used again then.
TAIL_S_MAX = 0.25
PROBE_S_MAX = 5.0
TOKENIZE_S_MAX = 1.0
TOKENIZE_BYTES_MAX = 1024 * 1024
# One that did not count is not asked to for so long.
TOKENIZE_RETRY_S = 30.0
BYTES_PER_TOKEN = 3
TOKENS_PER_MESSAGE = 8
# What stands for a picture, a sound or a file: its bytes say nothing about its tokens.
TOKENS_PER_PART = 1_024

log = structlog.get_logger()
_T = TypeVar("_T")


class Route(Protocol):
    """The way to the model of one name: upstreams in their order, or the built-in narrator."""

    provider: str
    upstream_model: str

    def status(self) -> str:
        """`available`, `degraded` (something failed when last asked) or `unknown` (nothing was asked yet)."""
        ...

    async def tokens_in(self, conversation: Conversation) -> int:
        """About how many tokens the conversation has."""
        ...

    async def complete(self, conversation: Conversation) -> Said:
        """The whole answer. Raises Invalid, and Unavailable (of it RateLimited, TimedOut)."""
        ...

    def stream(self, conversation: Conversation) -> AsyncGenerator[Delta, None]:
        """The answer as it comes; its first item, or what is raised instead, decides. Raised later: it was cut.

        Closing it, or cancelling whoever waits for its next item, ends the upstream's work at once.
        """
        ...


class Line:
    """One upstream: how it is reached, and how it did last. All models that it answers share it."""

    def __init__(
        self, name: str, config: UpstreamConfig, upstream: Upstream, web: Web, clock: Clock, telemetry: Telemetry
    ) -> None:
        self.name = name
        self.config = config
        # None until it was asked.
        self.well: bool | None = None
        self.cool_ns = 0
        self._upstream = upstream
        self._url = config.base_url.rstrip("/")
        self._key = None if config.api_key is None else config.api_key.get_secret_value()
        self._web = web
        self._clock = clock
        self._counts = True
        self._counts_whole: bool | None = None
        self._count_ns = 0
        self._calls = telemetry.counter("upstream_calls", "Calls of upstreams, by outcome", ["upstream", "outcome"])

    def manner(self, model: str | None) -> Manner:
        """How it wants to be asked; `model` None: for its own model."""
        return Manner(
            model=model or self.config.model,
            reasoning=self.config.reasoning,
            usage_stats=self.config.usage_stats,
            extra=self.config.extra_body,
        )

    async def complete(self, conversation: Conversation, manner: Manner, rest_s: float) -> Said:
        """The whole answer, in one try. Raises Invalid, and _Failed where another try is worth it."""
        call = self._upstream.ask(conversation, manner, self._key, stream=False)
        try:
            # Such an answer begins when it is whole: its first byte has as long as the last.
            arriving = await self._asked(call.path, call.headers, call.body, rest_s, first_byte_s=rest_s)
            body = await _whole(arriving)
            said = self._upstream.said(200, arriving.headers, body)
        except (TransportError, Unreadable, Refusal, _Failed) as e:
            raise self._failure(e) from None
        self._answers()
        self._count("good")
        return said

    async def stream(self, conversation: Conversation, manner: Manner, rest_s: float) -> AsyncGenerator[Delta, None]:
        """The answer as it comes, in one try. Raises as `complete`; after the first piece Unavailable."""
        call = self._upstream.ask(conversation, manner, self._key, stream=True)
        outcome, spoke = "left", False
        try:
            arriving = await self._asked(
                call.path, call.headers, call.body, rest_s, first_byte_s=self.config.first_byte_s
            )
            try:
                async with aclosing(self._deltas(arriving)) as deltas:
                    async for delta in deltas:
                        if not spoke:
                            spoke = True
                            self._answers()
                        yield delta
                outcome = "good"
            finally:
                await arriving.close()
        except (TransportError, Unreadable, Refusal, _Failed) as e:
            outcome = ""  # counted as what it is
            failure = self._failure(e)
            if spoke and isinstance(failure, _Failed):
                raise failure.refusal from None
            raise failure from None
        finally:
            if outcome:
                self._count(outcome)

    async def tokens_in(self, conversation: Conversation, manner: Manner) -> int | None:
        """How many tokens the conversation has there; None where it does not count them, or not in time."""
        if not self._counts or self._clock.now_ns() < self._count_ns:
            return None
        try:
            async with asyncio.timeout(TOKENIZE_S_MAX):
                return await self._counted(conversation, manner)
        except (TransportError, TimeoutError):
            self._count_ns = self._clock.now_ns() + round(TOKENIZE_RETRY_S * NS)
        except Invalid:
            # One that counts others does not count this one, which says nothing about the next.
            if self._counts_whole is None:
                self._count_ns = self._clock.now_ns() + round(TOKENIZE_RETRY_S * NS)
        except Unreadable as e:
            if self._counts_whole is None:
                log.info("upstream does not count tokens", upstream=self.name, why=e.why)
                self._counts = False
        return None

    async def probe(self) -> None:
        """Ask what models it has; say what is wrong, and go on whatever it is."""
        try:
            async with asyncio.timeout(PROBE_S_MAX):
                answer = await self._web.send("GET", f"{self._url}/models", headers=self._headers())
        except (TransportError, TimeoutError) as e:
            self.well = False
            log.warning("upstream cannot be reached", upstream=self.name, why=str(e) or type(e).__name__)
            return
        # One that lists no models (404) may well answer: only what speaks against that counts.
        self.well = answer.status < 500 and answer.status not in {401, 403}
        if not self.well:
            log.warning("upstream does not serve us", upstream=self.name, status=answer.status)
        elif answer.status == 200 and self.config.model not in (named := _named(answer.body)) and named:
            log.warning("upstream does not name our model", upstream=self.name, model=self.config.model)

    # -- asking

    def _headers(self) -> Mapping[str, str]:
        headers = {"content-type": "application/json", "accept": "application/json"}
        return headers if self._key is None else {**headers, "authorization": f"Bearer {self._key}"}

    async def _asked(
        self, path: str, headers: Mapping[str, str], body: bytes, rest_s: float, *, first_byte_s: float
    ) -> Arriving:
        """An answer with status 200. Raises TransportError, Invalid, _Failed."""
        arriving = await self._web.begin(
            "POST",
            self._url + path,
            headers=headers,
            body=body,
            patience=Patience(
                connect_s=min(self.config.connect_s, rest_s),
                first_byte_s=first_byte_s,
                idle_s=self.config.idle_s,
                whole_s=rest_s,
            ),
        )
        if arriving.status != 200:
            told = await _whole(arriving, ERROR_BYTES_MAX)
            self._count(str(arriving.status))
            refusal = self._upstream.refusal(arriving.status, arriving.headers, told)
            if isinstance(refusal, Unavailable):
                raise _Failed(refusal, again=arriving.status in {408, 429} or arriving.status >= 500)
            raise refusal
        return arriving

    async def _deltas(self, arriving: Arriving) -> AsyncGenerator[Delta, None]:
        if arriving.headers.get("content-type", "").startswith("application/json"):
            # It does not stream: what it says comes in one piece.
            for delta in _pieces(self._upstream.said(200, arriving.headers, await _whole(arriving))):
                yield delta
            return
        reader = self._upstream.reader()
        async for chunk in arriving:
            for delta in reader.feed(chunk):
                yield delta
            if reader.over:
                break
        for delta in reader.end():
            yield delta
        with suppress(TimeoutError, TransportError):
            async with asyncio.timeout(TAIL_S_MAX):
                async for _ in arriving:
                    pass

    # -- how it does

    def _answers(self) -> None:
        if self.well is False:
            log.info("upstream answers again", upstream=self.name)
        self.well = True

    def _count(self, outcome: str) -> None:
        self._calls.labels(self.name, outcome).inc()

    def _failure(self, e: "TransportError | Unreadable | Refusal | _Failed") -> "Refusal | _Failed":
        """What to raise for it: what is the caller's fault as it is."""
        if isinstance(e, Refusal) and not isinstance(e, Unavailable):
            self._answers()
            # Of many callers it may be ours after all: a field that this upstream does not know.
            log.info("upstream refuses a question", upstream=self.name, why=e.text)
            return e
        failed = e if isinstance(e, _Failed) else self._failed(e)
        told_s = failed.refusal.retry_s
        # Said once, and not at every call while it lasts.
        tell = log.debug if self.well is False else log.warning
        tell("upstream failed", upstream=self.name, why=failed.refusal.text)
        self.well = False
        self.cool_ns = self._clock.now_ns() + round(
            NS * (COOLDOWN_S if told_s is None else min(told_s, COOLDOWN_S_MAX))
        )
        return failed

    def _failed(self, e: TransportError | Unreadable | Refusal) -> "_Failed":
        if isinstance(e, Unavailable):
            self._count("failed")
            return _Failed(e, again=True)
        if isinstance(e, Unconnected):
            self._count("unreachable")
            text = f"the language model cannot be reached ({e})"
            refusal = TimedOut(WHO, text) if isinstance(e, TransportTimeout) else Unavailable(WHO, text)
            return _Failed(refusal, again=True)
        if isinstance(e, TransportTimeout):
            self._count("timeout")
            # What it is doing now it would do twice.
            return _Failed(TimedOut(WHO, f"the language model did not answer in time: {e}"), again=False)
        if isinstance(e, TransportError):
            self._count("cut")
            return _Failed(Unavailable(WHO, f"the language model's answer broke off ({e})"), again=True)
        assert isinstance(e, Unreadable)
        self._count("unreadable")
        # Its head is not shown: a strange server may send back what it was sent.
        return _Failed(Unavailable(WHO, f"the language model's answer cannot be read: {e.why}"), again=False)

    # -- counting

    async def _counted(self, conversation: Conversation, manner: Manner) -> int | None:
        """Raises TransportError, Invalid (not this one), Unreadable (not at all)."""
        if self._counts_whole is not False:
            counted = tokens.counted(await self._told(tokens.TOKENIZE, tokens.of_conversation(conversation, manner)))
            self._counts_whole = counted.whole
            if counted.whole:
                return counted.tokens
        text = tokens.prompt(await self._told(tokens.TEMPLATE, tokens.templated(conversation, manner)))
        return tokens.counted(await self._told(tokens.TOKENIZE, tokens.of_text(text))).tokens

    async def _told(self, path: str, body: bytes) -> bytes:
        if len(body) > TOKENIZE_BYTES_MAX:
            raise Invalid("too long to be counted in time")
        root = self._url.removesuffix("/v1")
        answer = await self._web.send("POST", root + path, headers=self._headers(), body=body)
        if answer.status >= 500 or answer.status == 429:
            raise TransportError(f"status {answer.status}")
        if answer.status in {400, 422}:
            raise Invalid("not counted there")
        if answer.status != 200:
            raise Unreadable(f"status {answer.status}")
        return answer.body


class Routed:
    """One model: the same conversation goes to the first of its lines that answers.

    `model` None: each upstream's own. Neither keys nor addresses stand in anything this says.
    """

    def __init__(self, lines: Sequence[Line], clock: Clock, chance: random.Random, *, model: str | None = None) -> None:
        assert lines, "a model without an upstream"
        self.provider = lines[0].name
        self.upstream_model = model or lines[0].config.model
        # A call with all its tries takes no longer.
        self.whole_s = max(line.config.whole_s for line in lines)
        self._lines = lines
        self._model = model
        self._clock = clock
        self._chance = chance

    def status(self) -> str:
        """How its upstreams did when last asked."""
        if any(line.well is False for line in self._lines):
            return "degraded"
        return "available" if any(line.well for line in self._lines) else "unknown"

    async def tokens_in(self, conversation: Conversation) -> int:
        """As the upstream that would be asked first counts them, else `estimated`. Raises Invalid."""
        line = self._ordered()[0]
        try:
            counted = await line.tokens_in(conversation, line.manner(self._model))
            return estimated(conversation) if counted is None else counted
        except UnicodeEncodeError as e:
            raise Invalid("a text holds half a character (a lone surrogate)") from e

    async def complete(self, conversation: Conversation) -> Said:
        """The whole answer. Raises Invalid, Unavailable (of it RateLimited, TimedOut)."""

        async def once(line: Line, rest_s: float) -> Said:
            return await line.complete(conversation, line.manner(self._model), rest_s)

        return await self._tried(once)

    async def stream(self, conversation: Conversation) -> AsyncGenerator[Delta, None]:
        """The answer as it comes. Raises as `complete` before its first item, and Unavailable where it was cut."""

        async def once(line: Line, rest_s: float) -> tuple[Delta, AsyncGenerator[Delta, None]]:
            deltas = line.stream(conversation, line.manner(self._model), rest_s)
            return await anext(deltas), deltas  # a stream without a piece has no end, and raises

        first, deltas = await self._tried(once)
        async with aclosing(deltas):
            yield first
            async for delta in deltas:
                yield delta

    async def probe(self) -> None:
        """Ask all upstreams what models they have; what is wrong is logged."""
        async with asyncio.TaskGroup() as tasks:
            for line in self._lines:
                tasks.create_task(line.probe())

    # -- trying

    def _ordered(self) -> Sequence[Line]:
        """Those that have just failed last."""
        now_ns = self._clock.now_ns()
        return sorted(self._lines, key=lambda line: line.cool_ns > now_ns)

    async def _tried(self, once: Callable[[Line, float], Awaitable[_T]]) -> _T:
        until_ns = self._clock.now_ns() + round(self.whole_s * NS)
        left = {line: 1 + line.config.retries for line in self._lines}
        due_ns = dict.fromkeys(self._lines, 0)
        refusal = Unavailable(WHO, "the language model was not asked")
        rounds = 0
        while True:
            for line in self._ordered():
                now_ns = self._clock.now_ns()
                if not left[line] or now_ns < due_ns[line] or now_ns >= until_ns:
                    continue
                left[line] -= 1
                try:
                    return await once(line, min(line.config.whole_s, (until_ns - now_ns) / NS))
                except _Failed as e:
                    refusal = e.refusal
                    due_ns[line] = self._clock.now_ns() + round((refusal.retry_s or 0) * NS)
                    if not e.again:
                        left[line] = 0
            wait_s = self._wait_s([due_ns[line] for line in self._lines if left[line]], rounds)
            if wait_s is None or self._clock.now_ns() + round(wait_s * NS) >= until_ns:
                raise refusal
            rounds += 1
            await self._clock.sleep(wait_s)

    def _wait_s(self, due_ns: Sequence[int], rounds: int) -> float | None:
        """How long to wait before those with further tries are asked again; None where there are none."""
        if not due_ns:
            return None
        jitter_s = self._chance.uniform(RETRY_S_MIN, min(RETRY_S_MAX, RETRY_S_MIN * 4.0 ** (rounds + 1)))
        return max((min(due_ns) - self._clock.now_ns()) / NS, 0.0) + jitter_s


class _Failed(Exception):
    """A try that failed; `again`: the same upstream may do better in a moment."""

    def __init__(self, refusal: Unavailable, *, again: bool) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal
        self.again = again


def estimated(conversation: Conversation) -> int:
    """About how many tokens a conversation has, where nobody counts them: rather more than fewer."""
    parts = 0
    messages = []
    for message in conversation.messages:
        content = message.get("content")
        if isinstance(content, list | tuple):
            texts = [part for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
            parts += len(content) - len(texts)
            message = {**message, "content": texts}  # noqa: PLW2901 (the same message, without what is no text)
        messages.append(message)
    told = [
        messages,
        *(conversation.fields[name] for name in ("tools", "response_format") if name in conversation.fields),
    ]
    size = sum(len(msgspec.json.encode(each)) for each in told)
    return -(-size // BYTES_PER_TOKEN) + len(messages) * TOKENS_PER_MESSAGE + parts * TOKENS_PER_PART


async def _whole(arriving: Arriving, bytes_max: int = STREAM_BYTES_MAX) -> bytes:
    """The body. Raises TransportError; of a body above the limit it is the head."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in arriving:
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                break
    finally:
        await arriving.close()
    return b"".join(parts)[:bytes_max]


def _pieces(said: Said) -> Iterator[Delta]:
    calls: Sequence[Any] = [{"index": at, **call} for at, call in enumerate(said.tool_calls)]
    yield Delta(
        text=said.text or "",
        thought=said.thought,
        refusal=said.refusal,
        tool_calls=calls,
        logprobs=said.logprobs,
        finish=said.finish,
        usage=said.usage,
    )


class _Models(msgspec.Struct, frozen=True):
    data: list[Any] = []


def _named(body: bytes) -> frozenset[str]:
    """The models that it lists; none where it lists nothing that can be read."""
    try:
        told = msgspec.json.decode(body, type=_Models)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return frozenset()
    return frozenset(each["id"] for each in told.data if isinstance(each, dict) and isinstance(each.get("id"), str))
