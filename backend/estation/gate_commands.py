"""`estation gate …`: the peers of the gate, their keys and folders, and what happens there."""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from estation.commanding import on_side, settings_of
from estation.outside.gate import (
    attention,
    keys,
    overview,
    peering,
    peers,
    receiving,
    snapshots,
    upkeep,
)
from estation.outside.gate.errors import KeyNotAcceptable
from estation.outside.gate.peering import Deed, NewPeer
from estation.outside.gate.peers import OURS, Peer
from estation.outside.gate.snapshots import Why
from estation.settings import Gate, InnerSettings, Settings
from estation.shared.clock import BEIJING, system_clock

T = TypeVar("T")
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs, a list.")]
Side = Annotated[str, typer.Option(help="online or inner.")]
Name = Annotated[str, typer.Argument(help="The peer, as `estation gate sources` lists it.")]
By = Annotated[str, typer.Option(help="Who does it; your login without it.")]
Reason = Annotated[str, typer.Option(help="Why; kept beside what was done.")]
Peers = Annotated[str, typer.Option("--peer", help="Which peer; the settings' own without it.")]
When = Annotated[str, typer.Option("--from", help="YYYY-MM-DDTHH:MM in Beijing; now without it.")]


def add_to(gate: typer.Typer) -> None:
    """Hang these commands on `estation gate`."""
    gate.command("status")(show_status)
    gate.command("sources")(show_sources)
    gate.command("add-source")(add_source)
    gate.command("suspend-source")(suspend_source)
    gate.command("resume-source")(resume_source)
    gate.command("add-key")(add_key)
    gate.command("retire-key")(retire_key)
    gate.command("rotate-key")(rotate_key)
    gate.command("add-destination")(add_destination)
    gate.command("remove-destination")(remove_destination)
    gate.command("symbols")(set_symbols)
    gate.command("release")(release)
    gate.command("resume")(resume)
    gate.command("give-up-row")(give_up_row)
    gate.command("snapshot")(send_snapshot)
    gate.command("prove")(prove)


def show_status(side: Side = "online", as_json: AsJson = False) -> None:
    """Where every stream stands, what is late, parked or quarantined, and why. On the inner side,
    which has no incidents, exit code 1 says that somebody is needed; the last lines for what."""
    now = system_clock()
    seen = on_side(side, lambda: overview.overview(now))
    needed = attention.words_of([one.status for one in seen.streams], seen.peers, now=now)
    if as_json:
        console.print_json(data=[overview.as_dict(stream) for stream in seen.streams])
        _end_inner(side, needed)
        return
    for table in _stream_tables([overview.as_dict(stream) for stream in seen.streams]):
        console.print(table)
    for peer in seen.peers:
        if peer.trouble or peer.state != "active":
            console.print(f"{peer.name}: {peer.state} {peer.trouble}")
    for one in seen.differences:
        buckets = "、".join(map(str, one.buckets[:20])) + (" …" if len(one.buckets) > 20 else "")
        console.print(
            f"不一致 {one.stream} {one.topic} {one.source}：对方 {one.rows} 行，本侧 {one.our_rows}"
            f" 行，桶 {buckets}"
        )
    for event in seen.events:
        console.print(f"{event.at:%m-%d %H:%M} {event.stream} {event.kind} {event.topic}".rstrip())
    for file in seen.refused:
        console.print(f"隔离 {file.stream} #{file.seq or '—'} {file.reason}: {file.detail}")
    for row in seen.refused_rows:
        console.print(
            f"隔离的行 {row.id} {row.stream} {row.topic} {row.key} v{row.version}: "
            f"{escape(row.reason)}",
            soft_wrap=True,
        )
    for words in needed:
        console.print(f"[bold]需要人处理[/] {escape(words)}", soft_wrap=True)
    _end_inner(side, needed)


_WIDE = 180
"""Columns of a terminal that has room for a stream in a line."""
_WORDS, _FIGURES = 16, 42
"""What the names and a stream's longest figure need of a narrow one."""


def _stream_tables(streams: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """A line for each stream; on a narrow terminal a column, as many to a table as fit."""
    if console.width >= _WIDE:
        table = Table(*_STREAM_FIELDS)
        for shown in streams:
            table.add_row(*_stream_values(shown))
        yield table
        return
    beside = max(1, (console.width - _WORDS) // _FIGURES)
    for start in range(0, len(streams), beside):
        values = [_stream_values(shown) for shown in streams[start : start + beside]]
        table = Table(_STREAM_FIELDS[0], *(column[0] for column in values))
        for name, *row in list(zip(_STREAM_FIELDS, *values, strict=True))[1:]:
            table.add_row(name, *row)
        yield table


_STREAM_FIELDS: Final = (
    "stream", "direction", "position", "watermark", "lag", "rows/min", "unconfirmed", "parked",
    "quarantined", "state", "reason", "last proof", "last snapshot", "next snapshot", "last jump",
)  # fmt: skip


def _stream_values(shown: Mapping[str, Any]) -> tuple[str, ...]:
    """In the order of the fields."""
    lag = shown["lag_seconds"]
    return (
        shown["stream"],
        shown["direction"],
        str(shown["seq"]),
        shown["watermark"] or "—",
        f"{lag:.0f} s" if lag is not None else "—",
        str(shown["rows_per_minute"]),
        _unconfirmed(shown),
        str(shown["parked_files"]),
        str(shown["quarantined_files"]),
        shown["state"],
        shown["reason"] or "—",
        _proof(shown),
        shown["last_snapshot_at"] or "—",
        shown["next_snapshot_at"] or "—",
        shown["last_jump_at"] or "—",
    )


def _end_inner(side: str, needed: list[str]) -> None:
    if side == "inner" and needed:
        raise typer.Exit(1)


def _unconfirmed(shown: Mapping[str, Any]) -> str:
    if shown["direction"] == "in":
        return "—"
    return f"{shown['unconfirmed_packets']} ({shown['unconfirmed_bytes'] / 2**20:.1f} MiB)"


def _proof(shown: Mapping[str, Any]) -> str:
    found = {True: "一致", False: f"不一致 {shown['differing_buckets']} 桶", None: ""}[
        shown["last_proof_equal"]
    ]
    if shown["last_proof_equal"] and shown["known_differences"]:
        found = f"除隔离的 {shown['refused_rows']} 行外一致"
    elif shown["last_proof_equal"] is False and shown["refused_rows"]:
        found += "（含隔离的行）"
    return f"{shown['last_proof_at']} {found}".strip() if shown["last_proof_at"] else "—"


def give_up_row(
    row_id: Annotated[UUID, typer.Argument(metavar="ID", help="As `estation gate status` says.")],
    reason: Reason,
    by: By = "",
    side: Side = "online",
) -> None:
    """A row that was set aside and that its source will never mend waits no longer."""
    on_side(
        side,
        lambda: peering.give_up_row(row_id, deed=_deed(by, reason), now=system_clock()),
    )
    console.print("已放弃这一行；它以另一版本再来时仍会核验。")


def send_snapshot(side: Side = "online", peer: Peers = "") -> None:
    """Send everything once more: a receiver that lost packets for good goes on behind it."""

    async def plan() -> bool:
        stream = (await _peer_or_first(side, peer)).stream_out
        return await snapshots.plan(stream, Why.asked, now=system_clock())

    planned = on_side(side, plan)
    console.print("全量快照将随后续数据包发出。" if planned else "已有一份快照正在发出。")


def prove(side: Side = "online", peer: Peers = "") -> None:
    """Send what the other side must hold, so that it compares; see `gate status` there."""

    async def plan() -> None:
        await upkeep.prove((await _peer_or_first(side, peer)).stream_out)

    on_side(side, plan)
    console.print("一致性证明将随后续数据包发出。")


def show_sources(side: Side = "online", as_json: AsJson = False) -> None:
    """Every peer: sources, regions, folder, keys and their state."""
    now = system_clock()
    found = on_side(side, peers.peers)
    if as_json:
        console.print_json(data=[_as_dict(peer, now) for peer in found])
        return
    for peer in found:
        console.print(f"[bold]{peer.name}[/] {peer.title}（{peer.state}）{peer.trouble}")
        console.print(f"  来源 {'、'.join(peer.sources)}  区划 {'、'.join(peer.regions) or '不限'}")
        console.print(f"  收 {peer.stream_in}  发 {peer.stream_out}", soft_wrap=True)
        console.print(f"  目录 {peer.folder}", soft_wrap=True)
        for key in peer.keys:
            whose = "我方" if key.owner == OURS else "对方"
            until = key.valid_until.isoformat() if key.valid_until else "不限"
            console.print(f"  {whose}密钥 {key.key_id}：{key.state(now)}，至 {until}")
        if peer.cutting is not None:
            console.print(
                f"  符号 {peer.cutting.folder}（冗余 {peer.cutting.repair_percent}%）",
                soft_wrap=True,
            )
        for one in peer.destinations:
            console.print(f"  另发 {one.folder} #{one.written_seq} {one.failure}", soft_wrap=True)
            if one.cutting is not None:
                console.print(
                    f"    符号 {one.cutting.folder}（冗余 {one.cutting.repair_percent}%）",
                    soft_wrap=True,
                )


def add_source(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, hyphens.")],
    region: Annotated[list[str], typer.Option(help="GB/T 2260 code or its beginning; repeatable.")],
    key: Annotated[Path, typer.Option(help="Their public key (PEM).")],
    folder: Annotated[Path | None, typer.Option(help="Folder for the device.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Sources; NAME without it.")] = None,
    title: Annotated[str, typer.Option(help="What citizens call it.")] = "",
    late_after: Annotated[int, typer.Option(help="Seconds until its data are late.")] = 600,
    by: By = "",
    reason: Reason = "接入新的数据来源",
) -> None:
    """Let a county's centre in. Running programs serve it within seconds, without a restart."""
    settings = Settings.read()
    here = peering.ends(settings.gate)[1]
    where = folder if folder is not None else settings.gate.folder / "peers" / name
    new = NewPeer(
        name=name,
        title=title,
        sources=source or [name],
        regions=region,
        public_pem=_read(key),
        folder=where.absolute(),
        late_after_seconds=late_after,
    )

    async def add() -> Peer:
        now = system_clock()
        await _keep_first(settings, now)
        return await peering.add_source(
            new,
            here=here,
            signing_key_file=settings.gate.signing_key_file,
            secret=settings.secret,
            deed=_deed(by, reason),
            now=now,
            settings_symbols=settings.gate.symbols_folder,
        )

    peer = on_side("online", add)
    ours = next(one for one in peer.keys if one.owner == OURS)
    public = _public_file(settings, peer.name, ours.key_id, ours.public_pem)
    console.print(f"已接入 {peer.name}。请把以下内容交给对方：")
    console.print(f"  我方公钥 {public}（指纹 {ours.key_id}）", soft_wrap=True)
    console.print(f"  对方发来的数据流 {peer.stream_in}，发给对方的数据流 {peer.stream_out}")
    console.print("请把以下目录交给光闸设备：")
    console.print(f"  送入 {peer.incoming}", soft_wrap=True)
    console.print(f"  取走 {peer.outgoing}", soft_wrap=True)


def suspend_source(name: Name, reason: Reason, by: By = "", side: Side = "online") -> None:
    """Neither receive from nor pack for it; files and rows wait."""
    on_side(side, lambda: _set_state(name, "suspended", by, reason))
    console.print("已暂停，双方的数据将等待恢复。")


def resume_source(name: Name, reason: Reason, by: By = "", side: Side = "online") -> None:
    """Go on with a suspended one, from where it stood."""
    on_side(side, lambda: _set_state(name, "active", by, reason))
    console.print("已恢复。")


def add_key(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Their new public key (PEM).")],
    valid_from: When = "",
    by: By = "",
    reason: Reason = "对方更换密钥",
    side: Side = "online",
) -> None:
    """Their new key counts beside the present ones, from the given moment on."""
    pem, begins = _read(file), _moment(valid_from)

    async def add() -> str:
        now = system_clock()
        return await peering.add_key(
            name, pem, valid_from=begins or now, deed=_deed(by, reason), now=now
        )

    console.print(f"已登记对方公钥，指纹 {on_side(side, add)}。")


def retire_key(
    name: Name,
    key_id: Annotated[str, typer.Argument(help="The fingerprint.")],
    valid_from: Annotated[
        str, typer.Option("--from", help="YYYY-MM-DDTHH:MM in Beijing; now without it.")
    ] = "",
    by: By = "",
    reason: Reason = "停用旧密钥",
    side: Side = "online",
) -> None:
    """What this key seals is refused from the given moment on, also packets on their way."""
    ends = _moment(valid_from)

    async def retire() -> None:
        now = system_clock()
        await peering.retire_key(
            name, key_id, valid_until=ends or now, deed=_deed(by, reason), now=now
        )

    on_side(side, retire)
    console.print("已停用。")


def rotate_key(
    name: Name,
    in_hours: Annotated[float, typer.Option(help="When it begins to seal.")] = 24,
    algorithm: Annotated[
        keys.Algorithm, typer.Option(help="sm2-sm3 needs the extra `sm` on both sides.")
    ] = "ed25519",
    by: By = "",
    reason: Reason = "定期更换密钥",
    side: Side = "online",
) -> None:
    """Make our new key for this peer. It seals after the notice; the former one counts a week
    longer on their side."""
    secrets_dir = settings_of(side).secrets_dir

    async def rotate() -> peering.Rotation:
        now = system_clock()
        return await peering.rotate_key(
            name,
            secrets_dir=secrets_dir,
            valid_from=now + timedelta(hours=max(0.0, in_hours)),
            deed=_deed(by, reason),
            now=now,
            algorithm=algorithm,
        )

    made = on_side(side, rotate)
    console.print(f"新公钥 {made.public_file}（指纹 {made.key_id}）", soft_wrap=True)
    console.print(
        f"请对方在 {made.valid_from.astimezone(BEIJING):%Y-%m-%d %H:%M} 之前用 gate add-key 登记。"
    )


def add_destination(
    name: Name,
    folder: Path,
    everything: Annotated[bool, typer.Option(help="Also the packets made so far.")] = False,
    by: By = "",
    reason: Reason = "增加一个发送目录",
    side: Side = "online",
) -> None:
    """One more folder that gets every file for this peer."""
    where = folder.absolute()

    async def add() -> None:
        await peering.add_destination(
            name, where, deed=_deed(by, reason), now=system_clock(),
            from_now_on=not everything, settings_symbols=settings_of(side).gate.symbols_folder,
        )  # fmt: skip

    on_side(side, add)
    console.print("已增加。")


def remove_destination(
    name: Name, folder: Path, by: By = "", reason: Reason = "停用发送目录", side: Side = "online"
) -> None:
    """Its files stay; it gets no more."""
    where = folder.absolute()

    async def remove() -> None:
        await peering.remove_destination(name, where, deed=_deed(by, reason), now=system_clock())

    on_side(side, remove)
    console.print("已停用。")


def set_symbols(
    name: Name,
    folder: Annotated[
        Path | None, typer.Option(help="Where symbols are written; whole files without it.")
    ] = None,
    repair_percent: Annotated[
        int, typer.Option(help="Symbols more than needed; 50 survive the loss of a fifth.")
    ] = 50,
    destination: Annotated[
        Path | None, typer.Option(help="Only what goes to this further folder.")
    ] = None,
    by: By = "",
    reason: Reason = "调整分块编码",
    side: Side = "online",
) -> None:
    """Cut packets for this peer, in its own folder or in a further one, into RaptorQ symbols, for a
    device that loses files. Both sides need the extra `raptorq`."""
    further = destination.absolute() if destination is not None else None
    cutting = (folder.absolute(), repair_percent) if folder is not None else None

    async def change() -> None:
        await peering.set_symbols(
            name, cutting, deed=_deed(by, reason), now=system_clock(), destination=further,
            settings_symbols=settings_of(side).gate.symbols_folder,
        )  # fmt: skip

    on_side(side, change)
    console.print("数据包将拆成符号发出。" if cutting else "数据包将整个发出。")


def release(
    seq: int,
    peer: Peers = "",
    by: By = "",
    reason: Reason = "我方故障已排除",
    side: Side = "online",
) -> None:
    """Give a quarantined packet another chance, once the fault on our side is mended."""

    async def let_go() -> bool:
        found = await _peer_or_first(side, peer)
        now = system_clock()
        done = await receiving.release(found.stream_in, seq, folder=found.incoming)
        if done:
            await peering.write_down(
                found.name, "release", f"#{seq}", deed=_deed(by, reason), now=now
            )
        return done

    done = on_side(side, let_go)
    console.print("已放回 incoming/。" if done else "隔离区里没有这个序号的数据包。")
    raise typer.Exit(0 if done else 1)


def resume(
    peer: Peers = "",
    anew: Annotated[
        bool,
        typer.Option(
            "--anew",
            help="Their present history is the true one (they came back from a backup): forget our "
            "position; their packets or next snapshot begin again, and proofs name what they lack.",
        ),
    ] = False,
    by: By = "",
    reason: Reason = "已核对两份历史",
    side: Side = "online",
) -> None:
    """Go on after a fork was looked at: two histories carried the peer's seal."""
    if anew and not peer:
        # The settings' own peer is no guess to make where a position is forgotten.
        raise typer.BadParameter("以对方的历史重新开始，须用 --peer 写明是哪一方。")

    async def go_on() -> None:
        found = await _peer_or_first(side, peer)
        deed, now = _deed(by, reason), system_clock()
        await (receiving.begin_anew if anew else receiving.resume)(found.stream_in)
        what = "begin_anew" if anew else "resume"
        await peering.write_down(found.name, what, "", deed=deed, now=now)

    on_side(side, go_on)
    console.print(
        "数据流将从对方现有的数据包或下一份快照重新开始。" if anew else "数据流将从现在的位置继续。"
    )


async def _peer_or_first(side: str, name: str) -> Peer:
    if name:
        return await peers.peer_named(name)
    await _keep_first(settings_of(side), system_clock())
    return await peers.peer_named(peering.ends(_gate(side))[0])


async def _keep_first(settings: Settings | InnerSettings, now: datetime) -> None:
    """As the worker does at its start: a command may be the first to look."""
    name, _ = peering.ends(settings.gate)
    is_inner = isinstance(settings, InnerSettings)
    await peering.keep_first_peer(
        settings.gate,
        title="线上平台" if is_inner else settings.bureau_name,
        sources=[settings.source] if isinstance(settings, InnerSettings) else [name],
        secret=settings.secret,
        now=now,
    )


async def _set_state(name: str, state: str, by: str, reason: str) -> None:
    await peering.set_state(name, state, deed=_deed(by, reason), now=system_clock())


def _deed(by: str, reason: str) -> Deed:
    return Deed(by=by or getpass.getuser(), reason=reason)


def _as_dict(peer: Peer, now: datetime) -> dict[str, Any]:
    return {
        "name": peer.name,
        "title": peer.title,
        "state": peer.state,
        "trouble": peer.trouble,
        "sources": list(peer.sources),
        "regions": list(peer.regions),
        "stream_in": peer.stream_in,
        "stream_out": peer.stream_out,
        "folder": str(peer.folder),
        "keys": [
            {
                "owner": key.owner,
                "key_id": key.key_id,
                "state": key.state(now),
                "valid_from": key.valid_from.isoformat(),
                "valid_until": key.valid_until.isoformat() if key.valid_until else None,
            }
            for key in peer.keys
        ],
        "destinations": [str(one.folder) for one in peer.destinations],
        "symbols_folder": str(peer.cutting.folder) if peer.cutting else None,
        "symbols_repair_percent": peer.cutting.repair_percent if peer.cutting else None,
    }


def _public_file(settings: Settings, name: str, key_id: str, pem: str) -> Path:
    """Our public half as a file to hand over."""
    path = settings.secrets_dir / "gate" / f"{name}_{key_id}_public.pem"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pem)
    return path


def _read(file: Path) -> bytes:
    """A key file is small; anything else is none."""
    try:
        with file.open("rb") as opened:
            content = opened.read(64 * 1024)
        keys.load_peer_key(content)
    except OSError as problem:
        console.print(f"无法读取 {file}：{problem.strerror}")
        raise typer.Exit(2) from None
    except ValueError:
        console.print(KeyNotAcceptable.message)
        raise typer.Exit(2) from None
    return content


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=BEIJING)
    except ValueError:
        console.print("时间应写作 YYYY-MM-DDTHH:MM（北京时间）。")
        raise typer.Exit(2) from None


def _gate(side: str) -> Gate:
    return settings_of(side).gate
