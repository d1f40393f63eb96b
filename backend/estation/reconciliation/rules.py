"""What each difference means, and what a day with such findings is. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum

from estation.shared.clock import BEIJING

RULES_VERSION = "2026.3"
"""Part of the result digest: change it with the meaning of any kind or pass."""


BILLS_DUE_AT = time(10)


class LegState(StrEnum):
    """How far one merchant account's bill of one day can be trusted."""

    PROVEN = "proven"  # read whole, equal to its own summary
    EMPTY = "empty"  # the channel says: no trade that day
    MISSING = "missing"  # not made yet, or not to be had
    UNPROVEN = "unproven"  # unreadable, or unequal to its own summary


USABLE = frozenset({LegState.PROVEN, LegState.EMPTY})


class RunState(StrEnum):
    BALANCED = "balanced"
    DIFFERENCES = "differences"
    BLOCKED = "blocked"


class Kind(StrEnum):
    """Every finding there is; each line of either side ends matched or in exactly one of these."""

    MISSING_IN_LEDGER = "missing_in_ledger"
    MISSING_AT_CHANNEL = "missing_at_channel"
    AMOUNT_DIFFERS = "amount_differs"
    STATUS_DIFFERS = "status_differs"
    TRADE_NO_DIFFERS = "trade_no_differs"
    DUPLICATE_IN_BILL = "duplicate_in_bill"
    DUPLICATE_IN_LEDGER = "duplicate_in_ledger"
    DAY_BOUNDARY = "day_boundary"
    REFUND_NOT_IN_LEDGER = "refund_not_in_ledger"
    REFUND_DIFFERS = "refund_differs"
    UNKNOWN_MERCHANT = "unknown_merchant"
    SETTLEMENT_DIFFERS = "settlement_differs"
    IN_SUSPENSE = "in_suspense"
    LEG_MISSING = "leg_missing"
    LEG_UNPROVEN = "leg_unproven"


MATCHED = "matched"
REFUND_MATCHED = "refund_matched"
BLOCKED = "blocked"
"""Beside the kinds, what can become of a row: it agrees; it is a refund of ours, done or under
way; its account has no usable bill."""

REFUND_FATES = frozenset({REFUND_MATCHED, Kind.REFUND_NOT_IN_LEDGER, Kind.REFUND_DIFFERS})
"""What becomes of the refund lines of a bill; they never count as money that came."""

NOT_OF_A_LINE = frozenset({Kind.SETTLEMENT_DIFFERS})
"""Findings beside the lines of a usable bill: no receipt of the day is in their amounts."""

FAILED_REFUND_STATES = ("FAIL", "CLOSED", "REFUND_CLOSED")
"""The channels' words in a bill for a refund that did not happen."""


class Severity(StrEnum):
    """Error: money is unexplained. Warning: explained but not clean. Info: known and owned."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Meaning:
    """A kind in a clerk's words. `blocks`: the day cannot be concluded while it stands."""

    severity: Severity
    blocks: bool
    label: str
    cause: str
    next_actions: tuple[str, ...]
    opens_incident: bool = False


ASK_CHANNEL = "向渠道查询该笔交易的当前状态"
KEEP_EVIDENCE = "下载原始账单留存证据"
RERUN = "稍后重新对账"

KINDS: dict[Kind, Meaning] = {
    Kind.MISSING_IN_LEDGER: Meaning(
        Severity.ERROR,
        blocks=False,
        label="渠道有、我方无（长款）",
        cause="渠道已收款，我方总账没有这一笔：通知丢失或尚未处理。",
        next_actions=(ASK_CHANNEL, "按事件处理：核实后经统一入账口补记，不得手工改为已缴"),
        opens_incident=True,
    ),
    Kind.MISSING_AT_CHANNEL: Meaning(
        Severity.ERROR,
        blocks=False,
        label="我方有、渠道无（短款）",
        cause="我方总账已记收款，渠道当日账单没有这一笔。",
        next_actions=(ASK_CHANNEL, "次日账单到达后重新对账，排除跨日"),
    ),
    Kind.AMOUNT_DIFFERS: Meaning(
        Severity.ERROR,
        blocks=False,
        label="金额不符",
        cause="同一商户订单号两边都有，金额不同，差一分也列出。",
        next_actions=(ASK_CHANNEL, KEEP_EVIDENCE),
        opens_incident=True,
    ),
    Kind.STATUS_DIFFERS: Meaning(
        Severity.ERROR,
        blocks=False,
        label="状态不符",
        cause="渠道账单为支付成功，我方该笔支付已是关闭或被拒。",
        next_actions=(ASK_CHANNEL, "按事件处理：核实后入账或退款"),
        opens_incident=True,
    ),
    Kind.TRADE_NO_DIFFERS: Meaning(
        Severity.ERROR,
        blocks=False,
        label="渠道流水号不符",
        cause="商户订单号和金额相同，渠道流水号不同：可能是单号被重复使用。",
        next_actions=(ASK_CHANNEL, KEEP_EVIDENCE),
        opens_incident=True,
    ),
    Kind.DUPLICATE_IN_BILL: Meaning(
        Severity.ERROR,
        blocks=False,
        label="渠道账单重复",
        cause="同一商户订单号在渠道账单中多于一笔，我方只有一笔可与之相配。",
        next_actions=(ASK_CHANNEL, KEEP_EVIDENCE),
        opens_incident=True,
    ),
    Kind.DUPLICATE_IN_LEDGER: Meaning(
        Severity.ERROR,
        blocks=False,
        label="我方总账重复",
        cause="同一商户订单号在我方总账中多于一笔，渠道只有一笔可与之相配。",
        next_actions=("核对总账凭证，用冲正分录更正",),
    ),
    Kind.DAY_BOUNDARY: Meaning(
        Severity.WARNING,
        blocks=False,
        label="跨日",
        cause="两边都有、金额相同，但记在相邻的两天。",
        next_actions=("核对渠道时间，两日合并看待",),
    ),
    Kind.REFUND_NOT_IN_LEDGER: Meaning(
        Severity.ERROR,
        blocks=False,
        label="渠道有退款、我方无",
        cause="渠道账单出现退款，我方总账没有退款记录：可能在商户平台上手工退款。",
        next_actions=("核实由谁在渠道商户平台发起退款", KEEP_EVIDENCE),
        opens_incident=True,
    ),
    Kind.REFUND_DIFFERS: Meaning(
        Severity.ERROR,
        blocks=False,
        label="退款不符",
        cause="退款单号是我方的，但账单中的金额、商户号或结果与我方总账不同，或同一单号多于一行。",
        next_actions=("向渠道查询该笔退款的当前状态", KEEP_EVIDENCE),
        opens_incident=True,
    ),
    Kind.UNKNOWN_MERCHANT: Meaning(
        Severity.ERROR,
        blocks=True,
        label="未配置的商户号",
        cause="总账当日有记在这个商户号下的收款，但系统没有它的渠道配置，无法取得账单。",
        next_actions=("补充商户配置后重新对账",),
    ),
    Kind.SETTLEMENT_DIFFERS: Meaning(
        Severity.ERROR,
        blocks=False,
        label="应结算金额不符",
        cause="按账单逐行计算的收款减退款减手续费，与渠道账单自己的合计不同，差一分也列出。",
        next_actions=(KEEP_EVIDENCE, "向渠道核对手续费和优惠的计算", "到账后与银行回单核对"),
    ),
    Kind.IN_SUSPENSE: Meaning(
        Severity.INFO,
        blocks=False,
        label="挂账",
        cause="两边金额相符，但这笔钱不属于任何可缴账单，已记入挂账并有事件跟踪。",
        next_actions=("在事件中处理退款或入账",),
    ),
    Kind.LEG_MISSING: Meaning(
        Severity.ERROR,
        blocks=True,
        label="缺渠道账单",
        cause="没有取得该商户号当日的渠道账单，这一天不能下结论。",
        next_actions=(RERUN,),
    ),
    Kind.LEG_UNPROVEN: Meaning(
        Severity.ERROR,
        blocks=True,
        label="渠道账单未通过自证",
        cause="账单读不通，或与它自己的汇总不一致，内容不予采信。",
        next_actions=(KEEP_EVIDENCE, "重新下载后再对账"),
    ),
}


LEG_FINDING: dict[LegState, Kind] = {
    LegState.MISSING: Kind.LEG_MISSING,
    LegState.UNPROVEN: Kind.LEG_UNPROVEN,
}


def run_state(kinds: Iterable[str]) -> RunState:
    """What a day with these findings is. Known-and-owned (info) findings leave it balanced."""
    meanings = [KINDS[Kind(kind)] for kind in kinds]
    if any(meaning.blocks for meaning in meanings):
        return RunState.BLOCKED
    if any(meaning.severity is not Severity.INFO for meaning in meanings):
        return RunState.DIFFERENCES
    return RunState.BALANCED


def is_over(day: date, today: date) -> bool:
    """A day still running may be tried (the channel decides what it gives); a later one not."""
    return day <= today


def bills_are_due(day: date, now: datetime) -> bool:
    """Both channels have their bills of a Beijing day by 10:00 of the next; before that "no
    bill" may only mean "not yet". Source: WeChat Pay v3 bill/tradebill, Alipay
    alipay.data.dataservice.bill.downloadurl.query."""
    return now >= datetime.combine(day + timedelta(days=1), BILLS_DUE_AT, tzinfo=BEIJING)
