"""Who exists outside the city: merchants and applications at the channels, people with wallets.

The identifiers are those of config/local.toml; a merchant gets them by contract, so here they
are facts, not settings.
"""

from dataclasses import dataclass

APPID = "wx8888888888888888"
"""The official account."""
ACCOUNT_ID = "gh_sandbox000001"
"""The official account's own name in messages (原始 ID)."""
MINI_APPID = "wx7777777777777777"
"""The mini-program."""
APPIDS = (APPID, MINI_APPID)
PUBLIC_KEY_ID = "PUB_KEY_ID_0119000001092026"


@dataclass(frozen=True, slots=True)
class Merchant:
    """A merchant of WeChat Pay; both appids are bound to each of them.

    `key_name` and `api_v3_name` are its files among the keys.
    """

    mchid: str
    role: str
    name: str
    serial: str
    key_name: str
    api_v3_name: str
    may_combine: bool = False

    @property
    def sm_serial(self) -> str:
        """Of its second API certificate, the one of the commercial cryptography."""
        return f"7{self.serial[1:]}"


def _payee(mchid: str, role: str, name: str, serial: str, *, may_combine: bool = False) -> Merchant:
    files = f"wechat_merchant_{mchid}", f"api_v3_{mchid}.key"
    return Merchant(mchid, role, name, serial, *files, may_combine=may_combine)


COLLECTING = Merchant(
    "1900000109",
    "collecting",
    "江城市政务缴费归集户",
    "4A0DE7F2C61B5D839E07A4C2F1B86D350E9C7A24",
    "wechat_merchant",
    "api_v3.key",
)
COMBINING = _payee(
    *("1900000100", "combining", "江城市不动产一并缴费"),
    "51C3A9E07B2F4D6880E1F5A7392C4B6D8E0F1A23",
    may_combine=True,
)
MERCHANTS = (
    COLLECTING,
    COMBINING,
    _payee(
        *("1900000111", "treasury", "江城市国库税款专户"),
        "5E7A1B3C9D2F40618A7B5C3D1E9F20486A7C8E01",
    ),
    _payee(
        *("1900000112", "non_tax", "江城市财政非税专户"),
        "63F0D8B7A6C5E4932817F6E5D4C3B2A190817263",
    ),
    _payee(
        *("1900000113", "maintenance_fund", "江城市住宅维修资金专户"),
        "6B9C8D7E6F5041322314A5B6C7D8E9FA0B1C2D3E",
    ),
)


def merchant(mchid: str) -> Merchant | None:
    return next((one for one in MERCHANTS if one.mchid == mchid), None)


MCHID = COLLECTING.mchid
MERCHANT_NAME = COLLECTING.name
MERCHANT_SERIAL = COLLECTING.serial


@dataclass(frozen=True, slots=True)
class AlipayApp:
    """An application at Alipay; both belong to the one seller."""

    app_id: str
    key_name: str
    with_certificate: bool


KEY_APP = AlipayApp("2021000000000109", "alipay_merchant", with_certificate=False)
CERTIFICATE_APP = AlipayApp("2021000000000110", "alipay_app_2", with_certificate=True)
ALIPAY_APPS = (KEY_APP, CERTIFICATE_APP)
ALIPAY_APP_ID = KEY_APP.app_id
ALIPAY_MINI_APP_ID = "2021000000000112"
"""The mini-program whose payers alipay.trade.create names; it calls no gateway itself."""
ALIPAY_SELLER_ID = "2088000000000109"
ALIPAY_SELLER_EMAIL = "jiaofei@jiangcheng.example"


def alipay_app(app_id: str) -> AlipayApp | None:
    return next((one for one in ALIPAY_APPS if one.app_id == app_id), None)


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
    mini_openid: str
    buyer_open_id: str

    def openid_of(self, appid: str) -> str:
        """The same person has another openid under every appid."""
        return self.mini_openid if appid == MINI_APPID else self.openid


PERSONAS = (
    Persona(
        "lin",
        "林晓舟",
        "13800000001",
        "oSandbox-LinXiaozhou00000001",
        "uSandbox-LinXiaozhou00000001",
        "2088000000100001",
        "138****0001",
        "oMiniApp-LinXiaozhou00000001",
        "01aSandboxLinXiaozhou00000001",
    ),
    Persona(
        "zhou",
        "周建国",
        "13800000002",
        "oSandbox-ZhouJianguo00000002",
        "uSandbox-ZhouJianguo00000002",
        "2088000000100002",
        "zhou***@example.com",
        "oMiniApp-ZhouJianguo00000002",
        "01aSandboxZhouJianguo00000002",
    ),
    Persona(
        "chen",
        "陈一鸣（代缴人）",
        "13800000003",
        "oSandbox-ChenYiming000000003",
        "uSandbox-ChenYiming000000003",
        "2088000000100003",
        "138****0003",
        "oMiniApp-ChenYiming000000003",
        "01aSandboxChenYiming000000003",
    ),
)


def persona(key: str) -> Persona | None:
    """The person called `key`, or known by this openid, buyer_id or buyer_open_id."""
    return next(
        (
            one
            for one in PERSONAS
            if key in {one.key, one.openid, one.mini_openid, one.buyer_id, one.buyer_open_id}
        ),
        None,
    )


def fee_fen(amount_fen: int) -> int:
    """What the channel keeps of a payment, in whole fen, half up."""
    return (amount_fen * FEE_PER_MILLE + 500) // 1000
