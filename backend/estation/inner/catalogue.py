"""Words of the fee desk as data: kinds of taxes and fees, matters, roles, states."""

from collections.abc import Sequence
from dataclasses import dataclass

OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class FeeKind:
    """A tax or fee the desk knows: where its money goes and what it rests on."""

    code: str
    name: str
    payee_code: str
    legal_basis: str


KINDS = {
    kind.code: kind
    for kind in (
        FeeKind(
            "DEED", "契税", "treasury", "契税法；财政部 税务总局 住房城乡建设部公告2024年第16号"
        ),
        FeeKind("VAT", "增值税", "treasury", "增值税法；财政部 税务总局公告2025年第17号"),
        FeeKind("UCMT", "城市维护建设税", "treasury", "城市维护建设税法第四条"),
        FeeKind("EDU", "教育费附加", "treasury", "征收教育费附加的暂行规定"),
        FeeKind("LEDU", "地方教育附加", "treasury", "财综〔2010〕98号"),
        FeeKind("PIT", "个人所得税", "treasury", "个人所得税法第三条、第六条；国税发〔2006〕108号"),
        FeeKind("LVAT", "土地增值税", "treasury", "财税〔2008〕137号"),
        FeeKind("STAMP", "印花税", "treasury", "印花税法；财税〔2008〕137号"),
        FeeKind("MAINT", "住宅专项维修资金", "maintenance_fund", "住宅专项维修资金管理办法第七条"),
        FeeKind("REG", "不动产登记费", "non_tax", "发改价格规〔2016〕2559号；财税〔2016〕79号"),
        FeeKind("BOOK", "不动产权证书工本费", "non_tax", "发改价格规〔2016〕2559号"),
    )
}

USUAL: dict[str, Sequence[str]] = {
    "buyer": ("DEED", "STAMP", "REG"),
    "seller": ("VAT", "UCMT", "EDU", "LEDU", "PIT"),
    "transferee": ("DEED", "STAMP", "REG"),
    "transferor": ("STAMP",),
    "mortgagee": ("REG",),
    "applicant": ("REG", "BOOK"),
}


def usual_kinds(role: str) -> list[FeeKind]:
    """What a party of this role usually owes, as a start for the form."""
    return [KINDS[code] for code in USUAL.get(role, ())]


def code_of(name: str) -> str:
    """The code of a tax or fee by its name; OTHER for one the desk does not know."""
    return next((kind.code for kind in KINDS.values() if kind.name == name), OTHER)


MATTERS = {
    "RESALE_TRANSFER": "存量房转移登记",
    "NEW_HOME_TRANSFER": "新建商品房转移登记",
    "GIFT": "赠与转移登记",
    "MORTGAGE_FIRST": "抵押权首次登记",
    "REISSUE_CERT": "补发证书",
}
ROLES = {
    "buyer": "买方",
    "seller": "卖方",
    "developer": "开发企业",
    "mortgagee": "抵押权人",
    "mortgagor": "抵押人",
    "transferee": "受赠人",
    "transferor": "赠与人",
    "applicant": "申请人",
}
ID_TYPES = {"1": "身份证", "3": "护照", "7": "营业执照", "8": "统一社会信用代码", "99": "其他"}
STAFF_ROLES = {"registrar": "登记员", "fee_clerk": "收费员"}
CASE_STATES = {"open": "在办", "closed": "已办结", "withdrawn": "已撤回"}
STAGES = {
    "contract": "网签",
    "escrow": "资金托管",
    "loan": "抵押",
    "tax": "纳税",
    "registration": "登记",
}
STAGE_STATES = {
    "waiting": "未开始",
    "doing": "办理中",
    "done": "已完成",
    "not_required": "不需要",
    "returned": "已退回",
}
BILL_STATES = {
    "issued": "待缴",
    "paid": "已缴",
    "withdrawn": "已撤回",
    "refunded": "已全额退款",
}
REFUND_STATES = {
    "asked": "待复核",
    "rejected": "复核未通过",
    "ordered": "已下达",
    "refunding": "退款中",
    "refunded": "已退款",
    "not_refunded": "未能退款",
    "refused": "线上未受理",
}
REFUND_ATTENTION = {
    "refunded_bill": "缴费单已全额退款，又收到缴款",
    "unknown_payment": "找不到对应的缴款",
    "contradicted": "同一版本两次内容不一致",
    "more_than_paid": "退款合计超过缴款金额",
    "never_sent": "线上平台没有发出过这条退款结果，请核对",
}
EVIDENCE_ATTENTION = {
    "unknown_payment": "找不到对应的缴款回执",
    "more_than_paid": "渠道账单所证金额超过回执",
    "contradicted": "同一版本两次内容不一致",
    "never_sent": "线上平台没有发出过这份证明，请核对",
}
REFUND_WHY_NOT = {
    "refundable_changed": "线上可退金额与下达时不同，请核对后重新申请",
    "refund_too_much": "超过线上可退金额",
    "refund_not_possible": "支付渠道不再受理（超过期限或次数），请线下办理",
    "arrival_not_found": "线上没有这笔缴款",
    "second_person_needed": "经办与复核为同一人",
    "invalid_input": "指令内容有误",
}
CHANNELS = {"wechat_pay": "微信支付", "alipay": "支付宝"}
ATTENTION = {
    "unknown_bill": "没有这张缴费单",
    "withdrawn_bill": "缴费单已撤回，款项需退回或另行处理",
    "other_version": "缴的是旧版本，金额可能与现行版本不同",
    "other_amount": "金额与缴费单不符",
    "already_paid": "缴费单此前已缴，可能重复缴款",
    "contradicted": "同一回执前后内容不一致",
    "never_sent": "线上平台没有发出过这张回执，不作缴款凭据，请核对",
}
GATE_REASONS = {
    "gap": "缺少前面的数据包",
    "fork": "出现另一份历史，需人工确认",
    "bad_seal": "签名不符",
    "handler_failed": "本侧暂时无法入库，稍后自动重试",
}
