"""What each invariant means to the people who are told that it is broken. Pure data.

Beside `invariants.INVARIANTS`, name by name; a test asks that both name the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CRITICAL = "critical"
"""Money may be wrong: look now."""
WARNING = "warning"
"""Something is late: look within the hour."""

FINANCE = "finance"
OPERATOR = "operator"

KIND_PREFIX = "invariant_"


@dataclass(frozen=True, slots=True)
class Meaning:
    """`title` and `words` for staff, `doc` for developers; who is told, and how urgently."""

    title: str
    words: str
    doc: str
    owner: str
    severity: str


def _money(title: str, words: str, doc: str) -> Meaning:
    return Meaning(title, words, doc, FINANCE, CRITICAL)


def _late(title: str, words: str, doc: str) -> Meaning:
    return Meaning(title, words, doc, OPERATOR, WARNING)


MEANINGS: Mapping[str, Meaning] = {
    "every_transfer_is_balanced": _money(
        "凭证借贷不平",
        "总账每张凭证至少两条分录，借方合计等于贷方合计。",
        "A transfer has at least two entries and their debits equal their credits.",
    ),
    "debits_equal_credits_in_every_region": _money(
        "区县账套不平",
        "每个区县账套的借方合计等于贷方合计。",
        "Over all transfers of a region the debits equal the credits.",
    ),
    "nobody_is_owed_less_than_nothing": _money(
        "应付或挂账为负",
        "应付收款单位、挂账、退款在途、线下处理科目的余额不小于零。",
        "Payables, suspense, refunds in flight and money settled outside never go below zero.",
    ),
    "every_paid_attempt_has_one_arrival": _money(
        "已付支付缺到账凭证",
        "每笔已付的支付在总账恰有一张到账凭证，金额一致。",
        "A paid attempt has exactly one arrival in the books, of the same amount.",
    ),
    "every_paid_combined_attempt_has_its_arrivals": _money(
        "合单支付缺到账凭证",
        "每笔已付的合单支付，各子单的到账凭证合计不少于实付金额。",
        "The arrivals of a paid combined attempt's parts add up to what the payer was charged.",
    ),
    "every_paid_order_has_one_payment": _money(
        "已付订单缺收款凭证",
        "每个已付订单在总账恰有一次收款（合单时每个子单一张凭证），合计等于订单金额。",
        "A paid order was paid once in the books (by one transfer, or one of each part), in full.",
    ),
    "every_part_pays_its_own_payee": _money(
        "合单子单收款单位不符",
        "合单的每个子单按约定金额记到约定的商户号和收款单位。",
        "Each part of a combined payment is booked from its merchant to its payee, as asked.",
    ),
    "every_payment_belongs_to_a_paid_order": _money(
        "收款凭证无已付订单",
        "总账每张收款凭证都属于一个已付订单。",
        "A payment in the books belongs to a paid order.",
    ),
    "every_suspense_has_an_incident": _money(
        "挂账无人负责",
        "每笔挂账都有待处理的异常事件，或已两人决定退款、转入账单、线下处理，不会无人过问。",
        "Money in suspense has an open incident, or two persons' word on where it goes.",
    ),
    "money_of_another_amount_has_an_incident": _money(
        "金额不符无人负责",
        "实付与应付哪怕只差一分，也有异常事件或退款对应。",
        "A payment of another amount, by as little as one fen, has an incident or a refund.",
    ),
    "every_applied_notice_has_its_payment": _money(
        "入账通知无收款",
        "每条已入账的渠道通知都能在总账找到收款凭证。",
        "A notice kept as applied has its payment in the books.",
    ),
    "the_bills_of_a_paid_order_are_paid": _money(
        "已付订单的账单未销",
        "已付订单所含的每张账单都已按同一版本销账。",
        "The bills of a paid order are paid, in the version that was paid.",
    ),
    "a_paid_bill_has_its_paid_order": _money(
        "账单已缴而无订单",
        "每张已缴账单都有付清它的订单，没有人能手工改成已缴。",
        "A paid bill has the paid order that paid this version; nobody sets paid by hand.",
    ),
    "a_bill_is_paid_by_one_order_at_most": _money(
        "账单被两个订单付清",
        "一张账单最多由一个订单付清。",
        "At most one paid order holds a bill.",
    ),
    "a_bill_is_refunded_when_all_of_it_was_given_back": _money(
        "退款与账单状态不符",
        "账单全额退还后为已退，缴清后又改过的按新的待缴或撤回；没有全额退还的仍为已缴。",
        "A bill is refunded exactly when all of it was given back and nothing newer was noted.",
    ),
    "splits_add_up_to_the_order": _money(
        "分账合计不等于订单",
        "分给各收款单位的金额之和、各账单金额之和都等于订单金额。",
        "The splits of an order, and its bills, add up to its amount.",
    ),
    "every_paid_bill_has_its_receipt_message": _money(
        "已缴账单缺回执",
        "每张已缴账单恰有一条发往登记中心的回执消息。",
        "Each bill of a paid order has exactly one receipt message to the centre.",
    ),
    "no_arrival_is_given_back_beyond_its_amount": _money(
        "退款超过收款",
        "每笔收款的退款、线下处理和转入账单合计，减去已追回和已核销的多退，不超过收款金额。",
        "What of one arrival was refunded, settled outside or applied, less what came back of it"
        " or was written off, never exceeds its amount.",
    ),
    "no_payee_gives_back_more_than_it_got": _money(
        "收款单位退多于收",
        "每个收款单位退还的不超过它从该账单分得的；已追回和已核销的多退除外。",
        "A payee never gives back more of a bill than it got of it, claims that ended apart.",
    ),
    "shares_add_up_to_the_refund": _money(
        "退款分摊合计不符",
        "已入账款的退款，各收款单位分摊之和等于退款金额；挂账的退款没有分摊。",
        "The shares of a refund of a payment add up to it; those of suspense are none.",
    ),
    "a_refund_stands_in_the_books_as_it_stands_here": _money(
        "退款与总账不符",
        "每笔退款的状态与总账的退款凭证一致。",
        "The transfers of a refund are those of its state.",
    ),
    "every_refund_in_the_books_is_one_of_ours": _money(
        "总账退款无对应记录",
        "总账每张退款凭证都对应我方一笔退款。",
        "A refund in the books is one of ours.",
    ),
    "refunds_in_flight_are_those_unfinished": _money(
        "退款在途余额不符",
        "每个商户账户的退款在途余额等于未完成退款之和。",
        "The balance of refunds in flight is the sum of the unfinished ones, per account.",
    ),
    "every_automatic_refund_has_its_incident": _money(
        "自动退款缺事件",
        "每笔自动退款都有说明原因的异常事件。",
        "A refund the platform makes by itself has the incident that says why.",
    ),
    "what_the_platform_gives_back_by_itself_is_on_its_way": _money(
        "应自动退还而未退",
        "重复支付、关单后到账等应自动退还的钱都已有退款。",
        "Money the platform gives back by itself has its refund.",
    ),
    "an_incident_that_waits_for_a_refund_is_open_until_it_is_done": _money(
        "退款未成而事件已办结",
        "等待退款的异常事件在退款成功之前不会自动办结。",
        "An incident is resolved by a refund only when that refund succeeded.",
    ),
    "what_is_settled_outside_stands_in_the_books": _money(
        "线下处理与总账不符",
        "每笔经两人办理的线下处理在总账恰有一张同额凭证，总账的线下处理凭证也都有据可查。",
        "A settlement outside the channels and its transfer exist together, of the same amount.",
    ),
    "a_claim_is_what_its_incidents_say": _money(
        "多退应收与总账不符",
        "总账的多退应收等于其异常事件所记金额减去已追回、已核销的；还有余额的，事件未办结。",
        "A claim of ours is what its incidents say less what ended of it, and while some is left"
        " one of them is open.",
    ),
    "the_channels_fees_are_those_of_their_proven_bills": _money(
        "渠道手续费与账单不符",
        "每个商户账户的手续费科目，逐日等于该日已自证账单所列的手续费。",
        "The channel's fees of an account's day in the books are those of its proven bill.",
    ),
    "what_is_instructed_is_what_the_books_owe": _money(
        "分账指令与总账不符",
        "分账指令逐笔逐单位等于总账应付收款单位的金额；一笔退款的手续费只在首次预留时下达一次。",
        "What was instructed of a transfer is what the books owe each payee of it, and a refund's"
        " fee is told once.",
    ),
    "refunds_move_in_time": _late(
        "退款积压",
        "到时间的退款在五分钟内向渠道提出或查询。",
        "Due refunds are taken to their channel within five minutes.",
    ),
    "only_open_orders_hold_bills": _late(
        "结束的订单仍占账单",
        "只有未结束的订单占住账单；占错会让市民无法缴费。",
        "A bill is held by open orders only, and by each of them.",
    ),
    "an_order_has_one_live_attempt_at_most": Meaning(
        "同一订单两个付款码",
        "同一订单同一时刻最多有一个可付的付款码。",
        "At most one attempt of an order can be paid at a time.",
        OPERATOR,
        CRITICAL,
    ),
    "every_watched_attempt_will_be_asked_about": _late(
        "支付无人查询",
        "每笔结果未定的支付都排定了下一次向渠道查询的时间。",
        "An attempt without a certain end has a time for its next question.",
    ),
    "attempts_are_asked_about_in_time": _late(
        "查询积压",
        "到时间的查询在五分钟内发出。",
        "Due questions are asked within five minutes.",
    ),
    "no_attempt_is_silent_beyond_its_time": _late(
        "渠道久无答复且无人知晓",
        "订单结束一个半小时后仍无定论的支付，都已登记异常事件。",
        "An attempt without a certain answer long after its order's end has an incident.",
    ),
    "no_order_is_open_beyond_its_end": _late(
        "订单过期未关",
        "过了时限的订单在一刻钟内关闭，释放账单。",
        "An order past its end is closed within a quarter of an hour.",
    ),
    "every_open_order_is_expected_in_the_books": Meaning(
        "未结束订单未记预期收款",
        "每个未结束的订单在总账恰有与分账一致的预期收款（备查科目，不是钱）。",
        "The books expect of an open order what its payees are to get (memo, no money).",
        FINANCE,
        WARNING,
    ),
    "the_books_expect_what_open_orders_bring": Meaning(
        "预期收款与未结束订单不符",
        "每个区县账套的预期收款合计等于该区县未结束订单合计。",
        "Per region the unreleased holds of open orders add up to these orders' amounts.",
        FINANCE,
        WARNING,
    ),
    "no_hold_outlives_its_order": _late(
        "预期收款未释放",
        "订单结束十分钟后，总账不再预期它的收款。",
        "The books expect nothing of an order ten minutes after its end.",
    ),
    "news_is_settled_in_time": _late(
        "渠道通知积压",
        "收到的渠道通知在五分钟内处理完毕。",
        "News in the inbox is handled within five minutes.",
    ),
    "every_news_given_up_has_an_incident": _money(
        "放弃的通知无人负责",
        "多次处理失败的通知都已登记异常事件。",
        "News that is not tried any more has an incident.",
    ),
    "messages_leave_in_time": _late(
        "待发消息积压",
        "待发消息（回执等）在五分钟内发出。",
        "Messages leave the outbox within five minutes.",
    ),
    "no_message_is_dead": _late(
        "消息停止重试",
        "没有消息因多次失败而停止发送。",
        "No message was set aside after too many failures.",
    ),
    "every_open_incident_has_an_owner": _money(
        "异常事件无归属",
        "每条待处理的异常事件都归属财务或运维。",
        "An open incident is owned by finance or by operators.",
    ),
    "an_overdue_incident_is_escalated": _late(
        "超时事件未升级",
        "超过时限的异常事件都已升级提醒。",
        "An open incident past its time has been escalated.",
    ),
    "a_resolved_incident_says_by_whom_and_why": _money(
        "办结缺经办人或理由",
        "办结的异常事件写明了由谁、因何办结。",
        "A resolved incident says when, by whom and why.",
    ),
    "the_copy_from_inside_is_fresh": _late(
        "内网数据陈旧",
        "登记中心传来的数据不早于十分钟前。",
        "The copy from inside is at most ten minutes old.",
    ),
    "no_incoming_stream_stands_still": _late(
        "光闸接收停止",
        "光闸接收通道没有因缺包、分叉或坏包而停止。",
        "No incoming stream is stopped by a gap, a fork or a bad packet.",
    ),
    "rows_leave_through_the_gate_in_time": _late(
        "光闸发送积压",
        "待发往内网的数据在五分钟内打包。",
        "Rows for the inside are packed within five minutes.",
    ),
}


def meaning_of(name: str) -> Meaning:
    """Of an invariant nobody described yet, its name: it is no less broken for that."""
    return MEANINGS.get(name) or Meaning(name, name, name, FINANCE, CRITICAL)


def incident_kind(name: str) -> str:
    """The kind of the incidents a broken invariant opens; its alert and runbook are named so."""
    return f"{KIND_PREFIX}{name}"


def runbook_of(name: str) -> str:
    """Where the runbook stands, from the root of the repository."""
    return f"config/runbooks/{incident_kind(name)}.md"
