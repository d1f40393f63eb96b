"""Every state of the staff's pages about incidents and refunds, from fixed values."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace as Values
from typing import Any
from uuid import UUID

from estation.payments import staff_words
from estation.payments.message_queries import MessageView
from estation.payments.queries import IncidentView
from estation.payments.refund_queries import RefundableView, RefundView
from estation.payments.refund_rules import Deed, Share
from estation.payments.rules import ClaimEnd, IncidentState, RefundCause, RefundSource, RefundState
from estation.payments.staff_pages import incidents as incident_pages
from estation.payments.staff_pages import refunds as refund_pages
from estation.payments.staff_queries import IncidentPage, Moment, Story
from tests.browser.gallery import BILL, NOW, ORDER, PAYEES, State

OFFICER = Values(staff_id=BILL, name="何敏", role="finance_checker")
ME = "何敏（财务复核）"
NUMBER = "20260506ABCDEFGHJKMNPQRS"
TRADE_NO = "4200002026050612345678901234"
ACCOUNT = "wechat_pay:1900000109"
PAYEE_NAMES = {payee.code: payee.name for payee in PAYEES}


def incident(kind: str, amount_fen: int, **more: Any) -> IncidentView:
    values: dict[str, Any] = {
        "id": UUID(int=len(kind)),
        "kind": kind,
        "state": IncidentState.OPEN,
        "owner": "finance",
        "channel": "wechat_pay",
        "account_id": ACCOUNT,
        "out_trade_no": NUMBER,
        "channel_trade_no": TRADE_NO,
        "amount_fen": amount_fen,
        "order_id": ORDER,
        "evidence": {"report": {"paid_fen": amount_fen}, "plaintext": {"trade_state": "SUCCESS"}},
        "opened_at": NOW - timedelta(hours=5),
        "due_at": NOW + timedelta(hours=19),
        "resolved_at": None,
        "resolved_by": "",
        "resolution": "",
        "assigned_to": "",
    }
    return IncidentView(**{**values, **more})


LATE = incident("paid_after_close", 825524, assigned_to="钱立（财务经办）")
OVERDUE = incident(
    "wrong_amount", 825525, opened_at=NOW - timedelta(days=3), due_at=NOW - timedelta(days=2)
)
BROKEN = incident(
    "invariant_the_bills_of_a_paid_order_are_paid",
    0,
    channel="",
    account_id="",
    out_trade_no="",
    channel_trade_no=None,
    order_id=None,
    owner="operator",
    evidence={
        "rows": [f"JC2026050600{n:02d}" for n in range(12)],
        "total": 12,
        "runbook": "config/runbooks/invariant_the_bills_of_a_paid_order_are_paid.md",
    },
)
DONE = incident(
    "double_payment",
    825524,
    state=IncidentState.RESOLVED,
    resolved_at=NOW,
    resolved_by="system",
    resolution="refunded",
)


def refund(state: RefundState, **more: Any) -> RefundView:
    values: dict[str, Any] = {
        "id": UUID(int=7),
        "refund_no": "20260506RRRRRRRRRRRRRRRR",
        "request_id": UUID(int=8),
        "cause": RefundCause.STAFF,
        "state": state,
        "taken_from": RefundSource.PAYMENT,
        "channel": "wechat_pay",
        "account_id": ACCOUNT,
        "out_trade_no": NUMBER,
        "channel_trade_no": TRADE_NO,
        "arrival_id": BILL,
        "order_id": ORDER,
        "amount_fen": 8000,
        "total_fen": 825524,
        "reason": "登记费多缴，按江城市不动产登记中心核定退还",
        "asked_by": "钱立（财务经办）",
        "asked_by_id": None,
        "asked_at": NOW - timedelta(hours=1),
        "decided_by": "",
        "decided_at": None,
        "decision_note": "",
        "channel_refund_no": None,
        "received_account": "",
        "tries": 0,
        "next_try_at": None,
        "last_error": "",
        "ended_at": None,
        "shares": [Share(BILL, "non_tax", 8000)],
    }
    return RefundView(**{**values, **more})


SUCCEEDED = refund(
    RefundState.SUCCEEDED,
    decided_by="罗建平（财务复核）",
    decided_at=NOW,
    ended_at=NOW,
    tries=2,
    received_account="招商银行信用卡0403",
    channel_refund_no="50302026050600000000000000001",
)
ABNORMAL = refund(
    RefundState.ABNORMAL, cause=RefundCause.DOUBLE_PAYMENT, asked_by="system", tries=5
)

STORY = Story(
    order_id=ORDER,
    order_no="20260506ORDERNUMBER00001",
    order_state="closed",
    order_fen=825524,
    transfers=[
        Values(
            id=UUID("0196a3b4-0000-7000-8000-00000000000a"),
            kind="suspense",
            channel_no=TRADE_NO,
            occurred_at=NOW,
            posted_at=NOW,
            legs=[
                (f"channel_clearing:{ACCOUNT}", 825524, 0),
                (f"suspense:{ACCOUNT}", 0, 825524),
            ],
        )
    ],
    timeline=[
        Moment(NOW - timedelta(minutes=9), "发起支付", f"wechat_pay native {NUMBER}"),
        Moment(NOW - timedelta(minutes=8), "渠道答复", f"wechat_pay native {NUMBER} → 未支付"),
        Moment(NOW, "收到通知", "wechat_pay TRANSACTION.SUCCESS"),
        Moment(NOW, "由我处理", "钱立（财务经办）"),
    ],
    numbers=[NUMBER],
)
NO_STORY = Story(None, "", "", None, [], [Moment(NOW, "事件登记", "自检")], [])
MESSAGE = MessageView(
    at=NOW,
    channel="wechat_pay",
    kind="TRANSACTION.SUCCESS",
    outcome="paid_after_close",
    raw="content-type: application/json\nwechatpay-serial: PUB_KEY_ID_0119000001092026\n\n"
    '{\n  "event_type": "TRANSACTION.SUCCESS"\n}',
    said='{\n  "payer": {\n    "openid": "oUp…S6o"\n  }\n}',
)


def list_page(rows: list[IncidentView]) -> State:
    return "staff/incidents.html", {
        "viewer": OFFICER,
        "found": IncidentPage(rows, len(rows) + 50, sum(r.amount_fen for r in rows), 1, 2),
        "chosen": {
            "state": "open", "kind": "", "owner": "", "mine": "", "overdue": "", "sort": "due",
        },
        "kinds": sorted({row.kind for row in rows}),
        "escalated": {OVERDUE.id},
        "now": NOW,
        "words": staff_words,
        "owners": incident_pages.OWNERS,
        "mine": incident_pages.MINE,
        "overdue": incident_pages.OVERDUE,
    }  # fmt: skip


NOBODYS = dict.fromkeys(
    ("incident", "ending", "wish", "outside", "claim", "by_hand", "redirecting"), False
)


def incident_page(shown: IncidentView, *deeds: Deed, **more: Any) -> State:
    return "staff/incident.html", {
        "viewer": OFFICER,
        "incident": shown,
        "story": STORY if shown.out_trade_no else NO_STORY,
        "evidence": '{\n  "trade_state": "SUCCESS"\n}',
        "messages": [MESSAGE, replace(MESSAGE, raw="")] if shown.out_trade_no else [],
        "deeds": deeds,
        "refundable": None,
        "suspense_fen": 0,
        "outside": None,
        "claim": None,
        "ends_by_two": False,
        "ending": None,
        "redirecting": None,
        "is_mine": NOBODYS,
        "refunds": [],
        "wish": None,
        "may_check": True,
        "problem": "",
        "typed": dict.fromkeys(incident_pages.TYPED, ""),
        "now": NOW,
        "today": NOW.date(),
        "words": staff_words,
        **more,
    }


def refund_page(refunds: list[RefundView], **more: Any) -> State:
    return "staff/refund.html", {
        "viewer": OFFICER,
        "refunds": refunds,
        "total_fen": sum(one.amount_fen for one in refunds),
        "incidents": [LATE],
        "order": Values(order_no="20260506ORDERNUMBER00001"),
        "payees": PAYEE_NAMES,
        "is_mine": False,
        "may_check": False,
        "problem": "",
        "note": "",
        "words": staff_words,
        **more,
    }


def new_page(**more: Any) -> State:
    return "staff/refund_new.html", {
        "viewer": OFFICER,
        "order_no": "",
        "order": None,
        "left": [],
        "left_fen": 0,
        "payees": PAYEE_NAMES,
        "problem": "",
        "typed": {"amount": "", "reason": ""},
        "words": staff_words,
        **more,
    }


LEFT = RefundableView(
    arrival_id=BILL,
    account_id=ACCOUNT,
    out_trade_no=NUMBER,
    channel_trade_no=TRADE_NO,
    paid_at=NOW,
    amount_fen=825524,
    refundable_fen=825524,
    left=[Share(BILL, "treasury", 817524), Share(BILL, "non_tax", 8000)],
    suspense_fen=825524,
)
EVERY_DEED = (
    Deed.TAKE, Deed.ASK_CHANNEL, Deed.REFUND, Deed.APPLY, Deed.SETTLE_OUTSIDE, Deed.RESOLVE,
)  # fmt: skip
OUTSIDE = Values(
    asked_by="钱立（财务经办）",
    asked_at=NOW,
    amount_fen=825524,
    reason="付款人银行卡已注销，由基本户转账退还",
    document_no="江财支〔2026〕118号",
)
REDIRECTED = incident("refund_abnormal", 8000)


OVERPAID = incident("refund_overpaid", 8000)
CONTRADICTED = incident("contradicting_news", 825524)
WRITTEN_OFF = Values(
    asked_by="钱立（财务经办）", asked_at=NOW, amount_fen=3000, kind=ClaimEnd.WRITTEN_OFF
)


def claim(wish: Values | None = None, *, refund_no: str = "") -> Values:
    words = "核销 ¥ 30.00，江财决〔2026〕9号，追索一年未果" if wish else ""
    return Values(claim_fen=8000, wish=wish, words=words, refund_no=refund_no)


def redirecting(word: str, *, is_abnormal: bool = True, by_hand: Values | None = None) -> Values:
    return Values(
        is_abnormal=is_abnormal, word=word, by="钱立（财务经办）", at=NOW, by_hand=by_hand
    )


def by_hand(word: str) -> Values:
    return redirecting(
        "ordered",
        is_abnormal=False,
        by_hand=Values(word=word, by="钱立（财务经办）", at=NOW, document_no="回单 2026050612"),
    )


STAFF_PAGES: dict[str, State] = {
    "staff-incidents": list_page([LATE, OVERDUE, BROKEN, DONE]),
    "staff-incidents-none": list_page([]),
    "staff-incident": incident_page(LATE, *EVERY_DEED, refundable=LEFT, refunds=[ABNORMAL]),
    "staff-incident-wish": incident_page(
        LATE, *EVERY_DEED, wish=Values(by="钱立（财务经办）", at=NOW)
    ),
    "staff-incident-refused": incident_page(
        OVERDUE,
        *EVERY_DEED,
        refundable=LEFT,
        problem="可退金额已变化，请核对新的可退金额后再提交。（现可退 ¥ 8,255.24）",
        typed={**dict.fromkeys(incident_pages.TYPED, ""), "amount": "1.00", "reason": "多付"},
    ),
    "staff-incident-money-here": incident_page(
        OVERDUE,
        *EVERY_DEED,
        refundable=LEFT,
        suspense_fen=825524,
        problem="这条异常还有 ¥ 8,255.24 在挂账，不能只凭文字办结；"
        "请先退款、转入账单，或由两人办理线下处理。",
    ),
    "staff-incident-outside": incident_page(
        OVERDUE, *EVERY_DEED, refundable=LEFT, suspense_fen=825524, outside=OUTSIDE
    ),
    "staff-incident-outside-mine": incident_page(
        OVERDUE,
        *EVERY_DEED,
        refundable=LEFT,
        suspense_fen=825524,
        outside=OUTSIDE,
        is_mine={**NOBODYS, "outside": True},
    ),
    "staff-incident-redirect": incident_page(
        REDIRECTED, Deed.TAKE, Deed.REDIRECT_REFUND, Deed.RESOLVE, redirecting=redirecting("")
    ),
    "staff-incident-redirect-asked": incident_page(
        REDIRECTED, Deed.TAKE, Deed.REDIRECT_REFUND, Deed.RESOLVE, redirecting=redirecting("asked")
    ),
    "staff-incident-redirect-again": incident_page(
        REDIRECTED,
        Deed.TAKE,
        Deed.REDIRECT_REFUND,
        Deed.RESOLVE,
        redirecting=redirecting("ordered"),
    ),
    "staff-incident-by-hand": incident_page(
        REDIRECTED, Deed.TAKE, Deed.REDIRECT_REFUND, redirecting=by_hand("")
    ),
    "staff-incident-by-hand-asked": incident_page(
        REDIRECTED, Deed.TAKE, Deed.REDIRECT_REFUND, redirecting=by_hand("asked")
    ),
    "staff-incident-claim": incident_page(
        OVERPAID, Deed.TAKE, Deed.END_CLAIM, Deed.RESOLVE, claim=claim()
    ),
    "staff-incident-claim-under-way": incident_page(
        OVERPAID,
        Deed.TAKE,
        Deed.END_CLAIM,
        Deed.RESOLVE,
        claim=claim(refund_no="20260506RRRRRRRRRRRRRRRR"),
    ),
    "staff-incident-claim-asked": incident_page(
        OVERPAID, Deed.TAKE, Deed.END_CLAIM, Deed.RESOLVE, claim=claim(WRITTEN_OFF)
    ),
    "staff-incident-two": incident_page(
        CONTRADICTED, Deed.TAKE, Deed.RESOLVE, ends_by_two=True
    ),
    "staff-incident-two-asked": incident_page(
        CONTRADICTED,
        Deed.TAKE,
        Deed.RESOLVE,
        ends_by_two=True,
        ending=Values(by="钱立（财务经办）", at=NOW, note="渠道更正了通知，钱没有到账"),
    ),
    "staff-incident-invariant": incident_page(BROKEN, Deed.TAKE, Deed.RESOLVE),
    "staff-incident-done": incident_page(DONE, refunds=[SUCCEEDED]),
    "staff-refunds": (
        "staff/refunds.html",
        {
            "viewer": OFFICER,
            "found": Values(
                rows=[refund(RefundState.ASKED), SUCCEEDED, ABNORMAL],
                total=3, total_fen=24000, page=1, pages=1,
            ),
            "state": "all",
            "states": {name: refund_pages._state_word(name) for name in refund_pages.STATES},
            "waiting": 1,
            "may_ask": True,
            "words": staff_words,
        },
    ),
    "staff-refund-check": refund_page([refund(RefundState.ASKED)], may_check=True),
    "staff-refund-mine": refund_page(
        [refund(RefundState.ASKED, asked_by=ME)], may_check=True, is_mine=True
    ),
    "staff-refund-done": refund_page([SUCCEEDED]),
    "staff-refund-new": new_page(),
    "staff-refund-new-order": new_page(
        order_no="20260506ORDERNUMBER00001",
        order=Values(
            order_no="20260506ORDERNUMBER00001", amount_fen=825524, state="paid", paid_at=NOW
        ),
        left=[LEFT],
        left_fen=825524,
    ),
    "staff-refund-new-unknown": new_page(order_no="X1", problem="没有找到这笔缴费订单。"),
}  # fmt: skip
