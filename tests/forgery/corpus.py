"""Thousands of ways to lie about a payment, from one seed; each is refused by somebody's duty.

A forgery starts from a genuine notice of a real open order and spoils one thing. What the right
platform really signed but nobody may believe (another merchant's money, another key's
encryption) is signed here with the right key, so that the refusal comes from the check that is
meant and not from the signature before it.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.outside.counterparts import (
    API_V3_KEY,
    NOW,
    PUBLIC_KEY_ID,
    WechatNotice,
    alipay_form,
    alipay_notice,
    key,
    sealed,
    signed,
    transaction,
    wechat_signature,
)

WECHAT_DOOR = "/notices/wechat-pay/1900000109"
ALIPAY_DOOR = "/notices/alipay/2021000000000109"
FORM = "application/x-www-form-urlencoded"
SECOND = int(NOW.timestamp())


@dataclass(frozen=True, slots=True)
class Forgery:
    """`on_wire_only`: the lie is in the address, the length or a header no dict can hold."""

    kind: str
    door: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    on_wire_only: bool = False

    def with_header(self, name: str, value: str) -> "Forgery":
        others = tuple(pair for pair in self.headers if pair[0] != name)
        return replace(self, headers=(*others, (name, value)))

    def without_header(self, name: str) -> "Forgery":
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0] != name))

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


@dataclass(frozen=True)
class Genuine:
    """What the channels would truly say of one open order."""

    number: str
    fen: int

    @cached_property
    def wechat(self) -> Forgery:
        headers, body = WechatNotice(plaintext=self.transaction()).sent()
        return Forgery("", WECHAT_DOOR, tuple(headers.items()), body)

    @cached_property
    def alipay(self) -> Forgery:
        headers, body = alipay_form(self.fields())
        return Forgery("", ALIPAY_DOOR, tuple(headers.items()), body)

    def told_by_wechat(self, n: int, **changes: Any) -> Forgery:
        """Right in everything, or with these changes, about the n-th payment of this test."""
        money = {"transaction_id": f"4200002026030100000000{n:06d}", **changes}
        headers, body = WechatNotice(plaintext=self.transaction(**money)).sent()
        return Forgery("", WECHAT_DOOR, tuple(headers.items()), body)

    def told_by_alipay(self, n: int, **changes: str) -> Forgery:
        """As `told_by_wechat`."""
        money = {"trade_no": f"2026030122001400000000{n:06d}", **changes}
        headers, body = alipay_form(self.fields(**money))
        return Forgery("", ALIPAY_DOOR, tuple(headers.items()), body)

    def transaction(self, **changes: Any) -> dict[str, Any]:
        amount = {"total": self.fen, "payer_total": self.fen, "currency": "CNY"}
        return transaction(**{"out_trade_no": self.number, "amount": amount, **changes})

    def fields(self, **changes: str) -> dict[str, str]:
        yuan = f"{self.fen // 100}.{self.fen % 100:02d}"
        return alipay_notice(**{"out_trade_no": self.number, "total_amount": yuan, **changes})


Maker = Callable[[Random, Genuine], Forgery]


def corpus(
    seed: int, orders: Sequence[Genuine], *, per_kind: int, xml: Sequence[bytes]
) -> list[Forgery]:
    """`per_kind` forgeries of every kind, in an order of their own."""
    chance = Random(seed)  # noqa: S311 -- a repeatable crowd of liars
    made = [
        replace(maker(chance, chance.choice(orders)), kind=kind)
        for kind, maker in makers(xml).items()
        for _ in range(per_kind)
    ]
    chance.shuffle(made)
    return made


def makers(xml: Sequence[bytes]) -> dict[str, Maker]:
    """Kind -> how it is made."""
    return {
        **{f"wechat: {name}": maker for name, maker in WECHAT.items()},
        **{f"alipay: {name}": maker for name, maker in ALIPAY.items()},
        "wechat: xml": lambda chance, genuine: _xml(chance, genuine.wechat, xml),
        "alipay: xml": lambda chance, genuine: _xml(chance, genuine.alipay, xml),
    }


def wire_corpus(seed: int, orders: Sequence[Genuine], *, per_kind: int) -> list[Forgery]:
    """Lies that only exist on the wire."""
    chance = Random(seed)  # noqa: S311 -- a repeatable crowd of liars
    return [
        replace(maker(chance, chance.choice(orders)), kind=f"wire: {name}", on_wire_only=True)
        for name, maker in WIRE.items()
        for _ in range(per_kind)
    ]


# Signatures, for both channels.

WEAK_OR_OTHER = (hashes.SHA1(), hashes.MD5(), hashes.SHA512(), hashes.SHA224())  # noqa: S303


def spoilt_signature(chance: Random, right: str, message: bytes, signer: str) -> str:
    """Anything but `right`; no white space at the ends, which a header loses on its way."""
    return chance.choice(SPOILT)(chance, right, message, signer)


def _bit_flipped(chance: Random, right: str) -> str:
    raw = bytearray(base64.b64decode(right))
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return _b64(bytes(raw))


def _with_stranger_inside(chance: Random, right: str) -> str:
    at = chance.randrange(1, len(right) - 1)
    return right[:at] + chance.choice([" ", "\t", "=", "  ", "-", "%", "."]) + right[at:]


def _pss(chance: Random, message: bytes, signer: str) -> str:
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), chance.choice([0, 20, 32]))
    return _b64(key(signer).sign(message, scheme, hashes.SHA256()))


def _noise(chance: Random) -> str:
    return "".join(chance.choice("!@#$%^*(){}[]中é~") for _ in range(chance.randrange(1, 400)))


SPOILT: tuple[Callable[[Random, str, bytes, str], str], ...] = (
    lambda chance, right, message, signer: _bit_flipped(chance, right),
    lambda chance, right, message, signer: right[: chance.randrange(1, len(right) - 4)],
    lambda chance, right, message, signer: signed("a stranger", message),
    # Our own key: what an echo of our requests would carry.
    lambda chance, right, message, signer: signed("merchant", message),
    lambda chance, right, message, signer: signed(signer, message, chance.choice(WEAK_OR_OTHER)),
    lambda chance, right, message, signer: _pss(chance, message, signer),
    lambda chance, right, message, signer: "WECHATPAY/SIGNTEST/" + _b64(chance.randbytes(250)),
    lambda chance, right, message, signer: "WECHATPAY/SIGNTEST/" + right[: 353 - 19],
    lambda chance, right, message, signer: (right + "A" * 20)[:353],
    lambda chance, right, message, signer: _noise(chance),
    lambda chance, right, message, signer: _with_stranger_inside(chance, right),
    lambda chance, right, message, signer: _b64(right.encode()),
    lambda chance, right, message, signer: _b64(chance.randbytes(256)),
    lambda chance, right, message, signer: base64.b64decode(right).hex(),
)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# WeChat Pay: the platform did not say so.


def _w_signature(chance: Random, genuine: Genuine) -> Forgery:
    notice = genuine.wechat
    message = f"{SECOND}\n{notice.header('wechatpay-nonce')}\n".encode() + notice.body + b"\n"
    right = notice.header("wechatpay-signature")
    return notice.with_header(
        "wechatpay-signature", spoilt_signature(chance, right, message, "platform")
    )


def _w_serial(chance: Random, genuine: Genuine) -> Forgery:
    hexes = "".join(chance.choice("0123456789ABCDEF") for _ in range(chance.randrange(8, 41)))
    serial = chance.choice(
        [
            hexes, hexes, hexes.lower(), f"PUB_KEY_ID_{hexes}", PUBLIC_KEY_ID.lower(), "x" * 3000,
            f"{PUBLIC_KEY_ID}1", PUBLIC_KEY_ID[:-1], "not hex", "../../etc/passwd", "*", "é", "0",
            f"{PUBLIC_KEY_ID},{hexes}", "none", "undefined", f'"{PUBLIC_KEY_ID}"',
        ]
    )  # fmt: skip
    return genuine.wechat.with_header("wechatpay-serial", serial)


def _w_missing(chance: Random, genuine: Genuine) -> Forgery:
    name = chance.choice(["timestamp", "nonce", "signature", "serial"])
    if chance.random() < 0.5:
        return genuine.wechat.with_header(f"wechatpay-{name}", "")
    return genuine.wechat.without_header(f"wechatpay-{name}")


def _w_nonce(chance: Random, genuine: Genuine) -> Forgery:
    nonce = genuine.wechat.header("wechatpay-nonce")
    changed = chance.choice(
        [
            "x" * chance.randrange(1, 1001), nonce[::-1], nonce[:-1], nonce + "0", nonce.lower(),
            nonce + "\x01", "\x7f" * 5, nonce[:5] + "\t" + nonce[5:], "é" * 32, "\udcff" * 4,
        ]
    )  # fmt: skip
    return genuine.wechat.with_header("wechatpay-nonce", changed)


def _w_age(chance: Random, genuine: Genuine) -> Forgery:
    """Rightly signed over a moment that is not now, or over no moment at all."""
    past = chance.choice([301, 302, 3600, 10**6, SECOND])
    moments = [SECOND - past, SECOND + chance.choice([301, 302, 3600, 10**8])]
    text = chance.choice([*map(str, moments), str(SECOND * 1000), "-5", "1e9", "", "NaN", "inf",
                          f"{SECOND}.5", "+" + str(SECOND), "0x69a3", "9" * 30, "١٧٧٢", "now",
                          "2026-03-01T10:00:00+08:00", f"{SECOND} ", f"{SECOND}0"])  # fmt: skip
    notice = genuine.wechat
    return replace(
        notice,
        headers=(
            ("content-type", "application/json"),
            *wechat_signature(notice.body, timestamp=text).items(),
        ),
    )


def _w_age_unsigned(chance: Random, genuine: Genuine) -> Forgery:
    moment = SECOND + chance.choice([-300, -1, 1, 300, chance.randrange(-300, 300) or 7])
    return genuine.wechat.with_header("wechatpay-timestamp", str(moment))


def _w_scheme(chance: Random, genuine: Genuine) -> Forgery:
    schemes = [
        "WECHATPAY2-SM2-WITH-SM3",
        "WECHATPAY2-SHA1",
        "",
        "none",
        "MD5",
        "wechatpay2-sha256-rsa2048",
    ]
    return genuine.wechat.with_header("wechatpay-signature-type", chance.choice(schemes) or "-")


def _w_body(chance: Random, genuine: Genuine) -> Forgery:
    """Altered after it was signed."""
    body = genuine.wechat.body
    at = chance.randrange(len(body))
    changed = chance.choice(
        [
            body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :],
            body[:at], body + b" ", b" " + body, body + b"\n", body + body, b"",
            body[:-1] + b',"event_type":"TRANSACTION.SUCCESS"}',
            json.dumps(json.loads(body)).encode(),
            json.dumps(json.loads(body), separators=(",", ":")).encode(),
            b"\xef\xbb\xbf" + body, body.decode().encode("gbk"), body.decode().encode("utf-16"),
            body + b"\x00", body.replace(b"transaction", b"transactio\\u006e"),
            body + b" " * 40_000,
        ]
    )  # fmt: skip
    return replace(genuine.wechat, body=changed)


def _w_mixed(chance: Random, genuine: Genuine) -> Forgery:
    """One order's signature over another's words."""
    other = Genuine(genuine.number[::-1], genuine.fen + 1)
    return replace(genuine.wechat, body=other.wechat.body)


# WeChat Pay: signed by the platform, and still nothing we may believe.


def _signed(kind_of: Forgery, body: bytes) -> Forgery:
    headers = {"content-type": "application/json", **wechat_signature(body)}
    return replace(kind_of, headers=tuple(headers.items()), body=body)


def _envelope(resource: Any, **changes: Any) -> bytes:
    fields = {"id": "EV-1", "event_type": "TRANSACTION.SUCCESS", "resource": resource, **changes}
    return json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass")


def _w_shape(chance: Random, genuine: Genuine) -> Forgery:
    whole = json.loads(genuine.wechat.body)
    resource = whole["resource"]
    depth = chance.choice([100, 1100, 5000])
    body = chance.choice(
        [
            b"", b"[]", b"{}", b"null", b'"x"', b"1e999", b"{", b"\xff\xfe", b"NaN", b"\x00",
            b"[" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b'{"event_type":"A"}',
            genuine.wechat.body + b"x", genuine.wechat.body + genuine.wechat.body,
            b"\xef\xbb\xbf" + genuine.wechat.body, genuine.wechat.body.decode().encode("gbk"),
            genuine.wechat.body.decode().encode("utf-16"), b"<xml></xml>",
            _envelope(None), _envelope([]), _envelope("x"), _envelope({}), _envelope(5),
            _envelope({**resource, "nonce": 5}), _envelope({**resource, "ciphertext": None}),
            _envelope({**resource, "associated_data": 7}), _envelope(resource, event_type=None),
            _envelope(resource, event_type=""), _envelope(resource, event_type="x" * 500),
            _envelope(resource, event_type=["TRANSACTION.SUCCESS"]),
            b'{"x":"' + b"x" * chance.randrange(1, 60_000) + b'"}',
        ]
    )  # fmt: skip
    return _signed(genuine.wechat, body)


def _w_encryption(chance: Random, genuine: Genuine) -> Forgery:
    plaintext = json.dumps(genuine.transaction(), ensure_ascii=False).encode()
    right = sealed(plaintext)
    raw = base64.b64decode(right["ciphertext"])
    at = chance.randrange(len(raw))
    nonce = "".join(chance.choice("abcdef0123456789") for _ in range(chance.randrange(0, 40)))
    other_nonce = nonce if len(nonce) not in (0, 12) else "abcdef012346"
    changed = chance.choice(
        [
            {"ciphertext": _b64(raw[:at])}, {"ciphertext": _b64(raw[:-16])},
            {"ciphertext": _b64(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])},
            {"ciphertext": _b64(raw + b"\x00")}, {"ciphertext": ""}, {"ciphertext": "no base64!"},
            {"ciphertext": right["ciphertext"] + "=="}, {"ciphertext": "中文"},
            {"ciphertext": raw.hex()}, {"ciphertext": " " + right["ciphertext"]},
            {"associated_data": "refund"}, {"associated_data": ""}, {"associated_data": None},
            {"associated_data": "transaction\x00"}, {"nonce": ""}, {"nonce": other_nonce},
            {"nonce": "中文中文"}, {"nonce": "\udc80" * 12}, {"algorithm": "AEAD_SM4_GCM"},
            {"algorithm": None}, {"algorithm": "none"}, {"algorithm": ["AEAD_AES_256_GCM"]},
            {"ciphertext": _b64(plaintext)},
            {"ciphertext": _b64(AESGCM(b"f" * 32).encrypt(b"abcdef012345", plaintext,
                                                          b"transaction"))},
            {"ciphertext": _b64(AESGCM(API_V3_KEY[:16]).encrypt(b"abcdef012345", plaintext,
                                                                b"transaction"))},
        ]
    )  # fmt: skip
    return _signed(genuine.wechat, _envelope({**right, **changed}))


def _w_plaintext(chance: Random, genuine: Genuine) -> Forgery:
    """Rightly sealed, and no object inside."""
    inside = chance.choice([b"", b"[]", b"null", b"1", b"{", b"\xff", b'"x"', b"[" * 2000, b"<a/>"])
    return _signed(genuine.wechat, _envelope(sealed(inside)))


def _w_addressee(chance: Random, genuine: Genuine) -> Forgery:
    """Another merchant's money, rightly signed and sealed with our key."""
    other = str(chance.randrange(10**9, 10**10))
    changes: list[dict[str, Any]] = [
        {"mchid": other}, {"appid": f"wx{other}"}, {"mchid": None}, {"appid": None}, {"mchid": 1},
        {"mchid": "1900000109 "}, {"mchid": ["1900000109"]}, {"appid": "WX8888888888888888"},
        {"mchid": other, "amount": None}, {"mchid": 1900000109}, {"appid": ""},
        {"combine_mchid": other, "combine_out_trade_no": genuine.number},
    ]  # fmt: skip
    plaintext = genuine.transaction(**chance.choice(changes))
    return _signed(genuine.wechat, _envelope(sealed(json.dumps(plaintext).encode())))


def _w_refund_of_another(chance: Random, genuine: Genuine) -> Forgery:
    plaintext = {
        "mchid": str(chance.randrange(10**9)),
        "out_trade_no": genuine.number,
        "out_refund_no": "R1",
        "refund_status": "SUCCESS",
    }
    body = _envelope(sealed(json.dumps(plaintext).encode()), event_type="REFUND.SUCCESS")
    return _signed(genuine.wechat, body)


def _w_from_alipay(chance: Random, genuine: Genuine) -> Forgery:
    body = genuine.alipay.body
    if chance.random() < 0.5:
        return replace(genuine.wechat, body=body)
    return _signed(genuine.wechat, body)


WECHAT: dict[str, Maker] = {
    "signature": _w_signature,
    "serial": _w_serial,
    "missing header": _w_missing,
    "nonce": _w_nonce,
    "age, signed": _w_age,
    "age, altered": _w_age_unsigned,
    "scheme": _w_scheme,
    "body altered": _w_body,
    "body of another": _w_mixed,
    "signed shape": _w_shape,
    "signed encryption": _w_encryption,
    "signed plaintext": _w_plaintext,
    "signed addressee": _w_addressee,
    "signed refund of another": _w_refund_of_another,
    "alipay's words": _w_from_alipay,
}


# Alipay.


def _pairs(body: bytes) -> list[bytes]:
    return body.split(b"&")


def _joined(genuine: Genuine, pairs: list[bytes], joint: bytes = b"&") -> Forgery:
    return replace(genuine.alipay, body=joint.join(pairs))


def _value(genuine: Genuine, name: str) -> bytes:
    (found,) = [p for p in _pairs(genuine.alipay.body) if p.startswith(name.encode() + b"=")]
    return found.partition(b"=")[2]


def _changed(genuine: Genuine, name: str, value: bytes) -> Forgery:
    head = name.encode() + b"="
    return _joined(
        genuine,
        [head + value if p.startswith(head) else p for p in _pairs(genuine.alipay.body)],
    )


def _a_signature(chance: Random, genuine: Genuine) -> Forgery:
    fields = genuine.fields()
    message = "&".join(f"{k}={v}" for k, v in sorted(fields.items()) if v).encode()
    right = signed("alipay", message)
    spoilt = spoilt_signature(chance, right, message, "alipay")
    return _changed(genuine, "sign", quote_plus(spoilt, encoding="utf-8").encode())


def _a_sign_type(chance: Random, genuine: Genuine) -> Forgery:
    kind = chance.choice(["RSA", "MD5", "rsa2", "RSA2 ", "", "none", "DSA", "HMAC", "RSA2,RSA"])
    if kind == "RSA":
        headers, body = alipay_form(genuine.fields(), sign_type="RSA")
        return Forgery("", ALIPAY_DOOR, tuple(headers.items()), body)
    if chance.random() < 0.2:
        return _joined(genuine, [p for p in _pairs(genuine.alipay.body) if b"sign_type" not in p])
    return _changed(genuine, "sign_type", quote_plus(kind).encode())


def _a_unsigned(chance: Random, genuine: Genuine) -> Forgery:
    kept = [p for p in _pairs(genuine.alipay.body) if not p.startswith(b"sign=")]
    extra = chance.choice([[], [b"sign="], [b"Sign=" + _value(genuine, "sign")], [b"sign"]])
    return _joined(genuine, kept + extra)


def _a_doubled(chance: Random, genuine: Genuine) -> Forgery:
    """Two readers of this form could see two orders, sums, signatures."""
    pairs = _pairs(genuine.alipay.body)
    twice = chance.choice(pairs).partition(b"=")[0]
    other = chance.choice([b"1", b"", _value(genuine, twice.decode()), b"0.01", b"%00"])
    name = chance.choice([twice, b"%" + binascii.hexlify(twice[:1]) + twice[1:]])
    extra = name + b"=" + other
    return _joined(genuine, [extra, *pairs] if chance.random() < 0.5 else [*pairs, extra])


def _a_altered(chance: Random, genuine: Genuine) -> Forgery:
    """A field changed, dropped or added after signing."""
    names = sorted(name for name, value in genuine.fields().items() if value)
    name = chance.choice(names)
    way = chance.randrange(5)
    if way == 0:
        return _joined(
            genuine,
            [p for p in _pairs(genuine.alipay.body) if not p.startswith(name.encode() + b"=")],
        )
    if way == 1:
        added = chance.choice([b"x=1", b"trade_status2=TRADE_SUCCESS", b"%00=1", b"seller_id[]=1"])
        return _joined(genuine, [*_pairs(genuine.alipay.body), added])
    if way == 2:
        sums = [
            b"0.01",
            b"0",
            b"-1",
            b"1e3",
            b"8175.240",
            b"99999999.99",
            b"0x10",
            b"NaN",
            b"1,000",
        ]
        return _changed(genuine, "total_amount", chance.choice(sums))
    right = _value(genuine, name)
    spoilt = chance.choice(
        [right + b"1", right[:-1] + b"%0A", b"%00" + right, right + b"%20", b"%FF"]
    )
    return _changed(genuine, name, spoilt if spoilt != right else right + b"x")


def _a_escapes(chance: Random, genuine: Genuine) -> Forgery:
    """Pluses, doubled percents, other separators: what came out is not what was signed."""
    sign = _value(genuine, "sign")
    way = chance.randrange(6)
    if way == 0:
        raw_plus = sign.replace(b"%2B", b"+")
        return _changed(genuine, "sign", raw_plus if raw_plus != sign else sign + b"+")
    if way == 1:
        return _changed(genuine, "sign", sign.replace(b"%", b"%25"))
    if way == 2:
        return _changed(genuine, "subject", _value(genuine, "subject").replace(b"%2B", b"+"))
    if way == 3:
        return _joined(
            genuine, _pairs(genuine.alipay.body), chance.choice([b";", b"&&", b"&amp;", b"\n"])
        )
    if way == 4:
        return replace(genuine.alipay, body=quote(genuine.alipay.body).encode())
    return _changed(genuine, "gmt_payment", _value(genuine, "gmt_payment").replace(b"+", b"%2B"))


def _a_encoding(chance: Random, genuine: Genuine) -> Forgery:
    body = genuine.alipay.body
    if chance.random() < 0.4:
        # Rightly signed words in a charset that is none, or is not theirs.
        charset = chance.choice(["utf-16", "utf-7", "latin-1", "x", "ascii", "big5"])
        return _form_signed({**genuine.fields(), "charset": charset})
    if chance.random() < 0.3:
        return _form_signed({**genuine.fields(), "charset": "utf-8"}, bad_bytes=b"\xff\xfe\x80")
    return replace(
        genuine.alipay,
        body=chance.choice(
            [
                b"\xef\xbb\xbf" + body, body.decode().encode("utf-16"), body + b"\xff=\xff",
                body + b"&\x00=1", body + b"\x00", body + b"\r\n", b"&" + body, body + b"&",
                b"", b"=", b"&", b"sign=", b"%", b"a" * chance.randrange(1, 60_000), body[::-1],
                body.replace(b"charset=utf-8", b"charset=gbk"), body[: chance.randrange(len(body))],
            ]
        ),
    )  # fmt: skip


def _form_signed(fields: dict[str, str], *, bad_bytes: bytes = b"") -> Forgery:
    """Signed over exactly these bytes, whatever they say about themselves."""
    values = {name: value.encode() for name, value in fields.items() if value}
    if bad_bytes:
        values["subject"] = bad_bytes
    message = b"&".join(b"%s=%s" % (n.encode(), values[n]) for n in sorted(values))
    values |= {"sign_type": b"RSA2", "sign": signed("alipay", message).encode()}
    body = "&".join(f"{name}={quote_plus(value)}" for name, value in values.items()).encode()
    return Forgery("", ALIPAY_DOOR, (("content-type", FORM),), body)


def _a_addressee(chance: Random, genuine: Genuine) -> Forgery:
    """Another merchant's money, rightly signed by Alipay."""
    other = str(chance.randrange(2 * 10**15, 3 * 10**15))
    change = chance.choice(
        [
            {"app_id": other}, {"seller_id": other}, {"app_id": ""}, {"seller_id": ""},
            {"app_id": other, "seller_id": other}, {"app_id": "2021000000000109 "},
            {"seller_id": other, "total_amount": "x"},
        ]
    )  # fmt: skip
    return _form_signed(genuine.fields(**change))


def _a_page_return(chance: Random, genuine: Genuine) -> Forgery:
    """What the payer's browser carries back has the same signature; it is no notice."""
    kept = ["app_id", "charset", "out_trade_no", "seller_id", "total_amount", "trade_no", "version"]
    fields = genuine.fields()
    names = chance.sample(kept, chance.randrange(3, len(kept)))
    return _form_signed({name: fields[name] for name in {*names, "app_id"}})


def _a_mixed(chance: Random, genuine: Genuine) -> Forgery:
    other = Genuine(genuine.number[::-1], genuine.fen + chance.randrange(1, 1000))
    return _changed(genuine, "sign", quote_plus(_sign_of(other)).encode())


def _sign_of(genuine: Genuine) -> str:
    message = "&".join(f"{k}={v}" for k, v in sorted(genuine.fields().items()) if v)
    return signed("alipay", message.encode())


def _a_from_wechat(chance: Random, genuine: Genuine) -> Forgery:
    return replace(genuine.alipay, body=genuine.wechat.body)


ALIPAY: dict[str, Maker] = {
    "signature": _a_signature,
    "sign_type": _a_sign_type,
    "unsigned": _a_unsigned,
    "doubled": _a_doubled,
    "altered": _a_altered,
    "escapes": _a_escapes,
    "encoding": _a_encoding,
    "signed addressee": _a_addressee,
    "page return": _a_page_return,
    "signature of another": _a_mixed,
    "wechat's words": _a_from_wechat,
}


def _xml(chance: Random, genuine: Forgery, files: Sequence[bytes]) -> Forgery:
    return replace(genuine, body=chance.choice([*files, billion_laughs(), quadratic()]))


def billion_laughs() -> bytes:
    lines = [b'<?xml version="1.0"?>', b'<!DOCTYPE lolz [ <!ENTITY lol "lol">']
    for n in range(1, 10):
        inner = b"&lol%d;" % (n - 1) if n > 1 else b"&lol;"
        lines.append(b'<!ENTITY lol%d "%s">' % (n, inner * 10))
    return b"\n".join([*lines, b"]>", b"<xml><out_trade_no>&lol9;</out_trade_no></xml>"])


def quadratic() -> bytes:
    return b'<!DOCTYPE x [<!ENTITY a "%s">]><x>%s</x>' % (b"a" * 20_000, b"&a;" * 5_000)


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


def by_kind(forgeries: Sequence[Forgery]) -> Iterator[tuple[str, int]]:
    for kind in sorted({one.kind for one in forgeries}):
        yield kind, sum(one.kind == kind for one in forgeries)
