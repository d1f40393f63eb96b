"""How our own keys are changed: `estation keys show|add|drop` and `estation reseal`.

A key file is written whole beside the old one and takes its place; the running programs read it
by themselves. Nothing here tells what a key is, only its id.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn
from uuid import UUID

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from estation.cases import actions as cases
from estation.commanding import data_vault, with_database
from estation.fees import actions as fees
from estation.identity.actions import sealing as identity
from estation.outside.gate import later, more, refused
from estation.payments.actions import sealing as payments
from estation.reconciliation.actions import sealing as reconciliation
from estation.registry import actions as registry
from estation.settings import InnerSettings, Settings
from estation.shared import keyring, sealing
from estation.shared.clock import system_clock
from estation.shared.crypto import HAND_OVER_SECONDS, Vault, read_data_keys
from estation.shared.resealing import (
    Resealing,
    RowsMeet,
    is_unopened,
    needing_former,
    resealing,
    walk_name,
)

console = Console()
key_commands = typer.Typer(no_args_is_help=True, help="Change our own keys without a restart.")


class Which(StrEnum):
    """The key files that hold several keys while they are being changed."""

    DATA = "data"  # personal data at rest
    PAY_CODE = "pay-code"  # the codes on bills
    RECEIPT = "receipt"  # the verification codes on receipts


WhichKey = Annotated[Which, typer.Argument(help="data, pay-code or receipt.")]
Side = Annotated[str, typer.Option(help="online or inner (pay-code only).")]

SETTLED_SECONDS: Final = 2 * HAND_OVER_SECONDS
"""So long after the last change of the data key's file every program makes with the newest."""


UNOPENED_TOLD: Final = 100
"""More rows than these that nothing opens are no rows that rotted, but a key that is missing."""

TRIES: Final = 5
"""For a batch that met the gate's import of the same persons: each of the two locks rows in an
order of its own."""


def add_to(main: typer.Typer) -> None:
    main.add_typer(key_commands, name="keys")
    main.command("reseal")(reseal)


@key_commands.command("show")
def show() -> None:
    """The ids of the keys in each file, newest first."""
    settings = Settings.read()
    table = Table("密钥", "文件", "编号（新的在前）")
    for which in Which:
        name = _name_of(which, settings)
        keys = _read(settings.secret(name), name)
        table.add_row(which, name, "、".join(key.key_id for key in keys))
    console.print(table)


@key_commands.command("add")
def add(which: WhichKey, side: Side = "online") -> None:
    """A new key in front of those in the file; from then on it makes, and all of them recognise."""
    name, path, data = _file(which, side)
    keys = _read(data, name)
    if len(keys) >= keyring.MOST_KEYS:
        _stop(f"{name} 已有 {len(keys)} 把密钥，先取出不再需要的。")
    new = keyring.new_key()
    _replace(path, data, keyring.write_keys([new, *keys]))
    console.print(f"{name}：新密钥 {new.key_id} 已放在最前，程序约 2 秒内自行读取，无需重启。")
    if which is Which.DATA:
        console.print(
            f"{HAND_OVER_SECONDS:.0f} 秒后新数据用它加密：在此之前把同一个文件复制到每一台主机，"
            "并另存一份到保管处。一分钟后执行 estation reseal 换下旧数据。"
        )
    if which is Which.PAY_CODE:
        console.print("另一侧也要放同一个文件（线上先放，内网后放），否则新码线上不认。")


@key_commands.command("drop")
def drop(
    which: WhichKey,
    side: Side = "online",
    yes: Annotated[
        bool, typer.Option("--yes", help="What is printed under the oldest key loses its worth.")
    ] = False,
    without: Annotated[
        list[UUID] | None,
        typer.Option(help="A row that reseal names and nobody can mend (data only); repeatable."),
    ] = None,
) -> None:
    """Take out the oldest key. The data key goes only when no row needs it any more, but for those
    that no key opens and that are named one by one."""
    name, path, data = _file(which, side)
    keys = _read(data, name)
    if len(keys) == 1:
        _stop(f"{name} 只有一把密钥，不能取出。")
    if which is Which.DATA:
        _require_settled(path)
        needed = asyncio.run(with_database("online", lambda: _needed_but(without or [])))
        if any(needed.values()):
            _print_needed(needed)
            _stop("还有数据需要旧密钥，没有取出。先执行 estation reseal。")
    elif not yes:
        _stop("取出后，用它印出的码全部失效。确认请加 --yes。")
    _replace(path, data, keyring.write_keys(keys[:-1]))
    console.print(f"{name}：已取出密钥 {keys[-1].key_id}。")
    if which is Which.DATA:
        console.print("换钥以前的数据库备份仍要用它打开：与备份分开保管，备份销毁时一并销毁。")


def reseal(
    again: Annotated[
        bool, typer.Option(help="From the first row, also where an earlier call has ended.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what is left to do.")] = False,
    forget_bindings: Annotated[
        bool,
        typer.Option(
            "--forget-bindings",
            help="Delete WeChat bindings that only the former key finds: their owners prove phone"
            " and person once more.",
        ),
    ] = False,
) -> None:
    """Seal and index all personal data anew with the newest data key. May be broken off at any
    time and goes on where it stood. Exit code 0: no row needs a former key any more."""
    vault = data_vault()
    held = vault.keys.held
    if not held[0].is_named:
        _stop("data_key_file 里还没有新密钥。先执行 estation keys add data。")

    walks_too, resealings = not check and len(held) > 1, _resealings(vault)
    try:
        needed = asyncio.run(
            with_database(
                "online",
                lambda: _reseal(
                    vault, resealings if walks_too else [], again=again, forgets=forget_bindings
                ),
            )
        )
    except RowsMeet as trouble:
        _stop(_words_of(trouble))
    _print_needed(needed)
    are_all_open = _tell_unopened(resealings)
    if any(needed.values()) or not are_all_open:
        _tell_what_is_left(needed, is_former_gone=len(held) == 1)
        raise typer.Exit(1)
    console.print("没有数据再需要旧密钥。")
    if len(held) > 1:
        console.print("可执行 estation keys drop data。")


async def _reseal(
    vault: Vault, walked: Sequence[Resealing], *, again: bool, forgets: bool
) -> dict[str, int]:
    if walked and forgets:
        gone = await identity.forget_unsealed_bindings(vault)
        console.print(f"已删除只有旧密钥认得的微信绑定 {gone} 个。")
    for one in walked:
        await _walk(one, vault, again=again)
    return await _count(_resealings(vault))


async def _needed_but(named: Sequence[UUID]) -> dict[str, int]:
    """Stops for a named row that a key opens, or that is not there: it is no loss to be taken."""
    resealings = _resealings(data_vault())
    for row_id in named:
        if not any([await is_unopened(one, row_id) for one in resealings]):
            _stop(f"没有打不开的数据 {row_id}，没有取出。请核对 estation reseal 列出的编号。")
    return await _count(resealings, without=named)


def _tell_unopened(resealings: Sequence[Resealing]) -> bool:
    """Names the rows that were left as they are; True when there is none."""
    found = [(one.table, *row) for one in resealings for row in one.unopened.items()]
    for table, row_id, is_key_missing in found[:UNOPENED_TOLD]:
        why = (
            "是用一把不在 data_key_file 里的密钥加密的：请把它放回（每行一把，新的在前）再执行。"
            if is_key_missing
            else "打不开，或与存入时的摘要不符：内容被改动过，请先查明。"
        )
        console.print(f"表 {table} 的 {row_id} {why}")
    if found:
        console.print(
            f"以上共 {len(found)} 行没有改动，其余都已换好。确实无法挽回的，"
            "取出旧密钥时逐行写明：estation keys drop data --without 编号。"
        )
    return not found


def _tell_what_is_left(needed: dict[str, int], *, is_former_gone: bool) -> None:
    if is_former_gone:
        console.print(
            "旧密钥已不在 data_key_file 里：请放回（每行一把，新的在前）再执行。没有改动任何数据。"
        )
    elif needed["wechat_binding"]:
        console.print(
            "余下的微信绑定要等本人再次从微信进入才能换；不等时加 --forget-bindings，"
            "这些人下次重新验证手机和身份证尾号。"
        )


async def _walk(one: Resealing, vault: Vault, *, again: bool) -> None:
    """To its end; and once more from the first row where programs still made with the former key
    behind it."""
    walks = {walk_name(one, vault.keys.newest): one.step}
    await _through(walks, again=again)
    if await needing_former(one):
        await _through(walks, again=True)


async def _through(walks: dict[str, sealing.Step], *, again: bool) -> None:
    for left in reversed(range(TRIES)):
        try:
            await sealing.walk_through(walks, now=system_clock(), again=again, tell=_tell)
        except (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError):
            if not left:
                raise
            again = False  # it goes on where it stood
        else:
            return


async def _count(
    resealings: Sequence[Resealing], *, without: Sequence[UUID] = ()
) -> dict[str, int]:
    return {one.table: await needing_former(one, without=without) for one in resealings}


def _resealings(vault: Vault) -> list[Resealing]:
    """All that is sealed, wherever it lies."""
    tables = (
        *identity.SEALED,
        *registry.SEALED,
        *cases.SEALED,
        *fees.SEALED,
        *refused.SEALED,
        *more.SEALED,
        *later.SEALED,
    )
    return [
        *(resealing(table, vault) for table in tables),
        *payments.resealings_of_payers(vault),
        reconciliation.resealing_of_bills(vault),
    ]


def _words_of(trouble: RowsMeet) -> str:
    return f"表 {trouble.table} 里有两行本是同一个，换钥后会重复；这一批没有改动，请联系开发者。"


def _tell(progress: sealing.Progress) -> None:
    end = "，完成" if progress.is_ended else ""
    table = progress.walk.rpartition(":")[2]
    console.print(f"{table}：已查 {progress.looked}，已换 {progress.sealed}{end}")


def _print_needed(needed: dict[str, int]) -> None:
    table = Table("表", "还需要旧密钥的行")
    for name, count in needed.items():
        table.add_row(name, str(count))
    console.print(table)


def _name_of(which: Which, settings: Settings) -> str:
    return {
        Which.DATA: settings.data_key_file,
        Which.PAY_CODE: settings.pay_code_key_file,
        Which.RECEIPT: settings.receipt_key_file,
    }[which]


def _file(which: Which, side: str) -> tuple[str, Path, bytes]:
    path: Path | None
    if side == "inner":
        inner = InnerSettings.read()
        if which is not Which.PAY_CODE:
            _stop("内网一侧只有缴费码密钥：estation keys … pay-code --side inner。")
        name, path = inner.pay_code_key_file, inner.secret_path(inner.pay_code_key_file)
    else:
        settings = Settings.read()
        name = _name_of(which, settings)
        path = settings.secret_path(name)
    if path is None:
        _stop(f"{name} 由环境变量给出，不能在运行中更换：改为文件，或改变量后重启全部程序。")
    try:
        data = path.read_bytes()
    except OSError as failure:
        _stop(f"文件 {path} 无法读取（{failure.strerror}）。")
    if which is Which.DATA:
        _read_data(data, name)
    return name, path, data


def _read(data: bytes, name: str) -> tuple[keyring.KeptKey, ...]:
    try:
        return keyring.read_keys(data)
    except ValueError as fault:
        _stop(f"{name} 不是密钥文件：{fault}。")


def _read_data(data: bytes, name: str) -> None:
    try:
        read_data_keys(data)
    except ValueError as fault:
        _stop(f"{name} 不是个人信息密钥文件：{fault}。")


def _replace(path: Path, as_read: bytes, data: bytes) -> None:
    """Whole or not at all, with the owner and the rights of the one before."""
    before = path.stat()
    if path.read_bytes() != as_read:
        _stop(f"文件 {path} 刚被别人改过，没有改动。请重新执行。")
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, before.st_mode & 0o777)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _require_settled(path: Path) -> None:
    seen = path.stat()
    waits = SETTLED_SECONDS - (time.time() - max(seen.st_mtime, seen.st_ctime))
    if waits > 0:
        _stop(f"密钥文件刚刚更换，可能还有程序在用旧密钥。请 {waits:.0f} 秒后再试。没有取出。")


def _stop(words: str) -> NoReturn:
    console.print(words)
    raise typer.Exit(1)
