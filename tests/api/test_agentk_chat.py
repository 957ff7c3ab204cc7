"""Language models over HTTP, before a real server: the openai package, and every byte it does not look at."""

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
import structlog
from openai.types.chat import ChatCompletionChunk

from openoutcry.api.agentk import chat
from openoutcry.api.agentk.chat_wire import CHAT, COMPLETIONS
from openoutcry.chat import Delta, Said, Usage
from openoutcry.errors import (
    Conflict,
    ContextTooLong,
    InsufficientFunds,
    Invalid,
    LimitExceeded,
    NotConfigured,
    OtherContent,
    Refusal,
    TimedOut,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from tests.api.agentk_models import ACCOUNT, NOW_S, Answered, an_answer, the_end

HI: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763553600,"model":"kai-smart","choices":['


@pytest.fixture
async def answered() -> AsyncIterator[Answered]:
    server = Answered()
    await server.start()
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(server.stop)
        yield server


# -- whole answers


async def test_the_package_reads_a_whole_answer(answered: Answered) -> None:
    answered.models.answer = an_answer(
        Said(text="Hello.", finish="length", thought="They greet.", logprobs={"content": None, "refusal": None}),
        usage=Usage(9, 12, 7, 4),
    )
    told = await answered.openai().chat.completions.create(
        model="kai-smart", messages=HI, max_tokens=20, extra_body={"reasoning": True}
    )
    assert (told.id, told.object, told.created, told.model) == ("chatcmpl-1", "chat.completion", NOW_S, "kai-smart")
    choice = told.choices[0]
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    assert choice.message.content == "Hello."
    assert choice.message.model_extra == {"reasoning_content": "They greet."}
    assert choice.logprobs is not None
    assert told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.completion_tokens, told.usage.total_tokens) == (9, 12, 21)
    assert told.usage.completion_tokens_details is not None
    assert told.usage.prompt_tokens_details is not None
    assert told.usage.completion_tokens_details.reasoning_tokens == 7
    assert told.usage.prompt_tokens_details.cached_tokens == 4


async def test_a_whole_answer_is_these_bytes(answered: Answered) -> None:
    answer = await answered.post({"messages": HI})
    assert answer.content == (
        b'{"id":"chatcmpl-1","object":"chat.completion","created":1763553600,"model":"kai-smart","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"Hello.","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-kai-cost-micros"] == "330"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "99000"
    assert "idempotent-replayed" not in answer.headers


def test_the_synchronous_package_asks_too() -> None:
    with _beside() as (server, run):
        with openai.OpenAI(
            base_url=f"http://{server.address}/v1",
            api_key=server.key,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        ) as client:
            told = client.chat.completions.create(model="kai-smart", messages=HI)
            assert told.choices[0].message.content == "Hello."
            with client.chat.completions.create(model="kai-smart", messages=HI, stream=True) as chunks:
                assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello."
            assert [each.id for each in client.models.list()] == ["kai-smart", "qwen/qwen3:free"]
        run(server.keys.revoke(server.key_id))


@contextlib.contextmanager
def _beside() -> Iterator[tuple[Answered, Callable[[Any], Any]]]:
    """A server in a loop of its own thread, and the way to run something there."""
    loop = asyncio.new_event_loop()
    import threading

    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    async def make() -> Answered:
        server = Answered()
        await server.start()
        return server

    try:
        server = run(make())
        try:
            yield server, run
        finally:
            run(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_the_model_calls_tools(answered: Answered) -> None:
    answered.models.answer = an_answer(Said(text=None, finish="tool_calls", tool_calls=[CALL]))
    client = answered.openai()
    told = await client.chat.completions.create(
        model="kai-fast", messages=HI, tools=WEATHER, tool_choice="auto", parallel_tool_calls=False
    )
    message: Any = told.choices[0].message
    assert (message.content, told.choices[0].finish_reason) == (None, "tool_calls")
    assert message.tool_calls is not None
    assert message.tool_calls[0].to_dict() == CALL
    # And is told what they gave, with its own message as the package holds it.
    await client.chat.completions.create(
        model="kai-fast",
        messages=[*HI, message, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}],
        tools=WEATHER,
    )
    assert answered.asked.messages == (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    )


async def test_what_is_asked_reaches_the_models(answered: Answered) -> None:
    await answered.openai().chat.completions.create(
        model="kai-smart",
        messages=[
            {"role": "developer", "content": "brief"},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "what is this"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
        ],
        max_completion_tokens=77,
        temperature=0.5,
        top_p=1,
        stop=["a", "b"],
        n=1,
        seed=-5,
        presence_penalty=-2,
        frequency_penalty=2,
        logprobs=True,
        top_logprobs=3,
        user="u-1",
        response_format={"type": "json_object"},
        reasoning_effort="high",
        store=True,
        metadata={"ignored": "yes"},
    )
    payer, ask = answered.models.asked[-1]
    assert (payer.account, payer.key) == (ACCOUNT, answered.key_id)
    payer.reserve(40)
    (caller, tokens), *_ = answered.limits.reserved
    assert (caller.key and caller.key.id, tokens) == (answered.key_id, 40)
    assert (ask.endpoint, ask.model, ask.output_tokens_max, ask.thinks) == (COMPLETIONS, "kai-smart", 77, True)
    assert (ask.idempotency_key, ask.fingerprint) == (None, b"")
    assert ask.messages == (
        {"role": "developer", "content": "brief"},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "what is this"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            ],
        },
    )
    assert ask.fields == {
        "temperature": 0.5,
        "top_p": 1.0,
        "stop": ["a", "b"],
        "seed": -5,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "logprobs": True,
        "top_logprobs": 3,
        "user": "u-1",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "high",
    }


@pytest.mark.parametrize(
    ("said", "thinks", "effort"),
    [
        ({}, None, None),
        ({"reasoning": None}, None, None),
        ({"reasoning": False}, False, None),
        ({"reasoning": True}, True, None),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "low"}, True, "low"),
        ({"reasoning": True, "reasoning_effort": "low"}, True, "low"),
        ({"reasoning": False, "reasoning_effort": "low"}, False, None),
    ],
)
async def test_whether_it_thinks(answered: Answered, said: Any, thinks: bool | None, effort: str | None) -> None:
    assert (await answered.post({"messages": HI, **said})).status_code == 200
    assert (answered.asked.thinks, answered.asked.fields.get("reasoning_effort")) == (thinks, effort)


async def test_a_token_without_a_key_may_ask_and_a_key_without_an_account_may_not(answered: Answered) -> None:
    answer = await answered.post({"messages": HI}, authorization="Bearer jwt")
    assert (answer.status_code, answered.models.asked[-1][0].key) == (200, None)
    _, nobody = await answered.keys.create("nobody")
    refused = await answered.post({"messages": HI}, authorization=f"Bearer {nobody}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    _, market = await answered.keys.create("market", {"market"})
    assert (await answered.post({"messages": HI}, authorization=f"Bearer {market}")).status_code == 403
    assert (await answered.http.get("/v1/models", headers={"authorization": f"Bearer {market}"})).status_code == 200


# -- one question


async def test_one_question_is_answered_with_its_cost(answered: Answered) -> None:
    answer = await answered.post({"message": "hi", "max_tokens": 5, "reasoning": False, "more": 1}, CHAT)
    assert answer.content == (
        b'{"v":1,"data":{"answer":"Hello.","tokens_in":9,"tokens_out":2,"latency_ms":41,"cost":{"llm_usd":0.0000030,'
        b'"fee_multiplier":1.1,"total_usd":0.0000033,"total_micros":330,"kai_price_usd":0.01}}}'
    )
    assert answer.headers["x-kai-cost-micros"] == "330"
    ask = answered.asked
    assert (ask.endpoint, ask.model, ask.messages) == (CHAT, None, ({"role": "user", "content": "hi"},))
    assert (ask.output_tokens_max, ask.thinks, ask.fields) == (5, False, {})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": "a" * 10_001}, "message"),
        ({"message": 5}, "message"),
        ({"message": "a", "max_tokens": 0}, "max_tokens"),
        ({"message": "a", "max_tokens": 8_193}, "max_tokens"),
        ({"message": "a", "model": 1}, "model"),
        ({"message": "a", "reasoning": "no"}, "reasoning"),
        ([], None),
        (b"{", None),
    ],
)
async def test_one_wrong_question_is_422(answered: Answered, body: Any, param: str | None) -> None:
    answer = await answered.post(body, CHAT)
    told = answer.json()
    assert (answer.status_code, told["error"]["param"], told["error"]["type"]) == (422, param, "invalid_request_error")
    assert told["detail"] == told["error"]["message"]
    assert not answered.models.asked


# -- models


async def test_the_package_lists_models(answered: Answered) -> None:
    client = answered.openai()
    assert [(each.id, each.object, each.owned_by) async for each in client.models.list()] == [
        ("kai-smart", "model", "openoutcry"),
        ("qwen/qwen3:free", "model", "openoutcry"),
    ]
    assert (await client.models.retrieve("kai-smart")).created == NOW_S
    # The package escapes the slash of an id, others do not.
    assert (await client.models.retrieve("qwen/qwen3:free")).id == "qwen/qwen3:free"
    assert (await answered.http.get("/v1/models/qwen/qwen3:free")).json()["id"] == "qwen/qwen3:free"
    with pytest.raises(openai.NotFoundError) as lost:
        await client.models.retrieve("gpt-9")
    assert (lost.value.code, lost.value.type) == ("model_not_found", "invalid_request_error")


async def test_models_carry_what_both_kinds_of_clients_read(answered: Answered) -> None:
    told = (await answered.http.get("/v1/models")).json()
    assert (told["object"], told["v"], len(told["data"])) == ("list", 1, 2)
    assert told["data"][0] == {
        "id": "kai-smart",
        "object": "model",
        "created": NOW_S,
        "owned_by": "openoutcry",
        "description": "Thinks first",
        "default_reasoning": True,
        "upstream_model": "qwen35-gptq",
        "provider": "vllm",
        "status": "available",
        "input_usd_per_1k": 0.0002,
        "output_usd_per_1k": 0.0006,
    }


# -- refusals


async def test_the_package_raises_what_it_means(answered: Answered) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        await answered.openai("kai-0").chat.completions.create(model="kai-smart", messages=HI)
    assert (unknown.value.code, unknown.value.type) == ("invalid_api_key", "authentication_error")
    client = answered.openai()
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model="kai-smart", messages=HI, temperature=3)
    assert (wrong.value.param, wrong.value.code) == ("temperature", "invalid_value")
    answered.models.refusal = InsufficientFunds("the balance covers 12 tokens")
    with pytest.raises(openai.APIStatusError) as poor:
        await client.chat.completions.create(model="kai-smart", messages=HI)
    assert (poor.value.status_code, poor.value.code, poor.value.type) == (
        402,
        "insufficient_balance",
        "insufficient_quota",
    )
    answered.models.refusal = UnknownModel("there is no such model")
    with pytest.raises(openai.NotFoundError) as lost:
        await client.chat.completions.create(model="gpt-9", messages=HI)
    assert lost.value.code == "model_not_found"
    answered.models.refusal = None
    answered.limits.refusal = LimitExceeded("60 a minute", 1.25)
    with pytest.raises(openai.RateLimitError) as fast:
        await client.chat.completions.create(model="kai-smart", messages=HI)
    headers = fast.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"], fast.value.code) == ("2", "1250", "rate_limit_exceeded")
    assert headers["x-ratelimit-limit-requests"] == "60"


@pytest.mark.parametrize(
    ("refusal", "completions", "simple", "code"),
    [
        (Invalid("the model cannot read images"), 400, 422, None),
        (Unsupported("no tools"), 400, 422, None),
        (ContextTooLong("longer than the model takes"), 400, 422, "context_length_exceeded"),
        (Conflict("still running"), 409, 409, "conflict"),
        (OtherContent("another question"), 422, 422, "other_content"),
        (NotConfigured("nothing is sold"), 503, 503, "not_configured"),
        (Unavailable("model", "the language model failed"), 502, 502, "upstream_error"),
        (TimedOut("model", "the language model did not answer"), 504, 504, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_models_refuse(
    answered: Answered, refusal: Refusal, completions: int, simple: int, code: str | None, stream: bool
) -> None:
    answered.models.refusal = refusal
    answer = await answered.post({"messages": HI, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["code"]) == (completions, code)
    assert answer.json()["detail"] == answer.json()["error"]["message"] == refusal.text
    assert (await answered.post({"message": "hi"}, CHAT)).status_code == simple


# -- streams


async def test_a_stream_is_these_bytes(answered: Answered) -> None:
    answered.models.script = (
        Delta(thought="They greet."),
        Delta(text="Hel"),
        Delta(),
        Delta(text='lo "you"\n', logprobs={"content": []}),
        the_end("stop", Usage(9, 5, 3)),
    )
    answer = await answered.post({"messages": HI, "stream": True}, accept_encoding="gzip")
    none = ',"logprobs":null,"finish_reason":null}]}'
    details = '"completion_tokens_details":{"reasoning_tokens":3}'
    usage = f'{{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,{details}}}'
    assert answer.text.split("\n\n") == [
        f'data: {HEAD}{{"index":0,"delta":{{"role":"assistant","content":""}}{none}',
        f'data: {HEAD}{{"index":0,"delta":{{"reasoning_content":"They greet."}}{none}',
        f'data: {HEAD}{{"index":0,"delta":{{"content":"Hel"}}{none}',
        f'data: {HEAD}{{"index":0,"delta":{{"content":"lo \\"you\\"\\n"}},"logprobs":{{"content":[]}},"finish_reason":null}}]}}',
        f'data: {HEAD}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],"usage":{usage}}}',
        "data: [DONE]",
        "",
    ]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
    assert {"content-encoding", "content-length", "x-kai-cost-micros", "idempotent-replayed"}.isdisjoint(answer.headers)
    assert answered.speaking.left == 0


async def test_a_stream_with_its_usage_apart_is_these_bytes(answered: Answered) -> None:
    body = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    answer = await answered.post(body)
    none = ',"logprobs":null,"finish_reason":null}],"usage":null}'
    assert answer.text.split("\n\n") == [
        f'data: {HEAD}{{"index":0,"delta":{{"role":"assistant","content":""}}{none}',
        f'data: {HEAD}{{"index":0,"delta":{{"content":"Hello."}}{none}',
        f'data: {HEAD}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],"usage":null}}',
        f'data: {HEAD}],"usage":{{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}}}',
        "data: [DONE]",
        "",
    ]


@pytest.mark.parametrize("apart", [False, True])
async def test_the_package_reads_a_stream(answered: Answered, apart: bool) -> None:
    pieces = [
        Delta(
            tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]
        ),
        Delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        Delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        Delta(text="Hel"),
        Delta(text="lo."),
        Delta(refusal="no"),
    ]
    answered.models.script = (*pieces, the_end("tool_calls"))
    stream = await answered.openai().chat.completions.create(
        model="kai-fast", messages=HI, stream=True, stream_options={"include_usage": apart}, tools=WEATHER
    )
    chunks = [chunk async for chunk in stream]
    assert {(each.id, each.created, each.model) for each in chunks} == {("chatcmpl-1", NOW_S, "kai-fast")}
    said = [choice for each in chunks for choice in each.choices]
    assert said[0].delta.role == "assistant"
    assert "".join(each.delta.content or "" for each in said) == "Hello."
    assert "".join(each.delta.refusal or "" for each in said) == "no"
    calls = [call for each in said for call in each.delta.tool_calls or []]
    assert (calls[0].id, calls[0].index) == ("call_1", 0)
    assert "".join(call.function.arguments or "" for call in calls if call.function) == '{"a":1}'
    assert [each.finish_reason for each in said] == [None] * (len(said) - 1) + ["tool_calls"]
    usages = [each.usage for each in chunks]
    assert usages[:-1] == [None] * (len(chunks) - 1)
    assert usages[-1] is not None
    assert usages[-1].total_tokens == 11
    assert len(chunks[-1].choices) == (0 if apart else 1)


async def test_lines_end_only_where_events_do(answered: Answered) -> None:
    text = "a\u2028b\u2029c\x85d\r\ne\x0b\x0c\x1c\x1d\x1ef"
    answered.models.script = (Delta(text=text), the_end())
    answer = await answered.post({"messages": HI, "stream": True})
    # As a client reads that splits text as Python does.
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line not in ("", "data: [DONE]")]
    assert events[1]["choices"][0]["delta"]["content"] == text


async def test_half_a_character_goes_out_as_it_came(answered: Answered) -> None:
    answered.models.script = (Delta(text="\ud83d"), Delta(text="\ude00"), the_end())
    answer = await answered.post({"messages": HI, "stream": True})
    assert r'"content": "\ud83d"' in answer.text or r'"content":"\ud83d"' in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    answered.models.answer = an_answer("\ud83d")
    assert (await answered.post({"messages": HI})).json()["choices"][0]["message"]["content"] == "\ud83d"


async def test_a_failure_in_the_middle_is_the_last_event(answered: Answered) -> None:
    answered.models.script = (Delta(text="Hel"), Unavailable("model", "the language model stopped in the middle"))
    stream = await answered.openai().chat.completions.create(model="kai-smart", messages=HI, stream=True)
    heard: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as cut:
        async for chunk in stream:
            heard.append(chunk)
    assert [each.choices[0].delta.content for each in heard] == ["", "Hel"]
    assert all(each.choices[0].finish_reason is None for each in heard)
    assert cut.value.message == "the language model stopped in the middle"
    assert (cut.value.type, cut.value.code) == ("api_error", "upstream_error")
    answer = await answered.post({"messages": HI, "stream": True})
    last = (
        '{"message":"the language model stopped in the middle","type":"api_error","param":null,"code":"upstream_error"}'
    )
    assert answer.text.split("\n\n")[2:] == [f'data: {{"error":{last}}}', ""]


async def test_a_fault_of_ours_in_the_middle_is_told_without_its_words(answered: Answered) -> None:
    answered.models.script = (Delta(text="Hel"), RuntimeError("secret"))
    answer = await answered.post({"messages": HI, "stream": True})
    assert "secret" not in answer.text
    assert json.loads(answer.text.split("\n\n")[2][6:])["error"]["code"] == "internal_error"
    assert "[DONE]" not in answer.text
    # Also one that ends without saying how.
    answered.models.script = (Delta(text="Hel"),)
    answer = await answered.post({"messages": HI, "stream": True})
    assert json.loads(answer.text.split("\n\n")[2][6:])["error"]["code"] == "internal_error"


async def test_a_comment_comes_every_15_s_of_silence(answered: Answered) -> None:
    more, again, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    answered.models.script = (Delta(text="Hel"), more, Delta(text="lo."), again, Delta(text="!"), end, the_end())
    reader, writer = await answered.raw({"messages": HI, "stream": True})
    await reader.readuntil(b'"content":"Hel"')
    await answered.clock.advance(14)
    more.set()
    await reader.readuntil(b'"content":"lo."')
    # Said after 14 s: the silence begins anew.
    await answered.clock.advance(14.9)
    again.set()
    assert b"keep-alive" not in await reader.readuntil(b'"content":"!"')
    await answered.clock.advance(15)
    await reader.readuntil(b": keep-alive\n\n")
    await answered.clock.advance(15)
    await reader.readuntil(b": keep-alive\n\n")
    end.set()
    assert b"keep-alive" not in await reader.readuntil(b"data: [DONE]\n\n")
    writer.close()
    await writer.wait_closed()


async def test_who_leaves_is_told_to_the_models(answered: Answered, until: Any) -> None:
    answered.models.script = (Delta(text="Hel"), asyncio.Event(), the_end())
    reader, writer = await answered.raw({"messages": HI, "stream": True})
    await reader.readuntil(b'"content":"Hel"')
    assert answered.speaking.left == 0
    writer.close()
    await writer.wait_closed()
    await until(lambda: answered.speaking.left)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_before_the_first_word_is_told_to_the_models(
    answered: Answered, until: Any, stream: bool
) -> None:
    answered.models.ready.clear()
    _, writer = await answered.raw({"messages": HI, "stream": stream})
    await until(lambda: answered.models.asked)
    assert not answered.models.left
    writer.close()
    await writer.wait_closed()
    await until(lambda: answered.models.left)


async def test_the_package_leaves_when_its_stream_is_closed(answered: Answered, until: Any) -> None:
    answered.models.script = (Delta(text="Hel"), asyncio.Event(), the_end())
    stream = await answered.openai().chat.completions.create(model="kai-smart", messages=HI, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await until(lambda: answered.speaking.left)


async def test_a_revoked_key_ends_its_streams_within_5_s(answered: Answered, until: Any) -> None:
    answered.models.script = (Delta(text="Hel"), asyncio.Event(), the_end())
    stream = await answered.openai().chat.completions.create(model="kai-smart", messages=HI, stream=True)
    keeping = asyncio.create_task(answered.keys.run())
    chunks = aiter(stream)
    await anext(chunks)
    await anext(chunks)
    await answered.keys.revoke(answered.key_id)
    await answered.clock.advance(5)
    with pytest.raises(openai.APIError) as ended:
        await anext(chunks)
    assert (ended.value.code, ended.value.type) == ("invalid_api_key", "authentication_error")
    await until(lambda: answered.speaking.left)
    keeping.cancel()


async def test_a_stream_leaves_no_watch_behind(answered: Answered) -> None:
    for _ in range(3):
        await answered.post({"messages": HI, "stream": True})
    assert not answered.keys._watches


def _deaf() -> socket.socket:
    """A socket that takes little before somebody reads it."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.setblocking(False)
    return made


async def test_who_reads_slowly_slows_the_model_and_who_reads_nothing_is_cut(answered: Answered, until: Any) -> None:
    def forever() -> Iterator[Delta]:
        while True:
            yield Delta(text="a" * 60_000)

    answered.models.script = forever()
    host, _, port = answered.address.rpartition(":")
    plug = _deaf()
    await asyncio.get_running_loop().sock_connect(plug, (host, int(port)))
    content = json.dumps({"messages": HI, "stream": True}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {answered.key}\r\n"
    request = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
    await asyncio.get_running_loop().sock_sendall(plug, request)
    await until(lambda: answered.models.spoken)
    # It stops on its own: what the sockets hold is all that was taken of it.
    async with asyncio.timeout(20):
        taken, still = 0, 0
        while still < 200:
            await asyncio.sleep(0)
            still = still + 1 if answered.speaking.taken == taken else 0
            taken = answered.speaking.taken
    assert 0 < taken < 1_000
    await answered.clock.advance(chat.READ_S_MAX - 1)
    await until(lambda: answered.server.connections)
    assert answered.speaking.left == 0
    await answered.clock.advance(1 + chat.READ_CHECK_S)
    await until(lambda: answered.speaking.left and not answered.server.connections)
    assert answered.speaking.taken <= taken + 1
    plug.close()


async def test_a_stream_that_has_a_reader_ends_with_the_server(answered: Answered, until: Any) -> None:
    answered.models.script = (Delta(text="Hel"), asyncio.Event(), the_end())
    reader, writer = await answered.raw({"messages": HI, "stream": True})
    await reader.readuntil(b'"content":"Hel"')
    await answered.server.stop()
    await until(lambda: answered.speaking.left)
    assert b"[DONE]" not in await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


# -- idempotency


async def test_a_key_and_the_print_of_a_question_are_handed_on(answered: Answered) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}
    body = {"messages": HI, "temperature": 1, "stream": False, "tools": [tool]}
    same = (
        b'{"stream": false, "unknown": 1, "temperature": 1.0, "messages": [{"content": "hi", "role": "user"}],'
        b'"tools": [{"function": {"parameters": {"b": 2, "a": 1}, "name": "f"}, "type": "function"}]}'
    )
    await answered.post(body, Idempotency_Key="k-1")
    first = answered.asked
    assert (first.idempotency_key, len(first.fingerprint)) == ("k-1", hashlib.sha256().digest_size)
    await answered.post(same, Idempotency_Key="k-1")
    assert answered.asked.fingerprint == first.fingerprint
    for other in ({**body, "temperature": 0}, {**body, "stream": True}, {"messages": [*HI, *HI]}):
        await answered.post(other, Idempotency_Key="k-1")
        assert answered.asked.fingerprint != first.fingerprint
    await answered.post({"message": "hi"}, CHAT, Idempotency_Key="k-1")
    assert answered.asked.fingerprint != first.fingerprint


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "\xe9"])
async def test_a_key_that_cannot_be_is_400(answered: Answered, path: str, key: str) -> None:
    body = json.dumps({"messages": HI, "message": "hi"}).encode()
    answer = await answered.http.post(path, content=body, headers=[(b"idempotency-key", key.encode("latin-1"))])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_idempotency_key")
    assert not answered.models.asked


async def test_two_keys_that_differ_are_400(answered: Answered) -> None:
    body = json.dumps({"messages": HI}).encode()
    both = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await answered.http.post(COMPLETIONS, content=body, headers=both)).status_code == 400


async def test_a_replayed_answer_says_so(answered: Answered) -> None:
    answered.models.answer, answered.models.replayed = an_answer(replayed=True), True
    for path, body in (
        (COMPLETIONS, {"messages": HI}),
        (CHAT, {"message": "hi"}),
        (COMPLETIONS, {"messages": HI, "stream": True}),
    ):
        assert (await answered.post(body, path, Idempotency_Key="k")).headers["idempotent-replayed"] == "true"


async def test_the_page_shows_what_is_asked(answered: Answered) -> None:
    page = (await answered.http.get("/openapi.json")).json()
    for path, name in ((COMPLETIONS, "ChatCompletionRequest"), (CHAT, "ChatSimpleRequest")):
        asked = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert asked.rpartition("/")[2] == name
        assert page["components"]["schemas"][name]["properties"]["max_tokens"]["anyOf"]
    assert "text/event-stream" in page["paths"][COMPLETIONS]["post"]["responses"]["200"]["content"]
    named = page["components"]["schemas"]
    references = [found.rpartition("/")[2] for found in _references(page)]
    assert references
    assert set(references) <= set(named)


def _references(told: Any) -> Iterator[str]:
    if isinstance(told, dict):
        if isinstance(told.get("$ref"), str):
            yield told["$ref"]
        for each in told.values():
            yield from _references(each)
    elif isinstance(told, list):
        for each in told:
            yield from _references(each)


def test_costs_keep_their_digits() -> None:
    from openoutcry.api.agentk import chat_wire, wire

    told = chat_wire.simple(an_answer())
    assert told.cost.llm_usd == Decimal("0.0000030")
    assert b"0.0000033" in wire.encode(told)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_who_leaves_in_the_middle_of_a_question_is_no_fault_of_ours(
    answered: Answered, until: Any, path: str
) -> None:
    host, _, port = answered.address.rpartition(":")
    with structlog.testing.capture_logs() as logs:
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {answered.key}\r\ncontent-length: 500\r\n\r\n"
        writer.write(head.encode() + b'{"messages":')
        await until(lambda: answered.limits.counted)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not answered.server.connections)
        assert (await answered.http.get("/v1/models")).status_code == 200
    assert not logs
    assert not answered.models.asked
