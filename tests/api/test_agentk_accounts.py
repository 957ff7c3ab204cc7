"""Accounts, keys and credits over HTTP, on their real parts."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openoutcry.accounts.keys import MARKET, SCOPES
from openoutcry.clock import NS
from openoutcry.config import AccountsConfig, TierConfig
from openoutcry.ledger.records import UsageRow
from tests.api.agentk_world import EMAIL, PASSWORD, Shop, shop

DAY_NS = 86_400 * NS


@pytest.fixture
async def world(served: Any, tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(served, tmp_path) as made:
        yield made


def row(request_id: str, account: str, at_ns: int, **more: Any) -> UsageRow:
    asked = {"endpoint": "/v1/chat/completions", "model": "kai-fast", "tokens_in": 10, "tokens_out": 20, **more}
    return UsageRow(request_id=request_id, account=account, at_ns=at_ns, **asked)


# Accounts


async def test_register_log_in_mint_and_use_a_key(world: Shop) -> None:
    told = await world.data("POST", "/v1/auth/register", json={"email": EMAIL, "password": PASSWORD, "new": 1})
    assert set(told) == {"token", "account_id", "email"}
    again = await world.data("POST", "/v1/auth/login", json={"email": EMAIL.upper(), "password": PASSWORD})
    assert again["account_id"] == told["account_id"]
    minted = await world.data("POST", "/v1/auth/api-keys", again["token"], json={"name": "my-first-bot"})
    key = minted.pop("raw_key")
    assert key.startswith("kai-")
    assert len(key) == 68
    assert minted == {
        "id": minted["id"],
        "key_prefix": key[:12],
        "name": "my-first-bot",
        "tier": "standard",
        "rate_limit_rpm": 60,
        "rate_limit_tpm": 100_000,
        "is_active": True,
        "scopes": sorted(SCOPES),
        "created_at": "2025-11-19T12:00:00.000Z",
        "last_used_at": None,
    }
    assert isinstance(minted["id"], int)
    for headers in ({"authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        balance = await world.data("GET", "/v1/billing/balance", headers=headers)
        assert balance["account_id"] == told["account_id"]
    (listed,) = await world.data("GET", "/v1/auth/api-keys", key)
    assert "raw_key" not in listed
    assert listed["last_used_at"] == "2025-11-19T12:00:00.000Z"


async def test_who_cannot_register(world: Shop) -> None:
    await world.registered()
    error = await world.no(409, "POST", "/v1/auth/register", json={"email": EMAIL.title(), "password": PASSWORD})
    assert error["type"] == "invalid_request_error"
    for body, param in (
        ({"email": "no address", "password": PASSWORD}, None),
        ({"email": "you@example.com", "password": "short"}, None),
        ({"email": "you@example.com", "password": "x" * 257}, None),
        ({"email": "you@example.com", "password": "x" * 2_000}, "password"),
        ({"email": "you@example.com"}, "password"),
        ({"email": 5, "password": PASSWORD}, "email"),
        ({"email": "you@example.com", "password": PASSWORD, "display_name": ["x"]}, "display_name"),
        ([], None),
    ):
        assert (await world.no(422, "POST", "/v1/auth/register", json=body))["param"] == param
    await world.no(422, "POST", "/v1/auth/register", content=b"{", headers={"content-type": "application/json"})


async def test_a_wrong_login_says_the_same_whichever_part_is_wrong(world: Shop) -> None:
    await world.registered()
    said = [
        await world.no(401, "POST", "/v1/auth/login", json={"email": email, "password": password})
        for email, password in ((EMAIL, "a-wrong-password"), ("nobody@example.com", PASSWORD), ("x", "y"))
    ]
    assert said[0] == said[1] == said[2]
    assert said[0]["type"] == "authentication_error"


async def test_tries_to_log_in_are_limited(world: Shop) -> None:
    await world.registered()
    wrong = {"email": EMAIL, "password": "a-wrong-password"}
    statuses = [(await world.ask("POST", "/v1/auth/login", json=wrong)).status_code for _ in range(12)]
    assert statuses[:9] == [401] * 9  # to register was one try
    answer = await world.ask("POST", "/v1/auth/login", json={"email": EMAIL, "password": PASSWORD})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) > 0


@pytest.mark.parametrize("sign_up", ["off", "invite"])
async def test_sign_up_that_is_not_open(served: Any, tmp_path: Path, sign_up: Any) -> None:
    numbers = AccountsConfig(sign_up=sign_up, invite_code="welcome-in" if sign_up == "invite" else None)
    async with shop(served, tmp_path, numbers) as world:
        body = {"email": EMAIL, "password": PASSWORD}
        assert (await world.no(403, "POST", "/v1/auth/register", json=body))["code"] == "forbidden"
        answer = await world.ask("POST", "/v1/auth/register", json={**body, "invite": "welcome-in"})
        assert answer.status_code == (200 if sign_up == "invite" else 403)


# Keys


async def test_five_keys_may_be_active(world: Shop) -> None:
    _, token = await world.registered()
    made = [await world.data("POST", "/v1/auth/api-keys", token, json={"name": f"k{n}"}) for n in range(5)]
    error = await world.no(400, "POST", "/v1/auth/api-keys", token, json={})
    assert error["code"] == "too_many_keys"
    assert await world.data("DELETE", f"/v1/auth/api-keys/{made[0]['id']}", token) == {
        "id": made[0]["id"],
        "revoked": True,
    }
    await world.no(401, "GET", "/v1/billing/balance", made[0]["raw_key"])
    assert (await world.data("POST", "/v1/auth/api-keys", token))["name"] == "default"
    listed = await world.data("GET", "/v1/auth/api-keys", token)
    assert [each["id"] for each in listed if not each["is_active"]] == [made[0]["id"]]
    assert len(listed) == 6


async def test_nobody_reads_or_revokes_the_keys_of_another(world: Shop) -> None:
    _, mine = await world.registered()
    _, theirs = await world.registered("them@example.com")
    key = (await world.data("POST", "/v1/auth/api-keys", theirs))["id"]
    assert await world.data("GET", "/v1/auth/api-keys", mine) == []
    assert (await world.no(404, "DELETE", f"/v1/auth/api-keys/{key}", mine))["code"] == "not_found"
    await world.no(404, "DELETE", "/v1/auth/api-keys/1", mine)
    assert (await world.no(422, "DELETE", "/v1/auth/api-keys/x", mine))["param"] == "key_id"
    assert (await world.data("GET", "/v1/auth/api-keys", theirs))[0]["is_active"]


async def test_a_key_makes_none_that_may_do_more_than_itself(world: Shop) -> None:
    _, token = await world.registered()
    narrow = await world.minted(token, scopes=[MARKET])
    await world.no(403, "POST", "/v1/auth/api-keys", narrow, json={"scopes": [MARKET, "ai"]})
    assert (await world.data("POST", "/v1/auth/api-keys", narrow))["scopes"] == [MARKET]
    await world.no(422, "POST", "/v1/auth/api-keys", token, json={"scopes": ["everything"]})
    await world.no(422, "POST", "/v1/auth/api-keys", token, json={"scopes": []})
    await world.no(422, "POST", "/v1/auth/api-keys", token, json={"name": 5})


async def test_no_credential_and_every_wrong_one_get_one_answer(world: Shop) -> None:
    _, token = await world.registered()
    head, body, tail = token.split(".")
    wrong = [
        None,
        "kai-" + "0" * 64,
        "kai-short",
        "oo-x",
        "x" * 5_000,
        f"{head}.{body}.{tail[::-1]}",
        "a.b.c",
        f"{head}..",
    ]
    said = [await world.no(401, "GET", "/v1/billing/balance", text) for text in wrong]
    assert all(each == said[0] for each in said)
    assert (said[0]["type"], said[0]["code"]) == ("authentication_error", "invalid_api_key")
    await world.clock.advance(86_401)
    assert await world.no(401, "GET", "/v1/billing/balance", token) == said[0]


async def test_a_key_of_nobodys_has_no_account(world: Shop) -> None:
    _, text = await world.keys.create("operator")
    error = await world.no(403, "GET", "/v1/billing/balance", text)
    assert "belongs to no account" in error["message"]


# Limits


async def test_each_key_has_its_minute_and_says_what_is_left_of_it(served: Any, tmp_path: Path) -> None:
    numbers = AccountsConfig(tiers={"standard": TierConfig(requests_per_min=3, tokens_per_min=500)})
    async with shop(served, tmp_path, numbers) as world:
        _, token = await world.registered()
        key = await world.minted(token)
        answers = [await world.ask("GET", "/v1/billing/balance", key) for _ in range(4)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429]
        assert [each.headers["x-ratelimit-remaining-requests"] for each in answers] == ["2", "1", "0", "0"]
        last = answers[-1]
        assert last.json()["error"]["code"] == "rate_limit_exceeded"
        assert last.headers["x-ratelimit-limit-requests"] == "3"
        assert last.headers["x-ratelimit-reset-requests"] == "1m0s"
        assert last.headers["x-ratelimit-limit-tokens"] == last.headers["x-ratelimit-remaining-tokens"] == "500"
        assert last.headers["retry-after"] == "20"
        assert (await world.ask("GET", "/v1/auth/api-keys", token)).status_code == 200  # the login has its own
        await world.clock.advance(20)
        assert (await world.ask("GET", "/v1/billing/balance", key)).status_code == 200


# Credits


async def test_the_balance_is_told_in_micros_and_kai(world: Shop) -> None:
    account, token = await world.registered()
    assert await world.data("GET", "/v1/billing/balance", token) == {
        "account_id": account,
        "balance_micros": 0,
        "balance_kai": 0,
        "available_micros": 0,
    }
    await world.grant(account, 2_500_000)
    await world.ledger.hold("h", account, "KAI", 500_001, 2**62)
    assert (await world.ask("GET", "/v1/billing/balance", token)).json()["data"] == {
        "account_id": account,
        "balance_micros": 2_500_000,
        "balance_kai": 2.5,
        "available_micros": 1_999_999,
    }


async def test_usage_is_told_in_pages_by_time_endpoint_and_status(world: Shop) -> None:
    account, token = await world.registered()
    now_ns = world.clock.now_ns()
    rows = [row(f"r{n}", account, now_ns + n * NS, tokens_out=n) for n in range(5)]
    rows.append(row("chat", account, now_ns + 9 * NS, endpoint="/v1/ai/chat", reasoning_tokens=3, estimated=True))
    rows.append(row("failed", account, now_ns + 10 * NS, status="failed", error="upstream_error"))
    rows.append(row("theirs", "somebody else", now_ns))
    for each in rows:
        await world.ledger.note([each])

    async def ids(query: str = "") -> list[str]:
        return [each["request_id"] for each in await world.data("GET", f"/v1/billing/usage{query}", token)]

    assert await ids() == ["chat", "r4", "r3", "r2", "r1", "r0"]
    assert await ids("?status=all&limit=2") == ["failed", "chat"]
    assert await ids("?status=failed") == ["failed"]
    assert await ids("?endpoint=/v1/ai/chat") == ["chat"]
    first = await world.data("GET", "/v1/billing/usage?limit=1", token)
    assert await ids(f"?before_id={first[0]['id']}&limit=2") == ["r4", "r3"]
    assert await ids("?since=2025-11-19T12:00:01Z&until=1763553603000") == ["r2", "r1"]
    assert await ids("?since=1763553602&until=1763553603") == ["r2"]
    assert first[0] == {
        "id": first[0]["id"],
        "endpoint": "/v1/ai/chat",
        "tokens_in": 10,
        "tokens_out": 20,
        "cost_micros": 0,
        "latency_ms": 0,
        "created_at": "2025-11-19T12:00:09.000Z",
        "model": "kai-fast",
        "key_id": None,
        "request_id": "chat",
        "reasoning_tokens": 3,
        "estimated": True,
        "status": "done",
        "ttft_ms": None,
    }


async def test_usage_by_day(world: Shop) -> None:
    account, token = await world.registered()
    now_ns = world.clock.now_ns()
    for n in range(4):
        await world.ledger.note([row(f"r{n}", account, now_ns - n // 2 * DAY_NS)])
    days = await world.data("GET", "/v1/billing/usage/summary", token)
    assert days == [
        {"day": "2025-11-19", "calls": 2, "tokens_in": 20, "tokens_out": 40, "cost_micros": 0},
        {"day": "2025-11-18", "calls": 2, "tokens_in": 20, "tokens_out": 40, "cost_micros": 0},
    ]
    assert len(await world.data("GET", "/v1/billing/usage/summary?since=2025-11-19", token)) == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("usage?limit=0", "limit"),
        ("usage?limit=501", "limit"),
        ("usage?limit=x", "limit"),
        ("usage?before_id=-1", "before_id"),
        ("usage?before_id=1e3", "before_id"),
        ("usage?since=yesterday", "since"),
        ("usage?until=9999-99-99", "until"),
        ("usage?until=9999-12-31", "until"),
        ("usage?since=9999999999999999", "since"),
        ("usage?status=open", "status"),
        ("usage/summary?since=2025-11-19&until=2025-11-18", None),
        ("usage/summary?since=0", None),
    ],
)
async def test_wrong_filters_are_422_and_named(world: Shop, query: str, param: str | None) -> None:
    _, token = await world.registered()
    assert (await world.no(422, "GET", f"/v1/billing/{query}", token))["param"] == param


# Where there is nothing


async def test_without_stripe_there_is_no_checkout(world: Shop) -> None:
    _, token = await world.registered()
    body = {"amount_usd_cents": 500, "success_url": "https://example.com/a", "cancel_url": "https://example.com/b"}
    answer = await world.ask("POST", "/v1/billing/stripe/checkout", token, json=body)
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"
    await world.no(503, "POST", "/v1/billing/stripe/webhook", content=b"{}")
    for wrong in (
        {"amount_usd_cents": 99},
        {"amount_usd_cents": 100_001},
        {"amount_usd_cents": "500"},
        {"success_url": 1},
    ):
        await world.no(422, "POST", "/v1/billing/stripe/checkout", token, json={**body, **wrong})


async def test_paths_and_methods_that_are_not_there(world: Shop) -> None:
    await world.no(404, "GET", "/v1/auth/nowt")
    await world.no(405, "GET", "/v1/auth/login")
    assert (await world.ask("GET", "/v1/health")).json() == {"status": "ok"}
