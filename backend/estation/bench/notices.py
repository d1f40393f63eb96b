"""Distinct WeChat Pay notices, signed and encrypted, as raw HTTP requests in one file."""

import base64
import json
import multiprocessing
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from estation.settings import WechatPayAccount
from estation.shared.clock import BEIJING

LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Signer:
    """WeChat Pay's side of one merchant."""

    account: WechatPayAccount
    private_key_pem: bytes
    api_v3_key: bytes
    now: datetime


def trade_number(number: int) -> str:
    return f"BENCH{number:015d}"


def amount_fen(number: int) -> int:
    """Different sums, so that no two notices are alike."""
    return 817_524 + number % 1000


def new_key_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(private_pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(private_pem, None)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def write_notices(file: Path, signer: Signer, count: int) -> None:
    """Length-prefixed requests for numbers 0..count-1, signed by all cores."""
    cores = multiprocessing.cpu_count()
    step = -(-count // cores)
    parts = [(signer, low, min(low + step, count)) for low in range(0, count, step)]
    with multiprocessing.get_context("spawn").Pool(cores) as pool, file.open("wb") as out:
        for part in pool.imap(_sign_range, parts):
            out.write(part)


def read_notices(file: Path) -> list[bytes]:
    data = file.read_bytes()
    return list(_parts(data))


def _parts(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        yield data[at : at + length]
        at += length


def _sign_range(part: tuple[Signer, int, int]) -> bytes:
    signer, low, high = part
    key = serialization.load_pem_private_key(signer.private_key_pem, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    cipher = AESGCM(signer.api_v3_key)
    requests = [_request(signer, key, cipher, number) for number in range(low, high)]
    return b"".join(LENGTH.pack(len(request)) + request for request in requests)


def _request(signer: Signer, key: rsa.RSAPrivateKey, cipher: AESGCM, number: int) -> bytes:
    body = _body(signer, cipher, number)
    # A minute ahead: the run ends within the five minutes a notice stays fresh.
    timestamp = str(int((signer.now + timedelta(seconds=60)).timestamp()))
    nonce = os.urandom(16).hex()
    message = f"{timestamp}\n{nonce}\n".encode() + body + b"\n"
    signature = base64.b64encode(key.sign(message, padding.PKCS1v15(), hashes.SHA256())).decode()
    head = (
        f"POST /notices/wechat-pay/{signer.account.mchid} HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\nUser-Agent: Mozilla/4.0\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Wechatpay-Serial: {signer.account.public_key_id}\r\n"
        "Wechatpay-Signature-Type: WECHATPAY2-SHA256-RSA2048\r\n"
        f"Wechatpay-Signature: {signature}\r\nWechatpay-Timestamp: {timestamp}\r\n"
        f"Wechatpay-Nonce: {nonce}\r\n\r\n"
    )
    return head.encode() + body


def _body(signer: Signer, cipher: AESGCM, number: int) -> bytes:
    nonce = os.urandom(6).hex()
    plaintext = json.dumps(_transaction(signer, number), ensure_ascii=False).encode()
    ciphertext = cipher.encrypt(nonce.encode(), plaintext, b"transaction")
    return json.dumps(
        {
            "id": f"EV-{number:030d}",
            "create_time": _moment(signer),
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": {
                "original_type": "transaction",
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": base64.b64encode(ciphertext).decode(),
                "associated_data": "transaction",
                "nonce": nonce,
            },
        },
        ensure_ascii=False,
    ).encode()


def _transaction(signer: Signer, number: int) -> dict[str, object]:
    total = amount_fen(number)
    return {
        "mchid": signer.account.mchid,
        "appid": signer.account.appid,
        "out_trade_no": trade_number(number),
        "transaction_id": f"4200{number:024d}",
        "trade_type": "NATIVE",
        "trade_state": "SUCCESS",
        "trade_state_desc": "支付成功",
        "bank_type": "CMB_DEBIT",
        "attach": "",
        "success_time": _moment(signer),
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": {
            "total": total,
            "payer_total": total,
            "currency": "CNY",
            "payer_currency": "CNY",
        },
    }


def _moment(signer: Signer) -> str:
    return signer.now.astimezone(BEIJING).isoformat(timespec="seconds")
