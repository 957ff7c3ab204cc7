"""Where a key (or a login's token) may stand in a request: the same for all dialects that name no place of their own."""

from urllib.parse import parse_qs

from openoutcry.api.dialect import Scope

QUERY = "api_key"
QUERY_BYTES_MAX = 2_048


def credential(scope: Scope, *, in_query: bool = False) -> str | None:
    """The text that came: `Authorization: Bearer`, else `X-API-Key`, else `?api_key=` where that is allowed; None: none.

    In a query it may end up in logs of proxies, so it is read there only for those who can send no header: browsers that
    open a WebSocket.
    """
    named: str | None = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return str(token.strip())
        elif name == b"x-api-key":
            named = value.decode("latin-1").strip() or None
    if named is None and in_query and b"=" in scope["query_string"][:QUERY_BYTES_MAX]:
        asked = parse_qs(scope["query_string"][:QUERY_BYTES_MAX].decode("latin-1"))
        named = asked.get(QUERY, [None])[-1]
    return named
