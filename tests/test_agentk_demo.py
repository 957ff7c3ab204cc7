"""agent-k as a developer meets it: the demo, the published steps and example, unmodified client packages, a kill.

One demo serves the whole file. A second one, with a language model of ours, is killed in the middle of an answer.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from openoutcry.app import DEMO_EMAILS, DEMO_KEY, DEMO_MICROS, LEDGER, TRADER_EMAILS, TRADER_KEY
from openoutcry.clock import ManualClock
from openoutcry.config import AgentkConfig, HyperoruConfig
from openoutcry.ledger.ledger import Ledger
from openoutcry.stores.ledger import SqlLedger
from openoutcry.stores.sql import sqlite_url
from openoutcry.telemetry import Telemetry
from openoutcry.venues import VENUES
from tests.test_accounts_commands import SHELL, Shell
from tests.test_demo import demo

NS_MAX = 2**63 - 1
NARRATED = "Rule-based summary, not a language model."
HI: list[Any] = [{"role": "user", "content": "BTC 1h"}]
TOKEN_NAMES = {"address", "networkId", "symbol", "name", "price", "volume", "source"}

# The page's own, but for the address.
EXAMPLE = """
import asyncio, json, os, websockets
KEY = os.environ["KAI_API_KEY"]
async def stream():
    url = f"wss://agent-k.ai/v1/ws?api_key={KEY}"
    async with websockets.connect(url) as ws:
        # First frame is the welcome
        print(json.loads(await ws.recv()))
        # Subscribe to one or more channels
        await ws.send(json.dumps({
            "op": "subscribe",
            "channels": ["market.BTC.1m", "market.ETH.1m"],
        }))
        async for raw in ws:
            msg = json.loads(raw)
            if msg["op"] == "snapshot":
                print(f"snapshot {msg['channel']}: {len(msg['data'])} bars")
            elif msg["op"] == "event":
                d = msg["data"]
                print(f"{msg['channel']} c={d['close']} closed={d['is_closed']}")
            elif msg["op"] == "ping":
                await ws.send(json.dumps({"op": "pong", "ts": msg["ts"]}))
asyncio.run(stream())
"""


def settings(folder: Path, venues: Collection[str], more: str) -> tuple[str, str]:
    """The argument that names a file of settings: few venues, since each costs a start seconds."""
    file = folder / "openoutcry.toml"
    file.write_text("".join(f"[venues.{name}]\non = {str(name in venues).lower()}\n" for name in VENUES) + more)
    return "--config", str(file)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What agent-k and HyperORU tell of, the latter under lock and key."""
    venues = (AgentkConfig().venue, HyperoruConfig().venue)
    with demo(*settings(tmp_path_factory.mktemp("demo"), venues, "[hyperoru]\nlocked = true\n")) as (_, ready):
        yield ready


@pytest.fixture(scope="module")
def web(running: dict[str, Any]) -> Iterator[httpx2.Client]:
    """As whoever holds the demo's key."""
    headers = {"Authorization": f"Bearer {running['keys'][0]}"}
    with httpx2.Client(base_url=running["http"], headers=headers, timeout=20, trust_env=False) as http:
        yield http


@pytest.fixture(scope="module")
def client(running: dict[str, Any]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running['http']}/v1", api_key=running["keys"][0], max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with subprocess.Popen(
        [sys.executable, "-c", SHELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Shell(process)
        finally:
            process.kill()


# The four steps, and the books beside the server


def test_the_published_steps_lead_to_an_answer_once_somebody_pays(running: dict[str, Any], shell: Shell) -> None:
    at = ("--data", running["data"])
    with httpx2.Client(base_url=f"{running['http']}/v1", timeout=20, trust_env=False) as http:
        entered = http.post("/auth/register", json={"email": "dev@example.com", "password": "a-long-password"})
        assert entered.status_code == 200, entered.text
        token = entered.json()["data"]["token"]
        minted = http.post(
            "/auth/api-keys", json={"name": "my-first-bot"}, headers={"Authorization": f"Bearer {token}"}
        ).json()["data"]
        key = {"Authorization": f"Bearer {minted['raw_key']}"}
        poor = http.get("/billing/balance", headers=key).json()["data"]
        assert (poor["balance_micros"], poor["account_id"]) == (0, entered.json()["data"]["account_id"])

        # The page's fourth step.
        client = openai.OpenAI(base_url=f"{running['http']}/v1", api_key=minted["raw_key"], max_retries=0)
        asked: dict[str, Any] = {"model": "kai-fast", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
        with client, pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(**asked)
        assert (refused.value.status_code, refused.value.code) == (402, "insufficient_balance")

        granted = shell.told("grant", "dev@example.com", "2.5", "--id", "welcome", *at)
        assert granted["balance_micros"] == 2_500_000
        assert shell.told("grant", "dev@example.com", "2.5", "--id", "welcome", *at) == granted, "once"
        client = openai.OpenAI(base_url=f"{running['http']}/v1", api_key=minted["raw_key"], max_retries=0)
        with client:
            raw = client.chat.completions.with_raw_response.create(**asked)
        assert raw.parse().choices[0].message.content
        cost = int(raw.headers["x-kai-cost-micros"])
        assert cost > 0
        assert http.get("/billing/balance", headers=key).json()["data"]["balance_micros"] == 2_500_000 - cost
        (row,) = http.get("/billing/usage", headers=key).json()["data"]
        assert (row["cost_micros"], row["endpoint"]) == (cost, "/v1/chat/completions")

    told = shell.told("ledger", "dev@example.com", *at)
    assert (told["balance_micros"], told["held_micros"]) == (2_500_000 - cost, 0)
    assert [entry["amount"] for entry in told["entries"]] == [-cost, 2_500_000]
    assert shell.told("ledger", "--check", *at) == {"balances": True, "complaints": []}
    listed = [json.loads(line) for line in shell.run("accounts", "list", "--json", *at).stdout.splitlines()]
    assert {each["email"] for each in listed} == {*DEMO_EMAILS, *TRADER_EMAILS, "dev@example.com"}
    keys = [json.loads(line) for line in shell.run("keys", "list", "--json", *at).stdout.splitlines()]
    (mine,) = (each for each in keys if each["name"] not in {DEMO_KEY, TRADER_KEY})
    assert (mine["name"], mine["account"]) == ("my-first-bot", told["account_id"])


# The openai package


def test_a_whole_answer(client: openai.OpenAI) -> None:
    told = client.chat.completions.create(model="kai-smart", messages=HI)
    (choice,) = told.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content is not None
    assert choice.message.content.startswith(NARRATED)
    assert "BTC" in choice.message.content
    assert told.usage is not None
    assert told.usage.completion_tokens > 0
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens


@pytest.mark.parametrize("apart", [False, True])
def test_a_streamed_answer_says_the_same_and_what_it_used(client: openai.OpenAI, apart: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if apart else {}
    chunks = list(client.chat.completions.create(model="kai-fast", messages=HI, stream=True, **options))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.startswith(NARRATED)
    assert len(chunks) > 10, "word by word"
    assert {(chunk.id, chunk.model) for chunk in chunks} == {(chunks[0].id, "kai-fast")}
    assert len(chunks[-1].choices) == (0 if apart else 1)
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["stop"]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [each.id for each in listed] == ["kai-fast", "kai-smart"]
    assert {each.owned_by for each in listed} == {"builtin"}
    assert client.models.retrieve("kai-fast") == listed[0]


def test_errors_are_those_the_package_knows(running: dict[str, Any], client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as strange:
        client.chat.completions.create(model="gpt-9", messages=HI)
    assert strange.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="kai-fast", messages=HI, temperature=3)
    assert wrong.value.param == "temperature"
    with openai.OpenAI(base_url=f"{running['http']}/v1", api_key="kai-" + "0" * 64, max_retries=0) as stranger:
        for ask in (stranger.models.list, lambda: stranger.chat.completions.create(model="x", messages=HI)):
            with pytest.raises(openai.AuthenticationError) as unknown:
                ask()
            assert unknown.value.code == "invalid_api_key"


def test_the_simple_chat_shows_its_cost_and_usage_remembers_it(web: httpx2.Client) -> None:
    told = web.post("/v1/ai/chat", json={"message": "ETH 4h", "max_tokens": 500}).json()["data"]
    assert told["answer"].startswith(NARRATED)
    newest = web.get("/v1/billing/usage", params={"limit": 1}).json()["data"]
    assert [(row["endpoint"], row["cost_micros"], row["tokens_in"], row["tokens_out"]) for row in newest] == [
        ("/v1/ai/chat", told["cost"]["total_micros"], told["tokens_in"], told["tokens_out"])
    ]
    (today,) = web.get("/v1/billing/usage/summary").json()["data"]
    spent = web.get("/v1/billing/balance").json()["data"]
    assert today["cost_micros"] == DEMO_MICROS - spent["balance_micros"]


# The socket


def test_the_published_example_prints_bars_and_events(running: dict[str, Any]) -> None:
    text = EXAMPLE.replace("wss://agent-k.ai", running["http"].replace("http://", "ws://"))
    environment = {**os.environ, "KAI_API_KEY": running["keys"][0]}
    with subprocess.Popen(
        [sys.executable, "-u", "-c", text], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        hang = threading.Timer(20, process.kill)
        hang.start()
        try:
            lines = [process.stdout.readline().strip() for _ in range(4)]
        finally:
            hang.cancel()
            process.kill()
    assert lines[0].startswith("{'op': 'welcome'")
    assert {lines[1], lines[2]} == {"snapshot market.BTC.1m: 50 bars", "snapshot market.ETH.1m: 50 bars"}
    assert lines[3].startswith(("market.BTC.1m c=", "market.ETH.1m c="))


def test_a_channel_tells_until_it_is_left(running: dict[str, Any]) -> None:
    url = f"{running['http'].replace('http://', 'ws://')}/v1/ws?api_key={running['keys'][0]}"
    with connect(url, proxy=None) as socket:
        assert _next(socket)["op"] == "welcome"
        socket.send('{"op":"subscribe","channels":["market.BTC.1m","market.NOSUCH.1m"]}')
        heard = [_next(socket) for _ in range(4)]
        ops = [each["op"] for each in heard]
        assert sorted(ops) == ["error", "event", "snapshot", "subscribed"]
        assert ops.index("subscribed") < ops.index("snapshot") < ops.index("event")
        of = {each["op"]: each for each in heard}
        assert of["error"]["code"] == "unknown_channel"
        assert of["subscribed"]["channels"] == ["market.BTC.1m"]
        bars = of["snapshot"]["data"]
        assert [bar[0] for bar in bars] == sorted({bar[0] for bar in bars})
        assert of["event"]["data"]["ts"] >= bars[-1][0]
        assert of["event"]["data"]["event"] == "kline_update"

        socket.send('{"op":"unsubscribe","channels":["market.BTC.1m"]}')
        while (said := _next(socket))["op"] == "event":
            pass
        assert (said["op"], said["channels"]) == ("unsubscribed", ["market.BTC.1m"])
        socket.send('{"op":"ping","ts":7}')
        # Nothing of the channel comes before it.
        assert _next(socket) == {"op": "pong", "ts": 7}


def test_a_wrong_key_is_closed_with_its_code(running: dict[str, Any]) -> None:
    url = f"{running['http'].replace('http://', 'ws://')}/v1/ws?api_key=no"
    with connect(url, proxy=None) as socket, pytest.raises(ConnectionClosedError) as closed:
        socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def _next(socket: ClientConnection) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(socket.recv(timeout=20))
    return told


# What is free


def test_candles_by_every_spelling_of_a_coin(web: httpx2.Client) -> None:
    answers = [
        web.get(f"/v1/market/ohlcv/{name}", params={"interval": "1h", "limit": 5}).json()
        for name in ("BTC", "btc", "BTC-USD")
    ]
    rows = answers[0]["data"]
    assert [row[0] for row in rows] == [rows[0][0] + 3_600_000 * n for n in range(5)]
    assert all(low <= min(first, last) <= max(first, last) <= high for _, first, high, low, last, _ in rows)
    # The last one still grows.
    assert [answer["data"][:-1] for answer in answers] == [rows[:-1]] * 3
    assert web.get("/v1/market/ohlcv/NOSUCH").status_code == 404


def test_tokens_and_pump_fun(web: httpx2.Client) -> None:
    trending = web.get("/v1/tokens/trending", params={"networkId": 1399811149, "limit": 3}).json()["data"]
    assert len(trending) == 3
    assert all(token.keys() >= TOKEN_NAMES for token in trending)
    one = web.get(f"/v1/tokens/1399811149/{trending[0]['address']}").json()["data"]
    assert (one["address"], one["symbol"]) == (trending[0]["address"], trending[0]["symbol"])
    top = web.get("/v1/pumpfun/top", params={"limit": 2}).json()["data"]
    assert (len(top["tokens"]), top["network_id"]) == (2, 1399811149)


def test_news_are_enriched_by_rules_and_newest_first(web: httpx2.Client) -> None:
    told = web.get("/v1/news", params={"limit": 20}).json()["data"]
    assert told
    assert [each["published_at"] for each in told] == sorted((each["published_at"] for each in told), reverse=True)
    assert {each["enriched_by"] for each in told} == {"rules"}
    assert all(-1 <= each["sentiment"]["score"] <= 1 for each in told)


@pytest.mark.parametrize(
    ("path", "header"), [("/v1/types", "x-kiyotaka-key"), ("/api/klines/supported-symbols", "x-api-key")]
)
def test_the_demos_key_opens_the_other_dialects(running: dict[str, Any], path: str, header: str) -> None:
    with httpx2.Client(base_url=running["http"], timeout=20, trust_env=False) as http:
        assert http.get(path).status_code == 401
        opened = http.get(path, headers={header: running["keys"][0]})
    assert opened.status_code == 200, opened.text


# A kill in the middle of an answer


USED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


class Model(BaseHTTPRequestHandler):
    """A language model: of a streamed answer it says one word, and waits before the next until it is let go."""

    protocol_version = "HTTP/1.1"
    spoke = threading.Event()
    go_on = threading.Event()

    def do_GET(self) -> None:
        self._told(200, b'{"data":[{"id":"m"}]}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.endswith("/chat/completions"):
            self._told(404, b"{}")
        elif asked.get("stream"):
            self._speak()
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}
            self._told(200, json.dumps({"choices": [choice], "usage": USED}).encode())

    def _speak(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self._piece({"choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": None}]})
        self.spoke.set()
        self.go_on.wait(60)
        self._piece({"choices": [{"index": 0, "delta": {"content": " two"}, "finish_reason": "stop"}]})
        self._piece({"choices": [], "usage": USED})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args

    def handle(self) -> None:
        # The server that asked was killed.
        with suppress(ConnectionError):
            super().handle()

    def _piece(self, told: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(told).encode() + b"\n\n")

    def _told(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def model() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            Model.go_on.set()
            server.shutdown()
            serving.join()


def test_a_kill_in_the_middle_of_an_answer_leaves_books_that_balance(tmp_path: Path, shell: Shell) -> None:
    data = tmp_path / "data"
    at = ("--data", str(data))
    with model() as url:
        named = settings(tmp_path, ["hyperliquid"], f'[models.upstreams.slow]\nbase_url = "{url}"\nmodel = "m"\n')
        with demo(*at, *named) as (process, ready), _openai(ready) as client:
            with pytest.raises((openai.APIError, httpx2.HTTPError, OSError)):
                for chunk in client.chat.completions.create(model="kai-fast", messages=HI, max_tokens=100, stream=True):
                    if any(choice.delta.content for choice in chunk.choices):
                        process.kill()
            assert Model.spoke.is_set()
        told = shell.told("ledger", DEMO_EMAILS[0], *at)
        held = told["held_micros"]
        assert 0 < held < DEMO_MICROS
        assert shell.told("ledger", "--check", *at) == {"balances": True, "complaints": []}

        # The next start gives nothing twice, and sells what is not held.
        Model.go_on.set()
        with demo(*at, *named) as (_, ready), _openai(ready) as client:
            raw = client.chat.completions.with_raw_response.create(model="kai-fast", messages=HI, max_tokens=100)
            assert raw.parse().choices[0].message.content == "one two"
            cost = int(raw.headers["x-kai-cost-micros"])
            told = shell.told("ledger", DEMO_EMAILS[0], *at)
            assert (told["balance_micros"], told["held_micros"]) == (DEMO_MICROS - cost, held)
            assert shell.told("ledger", "--check", *at) == {"balances": True, "complaints": []}
    with closing(SqlLedger(sqlite_url(data / LEDGER))) as store:
        (hold,) = store.due(NS_MAX, 10)
        assert hold.startswith("req_")
        ledger = Ledger(store, ManualClock(NS_MAX), Telemetry())
        swept = asyncio.run(_swept(ledger))
        assert swept == 1
        assert store.check() == []
        balance = store.balance(told["account_id"], "KAI")
        assert (balance.total, balance.held) == (DEMO_MICROS - cost, 0)


async def _swept(ledger: Ledger) -> int:
    try:
        return await ledger.sweep(NS_MAX)
    finally:
        await ledger.close()


def _openai(ready: dict[str, Any]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{ready['http']}/v1", api_key=ready["keys"][0], max_retries=0, timeout=30)
