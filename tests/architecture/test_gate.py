"""The two sides meet in folders only: the gate knows no network, its programs listen to nobody."""

import ast
from pathlib import Path

import grimp
import pytest

BACKEND = Path(__file__).resolve().parents[2] / "backend"
GATE = sorted((BACKEND / "estation" / "outside" / "gate").glob("*.py"))
WORKERS = [BACKEND / "estation" / "worker.py", BACKEND / "estation" / "inner" / "worker.py"]
NETWORK = {
    "aiohttp", "ftplib", "grpc", "http", "httpx", "imaplib", "multiprocessing", "paramiko",
    "poplib", "redis", "requests", "sanic", "smtplib", "socket", "socketserver", "ssl",
    "subprocess", "telnetlib", "urllib", "urllib3", "websockets", "wsgiref", "xmlrpc", "zmq",
}  # fmt: skip
OPENERS = {
    "bind", "create_connection", "create_datagram_endpoint", "create_server",
    "create_subprocess_exec", "create_subprocess_shell", "create_unix_connection",
    "create_unix_server", "listen", "open_connection", "open_unix_connection", "popen",
    "run_forever", "start_server", "start_unix_server", "system",
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Top-level packages a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def calls_of(path: Path) -> set[str]:
    """Names of everything a module calls or mentions as an attribute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", GATE, ids=lambda path: path.name)
def test_no_module_of_the_gate_knows_a_network(path: Path) -> None:
    assert imports_of(path) & NETWORK == set()
    assert calls_of(path) & OPENERS == set()


@pytest.mark.parametrize("path", WORKERS, ids=lambda path: path.parent.name)
def test_the_programs_of_the_gate_listen_to_nobody(path: Path) -> None:
    assert imports_of(path) & NETWORK == set()
    assert calls_of(path) & OPENERS == set()


def test_nothing_the_gate_is_made_of_knows_a_network() -> None:
    """Also at second hand: what the gate imports of ours imports nothing of the kind."""
    graph = grimp.build_graph("estation", include_external_packages=True)

    needed = {
        module
        for start in graph.find_descendants("estation.outside.gate")
        for module in graph.find_upstream_modules(start)
    }
    ours = {module for module in needed if module.startswith("estation.")}
    met = {
        f"{module} -> {imported}"
        for module in ours
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.split(".")[0] in NETWORK
    }

    assert met == set()
    assert not any(module.startswith("estation.outside.pay_channels") for module in ours)


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    """Negative control."""
    module = tmp_path / "listens.py"
    module.write_text("import asyncio, socket\nasyncio.start_server(None)\n")

    assert imports_of(module) & NETWORK == {"socket"}
    assert calls_of(module) & OPENERS == {"start_server"}
