"""A payee that is added needs no restart; what is changed or taken away waits for one."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from estation import worker
from estation.payees import LOOK_EVERY_SECONDS, PayeeWatch
from estation.services import Services
from estation.settings import InnerSettings, Settings
from tests.identity.people import VAULT
from tests.operations.test_settings import City, city  # noqa: F401 -- a fixture
from tests.outside.gate_peers import Gate, center
from tests.outside.gate_side import T0, bill, query

COUNTY = """
[[both.payees]]
code = "lj_treasury"
name = "国家金库临江县支库"
kind = "treasury"
receipt_title = "税费缴纳凭据"
merchants = {merchants}
"""
BEHIND = "\n# ───────────────────────────── 线上"


class Program:
    """One that runs: its settings, its watch, and a clock of its own."""

    def __init__(self, kind: type[Settings] | type[InnerSettings] = Settings) -> None:
        self.now = 0.0
        self.settings = kind.read()
        self.wall = time.time() + 60  # nobody is writing
        self.watch = PayeeWatch(
            self.settings, seconds=lambda: self.now, wall_seconds=lambda: self.wall
        )

    def look(self) -> list[str]:
        self.now += LOOK_EVERY_SECONDS
        return self.watch.look()

    @property
    def codes(self) -> list[str]:
        return [payee.code for payee in self.settings.payees]


def add(town: City, merchants: str = "{}") -> None:
    head, _, tail = town.text.partition(BEHIND)
    town.text = head + COUNTY.replace("{merchants}", merchants) + BEHIND + tail
    touch(town)


def touch(town: City, text: str | None = None) -> None:
    """As an editor writes it: nobody empties our program's memory of the file."""
    path = town.config / "production.toml"
    before = path.stat().st_mtime_ns
    path.write_text(text or town.text, encoding="utf-8")
    os.utime(path, ns=(before + 10**9, before + 10**9))


@pytest.mark.parametrize("kind", [Settings, InnerSettings])
def test_a_payee_that_is_added_is_known_within_seconds_and_once(
    city: City,  # noqa: F811
    kind: type[Settings] | type[InnerSettings],
) -> None:
    program = Program(kind)
    before = program.codes
    add(city)

    too_early = program.watch.look()
    found = program.look()

    assert (too_early, found, program.look()) == ([], ["lj_treasury"], [])
    assert program.codes == [*before, "lj_treasury"]
    assert program.settings.payees[-1].name == "国家金库临江县支库"


def test_a_file_that_is_being_written_is_left_until_it_is_still(
    city: City,  # noqa: F811
) -> None:
    """What stands there half may be readable, with a payee that lacks its last line."""
    program = Program()
    program.wall = 0.0
    cut = COUNTY.partition("merchants")[0]
    head, _, tail = city.text.partition(BEHIND)
    touch(city, head + cut + BEHIND + tail)
    half = program.look()
    add(city, '{ wechat_pay = "wechat_pay:1600000003" }')

    writing = program.look()
    still = program.look()

    assert (half, writing, still) == ([], [], ["lj_treasury"])
    assert program.settings.payees[-1].merchants == {"wechat_pay": "wechat_pay:1600000003"}


def test_an_account_of_the_other_channel_is_none_of_its_own(city: City) -> None:  # noqa: F811
    program = Program()
    add(city, '{ alipay = "wechat_pay:1600000003" }')

    assert program.look() == []


def test_one_with_an_account_that_is_open_already_is_known_another_waits(
    city: City,  # noqa: F811
) -> None:
    program = Program()
    add(city, '{ wechat_pay = "wechat_pay:1600000009" }')
    assert program.look() == []

    touch(city, city.text.replace("wechat_pay:1600000009", "wechat_pay:1600000003"))

    assert program.look() == ["lj_treasury"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('code = "maintenance_fund"', 'code = "fund"'),
        ("某某市住宅专项维修资金专户", "另一个专户"),
        ('code = "lj_treasury"', 'code = "treasury"'),
        ("receipt_title", "receipt_titel"),
        ("[[both.payees]]", "[[both.payees"),
    ],
    ids=["taken_away", "changed", "twice", "misspelt", "half_written"],
)
def test_what_is_not_only_added_changes_nothing_until_a_restart(
    city: City,  # noqa: F811
    before: str,
    after: str,
) -> None:
    program = Program()
    as_it_was = list(program.settings.payees)
    add(city)
    touch(city, city.text.replace(before, after))

    assert program.look() == []
    assert program.settings.payees == as_it_was
    touch(city)
    assert program.look() == ["lj_treasury"]


async def test_a_bill_for_a_new_payee_is_refused_until_it_is_known_and_then_comes_by_itself(
    city: City,  # noqa: F811
    database: str,
    tmp_path: Path,
) -> None:
    program = Program()
    services: Any = SimpleNamespace(settings=program.settings, vault=VAULT, clock=lambda: T0)
    side = worker.GateSide(cast("Services", services))
    gate = Gate(tmp_path / "gate")
    gate.make_keys()
    await gate.keep_first(T0)
    (item,) = bill(1).items
    new = bill(1, items=[structs.replace(item, payee_code="lj_treasury")])
    await gate.arrive(await center(), "fee_bill", new)
    packet = next((await center()).incoming.iterdir())
    content = packet.read_bytes()
    refused = await side.receive(await center(), T0)

    add(city)
    program.look()
    packet.write_bytes(content)  # the centre writes it again
    taken = await side.receive(await center(), T0)

    assert ([str(reason) for _, reason in refused.quarantined], taken.applied) == (["bad_row"], [1])
    assert await query("select source_id from bill") == [{"source_id": "F000001"}]
