"""From a nightly backup and the raw inbox every balance is rebuilt, on a server that is new.

The backup is older than the last payments. What the restored books held is sealed as it was, to the
same head; what came later is settled from the messages themselves, and says the same money.
"""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tortoise import Tortoise

from estation import settings
from estation.ledger.api import newest_blocks, verify
from estation.ledger.jobs import seal
from estation.local import LocalPostgres
from estation.outside.pay_channels import PayChannel
from estation.outside.pay_channels.messages import sealed_message
from estation.payments import api
from estation.payments.actions import replaying
from estation.payments.invariants import broken_invariants
from tests.outside import counterparts
from tests.outside.counterparts import (
    NOW,
    VAULT,
    WechatNotice,
    alipay_form,
    alipay_notice,
    transaction,
)
from tests.payments.city import City, count, rows

BALANCES = """select account, (sum(debit_fen) - sum(credit_fen))::text as fen from ledger_entry
               group by account having sum(debit_fen) <> sum(credit_fen) order by account"""
STATES = """select 'order ' || order_no as what, state from pay_order
            union all select 'bill ' || bill_no, state from bill
            union all select 'attempt ' || out_trade_no, state from pay_attempt
            union all select 'incident ' || dedupe_key, state from incident order by 1"""


async def test_a_backup_and_the_raw_inbox_rebuild_every_balance(
    postgres: LocalPostgres, own_database_url: str, tmp_path: Path
) -> None:
    lost = own_database_url.partition("@/")[2].partition("?")[0]
    async with opened(own_database_url):
        numbers = [await an_open_order(channel) for channel in ("wechat_pay", "alipay") * 2]
        await hear_wechat(numbers[0])
        await hear_alipay(numbers[1])
        await seal(NOW)
        then = await newest_blocks()
        backup = pg("pg_dump", postgres, lost, "--format=custom").stdout

        for _ in range(2):
            await hear_wechat(numbers[2])
        await hear_alipay(numbers[3])
        await hear_wechat("20260301NOBODYKNOWSTHIS1")
        await seal(NOW)
        balances, states = await rows(BALANCES), await rows(STATES)
        since, until = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)
        file = [line async for line in replaying.inbox_lines(since=since, until=until)]

    other = LocalPostgres(walkable(tmp_path) / "pg", settings={"fsync": "off"}).start()
    try:
        other.create_database("restored")
        pg("pg_restore", other, "restored", "--exit-on-error", content=backup)
        async with opened(other.url("restored")):
            assert await newest_blocks() == then, "the same head"
            assert await count("pay_order", "state = 'paid'") == 2
            assert await rows(BALANCES) != balances

            first = await replaying.replay_lines(file, services(), now=NOW)
            again = await replaying.replay_inbox(services(), now=NOW + timedelta(days=1))
            await seal(NOW)

            assert (first.read, first.unbelieved, first.failed) == (5, 0, 0)
            assert first.outcomes == {"repeated": 2, "applied": 2, "incident": 1}
            assert (again.read, again.outcomes["applied"]) == (5, 0)
            assert await rows(BALANCES) == balances
            assert await rows(STATES) == states
            assert await broken_invariants() == {}
            whole = await verify(now=NOW + timedelta(days=1), keys={})
            assert whole.breaks == []
            assert sum(book.transfers for book in whole.books.values()) == await count(
                "ledger_transfer"
            )
            (head,) = [block for block in then if block.book == "360101"]
            kept = await rows("select digest from ledger_block where height = $1", head.height)
            assert head.digest in {block["digest"] for block in kept}, "the chain goes on from it"
    finally:
        other.stop(mode="immediate")


async def test_money_that_went_back_after_the_backup_pays_nothing_in_the_restored_books(
    postgres: LocalPostgres, own_database_url: str, tmp_path: Path
) -> None:
    """Open in the backup; then expired, paid late and given back: the file tells all of it."""
    lost = own_database_url.partition("@/")[2].partition("?")[0]
    async with opened(own_database_url):
        late = [await an_open_order(channel) for channel in ("wechat_pay", "alipay")]
        backup = pg("pg_dump", postgres, lost, "--format=custom").stdout
        await rows(
            """with u as (update pay_order set state = 'closed', close_reason = 'expired',
                              closed_at = expires_at returning id) select id from u"""
        )
        await hear_wechat(late[0])
        await hear_alipay(late[1])
        assert await count("pay_refund", "state = 'approved'") == 2
        for number, sent in zip(late, (hear_wechat_refund, hear_alipay_refund), strict=True):
            (refund,) = await rows("select * from pay_refund where out_trade_no = $1", number)
            await sent(number, refund["refund_no"])
        since, until = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)
        file = [line async for line in replaying.inbox_lines(since=since, until=until)]

    postgres.create_database("restored_later")
    pg("pg_restore", postgres, "restored_later", "--exit-on-error", content=backup)
    async with opened(postgres.url("restored_later")):
        # What came in one instant has no order: here a refund's news may stand before its money's.
        first = await replaying.replay_lines(file[::-1], services(), now=NOW)
        told = await rows("select * from incident order by id")
        again = await replaying.replay_lines(file, services(), now=NOW)

        assert (first.read, first.unbelieved, first.failed) == (4, 0, 0)
        assert (first.outcomes["applied"], again.outcomes["applied"]) == (0, 0)
        assert await rows("select * from incident order by id") == told
        assert await count("pay_order", "state = 'paid'") == 0
        assert await count("pay_refund") == 0, "nobody gives it back a second time by itself"
        assert await count("outbox_message", "topic = 'receipt'") == 0
        assert await count("incident", "kind = 'already_refunded' and state = 'open'") == 2
        assert await broken_invariants() == {}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[None]:
    await Tortoise.init(config=settings.database(url), _enable_global_fallback=True)
    try:
        yield
    finally:
        await Tortoise.close_connections()


def pg(
    program: str, server: LocalPostgres, database: str, *options: str, content: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    there = ["-h", str(server.sockets), "-p", "5432", "-U", "postgres", "-d", database]
    done = subprocess.run(
        [str(server._bin / program), *there, *options],
        input=content, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done


def walkable(folder: Path) -> Path:
    """For PostgreSQL's unprivileged user."""
    for one in (folder, folder.parent, folder.parent.parent):
        one.chmod(0o755)
    return folder


def services() -> Any:
    """With the real clients verifying."""
    channels = [counterparts.wechat_pay_channel(), counterparts.alipay_channel()]
    return SimpleNamespace(vault=VAULT, channels={one.account_id: one for one in channels})


async def an_open_order(channel: str) -> str:
    """Of ¥8,175.24 at the real channel's account; its number."""
    _, _, number = await City().opened({"treasury": 817_524})
    account = "wechat_pay:1900000109" if channel == "wechat_pay" else "alipay:2021000000000109"
    await rows(
        "update pay_attempt set channel = $1, account_id = $2 where out_trade_no = $3",
        channel,
        account,
        number,
    )
    return number


async def hear_wechat(number: str) -> None:
    news = transaction(out_trade_no=number, transaction_id=f"4200{number}"[:32])
    await _hear(counterparts.wechat_pay_channel(), *WechatNotice(plaintext=news).sent())


async def hear_alipay(number: str) -> None:
    form = alipay_notice(out_trade_no=number, trade_no=f"2026{number}"[:32])
    await _hear(counterparts.alipay_channel(), *alipay_form(form))


async def hear_wechat_refund(number: str, refund_no: str) -> None:
    whole = {"total": 817_524, "refund": 817_524, "payer_total": 817_524, "payer_refund": 817_524}
    news = counterparts.refund(out_trade_no=number, out_refund_no=refund_no, amount=whole)
    notice = WechatNotice(plaintext=news, event_type="REFUND.SUCCESS")
    await _hear(counterparts.wechat_pay_channel(), *notice.sent())


async def hear_alipay_refund(number: str, refund_no: str) -> None:
    form = alipay_notice(
        out_trade_no=number, trade_no=f"2026{number}"[:32], trade_status="TRADE_CLOSED",
        refund_fee="8175.24", out_biz_no=refund_no, gmt_refund="2026-03-01 10:05:00.120",
    )  # fmt: skip
    await _hear(counterparts.alipay_channel(), *alipay_form(form))


async def _hear(channel: Any, headers: dict[str, str], body: bytes) -> None:
    """As the door does."""
    notice = cast(PayChannel, channel).open_notice(headers, body, now=NOW)
    message = sealed_message(VAULT, headers, body, believed_at=NOW)
    item = api.from_notice(
        notice, channel=channel.channel, account_id=channel.account_id, message=message
    )
    await api.settle_batch([item], now=NOW)
