"""The troubles of the fault panel, in a person's words: what will happen, and what a platform
that is right does then."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WECHAT, ALIPAY, ACCOUNT = "wechat_pay", "alipay", "wechat"
CHANNEL_WORDS = {WECHAT: "微信", ALIPAY: "支付宝", ACCOUNT: "公众号"}
OPERATIONS = {
    "": "任何一次请求",
    "op:prepay": "下单",
    "op:query": "查单",
    "op:close": "关单",
    "op:refund": "退款",
    "op:find_refund": "查退款",
}


@dataclass(frozen=True, slots=True)
class Fault:
    target: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trouble:
    """`faults` says by channel what is ordered; `choices` are values of `option` with words."""

    key: str
    title: str
    happens: str
    expected: str
    faults: Mapping[str, Fault]
    option: str = ""
    choices: tuple[tuple[int, str], ...] = ()
    by_operation: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    troubles: tuple[Trouble, ...]

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(trouble.key for trouble in self.troubles)


def _both(kind: str, target: str = "notice", **options: Any) -> dict[str, Fault]:
    return {channel: Fault(target, kind, options) for channel in (WECHAT, ALIPAY)}


def _wechat(kind: str, target: str = "notice", **options: Any) -> dict[str, Fault]:
    return {WECHAT: Fault(target, kind, options)}


def _alipay(kind: str, target: str = "notice", **options: Any) -> dict[str, Fault]:
    return {ALIPAY: Fault(target, kind, options)}


def _account(kind: str, target: str = "message", **options: Any) -> dict[str, Fault]:
    return {ACCOUNT: Fault(target, kind, options)}


_ONE_FEN = {
    WECHAT: {
        "amount": {"total": 1, "payer_total": 1},
        "sub_orders": {"amount": {"total_amount": 1, "payer_amount": 1}},
    },
    ALIPAY: {"total_amount": "0.01", "receipt_amount": "0.01", "buyer_pay_amount": "0.01"},
}
_SHUT = {
    WECHAT: {"trade_state": "CLOSED", "sub_orders": {"trade_state": "CLOSED"}},
    ALIPAY: {"trade_status": "TRADE_CLOSED"},
}


def _lie(target: str, fields: Mapping[str, Any], **options: Any) -> dict[str, Fault]:
    return {
        channel: Fault(target, "alter", {"fields": fields[channel], "known_only": True, **options})
        for channel in (WECHAT, ALIPAY)
    }


_NOTICES = Group(
    "通知出错",
    (
        Trouble(
            "drop",
            "丢掉通知",
            "下一次支付或退款的通知不会发出，到了重试时刻才再发。",
            "主动查单，同样得知已支付，只入账一次。",
            _both("hold"),
        ),
        Trouble(
            "double",
            "重复通知",
            "同一条通知同时发出好几份，像从几台服务器一起打来。",
            "只入账一次；每一份都答成功。",
            _both("duplicate"),
            option="copies",
            choices=((1, "共 2 份"), (9, "共 10 份"), (31, "共 32 份")),
        ),
        Trouble(
            "delay",
            "推迟通知",
            "第一次通知晚到；按虚拟时钟计，可用下面的时钟快进。",
            "查单先得知结果；迟到的通知来时答成功，不再入账。",
            _both("delay"),
            option="seconds",
            choices=(
                (10, "10 秒"),
                (60, "1 分钟"),
                (600, "10 分钟"),
                (3600, "1 小时"),
                (21600, "6 小时"),
                (90000, "25 小时"),
            ),
        ),
        Trouble(
            "reorder",
            "打乱顺序",
            "这一条先扣下，等下一条通知发出后才发（最多扣 25 小时）。",
            "先到的退款通知、后到的支付通知都各归其位，金额不变。",
            _both("reorder"),
        ),
        Trouble(
            "overtake",
            "通知抢先",
            "下单应答还没返回，钱已付、通知已到。",
            "找到刚要开的订单并入账；不当作陌生订单丢掉。",
            _wechat("paid_before_answer", "prepay"),
        ),
        Trouble(
            "lie_amount",
            "谎报金额",
            "签名完全正确的通知，却说只付了 1 分钱。",
            "不入账，主动查单或记为待查事项，由人负责。",
            _lie("notice", _ONE_FEN),
        ),
        Trouble(
            "lie_state",
            "谎报状态",
            "签名完全正确的通知，却说交易已关闭。",
            "不把它当作未付款放走；以查单结果为准。",
            _lie("notice", _SHUT),
        ),
        Trouble(
            "forged",
            "伪造签名",
            "通知由陌生密钥签名，其余都像真的。",
            "拒收，不入账；渠道重发真通知后再入账。",
            _both("other_key"),
        ),
        Trouble(
            "tampered",
            "途中篡改",
            "签名之后正文被改动一处。",
            "验签失败，拒收，不入账。",
            _both("tampered"),
        ),
        Trouble(
            "signtest",
            "签名探测（SIGNTEST）",
            "微信故意发来错误签名，看商户是否验签。",
            "答 4xx/5xx 拒收；微信随后重发正确的通知。",
            _wechat("signtest"),
        ),
        Trouble(
            "unknown_serial",
            "陌生序列号",
            "通知用从未见过的密钥编号；支付宝只对证书应用有效。",
            "拒收；最多去取一次新证书，不因此反复下载。",
            _both("unknown_serial"),
        ),
        Trouble(
            "stale",
            "过期时间戳",
            "签名正确，但时间戳是 400 秒以前的。",
            "超过 300 秒，拒收；重试的通知是新签的，照常接收。",
            _wechat("stale"),
        ),
        Trouble(
            "gbk",
            "GBK 编码通知",
            "通知用 GBK 编码并按 GBK 字节签名。",
            "按通知所写的编码验签，中文不乱，正常入账。",
            _alipay("gbk"),
        ),
    ),
)

_ANSWERS = Group(
    "渠道应答出错",
    (
        Trouble(
            "done_but_500",
            "做成了却报错",
            "渠道已经照办，应答却是 500（支付宝：系统繁忙）。",
            "当作“结果未知”：用原单号原参数重试或查单，不重复下单、退款。",
            {
                WECHAT: Fault("answer", "status_500_after"),
                ALIPAY: Fault("answer", "unavailable_after"),
            },
            by_operation=True,
        ),
        Trouble(
            "failed_500",
            "没做成并报错",
            "渠道什么也没做，应答 500（支付宝：系统繁忙）。",
            "同样当作“结果未知”，稍后用原单号再试。",
            {WECHAT: Fault("answer", "status_500"), ALIPAY: Fault("answer", "unavailable")},
            by_operation=True,
        ),
        Trouble(
            "accepted_202",
            "已受理，结果未知",
            "已经照办，应答却是 202。",
            "不当成功也不当失败；稍后原样再试或查询。",
            _wechat("status_202_after", "answer"),
            by_operation=True,
        ),
        Trouble(
            "limited_429",
            "频率超限",
            "渠道答 429，什么也没做。",
            "退避后再试，次数有限；不报给市民“失败”。",
            _wechat("status_429", "answer"),
            by_operation=True,
        ),
        Trouble(
            "slow",
            "应答很慢",
            "照办之后过很久才应答，平台多半已经超时。",
            "页面先告知稍候，后台查单；不另开一笔。",
            _both("delay", "answer"),
            option="seconds",
            choices=((3, "3 秒"), (8, "8 秒"), (30, "30 秒"), (60, "60 秒")),
            by_operation=True,
        ),
        Trouble(
            "not_found",
            "查无此单",
            "订单明明在，查单却说不存在。",
            "“查不到”不等于“已关闭”：不放开账单，过会儿再查。",
            _both("not_found", "answer", only="op:query"),
        ),
        Trouble(
            "answer_lie_amount",
            "查单谎报金额",
            "签名正确的查单应答，金额却是 1 分。",
            "不入账，转为待查事项，由人负责。",
            _lie("answer", _ONE_FEN, only="op:query"),
        ),
        Trouble(
            "answer_lie_state",
            "查单谎称已关闭",
            "签名正确的查单应答，却说订单已关闭。",
            "若后来又收到支付成功，照样入账或自动退回，绝不丢钱。",
            _lie("answer", _SHUT, only="op:query"),
        ),
        Trouble(
            "answer_signtest",
            "应答签名探测",
            "应答带 SIGNTEST 错误签名，事情其实已办成。",
            "不信这次应答，也不报失败：重试或查单。",
            _wechat("signtest", "answer"),
            by_operation=True,
        ),
        Trouble(
            "answer_forged",
            "应答签名错误",
            "应答由陌生密钥签名。",
            "当作没有收到应答，重试或查单。",
            _both("other_key", "answer"),
            by_operation=True,
        ),
        Trouble(
            "gateway_error",
            "网关错误（未签名）",
            "照办之后，只回一段未签名的 GBK 错误文字。",
            "不当业务结论，按“结果未知”处理。",
            _alipay("gateway_error_after", "answer"),
            by_operation=True,
        ),
        Trouble(
            "cancel_retry",
            "撤销要求重试",
            "撤销什么也没做，应答 retry_flag=Y。",
            "用同一单号再撤销，直到 N 为止，次数有限。",
            _alipay("retry", "answer", only="alipay.trade.cancel"),
        ),
    ),
)

_REFUNDS = Group(
    "退款出错",
    (
        Trouble(
            "refund_abnormal",
            "退款异常",
            "退款先受理，5 秒后变为异常（收款账户已注销）。",
            "转人工：改退到其他银行卡；原单号不变，不重复退。",
            _wechat("abnormal", "refund"),
        ),
        Trouble(
            "refund_closed",
            "退款关闭",
            "退款先受理，5 秒后被关闭，钱没有退。",
            "如实告知没有退成，可再次发起（新单号）。",
            _wechat("closed", "refund"),
        ),
        Trouble(
            "refund_fail",
            "退款失败",
            "退款先处理中，10 秒后失败，钱没有退。",
            "查到失败后用同一请求号再试，不另起新号。",
            _alipay("fail", "refund"),
        ),
        Trouble(
            "not_enough",
            "余额不足",
            "渠道拒绝退款：商户账户里的钱不够。",
            "退款保持待办，单号不变，充值后再试。",
            _both("not_enough", "refund"),
        ),
        Trouble(
            "refund_slow",
            "退款很慢",
            "退款长时间处于处理中。",
            "市民看到“退款处理中”；超过时限有人负责。",
            {WECHAT: Fault("refund", "slow"), ALIPAY: Fault("refund", "processing")},
            option="seconds",
            choices=((60, "1 分钟"), (3600, "1 小时"), (86400, "1 天"), (259200, "3 天")),
        ),
    ),
)

_MESSAGES = Group(
    "公众号消息出错",
    (
        Trouble(
            "message_late",
            "答复超过 5 秒",
            "平台的答复没有及时到达；微信断开，同一条消息再发，共三次。",
            "按 MsgId 去重：只处理一次，三次答复相同，市民只看到一条。",
            _account("late"),
        ),
        Trouble(
            "message_double",
            "消息并发重复",
            "同一条消息同时投递两次。",
            "只处理一次，两次都答。",
            _account("double"),
        ),
        Trouble(
            "message_forged",
            "消息签名错误",
            "用别的令牌签名，并非来自微信。",
            "拒收，不处理，不答复内容。",
            _account("other_token"),
        ),
        Trouble(
            "message_stale",
            "消息时间戳过期",
            "签名正确，但时间戳是 400 秒以前的。",
            "超过 300 秒，当作重放，拒收。",
            _account("stale"),
        ),
        Trouble(
            "message_appid",
            "消息发给别的公众号",
            "加密正确，密文里的 appid 却是别人的。",
            "解密后核对 appid，拒收。",
            _account("other_appid"),
        ),
        Trouble(
            "message_tampered",
            "消息途中篡改",
            "签名之后密文被改动一处。",
            "验签失败，拒收。",
            _account("tampered"),
        ),
        Trouble(
            "message_in_clear",
            "安全模式下的明文",
            "后台设为加密，却来了一条没有加密的消息。",
            "只信密文，拒收明文。",
            _account("in_clear"),
        ),
    ),
)

_API = Group(
    "公众号接口与令牌出错",
    (
        Trouble(
            "token_ended",
            "令牌被别处作废",
            "另一个程序强制刷新，手中的 access_token 立即失效（40001）。",
            "重取一次令牌再试；许多请求同时遇到也只取一次。",
            _account("token_ended", "api"),
        ),
        Trouble(
            "token_expired",
            "令牌过期",
            "接口答 42001，令牌已过期。",
            "重取一次令牌，用新令牌再试。",
            _account("token_expired", "api"),
        ),
        Trouble(
            "token_refused",
            "令牌总被拒绝",
            "任何令牌都答 40001；次数选多些就是一直如此。",
            "重取一次后仍失败就报告失败，绝不循环重试。",
            _account("token_refused", "api"),
        ),
        Trouble(
            "quota",
            "当日次数用完",
            "接口答 45009，当天不再受理。",
            "当天不再调用这个接口，次日再试。",
            _account("quota", "api"),
        ),
        Trouble(
            "api_busy",
            "公众号系统繁忙",
            "接口答 -1。",
            "当作没有结果，报告失败，由人稍后再试。",
            _account("busy", "api"),
        ),
    ),
)

GROUPS = (_NOTICES, _ANSWERS, _REFUNDS, _MESSAGES, _API)
BY_KEY = {trouble.key: trouble for group in GROUPS for trouble in group.troubles}
NOTICE_WORDS = {
    fault.kind: "谎报" if fault.kind == "alter" else trouble.title
    for trouble in BY_KEY.values()
    for fault in trouble.faults.values()
    if fault.target == "notice"
}
"""What a delivery's fault is called."""
COUNTS = (1, 2, 3, 5, 20)


def words_for(target: str, channel: str, kind: str, options: Mapping[str, Any]) -> str:
    """The title of a waiting fault; its kind when nobody has words for it."""
    fitting = [
        trouble
        for trouble in BY_KEY.values()
        if (fault := trouble.faults.get(channel))
        and (fault.target, fault.kind) == (target, kind)
        and fault.options.get("fields") == options.get("fields")
    ]
    return fitting[0].title if fitting else kind
