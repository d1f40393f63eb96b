"""Only our own `in_transaction`: Tortoise's leaks around BEGIN."""

from pathlib import Path

BACKEND = Path(__file__).resolve().parents[2] / "backend" / "estation"


def test_nobody_else_opens_tortoises_transactions() -> None:
    users = [
        str(path.relative_to(BACKEND))
        for path in sorted(BACKEND.rglob("*.py"))
        if "tortoise.transactions" in path.read_text(encoding="utf-8")
    ]

    assert users == ["shared/transactions.py"]
