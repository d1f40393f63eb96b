"""A load generator cheap enough not to be what is measured: raw sockets, ready-made requests.

`python -m estation.bench.load FILE PORT START COUNT CONNECTIONS RATE` prints one JSON object.
RATE 0: every connection sends again as soon as it was answered. Otherwise requests leave at that
many a second whatever the answers, and a wait for a free connection counts as latency.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

from estation.bench.notices import read_notices

_LENGTH = b"content-length: "


class _Run:
    """What all connections share."""

    def __init__(self, requests: list[bytes], rate: float) -> None:
        self.requests = requests
        self.rate = rate
        self.begun = time.perf_counter()
        self.next = 0
        self.seconds: list[float] = []
        self.bad: list[bytes] = []
        self.done = asyncio.get_running_loop().create_future()

    def take(self) -> tuple[bytes, float] | None:
        """The next request and when it is due."""
        if self.next >= len(self.requests):
            return None
        self.next += 1
        now = time.perf_counter()
        due = self.begun + self.next / self.rate if self.rate else now
        return self.requests[self.next - 1], due

    def answered(self, seconds: float, answer: bytes) -> None:
        self.seconds.append(seconds)
        if not answer.startswith(b"HTTP/1.1 200"):
            self.bad.append(answer[:300])
        if len(self.seconds) == len(self.requests) and not self.done.done():
            self.done.set_result(None)


class _Connection(asyncio.Protocol):
    """One request at a time on one kept-alive connection."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        at = self._buffer.lower().find(_LENGTH) + len(_LENGTH)
        length = int(self._buffer[at : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < head_end + 4 + length:
            return
        self._run.answered(time.perf_counter() - self._sent_at, self._buffer)
        self._buffer = b""
        self._send()

    def connection_lost(self, failure: Exception | None) -> None:
        if not self._run.done.done() and self._sent_at:
            self._run.done.set_exception(ConnectionError("the server hung up"))

    def _send(self) -> None:
        taken = self._run.take()
        if taken is None:
            self._sent_at = 0.0
            return
        request, self._sent_at = taken
        early = self._sent_at - time.perf_counter()
        if early <= 0:
            self._transport.write(request)
        else:
            asyncio.get_running_loop().call_later(early, self._transport.write, request)


async def _load(
    requests: list[bytes], port: int, connections: int, rate: float
) -> dict[str, object]:
    run = _Run(requests, rate)
    loop = asyncio.get_running_loop()
    begun, used = time.perf_counter(), time.process_time()
    await asyncio.gather(
        *(
            loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
            for _ in range(connections)
        )
    )
    await asyncio.wait_for(run.done, 120)
    elapsed, used = time.perf_counter() - begun, time.process_time() - used
    times = sorted(run.seconds)
    return {
        "per_second": round(len(times) / elapsed, 1),
        "p50_ms": round(times[len(times) // 2] * 1000, 2),
        "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
        "count": len(times),
        "processor_us": round(used / len(times) * 1e6, 1),
        "bad": len(run.bad),
        "first_bad": run.bad[0].decode("utf-8", "replace") if run.bad else "",
    }


def main() -> None:
    file, port, start, count, connections, rate = sys.argv[1:]
    requests = read_notices(Path(file))[int(start) : int(start) + int(count)]
    result = uvloop.run(_load(requests, int(port), int(connections), float(rate)))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
