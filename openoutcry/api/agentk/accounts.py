"""Accounts and their keys: register, log in, mint, list, revoke.

A login's token and a key open the same routes. A key makes keys too, but none that may do more than itself.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from openoutcry.accounts.accounts import Account
from openoutcry.accounts.callers import Caller
from openoutcry.accounts.keys import SCOPES, KeyRecord
from openoutcry.api.agentk.wire import Gate, Keyed, envelope, no, there, time_text
from openoutcry.api.dialect import Doors
from openoutcry.errors import Forbidden, TooLarge, Unknown

TAG = "Accounts"
NAME_DEFAULT = "default"

_Text = Annotated[str, Field(strict=True)]


class Register(BaseModel):
    """Who wants an account. `invite`: the code, where the server asks for one."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"email": "me@example.com", "password": "a-long-password"}]}
    )

    email: Annotated[_Text, Field(max_length=320)]
    password: Annotated[_Text, Field(max_length=1_024)]
    display_name: Annotated[_Text, Field(max_length=100)] | None = None
    invite: Annotated[_Text, Field(max_length=256)] | None = None


class Login(BaseModel):
    """Who comes back."""

    email: Annotated[_Text, Field(max_length=320)]
    password: Annotated[_Text, Field(max_length=1_024)]


class NewKey(BaseModel):
    """A key's name, and what it may do: all that its maker may, where nothing is said."""

    name: Annotated[_Text, Field(max_length=64)] | None = None
    scopes: list[_Text] | None = Field(None, max_length=len(SCOPES))


def router(doors: Doors, gate: Gate) -> APIRouter:
    """Routes below /v1/auth."""
    routes = APIRouter(prefix="/v1/auth", tags=[TAG], route_class=Keyed)

    @routes.post("/register", summary="Make an account; answers with its login token")
    async def register(asked: Register, request: Request) -> Response:
        account, token = await there(doors.accounts, "accounts").register(
            asked.email,
            asked.password,
            asked.display_name or "",
            invite=asked.invite or "",
            address=_address(request),
        )
        return envelope(_entered(account, token))

    @routes.post("/login", summary="Log in; answers with a token")
    async def login(asked: Login, request: Request) -> Response:
        account, token = await there(doors.accounts, "accounts").login(
            asked.email, asked.password, address=_address(request)
        )
        return envelope(_entered(account, token))

    @routes.get("/api-keys", summary="The account's keys, without their texts; revoked ones too")
    async def keys(request: Request) -> Response:
        who = await gate.caller(request)
        found = await doors.keys.of(owner(who).id)
        return envelope([_key(each, who, doors.clock.now_ns()) for each in found])

    @routes.post("/api-keys", summary="Mint a key; its text is shown this once")
    async def mint(request: Request, asked: Annotated[NewKey | None, Body()] = None) -> Response:
        who = await gate.caller(request)
        mine = owner(who)
        asked = asked or NewKey(scopes=None)
        may = SCOPES if who.key is None else who.key.scopes
        wanted = may if asked.scopes is None else frozenset(asked.scopes)
        if who.key is not None and not wanted <= may:
            raise Forbidden("a key makes no key that may do more than itself")
        try:
            record, text = await doors.keys.create(asked.name or NAME_DEFAULT, wanted, account=mine.id)
        except TooLarge as full:
            return no(400, full.text, "invalid_request_error", "too_many_keys")
        return envelope({**_key(record, who, doors.clock.now_ns()), "raw_key": text})

    @routes.delete("/api-keys/{key_id}", summary="Revoke a key; its streams end")
    async def revoke(key_id: int, request: Request) -> Response:
        mine = owner(await gate.caller(request))
        found = next((each for each in await doors.keys.of(mine.id) if each.number == key_id), None)
        if found is None:
            raise Unknown("the account has no such key")
        await doors.keys.revoke(found.id)
        return envelope({"id": key_id, "revoked": True})

    return routes


def owner(who: Caller) -> Account:
    """The account behind a caller. Raises Forbidden for a key of nobody's, as the command line makes them."""
    if who.account is None:
        raise Forbidden("this key belongs to no account: `openoutcry keys create --account` makes one that does")
    return who.account


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _entered(account: Account, token: str) -> dict[str, Any]:
    return {"token": token, "account_id": account.id, "email": account.email}


def _key(record: KeyRecord, who: Caller, now_ns: int) -> dict[str, Any]:
    return {
        "id": record.number,
        "key_prefix": record.prefix,
        "name": record.name,
        "tier": who.tier.name,
        "rate_limit_rpm": who.tier.requests_per_min,
        "rate_limit_tpm": who.tier.tokens_per_min,
        "is_active": record.live(now_ns),
        "scopes": sorted(record.scopes),
        "created_at": time_text(record.created_ns),
        "last_used_at": time_text(record.used_ns),
    }
