"""Our HTTP protocol for uvicorn: the head of a request is bounded in size, and a whole request in time.

uvicorn on httptools takes a head of any length, a header every hour.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
URL_BYTES_MAX = 8 * 1024
REQUEST_S_MAX = 30.0
# In the extensions of a request's scope: hangs up at once, also on who does not read what was written.
CUT = "openoutcry.cut"


class Bounded(HttpToolsProtocol):
    """uvicorn's HTTP protocol; 431 for a head too large, 414 for an address too long, cut when it dawdles."""

    _in_head = True
    _in_request = True
    _head_bytes = 0
    _refused = 0
    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._slow = self.loop.call_later(REQUEST_S_MAX, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_request:
            if self._slow is None:
                self._slow = self.loop.call_later(REQUEST_S_MAX, self.transport.abort)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                    self._refused = 431
                    self.send_400_response("")
        elif self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def on_message_begin(self) -> None:
        self._in_head = self._in_request = True
        self._head_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {CUT: self.transport.abort}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) > URL_BYTES_MAX:
            self._refused = 414
        elif len(self.headers) > HEADERS_MAX or sum(len(n) + len(v) for n, v in self.headers) > HEAD_BYTES_MAX:
            self._refused = 431
        if self._refused:
            raise ValueError(self._refused)  # out of the parser, into `send_400_response`
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._forget_slow()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_slow()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more was asked: hang up, also on a client that never read its answer, whom `close` would wait for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's signature
        """Say why this cannot be answered at all, and hang up."""
        status = self._refused or 400
        text = {414: "Address too long", 431: "Request head too large"}.get(status, "Invalid HTTP request")
        body = b'{"detail":"%s"}' % text.encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()

    def _forget_slow(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
