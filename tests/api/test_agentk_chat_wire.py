"""What may be asked of a language model, field by field, and that nothing else comes through."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openoutcry.api.agentk import chat_wire
from openoutcry.api.agentk.chat_wire import DEPTH_MAX, MESSAGES_MAX, PARTS_MAX, TOOLS_MAX
from openoutcry.api.agentk.wire import Wrong
from openoutcry.chat import Delta, Said, Usage
from openoutcry.llm.models import Ask
from tests.api.agentk_models import Answered, an_answer

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def ask(body: Any, content_type: str | None = "application/json") -> Ask:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chat_wire.completion_ask(chat_wire.completion_asked(content_type, text), None)


def nested(depth: int) -> Any:
    told: Any = {}
    for _ in range(depth):
        told = {"a": told}
    return told


def with_tool(**more: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **more}}]}


@pytest.mark.parametrize(
    ("fields", "param", "rule"),
    [
        # The messages
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": HI * (MESSAGES_MAX + 1)}, "messages", "invalid_value"),
        ({"messages": [5]}, "messages[0]", "invalid_type"),
        ({"messages": [*HI, {"content": "hi"}]}, "messages[1].role", "missing_required_parameter"),
        ({"messages": [{"role": "function", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "User", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter"),
        (
            {"messages": [{"role": "assistant", "tool_calls": []}]},
            "messages[0].content",
            "missing_required_parameter",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * (PARTS_MAX + 1)}]},
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages[0].content[0].type",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "no"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "messages[0].content[0].image_url.url",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x"}]}]},
            "messages[0].content[0].image_url",
            "invalid_type",
        ),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
            "messages[0].tool_calls",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}]},
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        ({"messages": [{"role": "user", "content": "a", "name": ""}]}, "messages[0].name", "invalid_value"),
        # Numbers
        ({"model": 5}, "model", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 8_193}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 10**30}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 8_193}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "invalid_value"),
        ({"temperature": -0.01}, "temperature", "invalid_value"),
        ({"temperature": 2.01}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 2}, "n", "invalid_value"),
        ({"presence_penalty": -2.1}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        # The rest
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": [5]}, "stop[0]", "invalid_type"),
        ({"stop": "a" * 1_001}, "stop", "invalid_value"),
        ({"stream": "true"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": False, "stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"reasoning": "no"}, "reasoning", "invalid_type"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort", "invalid_value"),
        ({"reasoning": True, "reasoning_effort": "none"}, "reasoning_effort", "invalid_value"),
        ({"user": 5}, "user", "invalid_type"),
        ({"user": "a" * 257}, "user", "invalid_value"),
        # Tools
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": [TOOL] * (TOOLS_MAX + 1)}, "tools", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        (with_tool(parameters=[]), "tools[0].function.parameters", "invalid_type"),
        (with_tool(parameters=nested(DEPTH_MAX)), "tools[0].function.parameters", "invalid_value"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": nested(DEPTH_MAX)},
                }
            },
            "response_format.json_schema.schema",
            "invalid_value",
        ),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str, rule: str) -> None:
    with pytest.raises(Wrong) as wrong:
        ask({"messages": HI, **fields})
    assert (wrong.value.param, wrong.value.rule) == (param, rule)
    assert wrong.value.text.startswith(param)
    assert "`" not in wrong.value.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'{"messages":[{"role":"user","content":"hi"}]}x',
        b'{"messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
        b'{"messages":[{"role":"user","content":"hi"}],"temperature":Infinity}',
        b'{"messages":[{"role":"user","content":"hi"}],"temperature":1e999}',
        b'{"messages":[{"role":"user","content":"hi"}],"seed":' + b"9" * 5_000 + b"}",
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b"\xef\xbb\xbf" + b'{"messages":[{"role":"user","content":"hi"}]}',
        '{"messages":[{"role":"user","content":"hi"}]}'.encode("utf-16"),
        b'{"ignored":' + b"[" * 200_000 + b"]" * 200_000 + b',"messages":[{"role":"user","content":"hi"}]}',
        b'{"messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"tools":[{"type":"function","function":{"name":"f","parameters":'
        + b'{"a":' * 20_000
        + b"1"
        + b"}" * 20_000
        + b'}}],"messages":[{"role":"user","content":"hi"}]}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Wrong):
        ask(body)


@pytest.mark.parametrize(
    ("content_type", "good"),
    [
        (None, True),
        ("application/json", True),
        ("application/json; charset=UTF-8", True),
        ('application/json; a=b; CHARSET="utf-8"', True),
        ("text/plain", True),
        ("application/json; charset=utf-16", False),
        ("application/json;charset=latin-1", False),
        ("application/json;charset=", False),
    ],
)
def test_only_utf_8_is_read(content_type: str | None, good: bool) -> None:
    if good:
        assert ask({"messages": HI}, content_type).messages == tuple(HI)
    else:
        with pytest.raises(Wrong):
            ask({"messages": HI}, content_type)


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ({}, {}),
        # Null is nothing said, as clients send it that know no better.
        (
            dict.fromkeys(
                (
                    "model",
                    "max_tokens",
                    "temperature",
                    "top_p",
                    "n",
                    "stop",
                    "stream",
                    "stream_options",
                    "tools",
                    "seed",
                )
            ),
            {},
        ),
        (
            {"temperature": 0, "top_p": 0, "presence_penalty": 2},
            {"temperature": 0.0, "top_p": 0.0, "presence_penalty": 2.0},
        ),
        ({"stop": "a"}, {"stop": "a"}),
        ({"stop": []}, {}),
        ({"seed": -(2**63)}, {"seed": -(2**63)}),
        ({"logit_bias": {"5": 1}, "metadata": {}, "store": True, "service_tier": "auto"}, {}),
        ({"tools": [], "tool_choice": "none", "parallel_tool_calls": True}, {}),
        (
            {"tools": [{**TOOL, "more": 1}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            with_tool(parameters=nested(DEPTH_MAX - 1), strict=True),
            with_tool(parameters=nested(DEPTH_MAX - 1), strict=True),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
        ),
        ({"response_format": {"type": "text"}}, {"response_format": {"type": "text"}}),
    ],
)
def test_what_is_passed_on(fields: dict[str, Any], passed: dict[str, Any]) -> None:
    assert ask({"messages": HI, **fields}).fields == passed


def test_either_name_bounds_the_answer() -> None:
    assert ask({"messages": HI, "max_tokens": 8_192}).output_tokens_max == 8_192
    assert ask({"messages": HI, "max_completion_tokens": 1}).output_tokens_max == 1
    assert ask({"messages": HI, "max_completion_tokens": 5, "max_tokens": 5}).output_tokens_max == 5
    assert ask({"messages": HI}).output_tokens_max is None


def test_every_kind_of_message_is_passed_on_as_it_is() -> None:
    told = [
        {"role": "system", "content": [{"type": "text", "text": "brief"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": ""},
                {"type": "image_url", "image_url": {"url": "HTTPS://example.com/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "file", "file": {"file_data": "AA==", "filename": "a.pdf"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "call_1"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": "", "name": "ann"},
    ]
    assert ask({"messages": told}).messages == tuple(told)


# One field in eight is anything, so that two bodies in five are read and the others are each refused for something else.
_TEXTS = st.sampled_from(["", "hi", "user", "text", "auto", "none", "f", "https://x", "\u2028", "\x00"])
_NUMBERS = st.sampled_from([0, 1, 2, -1, 0.5, 2.5, 8_192, 8_193, 2**64, -(2**63)])
_NAMES = [
    *("role", "content", "type", "text", "function", "name", "arguments", "id", "tool_calls", "tool_call_id", "url"),
    *("image_url", "parameters", "json_schema", "schema", "include_usage"),
]
_ANY = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=12,
)


def _mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 7).flatmap(lambda n: good if n else _ANY)


_GOOD = {
    "model": st.none() | _TEXTS,
    "max_tokens": st.none() | st.integers(1, 8_192),
    "temperature": st.none() | st.floats(0, 2),
    "top_p": st.none() | st.floats(0, 1),
    "n": st.sampled_from([None, 1]),
    "stop": st.none() | _TEXTS | st.lists(_TEXTS, max_size=4),
    "stream": st.none() | st.booleans(),
    "reasoning": st.none() | st.booleans(),
    "reasoning_effort": st.sampled_from([None, "low", "high"]),
    "tools": st.none() | st.lists(st.just(TOOL), max_size=2),
    "parallel_tool_calls": st.none() | st.booleans(),
    "response_format": st.sampled_from([None, {"type": "text"}, {"type": "json_object"}]),
    "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
    "presence_penalty": st.none() | st.floats(-2, 2),
    "frequency_penalty": st.none() | st.floats(-2, 2),
    "logprobs": st.none() | st.booleans(),
    "user": st.none() | _TEXTS,
}
_RISKY = ("max_completion_tokens", "stream_options", "tool_choice", "top_logprobs")
_PART = st.sampled_from([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x"}}])
_TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "user", "assistant"]), "content": _mostly(_TEXTS)},
    optional={"name": st.just("ann")},
) | st.fixed_dictionaries({"role": st.just("user"), "content": _mostly(st.lists(_PART, min_size=1, max_size=3))})
_CALLS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | _TEXTS, "tool_calls": _mostly(st.just([CALL]))}
) | st.fixed_dictionaries({"role": st.just("tool"), "content": _TEXTS, "tool_call_id": _mostly(st.just("call_1"))})
_BODY = st.dictionaries(st.sampled_from([*_GOOD, *_GOOD, *_GOOD, *_RISKY]), st.none(), max_size=5).flatmap(
    lambda names: st.fixed_dictionaries(
        {
            "messages": st.lists(_TURN | _CALLS, min_size=1, max_size=3),
            **{name: _mostly(_GOOD.get(name, _ANY)) for name in names},
        }
    )
)


@given(_BODY | _ANY)
def test_a_body_is_read_or_refused_and_what_is_read_can_be_sent_on(body: Any) -> None:
    try:
        read = ask(body)
    except Wrong:
        return
    assert msgspec.json.decode(msgspec.json.encode(read.messages)) == list(read.messages)
    assert [turn["role"] for turn in read.messages] == [told["role"] for told in body["messages"]]
    assert [turn["content"] for turn in read.messages] == [told["content"] for told in body["messages"]]
    assert read.output_tokens_max is None or 1 <= read.output_tokens_max <= 8_192
    assert not {"model", "messages", "stream", "stream_options", "n", "max_tokens", "reasoning"} & set(read.fields)
    # Once read it stays what it is, however often.
    again = ask({"messages": list(read.messages), **read.fields})
    assert (again.messages, again.fields) == (read.messages, {**read.fields})


_WORDS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["\u2028", "\x85", '"', "\\", "\n\n"])


@given(st.lists(st.builds(Delta, text=_WORDS, thought=_WORDS, refusal=_WORDS)), st.booleans())
def test_what_is_said_is_what_is_read(deltas: list[Delta], apart: bool) -> None:
    chunks = chat_wire.Chunks("chatcmpl-1", 1, 'a"b', usage_apart=apart)
    sent = chunks.first() + b"".join(map(chunks.said, deltas)) + chunks.finished("stop", Usage(1, 2))
    events = sent.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(sent.decode().splitlines()) == 2 * (len(events) - 1)
    read = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    said = [each["choices"][0]["delta"] for each in read if each["choices"]]
    for name, told in (("content", "text"), ("reasoning_content", "thought"), ("refusal", "refusal")):
        assert "".join(each.get(name, "") for each in said) == "".join(getattr(delta, told) for delta in deltas)
    assert {each["model"] for each in read} == {'a"b'}


async def _many(bodies: list[bytes]) -> list[int]:
    server = Answered()
    await server.start()
    try:
        return [
            (await server.post(body, path)).status_code
            for body in bodies
            for path in (chat_wire.COMPLETIONS, chat_wire.CHAT)
        ]
    finally:
        await server.stop()


_BODIES = st.lists((_BODY | _ANY).map(lambda told: json.dumps(told).encode()) | st.binary(max_size=40), max_size=20)


@settings(max_examples=8, deadline=None)
@given(_BODIES)
def test_no_body_is_a_fault_of_ours(bodies: list[bytes]) -> None:
    assert set(asyncio.run(_many(bodies))) <= {200, 400, 422}


def test_a_whole_answer_holds_what_was_said() -> None:
    said = Said(text=None, finish="tool_calls", refusal="no", tool_calls=[CALL], logprobs={"a": float("-inf")})
    told = json.loads(chat_wire.completion(an_answer(said)))
    assert told["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": "no", "tool_calls": [CALL]},
            "logprobs": {"a": None},
            "finish_reason": "tool_calls",
        }
    ]
