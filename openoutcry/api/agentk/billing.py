"""What an account has and what it used: balance, usage, card top-ups; and where Stripe calls."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from openoutcry.accounts.store import number_of
from openoutcry.api.agentk.accounts import owner
from openoutcry.api.agentk.wire import Gate, Keyed, Wrong, encode, envelope, no, there, time_text
from openoutcry.api.dialect import Doors
from openoutcry.clock import NS
from openoutcry.errors import Invalid
from openoutcry.ledger.records import UsageRow
from openoutcry.money import KAI

TAG = "Billing"
USAGE_DEFAULT, USAGE_MAX = 50, 500
DAYS_DEFAULT = 30
DAY_NS = 86_400 * NS
# What is taken for milliseconds since 1970: from September 2001 on.
_DIGITS = re.compile(r"[0-9]{1,16}")
_MS_MIN = 10**12
NS_MAX = 2**63 - 1


class CheckoutAsked(BaseModel):
    """How much is to be paid by card, and where the payer comes back to."""

    amount_usd_cents: Annotated[int, Field(strict=True, ge=100, le=100_000)]
    success_url: Annotated[str, Field(strict=True, max_length=2_000)]
    cancel_url: Annotated[str, Field(strict=True, max_length=2_000)]


_Moment = Annotated[str | None, Query(description="ISO 8601, or milliseconds (or seconds) since 1970", max_length=40)]


def router(doors: Doors, gate: Gate) -> APIRouter:
    """Routes below /v1/billing."""
    routes = APIRouter(prefix="/v1/billing", tags=[TAG], route_class=Keyed)

    @routes.get("/balance", summary="What the account has, and what of it is not held for calls that run")
    async def balance(request: Request) -> Response:
        mine = owner(await gate.caller(request))
        told = await there(doors.ledger, "ledger").balance(mine.id, KAI.name)
        return envelope(
            {
                "account_id": mine.id,
                "balance_micros": told.total,
                "balance_kai": KAI.decimal(told.total),
                "available_micros": told.free,
            }
        )

    @routes.get("/usage", summary="Metered calls, newest first")
    async def usage(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=USAGE_MAX)] = USAGE_DEFAULT,
        before_id: Annotated[int | None, Query(ge=1, le=NS_MAX, description="Older than this one")] = None,
        since: _Moment = None,
        until: _Moment = None,
        endpoint: Annotated[str | None, Query(max_length=100)] = None,
        status: Annotated[Literal["done", "failed", "all"], Query()] = "done",
    ) -> Response:
        mine = owner(await gate.caller(request))
        rows = await there(doors.usage, "ledger").rows(
            mine.id,
            limit=limit,
            before_id=before_id,
            since_ns=moment(since, "since"),
            until_ns=moment(until, "until"),
            endpoint=endpoint,
            status=None if status == "all" else status,
        )
        return envelope([_usage(row) for row in rows])

    @routes.get("/usage/summary", summary="Calls, tokens and cost by day (UTC)")
    async def summary(request: Request, since: _Moment = None, until: _Moment = None) -> Response:
        mine = owner(await gate.caller(request))
        since_ns, until_ns = moment(since, "since"), moment(until, "until")
        until_ns = doors.clock.now_ns() + 1 if until_ns is None else until_ns
        since_ns = until_ns - DAYS_DEFAULT * DAY_NS if since_ns is None else since_ns
        days = await there(doors.usage, "ledger").by_day(mine.id, since_ns, until_ns)
        return envelope(
            [
                {
                    "day": day.day,
                    "calls": day.calls,
                    "tokens_in": day.tokens_in,
                    "tokens_out": day.tokens_out,
                    "cost_micros": day.cost,
                }
                for day in days
            ]
        )

    @routes.post("/stripe/checkout", summary="A page of Stripe's where the account is topped up by card")
    async def checkout(asked: CheckoutAsked, request: Request) -> Response:
        mine = owner(await gate.caller(request))
        made = await there(doors.billing, "billing").checkout(
            mine.id, asked.amount_usd_cents, asked.success_url, asked.cancel_url
        )
        return envelope(
            {"checkout_url": made.url, "session_id": made.session_id, "estimated_kai": KAI.decimal(made.micros)}
        )

    @routes.post("/stripe/webhook", summary="For Stripe alone: signed events")
    async def webhook(request: Request) -> Response:
        try:
            await there(doors.billing, "billing").webhook(await request.body(), request.headers.get("stripe-signature"))
        except Invalid as invalid:
            return no(400, invalid.text, "invalid_request_error", invalid.code)
        return Response(encode({"received": True}), media_type="application/json")

    return routes


def moment(text: str | None, param: str) -> int | None:
    """A time as ISO 8601, or as a count of seconds or milliseconds since 1970. Raises Wrong."""
    if text is None:
        return None
    if _DIGITS.fullmatch(text):
        count = int(text)
        at_ns = count * (1_000_000 if count >= _MS_MIN else NS)
    else:
        try:
            told = datetime.fromisoformat(text)
        except ValueError as e:
            raise Wrong(f"{param} is not a time: ISO 8601, or milliseconds since 1970", param) from e
        told = told.replace(tzinfo=UTC) if told.tzinfo is None else told
        at_ns = round(told.timestamp() * 1_000) * 1_000_000
    if not 0 <= at_ns <= NS_MAX:
        raise Wrong(f"{param} is out of reach", param)
    return at_ns


def _usage(row: UsageRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "endpoint": row.endpoint,
        "tokens_in": row.tokens_in,
        "tokens_out": row.tokens_out,
        "cost_micros": row.cost,
        "latency_ms": row.latency_ms,
        "created_at": time_text(row.at_ns),
        "model": row.model,
        "key_id": None if row.key is None else number_of(row.key),
        "request_id": row.request_id,
        "reasoning_tokens": row.reasoning_tokens,
        "estimated": row.estimated,
        "status": row.status,
        "ttft_ms": row.ttft_ms,
    }
