"""Who exists outside the city: one merchant at each channel, and people with wallets.

The identifiers are those of config/local.toml; a merchant gets them by contract, so here they
are facts, not settings.
"""

from dataclasses import dataclass

MERCHANT_NAME = "江城市政务缴费归集户"

MCHID = "1900000109"
APPID = "wx8888888888888888"
MERCHANT_SERIAL = "4A0DE7F2C61B5D839E07A4C2F1B86D350E9C7A24"
PUBLIC_KEY_ID = "PUB_KEY_ID_0119000001092026"

ALIPAY_APP_ID = "2021000000000109"
ALIPAY_SELLER_ID = "2088000000000109"
ALIPAY_SELLER_EMAIL = "jiaofei@jiangcheng.example"

FEE_PER_MILLE = 6
"""Both channels keep 0.60 % of a payment, rounded half up to whole fen."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A person with a WeChat and an Alipay wallet. `key` is what programs choose by."""

    key: str
    name: str
    phone: str
    openid: str
    unionid: str
    buyer_id: str
    buyer_logon_id: str


PERSONAS = (
    Persona(
        "lin",
        "林晓舟",
        "13800000001",
        "oSandbox-LinXiaozhou00000001",
        "uSandbox-LinXiaozhou00000001",
        "2088000000100001",
        "138****0001",
    ),
    Persona(
        "zhou",
        "周建国",
        "13800000002",
        "oSandbox-ZhouJianguo00000002",
        "uSandbox-ZhouJianguo00000002",
        "2088000000100002",
        "zhou***@example.com",
    ),
    Persona(
        "chen",
        "陈一鸣（代缴人）",
        "13800000003",
        "oSandbox-ChenYiming000000003",
        "uSandbox-ChenYiming000000003",
        "2088000000100003",
        "138****0003",
    ),
)


def persona(key: str) -> Persona | None:
    """The person called `key`, or known by this openid or buyer_id."""
    return next(
        (one for one in PERSONAS if key in {one.key, one.openid, one.buyer_id}),
        None,
    )


def fee_fen(amount_fen: int) -> int:
    """What the channel keeps of a payment, in whole fen, half up."""
    return (amount_fen * FEE_PER_MILLE + 500) // 1000
