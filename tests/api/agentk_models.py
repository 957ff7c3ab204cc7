"""Models that say what a test told them, and a real server with the routes of models before them."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import httpx2
import openai
from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute

from openoutcry.accounts.accounts import Account
from openoutcry.accounts.callers import Caller, Callers, Tier
from openoutcry.accounts.keys import SCOPES, Keys
from openoutcry.accounts.limits import Bucket, Limits, Standing
from openoutcry.api.admission import Admission
from openoutcry.api.agentk import chat, chat_wire, wire
from openoutcry.api.asgi import HttpServer, application
from openoutcry.api.dialect import Doors, Scope, Service
from openoutcry.api.push import Push
from openoutcry.bus import Bus
from openoutcry.chat import Delta, Said, Usage
from openoutcry.clock import NS, ManualClock
from openoutcry.errors import Forbidden, Refusal, UnknownModel
from openoutcry.ledger.tariff import Cost
from openoutcry.llm.models import Ask, Completed, Listed, Models, Payer, Speaking
from openoutcry.market.market import Market
from openoutcry.stores.keys import MemoryKeys
from openoutcry.telemetry import Telemetry

NOW_S = 1_763_553_600  # 2025-11-19T12:00:00Z
ACCOUNT = "0b8d3f7e-6f0c-4f0e-9d52-000000000001"
COST = Cost(
    llm_usd=Decimal("0.0000030"),
    fee_multiplier=Decimal("1.1"),
    total_usd=Decimal("0.0000033"),
    micros=330,
    kai_usd=Decimal("0.01"),
)
SMART = Listed(
    id="kai-smart",
    created_s=NOW_S,
    owned_by="openoutcry",
    about="Thinks first",
    thinks=True,
    upstream_model="qwen35-gptq",
    provider="vllm",
    status="available",
    usd_per_1k_in=Decimal("0.0002"),
    usd_per_1k_out=Decimal("0.0006"),
)
RAW = Listed(
    id="qwen/qwen3:free",
    created_s=NOW_S,
    owned_by="openoutcry",
    about="",
    thinks=False,
    upstream_model="qwen/qwen3:free",
    provider="vllm",
    status="unknown",
    usd_per_1k_in=Decimal("0.0002"),
    usd_per_1k_out=Decimal("0.0006"),
)


def an_answer(said: Said | str = "Hello.", *, usage: Usage | None = None, replayed: bool = False) -> Completed:
    return Completed(
        request_id="req_1",
        id="chatcmpl-1",
        created_s=NOW_S,
        model="kai-smart",
        said=Said(text=said, finish="stop") if isinstance(said, str) else said,
        usage=Usage(9, 2) if usage is None else usage,
        cost=COST,
        estimated=False,
        latency_ms=41,
        replayed=replayed,
    )


def the_end(finish: str = "stop", usage: Usage | None = None) -> Delta:
    return Delta(finish=finish, usage=Usage(9, 2) if usage is None else usage)


# What a stream does next: says, fails, or waits.
Step = Delta | BaseException | asyncio.Event


class SaidSpeaking(Speaking):
    """Steps through its script. `taken` counts its deltas, `left` how often it was told that nobody reads any more."""

    def __init__(self, model: str, script: Iterable[Step], *, replayed: bool) -> None:
        self.request_id, self.id, self.created_s, self.model = "req_1", "chatcmpl-1", NOW_S, model
        self.replayed = replayed
        self.taken = 0
        self.left = 0
        self._steps: Iterator[Step] = iter(script)
        self._over = False

    async def __anext__(self) -> Delta:
        await asyncio.sleep(0)
        for step in self._steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, BaseException):
                self._over = True
                raise step
            else:
                self.taken += 1
                return step
        self._over = True
        raise StopAsyncIteration

    def close(self) -> None:
        self.left += not self._over


class SaidModels(Models):
    """Answers `answer` (or raises it) once `ready`, and streams `script`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Payer, Ask]] = []
        self.answer: Completed | BaseException = an_answer()
        self.refusal: Refusal | None = None
        self.script: Iterable[Step] = (Delta(text="Hello."), the_end())
        self.replayed = False
        self.ready = asyncio.Event()
        self.ready.set()
        self.left = 0
        self.spoken: list[SaidSpeaking] = []
        self.on: Mapping[str, Listed] = {"kai-smart": SMART, RAW.id: RAW}

    def listed(self) -> Sequence[Listed]:
        return list(self.on.values())

    def find(self, name: str) -> Listed:
        if name not in self.on:
            raise UnknownModel("there is no such model")
        return self.on[name]

    async def complete(self, payer: Payer, ask: Ask) -> Completed:
        await self._begun(payer, ask)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def stream(self, payer: Payer, ask: Ask) -> Speaking:
        await self._begun(payer, ask)
        self.spoken.append(SaidSpeaking(ask.model or "kai-smart", self.script, replayed=self.replayed))
        return self.spoken[-1]

    async def _begun(self, payer: Payer, ask: Ask) -> None:
        self.asked.append((payer, ask))
        try:
            await self.ready.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if self.refusal is not None:
            raise self.refusal


class SaidCallers(Callers):
    """Every key is of one account; the token `jwt` is too, and `nobody` is a key of none."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._account = Account(id=ACCOUNT, email="a@example.com", display_name="", tier="standard", created_ns=0)
        self._tier = Tier(name="standard", requests_per_min=60, tokens_per_min=100_000)

    async def caller(self, credential: str | None, scope: str | None = None) -> Caller:
        if credential == "jwt":
            return Caller(account=self._account, key=None, tier=self._tier)
        record = self._keys.authenticate(credential)
        if scope is not None and scope not in record.scopes:
            raise Forbidden(f"the key lacks the scope {scope}")
        return Caller(account=None if record.name == "nobody" else self._account, key=record, tier=self._tier)


class SaidLimits(Limits):
    """Always the same standing, or the refusal it was told. `reserved`: for whom, and how many tokens."""

    def __init__(self) -> None:
        self.counted = 0
        self.refusal: Refusal | None = None
        self.reserved: list[tuple[Caller, int]] = []

    def request(self, caller: Caller) -> Standing:
        self.counted += 1
        if self.refusal is not None:
            raise self.refusal
        return self.standing(caller)

    def standing(self, caller: Caller) -> Standing:
        return Standing(requests=Bucket(60, 59, 1.0), tokens=Bucket(100_000, 99_000, 0.6))

    def reserve(self, caller: Caller, tokens: int) -> Callable[[int], None]:
        self.reserved.append((caller, tokens))
        return lambda used: None


class Chat:
    """A dialect that has the routes of models and nothing else."""

    name = "chat"
    prefixes: Sequence[str] = ("/",)
    title = "Chat"
    version = "1"
    tags: Sequence[Mapping[str, str]] = ()
    schemas: Mapping[str, Any] = chat_wire.SCHEMAS

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def rest(self) -> APIRouter:
        return chat.router(self._doors, wire.Gate(self._doors))

    def sockets(self) -> Sequence[WebSocketRoute]:
        return ()

    def services(self) -> Sequence[Service]:
        return ()

    def hot(self, scope: Scope, *, packed: bool) -> bytes | None:
        return None

    def refuse(self, refusal: Refusal) -> Response:
        return wire.refuse(refusal)

    def malformed(self, error: RequestValidationError) -> Response:
        return wire.malformed(error)

    def lost(self, request: Request, status: int, detail: str, headers: Mapping[str, str]) -> Response:
        return wire.no(status, detail, "invalid_request_error", None, None, headers)

    def broken(self) -> Response:
        return wire.no(500, "internal error", "api_error", "internal_error")


class Answered:
    """A running server. `key` is good for everything, from `start` on. `real`: models that are asked instead of those told."""

    def __init__(self, real: Models | None = None) -> None:
        self.clock = ManualClock(NOW_S * NS)
        self.telemetry = Telemetry()
        self.keys = Keys(MemoryKeys(), b"pepper", self.clock, self.telemetry)
        self.key = ""
        self.key_id = ""
        self.models = SaidModels()
        self.limits = SaidLimits()
        doors = Doors(
            clock=self.clock,
            keys=self.keys,
            market=cast(Market, None),  # no route here asks it
            bus=Bus(),
            follow=lambda instrument, feeds: lambda: None,
            admission=Admission(self.clock),
            push=Push(self.telemetry),
            telemetry=self.telemetry,
            callers=SaidCallers(self.keys),
            limits=self.limits,
            models=self.models if real is None else real,
        )
        self.server = HttpServer(application(doors, [Chat(doors)]), "127.0.0.1", 0)
        self.address = ""
        self.http = httpx2.AsyncClient(trust_env=False)
        self._clients: list[openai.AsyncOpenAI] = []

    async def start(self) -> None:
        record, self.key = await self.keys.create("test", SCOPES)
        self.key_id = record.id
        self.address = await self.server.start()
        self.http.base_url = httpx2.URL(f"http://{self.address}")
        self.http.headers["authorization"] = f"Bearer {self.key}"

    async def stop(self) -> None:
        for client in self._clients:
            await client.close()
        await self.http.aclose()
        await self.server.stop()

    @property
    def asked(self) -> Ask:
        """What `Models` was asked last."""
        return self.models.asked[-1][1]

    @property
    def speaking(self) -> SaidSpeaking:
        """The stream that was begun last."""
        return self.models.spoken[-1]

    def openai(self, key: str | None = None) -> openai.AsyncOpenAI:
        """The package, as its users make it, but that it does not try again."""
        client = openai.AsyncOpenAI(
            base_url=f"http://{self.address}/v1",
            api_key=self.key if key is None else key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        )
        self._clients.append(client)
        return client

    async def post(self, body: Any, path: str = chat_wire.COMPLETIONS, **headers: str) -> httpx2.Response:
        """As JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        return await self.http.post(path, content=content, headers=named)

    async def raw(self, body: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which a completion was asked, and nothing read."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), **options)
        content = json.dumps(body).encode()
        head = f"POST {chat_wire.COMPLETIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n"
        # Whoever packs answers must let a stream through as it is, each event at once.
        writer.write(f"{head}accept-encoding: gzip\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        return reader, writer
