"""What is wrong with the settings is said in one sentence each, before a program starts."""

import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from estation import settings as settings_module
from estation import settings_check
from estation.cli import main
from estation.settings import CONFIG, InnerSettings, Settings
from estation.settings_check import DEMO_MARK, WrongSettings, inner_settings, online_settings
from estation.shared.keyring import KeptKey, new_key, write_keys

EXAMPLE = (CONFIG / "production.example.toml").read_text(encoding="utf-8")
ALTERNATIVE = re.compile(r"^# (\w+) = ", re.MULTILINE)


SYMBOLS_LINE = re.compile(r"^# symbols_folder = .*$", re.MULTILINE)


class City:
    """A city's config folder with the example in use, and the keys it names."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.secrets = folder / "secrets"
        self.config.mkdir()
        self.text = EXAMPLE.replace("/etc/estation/secrets", str(self.secrets))
        for name in ("default.toml", "local.toml"):
            shutil.copy(CONFIG / name, self.config / name)
        self.write()
        for settings in (Settings.read(), InnerSettings.read()):
            for _, name, _ in settings_check._named_files(settings, signs_heads=True):
                path = self.secrets / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"made up".ljust(32, b"."))
                path.chmod(0o600)

    def write(self, environment: str = "production") -> None:
        (self.config / f"{environment}.toml").write_text(self.text, encoding="utf-8")
        settings_module._read.cache_clear()

    def change(self, *changes: tuple[str, str]) -> None:
        for before, after in changes:
            assert before in self.text, before
            self.text = self.text.replace(before, after)
        self.write()

    def problems(self, read: Callable[[], Any] = online_settings) -> list[str]:
        try:
            read()
        except WrongSettings as wrong:
            return wrong.problems
        return []


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[City]:
    for name in [one for one in os.environ if one.startswith("ESTATION_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "production")
    monkeypatch.setattr(settings_module, "CONFIG", tmp_path / "config")
    yield City(tmp_path)
    settings_module._read.cache_clear()


# The example


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def unnamed(model: type[BaseModel], tables: list[dict[str, Any]], others: set[str]) -> set[str]:
    """The settings of `model` that stand in none of its tables, nor as an alternative."""
    missing = set()
    for name, field in model.model_fields.items():
        values = [table[name] for table in tables if name in table]
        if not values and name not in others:
            missing.add(f"{model.__name__}.{name}")
        for inner in models_in(field.annotation):
            found = [one for value in values for one in (value if type(value) is list else [value])]
            missing |= unnamed(inner, found, others)
    return missing


def unnamed_in(text: str) -> set[str]:
    tables, others = tomllib.loads(text), set(ALTERNATIVE.findall(text))
    online, inner = ({**tables["both"], **tables[side]} for side in ("online", "inner"))
    return unnamed(Settings, [online], others) | unnamed(InnerSettings, [inner], others)


def test_the_example_names_every_setting() -> None:
    assert unnamed_in(EXAMPLE) == set()


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("workers", {"Settings.workers"}),
        ("mini_appid", {"WechatPayAccount.mini_appid"}),
        ("# merchant_serial", {"WechatPayAccount.merchant_serial"}),
        ("late_after_seconds", {"Gate.late_after_seconds"}),
        ("environment", {"Settings.environment", "InnerSettings.environment"}),
        ("receipt_title", {"Payee.receipt_title"}),
    ],
)
def test_a_setting_left_out_of_the_example_is_noticed(line: str, missing: set[str]) -> None:
    shorter = re.sub(rf"^{line} = .*\n", "", EXAMPLE, flags=re.MULTILINE)

    assert missing <= unnamed_in(shorter)


def test_the_examples_alternatives_are_settings_too() -> None:
    every = {
        name
        for side in (Settings, InnerSettings)
        for model in [
            side,
            *(m for f in side.model_fields.values() for m in models_in(f.annotation)),
        ]
        for name in model.model_fields
    }

    assert set(ALTERNATIVE.findall(EXAMPLE)) <= every


def test_the_example_holds_no_secret() -> None:
    assert re.search(r"://[^/\s\"]*:[^/@\s\"]*@", EXAMPLE) is None, "an address with a password"
    assert "-----BEGIN" not in EXAMPLE
    for name in re.findall(r"^(\w*(?:key|secret|password)\w*) = ", EXAMPLE, re.MULTILINE):
        assert name.endswith(("_file", "_files", "_dir", "_id", "_keys")), name


def test_with_its_keys_the_example_passes_every_check(city: City) -> None:
    assert city.problems(lambda: online_settings(signs_heads=True)) == []
    assert city.problems(inner_settings) == []


def test_an_unknown_setting_and_one_not_filled_in_are_named(city: City) -> None:
    city.change(("\npublic_url = ", "\ncolour = "), ('mchid = "1600000001"', "machine = 1"))

    assert sorted(city.problems()) == [
        "colour：没有这项设置，请检查拼写。",
        "public_url：没有填写。",
        "wechat_pay.0.machine：没有这项设置，请检查拼写。",
        "wechat_pay.0.mchid：没有填写。",
    ]


def test_an_environment_without_its_file_is_named(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "prodution")

    (problem,) = city.problems()

    assert problem == f"{city.config}/prodution.toml：没有这个设置文件。"


# Fitting together


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([("\nport = 8000", "\nport = 80000")], "port：80000 不在 1 到 65535 之间。"),
        ([("\nworkers = 2 ", "\nworkers = 0 ")], "workers：0 不在 1 到 256 之间。"),
        ([("order_minutes = 15", "order_minutes = 0")], "order_minutes：0 不在 1 到 120 之间。"),
        (
            [('{ wechat_pay = "wechat_pay:1600000002" }', '{ wechat_pay = "wechat_pay:9" }')],
            "payees.treasury.merchants：wechat_pay:9 不在已设置的账户中。",
        ),
        (
            [('{ wechat_pay = "wechat_pay:1600000002" }', '{ unionpay = "unionpay:9" }')],
            "payees.treasury.merchants：没有 unionpay 这个渠道，只能是 wechat_pay、alipay。",
        ),
        (
            [('alipay = "alipay:2021001100000001"', 'alipay = "alipay:1"')],
            "collecting_accounts.alipay：alipay:1 不在已设置的账户中。",
        ),
        (
            [('wechat_pay = "wechat_combine:1600000009"', 'wechat_pay = "wechat_combine:1"')],
            "combining_accounts.wechat_pay：wechat_combine:1 不在已设置的账户中。",
        ),
        (
            [('mchid = "1600000009"', 'mchid = "1600000008"')],
            "account_id：wechat_combine:1600000009 与商户号不符，应为 wechat_combine:1600000008。",
        ),
        ([('code = "non_tax"', 'code = "treasury"')], "payees：treasury 写了 2 次，应当只有一次。"),
        (
            [('appid = "wx0000000000000002"\nsecret', 'appid = "wx3"\nsecret')],
            "wechat_pay:1600000001.mini_appid：wx0000000000000002 不是 mini_program.appid。",
        ),
        (
            [('appid = "wx0000000000000001"\nsecret', 'appid = "wx4"\nsecret')],
            "wechat_combine:1600000009.appid：wx0000000000000001 不是公众号的 wechat.appid（wx4），"
            "公众号内将无法付款。",
        ),
        (
            [('mini_appid = "wx0000000000000002"\n', "")],
            "wechat_pay:1600000003.mini_appid：没有填写，小程序内将无法付给这个账户。",
        ),
        ([('["dwbillcenter.alipay.com"]', "[]")],
            "alipay:2021001100000001.bill_hosts：没有写账单下载的主机，对账会缺这个渠道。"),
        (
            [('stream_in = "centre-online"', 'stream_in = "online-centre"')],
            "gate.stream_in：与 gate.stream_out 相同，收发应是两条流。",
        ),
        ([("pack_max_rows = 5000  ", "pack_max_rows = 0  ")],
            "gate.pack_max_rows：0 不在 1 到 1000000 之间。"),
        ([('["3301"]', '["杭州"]')], "gate.regions：杭州 不是行政区划代码的开头。"),
        ([("snapshot_hours = 24  ", "snapshot_hours = 0  ")],
            "gate.snapshot_hours：0.0 不在 0.01 到 744 之间。"),
        ([("redis://127.0.0.1:6379/0", "127.0.0.1:6379")],
            "redis_url：应以 redis://、rediss:// 或 unix:// 开头。"),
        ([('gov.cn"    # 市民看到', 'gov.cn/"   # 市民看到')],
            "public_url：https://estate.example.gov.cn/ 末尾不要写斜线。"),
        ([('["ledger/public.pem"]', "[]")],
            "ledger_public_key_files：至少要有一个公钥，否则谁也无法核对账本。"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(
    city: City, changes: list[tuple[str, str]], problem: str
) -> None:
    city.change(*changes)

    assert problem in city.problems()


def test_the_inner_side_sends_under_its_own_name(city: City) -> None:
    city.change(('source = "centre"', 'source = "county"'), ('"330100"', '"3301"'))

    assert city.problems(inner_settings) == [
        "source：county 不是 gate.stream_out（centre-online）的发出方。",
        "region：应是六位行政区划代码（GB/T 2260）。",
    ]


# Keys


def test_keys_that_are_missing_empty_or_everybodys_are_named(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    (city.secrets / "data.key").unlink()
    (city.secrets / "receipt.key").write_bytes(b"\n")
    (city.secrets / "alipay" / "app_key.pem").chmod(0o644)
    (city.secrets / "ledger" / "public.pem").chmod(0o644)  # a public key is for everybody
    (city.secrets / "wechat_pay" / "api_v3.key").unlink()
    monkeypatch.setenv("ESTATION_SECRET_WECHAT_PAY_API_V3_KEY", "from the environment")

    assert city.problems() == [
        f"data_key_file：没有文件 {city.secrets}/data.key。",
        f"receipt_key_file：文件 {city.secrets}/receipt.key 是空的。",
        f"alipay:2021001100000001.private_key_file：文件 {city.secrets}/alipay/app_key.pem 的权限是"
        " 644，本机任何用户都能读写，请改为 600。",
    ]


def test_a_file_of_our_own_that_is_no_key_is_named_and_several_keys_are_right(city: City) -> None:
    several = write_keys([new_key(), KeptKey(b"k" * 32, is_named=False)])
    (city.secrets / "data.key").write_bytes(several)
    (city.secrets / "pay_code.key").write_bytes(several[:-1])
    assert city.problems() == []

    (city.secrets / "data.key").write_bytes(b"k" * 33)
    (city.secrets / "pay_code.key").write_bytes(several[:-5])

    assert [problem.partition("：")[0] for problem in city.problems()] == [
        "pay_code_key_file",
        "data_key_file",
    ]
    assert [problem.partition("：")[0] for problem in city.problems(inner_settings)] == [
        "pay_code_key_file"
    ]


def test_only_who_signs_the_heads_needs_their_key(city: City) -> None:
    (city.secrets / "ledger" / "key.pem").unlink()

    assert city.problems() == []
    assert city.problems(lambda: online_settings(signs_heads=True)) == [
        f"ledger_key_file：没有文件 {city.secrets}/ledger/key.pem。"
    ]


# Nothing of the demo


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([('"https://estate.example.gov.cn"    #', '"http://estate.example.gov.cn"    #')],
            "public_url：http://estate.example.gov.cn 不是 https，登录 Cookie 会明文传送。"),
        ([("https://sms.example.gov.cn/send", "http://127.0.0.1:8200/sms/send")],
            "sms_url：http://127.0.0.1:8200/sms/send 是本机地址，那里只有示范用的沙箱。"),
        ([("https://openapi.alipay.com", "https://openapi-sandbox.dl.alipaydev.com")],
            "alipay:2021001100000001.gateway_url："
            "https://openapi-sandbox.dl.alipaydev.com/gateway.do 是渠道的沙箱，付款不会是真的。"),
        ([("https://api.mch.weixin.qq.com", "http://localhost:8200/wechat-pay")],
            "wechat_pay:1600000002.base_url：http://localhost:8200/wechat-pay 是本机地址，"
            "那里只有示范用的沙箱。"),
        ([("dwbillcenter.alipay.com", "127.0.0.1")],
            "alipay:2021001100000001.bill_hosts：127.0.0.1 是本机，那里只有示范用的沙箱。"),
        ([("1600000001", "1900000109")],
            "wechat_pay.0.mchid：1900000109 是示范城市的，请换成本市的。"),
        ([("wx0000000000000001", "wx8888888888888888")],
            "wechat.appid：wx8888888888888888 是示范城市的，请换成本市的。"),
        ([("2021001100000001", "2021000000000109")],
            "alipay.0.app_id：2021000000000109 是示范城市的，请换成本市的。"),
        ([('city_name = "某某市"', 'city_name = "江城市"')],
            "city_name：江城市 是示范城市的名称，请换成本市的。"),
        ([("国家金库某某市支库（税务）", "国家金库江城市中心支库（税务）")],
            "payees.0.name：国家金库江城市中心支库（税务） 是示范城市的名称，请换成本市的。"),
        ([("proxies_count = 1", "proxies_count = 0")],
            "proxies_count：为 0 时所有市民在限流中都算同一个来源，请填写前置反向代理的层数。"),
        ([('"/var/lib/estation/gate"', '"set-by-demo"')],
            "gate.folder：没有填写（仍是 set-by-demo）。"),
        ([('environment = "production"', 'environment = "local"')],
            "environment：production.toml 写的是 local，而程序以 production 启动。"),
        ([('environment = "production"', "")],
            "environment：production.toml 写的是 None，而程序以 production 启动。"),
    ],
)  # fmt: skip
def test_what_is_left_of_the_demo_is_named(
    city: City, changes: list[tuple[str, str]], problem: str
) -> None:
    city.change(*changes)

    assert problem in city.problems()


def test_the_demos_own_keys_are_refused(city: City) -> None:
    (city.secrets / DEMO_MARK).touch()
    expected = f"secrets_dir：{city.secrets} 是示范城市生成的密钥，请换成本市自己的。"

    assert city.problems() == [expected]
    assert city.problems(inner_settings) == [expected]


def test_every_other_environment_is_held_to_production(
    city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    city.text = city.text.replace('"production"', '"staging"').replace("wx0000000000000001", "wx1")
    city.change(("https://sms", "http://sms"))
    city.write("staging")
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "staging")

    assert city.problems() == [
        "sms_url：http://sms.example.gov.cn/send 不是 https，内容会明文传送。"
    ]


def test_the_demo_itself_may_be_as_it_is(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_ENVIRONMENT", "local")
    monkeypatch.setenv("ESTATION_DATABASE_URL", "asyncpg://estation@/x?host=/tmp")
    monkeypatch.setenv("ESTATION_REDIS_URL", "unix:///tmp/valkey.sock")
    settings = Settings.read()

    assert list(settings_check.online_fits(settings)) == []
    assert list(settings_check.demo_left(settings)) == []


# Programs


@pytest.mark.parametrize(
    "words",
    [["serve", "online"], ["serve", "inner"], ["worker"], ["worker", "--side", "inner"],
     ["worker", "--once"], ["check-settings"], ["check-settings", "--side", "inner"]],
)  # fmt: skip
def test_no_program_starts_with_wrong_settings(city: City, words: list[str]) -> None:
    city.change(("\nport = 8000", "\nport = 0"), ("\nport = 8100", "\nport = 0"))

    result = CliRunner().invoke(main, words)

    assert result.exit_code == 2
    assert "设置有问题，程序没有启动：\n- port：0 不在 1 到 65535 之间。\n" in result.output


def test_right_settings_are_said_to_be_right(city: City) -> None:
    for side in ("online", "inner"):
        result = CliRunner().invoke(main, ["check-settings", "--side", side])

        assert (result.exit_code, "（production）没有问题" in result.output) == (0, True)


# The folder of the settings' own symbols


def _symbols_in(city: City, folder: Path | str) -> list[str]:
    city.text, changed = SYMBOLS_LINE.subn(f'symbols_folder = "{folder}"', city.text)
    assert changed == 1
    city.write()
    return city.problems()


def test_a_folder_for_symbols_that_can_be_used_is_no_trouble(city: City, tmp_path: Path) -> None:
    (tmp_path / "symbols").mkdir()

    assert _symbols_in(city, tmp_path / "symbols") == []


def test_a_folder_for_symbols_that_is_not_there_is_told(city: City, tmp_path: Path) -> None:
    where = tmp_path / "symbols"

    assert _symbols_in(city, where) == [f"gate.symbols_folder：没有目录 {where}。"]


def test_a_relative_folder_for_symbols_is_told(city: City) -> None:
    assert _symbols_in(city, "symbols") == ["gate.symbols_folder：symbols 不是绝对路径。"]


@pytest.mark.parametrize("place", ["gate", "gate/outgoing", "gate/incoming/symbols", "link"])
def test_a_folder_for_symbols_among_the_gates_own_is_told(
    city: City, tmp_path: Path, place: str
) -> None:
    (tmp_path / "gate/incoming/symbols").mkdir(parents=True)
    (tmp_path / "gate/outgoing").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "gate/outgoing")
    city.change(('"/var/lib/estation/gate"', f'"{tmp_path / "gate"}"'))

    problems = _symbols_in(city, tmp_path / place)

    assert problems != []
    assert all(one.startswith("gate.symbols_folder：") and "重叠" in one for one in problems)


def test_a_folder_for_symbols_that_cannot_be_written_is_told(
    city: City, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "symbols").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs tests may be root

    assert _symbols_in(city, tmp_path / "symbols") == [
        f"gate.symbols_folder：目录 {tmp_path / 'symbols'} 不能写入。"
    ]
