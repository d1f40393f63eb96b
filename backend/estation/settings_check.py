"""Do the settings fit together, are the keys there, and is nothing of the demo left?

Asked once before a program starts. Each trouble is one sentence that begins with the setting's
name, and all are told together. What a secret says is never told.
"""

import os
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from estation import settings as settings_module
from estation.settings import (
    ROOT,
    AlipayAccount,
    Gate,
    InnerSettings,
    Settings,
    WechatPayMerchant,
)
from estation.shared.crypto import read_data_keys
from estation.shared.keyring import read_keys
from estation.shared.places import collide, places

DEMO: Final = "local"
"""The one environment that runs with what the demo makes; all others are held to production."""

DEMO_MARK: Final = "MADE_BY_THE_DEMO"
"""A file in the folder of secrets that the demo made."""

TRIAL_HOSTS: Final = ("sandbox", "alipaydev")
"""In the names of the vendors' own trial servers."""

DEMO_IDENTIFIERS: Final = frozenset(
    {"mchid", "appid", "mini_appid", "app_id", "seller_id", "merchant_serial", "public_key_id"}
)

OWN_KEYS: Final[dict[str, Callable[[bytes], object]]] = {
    "data_key_file": read_data_keys,
    "pay_code_key_file": read_keys,
    "receipt_key_file": read_keys,
}
"""Those that hold several keys while they are being changed, by setting."""

Problems = Iterator[str]
AnySettings = Settings | InnerSettings
S = TypeVar("S", Settings, InnerSettings)


class WrongSettings(Exception):
    """`problems`: one sentence each, for the person who starts the program."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def online_settings(*, signs_heads: bool = False) -> Settings:
    """Read and looked at; only the worker signs the books' heads. Raises WrongSettings."""
    settings = _read(Settings.read)
    _refuse(
        *online_fits(settings),
        *files(settings, signs_heads=signs_heads),
        *folders(settings.gate),
        *demo_left(settings),
    )
    return settings


def inner_settings() -> InnerSettings:
    """Read and looked at. Raises WrongSettings."""
    settings = _read(InnerSettings.read)
    _refuse(*inner_fits(settings), *files(settings), *folders(settings.gate), *demo_left(settings))
    return settings


def _refuse(*problems: str) -> None:
    if problems:
        raise WrongSettings(list(problems))


def _read(read: Callable[[], S]) -> S:
    try:
        return read()
    except FileNotFoundError as failure:
        raise WrongSettings([f"{failure.filename}：没有这个设置文件。"]) from None
    except ValidationError as failure:
        raise WrongSettings([_said(one) for one in failure.errors()]) from None


def _said(error: Any) -> str:
    words = {"missing": "没有填写。", "extra_forbidden": "没有这项设置，请检查拼写。"}
    place = ".".join(str(part) for part in error["loc"]) or "设置"
    return f"{place}：{words.get(error['type'], error['msg'])}"


# Fitting together


def online_fits(settings: Settings) -> Problems:
    """What can be seen of the online side's settings without looking anywhere else."""
    yield from _in_range("port", settings.port, 1, 65535)
    yield from _in_range("workers", settings.workers, 1, 256)
    yield from _in_range("proxies_count", settings.proxies_count, 0, 10)
    yield from _in_range("order_minutes", settings.order_minutes, 1, 120)  # a code lives two hours
    yield from _databases(settings)
    yield from _addresses(settings)
    yield from _accounts(settings)
    yield from _payees(settings)
    yield from _apps(settings)
    yield from _gate(settings.gate)
    if not settings.ledger_public_key_files:
        yield "ledger_public_key_files：至少要有一个公钥，否则谁也无法核对账本。"


def inner_fits(settings: InnerSettings) -> Problems:
    """What can be seen of the internal platform's settings without looking anywhere else."""
    yield from _in_range("port", settings.port, 1, 65535)
    yield from _databases(settings)
    yield from _addresses(settings)
    yield from _unique("payees", (payee.code for payee in settings.payees))
    yield from _gate(settings.gate)
    if not settings.gate.stream_out.startswith(f"{settings.source}-"):
        out = settings.gate.stream_out
        yield f"source：{settings.source} 不是 gate.stream_out（{out}）的发出方。"
    if not (settings.region.isdigit() and len(settings.region) == 6):
        yield "region：应是六位行政区划代码（GB/T 2260）。"


def _in_range(name: str, value: float, least: float, most: float) -> Problems:
    if not least <= value <= most:
        yield f"{name}：{value} 不在 {least} 到 {most} 之间。"


def _unique(name: str, values: Iterable[str]) -> Problems:
    for value, times in Counter(values).items():
        if times > 1:
            yield f"{name}：{value} 写了 {times} 次，应当只有一次。"


def _databases(settings: AnySettings) -> Problems:
    if not settings.database_url.startswith("asyncpg://"):
        yield "database_url：应以 asyncpg:// 开头。"
    if isinstance(settings, Settings) and urlsplit(settings.redis_url).scheme not in (
        "redis", "rediss", "unix",
    ):  # fmt: skip
        yield "redis_url：应以 redis://、rediss:// 或 unix:// 开头。"


def _addresses(settings: AnySettings) -> Problems:
    for name, address in _urls(settings):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield f"{name}：{address} 不是 http(s) 地址。"
    for name, address in _urls(settings):
        if name in ("public_url", "online_url") and address.endswith("/"):
            yield f"{name}：{address} 末尾不要写斜线。"


def _urls(settings: AnySettings) -> Iterator[tuple[str, str]]:
    if isinstance(settings, InnerSettings):
        yield "online_url", settings.online_url
        return
    yield "public_url", settings.public_url
    yield "sms_url", settings.sms_url
    yield "wechat.api_url", settings.wechat.api_url
    yield "wechat.oauth_url", settings.wechat.oauth_url
    for merchant in (*settings.wechat_pay, *settings.wechat_combine):
        yield f"{merchant.account_id}.base_url", merchant.base_url
    for application in settings.alipay:
        yield f"{application.account_id}.gateway_url", application.gateway_url


def _accounts(settings: Settings) -> Problems:
    """Every account is named as its number says, and whom others name is there."""
    named = [(one.account_id, f"wechat_pay:{one.mchid}") for one in settings.wechat_pay]
    named += [(one.account_id, f"wechat_combine:{one.mchid}") for one in settings.wechat_combine]
    named += [(one.account_id, f"alipay:{one.app_id}") for one in settings.alipay]
    for account_id, right in named:
        if account_id != right:
            yield f"account_id：{account_id} 与商户号不符，应为 {right}。"
    yield from _unique("account_id", (account_id for account_id, _ in named))
    known = _known(settings)
    if not settings.collecting_accounts:
        yield "collecting_accounts：至少要有一个支付渠道的归集账户。"
    for channel, account_id in settings.collecting_accounts.items():
        yield from _exists(f"collecting_accounts.{channel}", account_id, channel, known)
    combiners = {"wechat_pay": {one.account_id for one in settings.wechat_combine}}
    for channel, account_id in settings.combining_accounts.items():
        yield from _exists(f"combining_accounts.{channel}", account_id, channel, combiners)
        if channel not in settings.collecting_accounts:
            yield f"combining_accounts.{channel}：这个渠道没有归集账户（collecting_accounts）。"
    for application in settings.alipay:
        if not application.bill_hosts:
            yield f"{application.account_id}.bill_hosts：没有写账单下载的主机，对账会缺这个渠道。"


def _known(settings: Settings) -> dict[str, set[str]]:
    return {
        "wechat_pay": {one.account_id for one in settings.wechat_pay},
        "alipay": {one.account_id for one in settings.alipay},
    }


def _exists(name: str, account_id: str, channel: str, known: dict[str, set[str]]) -> Problems:
    if channel not in known:
        yield f"{name}：没有 {channel} 这个渠道，只能是 {'、'.join(known)}。"
    elif account_id not in known[channel]:
        yield f"{name}：{account_id} 不在已设置的账户中。"


def _payees(settings: Settings) -> Problems:
    if not settings.payees:
        yield "payees：至少要有一个收款单位。"
    yield from _unique("payees", (payee.code for payee in settings.payees))
    known = _known(settings)
    for payee in settings.payees:
        for channel, account_id in payee.merchants.items():
            yield from _exists(f"payees.{payee.code}.merchants", account_id, channel, known)


def _apps(settings: Settings) -> Problems:
    """An openid counts only at its own appid: login and payment must speak of the same one."""
    for one in (*settings.wechat_pay, *settings.wechat_combine):
        if one.appid != settings.wechat.appid:
            yield (
                f"{one.account_id}.appid：{one.appid} 不是公众号的 wechat.appid"
                f"（{settings.wechat.appid}），公众号内将无法付款。"
            )
    ours = settings.mini_program
    paying = {payee.merchants.get("wechat_pay") for payee in settings.payees}
    paying.add(settings.collecting_accounts.get("wechat_pay"))
    for one in settings.wechat_pay:
        if one.mini_appid is not None and (ours is None or one.mini_appid != ours.appid):
            yield f"{one.account_id}.mini_appid：{one.mini_appid} 不是 mini_program.appid。"
        if one.mini_appid is None and ours is not None and one.account_id in paying:
            yield f"{one.account_id}.mini_appid：没有填写，小程序内将无法付给这个账户。"


def _gate(gate: Gate) -> Problems:
    yield from _in_range("gate.pack_max_rows", gate.pack_max_rows, 1, 1_000_000)
    yield from _in_range("gate.pack_max_age_seconds", gate.pack_max_age_seconds, 0.01, 3600)
    yield from _in_range("gate.late_after_seconds", gate.late_after_seconds, 1, 7 * 86400)
    yield from _in_range("gate.snapshot_hours", gate.snapshot_hours, 0.01, 31 * 24)
    yield from _in_range("gate.prove_minutes", gate.prove_minutes, 0.1, 7 * 24 * 60)
    for name in ("max_unconfirmed_packets", "max_unconfirmed_mb"):
        yield from _in_range(f"gate.{name}", getattr(gate, name), 1, 10_000_000)
    yield from _in_range("gate.disk_reserve_mb", gate.disk_reserve_mb, 0, 10_000_000)
    if gate.stream_in == gate.stream_out:
        yield "gate.stream_in：与 gate.stream_out 相同，收发应是两条流。"
    for region in gate.regions:
        if not (region.isdigit() and len(region) <= 6):
            yield f"gate.regions：{region} 不是行政区划代码的开头。"


# Files


def folders(gate: Gate) -> Problems:
    """Where symbols for the device go is there, may be written, and is none of the gate's own
    folders; those are made by their first file."""
    where = gate.symbols_folder
    if where is None:
        return
    if not where.is_absolute():
        yield f"gate.symbols_folder：{where} 不是绝对路径。"
    elif not where.is_dir():
        yield f"gate.symbols_folder：没有目录 {where}。"
    elif not os.access(where, os.W_OK | os.X_OK):
        yield f"gate.symbols_folder：目录 {where} 不能写入。"
    for place in places(gate.folder):
        if collide(where, place):
            yield f"gate.symbols_folder：{where} 与光闸目录 {place} 重叠，会把发出的文件送错。"


def files(settings: AnySettings, *, signs_heads: bool = False) -> Problems:
    """Every key is there and can be read; outside the demo not by everybody on the machine."""
    for name, file, is_secret in _named_files(settings, signs_heads=signs_heads):
        if settings.secret_path(file) is None:
            continue  # from the environment
        path = settings.secrets_dir / file
        if not path.is_file():
            yield f"{name}：没有文件 {path}。"
            continue
        try:
            content = path.read_bytes()
        except OSError as failure:
            yield f"{name}：文件 {path} 无法读取（{failure.strerror}）。"
            continue
        if not content.strip():
            yield f"{name}：文件 {path} 是空的。"
        elif (read := OWN_KEYS.get(name)) is not None:
            yield from _key_fault(name, path, content, read)
        mode = path.stat().st_mode & 0o777
        if is_secret and settings.environment != DEMO and mode & 0o007:
            yield f"{name}：文件 {path} 的权限是 {mode:o}，本机任何用户都能读写，请改为 600。"


def _key_fault(name: str, path: Path, content: bytes, read: Callable[[bytes], object]) -> Problems:
    try:
        read(content)
    except ValueError:
        yield (
            f"{name}：文件 {path} 不是密钥：应为 32 个随机字节，"
            "或每行一把（1: 或 2: 加 64 位十六进制），新的在前。"
        )


def _named_files(settings: AnySettings, *, signs_heads: bool) -> Iterator[tuple[str, str, bool]]:
    """(setting, file, is a secret) of everything below `secrets_dir`."""
    yield "pay_code_key_file", settings.pay_code_key_file, True
    yield "gate.signing_key_file", settings.gate.signing_key_file, True
    yield "gate.peer_public_key_file", settings.gate.peer_public_key_file, False
    if isinstance(settings, InnerSettings):
        return
    yield "data_key_file", settings.data_key_file, True
    yield "receipt_key_file", settings.receipt_key_file, True
    yield "wechat.secret_file", settings.wechat.secret_file, True
    for name in ("message_token_file", "encoding_aes_key_file"):
        if file := getattr(settings.wechat, name):
            yield f"wechat.{name}", file, True
    if settings.mini_program is not None:
        yield "mini_program.secret_file", settings.mini_program.secret_file, True
    if signs_heads:
        yield "ledger_key_file", settings.ledger_key_file, True
    for file in settings.ledger_public_key_files:
        yield "ledger_public_key_files", file, False
    for merchant in (*settings.wechat_pay, *settings.wechat_combine):
        yield from _merchant_files(merchant)
    for application in settings.alipay:
        yield from _application_files(application)


def _merchant_files(one: WechatPayMerchant) -> Iterator[tuple[str, str, bool]]:
    yield f"{one.account_id}.private_key_file", one.private_key_file, True
    yield f"{one.account_id}.api_v3_key_file", one.api_v3_key_file, True
    if one.merchant_serial_file is not None:
        yield f"{one.account_id}.merchant_serial_file", one.merchant_serial_file, False
    for file in one.public_key_files.values():
        yield f"{one.account_id}.public_key_file", file, False


def _application_files(one: AlipayAccount) -> Iterator[tuple[str, str, bool]]:
    yield f"{one.account_id}.private_key_file", one.private_key_file, True
    for name in (
        "alipay_public_key_file", "app_cert_file", "alipay_cert_file", "alipay_root_cert_file",
    ):  # fmt: skip
        if file := getattr(one, name):
            yield f"{one.account_id}.{name}", file, False


# Nothing of the demo


def demo_left(settings: AnySettings) -> Problems:
    """What of the demo would be dangerous, or false before citizens; nothing in the demo itself."""
    if settings.environment == DEMO:
        return
    yield from _environment_is_said(settings)
    yield from _open_addresses(settings)
    yield from _demo_numbers(settings)
    yield from _demo_names(settings)
    if (settings.secrets_dir / DEMO_MARK).exists() or settings.secrets_dir.resolve().is_relative_to(
        ROOT / ".local"
    ):
        yield f"secrets_dir：{settings.secrets_dir} 是示范城市生成的密钥，请换成本市自己的。"
    if isinstance(settings, Settings) and settings.proxies_count == 0:
        yield "proxies_count：为 0 时所有市民在限流中都算同一个来源，请填写前置反向代理的层数。"


def _environment_is_said(settings: AnySettings) -> Problems:
    file = settings_module.CONFIG / f"{settings.environment}.toml"
    tables = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    said = {**tables.get("both", {}), **tables.get(settings.section, {})}.get("environment")
    if said != settings.environment:
        yield f"environment：{file.name} 写的是 {said}，而程序以 {settings.environment} 启动。"


def _open_addresses(settings: AnySettings) -> Problems:
    for name, address in _urls(settings):
        parts = urlsplit(address)
        host = parts.hostname or ""
        if _is_here(host):
            yield f"{name}：{address} 是本机地址，那里只有示范用的沙箱。"
        elif any(word in host for word in TRIAL_HOSTS):
            yield f"{name}：{address} 是渠道的沙箱，付款不会是真的。"
        elif parts.scheme != "https" and name == "public_url":
            yield f"{name}：{address} 不是 https，登录 Cookie 会明文传送。"
        elif parts.scheme != "https":
            yield f"{name}：{address} 不是 https，内容会明文传送。"

    for application in settings.alipay if isinstance(settings, Settings) else ():
        for host in application.bill_hosts:
            if _is_here(host):
                yield f"{application.account_id}.bill_hosts：{host} 是本机，那里只有示范用的沙箱。"


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _demo_numbers(settings: AnySettings) -> Problems:
    """Numbers and identifiers of the sandbox's merchants: public, and nobody's real account."""
    demo = dict(_leaves(_demo_table("local.toml", settings.section)))
    known = {value for name, value in demo.items() if name.rpartition(".")[2] in DEMO_IDENTIFIERS}
    for name, value in _leaves(settings.model_dump(mode="json")):
        if value == "set-by-demo":
            yield f"{name}：没有填写（仍是 set-by-demo）。"
        elif name.rpartition(".")[2] in DEMO_IDENTIFIERS and value in known:
            yield f"{name}：{value} 是示范城市的，请换成本市的。"


def _demo_names(settings: AnySettings) -> Problems:
    """A citizen would read another city's name on a receipt."""
    demo = dict(_leaves(_demo_table("default.toml", settings.section)))
    ours = dict(_leaves(settings.model_dump(mode="json")))
    names = {value for name, value in demo.items() if name.rpartition(".")[2] == "name"}
    for name, value in ours.items():
        is_name = name.rpartition(".")[2] == "name" and value in names
        if is_name or (name in ("city_name", "bureau_name") and value == demo.get(name)):
            yield f"{name}：{value} 是示范城市的名称，请换成本市的。"


def _demo_table(file: str, section: str) -> dict[str, Any]:
    tables = tomllib.loads((settings_module.CONFIG / file).read_text(encoding="utf-8"))
    return {**tables.get("both", {}), **tables.get(section, {})}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(`payees.0.code`, value) of everything inside."""
    if isinstance(value, dict):
        inside: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    else:
        yield name, value
        return
    for part, one in inside:
        yield from _leaves(one, f"{name}.{part}" if name else str(part))
