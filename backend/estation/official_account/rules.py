"""What the official account says to what a person does in it, and its menu."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

KEPT: Final = timedelta(days=1)
"""Deliveries of one message come within seconds; a day is for whoever looks into it."""

PAYING: Final = ("缴费", "交费", "付款", "支付", "税", "账单", "多少钱")
HELP: Final = ("人工", "电话", "窗口", "投诉", "帮助")
SILENT: Final = frozenset(
    {"unsubscribe", "VIEW", "view_miniprogram", "LOCATION", "TEMPLATESENDJOBFINISH"}
)
"""What nobody waits for an answer to."""
PAY_BUTTON: Final = "pay"


@dataclass(frozen=True, slots=True)
class City:
    """What of the city the words need; `url` without a slash at its end."""

    name: str
    url: str
    hall: str


def reply_to(*, kind: str, event: str, event_key: str, text: str, city: City) -> str:
    """Words for the person, with the way to paying inside WeChat; "" when none are wanted.

    No word depends on who asks: a reply passes WeChat's servers.
    """
    if kind == "event":
        if event in SILENT:
            return ""
        if event == "subscribe":
            return f"您好，这里是{city.name}不动产 e 站。{_pay(city)}{_help(city)}"
        return _pay(city) if event_key == PAY_BUTTON else f"{_pay(city)}{_help(city)}"
    if any(word in text for word in HELP):
        return _help(city)
    if any(word in text for word in PAYING):
        return _pay(city)
    return f"{_pay(city)}{_help(city)}"


def menu(city: City) -> dict[str, Any]:
    """The buttons under the conversation; each opens a page of ours inside WeChat."""
    return {
        "button": [
            {"type": "view", "name": "我要缴费", "url": f"{city.url}/fees"},
            {"type": "view", "name": "办理进度", "url": f"{city.url}/cases"},
            {"type": "click", "name": "怎样缴费", "key": PAY_BUTTON},
        ]
    }


def _pay(city: City) -> str:
    return f'查看和缴纳不动产税费：<a href="{city.url}/fees">点这里进入</a>，可直接用微信支付。\n'


def _help(city: City) -> str:
    return f"需要人工帮助：{city.hall}。"
