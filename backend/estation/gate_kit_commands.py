"""`estation gate check` and `gate conform`: packets made by anyone, held to the specification.

They need no database, no settings and no key of ours, so that another vendor can run them.
"""

from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from estation.cases import rules as case_rules
from estation.fees import rules as fee_rules
from estation.identity.rules import clean_id_no, person_fault
from estation.outside.gate import conformance, judging, keys
from estation.outside.gate.rows import CaseRow, FeeBillRow, PartyRow
from estation.registry import rules as registry_rules
from estation.shared.fields import MAX_FEN

T = TypeVar("T")
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for programs.")]
PeerKeys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="Public key (PEM) of the sender; once per key."),
]

_VERDICTS = {
    judging.Verdict.passed: "通过",
    judging.Verdict.failed: "不通过",
    judging.Verdict.not_judged: "未判断",
}


def _fault_of_bill(row: FeeBillRow, day: date) -> str:
    """Which payees there are is agreed between two sides: of any packet alone nobody can say."""
    payees = {item.payee_code for item in row.items}
    fault = fee_rules.fault_of(row, payees=payees, most_fen=MAX_FEN)
    return fault or _fault_of_persons([row.payer], day)


def _fault_of_case(row: CaseRow, day: date) -> str:
    return case_rules.fault_of(row) or _fault_of_persons(row.parties, day)


def _fault_of_persons(parties: Iterable[PartyRow], day: date) -> str:
    faults = (
        person_fault(id_type=one.id_type, id_no=clean_id_no(one.id_no), name=one.name, today=day)
        for one in parties
    )
    return next(filter(None, faults), "")


ROW_FAULTS: judging.RowFaults = {
    "fee_bill": _fault_of_bill,
    "case": _fault_of_case,
    "case_event": lambda row, day: case_rules.fault_of_event(row),
    "unit": lambda row, day: registry_rules.fault_of_unit(row),
    "right": lambda row, day: registry_rules.fault_of_right(row, today=day),
    "restriction": lambda row, day: registry_rules.fault_of_restriction(row),
    "certificate": lambda row, day: registry_rules.fault_of_certificate(row, today=day),
}
"""The rules by which the receivers of these topics refuse a row of the right form (SPEC 5.3)."""


def add_to(gate: typer.Typer) -> None:
    """Hang these commands on `estation gate`."""
    gate.command("check")(check)
    gate.command("conform")(conform)


def check(file: Path, key: PeerKeys = None, as_json: AsJson = False) -> None:
    """Judge one packet by every rule of the specification. Needs no database.

    Exit code 0: it breaks none. 1: it breaks one. 2: the file or a key cannot be read.
    """
    found = _judged(lambda: judging.judge(file, _peer_keys(key), ROW_FAULTS))
    if as_json:
        console.print_json(data=found.as_dict())
    else:
        _print_judgement(found)
    raise typer.Exit(0 if found.passed else 1)


def conform(folder: Path, key: PeerKeys = None, as_json: AsJson = False) -> None:
    """Judge a folder of packets: each one, their chain, versions, snapshots, proofs.

    Exit code 0: no rule is broken. 1: one is. 2: the folder or a key cannot be read.
    """
    report = _judged(lambda: conformance.conform(folder, _peer_keys(key), ROW_FAULTS))
    if as_json:
        console.print_json(data=report.as_dict())
    else:
        _print_conformance(report)
    raise typer.Exit(0 if report.passed else 1)


def _judged(work: Callable[[], T]) -> T:
    try:
        return work()
    except (OSError, ValueError) as problem:
        console.print(f"无法判断：{problem}", style="red", markup=False)
        raise typer.Exit(2) from None


def _peer_keys(files: list[Path] | None) -> list[keys.PeerKey]:
    return [keys.load_peer_key(file.read_bytes()) for file in files or []]


def _print_judgement(found: judging.Judgement) -> None:
    table = Table("规则", "要求", "结果")
    for rule, verdict in found.verdicts.items():
        table.add_row(rule.value, judging.RULES[rule], _VERDICTS[verdict])
    console.print(table)
    for line in (*found.faults, *found.notes):
        console.print(f"· {line}", markup=False)
    console.print("符合规范。" if found.passed else f"不符合规范：{found.broken}")


def _print_conformance(report: conformance.Report) -> None:
    table = Table("数据流", "数据包", "序号", "行", "快照", "证明", "问题")
    for stream in report.streams:
        span = f"{stream.first_seq}–{stream.last_seq}"
        counts = (stream.rows, stream.snapshots, stream.proofs, len(stream.findings))
        table.add_row(stream.stream, str(stream.packets), span, *map(str, counts))
    console.print(table)
    for finding in (*report.strays, *(one for s in report.streams for one in s.findings)):
        where = f"{finding.file} " if finding.file else ""
        console.print(f"· {finding.rule} {where}{finding.detail}", markup=False)
    for stream in report.streams:
        for note in stream.notes:
            console.print(f"  {stream.stream}: {note}", markup=False)
    console.print("符合规范。" if report.passed else "不符合规范。")
