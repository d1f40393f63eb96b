"""No float touches money; states are columns with checks, not free text."""

import ast
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[2] / "backend" / "estation"
MONEY_WORDS = ("fen", "amount", "total", "yuan", "price", "balance")
MONEY_CONTEXTS = ("fees", "ledger", "payments", "reconciliation", "outside", "inner", "sandbox")


def test_no_float_in_the_money_contexts() -> None:
    """`float(...)`, float literals beside money names and `/` on fen are all refused."""
    findings = [
        f"{path.relative_to(BACKEND)}:{node.lineno}: {ast.unparse(node)}"
        for context in MONEY_CONTEXTS
        for path in sorted((BACKEND / context).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _is_float_call(node) or _divides_money(node)
    ]

    assert findings == []


def test_every_column_of_money_is_a_fen_field() -> None:
    wrong = [
        f"{path.relative_to(BACKEND)}: {ast.unparse(node)}"
        for path in sorted(BACKEND.rglob("models.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and _names_money(node)
        and "FenField" not in ast.unparse(node)
        and "null=True" not in ast.unparse(node)
    ]

    assert wrong == []


def _is_float_call(node: ast.AST) -> bool:
    """Seconds may be floats; whatever is called money may not."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "float"
        and any(word in ast.unparse(node) for word in MONEY_WORDS)
    )


def _divides_money(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and any(word in ast.unparse(node) for word in MONEY_WORDS)
    )


def _names_money(node: ast.Assign | ast.AnnAssign) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return isinstance(target, ast.Name) and target.id.endswith("_fen") and node.value is not None
