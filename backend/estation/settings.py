"""Settings, read once: config/default.toml, config/<environment>.toml, then ESTATION_* variables.

Secrets are never in these files: they are files named relative to `secrets_dir`, or variables
`ESTATION_SECRET_<NAME>`.
"""

import functools
import os
import re
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from estation.shared.connections import postgres

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
CONTEXTS_WITH_TABLES = (
    "identity.models",
    "registry.models",
    "cases.models",
    "fees.models",
    "ledger.models",
    "payments.models",
    "reconciliation.models",
    "official_account.models",
    "outside.gate.models",
    "shared.outbox",
    "shared.sealing",
)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Payee(Strict):
    """Who receives money (收款单位), and what paper the payer gets for it."""

    code: str
    name: str
    kind: str  # treasury 国库, non_tax 财政非税专户, maintenance_fund 维修资金专户
    receipt_title: str
    merchants: dict[str, str] = {}  # channel -> account_id of the payee's own merchant account


class WechatPayMerchant(Strict):
    """One merchant number at WeChat Pay; file names are relative to secrets_dir.

    What signs for WeChat Pay: a public key (`public_key_id` with its file, which while it changes
    names several; others in `public_keys`: id -> file), platform certificates (`certificates`:
    fetched at start and kept fresh), or both while WeChat moves the merchant between them.
    """

    account_id: str
    name: str
    base_url: str
    mchid: str
    appid: str
    merchant_serial: str = ""
    merchant_serial_file: str | None = None  # the serial, or apiclient_cert.pem which names it
    private_key_file: str
    api_v3_key_file: str  # one key, or while it is being changed several, newest first
    public_key_id: str | None = None
    public_key_file: str | None = None
    public_keys: dict[str, str] = {}
    certificates: bool = False
    signature: Literal["rsa", "sm2"] = "rsa"

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.public_key_id is None) != (self.public_key_file is None):
            raise ValueError("public_key_id and public_key_file belong together")
        if not (self.public_key_files or self.certificates):
            raise ValueError("a public key or certificates = true must say who WeChat Pay is")
        if bool(self.merchant_serial) == (self.merchant_serial_file is not None):
            raise ValueError("give merchant_serial or merchant_serial_file")
        return self

    @property
    def public_key_files(self) -> dict[str, str]:
        """id -> file; the one we ask to be answered with stands first."""
        first = {self.public_key_id: self.public_key_file}
        return {k: v for k, v in first.items() if k and v} | self.public_keys


class WechatPayAccount(WechatPayMerchant):
    """One merchant at WeChat Pay, account_id "wechat_pay:<mchid>"."""

    mini_appid: str | None = None  # the mini-program whose users may pay here


class WechatCombineAccount(WechatPayMerchant):
    """The merchant that opens combined orders (合单), account_id "wechat_combine:<mchid>".

    Their sub-orders belong to merchants in `wechat_pay`.
    """


class AlipayAccount(Strict):
    """One merchant application at Alipay, in key mode (`alipay_public_key_file`) or in
    certificate mode (the three `…cert_file`)."""

    account_id: str  # "alipay:<app_id>"
    name: str
    gateway_url: str
    app_id: str
    seller_id: str
    private_key_file: str
    alipay_public_key_file: str = ""
    app_cert_file: str = ""  # our application's certificate
    alipay_cert_file: str = ""
    alipay_root_cert_file: str = ""
    bill_hosts: list[str]  # hosts from which a bill may be downloaded

    @property
    def certificates(self) -> tuple[str, str, str] | None:
        """The files of our certificate, Alipay's and the roots; None in key mode."""
        if self.alipay_public_key_file:
            return None
        return self.app_cert_file, self.alipay_cert_file, self.alipay_root_cert_file

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        files = (self.app_cert_file, self.alipay_cert_file, self.alipay_root_cert_file)
        is_mixed = any(files) if self.alipay_public_key_file else not all(files)
        if is_mixed:
            raise ValueError(
                f"{self.account_id}: either alipay_public_key_file, or all of app_cert_file, "
                "alipay_cert_file and alipay_root_cert_file"
            )
        return self


class Hall(Strict):
    """Where citizens find a person who helps them (人工窗口)."""

    name: str
    phone: str
    hours: str


class Wechat(Strict):
    """The official account (公众号)."""

    api_url: str
    oauth_url: str
    appid: str
    secret_file: str
    message_token_file: str = ""  # of its message door; "": the city takes no messages
    encoding_aes_key_file: str = ""  # of the encrypted and compatible modes; "": plain

    @model_validator(mode="after")
    def _key_with_token(self) -> Self:
        if self.encoding_aes_key_file and not self.message_token_file:
            raise ValueError("wechat: encoding_aes_key_file needs message_token_file")
        return self


class MiniProgram(Strict):
    """The city's mini-program (小程序); reached at the official account's `api_url`."""

    appid: str
    secret_file: str


class Gate(Strict):
    """Folders and keys of this side and its first peer; streams are named
    `<source>-<destination>`. Further peers are added by command (`estation gate add-source`)."""

    folder: Path
    stream_in: str
    stream_out: str
    signing_key_file: str
    peer_public_key_file: str
    pack_max_rows: int = 5000
    pack_max_age_seconds: float = 1.0
    regions: list[str] = []  # beginnings of GB/T 2260 codes the peer may write; none: any
    late_after_seconds: int = 600  # so old a copy is said to be late
    snapshot_hours: float = 24
    prove_minutes: float = 60
    max_unconfirmed_packets: int = 20_000  # sealed and not known to have arrived; then rows wait
    max_unconfirmed_mb: int = 4096
    disk_reserve_mb: int = 256  # left free on the gate folder's disk
    symbols_folder: Path | None = None
    """Where packets for this peer leave as symbols, for a device that loses files; None: whole."""
    symbols_repair_percent: int = Field(default=50, ge=0, le=400)


class _FromToml(BaseSettings):
    """Reads one section of the TOML files under the environment's variables."""

    section: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _TomlSection(cls.section, settings_cls))


class _WithSecrets(_FromToml):
    """Secrets of either side: files of one folder, or variables."""

    secrets_dir: Path

    def secret(self, name: str) -> bytes:
        """A secret's bytes, from `ESTATION_SECRET_<NAME>` or else from its file.

        Raises OSError naming the file.
        """
        given = os.environ.get(_secret_variable(name))
        return given.encode() if given else (self.secrets_dir / name).read_bytes()

    def secret_path(self, name: str) -> Path | None:
        """The file that may be replaced while we run; None for one from the environment."""
        return None if os.environ.get(_secret_variable(name)) else self.secrets_dir / name


class Settings(_WithSecrets):
    """Everything the online programs need; `inner` has its own few in `InnerSettings`."""

    model_config = SettingsConfigDict(
        env_prefix="ESTATION_", env_nested_delimiter="__", extra="forbid"
    )

    section = "online"

    environment: str
    public_url: str
    host: str
    port: int
    workers: int
    proxies_count: int  # reverse proxies before us, whose word on the caller's address counts
    log_as_json: bool
    database_url: str
    redis_url: str
    data_key_file: str
    ledger_key_file: str  # signs the published heads
    ledger_public_key_files: list[str]  # its public half, and those of former keys
    published_dir: Path  # the published heads as files, for others to copy
    city_name: str
    bureau_name: str
    order_minutes: int
    sms_url: str
    collecting_accounts: dict[str, str]  # channel -> account_id that collects city-wide
    combining_accounts: dict[str, str] = {}  # channel -> account_id that pays payees at once (合单)
    pay_code_key_file: str
    receipt_key_file: str  # proves the verification codes on receipts
    hall: Hall
    payees: list[Payee]
    wechat_pay: list[WechatPayAccount]
    wechat_combine: list[WechatCombineAccount] = []
    alipay: list[AlipayAccount]
    wechat: Wechat
    mini_program: MiniProgram | None = None
    gate: Gate

    @classmethod
    def read(cls) -> "Settings":
        """From the files and the environment. Raises pydantic's ValidationError naming a gap."""
        return cls.model_validate({})


class InnerSettings(_WithSecrets):
    """Everything the internal platform needs."""

    model_config = SettingsConfigDict(
        env_prefix="ESTATION_INNER_", env_nested_delimiter="__", extra="forbid"
    )

    section = "inner"

    environment: str
    host: str
    port: int
    log_as_json: bool
    database_url: str
    source: str
    region: str
    bureau_name: str
    online_url: str  # where citizens reach the online side; printed bills carry it
    pay_code_key_file: str
    payees: list[Payee]
    gate: Gate

    @classmethod
    def read(cls) -> "InnerSettings":
        return cls.model_validate({})


class _TomlSection(TomlConfigSettingsSource):
    """One table of default.toml overlaid by the same table of <environment>.toml."""

    def __init__(self, section: str, settings_cls: type[BaseSettings]) -> None:
        self._section = section
        super().__init__(settings_cls, toml_file=None)

    def __call__(self) -> dict[str, Any]:
        environment = os.environ.get("ESTATION_ENVIRONMENT", "local")
        common, special = map(_read, _files())
        merged: dict[str, Any] = {
            **common.get("both", {}),
            **common.get(self._section, {}),
            **special.get("both", {}),
            **special.get(self._section, {}),
        }
        return {"environment": environment, **merged}


class FileMark(NamedTuple):
    """A file's last write and last change in nanoseconds, and its size; zeros: no such file."""

    written: int
    changed: int
    size: int


def marks_of_files() -> tuple[FileMark, ...]:
    """What tells whether a file of settings was changed since."""
    return tuple(_mark(path) for path in _files())


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def read_again(kind: type[AnySettings]) -> AnySettings:
    """As `read`, from the files as they are now. Raises as that does, and what tomllib raises."""
    _read.cache_clear()
    return kind.model_validate({})


def _files() -> tuple[Path, Path]:
    environment = os.environ.get("ESTATION_ENVIRONMENT", "local")
    return CONFIG / "default.toml", CONFIG / f"{environment}.toml"


def _mark(path: Path) -> FileMark:
    try:
        found = path.stat()
    except FileNotFoundError:
        return FileMark(0, 0, 0)
    return FileMark(found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _secret_variable(name: str) -> str:
    """`wechat_pay/merchant_key.pem` -> ESTATION_SECRET_WECHAT_PAY_MERCHANT_KEY_PEM."""
    return "ESTATION_SECRET_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def database(url: str) -> dict[str, Any]:
    """Tortoise's configuration of the online database: one app, one chain of migrations."""
    return {
        "connections": {"default": postgres(url)},
        "apps": {
            "estation": {
                "models": [f"estation.{name}" for name in CONTEXTS_WITH_TABLES],
                "migrations": "estation.migrations",
            }
        },
        "use_tz": True,
        "timezone": "Asia/Shanghai",
    }


DATABASE = database(os.environ.get("ESTATION_DATABASE_URL", "asyncpg://localhost/unused"))
"""For `tortoise makemigrations`, which wants a module attribute and touches no database."""
