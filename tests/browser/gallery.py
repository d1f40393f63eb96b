"""Every state of every citizen page, rendered from fixed values: one address per state.

`python -m tests.browser.serving 8300` serves it for looking at.
"""

import json
from datetime import date, datetime, timedelta
from types import SimpleNamespace as Values
from typing import Any
from uuid import UUID

from sanic import HTTPResponse, Request, Sanic
from sanic.response import empty

from estation.ledger.api import HeadView
from estation.outside.gate.age import CopyAge, LateSource
from estation.outside.pay_channels import Channel, Scene
from estation.payments.api import (
    CitizenRefund,
    CloseReason,
    IncidentKind,
    OrderState,
    PayersRefund,
    RefundCause,
    SettledOutside,
)
from estation.payments.pages.history import (
    ENDED_WITHOUT_MONEY,
    HistoryRow,
    ToldMoney,
    ending_of,
    headline_of,
    told_refund,
)
from estation.payments.pages.tellings import (
    FULLY_REFUNDED,
    PARTLY_REFUNDED,
    SETTLED_OUTSIDE,
    TELLINGS,
    standing,
    tellings_of,
)
from estation.payments.pages.timeline import steps_of
from estation.payments.pages.verify import Verified
from estation.payments.pages.views import (
    ATTEMPT_NAMES,
    WALLETS,
    Deadline,
    deadline_of,
    payee_groups,
    payee_sums,
    stands_in,
    wallet_choices,
)
from estation.settings import Hall, Payee
from estation.shared.clock import BEIJING
from estation.shared.money import capital_yuan
from estation.shared.pages import H5, render
from estation.shared.qr import qr_svg

NOW = datetime(2026, 5, 6, 14, 17, 20, tzinfo=BEIJING)
BILL = UUID("0196a3b4-0000-7000-8000-000000000001")
ORDER = UUID("0196a3b4-0000-7000-8000-000000000002")
DESKTOP = "Mozilla/5.0 (X11; Linux x86_64) Chrome/148.0"
PHONE = "Mozilla/5.0 (Linux; Android 14) Chrome/148.0 Mobile"
WECHAT = PHONE + " MicroMessenger/8.0.50"
LONG_NAME = "阿卜杜热合曼·买买提吐尔逊·伊敏尼亚孜"
LONG_ADDRESS = (
    "江城市滨江区沿江大道中段2018号滨江壹号花园（三期）北苑12幢2单元3301室及地下一层B-117号车位"
)

PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----"""

State = tuple[str, dict[str, Any]]
"""A template and its values."""

PAYEES = [
    Payee(
        code="treasury",
        name="国家金库江城市中心支库（税务）",
        kind="treasury",
        receipt_title="税费缴纳凭据",
    ),
    Payee(
        code="non_tax",
        name="江城市财政非税收入专户（不动产登记费）",
        kind="non_tax",
        receipt_title="不动产登记费缴纳凭据",
    ),
    Payee(
        code="maintenance_fund",
        name="江城市住宅专项维修资金专户",
        kind="maintenance_fund",
        receipt_title="维修资金交存凭据",
    ),
]


def item(name: str, payee: str, amount: int, **more: Any) -> Values:
    return Values(
        **{
            "name": name,
            "payee_code": payee,
            "amount_fen": amount,
            "base_fen": None,
            "rate": "",
            "relief_fen": 0,
            "formula": "",
            "legal_basis": "",
            "note": "",
            **more,
        }
    )


FEW = [
    item(
        "契税",
        "treasury",
        809524,
        base_fen=80952381,
        rate="0.01",
        formula="计税依据 809,523.81 元 × 税率 1%",
        legal_basis="财政部 税务总局 住房城乡建设部公告2024年第16号",
        note="家庭唯一住房，面积不超过 140 平方米",
    ),
    item(
        "印花税（买方）",
        "treasury",
        0,
        formula="个人购买住房暂免征收",
        legal_basis="财税〔2008〕137号",
    ),
    item(
        "不动产登记费",
        "non_tax",
        8000,
        rate="80元/件",
        formula="住宅每件 80 元，首本证书不另收工本费",
        legal_basis="发改价格规〔2016〕2559号；财税〔2016〕79号",
    ),
]

MANY = [
    *FEW,
    item(
        "增值税",
        "treasury",
        4761905,
        base_fen=95238095,
        rate="0.05",
        formula="含税价 1,000,000.00 元 ÷ (1 + 5%) × 5%",
        legal_basis="财税〔2016〕36号附件3第五条",
    ),
    item(
        "城市维护建设税",
        "treasury",
        166667,
        base_fen=4761905,
        rate="0.07",
        relief_fen=166666,
        formula="增值税 47,619.05 元 × 7%，减半",
        legal_basis="城市维护建设税法第四条；财政部 税务总局公告2023年第12号",
    ),
    item("教育费附加", "treasury", 71429, base_fen=4761905, rate="0.03", relief_fen=71428),
    item("地方教育附加", "treasury", 47619, base_fen=4761905, rate="0.02", relief_fen=47619),
    item(
        "个人所得税",
        "treasury",
        952381,
        base_fen=95238095,
        rate="0.01",
        formula="不含税价 952,380.95 元 × 核定征收率 1%",
        legal_basis="国税发〔2006〕108号",
        note="核定征收",
    ),
    item("土地增值税", "treasury", 0, formula="个人销售住房暂免征收"),
    item("车位登记费", "non_tax", 8000, rate="80元/件"),
    item("证书工本费", "non_tax", 1000, rate="10元/本", formula="增发一本"),
    item(
        "住宅专项维修资金（有电梯高层住宅首次交存）",
        "maintenance_fund",
        1668000,
        base_fen=None,
        rate="120元/㎡",
        formula="建筑面积 139.00 平方米 × 120.00 元",
        legal_basis="住宅专项维修资金管理办法（建设部 财政部令第165号）第七条",
    ),
]

VIEWER = Values(person_id=BILL, staff_id=None, role=None, name="林晓舟", session_id=BILL)


def bill(items: list[Values], **more: Any) -> Values:
    return Values(
        **{
            "id": BILL,
            "bill_no": "JC202605060001",
            "title": "存量房转移登记税费",
            "state": "payable",
            "status_kind": "due",
            "status_word": "待缴",
            "total_fen": sum(one.amount_fen for one in items),
            "version": 1,
            "issued_at": NOW - timedelta(days=1),
            "due_on": date(2026, 5, 20),
            "paid_at": None,
            "note": "请在 5 月 20 日前缴清",
            **more,
        }
    )


def splits(items: list[Values]) -> list[Values]:
    sums: dict[str, int] = {}
    for one in items:
        sums[one.payee_code] = sums.get(one.payee_code, 0) + one.amount_fen
    names = {payee.code: payee.name for payee in PAYEES}
    return [
        Values(
            payee_code=code,
            payee_name=names[code],
            bill_id=BILL,
            amount_fen=fen,
            receipt_no=f"R20260506{index:016d}",
        )
        for index, (code, fen) in enumerate(sums.items(), 1)
        if fen
    ]


def attempt(channel: Channel, scene: Scene, **more: Any) -> Values:
    return Values(
        **{
            "id": BILL,
            "channel": channel,
            "scene": scene,
            "state": "open",
            "out_trade_no": "202605069K2MZX4QWB7D3FTH",
            "amount_fen": 817524,
            "qr_content": None,
            "jsapi_parameters": None,
            "redirect_url": None,
            "channel_trade_no": None,
            "paid_at": None,
            **more,
        }
    )


NATIVE = attempt(
    Channel.WECHAT_PAY, Scene.NATIVE, qr_content="weixin://wxpay/bizpayurl?pr=9xFPmlUzz"
)
PAID = attempt(
    Channel.WECHAT_PAY, Scene.NATIVE, state="paid", channel_trade_no="4200002026050612345678901234"
)


def order(items: list[Values] = FEW, **more: Any) -> Values:
    total = sum(one.amount_fen for one in items)
    return Values(
        **{
            "id": ORDER,
            "order_no": "20260506QWB7D3FTH9K2MZX4",
            "state": OrderState.OPEN,
            "amount_fen": total,
            "created_at": NOW,
            "expires_at": NOW + timedelta(minutes=13, seconds=20),
            "paid_at": None,
            "closed_at": None,
            "applied_at": None,
            "close_reason": "",
            "splits": splits(items),
            "bills": [Values(title="存量房转移登记税费", amount_fen=total, bill_id=BILL)],
            "live_attempt": None,
            "paid_attempt": None,
            **more,
        }
    )


def pay_page(the_order: Values, user_agent: str = DESKTOP, **more: Any) -> State:
    live = the_order.live_attempt
    return "payments/pay.html", {
        "viewer": VIEWER,
        **as_of(),
        "order": the_order,
        "base": f"/pay/{the_order.id}",
        "holder": None,
        "is_for_us": True,
        "ticket_is_over": False,
        "attempt": the_order.live_attempt,
        "attempt_name": ATTEMPT_NAMES[live.scene] if live else "",
        "wallet_name": WALLETS[live.channel] if live else "",
        "qr_svg": qr_svg(live.qr_content, "微信付款码") if live and live.qr_content else "",
        "jsapi_json": json.dumps(live.jsapi_parameters) if live else "",
        "choices": [
            choice
            for choice in wallet_choices(user_agent, has_openid=True)
            if not live or (choice.channel, choice.scene) != (live.channel, live.scene)
        ],
        "groups": payee_sums(the_order.splits),
        "deadline": deadline_of(the_order.expires_at, now=NOW),
        "back_href": f"/fees/{BILL}",
        "status_words": "等待付款，付款成功后本页会自动更新",
        "status_code": "waiting",
        "problem": "",
        "told": "",
        **more,
    }


HALL = Hall(name="江城市不动产登记大厅缴费窗口", phone="12345", hours="工作日 9:00–17:00")

IN_PROGRESS = Values(
    id=ORDER, amount_fen=817524, deadline=Deadline(NOW + timedelta(seconds=800), 800)
)
OVERDUE = Values(id=ORDER, amount_fen=817524, deadline=Deadline(NOW, 0))


def refund(state: PayersRefund, **more: Any) -> CitizenRefund:
    values: dict[str, Any] = {
        "refund_no": "TK20260507QWB7D3FTH9K2M",
        "state": state,
        "cause": RefundCause.STAFF,
        "amount_fen": 8_000,
        "reason": "登记费多收退还",
        "channel": Channel.WECHAT_PAY,
        "at": NOW + timedelta(days=1),
        "received_account": "招商银行信用卡0403" if state == "refunded" else "",
        "is_of_payment": True,
    }
    return CitizenRefund(**{**values, **more})


def ended_page(
    the_order: Values,
    *refunds: CitizenRefund,
    aside: IncidentKind | None = None,
    settled: SettledOutside | None = None,
    **more: Any,
) -> State:
    telling = standing(
        OrderState(the_order.state),
        the_order.close_reason,
        the_order.amount_fen,
        refunds,
        is_settled_outside=settled is not None,
    )
    words = tellings_of(refunds, is_settled_outside=settled is not None)
    if aside and the_order.state == "closed":
        telling = TELLINGS[aside]
    own = TELLINGS[aside] if aside else None
    money: Any = Values(kind=aside, amount_fen=817_500, opened_at=NOW)
    shown: Any = the_order
    return "payments/ended.html", {
        "viewer": VIEWER,
        **as_of(),
        "order": the_order,
        "telling": telling,
        "ending": ending_of(shown, telling),
        "headline": headline_of(shown, telling, refunds, [money] if aside else [], settled),
        "refunds": [told_refund(one, its) for one, its in zip(refunds, words, strict=True)],
        "settled": settled,
        "settled_telling": TELLINGS[SETTLED_OUTSIDE],
        "aside": [ToldMoney(money, None if own is telling else own)] if aside else [],
        "groups": payee_sums(the_order.splits),
        "steps": steps_of(shown, refunds, words),
        "wallet_name": "微信" if the_order.state == "paid" else "",
        "back_href": f"/fees/{BILL}",
        "is_payable_again": telling in ENDED_WITHOUT_MONEY,
        "problem": "",
        "hall": HALL,
        **more,
    }


def closed(reason: str) -> Values:
    return order(state=OrderState.CLOSED, close_reason=reason, closed_at=NOW)


def paid_order(items: list[Values] = FEW) -> Values:
    return order(items, state=OrderState.PAID, paid_at=NOW, applied_at=NOW, paid_attempt=PAID)


OUTSIDE = SettledOutside(817_500, NOW + timedelta(days=3), True)


def ended_states() -> dict[str, State]:
    """Each way an order can end, each state of a refund, and the mixtures that occur."""
    late = {"cause": RefundCause.PAID_LATE, "amount_fen": 817_524, "is_of_payment": False}
    twice = {**late, "cause": RefundCause.DOUBLE_PAYMENT, "reason": "重复支付，原路退回"}
    kinds = [*CloseReason, *(kind for kind in IncidentKind if kind in TELLINGS)]
    return {
        "pay-paid": ended_page(paid_order()),
        "pay-paid-many": ended_page(paid_order(MANY)),
        **{f"ended-{kind}".replace("_", "-"): ended_page(closed(kind)) for kind in kinds},
        **{
            f"refund-{state}".replace("_", "-"): ended_page(
                paid_order(), refund(state, cause=RefundCause.CENTRE)
            )
            for state in PayersRefund
        },
        "refund-all": ended_page(paid_order(), refund(PayersRefund.REFUNDED, amount_fen=817_524)),
        "refund-twice-paid": ended_page(paid_order(), refund(PayersRefund.REFUNDING, **twice)),
        "refund-late": ended_page(closed("expired"), refund(PayersRefund.REFUNDED, **late)),
        "refund-again": ended_page(
            paid_order(),
            refund(PayersRefund.NOT_REFUNDED),
            refund(PayersRefund.REFUNDED, received_account="支付宝余额"),
            refund(PayersRefund.ABNORMAL, cause=RefundCause.CENTRE),
        ),
        "ended-wrong-sum-later": ended_page(closed("expired"), aside=IncidentKind.WRONG_AMOUNT),
        "ended-settled-outside": ended_page(closed("wrong_amount"), settled=OUTSIDE),
        "ended-late-settled-outside": ended_page(
            closed("expired"), refund(PayersRefund.NOT_REFUNDED, **late), settled=OUTSIDE
        ),
        "paid-settled-outside-too": ended_page(paid_order(), settled=OUTSIDE),
        "paid-wrong-sum-too": ended_page(paid_order(), aside=IncidentKind.WRONG_AMOUNT),
    }


def history_rows() -> list[HistoryRow]:
    """Every word a line of the history can carry."""
    words = [
        OrderState.OPEN,
        OrderState.PAID,
        PARTLY_REFUNDED,
        FULLY_REFUNDED,
        *PayersRefund,
        *CloseReason,
        IncidentKind.WRONG_AMOUNT,
        SETTLED_OUTSIDE,
    ]
    return [
        HistoryRow(
            id=ORDER,
            title="新建商品房转移登记税费及首次住宅专项维修资金（含地下车位）、抵押权首次登记费"
            if turn % 3 == 1
            else "存量房转移登记税费",
            at=NOW - timedelta(days=turn),
            amount_fen=817_524,
            refunded_fen=8_000 if word == PARTLY_REFUNDED else 0,
            tone=TELLINGS[word].tone,
            word=TELLINGS[word].word,
        )
        for turn, word in enumerate(words)
    ]


def history_page(**more: Any) -> State:
    return "fees/history.html", {
        "viewer": VIEWER,
        "rows": history_rows(),
        "total": 23,
        "page": 2,
        "pages": 3,
        **more,
    }


def verify_page(refunded_fen: int | None = None, **more: Any) -> State:
    found = None
    if refunded_fen is not None:
        found = Verified(
            receipt_no="JC20260506QWB7D3FTH9K2MZX4-01",
            payee_name="国家金库江城市中心支库（税务）",
            payer_name="林**",
            amount_fen=809_524,
            refunded_fen=refunded_fen,
            paid_at=NOW,
        )
    return "payments/verify.html", {
        "viewer": None,
        "number": "JC20260506QWB7D3FTH9K2MZX4-01",
        "code": RECEIPT_CODE,
        "is_asked": True,
        "is_complete": True,
        "found": found,
        "hall": HALL,
        **more,
    }


RECEIPT_CODE = "7K2M-ZQ0V-9XCB-4T1D"

CODE_ADDRESS = "https://e.jiangcheng.gov.cn/c/JF202605060012-7K2MZQ0V9XCB4T1D"

HOLDER = Values(
    title="存量房转移登记税费",
    payer_name="林**",
    bill_no="JF202605060012",
    state="payable",
    version=1,
    total_fen=825_524,
    due_on=NOW.date(),
    groups=[group for group in payee_groups(FEW, PAYEES) if group.subtotal_fen],
)


def code_page(user_agent: str = DESKTOP, *, state: str = "payable", **more: Any) -> State:
    return "payments/code.html", {
        **as_of(),
        "viewer": None,
        "holder": Values(**{**vars(HOLDER), "state": state}),
        "base": "/c/JF202605060012-7K2MZQ0V9XCB4T1D",
        "choices": wallet_choices(user_agent, has_openid=True),
        "told": "",
        "problem": "",
        "ended": None,
        "hall": HALL,
        "qr_svg": qr_svg(CODE_ADDRESS, "缴费码") if stands_in(user_agent) == "elsewhere" else "",
        **more,
    }


def tickable() -> dict[str, Any]:
    """Two bills to tick and one that is being paid."""
    due = [
        bill(FEW),
        bill(MANY, id=ORDER, title="新建商品房转移登记税费及首次住宅专项维修资金（含地下车位）"),
        bill(FEW, id=UUID(int=3), title="抵押权首次登记费"),
    ]
    return {
        "due": due,
        "due_fen": sum(one.total_fen for one in due),
        "tickable": {BILL: f"{BILL}.1.825524", ORDER: f"{ORDER}.1.5000000"},
        "open_orders": [IN_PROGRESS],
    }


def bill_page(items: list[Values], **more: Any) -> State:
    shown = bill(items, **more.pop("bill", {}))
    return "fees/bill.html", {
        "viewer": VIEWER,
        "bill": shown,
        "status_kind": shown.status_kind,
        "status_word": shown.status_word,
        "groups": payee_groups(items, PAYEES),
        "payer_name": "林晓舟",
        "open_order": None,
        "paid_order": None,
        "given_back_fen": 0,
        "noted": None,
        "ended": None,
        "ended_order": None,
        "hall": HALL,
        "changed": "",
        **as_of(),
        **more,
    }


def as_of(*, stale: bool = False) -> dict[str, Any]:
    late = (LateSource("临江县不动产登记中心", NOW - timedelta(hours=3)),) if stale else ()
    lacking = ("江城市不动产登记中心",) if stale else ()
    return {"copy": CopyAge(NOW - timedelta(hours=3) if stale else NOW, late, lacking)}


def stages(*states: str) -> list[dict[str, Any]]:
    names = ("contract", "escrow", "loan", "tax", "registration")
    return [
        {"stage": name, "state": state, "at": NOW if state == "done" else None, "note": ""}
        for name, state in zip(names, states, strict=True)
    ]


def case(state: str = "open", **more: Any) -> Values:
    return Values(
        **{
            "id": BILL,
            "case_no": "202605060012",
            "matter": "RESALE_TRANSFER",
            "address": "江城市滨江区沿江大道18号3幢1单元1202室",
            "unit_code": "360102001001GB00012F00031202",
            "hall": "江城市不动产登记大厅（滨江）",
            "state": state,
            "stages": stages("done", "done", "not_required", "doing", "waiting"),
            "opened_at": NOW - timedelta(days=2),
            **more,
        }
    )


def login_page(**more: Any) -> State:
    return "identity/login.html", {
        "next": "/fees",
        "phone": "",
        "sent_to": "",
        "code_step": False,
        "errors": {},
        "problem": "",
        "in_wechat": False,
        "wechat_href": "/wechat/login?next=/fees",
        **more,
    }


def receipt_page(
    items: list[Values], payer_name: str = "林晓舟", *, refunded_fen: int = 0
) -> State:
    titles = {payee.code: payee.receipt_title for payee in PAYEES}
    paid = order(items, state=OrderState.PAID, paid_at=NOW, paid_attempt=PAID)
    return "payments/receipt.html", {
        "viewer": VIEWER,
        **as_of(),
        "order": paid,
        "payer_name": payer_name,
        "wallet_name": "微信",
        "refunded_fen": refunded_fen,
        "verify_address": "https://e.jiangcheng.gov.cn/verify",
        "papers": [
            (
                Values(
                    title=titles[split.payee_code],
                    receipt_no=split.receipt_no,
                    payee_name=split.payee_name,
                    bill_title="存量房转移登记税费",
                    bill_no="JC202605060001",
                    account="江城市国库税款专户（1900000111）",
                    out_trade_no="202605069K2MZX4QWB7D3FTH-01",
                    channel_trade_no="4200002026050612345678901234",
                    amount_fen=split.amount_fen,
                    capitals=capital_yuan(split.amount_fen),
                    code=RECEIPT_CODE,
                    refund_words="其中已退款 ¥ 80.00" if refunded_fen else "",
                    lines=[
                        one
                        for one in items
                        if one.payee_code == split.payee_code and one.amount_fen
                    ],
                ),
                qr_svg(
                    f"https://e.jiangcheng.gov.cn/verify#no={split.receipt_no}&code={RECEIPT_CODE}",
                    "核对凭据的二维码",
                ),
            )
            for split in paid.splits
        ],
    }


def home_page(**more: Any) -> State:
    return "fees/home.html", {
        "viewer": VIEWER,
        "citizen": "林晓舟",
        "open_orders": [],
        "due_count": 2,
        "due_fen": 1817524,
        "due_href": f"/fees/{BILL}",
        "cases": [case()],
        "more_cases": True,
        **as_of(),
        **more,
    }


def fees_page(**more: Any) -> State:
    due = [
        bill(FEW),
        bill(MANY, title="新建商品房转移登记税费及首次住宅专项维修资金（含地下车位）"),
    ]
    return "fees/list.html", {
        "viewer": VIEWER,
        "open_orders": [],
        "due": due,
        "due_fen": sum(one.total_fen for one in due),
        "tickable": {},
        "chosen": set(),
        "chosen_fen": 0,
        "problem": "",
        "most_bills": 20,
        "paid": [
            bill(
                FEW, state="paid", status_kind="good", status_word="已缴", note="2026-04-30 09:12"
            ),
            bill(
                FEW, state="withdrawn", status_kind="quiet", status_word="已撤回", note="请勿缴纳"
            ),
        ],
        **as_of(),
        **more,
    }


def _pages() -> dict[str, State]:
    jsapi = attempt(
        Channel.WECHAT_PAY,
        Scene.JSAPI,
        jsapi_parameters={"appId": "wx8888888888888888", "package": "prepay_id=wx2016"},
    )
    wap = attempt(Channel.ALIPAY, Scene.WAP, redirect_url="/alipay/gateway.do?x=1")
    h5 = attempt(Channel.WECHAT_PAY, Scene.H5, redirect_url="https://wx.tenpay.com/x?y=1")
    nobody: dict[str, Any] = {"viewer": None, "citizen": "", "due_count": 0, "cases": []}
    return {
        "home": home_page(),
        "home-anonymous": home_page(**nobody, copy=None),
        "home-open-order": home_page(open_orders=[IN_PROGRESS]),
        "home-nothing-due": home_page(due_count=0, due_fen=0, cases=[], citizen=LONG_NAME),
        "login": login_page(),
        "login-code": login_page(phone="13800000001", sent_to="138****0001"),
        "login-wrong-code": login_page(
            phone="13800000001", code_step=True, errors={"code": "验证码不正确，请重新填写。"}
        ),
        "login-wechat": login_page(in_wechat=True),
        "login-too-often": login_page(problem="操作过于频繁，请 60 秒后再试。"),
        "person": ("identity/person.html", {"next": "/fees", "errors": {}, "problem": ""}),
        "person-wrong": (
            "identity/person.html",
            {"next": "/fees", "errors": {"id_tail": "与登记信息不一致，请核对。"}, "problem": ""},
        ),
        "fees": fees_page(),
        "fees-empty": fees_page(due=[], due_fen=0, paid=[], **as_of(stale=True)),
        "bill": bill_page(FEW),
        "bill-many": bill_page(
            MANY,
            bill={"title": "新建商品房转移登记税费及首次住宅专项维修资金（含地下车位）"},
            payer_name=LONG_NAME,
        ),
        "bill-changed": bill_page(
            FEW, changed="开单部门刚刚修改了这张账单，请核对新的金额 ¥ 8,175.24 后再付款。"
        ),
        "bill-open-order": bill_page(FEW, open_order=IN_PROGRESS),
        "bill-paid": bill_page(
            FEW,
            bill={"state": "paid", "status_kind": "good", "status_word": "已缴", "paid_at": NOW},
            paid_order=order(),
        ),
        "bill-paid-and-revised": bill_page(
            FEW,
            bill={"state": "paid", "status_kind": "good", "status_word": "已缴", "paid_at": NOW},
            paid_order=order(),
            noted=Values(state="payable", total_fen=708_000, is_another_payers=False),
        ),
        "bill-paid-and-withdrawn": bill_page(
            FEW,
            bill={"state": "paid", "status_kind": "good", "status_word": "已缴", "paid_at": NOW},
            paid_order=order(),
            noted=Values(state="withdrawn", total_fen=708_000, is_another_payers=False),
        ),
        "bill-time-is-over": bill_page(FEW, open_order=OVERDUE),
        "bill-ended": bill_page(
            FEW, ended=TELLINGS[CloseReason.EXPIRED], ended_order=Values(id=ORDER)
        ),
        "bill-in-review": bill_page(
            FEW, ended=TELLINGS[IncidentKind.WRONG_AMOUNT], ended_order=Values(id=ORDER)
        ),
        "bill-partly-refunded": bill_page(
            FEW,
            bill={"state": "paid", "status_kind": "good", "status_word": "已缴", "paid_at": NOW},
            paid_order=order(),
            given_back_fen=8_000,
        ),
        "bill-refunded": bill_page(
            FEW,
            bill={"state": "refunded", "status_kind": "quiet", "status_word": "已退款"},
            paid_order=order(),
            given_back_fen=817_524,
        ),
        "bill-due-again": bill_page(FEW, paid_order=order(), given_back_fen=817_524),
        "bill-withdrawn": bill_page(
            FEW, bill={"state": "withdrawn", "status_kind": "quiet", "status_word": "已撤回"}
        ),
        "pay-choose": pay_page(order()),
        "pay-choose-phone": pay_page(order(MANY), PHONE),
        "pay-choose-wechat": pay_page(order(), WECHAT),
        "pay-qr": pay_page(order(live_attempt=NATIVE)),
        "pay-qr-told": pay_page(
            order(live_attempt=NATIVE),
            told="这笔费用已有一次进行中的付款，请在这里继续，不会重复扣款。",
        ),
        "pay-jsapi": pay_page(order(live_attempt=jsapi), WECHAT),
        "pay-wap": pay_page(order(live_attempt=wap), PHONE),
        "pay-opening": pay_page(
            order(live_attempt=attempt(Channel.WECHAT_PAY, Scene.NATIVE, state="opening"))
        ),
        "pay-problem": pay_page(
            order(live_attempt=NATIVE),
            problem="上一个付款码正在使用中，暂时不能更换或取消，请稍候再试。",
        ),
        "pay-time-is-over": pay_page(order(live_attempt=NATIVE, expires_at=NOW)),
        **ended_states(),
        "history": history_page(),
        "history-empty": history_page(rows=[], total=0, page=1, pages=1),
        "verify": verify_page(number="", code="", is_asked=False, is_complete=False),
        "verify-incomplete": verify_page(code="", is_complete=False),
        "verify-unknown": verify_page(),
        "verify-valid": verify_page(0),
        "verify-partly-refunded": verify_page(8_000),
        "verify-refunded": verify_page(809_524),
        "pay-h5": pay_page(order(live_attempt=h5), PHONE),
        "pay-h5-over": pay_page(order(live_attempt=h5), PHONE, ticket_is_over=True),
        "pay-together": pay_page(
            order(
                live_attempt=NATIVE,
                bills=[
                    Values(title="存量房转移登记税费", amount_fen=817524, bill_id=BILL),
                    Values(
                        title="新建商品房转移登记税费及首次住宅专项维修资金（含地下车位）",
                        amount_fen=5_000_000,
                        bill_id=BILL,
                    ),
                ],
            )
        ),
        "pay-by-code": pay_page(order(live_attempt=NATIVE), viewer=None, holder=HOLDER),
        "pay-by-code-others": pay_page(
            order(live_attempt=jsapi), WECHAT, viewer=None, holder=HOLDER, is_for_us=False
        ),
        "code": code_page(),
        "code-phone": code_page(PHONE),
        "code-ended": code_page(ended=TELLINGS[IncidentKind.WRONG_AMOUNT]),
        "code-changed": code_page(problem="缴费单刚刚有更新，请核对新的金额后再缴。"),
        "code-paid": code_page(state="paid"),
        "code-paid-twice": code_page(state="paid", ended=TELLINGS[IncidentKind.DOUBLE_PAYMENT]),
        "code-withdrawn": code_page(state="withdrawn"),
        "code-refunded": code_page(state="refunded"),
        "own-code": (
            "payments/own_code.html",
            {
                **as_of(),
                "viewer": VIEWER,
                "bill": bill(FEW),
                "payer_name": LONG_NAME,
                "address": CODE_ADDRESS,
                "qr_svg": qr_svg(CODE_ADDRESS, "缴费码"),
            },
        ),
        "fees-together": fees_page(**tickable()),
        "fees-together-changed": fees_page(
            **tickable(),
            chosen={BILL},
            chosen_fen=825_525,
            problem="缴费单刚刚有更新，请核对新的金额后再缴。",
        ),
        "receipt": receipt_page(FEW),
        "receipt-partly-refunded": receipt_page(FEW, refunded_fen=8_000),
        "receipt-refunded": receipt_page(FEW, refunded_fen=817_524),
        "receipt-many": receipt_page(MANY, LONG_NAME),
        "cases": (
            "cases/list.html",
            {
                "viewer": VIEWER,
                "cases": [
                    case(),
                    case("closed", address=LONG_ADDRESS, matter="NEW_HOME_TRANSFER"),
                    case("withdrawn", matter="MORTGAGE_CANCEL"),
                ],
                **as_of(),
            },
        ),
        "cases-empty": ("cases/list.html", {"viewer": VIEWER, "cases": [], **as_of()}),
        "case": case_page(case()),
        "case-returned": case_page(
            case(
                address=LONG_ADDRESS,
                stages=[
                    *stages("done", "doing", "waiting", "waiting", "waiting")[:3],
                    {
                        "stage": "tax",
                        "state": "returned",
                        "at": NOW,
                        "note": "婚姻信息与民政部门不一致，请补正",
                    },
                    {"stage": "registration", "state": "waiting", "at": None, "note": ""},
                ],
            ),
            next_words="纳税环节退回补正：婚姻信息与民政部门不一致，请补正。",
        ),
        "ledger-heads": ("ledger/heads.html", {"heads": ledger_heads(), "keys": [PUBLIC_KEY]}),
        "ledger-heads-empty": ("ledger/heads.html", {"heads": [], "keys": [PUBLIC_KEY]}),
        "refusal": (
            "shared/refusal.html",
            {
                "title": "暂时无法办理",
                "message": "没有找到这张账单。",
                "code": "bill_not_found",
                "wait_seconds": None,
            },
        ),
        "refusal-too-often": (
            "shared/refusal.html",
            {
                "title": "暂时无法办理",
                "message": "操作过于频繁，请稍后再试。",
                "code": "too_many_requests",
                "wait_seconds": 42,
            },
        ),
        "trouble": (
            "shared/refusal.html",
            {
                "title": "暂时无法办理",
                "message": "系统出了点问题，请稍后重试。",
                "code": "internal_error",
                "wait_seconds": None,
            },
        ),
    }


def ledger_heads() -> list[HeadView]:
    return [
        HeadView(
            day=date(2026, 5, day),
            book="360101",
            height=17_280 * day,
            digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            transfers=1_204_331 + day,
            debit_fen=98_765_432_101_234,
            published_at=NOW,
            key_id="4f1d0c55ad015a3b",
            signature="a3" * 64,
        )
        for day in (6, 5)
    ]


def case_page(the_case: Values, **more: Any) -> State:
    return "cases/case.html", {
        "viewer": VIEWER,
        "case": the_case,
        "my_roles": "买方",
        "parties": [("卖方", "周*国"), ("抵押权人", "江城市商业银行股份有限公司")],
        "next_words": "请买卖双方各自缴清税费，全部完税后进入登记。",
        "needs_payment": True,
        **as_of(),
        **more,
    }


PAGES = _pages()


def create_gallery(more: dict[str, State] | None = None) -> Sanic[Any, Any]:
    """A small program: `/` lists the states, `/<state>` shows one (cookie large_print=1)."""
    app: Sanic[Any, Any] = Sanic("gallery", configure_logging=False)
    app.ctx.settings = Values(city_name="江城市", bureau_name="江城市不动产登记中心")
    app.static("/static", H5 / "dist", name="static")

    async def show(request: Request[Any, Any], state: str) -> HTTPResponse:
        template, values = every[state]
        values = dict(values)
        request.ctx.viewer = values.pop("viewer", None)
        request.ctx.csrf_token = "gallery"
        return render(request, template, **values)

    async def status(request: Request[Any, Any], order_id: UUID) -> HTTPResponse:
        asked.append(1)
        return empty(headers={"hx-redirect": "/pay-paid"} if len(asked) % 3 == 0 else {})

    asked: list[int] = []
    every = {**PAGES, **(more or {})}

    async def linked(request: Request[Any, Any]) -> HTTPResponse:
        return empty()

    app.add_route(show, "/<state:str>")
    for number, page in enumerate(("", "incidents", "reconciliation", "refunds", "splits", "gate")):
        # Pages the staff's navigation offers when they are there.
        app.add_route(linked, f"/staff/{page}".rstrip("/"), name=f"linked_{number}")
    app.add_route(status, "/pay/<order_id:uuid>/status")
    return app
