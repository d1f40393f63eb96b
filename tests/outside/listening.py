"""A small web server in the test that answers as told and remembers what it was asked."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as it stood on the wire; header names are lower-case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Reply = web.Response | Callable[[Heard], web.Response | Awaitable[web.Response]]


@dataclass
class Listener:
    """Answers one reply after the other; the last one is repeated."""

    base_url: str = ""
    replies: list[Reply] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)

    def say(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def handle(self, request: web.Request) -> web.Response:
        heard = Heard(
            method=request.method,
            target=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        self.heard.append(heard)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        answer = reply if isinstance(reply, web.Response) else reply(heard)
        if not isinstance(answer, web.Response):
            answer = await answer
        # aiohttp sends a response object only once.
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{anything:.*}", listener.handle)
    async with TestServer(app) as server:
        listener.base_url = str(server.make_url("")).rstrip("/")
        yield listener


@asynccontextmanager
async def calling() -> AsyncIterator[aiohttp.ClientSession]:
    """A session as the programs use it."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session
