"""Reconciles one day: fetch outside any transaction, then match, book fees and write in one."""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

import orjson
import structlog
from tortoise.backends.base.client import BaseDBAsyncClient

from estation.payments.api import ended_unpaid
from estation.reconciliation import queries, rules
from estation.reconciliation.actions import findings, matching
from estation.reconciliation.actions.evidence import tell_centres
from estation.reconciliation.actions.fees import book_fees, tell_of_changed
from estation.reconciliation.actions.fetch import Leg, fetch_day
from estation.reconciliation.actions.incidents import open_incidents
from estation.reconciliation.actions.locking import wait_for_day
from estation.reconciliation.errors import DayNotOver, KeptFileChanged
from estation.reconciliation.queries import RunView
from estation.services import Services
from estation.shared import ids
from estation.shared.clock import beijing_day
from estation.shared.transactions import in_transaction

log = structlog.get_logger()


async def reconcile_day(
    day: date, *, services: Services, now: datetime, started_by: str = "system"
) -> RunView:
    """Compare both channels' bills of a Beijing day with the ledger and keep the result.

    May be repeated: each call is a new run, and the same facts give the same `result_digest`.
    Nobody's money is moved here; what the channels kept as their fees, as proven bills say, is
    booked, and what they prove of payments is told to the centres. Raises DayNotOver for a day
    after today; KeptFileChanged, with an incident, when a bill of the day is not the one that came.
    """
    if not rules.is_over(day, beijing_day(now)):
        raise DayNotOver(day=str(day))
    legs = await fetch_day(day, services=services, now=now)
    try:
        view = await queries.run(await _run(day, legs, services, now, started_by))
    except KeptFileChanged as changed:
        # All that the run wrote is gone; that somebody changed evidence must not be.
        for leg in legs:
            if leg.sha256 == changed.details["sha256"]:
                await tell_of_changed(changed, leg.account_id, day, now=now)
        raise
    log.info("day_reconciled", day=str(day), state=view.state, matched=view.matched, **view.counts)
    return view


async def _run(
    day: date, legs: Sequence[Leg], services: Services, now: datetime, started_by: str
) -> UUID:
    run_id = ids.row_id(now)
    async with in_transaction() as db:
        # One run of a day at a time: the second sees the incidents of the first.
        await wait_for_day(db, day)
        neighbours = await _match(db, day, legs)
        sides = await findings.totals(db, day)
        findings.check_counts(legs, sides)
        settled = await findings.settlements(legs)
        await _write_run(db, run_id, day, legs, sides, settled, services, now, started_by)
        await findings.write_differences(db, run_id, day, legs, sides, settled)
        await _conclude(db, run_id, day, legs, neighbours, services)
        await open_incidents(db, run_id, day, now=now)
        await book_fees(db, day, legs, vault=services.vault, now=now)
        await tell_centres(db, day, run_id, vault=services.vault, now=now)
    return run_id


async def _match(db: BaseDBAsyncClient, day: date, legs: Sequence[Leg]) -> list[UUID]:
    """Leave both sides decided in the temporary tables; the neighbouring days' files used."""
    usable = [leg.account_id for leg in legs if leg.state in rules.USABLE]
    own = [leg.file_id for leg in legs if leg.state is rules.LegState.PROVEN and leg.file_id]
    around = [day - timedelta(days=1), day + timedelta(days=1)]
    neighbours = await queries.newest_proven_files(usable, around)
    await matching.stage(db, day, file_ids=[*own, *neighbours], usable=usable)
    await matching.claim(db)
    # Money booked at an account without bills is at no merchant that the channel accounts for.
    await matching.decide(db, configured=[leg.account_id for leg in legs])
    unpaired = await matching.unpaired_at_channel(db, day)
    await matching.mark_status_conflicts(db, await ended_unpaid(unpaired))
    return neighbours


async def _write_run(
    db: BaseDBAsyncClient,
    run_id: UUID,
    day: date,
    legs: Sequence[Leg],
    sides: dict[str, findings.Sides],
    settled: dict[str, queries.Settlement],
    services: Services,
    now: datetime,
    started_by: str,
) -> None:
    names = {account.account_id: account.name for account in services.settings.wechat_pay}
    names |= {account.account_id: account.name for account in services.settings.alipay}
    reports = [
        findings.leg_report(
            leg,
            sides.get(leg.account_id, findings.Sides()),
            settled.get(leg.account_id),
            name=names.get(leg.account_id, leg.account_id),
        )
        for leg in legs
    ]
    matched = [both.ours.part(rules.MATCHED) for both in sides.values()]
    await db.execute_query(
        """insert into reconciliation_run (id, day, state, started_at, finished_at, started_by,
               rules_version, legs, counts, matched, matched_fen, input_digest, result_digest)
           values ($1, $2, '', $3, $4, $5, $6, $7::jsonb, '{}', $8, $9, '', '')""",
        [
            run_id,
            day,
            now,
            now,
            started_by,
            rules.RULES_VERSION,
            orjson.dumps(reports).decode(),
            sum(count for count, _ in matched),
            sum(fen for _, fen in matched),
        ],
    )


async def _conclude(
    db: BaseDBAsyncClient,
    run_id: UUID,
    day: date,
    legs: Sequence[Leg],
    neighbours: Sequence[UUID],
    services: Services,
) -> None:
    """Set what follows from the written differences: their counts, the state, the digests."""
    rows = await db.execute_query_dict(
        "select kind, count(*) as n from reconciliation_difference where run_id = $1 group by kind",
        [run_id],
    )
    counts = Counter({row["kind"]: row["n"] for row in rows})
    digests = await findings.digests(
        db,
        run_id,
        day,
        legs=legs,
        neighbour_hashes=await queries.hashes(neighbours),
        rules_version=rules.RULES_VERSION,
    )
    await db.execute_query(
        """update reconciliation_run set state = $2, counts = $3::jsonb, input_digest = $4,
               result_digest = $5, finished_at = $6 where id = $1""",
        [
            run_id,
            rules.run_state(counts),
            orjson.dumps(dict(sorted(counts.items()))).decode(),
            digests.input,
            digests.result,
            services.clock(),
        ],
    )
