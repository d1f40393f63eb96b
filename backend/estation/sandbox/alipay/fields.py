"""Reads biz_content and checks every field by the published rules."""

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from typing import Any

from estation.sandbox.alipay.protocol import TradeError
from estation.shared.clock import BEIJING
from estation.shared.money import NotMoney, fen_from_yuan

MAX_FEN = 10_000_000_000
_NUMBER = re.compile(r"[A-Za-z0-9_]{1,64}")
_TIMEOUT = re.compile(r"([1-9]\d{0,4})([mhdc])")
CODE_LIFE = timedelta(hours=2)
LONGEST = timedelta(days=15)


def invalid(what: str) -> TradeError:
    return TradeError("ACQ.INVALID_PARAMETER", f"参数无效：{what}")


def text(biz: Mapping[str, Any], name: str, most: int, *, required: bool = False) -> str:
    value = biz.get(name)
    if value in (None, ""):
        if required:
            raise invalid(f"{name} 不能为空")
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise invalid(f"{name} 应为不超过 {most} 个字符的字符串")
    return value


def number(biz: Mapping[str, Any], name: str = "out_trade_no", *, required: bool = True) -> str:
    value = text(biz, name, 64, required=required)
    if value and not _NUMBER.fullmatch(value):
        raise invalid(f"{name} 只能包含字母、数字、下划线")
    return value


def money(biz: Mapping[str, Any], name: str) -> int:
    """Fen of a yuan amount, 0.01 to 100000000.00; a JSON number is read by its digits."""
    value = biz.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise invalid(f"{name} 不能为空")
    try:
        amount = fen_from_yuan(str(value))
    except NotMoney:
        raise invalid(f"{name} 应为最多两位小数的金额") from None
    if not 1 <= amount <= MAX_FEN:
        raise invalid(f"{name} 超出范围 0.01-100000000.00")
    return amount


def subject(biz: Mapping[str, Any]) -> str:
    value = text(biz, "subject", 256, required=True)
    if set(value) & set("/=&"):
        raise invalid("subject 不可使用特殊字符 / = &")
    return value


def expiry(biz: Mapping[str, Any], now: datetime) -> datetime:
    """The trade's end: time_expire, or timeout_express from now, or 15 days."""
    if absolute := text(biz, "time_expire", 32):
        return _absolute(absolute, now)
    relative = text(biz, "timeout_express", 6)
    if not relative:
        return now + LONGEST
    match = _TIMEOUT.fullmatch(relative)
    if match is None or (match[2] == "c" and match[1] != "1"):
        raise invalid("timeout_express 应为 1m～15d 或 1c")
    if match[2] == "c":
        tomorrow = now.astimezone(BEIJING).date() + timedelta(days=1)
        return datetime.combine(tomorrow, time(), tzinfo=BEIJING)
    unit = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]
    if unit * int(match[1]) > LONGEST:
        raise invalid("timeout_express 应为 1m～15d 或 1c")
    return now + unit * int(match[1])


def _absolute(value: str, now: datetime) -> datetime:
    for pattern in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"):
        try:
            moment = datetime.strptime(value, pattern).replace(tzinfo=BEIJING)
        except ValueError:
            continue
        return max(min(moment, now + LONGEST), now + timedelta(minutes=1))
    raise invalid("time_expire 应为 yyyy-MM-dd HH:mm:ss")
