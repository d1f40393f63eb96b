"""Bytes on a socket, as a forger sends them: doubled headers, odd paths, lies about everything."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from tests.forgery.forging import Forgery

CONNECTIONS = 24
GONE = 0
"""The connection was closed without a word."""


class Answer(NamedTuple):
    status: int
    body: bytes


async def send_all(
    port: int, forgeries: Sequence[Forgery], *, addresses: Sequence[str]
) -> list[Answer]:
    """Every answer in order; `addresses` take turns as the sender."""
    answers: list[Answer] = [Answer(GONE, b"")] * len(forgeries)
    waiting = iter(enumerate(forgeries))

    async def one_connection() -> None:
        connection = _Connection(port)
        for position, forgery in waiting:
            sender = addresses[position % len(addresses)]
            answers[position] = await connection.send(forgery, sender)
        connection.close()

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))
    return answers


class _Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, forgery: Forgery, sender: str) -> Answer:
        """One request, over the connection that is there or a new one."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        try:
            self._writer.write(_request(forgery, sender))
            await self._writer.drain()
            async with asyncio.timeout(10):
                return await self._answer(self._reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return Answer(GONE, b"")

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return Answer(int(head.split(" ")[1]), body)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _request(forgery: Forgery, sender: str) -> bytes:
    head = [f"POST {forgery.door} HTTP/1.1", "host: city.example", f"x-forwarded-for: {sender}"]
    head += [f"{name}: {value}" for name, value in forgery.headers]
    head += [f"content-length: {len(forgery.body)}", "", ""]
    return "\r\n".join(head).encode(errors="surrogateescape") + forgery.body
