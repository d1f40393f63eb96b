"""The clerk's words for incidents and what belongs to them. Pure data."""

from datetime import date
from typing import Protocol

from estation.payments.invariant_meanings import MEANINGS, incident_kind
from estation.payments.rules import ClaimEnd
from estation.shared.money import display_yuan, yuan_from_fen

INCIDENT_WORDS: dict[str, tuple[str, str]] = {
    "unknown_order": ("无此订单", "渠道收到一笔钱，商户订单号不是我们发出的。已记入挂账。"),
    "wrong_account": ("商户号不符", "钱到了另一个商户号，不是这笔支付所用的。已记入挂账。"),
    "wrong_amount": ("金额不符", "实付金额与应付金额不同，没有销账。已记入挂账。"),
    "paid_after_close": ("关闭后到账", "订单关闭之后才收到支付成功。已记入挂账。"),
    "paid_after_expiry": ("过期后到账", "订单过期之后才收到支付成功。已记入挂账。"),
    "bill_withdrawn": ("账单已撤回", "付款时账单已被登记中心撤回。已记入挂账。"),
    "bill_revised": ("账单已修订", "付款时账单已有新版本，金额或内容可能不同。已记入挂账。"),
    "bill_already_paid": ("账单已缴清", "账单已由另一笔支付缴清。已记入挂账，应当退款。"),
    "double_payment": ("重复支付", "同一订单又收到一笔钱。已记入挂账，应当退款。"),
    "already_refunded": ("已有退款", "支付成功的同时渠道称已有退款。已记入挂账。"),
    "unexpected_refund": ("意外退款", "渠道称这笔已入账的支付发生了退款，不是我们发起的。"),
    "contradicting_news": ("前后矛盾", "渠道此次的说法与已入账的事实矛盾，未改动账目。"),
    "incomplete_news": ("消息不完整", "渠道称成功，但缺少金额、时间或流水号，未入账。"),
    "unreadable_news": ("消息无法解读", "渠道的通知经验签属实，但内容无法按支付解读，未入账。"),
    "silent_attempt": ("渠道久无答复", "订单早已到期，渠道仍未给出已付或已关的答复，请核查。"),
    "refund_closed": ("退款未成", "渠道关闭了这笔退款，钱没有退出，仍在原处，请决定如何处理。"),
    "refund_abnormal": (
        "退款异常",
        "付款人的账户收不了这笔退款，请改退到商户银行卡后线下转付，并由两人登记转付。",
    ),
    "refund_not_enough": ("退款余额不足", "商户账户余额不足，退款在等待；请充值或等待入账。"),
    "refund_unfinished": ("退款久无结果", "退款已超过一天没有结果，请向渠道核查。"),
    "refund_overpaid": (
        "多退应收",
        "渠道称已关闭的退款后来退成了，而这笔钱已另行退还、入账或线下处理。多退部分记为应收：请追回，或按规定核销，由两人办理。",
    ),
    "refund_order_refused": ("退款指令未执行", "登记中心的退款指令无法执行，已告知原因。"),
    "unowned_suspense": ("挂账无人负责", "总账中有一笔挂账，没有异常事件也没有退款对应。"),
    "unsettled_news": ("消息处理失败", "这条通知多次处理失败，需要运维查看原因。"),
    "missing_in_ledger": ("对账：渠道有、我方无", "渠道账单有这笔收款，我方总账没有。"),
    "status_differs": ("对账：状态不符", "渠道账单为成功，我方该笔支付已关闭或被拒。"),
    "amount_differs": ("对账：金额不符", "渠道账单与我方总账的金额不同。"),
    "trade_no_differs": ("对账：流水号不符", "订单号和金额相同，渠道流水号不同。"),
    "duplicate_in_bill": ("对账：渠道账单重复", "渠道账单中同一订单号多于一笔，可能重复扣款。"),
    "refund_differs": ("对账：退款不符", "渠道账单中我方退款的金额、商户号或结果与总账不同。"),
    "refund_not_in_ledger": ("对账：渠道有退款", "渠道账单出现退款，我方总账没有退款记录。"),
    "bill_changed_after_payment": ("缴清后账单有变", "账单缴清之后登记中心又修订或撤回了它。"),
    "gate_repaired": (
        "光闸：副本曾被改动",
        "这里的数据与来源发出的不同，已按来源自动改回。请查明是谁改的。",
    ),
    "gate_unhealed": (
        "光闸：副本无法改回",
        "这里的数据与来源发出的不同，自动改回没有成功（例如账单已经缴清）。",
    ),
    "gate_phantom": (
        "光闸：来源不认识的数据",
        "这里有来源从未发出的数据。已停用但没有删除，请与来源核对。",
    ),
    "gate_jumped": (
        "光闸：以快照补齐缺包",
        "有数据包永久丢失，已由完整快照补齐。请查看传输设备。",
    ),
    "gate_file_incomplete": (
        "光闸：文件不完整",
        "来源发出的一个文件一天后仍缺若干部分，重发和快照都没有补齐。"
        "请来源以同一文件编号重新发送该文件；七天后这里放弃已收到的部分。",
    ),
    "gate_stopped": (
        "光闸：拒收并停止接收",
        "来自光闸的文件不可接受（封印、摘要、内容或历史不符），已隔离。数据流停在原处，"
        "后面的包都在等待，没有丢失。"
        "收到正确的文件后自动继续并自动办结；分叉须由人核对两份历史后恢复。",
    ),
    "gate_row_refused": (
        "光闸：有一行没有收下",
        "来源发出的一行（事件中写明是哪一项、第几版、哪个字段）不可接受，已单独隔离，其余各行照常收下。"
        "请来源更正后以更高的版本重发；收到可以接收的版本或快照后自动办结；"
        "来源不会再更正的，用 estation gate give-up-row 写明理由放弃。",
    ),
    "gate_no_room": (
        "光闸：没有空间",
        "经光闸来往的文件因空间不足没有收下或发不出去，没有丢失："
        "有了空间由对方重发、或从数据库补收，然后自动办结。请腾出空间，或查明是谁占满了它。",
    ),
    "bill_file_changed": (
        "账单存档被改动",
        "存档的渠道账单与存入时的摘要不符，手续费没有据此入账。请查明是谁、何时改动，"
        "从备份恢复原文件后重新对账。",
    ),
    "message_not_delivered": ("消息未能送达", "一条消息多次发送失败，已停止重试。"),
    **{
        incident_kind(name): (f"自检：{meaning.title}", f"自检不成立：{meaning.words}")
        for name, meaning in MEANINGS.items()
    },
}
"""Kind -> short name, and what happened. A new kind is shown by its code until named here."""

OWNER_WORDS = {"finance": "财务", "operator": "运维"}
DEED_WORDS = {
    "take": "由我处理",
    "resolve": "办结",
    "resolve_asked": "申请办结",
    "refund": "申请退款",
    "refund_asked": "申请退款",
    "refund_approved": "批准退款",
    "refund_rejected": "不予退款",
    "refunded": "退款到账",
    "refund_abnormal": "退款异常",
    "refund_closed": "退款未成",
    "apply": "转入账单",
    "apply_asked": "申请转入账单",
    "apply_rejected": "不予转入账单",
    "applied": "已转入账单",
    "settle_outside": "线下处理",
    "outside_asked": "申请线下处理",
    "outside_rejected": "不予线下处理",
    "settled_outside": "已线下处理",
    "redirect_refund": "异常退款转入商户卡",
    "redirect_asked": "申请改退到商户卡",
    "redirect_rejected": "不予改退",
    "redirect_refused": "渠道拒绝改退",
    "pay_by_hand": "转付付款人",
    "hand_asked": "申请登记转付",
    "hand_rejected": "不予登记转付",
    "paid_by_hand": "已转付付款人",
    "end_claim": "了结多退应收",
    "claim_asked": "申请了结多退应收",
    "claim_rejected": "不予了结多退应收",
    "claim_recovered": "多退已追回",
    "claim_written_off": "多退已核销",
    "reversal_asked": "申请冲回凭证",
    "reversed": "已冲回凭证",
    "ask_channel": "向渠道查询",
    "escalate": "超时升级",
}
"""What was done about an incident, as `incident_action` names it."""

ATTEMPT_WORDS = {
    "opening": "正在下单",
    "open": "待支付",
    "abandoned": "已换码",
    "paid": "已支付",
    "closed": "已关闭",
    "refused": "渠道拒绝",
}
CLOSE_WORDS = {
    "cancelled": "付款人取消",
    "expired": "到期未付",
    "bill_changed": "账单有变动",
    "channel": "渠道已关闭",
    "never_seen": "渠道从未见过",
}
"""Why an order or an attempt ended, where it is no kind of incident."""

HEARD_WORDS = {
    "not_paid": "未支付",
    "paying": "付款人正在支付",
    "paid": "已支付",
    "closed": "已关闭",
    "not_found": "查无此单",
    "close:closed": "关单：已关闭",
    "close:already_paid": "关单：已支付，不能关",
    "close:try_later": "关单：付款人正在支付，稍后再试",
    "close:not_found": "关单：查无此单",
}
"""What a channel answers about an attempt, as `pay_attempt.heard` names it."""

REFUND_STATE_WORDS = {
    "asked": "待复核",
    "rejected": "未批准",
    "approved": "已批准",
    "processing": "渠道处理中",
    "abnormal": "异常",
    "succeeded": "已退到账",
    "closed": "未退成",
}
REFUND_CAUSE_WORDS = {
    "double_payment": "重复支付自动退",
    "paid_late": "逾期到账自动退",
    "bill_changed": "账单变动自动退",
    "staff": "财务申请",
    "centre": "登记中心指令",
}

NOT_APPLIED_WORDS = {
    "refunded": "这笔钱已有退款。",
    "applied": "这笔钱已转入账单。",
    "settled_outside": "这笔钱已线下处理。",
    "not_asked": "没有待复核的转入申请。",
    "bill_changed": "账单已变化或已缴清。",
    "wrong_amount": "金额与应缴不同。",
    "no_order": "找不到它的缴费订单。",
    "in_another_order": "账单正在另一个订单中缴费。",
}

CLAIM_END_WORDS = {ClaimEnd.RECOVERED: "追回", ClaimEnd.WRITTEN_OFF: "核销"}

TRANSFER_WORDS = {
    "payment": "收款",
    "suspense": "挂账",
    "refund_start": "退款预留",
    "refund_reversal": "退款撤销",
    "refund": "退款",
    "settled_outside": "线下处理",
    "paid_by_hand": "改退转付",
    "claim_recovered": "追回多退",
    "claim_written_off": "核销多退",
    "hold": "待收",
    "hold_release": "待收解除",
    "reversal": "冲正",
}

SORT_WORDS = {"due": "按时限", "oldest": "最早登记", "newest": "最新登记", "amount": "按金额"}
STATE_WORDS = {"open": "待处理", "resolved": "已办结", "all": "全部"}


def incident_name(kind: str) -> str:
    return INCIDENT_WORDS[kind][0] if kind in INCIDENT_WORDS else kind


def incident_meaning(kind: str) -> str:
    return INCIDENT_WORDS[kind][1] if kind in INCIDENT_WORDS else ""


def closing_words(reason: str) -> str:
    """Why an order or an attempt ended without money, or with money that was set aside."""
    return CLOSE_WORDS.get(reason) or incident_name(reason)


def heard_words(said: str) -> str:
    """An answer in words; where none came, the trouble's code."""
    if said.startswith("no_answer:"):
        return f"没有答复（{said.removeprefix('no_answer:')}）"
    return HEARD_WORDS.get(said, said)


class ClaimEnding(Protocol):
    """A claim's end as it was asked for."""

    kind: ClaimEnd
    amount_fen: int
    reason: str
    document_no: str
    received_on: date | None


def claim_words(ending: ClaimEnding) -> str:
    """How much of a claim of ours ended or is to end, when, by which document, and why."""
    name = CLAIM_END_WORDS[ending.kind]
    when = f"，{ending.received_on:%Y-%m-%d} 到账" if ending.received_on else ""
    why = f"，{ending.reason}" if ending.reason else ""
    return f"{name} ¥ {display_yuan(ending.amount_fen)}{when}（{ending.document_no}）{why}"


def plain_yuan(fen: int) -> str:
    """As a field wants it back."""
    return yuan_from_fen(fen)


def yuan(fen: int) -> str:
    return f"¥ {display_yuan(fen)}"


def who(name: str) -> str:
    """An officer, the centre, or nobody of flesh."""
    return {"system": "系统", "": "—"}.get(name, name)
