"""Lies in Alipay's form."""

import binascii
from dataclasses import replace
from random import Random
from urllib.parse import quote, quote_plus

from tests.forgery.forging import ALIPAY_DOOR, FORM, Forgery, Genuine, Maker, spoilt_signature
from tests.outside.counterparts import (
    alipay_form,
    signed,
)

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
    """D17: the signature is absent, empty, or under another name."""
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
