"""The folder tree is the architecture; these tests keep it true."""

import ast
from pathlib import Path

import grimp
import pytest

ROOT = "estation"
OPEN_TO_ALL = {"services", "settings", "payees", "shared", "outside"}
SEES_ALL = {
    "__main__",
    "app",
    "worker",
    "migrations",
    "cli",
    "operating",
    "gate_commands",
    "gate_kit_commands",
    "key_commands",
    "commanding",
    "measuring",
    "demo",
    "bench",
    "simulation",
}
PUBLIC = {"api", "errors"}
BACKEND = Path(__file__).resolve().parents[2] / "backend"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(ROOT)


def test_contexts_meet_only_at_their_public_modules(graph: grimp.ImportGraph) -> None:
    trespasses = [
        f"{importer} -> {imported}"
        for importer in sorted(graph.modules)
        if _context(importer) not in SEES_ALL
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if _context(importer) != _context(imported)
        and _context(imported) not in OPEN_TO_ALL
        and imported.split(".")[-1] not in PUBLIC
    ]

    assert trespasses == []


def test_the_tree_has_no_import_hidden_inside_a_function() -> None:
    """Imports stand at the top, where a reader looks for them.

    But for the command line's: nobody imports it, the contracts see what it imports anyway, and a
    command that read every program first would take three times as long.
    """
    hidden = [
        f"{path.relative_to(BACKEND)}:{node.lineno}"
        for path in sorted(set(BACKEND.rglob("*.py")) - {BACKEND / "estation" / "cli.py"})
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert hidden == []


def _context(module: str) -> str:
    return module.split(".")[1] if "." in module else ""
