"""The person's side: scan, choose, pay, leave, read short messages."""

from pathlib import Path

from tests.sandbox.running import running_sandbox


async def test_the_sandbox_answers_and_shows_its_first_page(tmp_path: Path) -> None:
    async with running_sandbox(tmp_path) as sandbox:
        async with sandbox.http.get(f"{sandbox.base_url}/healthz") as answer:
            assert answer.status == 200
        async with sandbox.http.get(sandbox.base_url) as answer:
            assert "沙箱钱包" in await answer.text()
