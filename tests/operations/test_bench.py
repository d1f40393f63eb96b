"""The bench can start the online program: whatever key its settings name, the bench makes."""

from pathlib import Path

from estation.bench import callback
from estation.services import open_services
from estation.settings import Settings
from estation.shared.clock import system_clock


async def test_the_bench_makes_every_key_the_online_program_opens(tmp_path: Path) -> None:
    callback.write_secrets(tmp_path, callback.wechat_account())
    settings = Settings(secrets_dir=tmp_path / "secrets", redis_url="redis://127.0.0.1:1")

    async with open_services(settings, system_clock) as services:
        accounts = set(services.channels)

    configured = (*settings.wechat_pay, *settings.wechat_combine, *settings.alipay)
    assert accounts == {one.account_id for one in configured}
