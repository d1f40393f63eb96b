"""The online program and the sandbox in processes of their own; bills as if the gate brought them.

For journeys through pages, where the inner side and the gate have nothing to say.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
from tortoise import Tortoise

from estation import settings as settings_module
from estation.app import create_app
from estation.cases.packets import make_handler as cases_handler
from estation.demo import places as places_module
from estation.demo.places import Places
from estation.fees.packets import make_handler as fees_handler
from estation.inner.personas import BUYER, SELLER, Citizen
from estation.local import LocalPostgres
from estation.outside.gate.receiving import Arrival
from estation.outside.gate.rows import CaseRow, FeeBillRow, FeeItemRow, PartyRow, StageRow
from estation.sandbox.app import create_sandbox
from estation.sandbox.credentials import export_secrets, write_credentials
from estation.settings import Settings
from estation.shared.clock import system_clock
from estation.shared.crypto import Vault
from estation.shared.transactions import in_transaction

PAYEES = ("treasury", "non_tax", "maintenance_fund")
SOURCE = "jc-center"

DEED_TAX = FeeItemRow(
    seq=1,
    code="DEED",
    name="契税",
    payee_code="treasury",
    base_fen=80952400,
    rate="0.01",
    relief_fen=0,
    amount_fen=809524,
    formula="计税依据 809,524.00 元 × 税率 1%",
    legal_basis="财政部 税务总局 住房城乡建设部公告2024年第16号",
)
STAMP = FeeItemRow(
    seq=2,
    code="STAMP_B",
    name="印花税（买方）",
    payee_code="treasury",
    base_fen=None,
    rate="0",
    relief_fen=0,
    amount_fen=0,
    formula="个人购买住房暂免征收",
    legal_basis="财税〔2008〕137号",
)
REGISTRATION = FeeItemRow(
    seq=3,
    code="REG",
    name="不动产登记费",
    payee_code="non_tax",
    base_fen=None,
    rate="80元/件",
    relief_fen=0,
    amount_fen=8000,
    formula="住宅每件 80 元",
    legal_basis="发改价格规〔2016〕2559号",
)


@dataclass(frozen=True, slots=True)
class OnlineSide:
    """Where to look, and the levers of the world around."""

    url: str
    sandbox_url: str
    postgres: LocalPostgres
    database: str
    secrets_dir: Path

    def newest_code(self) -> str:
        """What the newest live QR code says: a camera would read it from the screen."""
        return self.postgres.psql(
            "select ticket->>'qr_content' from pay_attempt order by created_at desc limit 1",
            database=self.database,
        ).strip()

    def last_code(self, phone: str) -> str:
        """The newest login code in the sandbox's short messages. Waits at most 10 s."""
        for _ in range(100):
            for message in self._get(f"/control/sms?phone={phone}")["messages"]:
                found = re.search(r"\b(\d{6})\b", message["text"])
                if found:
                    return found[1]
            time.sleep(0.1)
        raise AssertionError("no code was sent")

    def forget_code_limits(self) -> None:
        """One code a minute is right for people; two journeys of one person are faster."""
        self.postgres.psql("delete from login_code", database=self.database)

    def pay(self, code: str) -> None:
        """Scan and pay in a wallet."""
        request = urllib.request.Request(
            f"{self.sandbox_url}/control/pay",
            data=json.dumps({"code": code}).encode(),
            headers={"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).read()

    def bring_bill(self, source_id: str, *, version: int = 1, **changes: Any) -> str:
        """A bill of the buyer arrives (契税, 印花税 exempt, 登记费); its number."""
        now = system_clock()
        items = changes.pop("items", [DEED_TAX, STAMP, REGISTRATION])
        row = FeeBillRow(
            source=SOURCE,
            source_id=source_id,
            version=version,
            region="360101",
            bill_no=f"JC{source_id}",
            case_source_id="case-1",
            title=f"存量房转移登记税费 {source_id}",
            payer=party(BUYER, "buyer"),
            state="issued",
            issued_at=now,
            due_on=date(2099, 12, 31),
            total_fen=sum(item.amount_fen for item in items),
            items=items,
        )
        self._apply(bills=[msgspec.structs.replace(row, **changes)])
        return row.bill_no

    def bring_case(self) -> None:
        now = system_clock()
        stages = [
            StageRow(stage="contract", state="done", at=now),
            StageRow(stage="escrow", state="done", at=now),
            StageRow(stage="loan", state="not_required"),
            StageRow(stage="tax", state="doing"),
            StageRow(stage="registration", state="waiting"),
        ]
        row = CaseRow(
            source=SOURCE,
            source_id="case-1",
            version=1,
            region="360101",
            case_no="202605060012",
            matter="RESALE_TRANSFER",
            hall="江城市不动产登记大厅",
            unit_code="360102001001GB00012F00031202",
            address="江城市滨江区沿江大道18号3幢1单元1202室",
            opened_at=now,
            state="open",
            parties=[party(BUYER, "buyer"), party(SELLER, "seller")],
            stages=stages,
        )
        self._apply(cases=[row])

    def _apply(self, *, bills: Sequence[FeeBillRow] = (), cases: Sequence[CaseRow] = ()) -> None:
        # In a thread: the browser's driver keeps this one's event loop running.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(self._arrive(bills, cases))).result()

    async def _arrive(self, bills: Sequence[FeeBillRow], cases: Sequence[CaseRow]) -> None:
        vault = Vault((self.secrets_dir / "data.key").read_bytes())
        arrival = Arrival(f"{SOURCE}-online", 1, system_clock())
        await Tortoise.init(
            config=settings_module.database(self.postgres.url(self.database)),
            _enable_global_fallback=True,
        )
        try:
            async with in_transaction():  # as the receiver does for a packet
                if bills:
                    await fees_handler(vault, payees=PAYEES)(bills, arrival)
                if cases:
                    await cases_handler(vault)(cases, arrival)
        finally:
            await Tortoise.close_connections()

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.sandbox_url}{path}", timeout=10) as answer:
            return json.load(answer)


def party(person: Citizen, role: str) -> PartyRow:
    return PartyRow(
        role=role, name=person.name, id_type="1", id_no=person.id_no, phone=person.phone
    )


@contextlib.contextmanager
def online_side(
    data: Path, *, postgres: LocalPostgres, database: str, redis_url: str
) -> Iterator[OnlineSide]:
    """Both programs on free ports, stopped on leaving."""
    online_port, sandbox_port = _free_ports()
    places = Places(data, online_port, 1, sandbox_port)
    places_module.make_folders(places)
    write_credentials(places.sandbox_data, places.sandbox_url)
    export_secrets(places.sandbox_data, places.secrets)
    places_module.make_data_key(places)
    places_module.make_ledger_key(places)
    environment = places_module.child_environment(
        places, online_db=postgres.url(database), inner_db="unused", redis=redis_url
    )
    spawn = multiprocessing.get_context("spawn")
    programs = [
        spawn.Process(target=_serve_sandbox, args=(places.sandbox_data, sandbox_port)),
        spawn.Process(target=_serve_online, args=(environment,)),
    ]
    try:
        for program, port in zip(programs, (sandbox_port, online_port), strict=True):
            program.start()
            _wait_for(port, program)
        yield OnlineSide(places.online_url, places.sandbox_url, postgres, database, places.secrets)
    finally:
        for program in programs:
            if program.pid is not None:
                program.terminate()
                program.join(10)


def _serve_sandbox(data: Path, port: int) -> None:
    create_sandbox(data=data, port=port).run(
        "127.0.0.1", port, single_process=True, access_log=False, motd=False
    )


def _serve_online(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    settings = Settings()
    create_app(name="online-pages", settings=settings).run(
        settings.host, settings.port, single_process=True, access_log=False, motd=False
    )


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait_for(port: int, program: BaseProcess) -> None:
    for _ in range(300):
        if not program.is_alive():
            raise RuntimeError(f"a program ended with {program.exitcode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"nothing listens on {port} after 30 seconds")
