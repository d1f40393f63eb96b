"""What an operator does by hand: `estation invariants|inbox|attempts|incidents|refunds|claims|…`.

Each is the same action the worker or a page would use, so that no way by hand leads around
`settle`; the runbooks in config/runbooks are made of these.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar
from uuid import UUID

import structlog
import typer
from rich.console import Console
from rich.table import Table
from tortoise import Tortoise

from estation import measuring
from estation.commanding import on_online
from estation.identity.api import StaffMember, staff_by_login
from estation.official_account.actions import publish_menu
from estation.outside.wechat import WechatRefused, WechatUnavailable
from estation.payments import queries as payment_queries
from estation.payments.actions import asking, inbox, incidents, receipts, replaying, reversing
from estation.payments.actions.refunds import ask as refund_asking
from estation.payments.actions.refunds import by_hand, claims
from estation.payments.errors import NoClaim, NotYourIncident
from estation.payments.incident_deeds import CHECKER, FINANCE, deeds_for
from estation.payments.invariant_meanings import meaning_of, runbook_of
from estation.payments.invariants import INVARIANTS, Breaches, breaches_of
from estation.payments.models import Incident
from estation.payments.persons import shown_as
from estation.payments.queries import list_incidents
from estation.payments.refund_queries import refundable_of
from estation.payments.refund_rules import Deed
from estation.payments.rules import ClaimEnd, IncidentState
from estation.payments.staff_queries import arrival_of, claim_of, open_claims, refund_of
from estation.payments.staff_words import CLAIM_END_WORDS, incident_name
from estation.services import Services, open_services
from estation.settings import Settings
from estation.shared.clock import BEIJING, system_clock
from estation.shared.money import display_yuan, fen_from_yuan

T = TypeVar("T")

log = structlog.get_logger()

console = Console()
inbox_commands = typer.Typer(no_args_is_help=True, help="Channel notices that were not settled.")
attempt_commands = typer.Typer(no_args_is_help=True, help="Ask a channel about one payment.")
incident_commands = typer.Typer(no_args_is_help=True, help="Incidents and who looks after them.")
refund_commands = typer.Typer(no_args_is_help=True, help="Refunds asked by hand.")
claim_commands = typer.Typer(no_args_is_help=True, help="What was given back twice (多退应收).")
receipt_commands = typer.Typer(no_args_is_help=True, help="Receipts for the centre.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for programs.")]
By = Annotated[str, typer.Option(help="The login of the officer who decided this.")]
Name = Annotated[str, typer.Argument(help="One invariant; all when left out.")]

Maker = Annotated[str, typer.Option("--by", help="The login of the officer of finance who asks.")]
Checker = Annotated[str, typer.Option(help="The login of another one, who checked it.")]
Paper = Annotated[str, typer.Option(help="The bank's receipt, or the office's decision.")]
Part = Annotated[str, typer.Option(help="In yuan; all that is claimed when left out.")]
Whole = Annotated[
    str, typer.Option("--of", help="All that is claimed now, in yuan; needed with --amount.")
]

INCIDENTS_SHOWN = 50

REDRIVE_ROUNDS = 1000
"""Of 64 notices each: an end, whatever keeps failing."""


def add_to(main: typer.Typer) -> None:
    """Hang these commands on `estation`."""
    main.command("invariants")(show_invariants)
    main.command("signals")(show_signals)
    main.command("wechat-menu")(publish_wechat_menu)
    main.add_typer(inbox_commands, name="inbox")
    main.add_typer(attempt_commands, name="attempts")
    main.add_typer(incident_commands, name="incidents")
    main.add_typer(receipt_commands, name="receipts")
    main.add_typer(refund_commands, name="refunds")
    main.add_typer(claim_commands, name="claims")


def show_invariants(
    name: Name = "",
    explain: Annotated[bool, typer.Option(help="What it means and what to do.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything now, without telling anybody. Exit code 1 when something is broken."""
    wanted = [name] if name else list(INVARIANTS)
    if name and name not in INVARIANTS:
        console.print(f"没有名为 {name} 的自检项。全部名称：{'、'.join(INVARIANTS)}")
        raise typer.Exit(2)
    if explain:
        _explain(wanted)
        return

    async def look() -> dict[str, Breaches]:
        now = system_clock()
        return {one: await breaches_of(one, now=now) for one in wanted}

    found = on_online(look)
    broken = {one: breaches for one, breaches in found.items() if breaches.total}
    if as_json:
        _print_json(
            {
                one: {
                    "breaches": breaches.total,
                    "rows": breaches.first,
                    "runbook": runbook_of(one),
                }
                for one, breaches in found.items()
            }
        )
    else:
        for one, breaches in broken.items():
            console.print(f"[red]不成立[/] {one}：{meaning_of(one).words}")
            console.print(f"  {breaches.total} 条：{'、'.join(breaches.first[:20])}")
            console.print(f"  处置见 {runbook_of(one)}")
        console.print(f"{len(found)} 项自检，{len(broken)} 项不成立。")
    raise typer.Exit(1 if broken else 0)


def _explain(names: list[str]) -> None:
    for name in names:
        meaning = meaning_of(name)
        console.print(f"[bold]{name}[/]（{meaning.owner}，{meaning.severity}）")
        console.print(f"{meaning.words}\n{meaning.doc}")
        console.print(f"处置见 {runbook_of(name)}")
        sys.stdout.write(f"{INVARIANTS[name]}\n\n")


def show_signals() -> None:
    """The gauges alarms look at, as a scrape of /metrics would show them."""

    async def read() -> bytes:
        return await measuring.facts(now=system_clock(), with_books=True)

    sys.stdout.write(on_online(read).decode())


def publish_wechat_menu() -> None:
    """Put our menu under the official account's conversation. Exit code 1 when WeChat says no."""

    async def publish() -> None:
        settings = Settings.read()
        async with open_services(settings, system_clock) as services:
            if services.account_api is not None:
                await publish_menu(services.account_api, settings=settings)

    try:
        asyncio.run(publish())
    except (WechatRefused, WechatUnavailable) as trouble:
        console.print(f"菜单没有发布：{trouble}")
        raise typer.Exit(1) from None
    console.print("公众号菜单已发布，关注者最迟 24 小时内看到。")


@inbox_commands.command("show")
def show_inbox() -> None:
    """The notices that wait, oldest first, and why."""

    async def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
            """select id, channel, out_trade_no, received_at, tries, next_try_at, last_error
               from pay_notice where handled_at is null order by received_at limit 50"""
        )
        return rows

    _print_table(on_online(read))


@inbox_commands.command("redrive")
def redrive_inbox(
    given_up: Annotated[
        bool, typer.Option(help="Also those that failed too often, once the cause is mended.")
    ] = False,
) -> None:
    """Settle the notices that wait, now. Exit code 1 when some fail again."""

    async def redrive() -> tuple[int, int]:
        await inbox.hurry(now=system_clock(), given_up=given_up)
        settled = failed = 0
        for _ in range(REDRIVE_ROUNDS):
            done, again = await inbox.redrive(now=system_clock(), limit=64)
            settled, failed = settled + done, failed + again
            if not done and not again:
                break
        return settled, failed

    settled, failed = on_online(redrive)
    console.print(f"{settled} 条通知已处理，{failed} 条仍然失败（见 estation inbox show）。")
    raise typer.Exit(1 if failed else 0)


@inbox_commands.command("replay")
def replay_inbox(
    file: Annotated[
        Path | None, typer.Option(help="Those of this file (inbox export) instead of our own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Settle every kept message once more: after a restore it brings what the backup did not
    know, on whole books it changes nothing. Exit code 1 when some could not be read."""

    async def replay() -> replaying.Replayed:
        async with open_services(Settings.read(), system_clock) as services:
            if file is None:
                return await replaying.replay_inbox(services, now=system_clock())
            return await replaying.replay_lines(_Lines(file), services, now=system_clock())

    found = on_online(replay)
    if as_json:
        _print_json({**asdict(found), "outcomes": dict(found.outcomes)})
    else:
        _print_table([{"outcome": kind, "n": n} for kind, n in sorted(found.outcomes.items())])
        console.print(
            f"共 {found.read} 条原文，{found.unbelieved} 条以现有密钥无法确认，"
            f"{found.failed} 条处理失败。"
        )
    raise typer.Exit(1 if found.unbelieved or found.failed else 0)


@dataclass(frozen=True, slots=True)
class _Lines:
    """Of a file that is larger than one would like to hold, as often as they are asked for."""

    file: Path

    def __iter__(self) -> Iterator[str]:
        with self.file.open(encoding="utf-8") as lines:
            yield from lines


@contextmanager
def _whole(file: Path) -> Iterator[TextIO]:
    """A file that takes this name when it is on the disk, and never exists half-written: beside it
    under a name of its own, so that two that write at once do not mix; gone if anything fails."""
    half = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        with half.open("x", encoding="utf-8") as lines:
            yield lines
            lines.flush()
            os.fsync(lines.fileno())
        half.replace(file)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@inbox_commands.command("export")
def export_inbox(
    file: Path,
    hours: Annotated[float, typer.Option(min=0.1, max=24 * 180, help="Of the last hours.")] = 25,
) -> None:
    """Write the messages of the last hours to a file, sealed as they are: beside a nightly backup
    it holds what the next one will. Written whole or not at all."""

    async def export() -> int:
        now, count = system_clock(), 0
        with _whole(file) as lines:
            since = now - timedelta(hours=hours)
            async for line in replaying.inbox_lines(since=since, until=now):
                lines.write(f"{line}\n")
                count += 1
        return count

    console.print(f"{on_online(export)} 条通知原文写入 {file}。")


@attempt_commands.command("query")
def query_attempt(number: Annotated[str, typer.Argument(help="Our out_trade_no.")]) -> None:
    """Ask the channel and act on a certain answer, through the one door. Exit 1: no answer."""
    _asked(lambda services: asking.ask_again(number, services, now=system_clock()))


@attempt_commands.command("close")
def close_attempt(number: Annotated[str, typer.Argument(help="Our out_trade_no.")]) -> None:
    """Close one code at its channel, so that nobody can pay it. Money that came is settled."""
    _asked(lambda services: asking.close_now(number, services, now=system_clock()))


def _asked(ask: Callable[[Services], Awaitable[asking.AskedAgain]]) -> None:
    async def run() -> asking.AskedAgain:
        async with open_services(Settings.read(), system_clock) as services:
            return await ask(services)

    found = on_online(run)
    console.print(
        f"{found.out_trade_no}：渠道答复 {found.answer or '无'}，{found.before} → {found.after}"
    )
    raise typer.Exit(0 if found.answer else 1)


@incident_commands.command("list")
def show_incidents(as_json: AsJson = False) -> None:
    """The open ones, most urgent first; at most 50, and how many there are in all."""

    async def read() -> tuple[list[dict[str, Any]], int]:
        open_ones = [
            {
                "id": str(one.id),
                "cause": incident_name(one.kind),
                "owner": one.owner,
                "assigned_to": one.assigned_to,
                "amount": display_yuan(one.amount_fen),
                "number": one.out_trade_no,
                "due": one.due_at,
            }
            for one in await list_incidents(state=IncidentState.OPEN, limit=INCIDENTS_SHOWN)
        ]
        return open_ones, await Incident.filter(state=IncidentState.OPEN).count()

    rows, total = on_online(read)
    if as_json:
        listed = [{**row, "due": row["due"].isoformat()} for row in rows]
        _print_json({"open": total, "incidents": listed})
        return
    _print_table(rows)
    if total > len(rows):
        console.print(f"共 {total} 件，以上是最紧急的 {len(rows)} 件；全部见 /staff/incidents。")


@incident_commands.command("adopt")
def adopt_unowned() -> None:
    """Open an incident for each sum in suspense, or automatic refund, that has none."""
    opened = on_online(lambda: incidents.adopt_unowned(now=system_clock()))
    console.print(f"为 {opened} 笔无人负责的钱登记了异常事件。")


@incident_commands.command("resolve")
def resolve_incident(
    incident_id: UUID,
    by: By,
    words: Annotated[str, typer.Option(help="What was found and decided.")],
) -> None:
    """Close one with the words of the person who decided, if the page let this officer do it.
    Some kinds end with a second officer's words. Moves no money. Exit code 2: refused."""

    async def resolve() -> IncidentState:
        officer = await _officer_for(Deed.RESOLVE, incident_id, by)
        told = await incidents.resolve_incident(
            incident_id=incident_id,
            by=shown_as(officer.name, officer.role),
            by_id=officer.id,
            resolution=words,
            now=system_clock(),
        )
        return told.state

    is_over = on_online(resolve) is IncidentState.RESOLVED
    console.print("已办结。" if is_over else "已记下。这类异常由两人办结，请另一人核对后办结。")


def reverse_transfer(
    transfer_id: UUID,
    incident: Annotated[UUID, typer.Option(help="The open incident that led here.")],
    maker_login: Maker,
    approved_by: Checker,
) -> None:
    """Undo a transfer that nobody but a hand can have posted, by its exact mirror; both stay.

    What our own actions post (payments, refunds, holds) is undone by them alone. Exit code 2: no.
    """

    async def reverse() -> UUID:
        maker, checker = await _two_for(Deed.RESOLVE, incident, maker_login, approved_by)
        mirror = await reversing.reverse_by_hand(
            transfer_id=transfer_id,
            incident_id=incident,
            **_named(maker, checker),
            now=system_clock(),
        )
        log.warning(
            "transfer_reversed",
            transfer_id=str(transfer_id),
            by=str(maker.id),
            approved_by=str(checker.id),
            mirror=str(mirror),
        )
        return mirror

    console.print(f"已用反向凭证 {on_online(reverse)} 冲回。")


@receipt_commands.command("resend")
def resend_receipts(order_no: str) -> None:
    """Queue the receipts a paid order should have sent to the centre and did not."""
    queued = on_online(lambda: receipts.resend_receipts(order_no=order_no, now=system_clock()))
    console.print(f"补发 {queued} 份回执。")


@refund_commands.command("ask")
def ask_refund(
    incident_id: UUID,
    by: Annotated[str, typer.Option(help="The maker's login; another person approves.")],
    reason: Annotated[str, typer.Option(help="The payer reads it.")],
) -> None:
    """Ask to give back all that is left of the money of an incident. A checker approves it."""

    async def ask() -> UUID:
        maker = await _officer_for(Deed.REFUND, incident_id, by)
        found = await payment_queries.incident(incident_id)
        arrival = await arrival_of(found)
        left = sum(one.refundable_fen for one in await refundable_of(arrival_id=arrival))
        return await refund_asking.ask_refund(
            incident_id=incident_id,
            amount_fen=left,
            believed_refundable_fen=left,
            reason=reason,
            by=shown_as(maker.name, maker.role),
            by_id=maker.id,
            now=system_clock(),
        )

    request_id = on_online(ask)
    console.print(f"已申请退款 {request_id}，请复核人在 /staff/refunds 复核。")


@refund_commands.command("paid-by-hand")
def book_paid_by_hand(
    incident_id: UUID, document_no: Paper, maker_login: Maker, approved_by: Checker
) -> None:
    """Book that the payer of a redirected refund got it by transfer; its incidents are over.
    Exit code 2: refused."""

    async def book() -> str:
        maker, checker = await _two_for(Deed.PAY_BY_HAND, incident_id, maker_login, approved_by)
        return await by_hand.pay_by_hand(
            refund_id=await refund_of(await payment_queries.incident(incident_id)),
            document_no=document_no,
            **_named(maker, checker),
            now=system_clock(),
        )

    console.print(f"已登记转付，凭证 {on_online(book)}。")


@claim_commands.command("list")
def show_claims(as_json: AsJson = False) -> None:
    """Those that have not ended, most urgent first; at most 50, and how many there are in all."""
    found, total = on_online(lambda: open_claims(limit=INCIDENTS_SHOWN))
    rows = [
        {
            "incident": str(one.incident.id),
            "account": one.incident.account_id,
            "trade": one.incident.channel_trade_no,
            "claim": display_yuan(one.claim.claim_fen),
            "asked": one.claim.words,
            "refund under way": one.claim.refund_no,
            "due": one.incident.due_at,
        }
        for one in found
    ]
    if as_json:
        listed = [
            {
                **{name.replace(" ", "_"): value for name, value in row.items()},
                "due": one.incident.due_at.isoformat(),
            }
            for row, one in zip(rows, found, strict=True)
        ]
        _print_json({"open": total, "claims": listed})
        return
    _print_table(rows)
    if total > len(rows):
        console.print(f"共 {total} 笔，以上是最紧急的 {len(rows)} 笔。")


@claim_commands.command("recovered")
def book_recovered(
    incident_id: UUID,
    received_on: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="The Beijing day it came.")
    ],
    document_no: Paper,
    maker_login: Maker,
    approved_by: Checker,
    amount: Part = "",
    of: Whole = "",
) -> None:
    """Book that a claim, or a part of it, came back from the payer. Exit code 2: refused."""
    _end_claim(
        incident_id,
        ClaimEnd.RECOVERED,
        (maker_login, approved_by),
        (amount, of),
        document_no=document_no,
        received_on=received_on.date(),
    )


@claim_commands.command("written-off")
def book_written_off(
    incident_id: UUID,
    document_no: Paper,
    reason: Annotated[str, typer.Option(help="Which office decided it, and why.")],
    maker_login: Maker,
    approved_by: Checker,
    amount: Part = "",
    of: Whole = "",
) -> None:
    """Book that an office gave a claim up, or a part of it. Exit code 2: refused."""
    _end_claim(
        incident_id,
        ClaimEnd.WRITTEN_OFF,
        (maker_login, approved_by),
        (amount, of),
        document_no=document_no,
        reason=reason,
    )


def _end_claim(
    incident_id: UUID,
    kind: ClaimEnd,
    logins: tuple[str, str],
    part_of: tuple[str, str],
    **papers: Any,
) -> None:
    """A part is one of a sum that was looked at: a command given twice books it once."""
    if bool(part_of[0]) != bool(part_of[1]):
        console.print("分次登记须同时写明 --amount（这一次的金额）和 --of（现应收的全部金额）。")
        raise typer.Exit(2)

    async def book() -> str:
        amount, of = part_of
        maker, checker = await _two_for(Deed.END_CLAIM, incident_id, *logins)
        claim = await claim_of(await payment_queries.incident(incident_id))
        if claim is None:
            raise NoClaim
        return await claims.end_claim(
            incident_id=incident_id,
            kind=kind,
            amount_fen=fen_from_yuan(amount) if amount else claim.claim_fen,
            believed_fen=fen_from_yuan(of) if of else claim.claim_fen,
            **papers,
            **_named(maker, checker),
            now=system_clock(),
        )

    console.print(f"已{CLAIM_END_WORDS[kind]}，凭证 {on_online(book)}。")


async def _two_for(
    deed: Deed, incident_id: UUID, maker_login: str, checker_login: str
) -> tuple[StaffMember, StaffMember]:
    """An officer of finance who asks, and one who may check. Refuses as `_officer_for`."""
    maker = await _officer_for(deed, incident_id, maker_login)
    checker = await _officer_for(deed, incident_id, checker_login)
    if maker.role not in FINANCE or checker.role != CHECKER:
        raise NotYourIncident
    return maker, checker


def _named(maker: StaffMember, checker: StaffMember) -> dict[str, Any]:
    return {
        "asked_by": shown_as(maker.name, maker.role),
        "asked_by_id": maker.id,
        "approved_by": shown_as(checker.name, checker.role),
        "approved_by_id": checker.id,
    }


async def _officer_for(deed: Deed, incident_id: UUID, login: str) -> StaffMember:
    """The officer of this login, if the incident's page offers them the deed now.

    Refuses StaffNotFound, IncidentNotFound, NotYourIncident.
    """
    officer = await staff_by_login(login)
    found = await payment_queries.incident(incident_id)
    offered = deeds_for(
        kind=found.kind,
        state=found.state,
        owner=found.owner,
        role=officer.role,
        number=found.out_trade_no,
    )
    if deed not in offered:
        raise NotYourIncident
    return officer


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print("没有。")
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold")  # a number cut short helps nobody
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(BEIJING).strftime("%m-%d %H:%M")
    return "—" if value in (None, "") else str(value)
