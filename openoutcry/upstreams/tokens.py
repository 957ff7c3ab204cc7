"""How some servers of models count tokens: beside OpenAI's API, at the server's root. One question suits them all.

vLLM counts a whole conversation (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html):

    POST /tokenize          {"model": "m", "messages": [...], "add_generation_prompt": true}
    {"count": 9, "max_model_len": 4096, "tokens": [1, 2, ...]}

llama.cpp counts a text, and tells what text a conversation becomes (tools/server/README.md there):

    POST /tokenize          {"content": "...", "add_special": true, "parse_special": true}
    {"tokens": [1, 2, ...]}
    POST /apply-template    {"messages": [...]}
    {"prompt": "<|user|>..."}
"""

from typing import Annotated, Any, TypeVar

import msgspec

from openoutcry.chat import Conversation
from openoutcry.errors import Unreadable
from openoutcry.upstreams.upstream import Manner

TOKENIZE, TEMPLATE = "/tokenize", "/apply-template"
TOKENS_MAX = 2**31


class Counted(msgspec.Struct, frozen=True):
    """`whole`: the tokens are of the conversation, and not only of the text that stood beside it."""

    tokens: int
    whole: bool


def of_conversation(conversation: Conversation, manner: Manner) -> bytes:
    """What to ask `TOKENIZE` where it is not known whose it is: who counts conversations, counts this one."""
    return msgspec.json.encode(
        {"model": manner.model, **_told(conversation, manner), "add_generation_prompt": True, "content": ""}
    )


def of_text(text: str) -> bytes:
    """What to ask `TOKENIZE` of one that counts texts."""
    return msgspec.json.encode({"content": text, "add_special": True, "parse_special": True})


def counted(body: bytes) -> Counted:
    """What `TOKENIZE` answered. Raises Unreadable."""
    answer = _read(_COUNT, body)
    if answer.count is not None:
        return Counted(answer.count, whole=True)
    if answer.tokens is not None:
        return Counted(len(answer.tokens), whole=False)
    raise Unreadable("no count of tokens", body)


def templated(conversation: Conversation, manner: Manner) -> bytes:
    """What to ask `TEMPLATE`."""
    return msgspec.json.encode(_told(conversation, manner))


def prompt(body: bytes) -> str:
    """What `TEMPLATE` answered. Raises Unreadable."""
    return _read(_PROMPT, body).prompt


class _Count(msgspec.Struct, frozen=True):
    count: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)] | None = None
    tokens: list[msgspec.Raw] | None = None


class _Prompt(msgspec.Struct, frozen=True):
    prompt: str


_T = TypeVar("_T")
_COUNT = msgspec.json.Decoder(_Count)
_PROMPT = msgspec.json.Decoder(_Prompt)


def _read(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise Unreadable(f"not an answer about tokens: {type(e).__name__}", body) from e


def _told(conversation: Conversation, manner: Manner) -> dict[str, Any]:
    """What a template is made of."""
    told: dict[str, Any] = {"messages": conversation.messages}
    if conversation.fields.get("tools"):
        told["tools"] = conversation.fields["tools"]
    if manner.reasoning == "enable_thinking":
        told["chat_template_kwargs"] = {"enable_thinking": conversation.thinks}
    return told
