"""Relay: sends a call to the language model and brings back what it answers."""

import asyncio
import random

import structlog

from openoutcry.chat import ChatAnswer, ChatRequest
from openoutcry.clock import NS, Clock
from openoutcry.errors import RateLimited, Unavailable, Unreadable
from openoutcry.telemetry import Telemetry
from openoutcry.transport import Http, Response, TransportError
from openoutcry.upstreams.upstream import Upstream

TRIES_MAX = 3
RETRY_S_MIN = 0.5
RETRY_S_MAX = 8.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024
WHO = "model"

log = structlog.get_logger()


class Relay:
    """One upstream at one address with one key. `timeout_s` is for a call with all its tries.

    Neither the key nor the address stands in anything this says.
    """

    def __init__(
        self,
        upstream: Upstream,
        url: str,
        key: str | None,
        *,
        model: str,
        provider: str,
        http: Http,
        clock: Clock,
        chance: random.Random,
        telemetry: Telemetry,
        timeout_s: float,
    ) -> None:
        self.model = model
        self.provider = provider
        self._upstream = upstream
        self._url = url.rstrip("/")
        self._key = key
        self._http = http
        self._clock = clock
        self._chance = chance
        self._timeout_s = timeout_s
        self._calls = telemetry.counter("model_calls", "Calls of the language model, by outcome", ["outcome"])
        self._tokens = telemetry.counter("model_tokens", "Tokens of the language model, as it counts them", ["way"])

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        """The model's answer, after at most TRIES_MAX tries. Raises Unavailable (RateLimited where it is busy)."""
        until_ns = self._clock.now_ns() + round(self._timeout_s * NS)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._tried(request, until_ns)
        except TimeoutError as e:
            self._calls.labels("timeout").inc()
            raise Unavailable(WHO, f"the language model did not answer within {self._timeout_s:g} s") from e
        if answer.usage is not None:
            self._tokens.labels("in").inc(answer.usage.tokens_in)
            self._tokens.labels("out").inc(answer.usage.tokens_out)
        return answer

    async def _tried(self, request: ChatRequest, until_ns: int) -> ChatAnswer:
        tries = 0
        while True:
            tries += 1
            try:
                return await self._once(request)
            except _Passing as e:
                refusal = e.refusal
                wait_s = self._wait_s(refusal, tries)
                if tries >= TRIES_MAX or self._clock.now_ns() + round(wait_s * NS) >= until_ns:
                    raise refusal from None
                log.info("language model is asked again", error=refusal.text, retry_s=round(wait_s, 3))
            await self._clock.sleep(wait_s)

    async def _once(self, request: ChatRequest) -> ChatAnswer:
        """Raises Unavailable; _Passing where it may be well in a moment."""
        call = self._upstream.encode(request, self._key)
        try:
            response = await self._http.send("POST", self._url + call.path, headers=call.headers, body=call.body)
        except TransportError as e:
            self._calls.labels("unreachable").inc()
            raise _Passing(Unavailable(WHO, f"the language model cannot be reached ({e})")) from None
        self._calls.labels(str(response.status)).inc()
        return self._decoded(response)

    def _decoded(self, response: Response) -> ChatAnswer:
        if len(response.body) > ANSWER_BYTES_MAX:
            raise Unavailable(WHO, f"the language model answered with more than {ANSWER_BYTES_MAX} bytes")
        try:
            return self._upstream.decode(response.status, response.headers, response.body)
        except Unreadable as e:
            # Its head is not shown: a strange server may send back what it was sent.
            log.warning("language model answers strangely", why=e.why)
            # It may have been paid for already, and would be again.
            raise Unavailable(WHO, f"the language model's answer cannot be read: {e.why}") from e
        except Unavailable as e:
            if isinstance(e, RateLimited) or response.status >= 500:
                raise _Passing(e) from None
            raise

    def _wait_s(self, refusal: Unavailable, tries: int) -> float:
        jittered = self._chance.uniform(RETRY_S_MIN, min(RETRY_S_MAX, RETRY_S_MIN * 4.0**tries))
        return jittered if refusal.retry_s is None else refusal.retry_s + self._chance.uniform(0, RETRY_S_MIN)


class _Passing(Exception):
    """A refusal that may be gone when the same is asked again."""

    def __init__(self, refusal: Unavailable) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal
