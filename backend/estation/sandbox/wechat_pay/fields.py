"""Reads request bodies and checks every field by the published rules."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from estation.sandbox import world
from estation.sandbox.wechat_pay.protocol import PayError, bad_field

MAX_TOTAL_FEN = 10_000_000_000
_NUMBER = re.compile(r"[0-9A-Za-z_\-|*]{6,32}")
_REFUND_NUMBER = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:\d\d)")
_LIMITS = {"no_balance", "no_credit", "no_debit", "balance_only"}


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object of 1-3-byte UTF-8. Raises PayError 400 PARAM_ERROR."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise PayError(400, "PARAM_ERROR", "请求体不是合法的 JSON（UTF-8）") from None
    if not isinstance(value, dict):
        raise PayError(400, "PARAM_ERROR", "请求体应为 JSON 对象")
    # Beyond three bytes, or half a surrogate pair, which has no UTF-8 at all.
    signs = map(ord, json.dumps(value, ensure_ascii=False))
    if any(sign > 0xFFFF or 0xD800 <= sign <= 0xDFFF for sign in signs):
        raise PayError(400, "PARAM_ERROR", "参数含有超过 3 字节的 UTF-8 字符，请检查")
    return value


def text(
    values: Mapping[str, Any], name: str, most: int, *, required: bool = False, at: str = ""
) -> str:
    """A string of at most `most` characters; "" when it is optional and absent."""
    value = values.get(name)
    pointer = f"{at}/{name}"
    if value is None:
        if required:
            raise bad_field(pointer, "", "必填项缺失")
        return ""
    if not isinstance(value, str):
        raise bad_field(pointer, value, "应为字符串")
    if not value or len(value) > most:
        raise bad_field(pointer, value[:64], f"长度应为 1 到 {most} 个字符")
    return value


def section(
    values: Mapping[str, Any], name: str, *, required: bool = False, at: str = ""
) -> dict[str, Any]:
    value = values.get(name)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        raise bad_field(f"{at}/{name}", "", "必填项缺失" if value is None else "应为对象")
    return value


def fen(values: Mapping[str, Any], name: str, *, at: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_field(f"{at}/{name}", value, "应为整数，单位为分")
    if not 1 <= value <= MAX_TOTAL_FEN:
        raise bad_field(f"{at}/{name}", str(value)[:32], f"应在 1 到 {MAX_TOTAL_FEN} 之间")
    return value


def trade_number(value: str, pointer: str = "/out_trade_no") -> str:
    if not _NUMBER.fullmatch(value):
        raise bad_field(pointer, value[:64], "应为 6-32 位的数字、大小写字母或 _-|*")
    return value


def refund_number(value: str, pointer: str = "/out_refund_no") -> str:
    if not _REFUND_NUMBER.fullmatch(value):
        raise bad_field(pointer, value[:64], "应为 1-64 位的数字、大小写字母或 _-|*@")
    return value


def moment(value: str, pointer: str) -> datetime:
    """RFC 3339 with an offset."""
    try:
        if not _TIME.fullmatch(value):
            raise ValueError(value)
        return datetime.fromisoformat(value)
    except ValueError:
        raise bad_field(pointer, value[:64], "应为 RFC 3339 格式的时间") from None


def notify_url(values: Mapping[str, Any], *, required: bool, most: int = 255) -> str:
    url = text(values, "notify_url", most, required=required)
    if url and (not re.fullmatch(r"https?://[^\s?#]+", url)):
        raise bad_field("/notify_url", url, "应为 http(s) 绝对地址，且不能携带参数")
    return url


def currency(values: Mapping[str, Any], *, required: bool = False) -> None:
    value = text(values, "currency", 16, required=required, at="/amount")
    if value not in {"", "CNY"}:
        raise bad_field("/amount/currency", value, "只支持 CNY")


def own_mchid(
    value: str, merchant: world.Merchant, pointer: str = "/mchid", location: str = "body"
) -> None:
    """The number in the request must be that of who signed it."""
    if not value:
        raise bad_field(pointer, "", "必填项缺失", location)
    if value != merchant.mchid:
        raise PayError(400, "MCH_NOT_EXISTS", "商户号不存在，或与签名的商户号不一致")


def bound_appid(value: str) -> str:
    if value not in world.APPIDS:
        raise PayError(400, "APPID_MCHID_NOT_MATCH", "appid 和 mch_id 不匹配，请检查")
    return value


def check_prepay(values: Mapping[str, Any], trade_type: str, merchant: world.Merchant) -> None:
    """Every rule of the prepay request that needs no look at other orders."""
    appid = text(values, "appid", 32, required=True)
    own_mchid(text(values, "mchid", 32, required=True), merchant)
    bound_appid(appid)
    text(values, "description", 127, required=True)
    trade_number(text(values, "out_trade_no", 64, required=True))
    if expire := text(values, "time_expire", 64):
        moment(expire, "/time_expire")
    text(values, "attach", 128)
    notify_url(values, required=True)
    text(values, "goods_tag", 32)
    _check_limit_pay(values.get("limit_pay"))
    if not isinstance(values.get("support_fapiao", False), bool):
        raise bad_field("/support_fapiao", values["support_fapiao"], "应为布尔值")
    amount = section(values, "amount", required=True)
    fen(amount, "total", at="/amount")
    currency(amount)
    if trade_type == "JSAPI":
        _check_payer(values, "payer", appid)
    check_scene(values, trade_type)
    section(values, "detail")
    section(values, "settle_info")


SUB_ORDERS = range(2, 51)


def check_combine(values: Mapping[str, Any], trade_type: str, merchant: world.Merchant) -> None:
    """The same for a combined order."""
    appid = text(values, "combine_appid", 32, required=True)
    own_mchid(text(values, "combine_mchid", 32, required=True), merchant, "/combine_mchid")
    if not merchant.may_combine:
        raise PayError(403, "NO_AUTH", "商户号未开通合单支付权限")
    bound_appid(appid)
    trade_number(text(values, "combine_out_trade_no", 64, required=True), "/combine_out_trade_no")
    notify_url(values, required=True)
    for name in ("time_start", "time_expire"):
        if value := text(values, name, 64):
            moment(value, f"/{name}")
    _check_limit_pay(values.get("limit_pay"))
    if trade_type == "JSAPI":
        _check_payer(values, "combine_payer_info", appid)
    check_scene(values, trade_type)
    subs = sub_orders(values)
    for index, sub in enumerate(subs):
        _check_sub_order(sub, f"/sub_orders/{index}")
    if len({(sub["mchid"], sub["out_trade_no"]) for sub in subs}) < len(subs):
        raise bad_field("/sub_orders", "", "子单商户订单号重复")


def sub_orders(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """2 to 50 objects. Raises PayError."""
    subs = values.get("sub_orders")
    if not isinstance(subs, list) or len(subs) not in SUB_ORDERS:
        raise bad_field("/sub_orders", "", "应为 2 到 50 个子单的列表")
    if not all(isinstance(sub, dict) for sub in subs):
        raise bad_field("/sub_orders", "", "子单应为对象")
    return subs


def _check_sub_order(sub: Mapping[str, Any], at: str) -> None:
    if world.merchant(text(sub, "mchid", 32, required=True, at=at)) is None:
        raise PayError(400, "MCH_NOT_EXISTS", "子单商户号不存在")
    text(sub, "attach", 128, required=True, at=at)
    text(sub, "description", 127, required=True, at=at)
    text(sub, "detail", 6000, at=at)
    text(sub, "goods_tag", 32, at=at)
    trade_number(text(sub, "out_trade_no", 64, required=True, at=at), f"{at}/out_trade_no")
    amount = section(sub, "amount", required=True, at=at)
    fen(amount, "total_amount", at=f"{at}/amount")
    currency(amount)
    section(sub, "settle_info", at=at)


def check_scene(values: Mapping[str, Any], trade_type: str) -> None:
    """scene_info, which H5 cannot do without."""
    is_h5 = trade_type == "MWEB"
    scene = section(values, "scene_info", required=is_h5)
    if not scene:
        return
    at = "/scene_info"
    text(scene, "payer_client_ip", 45, required=True, at=at)
    text(scene, "device_id", 32, at=at)
    if is_h5:
        h5 = section(scene, "h5_info", required=True, at=at)
        kind = text(h5, "type", 32, required=True, at=f"{at}/h5_info")
        if kind not in {"iOS", "Android", "Wap"}:
            raise bad_field(f"{at}/h5_info/type", kind, "应为 iOS、Android 或 Wap")


def _check_limit_pay(value: Any) -> None:
    if value is not None and (not isinstance(value, list) or not set(map(str, value)) <= _LIMITS):
        raise bad_field("/limit_pay", str(value)[:64], "应为指定支付方式的列表")


def _check_payer(values: Mapping[str, Any], name: str, appid: str) -> None:
    payer = section(values, name, required=True)
    openid = text(payer, "openid", 128, required=True, at=f"/{name}")
    known = world.persona(openid)
    if known is None or openid not in {known.openid, known.mini_openid}:
        raise PayError(400, "PARAM_ERROR", "appid 和 openid 不匹配，请检查")
    if known.openid_of(appid) != openid:
        raise PayError(500, "OPENID_MISMATCH", "openid 与 appid 不匹配：它属于另一个应用")
