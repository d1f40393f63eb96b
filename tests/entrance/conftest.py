"""The running online program for tests at its entrance."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from estation.local import LocalValkey
from tests.entrance.running import Online, running_online
from tests.outside.counterparts import NOW


@pytest.fixture
async def online(
    own_database_url: str, valkey: LocalValkey, tmp_path: Path
) -> AsyncIterator[Online]:
    client = Redis.from_url(valkey.url)
    await client.flushall()
    await client.aclose()
    async with running_online(
        tmp_path, database_url=own_database_url, now=NOW, redis_url=valkey.url
    ) as running:
        yield running
