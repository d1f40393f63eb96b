"""No float touches money; states are columns with checks, not free text."""

import ast
import re
from pathlib import Path

import pytest

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


PAID_WRITERS = {
    "fees/actions.py",  # MARKING, part of what settle writes
    "payments/actions/settle.py",
    "payments/actions/statements.py",
    "payments/actions/writing.py",
}
"""The one door to paid and what it writes with (D18)."""


def test_nobody_but_settle_writes_the_state_paid() -> None:
    """Neither by SQL nor through the models: not a route, not a page, not a job."""
    writers = {
        str(path.relative_to(BACKEND))
        for context in ("fees", "payments", "reconciliation", "ledger", "cases", "identity")
        for path in sorted((BACKEND / context).rglob("*.py"))
        if _writes_paid(ast.parse(path.read_text(encoding="utf-8")))
    }
    entries = {str(path.relative_to(BACKEND)) for path in BACKEND.glob("*.py")}

    assert writers <= PAID_WRITERS
    assert "fees/actions.py" in writers, "the search finds what is there"
    assert not {
        name for name in entries if _writes_paid(ast.parse((BACKEND / name).read_text("utf-8")))
    }


@pytest.mark.parametrize(
    "code",
    [
        "db.execute_query(\"update bill set state = 'paid' where id = $1\")",
        "db.execute_query('''update pay_order\n set paid_at = $1, state='paid'::text''')",
        "Bill.filter(id=1).update(state=BillState.PAID)",
        "Bill.filter(id=1).update(state='paid')",
        "order.state = OrderState.PAID",
        "bill.state = 'paid'",
        "db.execute_query('update pay_order o set state = $1 where id = $2')",
        "PayOrder(state=OrderState.PAID)",
    ],
)
def test_the_search_for_writers_of_paid_finds(code: str) -> None:
    assert _writes_paid(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "db.execute_query(\"select 1 from bill where state = 'paid'\")",
        "db.execute_query(\"update bill set version = 2 where state = 'paid'\")",
        "PayOrder.filter(state=OrderState.PAID)",
        "if order.state is OrderState.PAID: pass",
    ],
)
def test_the_search_for_writers_of_paid_leaves_readers_alone(code: str) -> None:
    assert not _writes_paid(ast.parse(code))


READING_CALLS = {"filter", "get", "get_or_none", "exclude", "exists", "order_view", "Q"}


def _writes_paid(tree: ast.AST) -> bool:
    return any(map(_is_writing_paid, ast.walk(tree)))


def _is_writing_paid(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and _sql_sets_paid(node.value)
    if isinstance(node, ast.Call):
        named = any(word.arg == "state" and _is_paid(word.value) for word in node.keywords)
        return named and _name_of(node.func) not in READING_CALLS
    if isinstance(node, ast.Assign) and _is_paid(node.value):
        return any(isinstance(one, ast.Attribute) and one.attr == "state" for one in node.targets)
    return False


_SETS = re.compile(
    r"(?P<what>\w+)?(?:\s+\w)?\s+set\b(?P<sets>.*?)(?:\bwhere\b|\bfrom\b|;|$)", re.S | re.I
)


def _sql_sets_paid(text: str) -> bool:
    """Between `set` and the statement's `where` or `from`; of a bill or an order also a state
    that only the caller knows."""
    for found in re.finditer(
        r"(?P<what>\w+)?(?:\s+\w)?\s+set\b(?P<sets>.*?)(?:\bwhere\b|\bfrom\b|;|$)",
        text,
        re.S | re.I,
    ):
        if re.search(r"\bstate\s*=\s*'paid'", found["sets"]):
            return True
        if found["what"] in ("bill", "pay_order") and re.search(
            r"\bstate\s*=(?!\s*')", found["sets"]
        ):
            return True
    return False


def _is_paid(node: ast.AST) -> bool:
    return (isinstance(node, ast.Constant) and node.value == "paid") or (
        isinstance(node, ast.Attribute)
        and node.attr == "PAID"
        and _name_of(node.value) != "ChannelState"  # the channel's word, not our state
    )


def _name_of(function: ast.AST) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
