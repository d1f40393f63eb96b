"""Nobody who reads the database alone learns which wallet paid."""

import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from estation.identity.actions import citizens
from estation.identity.actions import sealing as of_openids
from estation.identity.actions.sealing import walks_over_openids
from estation.identity.queries import openid_index, viewer_of
from estation.local import LocalPostgres
from estation.outside.pay_channels import Channel, ChannelReport, RefundRequest, Scene
from estation.outside.pay_channels.alipay import client as alipay_client
from estation.outside.pay_channels.payers import open_payers
from estation.outside.pay_channels.wechat_pay import client as wechat_client
from estation.outside.wechat import WechatIdentity
from estation.payments import api
from estation.payments.actions import sealing as of_payers
from estation.payments.actions.inbox import keep_unhandled
from estation.payments.actions.sealing import walks_over_payers
from estation.payments.actions.settle import from_notice, from_refund, from_report, settle_reports
from estation.payments.models import Incident, Notice
from estation.reconciliation.actions import sealing as of_bills
from estation.reconciliation.actions.sealing import walks_over_bills
from estation.reconciliation.api import bill_file, bill_files, reconcile_day
from estation.sandbox.world import PERSONAS
from estation.services import Services
from estation.shared import ids
from estation.shared.clock import beijing_day, system_clock
from estation.shared.crypto import Vault
from estation.shared.jsonb import jsonb_text
from estation.shared.sealing import Progress, walk_on, walk_through
from tests.outside.city_channels import City as There
from tests.outside.city_channels import running_city
from tests.outside.counterparts import VAULT, alipay_notice, transaction
from tests.payments.city import City, make_bill, rows
from tests.payments.fakes import NOW
from tests.payments.plants import by_hand
from tests.scanning import tables_with

LIN = next(one for one in PERSONAS if one.key == "lin")
WHO_PAID = (LIN.openid, LIN.unionid, LIN.buyer_id, LIN.buyer_open_id)
SCENES = {Channel.WECHAT_PAY: Scene.JSAPI, Channel.ALIPAY: Scene.WAP}
_seconds = itertools.count()
OLD_OPENID, OLD_BUYER = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o", "2088102177891440"


@pytest.fixture
async def there(database: str, tmp_path: Path) -> AsyncIterator[There]:
    async with running_city(tmp_path) as running:
        yield running


# At rest


async def test_no_table_tells_which_wallet_paid(there: There) -> None:
    await _a_day_of_all_that_can_happen(there)

    assert await tables_with(WHO_PAID) == set()
    told = repr([open_payers(VAULT, one.evidence) for one in await api.list_incidents()])
    assert LIN.openid in told
    assert LIN.buyer_id in told or LIN.buyer_open_id in told


async def test_unsealed_the_same_day_stands_in_every_table_that_keeps_it(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the look above would see nothing because nothing was there to be seen."""
    for client in (wechat_client, alipay_client):
        monkeypatch.setattr(client, "seal_payers", lambda vault, said: None)
    monkeypatch.setattr(Vault, "seal", lambda self, text: text.encode())
    monkeypatch.setattr(Vault, "seal_file", lambda self, content: content)
    monkeypatch.setattr(Vault, "open_file", lambda self, content: content)

    await _a_day_of_all_that_can_happen(there)

    assert await tables_with(WHO_PAID) == {"pay_notice", "incident", "channel_bill_file", "session"}


async def test_a_sealed_bill_file_comes_back_byte_for_byte(there: There) -> None:
    paid = await _paid(there, Channel.WECHAT_PAY)
    await _reconciled(there, paid)

    (file,) = [one for one in await bill_files(_day(paid)) if one.channel == Channel.WECHAT_PAY]
    _, content = await bill_file(_day(paid), file.id, vault=VAULT)

    assert LIN.openid.encode() in content
    assert len(content) == file.byte_count


async def _a_day_of_all_that_can_happen(there: There) -> None:
    """Both channels: a payment of an order, one of an order nobody knows, one told by an answer,
    one that waits in the inbox, refunds by answer and by notice, the bills; and a WeChat login."""
    paid = [report for channel in SCENES for report in await _payments(there, channel)]
    asked = len(there.accepted)
    for report in paid:
        if report.paid_fen == 817_524:
            await there.channels[report.channel].refund(_refund(there, report))
            answer = await there.channels[report.channel].query_refund(
                _refund(there, report).refund_no, out_trade_no=report.out_trade_no
            )
            await _settled(from_refund(answer))
    for notice in (await there.news(at_least=asked + 2))[asked:]:
        await _settled(from_notice(notice, **_of(notice.out_trade_no, paid)))
    await _logged_in_by_wechat()
    await _reconciled(there, *paid)


async def _payments(there: There, channel: Channel) -> list[ChannelReport]:
    known = await _paid(there, channel, fen=817_524)
    await _order_paid_as(known)
    unknown, waiting = await _paid(there, channel, fen=2), await _paid(there, channel, fen=3)
    answered = await _paid(there, channel, fen=4)
    paid = [known, unknown, waiting, answered]
    numbers = {report.out_trade_no for report in paid}
    news = {}
    for at_least in range(len(there.accepted), 100):
        news = {one.out_trade_no: one for one in there.accepted if one.out_trade_no in numbers}
        if len(news) == len(paid):
            break
        await there.news(at_least=at_least + 1)
    for report in (known, unknown):
        notice = news[report.out_trade_no]
        await _settled(from_notice(notice, channel=channel, account_id=report.account_id))
    late = from_notice(news[waiting.out_trade_no], channel=channel, account_id=waiting.account_id)
    await keep_unhandled(late, error=ConnectionError(), now=system_clock())
    await _settled(from_report(answered))
    return paid


async def _paid(there: There, channel: Channel, *, fen: int = 817_524) -> ChannelReport:
    number, code = await there.open(channel, SCENES[channel], amount_fen=fen)
    await there.sandbox.pay(code, "lin")
    return await there.channels[channel].query(number)


async def _order_paid_as(report: ChannelReport) -> None:
    """An order of ours whose ticket is the one that was paid, opened from Lin's own WeChat."""
    city, now = City(), system_clock()
    order = await city.order(await make_bill(city.person_id, {"treasury": 817_524}), now=now)
    attempt = await api.open_attempt(
        person_id=city.person_id,
        order_id=order.id,
        channel=Channel.WECHAT_PAY,
        scene=Scene.JSAPI,
        services=city.services,
        payer_ip=None,
        openid=LIN.openid,
        now=now,
    )
    await rows(
        "update pay_attempt set out_trade_no = $1, channel = $2, account_id = $3 where id = $4",
        report.out_trade_no,
        report.channel,
        report.account_id,
        attempt.id,
    )


async def _settled(item: Any) -> None:
    (answer,) = await settle_reports([item], now=system_clock())
    assert not isinstance(answer, Exception), answer


def _of(number: str, paid: list[ChannelReport]) -> dict[str, Any]:
    (report,) = [one for one in paid if one.out_trade_no == number]
    return {"channel": report.channel, "account_id": report.account_id}


def _refund(there: There, report: ChannelReport) -> RefundRequest:
    return RefundRequest(
        f"{report.out_trade_no}R",
        report.out_trade_no,
        str(report.channel_trade_no),
        100,
        817_524,
        "退登记费",
        f"{there.there.base_url}/notices/{report.channel}",
    )


async def _logged_in_by_wechat() -> None:
    class Platform:
        appid = "wx1"

        async def identity_from_code(self, code: str) -> WechatIdentity:
            return WechatIdentity(LIN.openid)

    opened, state = await citizens.begin_wechat_login(now=system_clock())
    begun = await viewer_of(opened.token, vault=VAULT, now=system_clock())
    assert begun is not None
    back = await citizens.login_with_wechat(
        session_id=begun.session_id,
        code="c",
        state=state,
        wechat=cast(Any, Platform()),
        vault=VAULT,
        now=system_clock(),
    )
    assert back.needs_person


def _day(report: ChannelReport) -> Any:
    assert report.paid_at is not None
    return beijing_day(report.paid_at)


async def _reconciled(there: There, *paid: ChannelReport) -> None:
    await there.sandbox.advance(36 * 3600)
    services = SimpleNamespace(
        channels={one.account_id: one for one in there.channels.values()},
        settings=there.settings,
        clock=system_clock,
        vault=VAULT,
    )
    now = system_clock() + timedelta(hours=36)
    for day in sorted({_day(report) for report in paid}):
        await reconcile_day(day, services=cast(Services, services), now=now)


# Rows from before


async def test_older_rows_are_sealed_in_batches_and_say_the_same(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estation.payments.actions.sealing.ROWS_AT_ONCE", 2)
    said = [transaction(), alipay_notice(), {"nobody": "here"}, transaction(attach="x")]
    for one in said:
        await _notice_of_before(one)
    await _incident_of_before({"report": {"raw": transaction()}, "plaintext": alipay_notice()})
    told: list[Progress] = []

    await walk_through(walks_over_payers(VAULT), now=NOW, again=False, tell=told.append)

    assert await tables_with([OLD_OPENID, OLD_BUYER]) == set()
    kept = [open_payers(VAULT, one.plaintext) for one in await Notice.all().order_by("id")]
    assert kept == said
    (incident,) = await Incident.all()
    assert open_payers(VAULT, incident.evidence)["plaintext"] == alipay_notice()
    assert [(one.walk, one.looked, one.sealed, one.is_ended) for one in told] == [
        ("pay_notice", 2, 2, False),
        ("pay_notice", 4, 3, False),
        ("pay_notice", 4, 3, True),
        ("incident", 1, 1, False),
        ("incident", 1, 1, True),
    ]


async def test_a_walk_that_was_broken_off_goes_on_where_it_stood(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estation.payments.actions.sealing.ROWS_AT_ONCE", 1)
    for one in (transaction(), alipay_notice()):
        await _notice_of_before(one)
    step = walks_over_payers(VAULT)["pay_notice"]
    await walk_on("pay_notice", step, now=NOW)
    (sealed, clear) = await Notice.all().order_by("id")
    assert OLD_BUYER in repr(clear.plaintext)

    progress = await walk_on("pay_notice", step, now=NOW)

    assert (progress.looked, progress.sealed) == (2, 2)
    assert [one.plaintext for one in await Notice.filter(id=sealed.id)] == [sealed.plaintext]
    assert await tables_with([OLD_BUYER]) == set()


async def test_rows_that_an_older_program_wrote_behind_the_walk_are_sealed_by_another(
    database: str,
) -> None:
    walks = walks_over_payers(VAULT)
    late = await _notice_of_before(transaction(), id=UUID(int=1))
    await _notice_of_before(alipay_notice())
    await rows("insert into sealing_walk (walk, upto, looked, sealed) values ($1, $2, 1, 0)",
               "pay_notice", UUID(int=2))  # fmt: skip

    await walk_through(walks, now=NOW, again=False, tell=lambda _: None)
    assert [str(row["id"]) for row in await rows(
        "select id from pay_notice where strpos(plaintext::text, $1) > 0", OLD_OPENID
    )] == [str(late)]  # fmt: skip
    await walk_through(walks, now=NOW, again=True, tell=lambda _: None)

    assert await tables_with([OLD_OPENID, OLD_BUYER]) == set()


WALKS = {
    "pay_notice": of_payers._NEXT_NOTICES,
    "incident": of_payers._NEXT_INCIDENTS,
    "channel_bill_file": of_bills._NEXT,
    "wechat_binding": of_openids._NEXT_BINDINGS,
    "session": of_openids._NEXT_SESSIONS,
}


@pytest.mark.parametrize("table", WALKS)
def test_each_batch_begins_behind_the_one_before_in_the_plan_of_all_batches(
    postgres: LocalPostgres, database_url: str, table: str
) -> None:
    """Or each would read the table from its first row on, and a walk never end."""
    database = database_url.partition("?")[0].rpartition("/")[2]
    plan = postgres.psql(
        "set enable_seqscan = off; set enable_bitmapscan = off;"
        f" explain (generic_plan, costs off) {WALKS[table]}",
        database=database,
    )

    assert f" on {table}" in plan
    assert "Index Cond: (id > $1)" in plan


async def test_older_bill_files_are_sealed_and_only_if_they_are_what_came(database: str) -> None:
    content = f"用户标识,`{OLD_OPENID}".encode()
    good = await _bill_of_before(content, days=1)
    assert await tables_with([OLD_OPENID]) == {"channel_bill_file"}

    await walk_through(walks_over_bills(VAULT), now=NOW, again=False, tell=lambda _: None)

    assert await tables_with([OLD_OPENID]) == set()
    assert (await bill_file(good[0], good[1], vault=VAULT))[1] == content
    await _bill_of_before(content, days=2)
    await by_hand("update channel_bill_file set content = 'other' where not is_sealed")
    await _bill_of_before(content, days=3)
    await walk_through(walks_over_bills(VAULT), now=NOW, again=True, tell=lambda _: None)
    assert [row["sealed"] for row in await rows(
        "select is_sealed as sealed from channel_bill_file order by id"
    )] == [True, False, True]  # fmt: skip


async def test_older_openids_are_sealed_and_the_newer_of_two_bindings_stays(database: str) -> None:
    person, other = [await _person() for _ in range(2)]
    index = openid_index("o-twice", vault=VAULT)
    for openid, who, minutes in (("o-once", person, 0), ("o-twice", other, 5)):
        await rows(
            "insert into wechat_binding (id, appid, openid, person_id, bound_at)"
            " values ($1, 'wx1', $2, $3, $4)",
            ids.row_id(NOW), openid, who, NOW + timedelta(minutes=minutes),
        )  # fmt: skip
    await rows(
        "insert into wechat_binding (id, appid, openid_index, person_id, bound_at)"
        " values ($1, 'wx1', $2, $3, $4)", ids.row_id(NOW), index, person, NOW,
    )  # fmt: skip
    opened, _ = await citizens.begin_wechat_login(now=NOW)
    await rows("update session set openid = 'o-once'")

    await walk_through(walks_over_openids(VAULT), now=NOW, again=False, tell=lambda _: None)

    assert await tables_with(["o-once", "o-twice"]) == set()
    bound = await rows("select openid_index, person_id from wechat_binding")
    assert {row["openid_index"]: row["person_id"] for row in bound} == {
        index: other,
        openid_index("o-once", vault=VAULT): person,
    }
    viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
    assert viewer is not None
    assert viewer.openid == "o-once"


def _next_id() -> UUID:
    """Of a later moment than the one before, so that rows stand in the order of their writing."""
    return ids.row_id(NOW + timedelta(seconds=next(_seconds)))


async def _notice_of_before(said: dict[str, Any], *, id: UUID | None = None) -> UUID:
    row_id = id or _next_id()
    await rows(
        """insert into pay_notice (id, channel, account_id, event_key, kind, out_trade_no,
               plaintext, received_at, handled_at, outcome, tries, last_error)
           values ($1, 'wechat_pay', 'a', $2, 'k', '', $3::jsonb, $4, $4, 'applied', 0, '')""",
        row_id,
        str(uuid4()),
        jsonb_text(said),
        NOW,
    )
    return row_id


async def _incident_of_before(evidence: dict[str, Any]) -> None:
    await api.open_incident(
        kind="wrong_amount",
        distinction="before",
        channel="wechat_pay",
        account_id="a",
        out_trade_no="",
        evidence=json.loads(json.dumps(evidence)),
        now=NOW,
    )


async def _bill_of_before(content: bytes, *, days: int) -> tuple[Any, UUID]:
    day, row_id = beijing_day(NOW) - timedelta(days=days), _next_id()
    await rows(
        """insert into channel_bill_file (id, channel, account_id, day, sha256, content,
               byte_count, fetched_at, seen_at)
           values ($1, 'wechat_pay', 'a', $2, $3, $4, $5, $6, $6)""",
        row_id, day, hashlib.sha256(content).hexdigest(), content, len(content), NOW,
    )  # fmt: skip
    return day, row_id


async def _person() -> UUID:
    person_id = ids.row_id(NOW)
    await rows(
        """insert into person (id, id_type, id_no_index, id_no_sealed, id_tail_index, name_sealed,
               phone_index, phone_sealed, updated_at)
           values ($1, '1', $2, $3, '', $3, '', $3, $4)""",
        person_id, str(person_id), VAULT.seal("x"), NOW,
    )  # fmt: skip
    return person_id
