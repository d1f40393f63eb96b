"""What merchants get of the sandbox's keys, as one JSON and as the files settings name."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from estation.sandbox import certifying, shangmi, world
from estation.sandbox.keys import (
    KeyRing,
    generation_name,
    make_keys,
    platform_serial,
    public_key_id,
)
from estation.sandbox.secret_files import write_secret


def write_credentials(data: Path, base_url: str) -> dict[str, Any]:
    """Make what is missing in `data` and return all that a merchant's program needs.

    `base_url` is where the sandbox listens, without a trailing slash. Keys are PEM text. While a
    rotation is under way the maps `public_keys` and `platform_certificates` hold both.
    """
    ring = make_keys(data)
    base_url = base_url.rstrip("/")
    return {
        "base_url": base_url,
        "wechat_pay": _wechat_pay(ring, base_url, world.COLLECTING),
        "wechat_pay_merchants": {
            merchant.mchid: _wechat_pay(ring, base_url, merchant) for merchant in world.MERCHANTS
        },
        "alipay": _alipay(ring, base_url, world.KEY_APP),
        "alipay_certificate": _alipay_certificate(ring, base_url),
        "wechat": {
            "api_url": f"{base_url}/wechat",
            "oauth_url": f"{base_url}/wechat",
            "appid": world.APPID,
            "secret": ring.app_secret,
            "mini_appid": world.MINI_APPID,
            "mini_secret": ring.mini_secret,
            "message_token": ring.message_token,
            "encoding_aes_key": ring.encoding_aes_key,
            "chat_url": f"{base_url}/wechat/chat",
        },
        "sms": {"send_url": f"{base_url}/sms/send", "page_url": f"{base_url}/sms"},
        "control_url": f"{base_url}/control",
        "panel_url": f"{base_url}/panel",
        "personas": [asdict(one) for one in world.PERSONAS],
    }


def _wechat_pay(ring: KeyRing, base_url: str, merchant: world.Merchant) -> dict[str, Any]:
    keys = ring.slot("wechat_public_key")
    certificates = ring.slot("wechat_certificate")
    return {
        "base_url": f"{base_url}/wechat-pay",
        "mchid": merchant.mchid,
        "role": merchant.role,
        "name": merchant.name,
        "appid": world.APPID,
        "mini_appid": world.MINI_APPID,
        "merchant_serial": merchant.serial,
        "merchant_private_key": ring.private_pem(merchant.key_name),
        "merchant_certificate": ring.certificate_pem(merchant.key_name),
        "api_v3_key": ring.api_v3_key(merchant).decode(),
        "public_key_id": public_key_id(keys.newest),
        "public_key": _public_key(ring, keys.newest),
        "public_keys": {public_key_id(one): _public_key(ring, one) for one in keys.alive},
        "platform_certificate_serial": platform_serial(ring, certificates.newest),
        "platform_certificate": _platform_certificate(ring, certificates.newest),
        "platform_certificates": {
            platform_serial(ring, one): _platform_certificate(ring, one)
            for one in certificates.alive
        },
        **(_in_sm(ring, merchant) if shangmi.is_available() else {}),
    }


def _in_sm(ring: KeyRing, merchant: world.Merchant) -> dict[str, str]:
    """The second set of keys, of the commercial cryptography."""
    own, theirs = (
        shangmi.merchant_key(ring.folder, merchant),
        shangmi.platform_key(ring.folder),
    )
    return {
        "sm_merchant_serial": own.serial,
        "sm_merchant_private_key": own.private_pem,
        "sm_merchant_certificate": own.certificate,
        "sm_platform_certificate_serial": theirs.serial,
        "sm_platform_certificate": theirs.certificate,
    }


def _public_key(ring: KeyRing, generation: int) -> str:
    return ring.public_pem(generation_name("wechat_public_key", generation))


def _platform_certificate(ring: KeyRing, generation: int) -> str:
    return ring.certificate_pem(generation_name("wechat_certificate", generation))


def _alipay(ring: KeyRing, base_url: str, app: world.AlipayApp) -> dict[str, str]:
    return {
        "gateway_url": f"{base_url}/alipay/gateway.do",
        "app_id": app.app_id,
        "mini_app_id": world.ALIPAY_MINI_APP_ID,
        "seller_id": world.ALIPAY_SELLER_ID,
        "app_private_key": ring.private_pem(app.key_name),
        "app_private_key_pkcs1": ring.private_pem(app.key_name, pkcs1=True),
        "alipay_public_key": _alipay_public_key(ring),
    }


def _alipay_public_key(ring: KeyRing) -> str:
    return ring.public_pem(generation_name("alipay_key", ring.slot("alipay_key").newest))


def _alipay_public_keys(ring: KeyRing) -> str:
    """Nothing names Alipay's bare keys: while both sign, a merchant keeps both, newest first."""
    alive = reversed(ring.slot("alipay_key").alive)
    return "".join(ring.public_pem(generation_name("alipay_key", one)) for one in alive)


def _alipay_certificate(ring: KeyRing, base_url: str) -> dict[str, str]:
    """The second application: the same words, certificates instead of Alipay's bare key."""
    app = world.CERTIFICATE_APP
    told = _alipay(ring, base_url, app)
    del told["alipay_public_key"]
    return {
        **told,
        "app_certificate": ring.certificate_pem(app.key_name),
        "app_cert_sn": certifying.cert_sn(ring.certificate(app.key_name)),
        "alipay_certificate": _alipay_leaf(ring),
        "alipay_cert_sn": certifying.cert_sn(certifying.first(_alipay_leaf(ring))),
        "alipay_root_certificate": ring.certificate_pem("alipay_root"),
        "alipay_root_cert_sn": certifying.root_cert_sn(ring.certificate_pem("alipay_root")),
    }


def _alipay_leaf(ring: KeyRing) -> str:
    return ring.certificate_pem(
        generation_name("alipay_certificate", ring.slot("alipay_certificate").newest)
    )


def export_secrets(data: Path, secrets_dir: Path) -> None:
    """Write the merchant's secret files as config/local.toml names them, and those of the
    payee merchants and of the certificate application beside them.

    `wechat_pay/platform_public_key.pem` stays the key that local.toml names by its id, also when
    a newer one exists: a merchant fetches the newer one by hand and names it anew.
    """
    ring = make_keys(data)
    app = world.CERTIFICATE_APP
    files = {
        "wechat_pay/merchant_key.pem": ring.private_pem(world.COLLECTING.key_name).encode(),
        "wechat_pay/api_v3.key": ring.api_v3_key(world.COLLECTING),
        "wechat_pay/platform_public_key.pem": _public_key(ring, 1).encode(),
        "alipay/merchant_key.pem": ring.private_pem(world.KEY_APP.key_name).encode(),
        "alipay/alipay_public_key.pem": _alipay_public_keys(ring).encode(),
        f"alipay/{app.app_id}/app_key.pem": ring.private_pem(app.key_name).encode(),
        f"alipay/{app.app_id}/app_cert.crt": ring.certificate_pem(app.key_name).encode(),
        f"alipay/{app.app_id}/alipay_cert.crt": _alipay_leaf(ring).encode(),
        f"alipay/{app.app_id}/alipay_root.crt": ring.certificate_pem("alipay_root").encode(),
        "wechat/app_secret": ring.app_secret.encode(),
        "wechat/mini_secret": ring.mini_secret.encode(),
        "wechat/message_token": ring.message_token.encode(),
        "wechat/encoding_aes_key": ring.encoding_aes_key.encode(),
    }
    for merchant in world.MERCHANTS:
        folder = f"wechat_pay/{merchant.mchid}"
        files[f"{folder}/merchant_key.pem"] = ring.private_pem(merchant.key_name).encode()
        files[f"{folder}/api_v3.key"] = ring.api_v3_key(merchant)
        if shangmi.is_available():
            own = shangmi.merchant_key(ring.folder, merchant)
            files[f"{folder}/sm_merchant_key.pem"] = own.private_pem.encode()
            files[f"{folder}/sm_merchant_cert.pem"] = own.certificate.encode()
    for generation in ring.slot("wechat_public_key").alive:
        name = f"wechat_pay/public_keys/{public_key_id(generation)}.pem"
        files[name] = _public_key(ring, generation).encode()
    for name, content in files.items():
        path = secrets_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_secret(path, content)
