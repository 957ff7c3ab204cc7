"""Language models over HTTP: one function a route, and the stream of one answer.

A stream is written as its reader takes it: who reads slowly slows the model, who reads nothing for `READ_S_MAX` is cut,
who leaves is told to `Models` at once.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Path
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openoutcry.accounts.callers import Caller
from openoutcry.accounts.keys import AI
from openoutcry.api.agentk import chat_wire, wire
from openoutcry.api.dialect import Doors
from openoutcry.api.requests import CUT
from openoutcry.clock import NS, Clock
from openoutcry.errors import Forbidden, Invalid, Refusal, Unauthenticated, Unsupported
from openoutcry.llm.models import Payer, Speaking

KEEP_ALIVE_S = 15.0
READ_S_MAX = 25.0
READ_CHECK_S = 5.0
TAG = "AI"
CLIENT_LEFT = 499  # as nginx counts those who did not wait

# Proxies must neither keep a stream back nor keep it.
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_T = TypeVar("_T")

log = structlog.get_logger()


def router(doors: Doors, gate: wire.Gate) -> APIRouter:
    """The routes of language models."""
    spoken_to, listed = (APIRouter(route_class=kind, tags=[TAG]) for kind in (wire.KeyedPlain, wire.Keyed))
    _spoken_to(spoken_to, doors, gate)
    _listed(listed, doors, gate)
    routes = APIRouter()
    routes.include_router(spoken_to)
    routes.include_router(listed)
    return routes


def _spoken_to(routes: APIRouter, doors: Doors, gate: wire.Gate) -> None:
    @routes.post(
        chat_wire.COMPLETIONS,
        summary="Ask a model, as OpenAI's chat completions; metered",
        responses=chat_wire.COMPLETION_ANSWERS,
        openapi_extra=chat_wire.COMPLETION_QUESTION,
    )
    async def completions(request: Request) -> Response:
        caller = await gate.caller(request, AI)
        try:
            key = chat_wire.idempotency_key(request.headers.getlist("idempotency-key"))
            asked = chat_wire.completion_asked(request.headers.get("content-type"), await request.body())
            ask = chat_wire.completion_ask(asked, key)
            models = wire.there(doors.models, "language models")
            if asked.stream:
                speaking = await _while_there(request, models.stream(_payer(doors, caller), ask))
                apart = asked.stream_options is not None and bool(asked.stream_options.include_usage)
                return Spoken(speaking, doors.clock, _watch(doors, caller), usage_apart=apart)
            told = await _while_there(request, models.complete(_payer(doors, caller), ask))
        except (Invalid, Unsupported) as refusal:
            return chat_wire.bad_request(refusal)
        except ClientDisconnect:
            return _unread()
        return Response(chat_wire.completion(told), 200, chat_wire.headers(told), media_type="application/json")

    @routes.post(
        chat_wire.CHAT,
        summary="Ask a model one question, and see what it cost; metered",
        responses=chat_wire.SIMPLE_ANSWERS,
        openapi_extra=chat_wire.SIMPLE_QUESTION,
    )
    async def chat(request: Request) -> Response:
        caller = await gate.caller(request, AI)
        try:
            key = chat_wire.idempotency_key(request.headers.getlist("idempotency-key"))
        except Invalid as refusal:
            return chat_wire.bad_request(refusal)
        models = wire.there(doors.models, "language models")
        try:
            asked = chat_wire.simple_asked(request.headers.get("content-type"), await request.body())
            ask = chat_wire.simple_ask(asked, key)
            told = await _while_there(request, models.complete(_payer(doors, caller), ask))
        except ClientDisconnect:
            return _unread()
        return wire.envelope(chat_wire.simple(told), chat_wire.headers(told))


def _listed(routes: APIRouter, doors: Doors, gate: wire.Gate) -> None:
    @routes.get("/v1/models", summary="Which models there are", responses=chat_wire.MODELS_ANSWERS)
    async def models(request: Request) -> Response:
        await gate.caller(request)
        listed = wire.there(doors.models, "language models").listed()
        return Response(wire.encode(chat_wire.models(listed)), media_type="application/json")

    @routes.get("/v1/models/{model_id:path}", summary="One model", responses=chat_wire.MODEL_ANSWERS)
    async def model(
        request: Request, model_id: Annotated[str, Path(description="May hold slashes", examples=["kai-smart"])]
    ) -> Response:
        await gate.caller(request)
        found = wire.there(doors.models, "language models").find(model_id)
        return Response(wire.encode(chat_wire.model(found)), media_type="application/json")


def _payer(doors: Doors, caller: Caller) -> Payer:
    if caller.account is None:
        raise Forbidden("the key belongs to no account, which could pay")
    limits = wire.there(doors.limits, "accounts")
    key = None if caller.key is None else caller.key.id
    return Payer(account=caller.account.id, key=key, reserve=partial(limits.reserve, caller))


async def _while_there(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What comes of the work, which is cancelled when the caller leaves. Raises ClientDisconnect."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(leaving, *([] if working.done() else [working]))
    if working.cancelled():
        raise ClientDisconnect
    return working.result()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _unread() -> Response:
    """What nobody is there to read."""
    return Response(status_code=CLIENT_LEFT)


Watch = Callable[[Callable[[], None]], Callable[[], None]]


def _watch(doors: Doors, caller: Caller) -> Watch | None:
    return None if caller.key is None else partial(doors.keys.watch, caller.key)


class Spoken(Response):
    """An answer as a stream of events. `watch` calls when the key that asked is revoked; None: there is none."""

    media_type = "text/event-stream"

    def __init__(self, speaking: Speaking, clock: Clock, watch: Watch | None, *, usage_apart: bool) -> None:
        self._speaking, self._clock, self._watch = speaking, clock, watch
        self._chunks = chat_wire.Chunks(speaking.id, speaking.created_s, speaking.model, usage_apart=usage_apart)
        self._send: Send | None = None
        self._wrote_ns = clock.now_ns()
        self._writing = False
        self.status_code, self.background = 200, None
        self.init_headers(_STREAM_HEADERS | chat_wire.replayed(speaking.replayed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it to the end, or until nobody reads."""
        self._send = send
        # With a refusal: why it ends early. With None: the reader left.
        over: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        unwatch = None if self._watch is None else self._watch(partial(_end, over, _REVOKED))
        beside = [asyncio.create_task(self._leave(receive, over)), asyncio.create_task(self._cut(scope, over))]
        try:
            await self._start()
            failure = await self._speak_until(over)
            if not over.done() or over.result() is not None:
                await self._write(b"" if failure is None else chat_wire.failed(failure))
                await self._write(b"", more=False)
        except OSError:
            pass  # the reader left, which some servers say so
        finally:
            if unwatch is not None:
                unwatch()
            self._speaking.close()
            await _cancelled(*beside)

    async def _start(self) -> None:
        assert self._send is not None
        await self._send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._write(self._chunks.first())

    async def _speak_until(self, over: "asyncio.Future[Refusal | None]") -> Refusal | None:
        """Write what is said until it is `over`, one way or the other; gives why it failed."""
        speech, keep = asyncio.create_task(self._speak()), asyncio.create_task(self._keep_alive())
        try:
            await asyncio.wait((speech, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(speech, keep)
        if speech.cancelled() and over.done():
            return over.result()
        error: BaseException | None = asyncio.CancelledError() if speech.cancelled() else speech.exception()
        if error is None or isinstance(error, Refusal):
            return error
        if isinstance(error, OSError):
            raise error
        log.error("a stream failed", exc_info=error)
        return Refusal("internal error")

    async def _speak(self) -> None:
        chunks = self._chunks
        last = None
        async for delta in self._speaking:
            body = chunks.said(delta)
            if body:
                await self._write(body)
            last = delta
        # `Models` says so of each stream that did not raise.
        assert last is not None
        assert last.finish is not None
        assert last.usage is not None
        await self._write(chunks.finished(last.finish, last.usage))

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        assert self._send is not None
        self._wrote_ns, self._writing = self._clock.now_ns(), True
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._writing = False

    async def _keep_alive(self) -> None:
        """Say that we live where nothing else is said."""
        while True:
            silent_s = (self._clock.now_ns() - self._wrote_ns) / NS
            if silent_s >= KEEP_ALIVE_S and not self._writing:
                await self._write(self._chunks.KEEP_ALIVE)
                silent_s = 0.0
            # A clock that was set must not keep it asleep.
            rest_s = KEEP_ALIVE_S - silent_s
            await self._clock.sleep(rest_s if 0 < rest_s < KEEP_ALIVE_S else KEEP_ALIVE_S)

    async def _leave(self, receive: Receive, over: "asyncio.Future[Refusal | None]") -> None:
        await _left(receive)
        _end(over, None)

    async def _cut(self, scope: Scope, over: "asyncio.Future[Refusal | None]") -> None:
        """Hang up on a reader who takes nothing."""
        while not (self._writing and self._clock.now_ns() - self._wrote_ns >= READ_S_MAX * NS):
            await self._clock.sleep(READ_CHECK_S)
        log.info("a reader of a stream was cut", request=self._speaking.request_id)
        scope["extensions"][CUT]()
        _end(over, None)


_REVOKED = Unauthenticated("the key was revoked")


def _end(over: "asyncio.Future[Refusal | None]", why: Refusal | None) -> None:
    if not over.done():
        over.set_result(why)


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
