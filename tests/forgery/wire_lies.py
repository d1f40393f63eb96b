"""Lies in the address, the length, or a header that no mapping can hold."""

from dataclasses import replace
from random import Random

from tests.forgery.forging import ALIPAY_DOOR, Forgery, Genuine, Maker

# On the wire only.


def _doubled_header(chance: Random, genuine: Genuine) -> Forgery:
    name = chance.choice(["serial", "signature", "nonce", "timestamp"])
    wrong = {"serial": "ABCDEF0123", "nonce": "x", "timestamp": "1", "signature": "AAAA"}[name]
    extra = (
        f"wechatpay-{name}",
        chance.choice([wrong, genuine.wechat.header(f"wechatpay-{name}")]),
    )
    pairs = list(genuine.wechat.headers)
    pairs.insert(chance.choice([0, len(pairs)]), extra)
    return replace(genuine.wechat, headers=tuple(pairs))


def _wrong_type(chance: Random, genuine: Genuine) -> Forgery:
    notice = chance.choice([genuine.wechat, genuine.alipay])
    types = ["text/xml", "text/plain", "", "application/xml", "multipart/form-data; boundary=x",
             "application/json/x", "application/x-www-form-urlencodedx", "*/*", "é",
             "a" * 2000]  # fmt: skip
    if chance.random() < 0.2:
        return notice.without_header("content-type")
    return notice.with_header("content-type", chance.choice(types))


def _other_path(chance: Random, genuine: Genuine) -> Forgery:
    notice = chance.choice([genuine.wechat, genuine.alipay])
    kind, account = notice.door.removeprefix("/notices/").split("/")
    other = {"wechat-pay": "alipay", "alipay": "wechat-pay"}[kind]
    door = chance.choice(
        [
            f"/notices/{other}/{account}", f"/notices/{kind}/1", f"/notices/{kind}/{account}0",
            f"/notices/{kind}/..%2f{account}", f"/notices/{kind}/../{other}/{account}",
            f"/notices/{kind}/%00{account}", f"/notices/{kind}/{account}%00",
            f"/notices/{kind}/{account}%20", f"/notices/{kind}/%EF%BC%91{account[1:]}",
            f"/notices/{kind}/{account}/x", f"/notices/{kind}/", f"/notices/{kind}",
            f"/NOTICES/{kind}/{account}", f"/notices/{kind}/{'9' * 3000}", "/notices", "/",
            f"/notices/{kind}/{account};x=1", f"/notices/{kind}:{account}", "/notices/x/y",
            f"/notices/{kind}/alipay:{account}", f"/notices/{kind}/%FF%FE", f"//notices/{kind}/x",
            f"/notices/{other}/{'1900000109' if other == 'wechat-pay' else '2021000000000109'}",
        ]
    )  # fmt: skip
    return replace(notice, door=door)


def _too_long(chance: Random, genuine: Genuine) -> Forgery:
    notice = chance.choice([genuine.wechat, genuine.alipay])
    return replace(notice, body=notice.body + b" " * chance.choice([65_536, 70_000, 140_000]))


def _other_method(chance: Random, genuine: Genuine) -> Forgery:
    """The body comes as a query, where logs would keep it."""
    return replace(genuine.alipay, door=f"{ALIPAY_DOOR}?{genuine.alipay.body.decode()}", body=b"")


def _line_break(chance: Random, genuine: Genuine) -> Forgery:
    """A header that carries another header inside."""
    nonce = genuine.wechat.header("wechatpay-nonce")
    value = nonce + chance.choice(["\r\nwechatpay-serial: x", "\nx", "\r", "\x00"])
    return genuine.wechat.with_header("wechatpay-nonce", value)


WIRE: dict[str, Maker] = {
    "doubled header": _doubled_header,
    "content type": _wrong_type,
    "path": _other_path,
    "too long": _too_long,
    "in the query": _other_method,
    "line break in a header": _line_break,
}
