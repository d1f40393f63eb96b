"""`estation …`: every program and tool by one name, help in plain words.

A command imports what only it needs when it is called: all programs together take three seconds
to read, and most commands a fraction of that.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tortoise import Tortoise
from typer.core import TyperGroup

from estation import settings as settings_module
from estation import settings_check
from estation.commanding import data_vault, database_of, settings_of, with_database
from estation.inner import database as inner_database
from estation.ledger import api as ledger
from estation.outside.gate import keys, sending
from estation.settings import Gate as GateSettings
from estation.settings import Settings
from estation.shared import logs, outbox, sealing
from estation.shared.clock import system_clock
from estation.shared.errors import Refused
from estation.shared.migrating import TablesBusy, asyncpg_dsn, migrate_to_newest
from estation.shared.money import display_yuan
from estation.shared.pages import environment

S = TypeVar("S")

console = Console()


def _with_later(read: Callable[[], TyperGroup]) -> type[TyperGroup]:
    """A group of the commands below and of others, read when none of these is meant."""

    class Commands(TyperGroup):
        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return super().get_command(ctx, cmd_name) or read().get_command(ctx, cmd_name)

        def list_commands(self, ctx: Any) -> list[str]:
            return [*super().list_commands(ctx), *read().list_commands(ctx)]

    return Commands


@cache
def _of_other_modules() -> TyperGroup:
    from estation import key_commands, operating
    from estation.bench.main import bench
    from estation.simulation.main import simulate

    others = typer.Typer()
    others.add_typer(simulate, name="simulate")
    operating.add_to(others)
    key_commands.add_to(others)
    others.command()(bench)
    return typer.main.get_group(others)


@cache
def _of_the_gate() -> TyperGroup:
    from estation import gate_commands, gate_kit_commands

    others = typer.Typer()
    gate_commands.add_to(others)
    gate_kit_commands.add_to(others)
    return typer.main.get_group(others)


@cache
def _on_books_by_operators() -> TyperGroup:
    from estation.operating import reverse_transfer

    others = typer.Typer()
    others.command("reverse")(reverse_transfer)
    return typer.main.get_group(others)


main = typer.Typer(
    cls=_with_later(_of_other_modules),
    no_args_is_help=True,
    add_completion=False,
    help="不动产 e 站",
)
serve = typer.Typer(no_args_is_help=True, help="Serve one of the programs over HTTP.")
gate = typer.Typer(
    cls=_with_later(_of_the_gate), no_args_is_help=True, help="Look at the one-way gate."
)
books = typer.Typer(
    cls=_with_later(_on_books_by_operators),
    no_args_is_help=True,
    help="Prove that the books are what they were.",
)
sandbox = typer.Typer(no_args_is_help=True, help="The sandbox for what lies outside the city.")
main.add_typer(serve, name="serve")
main.add_typer(gate, name="gate")
main.add_typer(books, name="ledger")
main.add_typer(sandbox, name="sandbox")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for programs.")]
Side = Annotated[str, typer.Option(help="online or inner.")]


@serve.command("online")
def serve_online() -> None:
    """The citizens' platform (settings: workers, host, port)."""
    from estation import app, watchdog

    settings = _looked_at(settings_check.online_settings)
    logs.configure(as_json=settings.log_as_json)
    watchdog.serve(
        lambda: app.create_app(name="estation-online", settings=settings),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
    )


@serve.command("inner")
def serve_inner() -> None:
    """The reference internal platform."""
    from estation import watchdog
    from estation.inner import app

    settings = _looked_at(settings_check.inner_settings)
    logs.configure(as_json=settings.log_as_json)
    watchdog.serve(
        lambda: app.create_app(name="estation-inner", settings=settings, clock=system_clock),
        host=settings.host,
        port=settings.port,
        workers=1,
    )


@serve.command("sandbox")
def serve_sandbox(
    data: Annotated[Path, typer.Option(help="Folder of its keys and state.")] = Path(
        ".local/sandbox"
    ),
    port: int = 8200,
) -> None:
    """WeChat Pay, Alipay, WeChat and the short-message operator, for demo and tests."""
    from estation import watchdog
    from estation.sandbox.app import create_sandbox

    logs.configure(as_json=False)
    watchdog.serve(
        lambda: create_sandbox(data=data, port=port),
        host="127.0.0.1",
        port=port,
        workers=1,
    )


@main.command()
def worker(
    side: Side = "online",
    once: Annotated[
        bool, typer.Option(help="Each job of the online side once, then stop.")
    ] = False,
) -> None:
    """The background program of one side, until it is told to stop."""
    if once:
        _work_once()
    elif side == "inner":
        from estation.inner import worker as inner_worker

        inner = _looked_at(settings_check.inner_settings)
        logs.configure(as_json=inner.log_as_json)
        asyncio.run(inner_worker.work(inner))
    else:
        from estation import worker as online_worker

        online = _looked_at(lambda: settings_check.online_settings(signs_heads=True))
        logs.configure(as_json=online.log_as_json)
        asyncio.run(online_worker.work(online))


def _work_once() -> None:
    """Exit code 1 when a job failed."""
    from estation import worker

    settings = _looked_at(lambda: settings_check.online_settings(signs_heads=True))
    logs.configure(as_json=settings.log_as_json)
    fates = asyncio.run(with_database("online", lambda: worker.work_once(settings)))
    for job, fate in fates.items():
        console.print(f"{job}: {fate}")
    raise typer.Exit(0 if set(fates.values()) == {"ok"} else 1)


@main.command("check-settings")
def check_settings(side: Side = "online") -> None:
    """Look at the settings as a program does before it starts. Exit code 2: something is wrong."""
    if side == "inner":
        inner = _looked_at(settings_check.inner_settings)
        console.print(f"内网设置（{inner.environment}）没有问题。")
    else:
        online = _looked_at(lambda: settings_check.online_settings(signs_heads=True))
        console.print(f"线上设置（{online.environment}）没有问题。")


def _looked_at(read: Callable[[], S]) -> S:
    try:
        return read()
    except settings_check.WrongSettings as wrong:
        # Without a markup: a sentence may hold brackets.
        sys.stderr.write("设置有问题，程序没有启动：\n")
        sys.stderr.writelines(f"- {problem}\n" for problem in wrong.problems)
        raise typer.Exit(2) from None


@main.command()
def migrate(side: Side = "online") -> None:
    """Bring one side's database to the newest migration. Exit code 1: a table was in use; what is
    done stays, and the command may be given again."""
    config, url = database_of(side)
    try:
        asyncio.run(migrate_to_newest(config, dsn=asyncpg_dsn(url)))
    except TablesBusy:
        console.print("要改的表正被使用，10 秒内没有等到。已完成的迁移保留，请在空闲时再执行一次。")
        raise typer.Exit(1) from None


@main.command()
def seed(side: Side = "online") -> None:
    """Give one side of the demo its tables and its first people, cases and bills."""
    from estation.demo import seeding

    logs.configure(as_json=False)
    begin = seeding.seed_inner if side == "inner" else seeding.seed_online
    asyncio.run(begin(now=system_clock()))


@gate.command("resend")
def gate_resend(first: int, last: int, side: Side = "online") -> None:
    """Write these packets of our outgoing stream into `outgoing/` again, bit for bit."""
    here = _gate_of(side)
    written = asyncio.run(
        with_database(
            side,
            lambda: sending.write_again(
                here.stream_out, folder=here.folder / "outgoing", first=first, last=last
            ),
        )
    )
    console.print(f"已重新写出 {len(written)} 个数据包：{written}")


@main.command("revive-messages")
def revive_messages() -> None:
    """Try undelivered messages again that were set aside after too many failures."""

    async def revive() -> int:
        return await outbox.revive_dead(Tortoise.get_connection("default"), now=system_clock())

    console.print(f"{asyncio.run(with_database('online', revive))} 条消息将重新发送。")


@main.command("seal-payers")
def seal_payers(
    again: Annotated[
        bool, typer.Option(help="From the first row, also where an earlier call has ended.")
    ] = False,
) -> None:
    """Seal who paid in rows written before payers were sealed: notices, incidents, bill files,
    WeChat bindings and sessions. May be broken off at any time and goes on where it stood.

    Exit code 1: some bill files are not what their digests say; they were left as they are, named
    at the end, and looked at again with `--again` once they are restored.
    """
    from estation.identity import api as identity
    from estation.payments import api as payments
    from estation.reconciliation import api as reconciliation

    vault = data_vault()
    walks = {
        **identity.walks_over_openids(vault),
        **payments.walks_over_payers(vault),
        **reconciliation.walks_over_bills(vault),
    }

    def tell(progress: sealing.Progress) -> None:
        end = "，完成" if progress.is_ended else ""
        console.print(f"{progress.walk}：已查 {progress.looked}，已加密 {progress.sealed}{end}")

    async def work() -> tuple[int, list[str]]:
        await sealing.walk_through(walks, now=system_clock(), again=again, tell=tell)
        return await reconciliation.unsealed_bills()

    changed, named = asyncio.run(with_database("online", work))
    if not changed:
        return
    console.print(
        f"{changed} 个账单文件与存入时的摘要不符，未加密：有人改动过证据，请先查明，"
        "恢复原文件后用 --again 重来："
    )
    for file in named:
        console.print(f"  {file}", soft_wrap=True)
    raise typer.Exit(1)


@main.command()
def reconcile(
    day: Annotated[str, typer.Argument(help="YYYY-MM-DD")], as_json: AsJson = False
) -> None:
    """Fetch the day's channel bills, prove them, match them with the ledger, list differences.

    Exit code 0: balanced. 1: differences. 2: a leg is missing or unproven.
    """
    from estation.reconciliation import api as reconciliation
    from estation.services import open_services

    settings = Settings.read()

    async def run() -> Any:
        async with open_services(settings, system_clock) as services:
            return await reconciliation.reconcile_day(
                date.fromisoformat(day), services=services, now=system_clock()
            )

    try:
        view = asyncio.run(with_database("online", run))
    except (Refused, ValueError) as refusal:
        console.print(getattr(refusal, "message", f"日期应写作 YYYY-MM-DD：{refusal}"))
        raise typer.Exit(2) from None
    _print_run(view, as_json)
    raise typer.Exit({"balanced": 0, "differences": 1}.get(view.state, 2))


@books.command("verify")
def ledger_verify(
    book: Annotated[str | None, typer.Option(help="One region's book; all without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every digest from the raw rows and hold them against the published heads.

    Exit code 0: the books are what they were. 1: they are not; the first break is named.
    """
    settings = Settings.read()
    files = [settings.secret(name) for name in settings.ledger_public_key_files]
    pems = [pem for file in files for pem in keys.each_pem(file)]
    trusted = {key.key_id: key for key in map(keys.load_peer_key, pems)}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("核对账本", total=None)
        found = asyncio.run(
            with_database(
                "online",
                lambda: ledger.verify(
                    now=system_clock(),
                    keys=trusted,
                    folder=settings.published_dir,
                    book=book,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                ),
            )
        )
    _print_verification(found, as_json)
    raise typer.Exit(0 if found.is_whole else 1)


@books.command("head")
def ledger_head(as_json: AsJson = False) -> None:
    """The newest block of every book."""
    states = asyncio.run(with_database("online", ledger.newest_blocks))
    if as_json:
        console.print_json(data=[asdict(state) for state in states], default=str)
        return
    table = Table("book", "height", "transfers", "debit", "sealed at", "digest")
    for state in states:
        table.add_row(
            state.book,
            str(state.height),
            str(state.transfers),
            display_yuan(state.debit_fen),
            state.sealed_at.isoformat(timespec="seconds"),
            state.digest,
        )
    console.print(table)


@books.command("seal")
def ledger_seal() -> None:
    """Chain what is committed now, without waiting for the worker."""
    sealed = asyncio.run(with_database("online", lambda: ledger.seal(system_clock())))
    if sealed is None:
        console.print("另一个程序正在封账，请稍后再试。")
        raise typer.Exit(1)
    console.print(f"已将 {sealed.transfers} 笔账目封入 {sealed.blocks} 个区块。")


@main.command("split-export")
def split_export(
    day: Annotated[str, typer.Argument(help="YYYY-MM-DD")],
    account: Annotated[str, typer.Option(help="One collecting account; else all.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the split instructions of a day for what was collected city-wide.

    Exit code 0: made, or nothing was left to instruct. 2: refused.
    """
    from estation.payments import api as payments
    from estation.reconciliation import api as reconciliation

    settings = Settings.read()
    ours = sorted(set(settings.collecting_accounts.values()))
    accounts = [one for one in ours if one == account] if account else ours
    if not accounts:
        console.print(payments.SplitExportNotFound.message)
        raise typer.Exit(2)

    async def make(account_id: str) -> payments.SplitExportView | None:
        asked, now = date.fromisoformat(day), system_clock()
        late = await reconciliation.fee_days(account_id, now=now)
        try:
            return await payments.make_split_export(
                day=asked,
                account_id=account_id,
                by="estation split-export",
                fees=await reconciliation.split_fees(asked, account_id, now=now, late=late),
                fee_days=late,
                settings=settings,
                now=now,
            )
        except payments.NothingToInstruct:
            return None

    async def make_all() -> list[payments.SplitExportView]:
        made = [await make(account_id) for account_id in accounts]
        return [view for view in made if view is not None]

    try:
        views = asyncio.run(with_database("online", make_all))
    except (Refused, ValueError) as refusal:
        console.print(getattr(refusal, "message", f"日期应写作 YYYY-MM-DD：{refusal}"))
        raise typer.Exit(2) from None
    if as_json:
        console.print_json(
            data={"exports": [orjson.loads(orjson.dumps(asdict(view))) for view in views]}
        )
        return
    for view in views:
        console.print(
            f"{view.export_no} {view.account_id}：{view.lines} 条（迟到 {view.late_lines} 条，"
            f"手续费更正 {view.corrections} 条），"
            f"付款 ¥ {display_yuan(view.total_fen)}，退款 ¥ {display_yuan(view.refund_fen)}"
        )
    if not views:
        console.print("没有尚未分账的款项。")


@sandbox.command("credentials")
def sandbox_credentials(
    data: Path = Path(".local/sandbox"),
    base_url: str = "http://127.0.0.1:8200",
    as_json: AsJson = False,
) -> None:
    """All that a third-party SDK needs to talk to the running sandbox."""
    from estation.sandbox import credentials

    made = credentials.write_credentials(data, base_url)
    sys.stdout.write(json.dumps(made, ensure_ascii=False, indent=None if as_json else 2) + "\n")


@main.command()
def demo(
    once: Annotated[bool, typer.Option(help="Play the main chain headless, then stop.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start over with empty data.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder for the city's data.")] = None,
    ports: Annotated[str, typer.Option(help="online,inner,sandbox")] = "8000,8100,8200",
    county: Annotated[
        bool, typer.Option(help="With a county as a second source (port: inner's + 1).")
    ] = False,
    lossy: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.2, help="The gate's device loses, doubles, delays this share each."
        ),
    ] = 0.0,
) -> None:
    """A running city on this machine; Ctrl-C ends it and leaves no process behind."""
    from estation.demo.main import run

    raise typer.Exit(
        run(once=once, fresh=fresh, data=data, ports=ports, county=county, lossy=lossy)
    )


@main.command("check-migrations", hidden=True)
def check_migrations() -> None:
    """Exit 1 when models changed without a migration."""
    drifted = [
        *asyncio.run(_drift(settings_module.DATABASE)),
        *asyncio.run(_drift(inner_database.DATABASE)),
    ]
    for line in drifted:
        console.print(line)
    raise typer.Exit(1 if drifted else 0)


@main.command("check-templates", hidden=True)
def check_templates() -> None:
    """Every template compiles."""
    templates = environment().list_templates(extensions=["html"])
    for template in templates:
        environment().get_template(template)
    console.print(f"{len(templates)} templates compile")


async def _drift(config: dict[str, Any]) -> list[str]:
    from tortoise.migrations.autodetector import MigrationAutodetector

    inner_database.release_shared_models()  # the other side was opened first in this process
    await Tortoise.init(config=config, _enable_global_fallback=True)
    try:
        writers = await MigrationAutodetector(Tortoise.apps, config["apps"]).changes()
        return [f"models changed without a migration: {w.app_label} {w.name}" for w in writers]
    finally:
        await Tortoise.close_connections()


def _gate_of(side: str) -> GateSettings:
    return settings_of(side).gate


def _print_run(view: Any, as_json: bool) -> None:
    from estation.reconciliation.api import as_dict

    if as_json:
        console.print_json(data=as_dict(view))
        return
    console.print(
        f"{view.day} {view.state}：相符 {view.matched} 笔，¥ {display_yuan(view.matched_fen)}"
    )
    table = Table("类型", "渠道", "商户订单号", "我方", "渠道方")
    for row in view.differences:
        table.add_row(row.kind, row.channel, row.out_trade_no, str(row.our_fen), str(row.their_fen))
    if view.differences:
        console.print(table)


def _print_verification(found: ledger.Verification, as_json: bool) -> None:
    if as_json:
        console.print_json(
            data={
                "whole": found.is_whole,
                "books": [asdict(book) for book in found.books.values()],
                "heads": found.heads,
                "breaks": [asdict(one) for one in found.breaks],
            }
        )
        return
    for book in found.books.values():
        console.print(
            f"账本 {book.book}：{book.height} 个区块，{book.transfers} 笔，"
            f"借方合计 ¥ {display_yuan(book.debit_fen)}，校验值 {book.digest}"
        )
    console.print(f"已公布的账本头：{found.heads} 个")
    if found.is_whole:
        console.print("账本完整，未被改动。")
        return
    table = Table("问题", "账本", "区块", "账目", "说明")
    for one in found.breaks:
        table.add_row(
            one.what, one.book, str(one.height or "—"), one.transfer_id or "—", one.detail
        )
    console.print(table)
