"""Conversations that are relayed: what is sent, and what is made of anything that may come back, however it is cut."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.chat import Conversation, Delta, Said, Usage
from openoutcry.errors import ContextTooLong, Invalid, RateLimited, Refusal, Unavailable, Unreadable
from openoutcry.upstreams.openai import OpenAi
from openoutcry.upstreams.upstream import Manner

KEY = "sk-very-secret-5f2a"
USER = {"role": "user", "content": "Up?"}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "price", "arguments": '{"coin":"BTC"}'},
}


def conversation(*messages: dict[str, Any], thinks: bool = False, **fields: Any) -> Conversation:
    return Conversation(messages=messages or (USER,), output_tokens_max=64, thinks=thinks, fields=fields)


def sent(asked: Conversation, *, stream: bool = False, key: str | None = KEY, **manner: Any) -> dict[str, Any]:
    call = OpenAi().ask(asked, Manner(**{"model": "m", **manner}), key, stream=stream)
    assert call.path == "/chat/completions"
    assert call.headers.get("authorization") == (f"Bearer {key}" if key else None)
    body: dict[str, Any] = json.loads(call.body)
    return body


# -- asking


def test_a_conversation_is_passed_on_as_it_is() -> None:
    tools = [{"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}}]
    messages = (
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    )
    assert sent(conversation(*messages, temperature=0.5, tools=tools, seed=7)) == {
        "model": "m", "messages": list(messages), "max_tokens": 64, "stream": False, "temperature": 0.5, "tools": tools, "seed": 7,
    }  # fmt: skip


def test_without_a_key_none_is_sent() -> None:
    sent(conversation(), key=None)


def test_a_stream_is_always_asked_for_its_usage() -> None:
    asked = conversation(stream_options={"include_usage": False, "x": 1})
    assert sent(asked, stream=True)["stream_options"] == {"include_usage": True}
    assert sent(asked, stream=True, usage_stats=True)["stream_options"] == {
        "include_usage": True,
        "continuous_usage_stats": True,
    }
    assert "stream_options" not in sent(asked)


@pytest.mark.parametrize(
    ("reasoning", "on", "off"),
    [
        (
            "enable_thinking",
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        ("think", {"think": True}, {"think": False}),
        ("reasoning_enabled", {"reasoning": {"enabled": True}}, {"reasoning": {"enabled": False}}),
        ("thinking_type", {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
        ("none", {}, {}),
    ],
)  # fmt: skip
def test_each_upstream_is_told_to_think_in_its_own_way(reasoning: str, on: Any, off: Any) -> None:
    plain = {"model": "m", "messages": [USER], "max_tokens": 64, "stream": False}
    assert sent(conversation(thinks=True), reasoning=reasoning) == {**plain, **on}
    assert sent(conversation(thinks=False), reasoning=reasoning) == {**plain, **off}


def test_openai_is_told_an_effort_and_no_temperature_where_it_thinks() -> None:
    asked: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9}
    still = sent(conversation(**asked, reasoning_effort="high"), reasoning="reasoning_effort")
    assert (still["reasoning_effort"], still["temperature"], still["max_completion_tokens"]) == ("none", 0.5, 64)
    thinks = sent(conversation(thinks=True, **asked), reasoning="reasoning_effort")
    assert thinks["reasoning_effort"] == "medium"
    assert not {"temperature", "top_p", "max_tokens"} & set(thinks)
    high = sent(conversation(thinks=True, reasoning_effort="high"), reasoning="reasoning_effort")
    assert high["reasoning_effort"] == "high"


def test_old_templates_are_told_not_to_think_in_the_last_question() -> None:
    first, answer = {"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}
    body = sent(conversation(first, answer, USER, answer), reasoning="no_think")
    assert [each["content"] for each in body["messages"]] == ["One", "Two", "Up? /no_think", "Two"]
    parts = {"role": "user", "content": [{"type": "text", "text": "Up?"}]}
    body = sent(conversation(parts), reasoning="no_think")
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": "/no_think"}
    assert len(parts["content"]) == 1
    assert sent(conversation(thinks=True), reasoning="no_think")["messages"] == [USER]
    assert sent(conversation(answer), reasoning="no_think")["messages"] == [answer]


def test_further_fields_join_and_never_replace_what_is_ours() -> None:
    extra = {
        "chat_template_kwargs": {"date": "today"},
        "top_k": 20,
        "model": "x",
        "stream": True,
        "max_tokens": 9,
        "messages": [],
    }
    body = sent(conversation(temperature=1), reasoning="enable_thinking", extra=extra)
    assert body["chat_template_kwargs"] == {"date": "today", "enable_thinking": False}
    assert (body["top_k"], body["temperature"]) == (20, 1)
    assert (body["model"], body["stream"], body["max_tokens"], body["messages"]) == ("m", False, 64, [USER])


def test_developers_are_systems_to_all_but_openai() -> None:
    asked = conversation({"role": "developer", "content": "x"})
    assert sent(asked)["messages"][0]["role"] == "system"
    assert sent(asked, reasoning="reasoning_effort")["messages"][0]["role"] == "developer"


def test_half_a_character_is_refused() -> None:
    with pytest.raises(Invalid, match="half a character"):
        sent(conversation({"role": "user", "content": "\ud800"}))


# -- whole answers


def whole(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": more.pop("logprobs", None)}
    return json.dumps({"id": "up-1", "model": "m-1", "choices": [choice], **more}).encode()


def said(body: bytes, status: int = 200, **headers: str) -> Said:
    return OpenAi().said(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def test_a_whole_answer_is_read() -> None:
    told = said(
        whole(
            {"role": "assistant", "content": "Up.", "reasoning_content": "Hm."}, "length", logprobs={"content": []},
            usage={"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 3},
                   "prompt_tokens_details": {"cached_tokens": 8}},
        )
    )  # fmt: skip
    assert told == Said(
        text="Up.",
        finish="length",
        thought="Hm.",
        logprobs={"content": []},
        usage=Usage(9, 4, 3, 8),
        upstream_id="up-1",
    )


@pytest.mark.parametrize(
    ("message", "text", "thought"),
    [
        ({"content": "<think>a</think>\n\nb"}, "b", "a"),
        ({"content": "b", "reasoning": "a"}, "b", "a"),
        ({"content": "b", "reasoning": "a", "reasoning_content": "a"}, "b", "a"),
        ({"content": "b", "reasoning": {"odd": 1}}, "b", ""),
        ({"content": [{"type": "text", "text": "b"}]}, "b", ""),
        ({"content": ""}, "", ""),
        ({"content": None}, "", ""),
        ({"content": None, "tool_calls": [CALL]}, None, ""),
        ({"content": None, "refusal": "No."}, None, ""),
    ],
)
def test_what_is_said_and_what_was_thought(message: Any, text: str | None, thought: str) -> None:
    told = said(whole(message))
    assert (told.text, told.thought) == (text, thought)


def test_calls_of_tools_are_spelled_as_openai_does() -> None:
    odd = {"function": {"name": "price", "arguments": {"coin": "BTC"}}}
    told = said(whole({"content": None, "tool_calls": [CALL, odd]}, "tool_calls"))
    assert told.tool_calls == [
        CALL,
        {**CALL, "id": "call_1", "function": {**CALL["function"], "arguments": '{"coin":"BTC"}'}},
    ]
    assert told.finish == "tool_calls"


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 0}}, Usage(9, 4, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 5}, Usage(9, 4, None, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 5}}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": -1}}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": 7}, Usage(9, 4)),
        ({"prompt_tokens": 9}, None),
        ({"prompt_tokens": 9, "completion_tokens": -4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": 9, "completion_tokens": 1e99}, None),
        ([], None),
        (None, None),
    ],
)  # fmt: skip
def test_usage_is_what_was_told(told: Any, usage: Usage | None) -> None:
    assert said(whole({"content": "x"}, usage=told)).usage == usage
    assert folded(deltas(stream({"content": "x"}, finish="stop", usage=told))).usage == usage


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"choices": []}', b'{"choices": 7}', b'{"choices": [{}]}', b"\xff", b"[" * 5_000,
        whole({"content": 7}), whole({"content": {"a": 1}}), whole({"content": "x"}, finish=7),
        whole({"content": None, "tool_calls": 7}), whole({"content": None, "tool_calls": [7]}),
        whole({"content": None, "tool_calls": [{"function": 7}]}), whole({"content": None, "tool_calls": [CALL] * 257}),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable) as failed:
        said(body)
    assert KEY not in failed.value.why


# -- refusals


def error(message: str = f"your key {KEY} at http://10.0.0.1/", **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, error(code="context_length_exceeded"), ContextTooLong, "longer than"),
        (400, error(type="exceed_context_size_error", code=400), ContextTooLong, "longer than"),
        (400, b'{"object": "error", "message": "This model\'s maximum context length is 9 tokens."}', ContextTooLong, "longer than"),
        (413, b"<html>", ContextTooLong, "longer than"),
        (400, error(type="invalid_request_error", param="tools[0].function.parameters"), Invalid, r"invalid_request_error \(`tools`\)"),
        (400, error(type="invalid_request_error", param=KEY), Invalid, "invalid_request_error$"),
        (422, b'{"detail": [{"loc": ["body"]}]}', Invalid, "does not take this request$"),
        (400, error(code="content_policy_violation"), Invalid, "does not take this content"),
        (400, b"nonsense", Invalid, "does not take this request$"),
        (400, error(code="model_not_found"), Unavailable, "model_not_found"),
        (400, error(code=["a"], type={"b": 1}), Invalid, "does not take this request$"),
        (401, error(code="invalid_api_key"), Unavailable, "status 401.*invalid_api_key"),
        (402, error(), Unavailable, "status 402"),
        (403, error(), Unavailable, "status 403"),
        (404, error(code="model_not_found"), Unavailable, "model_not_found"),
        (408, b"", Unavailable, "status 408"),
        (302, b"", Unavailable, "status 302"),
        (500, error(), Unavailable, "status 500"),
        (503, b"\xff" * 9, Unavailable, "status 503"),
        (200, error(code=429), RateLimited, "patience"),
        (200, error(code=400, type="invalid_request_error"), Invalid, "does not take"),
        (200, error(code="server_error"), Unavailable, "server_error"),
        (200, b'{"error": "out of memory"}', Unavailable, "status 500"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_our_words(status: int, body: bytes, kind: type[Refusal], words: str) -> None:
    with pytest.raises(Refusal, match=words) as failed:
        said(body, status)
    assert type(failed.value) is kind
    assert KEY not in failed.value.text
    assert "10.0.0.1" not in failed.value.text


def test_a_busy_upstream_says_for_how_long() -> None:
    with pytest.raises(RateLimited) as busy:
        said(error(), 429, retry_after="7")
    assert busy.value.retry_s == 7


# -- streams


def stream(*pieces: dict[str, Any], finish: str | None = None, usage: Any = None, done: bool = True) -> bytes:
    lines: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": piece, "finish_reason": None}], "usage": None} for piece in pieces
    ]
    if finish is not None:
        lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage is not None:
        lines.append({"choices": [], "usage": usage})
    text = "".join(f"data: {json.dumps(line, ensure_ascii=False)}\n\n" for line in lines)
    return (text + ("data: [DONE]\n\n" if done else "")).encode()


def deltas(*chunks: bytes) -> list[Delta]:
    reader = OpenAi().reader()
    return [*(delta for chunk in chunks for delta in reader.feed(chunk)), *reader.end()]


def folded(told: Sequence[Delta]) -> Said:
    finish = [delta.finish for delta in told if delta.finish is not None]
    assert len(finish) == 1
    usages = [delta.usage for delta in told if delta.usage is not None]
    return Said(
        text="".join(delta.text for delta in told),
        thought="".join(delta.thought for delta in told),
        refusal="".join(delta.refusal for delta in told),
        tool_calls=[call for delta in told for call in delta.tool_calls],
        finish=finish[0],
        usage=usages[-1] if usages else None,
    )


def test_a_stream_is_read() -> None:
    body = stream(
        {"role": "assistant", "content": ""}, {"reasoning_content": "Hm."}, {"content": "U"}, {"content": "p."},
        finish="stop", usage={"prompt_tokens": 9, "completion_tokens": 4},
    )  # fmt: skip
    assert deltas(body) == [
        Delta(thought="Hm."),
        Delta(text="U"),
        Delta(text="p."),
        Delta(finish="stop"),
        Delta(usage=Usage(9, 4)),
    ]


def test_usage_that_is_counted_as_it_goes_comes_with_each_piece() -> None:
    line = (
        b'data: {"choices": [{"delta": {"content": "a"}}], "usage": {"prompt_tokens": 9, "completion_tokens": %d}}\n\n'
    )
    told = deltas(line % 1 + line % 2 + stream(finish="stop"))
    assert [delta.usage for delta in told] == [Usage(9, 1), Usage(9, 2), None]


def test_calls_of_tools_come_in_pieces() -> None:
    first: dict[str, Any] = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "price", "arguments": ""},
    }
    next_: dict[str, Any] = {"index": 0, "function": {"arguments": '{"coin"'}}
    told = deltas(stream({"tool_calls": [first]}, {"tool_calls": [next_]}, finish="tool_calls"))
    assert [list(delta.tool_calls) for delta in told] == [[first], [next_], []]
    assert told[-1].finish == "tool_calls"
    # Some servers send whole ones, and do not number them.
    told = deltas(stream({"tool_calls": [{"id": "a", "function": {"name": "x", "arguments": {}}}]}))
    assert told[0].tool_calls == [{"index": 0, **CALL, "id": "a", "function": {"name": "x", "arguments": "{}"}}]
    assert told[-1].finish == "tool_calls"


def test_what_was_held_back_is_told_before_the_end() -> None:
    told = deltas(stream({"content": "<thi"}, finish="length"))
    assert told == [Delta(text="<thi", finish="length")]
    assert folded(deltas(stream({"content": "<think>ab</thi"}, finish="length"))).thought == "ab</thi"
    assert folded(deltas(stream({"content": " <th"}))).text == " <th"


@pytest.mark.parametrize(
    ("finish", "told"),
    [("length", "length"), ("eos", "stop"), ("content_filter", "content_filter"), ("odd", "stop"), ("max_tokens", "length")],
)  # fmt: skip
def test_ends_are_openais(finish: str, told: str) -> None:
    assert deltas(stream({"content": "a"}, finish=finish))[-1].finish == told


def test_an_end_is_told_once() -> None:
    body = stream({"content": "a"}, finish="stop", done=False)
    assert deltas(body + stream({"content": "more"}, finish="length")) == [Delta(text="a"), Delta(finish="stop")]


def test_a_stream_without_done_is_whole_where_it_said_why_it_ended() -> None:
    assert folded(deltas(stream({"content": "a"}, finish="stop", done=False))).text == "a"


def test_nothing_counts_after_done() -> None:
    reader = OpenAi().reader()
    body = stream({"content": "a"}, finish="stop")
    assert folded(list(reader.feed(body + b"data: nonsense\n\n"))).text == "a"
    assert reader.over
    assert list(reader.feed(b"data: nonsense\n\n")) == []
    assert list(reader.end()) == []


def test_other_choices_are_nobodys() -> None:
    odd = b'data: {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}\n\n'
    assert folded(deltas(odd + stream({"content": "a"}, finish="stop"))).text == "a"


@pytest.mark.parametrize("body", [b"", stream({"content": "a"}, done=False), b": ping\n\n", b"<html></html>"])
def test_a_stream_that_breaks_off_is_no_answer(body: bytes) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        deltas(body)


@pytest.mark.parametrize("finish", ["error", "abort"])
def test_an_answer_that_failed_is_none(finish: str) -> None:
    with pytest.raises(Unavailable, match="broke off"):
        deltas(stream({"content": "a"}, finish=finish))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (error(code=429), RateLimited),
        (error(code="server_error"), Unavailable),
        (error(code="context_length_exceeded", type="invalid_request_error"), ContextTooLong),
        (error(code=400, type="exceed_context_size_error"), ContextTooLong),
        (b'{"error": "gone"}', Unavailable),
        (b"{", Unreadable), (b"7", Unreadable), (b"\xff", Unreadable), (b"[" * 5_000, Unreadable),
        (b'{"choices": [{"delta": {"content": 7}}]}', Unreadable),
        (b'{"choices": [{"delta": 7}]}', Unreadable),
        (b'{"choices": [{"delta": {"tool_calls": {}}, "index": 0}]}', None),
        (b'{"choices": [{"delta": {"tool_calls": {"a": 1}}}]}', Unreadable),
        (b'{"choices": [{"delta": {}, "finish_reason": 7}]}', Unreadable),
        (b'{"choices": null}', None),
        (b'{"choices": [{"delta": null}]}', None),
        (b'{"choices": [{"delta": {"content": null}, "logprobs": 7}], "usage": 7}', None),
    ],
)  # fmt: skip
def test_what_comes_in_the_middle_is_told_after_what_was_said(line: bytes, kind: type[Exception] | None) -> None:
    reader = OpenAi().reader()
    before = stream({"content": "a"}, done=False)
    told: list[Delta] = []
    body = before + b"data: " + line + b"\n\n" + stream(finish="stop")

    def read() -> None:
        told.extend(reader.feed(body))

    if kind is None:
        read()
        assert told == [Delta(text="a"), Delta(finish="stop")]
        return
    with pytest.raises((Refusal, Unreadable)) as failed:
        read()
    assert type(failed.value) is kind
    assert KEY not in str(failed.value)
    assert told == [Delta(text="a")]


PIECES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"content": st.sampled_from(["<think>", "</think>", "Up “", "<", " ", "", "\n", "é"])}),
        st.fixed_dictionaries({"reasoning_content": st.sampled_from(["Hm", ""])}),
        st.just({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
    ),
    max_size=8,
)


@given(PIECES, st.sampled_from([None, "stop", "length"]), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_any_cut_of_a_stream_gives_the_same(
    pieces: list[dict[str, Any]], finish: str | None, ends: bytes, data: st.DataObject
) -> None:
    body = stream(*pieces, finish=finish, usage={"prompt_tokens": 1, "completion_tokens": 2}).replace(b"\n", ends)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    told = deltas(body)
    assert deltas(*(body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True))) == told
    assert deltas(*(body[at : at + 1] for at in range(len(body)))) == told
    # And the same as the whole answer would have been read.
    content = "".join(piece.get("content", "") for piece in pieces)
    one = said(whole({"content": content}))
    assert folded(told).text == one.text
    assert folded(told).thought.replace("Hm", "") == one.thought


@given(st.binary(max_size=200), st.integers(100, 599))
def test_garbage_never_ends_otherwise(body: bytes, status: int) -> None:
    with pytest.raises((Refusal, Unreadable)):
        said(body, status)
    try:
        deltas(body)
    except (Refusal, Unreadable):
        return
    assert b"[DONE]" in body


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "content", "finish_reason", "usage", "error", "tool_calls", "function",
                 "index", "code", "type", "param", "reasoning", "prompt_tokens", "completion_tokens", "text", "refusal"]
            ),
            inner, max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from([200, 400, 429, 500]))
def test_strange_json_never_ends_otherwise(told: Any, status: int) -> None:
    shapes = [
        told,
        {"choices": [{"message": told}]},
        {"choices": [{"delta": told}]},
        {"error": told},
        {"choices": told},
    ]
    for shape in shapes:
        body = json.dumps(shape).encode()
        with suppress(Refusal, Unreadable):
            said(body, status)
        with suppress(Refusal, Unreadable):
            deltas(b"data: " + body + b"\n\ndata: [DONE]\n\n")
