"""Incidents and refunds at the office: who may do what, each deed with its trace, money never by
a page alone."""

import csv
import io
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from estation.outside.pay_channels import RefundStatus, VerifiedNotice
from estation.outside.pay_channels.messages import sealed_message
from estation.outside.pay_channels.payers import seal_payers
from estation.payments import api, jobs, staff_words
from estation.payments.actions import asking, incidents
from estation.payments.actions.hearing import note_heard
from estation.payments.actions.incidents import open_incident
from estation.payments.incident_deeds import ORDER, ROLES, deeds_for
from estation.payments.invariants import broken_invariants
from estation.payments.models import Incident, IncidentAction, PayAttempt, PayOrder, Refund
from estation.payments.refund_rules import LEGAL_DEEDS, Deed, legal_deeds
from estation.payments.rules import CloseReason, IncidentKind, IncidentState, RefundState
from estation.shared.crypto import Vault
from estation.shared.money import fen_from_yuan
from tests.payments.city import MERCHANTS, TOTAL, City, count, later, rows
from tests.payments.fakes import NOW, UNKNOWN, CombiningChannel, FakeChannel
from tests.payments.office import Office, open_office

ALL = frozenset({"clerk", "checker", "operator"})
FINANCE = frozenset({"clerk", "checker"})
SOME = "01980000-0000-7000-8000-000000000009"
DAY = "2026-03-10"

PERMISSIONS: dict[tuple[str, str], frozenset[str]] = {
    ("GET", "/staff"): ALL,
    ("POST", "/staff/logout"): ALL,
    ("GET", "/staff/incidents"): ALL,
    ("GET", "/staff/incidents.csv"): ALL,
    ("GET", "/staff/incidents/<incident_id:uuid>"): ALL,
    ("POST", "/staff/incidents/<incident_id:uuid>"): ALL,
    ("POST", "/staff/incidents/<incident_id:uuid>/take"): ALL,
    ("POST", "/staff/incidents/<incident_id:uuid>/ask-channel"): ALL,
    ("POST", "/staff/incidents/<incident_id:uuid>/refund"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect/approve"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/redirect/reject"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/outside"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/outside/approve"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/outside/reject"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand/approve"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/by-hand/reject"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/claim"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/claim/approve"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/claim/reject"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/apply"): FINANCE,
    ("POST", "/staff/incidents/<incident_id:uuid>/apply/approve"): frozenset({"checker"}),
    ("POST", "/staff/incidents/<incident_id:uuid>/apply/reject"): frozenset({"checker"}),
    ("GET", "/staff/refunds"): ALL,
    ("GET", "/staff/refunds/new"): FINANCE,
    ("POST", "/staff/refunds/new"): FINANCE,
    ("GET", "/staff/refunds/<request_id:uuid>"): ALL,
    ("POST", "/staff/refunds/<request_id:uuid>/approve"): frozenset({"checker"}),
    ("POST", "/staff/refunds/<request_id:uuid>/reject"): frozenset({"checker"}),
    ("GET", "/staff/reconciliation"): ALL,
    ("POST", "/staff/reconciliation"): FINANCE,
    ("GET", "/staff/reconciliation/<day:ymd>"): ALL,
    ("GET", "/staff/reconciliation/<day:ymd>/differences.csv"): FINANCE,
    ("GET", "/staff/reconciliation/<day:ymd>/bills/<file_id:uuid>"): FINANCE,
    ("GET", "/staff/splits"): FINANCE,
    ("POST", "/staff/splits"): FINANCE,
    ("GET", "/staff/splits/<file_name:str>"): FINANCE,
    ("GET", "/staff/gate"): ALL,
    ("POST", "/staff/gate/<name:str>/release"): frozenset({"operator"}),
    ("POST", "/staff/gate/<name:str>/resume"): frozenset({"operator"}),
}
"""Every staff route, and who may call it. Whoever adds a route says so here, in review (D17)."""


@pytest.fixture
async def office(database: str) -> AsyncIterator[Office]:
    async with open_office() as opened:
        yield opened


async def test_every_staff_route_is_in_the_table_of_permissions(office: Office) -> None:
    routes = {
        (method, "/" + str(route.path).strip("/").replace("\\", ""))
        for group in office.app.router.groups.values()
        for route in group.routes
        for method in route.methods
        if str(route.path).strip("/").startswith("staff") and method not in ("HEAD", "OPTIONS")
    }

    assert {one for one in routes if one[1] != "/staff/login"} == set(PERMISSIONS)


@pytest.mark.parametrize("who", ["", *sorted(ALL)])
async def test_the_routes_let_in_exactly_those_of_the_table(office: Office, who: str) -> None:
    wrong = []
    for method, address in PERMISSIONS:
        path = address.replace("<day:ymd>", DAY).replace("<file_name:str>", "none.csv")
        path = path.replace("<name:str>", "nobody")
        for name in ("incident_id", "request_id", "file_id"):
            path = path.replace(f"<{name}:uuid>", SOME)
        if who:
            await office.sit_down(who)
        status = await office.ask(method, path)
        if address == "/staff/logout":
            office.tokens.clear()
        if who:
            is_right = (status != 403) == (who in PERMISSIONS[method, address]) and status < 500
        else:
            is_right = status == 303  # a stranger is sent to the login
        if not is_right:
            wrong.append((method, address, status))

    assert wrong == []


@pytest.mark.parametrize("who", sorted(ALL))
async def test_the_navigation_offers_exactly_what_the_officer_may_open(
    office: Office, who: str
) -> None:
    await office.sit_down(who)
    await office.get("/staff")
    offered = re.findall(r'<a href="(/staff[^"]*)" data-key="(\d)"', office.text)
    keys = re.findall(r"<kbd>(\d)</kbd>", office.text)

    may = {address for (method, address), roles in PERMISSIONS.items() if who in roles}
    linked = {"/staff", *(f"/staff/{one}" for one in ("incidents", "reconciliation", "refunds",
              "splits", "gate"))}  # fmt: skip
    assert {address for address, _ in offered} == linked & may
    assert keys == [key for _, key in offered]
    assert [await office.get(address) for address, _ in offered] == [200] * len(offered)


def test_a_part_of_a_combined_payment_is_never_applied_alone() -> None:
    about = {"kind": "paid_after_close", "state": IncidentState.OPEN, "owner": "finance"}

    whole = deeds_for(**about, role="finance_clerk", number="FY20260803ABC")
    part = deeds_for(**about, role="finance_clerk", number="FY20260803ABC-01")

    assert set(whole) - set(part) == {Deed.APPLY}
    assert {Deed.REFUND, Deed.SETTLE_OUTSIDE} <= set(part)


async def test_the_page_of_a_parts_money_offers_no_applying_and_does_none(database: str) -> None:
    payees = [FakeChannel(account_id=account) for account in MERCHANTS.values()]
    combining = CombiningChannel()
    city = City(merchants=MERCHANTS, others=[combining, *payees])
    _, order, number = await city.opened()
    combining.pay(number)
    await rows("update pay_attempt set state = 'closed', closed_at = now(), next_query_at = null")
    await rows(
        "update pay_order set state = 'closed', closed_at = now(), close_reason = 'cancelled'"
    )
    await rows("update pay_order_bill set is_open = false")
    await api.settle_batch([api.from_report(combining.report(number))], now=later(seconds=30))
    (first, _) = await rows("select id from incident where kind = 'paid_after_close'")
    path = f"/staff/incidents/{first['id']}"
    async with open_office(city) as office:
        await office.sit_down("clerk")

        assert await office.get(path) == 200
        assert f'action="{path}/apply"' not in office.text
        assert await office.post(f"{path}/apply") == 403

    assert await count("incident_action", "action like 'apply%'") == 0
    assert (await api.order_of(city.person_id, order.id)).state == "closed"


def test_what_may_be_done_about_an_incident_is_a_table() -> None:
    """Every kind × state × owner × role: only legal deeds, only for the owner's roles."""
    kinds = [*IncidentKind, "missing_in_ledger", "invariant_no_message_is_dead", "brand_new"]
    for kind in kinds:
        for role in ("finance_clerk", "finance_checker", "operator", None):
            for owner in ("finance", "operator", "nobody"):
                open_ = deeds_for(kind=kind, state=IncidentState.OPEN, owner=owner, role=role)
                closed = deeds_for(kind=kind, state=IncidentState.RESOLVED, owner=owner, role=role)
                theirs = role is not None and (role == "operator") == (owner == "operator")
                assert closed == ()
                assert bool(open_) == theirs
                assert set(open_) <= legal_deeds(kind) | {Deed.ASK_CHANNEL}
                assert Deed.ESCALATE not in open_
                if theirs:
                    assert {Deed.TAKE, Deed.RESOLVE} <= set(open_)
                if role == "operator":
                    money = {Deed.REFUND, Deed.APPLY, Deed.SETTLE_OUTSIDE, Deed.REDIRECT_REFUND,
                             Deed.END_CLAIM, Deed.PAY_BY_HAND}  # fmt: skip
                    assert not money & set(open_)
    assert set(ORDER) | {Deed.ESCALATE} == set(Deed) == set(ROLES)
    assert set(LEGAL_DEEDS) <= set(IncidentKind)


async def test_the_list_tells_owner_assignee_age_cause_amount_and_time(office: Office) -> None:
    await _incident("wrong_amount", 12_345)
    await _incident("silent_attempt", 0, owner="operator")
    office.clock[0] = NOW + timedelta(hours=25)
    await incidents.escalate_overdue(now=office.clock[0])
    await office.sit_down("clerk")

    assert await office.get("/staff/incidents") == 200

    for word in ("金额不符", "123.45", "财务", "运维", "未认领", "25 小时", "已超时限", "已升级"):
        assert word in office.text
    assert await office.get("/staff/incidents?owner=operator") == 200
    assert "共 1 件" in office.text
    assert "渠道久无答复" in office.text
    assert await office.get("/staff/incidents?overdue=1") == 200
    assert "共 2 件" in office.text
    office.clock[0] = NOW
    await office.get("/staff/incidents?overdue=1")
    assert "共 0 件" in office.text


async def test_taken_on_it_is_mine_until_a_colleague_takes_it(office: Office) -> None:
    incident_id = await _incident("wrong_amount", 500)
    await office.sit_down("clerk")
    await office.get("/staff/incidents?mine=1")
    assert "共 0 件" in office.text

    assert await office.post(f"/staff/incidents/{incident_id}/take") == 303
    await office.get("/staff/incidents?mine=1")
    assert "共 1 件" in office.text
    await office.sit_down("other_clerk")
    assert await office.post(f"/staff/incidents/{incident_id}/take") == 303

    await office.get(f"/staff/incidents/{incident_id}")
    assert "钱立（财务经办）" in office.text
    assert await _deeds(incident_id) == [
        ("take", "何敏（财务经办）"),
        ("take", "钱立（财务经办）"),
    ]


@pytest.mark.parametrize(
    "query",
    ["owner=nobody", "mine=2", "overdue=x", "sort=id;drop", "state=no", "kind=none", "page=-1"],
)
@pytest.mark.parametrize("path", ["/staff/incidents", "/staff/incidents.csv"])
async def test_a_filter_is_one_of_the_known_words(office: Office, path: str, query: str) -> None:
    """D17: no word from outside gets into a query as an order of rows."""
    await office.sit_down("clerk")
    only_the_list = path.endswith("csv") and query.startswith(("sort", "page"))

    assert await office.get(f"{path}?{query}") == (200 if only_the_list else 422)


async def test_the_export_ties_and_no_cell_is_a_formula(office: Office) -> None:
    for number, amount in (("=1+1", 101), ("@SUM(A1)", 202), ("20260803AB", 303)):
        await _incident("wrong_amount", amount, number=number)
    other = await _incident("silent_attempt", 0, owner="operator")
    await incidents.resolve_incident(incident_id=other, by="-x", resolution="+1", now=NOW)
    await office.sit_down("clerk")

    assert await office.get("/staff/incidents.csv?state=all") == 200

    assert office.headers["content-disposition"].startswith("attachment")
    header, *lines, total = csv.reader(io.StringIO(office.body.decode("utf-8-sig")))
    at = header.index("金额（元）")
    assert len(lines) == 4
    assert total[:2] == ["合计", "4 件"]
    assert sum(fen_from_yuan(line[at]) for line in lines) == fen_from_yuan(total[at]) == 606
    for line in lines:
        for cell in line:
            assert cell.strip()[:1] not in {"=", "+", "-", "@"}
    await office.get("/staff/incidents.csv?owner=operator&state=all")
    assert office.body.decode("utf-8-sig").count("\r\n") == 3


async def test_one_screen_shows_news_tries_books_and_deeds(office: Office) -> None:
    incident_id, number = await _wrong_amount(office.city)
    await office.sit_down("clerk")
    await office.post(f"/staff/incidents/{incident_id}/take")

    assert await office.get(f"/staff/incidents/{incident_id}") == 200

    for word in (number, "发起支付", "渠道收款", "收到通知", "通知已处理", "总账入账", "由我处理",
                 "挂账", "申请退款", "线下处理", "办结",
                 "suspense:wechat_pay:1900000109"):  # fmt: skip
        assert word in office.text, word


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_what_names_the_payer_is_masked_in_the_evidence(
    office: Office, is_sealed: bool
) -> None:
    evidence = {"plaintext": {"payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}}}
    if is_sealed:
        seal_payers(office.app.ctx.vault, evidence)
    incident_id = await _incident("wrong_amount", 500, evidence=evidence)
    await office.sit_down("clerk")

    await office.get(f"/staff/incidents/{incident_id}")

    assert "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o" not in office.text
    assert "oUp…S6o" in office.text
    assert "sealed:" not in office.text


async def test_a_settled_notice_shows_its_message_as_it_came_with_the_payer_masked(
    office: Office,
) -> None:
    """An incident found later, by the bill, has to be explained by what was handled long ago."""
    _, _, number = await office.city.opened()
    form = f"out_trade_no={number}&buyer_id=2088102177891440&subject=%E5%A5%91%E7%A8%8E&sign=abc%3D"
    vault = office.app.ctx.vault
    message = sealed_message(
        vault,
        {"content-type": "application/x-www-form-urlencoded", "cookie": "not-kept"},
        form.encode(),
        believed_at=NOW,
    )
    said = {"out_trade_no": number, "buyer_id": "2088102177891440"}
    seal_payers(vault, said)
    report = office.city.paid(number)
    notice = VerifiedNotice("E1", "trade_status_sync", number, report, said)
    item = api.from_notice(
        notice, channel=report.channel, account_id=report.account_id, message=message
    )
    await api.settle_batch([item], now=NOW)
    incident_id = await _incident("amount_differs", 0, number=number)
    await office.sit_down("clerk")

    assert await office.get(f"/staff/incidents/{incident_id}") == 200

    for word in ("渠道原文", "trade_status_sync → applied", "契税", "abc=", "208…440"):
        assert word in office.text, word
    for secret in ("2088102177891440", "not-kept", "sealed:"):
        assert secret not in office.text, secret

    await rows("delete from pay_notice_message")
    await office.get(f"/staff/incidents/{incident_id}")
    assert "原文已过保存期" in office.text
    assert "208…440" in office.text


async def test_the_timeline_tells_what_the_channel_answered_and_when_it_changed(
    office: Office,
) -> None:
    city = office.city
    _, _, number = await city.opened()
    for seconds in (20, 60, 120):
        await asking.ask_again(number, city.services, now=later(seconds=seconds))
    city.wechat.trouble["query"] = UNKNOWN
    await asking.ask_again(number, city.services, now=later(seconds=600))
    city.wechat.trouble.clear()
    city.wechat.busy = True
    await asking.ask_again(number, city.services, now=later(minutes=20))
    city.wechat.pay(number)
    await asking.ask_again(number, city.services, now=later(minutes=30))
    incident_id = await _incident("amount_differs", 0, number=number)
    await office.sit_down("clerk")

    await office.get(f"/staff/incidents/{incident_id}")

    told = re.findall(r"渠道答复(?:（同上）)?</td><td>[^<]* → ([^<]*)</td>", office.text)
    assert told == [
        "未支付",
        "未支付，连续 3 次",
        "没有答复（timeout）",
        "未支付",
        "关单：付款人正在支付，稍后再试",
        "已支付",
    ]


async def test_the_timeline_tells_each_move_of_the_order_and_of_its_refund(office: Office) -> None:
    city = office.city
    _, order, number = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=later(minutes=1)
    )
    city.wechat.pay(number, at=later(minutes=2))
    news = api.from_report(city.wechat.report(number))
    await api.settle_batch([news], now=later(minutes=2))
    await jobs.send_refunds(city.services, now=later(minutes=3))
    (incident,) = await api.list_incidents()
    await office.sit_down("clerk")

    await office.get(f"/staff/incidents/{incident.id}")

    told = re.findall(r'<td class="nowrap">([^<]*)</td><td>([^<]*)</td></tr>', office.text)
    moves = [(what, detail) for what, detail in told if what in MOVES]
    assert [what for what, _ in moves] == list(MOVES)
    assert moves[1][1] == f"{order.order_no}（付款人取消）"


MOVES = ("下单", "订单关闭", "事件登记", "退款送交渠道")


@pytest.mark.parametrize("reason", CloseReason)
def test_why_an_order_ended_is_said_in_words(reason: CloseReason) -> None:
    assert staff_words.closing_words(reason) != reason
    assert staff_words.closing_words(IncidentKind.WRONG_AMOUNT) == "金额不符"


async def test_of_many_answers_the_first_and_the_last_are_kept(database: str) -> None:
    city = City()
    await city.opened()
    (attempt,) = await rows("select id from pay_attempt")
    for turn in range(30):
        await note_heard(attempt["id"], [f"no_answer:{turn}"], at=later(seconds=turn))
    await note_heard(attempt["id"], ["no_answer:29", "no_answer:29", "paid"], at=later(minutes=1))

    heard = (await PayAttempt.get(id=attempt["id"])).heard or []

    assert [one["said"].removeprefix("no_answer:") for one in heard] == [
        *map(str, range(12)),
        *map(str, range(19, 30)),
        "paid",
    ]
    assert heard[-2] == {
        "said": "no_answer:29",
        "first_at": later(seconds=29).isoformat(),
        "last_at": later(minutes=1).isoformat(),
        "times": 3,
    }


async def test_a_payer_sealed_with_another_key_is_not_shown_at_all(office: Office) -> None:
    evidence = {"plaintext": {"buyer_id": "2088102177891440"}}
    seal_payers(Vault(b"x" * 32), evidence)
    incident_id = await _incident("wrong_amount", 500, evidence=evidence)
    await office.sit_down("clerk")

    assert await office.get(f"/staff/incidents/{incident_id}") == 200

    assert "buyer_id&#34;: &#34;…&#34;" in office.text
    assert "sealed:" not in office.text


async def test_asking_the_channel_again_settles_what_it_says(office: Office) -> None:
    """A silent attempt whose payer had paid: the answer passes the one door."""
    _, order, number = await office.city.opened()
    office.city.wechat.pay(number)
    incident_id = await _incident("silent_attempt", 0, number=number, owner="operator")
    await office.sit_down("operator")

    assert await office.post(f"/staff/incidents/{incident_id}/ask-channel") == 303

    assert await _state_of(order.id) == "paid"
    assert await _deeds(incident_id) == [("ask_channel", "丁一（运维）")]
    await office.get(f"/staff/incidents/{incident_id}")
    assert "渠道答复：paid；open → paid" in office.text
    assert await broken_invariants() == {}


async def test_a_channel_without_an_answer_changes_nothing(office: Office) -> None:
    _, order, number = await office.city.opened()
    office.city.wechat.trouble["query"] = UNKNOWN
    incident_id = await _incident("silent_attempt", 0, number=number, owner="operator")
    await office.sit_down("operator")

    assert await office.post(f"/staff/incidents/{incident_id}/ask-channel") == 303

    assert await _state_of(order.id) == "open"
    await office.get(f"/staff/incidents/{incident_id}")
    assert "没有答复" in office.text


async def test_a_number_of_nobody_cannot_be_asked_about(office: Office) -> None:
    incident_id = await _incident("unknown_order", 500, number="NOT-OURS")
    await office.sit_down("clerk")

    assert await office.post(f"/staff/incidents/{incident_id}/ask-channel") == 404

    assert await _deeds(incident_id) == []


async def test_finances_incidents_are_not_the_operators_and_the_other_way(office: Office) -> None:
    money = await _incident("wrong_amount", 500)
    programs = await _incident("unsettled_news", 0, owner="operator")

    for who, incident_id in (("operator", money), ("clerk", programs)):
        await office.sit_down(who)
        for deed in ("", "/take", "/ask-channel"):
            assert await office.post(f"/staff/incidents/{incident_id}{deed}") == 403
    assert await count("incident_action") == 0
    assert await count("incident", "state = 'open' and assigned_to = ''") == 2


async def test_money_set_aside_goes_back_by_two_persons(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("clerk")
    status = await office.post(
        f"/staff/incidents/{incident_id}/refund",
        amount="8255.25", believed_fen=str(TOTAL + 1), reason="多付一分，全额退还",
    )  # fmt: skip
    assert status == 303
    refund = await Refund.get()
    assert (refund.state, refund.amount_fen) == ("asked", TOTAL + 1)

    page = f"/staff/refunds/{refund.request_id}"
    assert await office.post(f"{page}/approve") == 403
    await office.sit_down("checker")
    await office.get("/staff/refunds?state=asked")
    assert refund.refund_no in office.text
    await office.get(page)
    assert "批准退款" in office.text
    assert "多付一分，全额退还" in office.text
    assert await office.post(f"{page}/approve") == 303

    assert (await Refund.get()).state == "approved"
    assert [deed for deed, _ in await _deeds(incident_id)] == ["refund_asked", "refund_approved"]
    await office.get(f"/staff/incidents/{incident_id}")
    assert "退款批准" in office.text
    assert await broken_invariants() == {}


async def test_a_checker_may_not_check_an_own_request(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("checker")
    await office.post(
        f"/staff/incidents/{incident_id}/refund",
        amount="1.00", believed_fen=str(TOTAL + 1), reason="部分退还",
    )  # fmt: skip
    page = f"/staff/refunds/{(await Refund.get()).request_id}"

    await office.get(page)
    assert "须由另一位复核人处理" in office.text
    assert "批准后钱退回" not in office.text
    assert await office.post(f"{page}/approve") == 403
    assert "经办人不能复核自己" in office.text
    assert (await Refund.get()).state == "asked"
    await office.sit_down("other_checker")
    assert await office.post(f"{page}/approve") == 303
    assert (await Refund.get()).state == "approved"


async def test_late_money_pays_its_bill_by_two_persons(office: Office) -> None:
    """The automatic refund was closed by the channel: the money is ours to apply again."""
    incident_id, order_id = await _paid_late_and_not_refunded(office.city)
    await office.sit_down("checker")
    page = f"/staff/incidents/{incident_id}"
    assert await office.post(f"{page}/apply/approve") == 409
    assert await office.post(f"{page}/apply") == 303
    assert await office.post(f"{page}/apply/approve") == 403, "nobody checks an own wish"
    assert await _state_of(order_id) == "closed"

    await office.sit_down("other_checker")
    await office.get(page)
    assert "转入账单：等待复核" in office.text
    assert await office.post(f"{page}/apply/reject", note=" ") == 422
    assert await office.post(f"{page}/apply/approve") == 303

    assert await _state_of(order_id) == "paid"
    assert [deed for deed, _ in await _deeds(incident_id)][-2:] == ["apply_asked", "applied"]
    assert (await Incident.get(id=incident_id)).state is IncidentState.RESOLVED
    assert await broken_invariants() == {}


async def test_an_abnormal_refund_is_redirected_by_two_persons(office: Office) -> None:
    incident_id = await _abnormal(office.city)
    await office.sit_down("clerk")
    page = f"/staff/incidents/{incident_id}"
    await office.get(page)
    assert "改退到商户银行卡" in office.text

    assert await office.post(f"{page}/redirect") == 303
    assert (await Refund.get()).state is RefundState.ABNORMAL
    await office.sit_down("checker")
    await office.get(page)
    for word in ("改退到商户银行卡：等待复核", "何敏（财务经办）", "批准改退"):
        assert word in office.text
    assert await office.post(f"{page}/redirect/reject", note=" ") == 422
    assert await office.post(f"{page}/redirect/approve") == 303

    assert (await Refund.get()).state is RefundState.PROCESSING
    assert await _deeds(incident_id) == [
        ("redirect_asked", "何敏（财务经办）"),
        ("redirect_refund", "罗建平（财务复核）"),
    ]
    assert await office.post(f"{page}/redirect/approve") == 409
    await office.get(page)
    assert "不是异常状态" in office.text
    assert "申请改退到商户卡" in office.text


async def test_a_checker_may_not_order_an_own_redirecting(office: Office) -> None:
    incident_id = await _abnormal(office.city)
    await office.sit_down("checker")
    page = f"/staff/incidents/{incident_id}"
    assert await office.post(f"{page}/redirect") == 303

    await office.get(page)
    assert "须由另一位复核人处理" in office.text
    assert await office.post(f"{page}/redirect/approve") == 403
    assert "经办人不能复核自己" in office.text

    assert (await Refund.get()).state is RefundState.ABNORMAL
    await office.sit_down("other_checker")
    assert await office.post(f"{page}/redirect/approve") == 303
    assert (await Refund.get()).state is RefundState.PROCESSING


async def test_an_incident_with_money_in_suspense_is_not_closed_in_words(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("clerk")
    page = f"/staff/incidents/{incident_id}"
    await office.get(page)
    assert 'name="resolution"' not in office.text
    assert "还有" in office.text

    assert await office.post(page, resolution="已与市民说明") == 409

    assert "¥ 8,255.25 在挂账，不能只凭文字办结" in office.text
    assert await _deeds(incident_id) == []
    assert (await Incident.get(id=incident_id)).state is IncidentState.OPEN


async def test_money_dealt_with_outside_leaves_the_books_by_two_persons(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    page = f"/staff/incidents/{incident_id}"
    await office.sit_down("checker")
    form = {
        "believed_fen": str(TOTAL + 1), "outside_reason": "基本户转账退还",
        "document_no": "回单 2026-118",
    }  # fmt: skip
    assert await office.post(f"{page}/outside", **{**form, "document_no": ""}) == 422
    assert 'value="基本户转账退还"' in office.text, "what was typed is still there"
    assert await office.post(f"{page}/outside", **{**form, "believed_fen": "1"}) == 412
    assert await office.post(f"{page}/outside/approve", believed_fen=str(TOTAL + 1)) == 409
    assert await office.post(f"{page}/outside", **form) == 303
    await office.get(page)
    assert "须由另一位复核人处理" in office.text
    assert await office.post(f"{page}/outside/approve", believed_fen=str(TOTAL + 1)) == 403
    assert await count("ledger_transfer", "kind = 'settled_outside'") == 0

    await office.sit_down("other_checker")
    await office.get(page)
    for word in ("线下处理：等待复核", "基本户转账退还（回单 2026-118）", "批准线下处理"):
        assert word in office.text
    assert await office.post(f"{page}/outside/reject", note="") == 422
    assert await office.post(f"{page}/outside/approve", believed_fen="1") == 412
    assert await office.post(f"{page}/outside/approve", believed_fen=str(TOTAL + 1)) == 303

    await office.get(page)
    for word in ("已办结", "已线下处理", "settled_outside:wechat_pay:1900000109"):
        assert word in office.text
    assert await _deeds(incident_id) == [
        ("outside_asked", "罗建平（财务复核）"),
        ("settled_outside", "孙宁（财务复核）"),
    ]
    assert await broken_invariants() == {}


async def test_who_was_renamed_and_promoted_may_not_check_an_own_request(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("clerk")
    await office.post(
        f"/staff/incidents/{incident_id}/refund",
        amount="1.00", believed_fen=str(TOTAL + 1), reason="部分退还",
    )  # fmt: skip
    await office.post(f"/staff/incidents/{incident_id}/take")
    await rows(
        "update staff_user set name = '何晓敏', role = 'finance_checker'"
        " where login = 'clerk' returning id"
    )
    page = f"/staff/refunds/{(await Refund.get()).request_id}"

    await office.get(page)
    assert "须由另一位复核人处理" in office.text
    assert await office.post(f"{page}/approve") == 403

    assert (await Refund.get()).state is RefundState.ASKED
    await office.get("/staff/incidents?mine=1")
    assert "共 1 件" in office.text


async def test_a_namesake_of_the_maker_may_check(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("checker")
    await office.sit_down("other_checker")
    await rows("update staff_user set name = '张伟' where login like '%checker' returning id")
    await office.post(
        f"/staff/incidents/{incident_id}/refund",
        amount="1.00", believed_fen=str(TOTAL + 1), reason="部分退还",
    )  # fmt: skip
    page = f"/staff/refunds/{(await Refund.get()).request_id}"

    await office.sit_down("checker")
    await office.get(page)
    assert "批准后钱退回" in office.text
    assert await office.post(f"{page}/approve") == 303

    refund = await Refund.get()
    assert (refund.asked_by, refund.decided_by) == ("张伟（财务复核）", "张伟（财务复核）")
    assert None is not refund.asked_by_id != refund.decided_by_id is not None


async def test_a_sum_that_changed_meanwhile_is_told_and_nothing_is_asked(office: Office) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("clerk")

    status = await office.post(
        f"/staff/incidents/{incident_id}/refund",
        amount="1.00", believed_fen="100", reason="退还",
    )  # fmt: skip

    assert status == 412
    assert "现可退 ¥ 8,255.25" in office.text
    assert 'value="1.00"' in office.text
    assert await count("pay_refund") == 0


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"amount": "1.234", "believed_fen": "825525", "reason": "退还"}, 422),
        ({"amount": "-1", "believed_fen": "825525", "reason": "退还"}, 422),
        ({"amount": "1e3", "believed_fen": "825525", "reason": "退还"}, 422),
        ({"amount": "1", "believed_fen": "٣", "reason": "退还"}, 422),
        ({"amount": "1", "believed_fen": "825525", "reason": " "}, 422),
        ({"amount": "1", "believed_fen": "825525", "reason": "长" * 81}, 422),
        ({"amount": "9999999", "believed_fen": "825525", "reason": "退还"}, 409),
        ({}, 422),
    ],
)
async def test_a_refund_that_cannot_be_read_is_refused(
    office: Office, form: dict[str, str], status: int
) -> None:
    incident_id, _ = await _wrong_amount(office.city)
    await office.sit_down("clerk")

    assert await office.post(f"/staff/incidents/{incident_id}/refund", **form) == status

    assert await count("pay_refund") == 0


async def test_an_orders_payment_is_given_back_by_two_persons(office: Office) -> None:
    order_no, number = await _paid(office.city)
    await office.sit_down("clerk")
    for asked in (order_no, number, "4200000000000000000000000000"):
        assert await office.get(f"/staff/refunds/new?order_no={asked}") == 200
        assert "8,255.24" in office.text
    status = await office.post(
        "/staff/refunds/new",
        order_no=order_no, amount="80", believed_fen=str(TOTAL), reason="登记费退还",
    )  # fmt: skip
    assert status == 303
    page = office.headers["location"]

    await office.sit_down("checker")
    assert await office.get(page) == 200
    assert "登记费退还" in office.text
    assert await office.post(f"{page}/reject", note="") == 422
    assert await office.post(f"{page}/reject", note="缺材料") == 303

    await office.get(page)
    assert "未批准" in office.text
    assert "缺材料" in office.text
    assert await office.post(f"{page}/approve") == 409
    assert await broken_invariants() == {}


@pytest.mark.parametrize(
    "number", ["NONE", "' or 1=1 --", "x" * 33, "x" * 65, "订单", "\0", "A\0B", "A\n"]
)
async def test_there_is_nothing_to_give_back_of_an_unknown_number(
    office: Office, number: str
) -> None:
    await office.sit_down("clerk")

    assert await office.get(f"/staff/refunds/new?order_no={quote(number)}") == 404
    assert "没有找到" in office.text
    assert await office.post("/staff/refunds/new", order_no=number, amount="1") == 404


async def test_a_refund_of_nobody_is_not_found(office: Office) -> None:
    await office.sit_down("checker")

    assert await office.get(f"/staff/refunds/{uuid4()}") == 404
    assert await office.post(f"/staff/refunds/{uuid4()}/approve") == 404
    assert await office.get("/staff/refunds?state=gone") == 422


async def test_a_broken_invariant_is_shown_with_its_rows_and_runbook(office: Office) -> None:
    incident_id = await _incident(
        "invariant_no_message_is_dead",
        0,
        owner="operator",
        evidence={"rows": ["row-1"], "total": 1, "runbook": "config/runbooks/x.md"},
    )
    await office.sit_down("operator")

    assert await office.get(f"/staff/incidents/{incident_id}") == 200

    for word in ("自检：消息停止重试", "row-1", "config/runbooks/x.md"):
        assert word in office.text


async def _incident(kind: str, amount_fen: int, **more: Any) -> UUID:
    number = more.get("number", f"{kind}-number")
    await open_incident(
        kind=kind,
        channel="wechat_pay",
        account_id="wechat_pay:1900000109",
        out_trade_no=number,
        distinction=number,
        evidence=more.get("evidence", {}),
        amount_fen=amount_fen,
        owner=more.get("owner", "finance"),
        now=NOW,
    )
    return (await Incident.get(kind=kind, out_trade_no=number)).id


async def _wrong_amount(city: City) -> tuple[UUID, str]:
    """One fen too many was paid and told; the incident and the number."""
    _, _, number = await city.opened()
    city.wechat.pay(number, amount_fen=TOTAL + 1)
    notice = city.wechat.notice(city.wechat.report(number))
    item = api.from_notice(notice, channel=city.wechat.channel, account_id=city.wechat.account_id)
    await api.settle_batch([item], now=NOW)
    return (await Incident.get(kind="wrong_amount")).id, number


async def _paid_late_and_not_refunded(city: City) -> tuple[UUID, UUID]:
    """Paid after the order was cancelled; the channel would not give the money back."""
    _, order, number = await city.opened()
    await api.cancel_order(
        person_id=city.person_id, order_id=order.id, services=city.services, now=NOW
    )
    city.wechat.pay(number)
    await api.settle_batch([api.from_report(city.wechat.report(number))], now=NOW)
    city.wechat.now = NOW
    await jobs.send_refunds(city.services, now=NOW)
    (refund_no,) = city.wechat.refunds
    report = city.wechat.finish(refund_no, RefundStatus.CLOSED)
    await api.settle_batch([api.from_refund(report)], now=NOW)
    return (await Incident.get(kind="paid_after_close")).id, order.id


async def _abnormal(city: City) -> UUID:
    """A refund the payer's account cannot take; its incident."""
    order_no, _ = await _paid(city)
    order, at = await PayOrder.get(order_no=order_no), later(hours=1)
    request_id = await api.ask_refund(
        order_id=order.id, amount_fen=100, believed_refundable_fen=TOTAL, reason="退还",
        by="maker", now=at,
    )  # fmt: skip
    await api.approve_refund(request_id=request_id, by="checker", now=at)
    city.wechat.now = at
    await jobs.send_refunds(city.services, now=at)
    (refund_no,) = city.wechat.refunds
    report = city.wechat.finish(refund_no, RefundStatus.ABNORMAL, at=at)
    await api.settle_batch([api.from_refund(report)], now=at)
    return (await Incident.get(kind="refund_abnormal")).id


async def _paid(city: City) -> tuple[str, str]:
    _, order, number = await city.opened()
    await api.settle_batch([api.from_report(city.paid(number))], now=later(seconds=30))
    return order.order_no, number


async def _state_of(order_id: UUID) -> str:
    found = await rows("select state from pay_order where id = $1", order_id)
    return str(found[0]["state"])


async def _deeds(incident_id: UUID) -> list[tuple[str, str]]:
    found = await IncidentAction.filter(incident_id=incident_id).order_by("at", "id")
    return [(deed.action, deed.by) for deed in found]
