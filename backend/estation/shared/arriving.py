"""A request must arrive within its time, however slowly and steadily its bytes drip.

Sanic's own clock starts again with every byte, so that one byte in ten seconds holds a
connection for ever under a REQUEST_TIMEOUT of fifteen (tried with a raw socket).
"""

from sanic.http.constants import Stage
from sanic.server.protocols.http_protocol import HttpProtocol

ARRIVING = frozenset({Stage.REQUEST, Stage.HANDLER})
LAST_WORD_SECONDS = 2.0


class PromptHttp(HttpProtocol):
    """HTTP/1.1 whose times count from a request's first byte.

    The head has REQUEST_TIMEOUT (408), head, body and answer together RESPONSE_TIMEOUT (503).
    After either the connection ends, also when half a body is still owed: Sanic would wait for it
    without looking at the clock again.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        is_arriving = self.http is not None and self.http.stage in ARRIVING
        began = self._time if is_arriving else 0.0
        super().data_received(data)
        if is_arriving:
            self._time = began

    def check_timeouts(self) -> None:
        before = self._callback_check_timeouts
        super().check_timeouts()  # type: ignore[no-untyped-call]
        if self._task and self._callback_check_timeouts is before:  # Time is up.
            self.loop.call_later(LAST_WORD_SECONDS, self.abort)
