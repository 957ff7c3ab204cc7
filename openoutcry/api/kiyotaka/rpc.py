"""The gRPC service `api.API`: bytes in, bytes out. Questions are parsed once, answers are never messages of the runtime."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from openoutcry.accounts.keys import KeyRecord
from openoutcry.api.dialect import Doors
from openoutcry.api.kiyotaka import contract, encode, wire
from openoutcry.api.kiyotaka.meta import FIELDS, Meta
from openoutcry.api.kiyotaka.points import Leash, Points, missing_text
from openoutcry.api.rpc import address
from openoutcry.errors import Invalid, LimitExceeded, Refusal, Unauthenticated
from openoutcry.market.latest import Bounded

COVERAGE = "openoutcry-coverage"
QUESTIONS_KEPT = 2_000
QUESTION_BYTES_KEPT = 1_000
# A question takes no longer than this.
QUERY_S_MAX = 30.0
# A client that takes no message for so long is let go.
STALLED_S_MAX = 30.0
# The same once its key was revoked.
REVOKED_S_MAX = 0.5

TOO_LONG = f"the answer took more than {QUERY_S_MAX:.0f} s: ask again, what was fetched meanwhile is kept"

log = structlog.get_logger()

_Context = Any


class Rpc:
    """The methods of the service."""

    def __init__(self, doors: Doors, points: Points, meta: Meta) -> None:
        self._doors, self._points, self._meta = doors, points, meta
        self._form = encode.Protobuf()
        self._questions: Bounded[bytes, wire.Question] = Bounded(QUESTIONS_KEPT)
        self._calls = doors.telemetry.counter(
            "grpc_calls", "Calls answered, by method and status", ("method", "status")
        )

    def add(self, server: grpc.aio.Server) -> None:
        """Register the service."""
        unary: dict[str, Callable[..., Any]] = {"GetPoints": self._get_points}
        unary |= {method: self._meta_call(method) for method in FIELDS}
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._told(name, act)) for name, act in unary.items()}
        handlers["StreamPoints"] = grpc.unary_stream_rpc_method_handler(self._told("StreamPoints", self._stream_points))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(contract.SERVICE, handlers),))

    async def _get_points(self, request: bytes, context: _Context) -> bytes:
        self._admitted(context)
        asked = self._asked(request)
        parts = self._points.at_hand(asked)
        if parts is None:
            parts = await self._points.get(asked)
        _say(context, missing_text(parts))
        form = self._form
        return encode.response(
            (
                part.piece.head,
                [
                    *(form.cut(part.piece, cut) for cut in part.told.cuts),
                    *(form.row(part.piece, row) for row in part.told.tail),
                ],
            )
            for part in parts
            if part.told.rows
        )

    async def _stream_points(self, request: bytes, context: _Context) -> None:
        record = self._admitted(context)
        asked = self._asked(request)
        leash, task = Leash(), asyncio.current_task()
        assert task is not None

        def revoked() -> None:
            leash.end(Unauthenticated("the key was revoked"))
            # A client that takes nothing any more is not waited for.
            asyncio.get_running_loop().call_later(REVOKED_S_MAX, task.cancel)

        stop = self._doors.keys.watch(record, revoked)
        try:
            async for message in self._points.stream(asked, self._form, leash):
                try:
                    async with asyncio.timeout(STALLED_S_MAX):
                        await context.write(message)
                except TimeoutError:
                    raise LimitExceeded("too slow: nothing was read for half a minute", 1.0) from None
            _say(context, missing_text(leash.holes))
        finally:
            stop()

    def _meta_call(self, method: str) -> Callable[[bytes, _Context], Any]:
        async def call(request: bytes, context: _Context) -> bytes:
            self._admitted(context)
            answer = await self._meta.answer(method, wire.meta_question(_parsed(contract.PointMetaRequest, request)))
            encoded: bytes = answer.SerializeToString()
            return encoded

        return call

    def _told(self, method: str, act: Callable[[bytes, _Context], Any]) -> Callable[[bytes, _Context], Any]:
        """The same, with refusals in gRPC's way, and counted."""
        counters = {status: self._calls.labels(method, status) for status in ("OK", "CANCELLED", "INTERNAL")}

        async def call(request: bytes, context: _Context) -> Any:
            try:
                async with asyncio.timeout(QUERY_S_MAX if method != "StreamPoints" else None):
                    answer = await act(request, context)
            except Refusal as e:
                status = wire.status_of(e)
                self._calls.labels(method, status.name).inc()
                await context.abort(status, e.text)
            except TimeoutError:
                self._calls.labels(method, "DEADLINE_EXCEEDED").inc()
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, TOO_LONG)
            except asyncio.CancelledError:
                counters["CANCELLED"].inc()
                raise
            except Exception:  # our own fault: nobody outside hears more of it than that
                log.exception("call failed", method=method)
                counters["INTERNAL"].inc()
                await context.abort(grpc.StatusCode.INTERNAL, "internal error")
            else:
                counters["OK"].inc()
                return answer

        return call

    def _admitted(self, context: _Context) -> KeyRecord:
        text = next((value for name, value in context.invocation_metadata() or () if name == wire.KEY), None)
        try:
            return wire.admitted(self._doors.keys, text if isinstance(text, str) else None)
        except Unauthenticated:
            # Whoever guesses keys is slowed down like any other caller.
            self._doors.admission.request(address(context.peer()))
            raise

    def _asked(self, request: bytes) -> wire.Question:
        asked = self._questions.get(request)
        if asked is None:
            asked = wire.question(_parsed(contract.PointRequest, request))
            if len(request) <= QUESTION_BYTES_KEPT:
                self._questions.put(request, asked)
        return asked


def _say(context: _Context, missing: str) -> None:
    """What of the answer nobody has goes after it."""
    if missing:
        context.set_trailing_metadata(((COVERAGE, f"missing {missing}".encode("ascii", "replace").decode()),))


def _parsed(kind: type[contract.Message], request: bytes) -> contract.Message:
    try:
        return kind.FromString(request)
    except contract.DecodeError as e:
        raise Invalid(f"the request is no {kind.DESCRIPTOR.full_name}") from e
