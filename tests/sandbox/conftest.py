"""A fresh sandbox per test, and a merchant at each channel."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sandbox.merchant import AlipayMerchant, NoticeDesk, WechatMerchant
from tests.sandbox.running import RunningSandbox, running_sandbox


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path) as running:
        yield running


@pytest.fixture
def wechat(sandbox: RunningSandbox) -> WechatMerchant:
    return WechatMerchant(sandbox)


@pytest.fixture
def alipay(sandbox: RunningSandbox) -> AlipayMerchant:
    return AlipayMerchant(sandbox)


@pytest.fixture
async def desk() -> AsyncIterator[NoticeDesk]:
    async with NoticeDesk() as listening:
        yield listening
