"""More than ten thousand forged notices: every one refused, not a row changed, nothing falls over.

`ESTATION_FORGERIES=<per kind>` makes the crowd larger, `ESTATION_FORGERY_SEED` another.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from estation.outside.pay_channels import NoticeRejected
from tests.entrance.running import Online, running_online
from tests.forgery.city import digest, open_orders
from tests.forgery.corpus import by_kind, corpus, wire_corpus
from tests.forgery.forging import Forgery, Genuine
from tests.forgery.wire import GONE, Answer, send_all
from tests.outside.counterparts import NOW
from tests.outside.test_vectors import VECTORS
from tests.payments.city import count

SEED = int(os.environ.get("ESTATION_FORGERY_SEED", "1"))
PER_KIND = int(os.environ.get("ESTATION_FORGERIES", "380"))
OVER_HTTP = 60  # of each kind
ON_WIRE = 50
GROUP = 250
ORDERS = 40
XML = [file.read_bytes() for file in sorted(VECTORS.glob("*.xml"))]
ADDRESSES = [f"203.0.113.{n}" for n in range(100)]


@pytest.fixture
async def online(own_database_url: str, tmp_path: Path) -> AsyncIterator[Online]:
    async with running_online(tmp_path, database_url=own_database_url, now=NOW) as running:
        yield running


@pytest.fixture
async def orders(online: Online) -> list[Genuine]:
    wechat = await open_orders(ORDERS // 2)
    return wechat + await open_orders(ORDERS // 2, channel="alipay")


def refusal(online: Online, forgery: Forgery) -> str:
    """The reason the real channel gives. Anything but a rejection goes up."""
    _, _, kind, account = forgery.door.split("/")
    channel = online.app.ctx.channels[f"{kind.replace('-', '_')}:{account}"]
    try:
        believed = channel.open_notice(dict(forgery.headers), forgery.body, now=NOW)
    except NoticeRejected as rejected:
        return rejected.reason if 400 <= rejected.status < 500 else f"{rejected.status}"
    except Exception as surprise:
        raise AssertionError(f"{forgery}: {surprise!r}") from surprise
    raise AssertionError(f"believed: {forgery} as {believed}")


async def test_ten_thousand_forgeries_are_all_refused(
    online: Online, orders: list[Genuine], capsys: pytest.CaptureFixture[str]
) -> None:
    forgeries = corpus(SEED, orders, per_kind=PER_KIND, xml=XML)
    before = await digest()

    reasons = Counter((one.kind, refusal(online, one)) for one in forgeries)

    assert len(forgeries) >= 10_000
    assert sum(reasons.values()) == len(forgeries)
    assert await digest() == before
    with capsys.disabled():
        _tell("refused by the channel modules", forgeries)


async def test_forgeries_over_http_change_no_row_and_get_no_5xx(
    online: Online, orders: list[Genuine], capsys: pytest.CaptureFixture[str]
) -> None:
    forgeries = corpus(SEED + 1, orders, per_kind=OVER_HTTP, xml=XML)
    forgeries += wire_corpus(SEED + 2, orders, per_kind=ON_WIRE)
    assert len(forgeries) >= 1_500
    statuses: Counter[int] = Counter()
    for start in range(0, len(forgeries), GROUP):
        group = forgeries[start : start + GROUP]
        before = await digest()

        answers = await send_all(online.port, group, addresses=ADDRESSES)

        wrong = [pair for pair in zip(group, answers, strict=True) if not _is_refusal(pair[1])]
        assert wrong == []
        statuses.update(answer.status for answer in answers)
        if await digest() != before:
            pytest.fail(await _culprit(online, group))
    with capsys.disabled():
        _tell(f"refused over HTTP, by status {dict(sorted(statuses.items()))}", forgeries)
    await _genuine_ones_are_still_believed(online, orders)


def _is_refusal(answer: Answer) -> bool:
    """429 would mean that the flood's bound answered and the check that is meant did not."""
    is_4xx = 400 <= answer.status < 500 and answer.status != 429
    return (is_4xx and b"SUCCESS" not in answer.body and answer.body != b"success") or (
        answer.status == GONE
    )


async def _culprit(online: Online, group: Sequence[Forgery]) -> str:
    for forgery in group:
        before = await digest()
        await send_all(online.port, [forgery], addresses=ADDRESSES)
        after = await digest()
        if after != before:
            return f"{[name for name in after if after[name] != before[name]]} by {forgery}"
    return "rows changed, and not when sent alone"


async def _genuine_ones_are_still_believed(online: Online, orders: list[Genuine]) -> None:
    """The control: the same door, the same keys, nothing spoilt."""
    half = len(orders) // 2
    genuine = [order.told_by_wechat(n) for n, order in enumerate(orders[:half])]
    genuine += [order.told_by_alipay(n) for n, order in enumerate(orders[half:])]

    answers = await send_all(online.port, genuine, addresses=ADDRESSES)

    assert {answer.status for answer in answers} == {200}
    assert await count("pay_order", "state = 'paid'") == len(orders)


def _tell(what: str, forgeries: Sequence[Forgery]) -> None:
    print(f"\n{len(forgeries)} forgeries (seed {SEED}) {what}:")  # noqa: T201 -- the test's report
    print("  " + ", ".join(f"{kind} {many}" for kind, many in by_kind(forgeries)))  # noqa: T201
