"""Stripe, played on a loopback socket: checkouts and their list, errors, silence; and events, signed as Stripe signs them."""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import stripe

from openoutcry.clock import NS, Clock

KEY = "sk_test_planted"
SECRET = "whsec_planted"
# What Stripe wants to be told of a checkout, as its form spells it.
_WANTED = frozenset(
    {
        "mode",
        "success_url",
        "cancel_url",
        "client_reference_id",
        "metadata[account]",
        "line_items[0][quantity]",
        "line_items[0][price_data][currency]",
        "line_items[0][price_data][unit_amount]",
        "line_items[0][price_data][product_data][name]",
    }
)


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    headers: Mapping[str, str]


class StripeFake:
    """Sessions by id, oldest first. `answers` are given first, whatever is asked; while `silent`, nothing is answered."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sessions: dict[str, dict[str, Any]] = {}
        self.asked: list[Asked] = []
        self.answers: deque[tuple[int, bytes]] = deque()
        self.silent = False
        self._by_key: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["StripeFake"]:
        """Answers inside, at `url`."""
        handlers: set[asyncio.Task[None]] = set()

        async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handlers.add(task)
            try:
                await self._serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                pass  # the client has gone, or the test is over
            finally:
                writer.close()

        server = await asyncio.start_server(each, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in handlers:
                task.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await server.wait_closed()

    def begin(self, **fields: Any) -> dict[str, Any]:
        """A checkout that exists, begun now unless told otherwise."""
        number = next(self._numbers)
        made = {
            "id": f"cs_test_{number}",
            "object": "checkout.session",
            "amount_total": 500,
            "currency": "usd",
            "created": self.clock.now_ns() // NS,
            "status": "open",
            "payment_status": "unpaid",
            "payment_intent": None,
            "url": f"https://checkout.stripe.com/c/pay/{number}",
            **fields,
        }
        self.sessions[made["id"]] = made
        return made

    def pay(self, session_id: str, **fields: Any) -> dict[str, Any]:
        """The checkout is over, and paid unless told otherwise."""
        paid = {
            "status": "complete",
            "payment_status": "paid",
            "payment_intent": session_id.replace("cs_", "pi_"),
            "url": None,
        }
        self.sessions[session_id] |= paid | fields
        return self.sessions[session_id]

    def fail(self, status: int, code: str = "", param: str | None = None, kind: str = "api_error") -> None:
        """The next request gets this error of Stripe's, whose text quotes the key as Stripe's may."""
        error = {
            "type": kind,
            "code": code or None,
            "param": param,
            "message": f"No such thing for {KEY} at {self.url}",
        }
        self.answers.append((status, json.dumps({"error": error}).encode()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.strip().split("\r\n")
            method, target, _ = line.split(" ")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
            body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
            parts = urlsplit(target)
            asked = Asked(
                method, parts.path, dict(parse_qsl(parts.query)), dict(parse_qsl(body, keep_blank_values=True)), headers
            )
            self.asked.append(asked)
            if self.silent:
                await asyncio.Event().wait()
            status, answer = self.answers.popleft() if self.answers else self._answer(asked)
            writer.write(
                f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n"
                f"content-length: {len(answer)}\r\n\r\n".encode()
                + answer
            )
            await writer.drain()

    def _answer(self, asked: Asked) -> tuple[int, bytes]:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_request_error", "Invalid API Key provided")
        if asked.path != "/v1/checkout/sessions":
            return _error(404, "invalid_request_error", "Unrecognized request URL")
        return 200, json.dumps(self._create(asked) if asked.method == "POST" else self._list(asked)).encode()

    def _create(self, asked: Asked) -> dict[str, Any]:
        form, key = asked.form, asked.headers["idempotency-key"]
        assert set(form) == _WANTED, set(form) ^ _WANTED
        assert (form["mode"], form["line_items[0][quantity]"]) == ("payment", "1")
        assert form["client_reference_id"] == form["metadata[account]"]
        if key not in self._by_key:
            made = self.begin(
                amount_total=int(form["line_items[0][price_data][unit_amount]"]),
                currency=form["line_items[0][price_data][currency]"],
            )
            self._by_key[key] = made["id"]
        return self.sessions[self._by_key[key]]

    def _list(self, asked: Asked) -> dict[str, Any]:
        query = asked.query
        assert query["status"] == "complete"
        since_s, limit = int(query["created[gte]"]), int(query["limit"])
        assert 1 <= limit <= 100
        found = [each for each in reversed(self.sessions.values()) if each["created"] >= since_s]
        if "starting_after" in query:
            at = next(n for n, each in enumerate(found) if each["id"] == query["starting_after"])
            found = found[at + 1 :]
        done = [each for each in found if each["status"] == "complete"]
        return {"object": "list", "url": asked.path, "data": done[:limit], "has_more": len(done) > limit}


def event(id_: str, kind: str, about: Mapping[str, Any]) -> bytes:
    """An event as Stripe sends it."""
    told = {"id": id_, "object": "event", "type": kind, "created": 1, "livemode": False, "data": {"object": about}}
    return json.dumps(told).encode()


def signed(body: bytes, at_s: int, secret: str = SECRET) -> str:
    """The header that says so, made by Stripe's own library."""
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at_s)
    assert isinstance(header, str)
    return header


def refunded(payment: str, cents: int, charge: str = "ch_1") -> dict[str, Any]:
    """A charge of which so much was given back so far."""
    return {
        "id": charge,
        "object": "charge",
        "amount_refunded": cents,
        "currency": "usd",
        "payment_intent": payment,
    }


def disputed(payment: str, cents: int, status: str = "needs_response", dispute: str = "du_1") -> dict[str, Any]:
    """A dispute about so much."""
    return {
        "id": dispute,
        "object": "dispute",
        "amount": cents,
        "currency": "usd",
        "status": status,
        "payment_intent": payment,
    }


def _error(status: int, kind: str, text: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": {"type": kind, "message": text}}).encode()
