"""A day at a registration centre's desks, by dice, through the desks' own actions."""

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.inner import outgoing
from estation.inner.actions import bills, cases, refunds, register
from estation.inner.actions.bills import NewBill
from estation.inner.actions.cases import NewCase
from estation.inner.actions.register import NewHolder, NewRestriction, NewRight
from estation.inner.rules import Decision, Item, Stage, StageState
from estation.inner.seed import seed_city, worked
from estation.inner.seed.people import Population
from estation.outside.gate import rows
from estation.settings import InnerSettings
from estation.shared import ids
from estation.shared.clock import beijing_day
from estation.shared.errors import Refused
from estation.shared.transactions import in_transaction

DEEDS: Final[Mapping[str, int]] = {
    "take_in": 3, "move_on": 6, "issue": 8, "revise": 3, "withdraw": 1, "register_right": 2,
    "end_right": 1, "restrict": 1, "lift": 1, "order_back": 2, "misspell": 1, "mend": 1,
}  # fmt: skip
"""What a clerk does next, and how often."""

NONSENSE: Final = ({"state": " "}, {"stages": "none"})
"""What breaks a rule of cases, and what does not even fit their schema."""
_SPOILT = """
select key from gate_sent_row where topic = 'case'
  and (body ->> 'state' = ' ' or jsonb_typeof(body -> 'stages') <> 'array')
"""

CLERK, HEAD = "收费员甲", "科长乙"


class Desks:
    """All desks of one centre."""

    def __init__(self, settings: InnerSettings, chance: random.Random) -> None:
        self._settings = settings
        self._chance = chance
        self._people = Population(
            chance, taken=set(), first_phone=13900000001 + chance.randrange(9) * 100_000
        )

    async def open(self, now: datetime) -> None:
        """Places, staff, and what the centre knew before the day began."""
        await seed_city(now=now, progress=lambda *_: None, settings=self._settings)

    async def work(self, deeds: int, now: datetime) -> list[str]:
        """So many deeds; their names. What the desk refuses is not done."""
        done = []
        for _ in range(deeds):
            (deed,) = self._chance.choices(list(DEEDS), weights=list(DEEDS.values()))
            try:
                if await getattr(self, f"_{deed}")(now):
                    done.append(deed)
            except Refused:
                continue
        return done

    async def _take_in(self, now: datetime) -> bool:
        unit = await self._any("select unit_code from unit")
        hall = await self._any("select code from hall")
        parties = [self._people.person("buyer"), self._people.person("seller")]
        new = NewCase("RESALE_TRANSFER", hall["code"], unit["unit_code"], now, parties, {})
        await cases.open_case(new, settings=self._settings, now=now)
        return True

    async def _move_on(self, now: datetime) -> bool:
        case = await self._any("select id, case_no, version from case_file where state = 'open'")
        await cases.advance_stage(
            case["case_no"],
            stage=self._chance.choice(list(Stage)),
            to=self._chance.choice([StageState.DOING, StageState.DONE]),
            note="",
            expected_version=case["version"],
            settings=self._settings,
            now=now,
        )
        return True

    async def _issue(self, now: datetime) -> bool:
        case = await self._any("select case_no from case_file where state = 'open'")
        new = NewBill(
            bill_id=ids.row_id(now),
            case_no=case["case_no"],
            payer_seq=1,
            title="存量房买卖税费",
            issued_at=now,
            due_on=beijing_day(now) + timedelta(days=15),
            items=self._items(),
        )
        await bills.issue_bill(new, made_by=CLERK, settings=self._settings, now=now)
        return True

    async def _revise(self, now: datetime) -> bool:
        bill = await self._open_bill()
        if bill is None:
            return False
        await bills.revise_bill(
            bill["bill_no"],
            expected_version=bill["version"],
            title="存量房买卖税费",
            due_on=beijing_day(now) + timedelta(days=15),
            items=self._items(),
            reason="重新核定计税价格",
            made_by=CLERK,
            settings=self._settings,
            now=now,
        )
        return True

    async def _withdraw(self, now: datetime) -> bool:
        bill = await self._open_bill()
        if bill is None:
            return False
        await bills.withdraw_bill(
            bill["bill_no"],
            expected_version=bill["version"],
            reason="双方协商解除合同",
            made_by=CLERK,
            settings=self._settings,
            now=now,
        )
        return True

    async def _register_right(self, now: datetime) -> bool:
        unit = await self._any("select unit_code from unit")
        owner = self._people.person("owner")
        right = NewRight(
            kind="ownership",
            national_code="4",
            unit_code=unit["unit_code"],
            holders=[NewHolder(owner.name, owner.id_type, owner.id_no)],
            registered_at=now,
        )
        await register.register_rights([right], settings=self._settings, now=now)
        return True

    async def _end_right(self, now: datetime) -> bool:
        right = await self._any("select right_no from right_entry where state = 'current'")
        await register.end_right(right["right_no"], settings=self._settings, now=now)
        return True

    async def _restrict(self, now: datetime) -> bool:
        unit = await self._any("select unit_code from unit")
        seizure = NewRestriction(
            kind="seizure",
            unit_code=unit["unit_code"],
            organ="江城市江东区人民法院",
            document_no=f"（{now.year}）赣0102执保{self._chance.randrange(1, 9999)}号",
            since=beijing_day(now),
            until=beijing_day(now) + timedelta(days=3 * 365),
            registered_at=now,
        )
        await register.register_restrictions([seizure], settings=self._settings, now=now)
        return True

    async def _lift(self, now: datetime) -> bool:
        found = await self._some("select restriction_no from restriction_entry")
        if not found:
            return False
        await register.lift_restriction(
            found["restriction_no"],
            organ="江城市江东区人民法院",
            document_no=f"（{now.year}）赣0102执解{self._chance.randrange(1, 9999)}号",
            settings=self._settings,
            now=now,
        )
        return True

    async def _order_back(self, now: datetime) -> bool:
        """Asked by a clerk, approved by another: the order leaves through the gate."""
        bill = await self._some("select bill_no, total_fen from fee_bill where state = 'paid'")
        if bill is None:
            return False
        number = await refunds.ask_refund(
            bill["bill_no"],
            amount_fen=self._chance.randint(1, bill["total_fen"]),
            believed_refundable_fen=bill["total_fen"],
            reason="登记撤回，退还税费",
            asked_by=CLERK,
            now=now,
        )
        await refunds.decide_refund(
            number, Decision.APPROVE, note="", decided_by=HEAD, settings=self._settings, now=now
        )
        return True

    async def mend_all(self, now: datetime) -> int:
        """The program is right again: what it wrote wrongly leaves once more; how many cases."""
        mended = 0
        while await self._mend(now):
            mended += 1
        return mended

    async def _misspell(self, now: datetime) -> bool:
        """A case leaves with nonsense in it, which the program believes in: so says its log."""
        case = await self._some("select case_no from case_file where state = 'open'")
        if case is None:
            return False
        wrong = self._chance.choice(NONSENSE)
        async with in_transaction() as tx:
            version = await self._send_anew(tx, case["case_no"], now)
            (sent,) = await tx.execute_query_dict(
                "select body from gate_sent_row where topic = 'case' and key = $1",
                [case["case_no"]],
            )
            body = orjson.dumps({**orjson.loads(sent["body"]), **wrong})
            await tx.execute_query(
                """update gate_sent_row set body = $2::jsonb, digest = $3
                   where topic = 'case' and key = $1""",
                [case["case_no"], body.decode(), rows.digest(body)],
            )
            await tx.execute_query(
                """update gate_outgoing_row set body = $3, is_canonical = false
                   where topic = 'case' and packed_seq is null
                     and body::jsonb ->> 'source_id' = $1
                     and (body::jsonb ->> 'version')::bigint = $2""",
                [case["case_no"], version, body.decode()],
            )
        return True

    async def _mend(self, now: datetime) -> bool:
        spoilt = await self._some(_SPOILT)
        if spoilt is None:
            return False
        async with in_transaction() as tx:
            await self._send_anew(tx, spoilt["key"], now)
        return True

    async def _send_anew(self, tx: BaseDBAsyncClient, case_no: str, now: datetime) -> int:
        (case,) = await tx.execute_query_dict(
            """with changed as (
                 update case_file set version = version + 1, changed_at = $2
                 where case_no = $1 returning id, version)
               select id, version from changed""",
            [case_no, now],
        )
        await outgoing.send_cases([case["id"]], settings=self._settings, now=now)
        return int(case["version"])

    def _items(self) -> list[Item]:
        return list(worked.worked_cases()[self._chance.choice(worked.RESALES)].bills[0].items)

    async def _open_bill(self) -> dict[str, Any] | None:
        return await self._some("select bill_no, version from fee_bill where state = 'issued'")

    async def _any(self, query: str) -> dict[str, Any]:
        """One that is there since the centre opened."""
        found = await self._some(query)
        if found is None:
            raise LookupError(query)
        return found

    async def _some(self, query: str) -> dict[str, Any] | None:
        """By the dice, the same at each replay: ordered by what does not depend on time."""
        rows = await Tortoise.get_connection("default").execute_query_dict(
            f"select * from ({query}) q order by 1 limit 1 offset $1",  # noqa: S608 -- ours
            [self._chance.randrange(await self._count(query) or 1)],
        )
        return dict(rows[0]) if rows else None

    async def _count(self, query: str) -> int:
        rows = await Tortoise.get_connection("default").execute_query_dict(
            f"select count(*) as n from ({query}) q"  # noqa: S608 -- ours
        )
        return int(rows[0]["n"])
