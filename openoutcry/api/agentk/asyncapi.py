"""The socket at `/v1/ws`, described for programs: AsyncAPI 3.0, made of the very structs that its frames are."""

from collections.abc import Sequence
from typing import Any

import msgspec

from openoutcry.api.agentk.candles_wire import CLIENT_FRAMES, SERVER_FRAMES, VERSION
from openoutcry.api.agentk.names import INTERVALS
from openoutcry.api.agentk.ws import CLOSE_CODES, PATH, SNAPSHOT_ROWS
from openoutcry.api.asgi import MESSAGE_BYTES_MAX
from openoutcry.api.dialect import Doors

VERSION_OF_ASYNCAPI = "3.0.0"


def document(doors: Doors) -> dict[str, Any]:
    """What `/v1/asyncapi.json` says."""
    numbers = doors.agentk
    messages = {_name(frame): _message(frame) for frame in (*SERVER_FRAMES, *CLIENT_FRAMES)}
    _, schemas = msgspec.json.schema_components(
        (*SERVER_FRAMES, *CLIENT_FRAMES), ref_template="#/components/schemas/{name}"
    )
    return {
        "asyncapi": VERSION_OF_ASYNCAPI,
        "info": {"title": "agent-k market stream", "version": f"{VERSION}.0", "description": _ABOUT},
        "defaultContentType": "application/json",
        "servers": {"here": {"host": "localhost:8000", "protocol": "ws", "security": _SECURITY}},
        "channels": {
            "stream": {
                "address": PATH,
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET", "query": _QUERY}},
            }
        },
        "operations": {
            "tell": _operation("send", "What the server says", SERVER_FRAMES),
            "hear": _operation("receive", "What a client may say", CLIENT_FRAMES),
        },
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "api_key": {"type": "httpApiKey", "in": "query", "name": "api_key"},
                "x_api_key": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
        "x-intervals": list(INTERVALS),
        "x-close-codes": {str(code): text for code, text in CLOSE_CODES.items()},
        "x-limits": {
            "connections_a_key": numbers.connections_a_key_max,
            "channels_a_connection": numbers.channels_a_connection_max,
            "snapshot_rows": SNAPSHOT_ROWS,
            "frame_bytes": MESSAGE_BYTES_MAX,
            "heartbeat_ms": round(numbers.heartbeat_s * 1_000),
        },
    }


def _operation(action: str, summary: str, frames: Sequence[type[msgspec.Struct]]) -> dict[str, Any]:
    refs = [{"$ref": f"#/channels/stream/messages/{_name(frame)}"} for frame in frames]
    return {"action": action, "channel": {"$ref": "#/channels/stream"}, "summary": summary, "messages": refs}


def _message(frame: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": str(frame.__struct_config__.tag),
        "summary": " ".join((frame.__doc__ or "").split()),
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
    }


def _name(frame: type[msgspec.Struct]) -> str:
    return frame.__name__[:1].lower() + frame.__name__[1:]


_ABOUT = (
    "Candles as they grow and close. The first frame is `welcome`. `subscribe` is answered with `subscribed`, then one "
    "`snapshot` for each new channel, then its events: a bar grows, is told closed once, and then the next one grows. "
    "To who reads slowly the newest event of each channel is told, and every closed bar."
)
_SECURITY = [{"$ref": f"#/components/securitySchemes/{name}"} for name in ("api_key", "x_api_key", "bearer")]
_QUERY = {
    "type": "object",
    "properties": {"api_key": {"type": "string", "description": "Where no header can be sent: the key or login token"}},
}
