"""OpenAI's chat completions: what is sent, and what is made of anything that may come back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openoutcry.chat import ChatAnswer, ChatMessage, ChatRequest, Usage
from openoutcry.errors import RateLimited, Unavailable, Unreadable
from openoutcry.upstreams import UPSTREAMS
from openoutcry.upstreams.openai import OpenAi

KEY = "sk-very-secret-5f2a"
MESSAGES = (ChatMessage("system", "Be brief."), ChatMessage("user", "Up or “down”?"))


def asked(**more: Any) -> tuple[dict[str, str], dict[str, Any]]:
    request = ChatRequest(**{"model": "m", "messages": MESSAGES, "output_tokens_max": 400, **more})
    call = OpenAi().encode(request, KEY)
    assert call.path == "/chat/completions"
    return dict(call.headers), json.loads(call.body)


def completion(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps({"id": "c-1", "object": "chat.completion", "model": "m-1", "choices": choices, **more}).encode()


def said(content: Any, finish: Any = "stop", **more: Any) -> bytes:
    return completion({"role": "assistant", "content": content}, finish, **more)


def decoded(body: bytes, status: int = 200, **headers: str) -> ChatAnswer:
    return OpenAi().decode(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def test_it_is_in_the_table() -> None:
    assert isinstance(UPSTREAMS["openai"](), OpenAi)


def test_a_request_names_model_messages_most_tokens_and_temperature() -> None:
    headers, body = asked(temperature=0.2)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Up or “down”?"}],
        "max_tokens": 400,
        "temperature": 0.2,
    }
    assert "temperature" not in asked()[1]


def test_an_answer_in_json_is_asked_for_where_it_is_wanted() -> None:
    assert asked(json=True)[1]["response_format"] == {"type": "json_object"}
    assert "response_format" not in asked()[1]


def test_a_model_that_thinks_is_asked_in_its_own_way() -> None:
    _, body = asked(temperature=0.2, reasoning=True)
    assert body["max_completion_tokens"] == 400
    assert not {"max_tokens", "temperature"} & set(body)


def test_without_a_key_none_is_sent() -> None:
    request = ChatRequest(model="m", messages=MESSAGES, output_tokens_max=1)
    assert "authorization" not in OpenAi().encode(request, None).headers


def test_an_answer_is_text_model_and_usage() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    assert decoded(said(" Up. \n", usage=usage)) == ChatAnswer(text="Up.", model="m-1", usage=Usage(9, 0))


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "9", {"prompt_tokens": 9}, {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True, "completion_tokens": 2},
     {"prompt_tokens": 9.5, "completion_tokens": 2}, {"prompt_tokens": 10**30, "completion_tokens": 2}],
)  # fmt: skip
def test_usage_that_was_not_told_is_none_and_never_zero(usage: Any) -> None:
    assert decoded(said("Up.", usage=usage)).usage is None
    assert decoded(said("Up.")).usage is None


def test_an_answer_that_was_cut_says_so() -> None:
    assert decoded(said("Up, be", "length")).cut


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Up "}, {"type": "image_url"}, 7, {"type": "text", "text": "or down."}]
    assert decoded(said(parts)).text == "Up or down."


def test_thoughts_are_no_part_of_the_answer() -> None:
    assert decoded(said("\n<think>Well, </b> hm.</think>\n\nUp.")).text == "Up."
    assert decoded(said("Up: <think> is a tag.")).text == "Up: <think> is a tag."


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (said(None, "length"), "used up its tokens"),
        (said("<think>so much to", "length"), "used up its tokens"),
        (completion({"content": None, "refusal": "I cannot"}), "refused to answer"),
        (said("", "content_filter"), "refused to answer"),
        (b'{"error": {"message": "sk-very-secret-5f2a", "code": 502}}', "the language model failed$"),
        (b'{"error": {"code": "server_error"}}', "failed: server_error"),
    ],
)
def test_an_answer_of_no_is_unavailable(body: bytes, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        decoded(body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"null", b"[]", b"{}", b'{"choices": null}', b'{"choices": []}', b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}', b'{"choices": {"message": 1}}', b"\xff\xfe", b'{"a": ' * 100_000,
        said(7), said({"text": "x"}), said(""), said([]), said("x", 7), said("x", model=None), said("x")[:-1],
    ],
)  # fmt: skip
def test_what_is_no_completion_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decoded(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["message", "content", "error", "code"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    st.integers(100, 599),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("choices", "model", "usage", "error"), JSON)),
    st.text(max_size=8),
)
def test_whatever_comes_back_is_an_answer_or_one_of_our_refusals(status: int, body: Any, after: str) -> None:
    waits = [0.0]
    try:
        assert decoded(json.dumps(body).encode(), status, retry_after=after).text
    except Unavailable as e:
        waits.append(e.retry_s or 0.0)
    except Unreadable:
        pass
    assert 0 <= waits[-1] <= 86_400


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (401, {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"}, "does not take our key (status 401): invalid_api_key"),
        (404, {"message": "no", "type": "invalid_request_error", "code": "model_not_found"}, "refused the request with status 404: model_not_found"),
        (400, {"message": "no", "type": "invalid_request_error", "code": None}, "refused the request with status 400: invalid_request_error"),
        (400, {"code": KEY, "type": [KEY]}, "refused the request with status 400"),
        (400, f"bad key {KEY}", "refused the request with status 400"),
        (302, None, "refused the request with status 302"),
        (500, None, "failed with status 500"),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_status_and_known_code_and_never_in_its_own_words(
    status: int, error: Any, text: str
) -> None:
    with pytest.raises(Unavailable) as failed:
        decoded(json.dumps({"error": error}).encode(), status)
    assert failed.value.text == f"the language model {text}"
    assert not isinstance(failed.value, RateLimited)


def test_a_page_of_a_proxy_in_between_is_told_by_its_status() -> None:
    with pytest.raises(Unavailable, match="status 502"):
        decoded(b"<html>Bad gateway</html>", 502)


@pytest.mark.parametrize(
    ("after", "retry_s"), [("2", 2), ("0.5", 0.5), ("999999999", 86_400), ("soon", 5), ("-1", 5), ("nan", 5), ("\u0661", 5), ("1.2.3", 5), (".", 5)]
)  # fmt: skip
def test_a_busy_one_says_when_to_come_back(after: str, retry_s: float) -> None:
    with pytest.raises(RateLimited) as failed:
        decoded(b'{"error": {"code": "rate_limit_exceeded"}}', 429, retry_after=after)
    assert failed.value.retry_s == retry_s
    with pytest.raises(Unavailable) as down:
        decoded(b"", 503, retry_after="2")
    assert down.value.retry_s == 2
