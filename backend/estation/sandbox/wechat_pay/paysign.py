"""The signature a page hands to WeixinJSBridge, checked as WeChat does before opening."""

import base64
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from estation.sandbox import shangmi, world
from estation.sandbox.keys import KeyRing


def check_pay_sign(
    keys: KeyRing, given: Mapping[str, str], prepay_id: str, *, mchid: str, appid: str
) -> None:
    """Raises ValueError or InvalidSignature unless this merchant signed these parameters.

    Of a combined order it is the combining merchant, with the appid of the prepay request.
    """
    merchant = world.merchant(mchid)
    if merchant is None:
        raise ValueError("mchid")
    package = f"prepay_id={prepay_id}"
    in_sm = given.get("signType") == "SM2" and shangmi.is_available()
    if not (in_sm or given.get("signType") == "RSA") or given.get("appId") != appid:
        raise ValueError("signType or appId")
    if given.get("package", package) != package:
        raise ValueError("package")
    lines = (given["appId"], given.get("timeStamp", ""), given.get("nonceStr", ""), package)
    message = "".join(f"{line}\n" for line in lines).encode()
    if in_sm:
        if not shangmi.merchant_key(keys.folder, merchant).verified(message, given["paySign"]):
            raise ValueError("paySign")
        return
    keys.private(merchant.key_name).public_key().verify(
        base64.b64decode(given["paySign"], validate=True),
        message,
        padding.PKCS1v15(),
        hashes.SHA256(),
    )
