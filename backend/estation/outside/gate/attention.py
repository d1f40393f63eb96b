"""For what of the gate a person is needed, in words: as things stand now, not what once was."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from estation.outside.gate.errors import HEALS_ITSELF, NEEDS_A_PERSON
from estation.outside.gate.peers import Peer, peers
from estation.outside.gate.status import StreamStatus, stream_status

HEALING = timedelta(minutes=5)
"""So long what heals by itself is left to do so."""
WHY_STOPPED = {
    "gap": "缺少前面的数据包，重发和快照都没有补上",
    "handler_failed": "本侧无法入库，请看日志和数据库",
    "fork": "同一密钥出现两份历史，须与对方核对后恢复（gate resume）",
    "bad_seal": "封印不符，须与对方核对公钥",
    "bad_row": "内容不可接受，须与对方核对",
}
REFUSED = "文件不可接受，已隔离，等待对方重发"
PEER_TROUBLE = {
    "other_digest": "对方收到的内容与本侧发出的不同",
    "ahead_of_us": "对方的位置比本侧靠前，本侧可能由备份恢复",
}
NO_ROOM = {
    "disk": "磁盘将满，超前的包和隔离文件已让位，由对方重发",
    "symbols": "分块文件过多，超前的已让位，由对方重发",
    "device": "传输设备没有取走分块文件，新的包留在本侧",
    "files": "大文件没有空间，收到的部分在数据库里等待",
}
PAUSED = {"disk_low": "磁盘将满", "unconfirmed": "对方太久没有确认收到"}


async def attention(now: datetime) -> list[str]:
    """One sentence for each; none when nobody is needed."""
    return words_of(await stream_status(), await peers(), now=now)


def words_of(streams: Sequence[StreamStatus], known: Sequence[Peer], *, now: datetime) -> list[str]:
    """The same of what was read already."""
    found = [words for stream in streams for words in _of_stream(stream, now)]
    for peer in known:
        if peer.trouble:
            found.append(f"{peer.name}：目录或密钥故障（{peer.trouble}）")
        found += [
            f"{peer.name}：另发目录 {one.folder} 写不了（{one.failure}）"
            for one in peer.destinations
            if one.failure
        ]
    return found


def _of_stream(stream: StreamStatus, now: datetime) -> Iterator[str]:
    name, reason = stream.stream, stream.stopped_reason
    if reason and (reason not in HEALS_ITSELF or _is_long(stream.stopped_at, now)):
        person = "须由人恢复" if reason in NEEDS_A_PERSON else "收到正确的包后自动继续"
        why = WHY_STOPPED.get(reason, REFUSED)
        yield f"{name} 停在第 {stream.seq + 1} 包：{why}（{reason}），{person}"
    if stream.peer_trouble:
        why = PEER_TROUBLE.get(stream.peer_trouble, stream.peer_trouble)
        yield f"{name}：{why}（{stream.peer_trouble}）"
    if stream.paused_reason:
        why = PAUSED.get(stream.paused_reason, stream.paused_reason)
        yield f"{name} 暂停打包：{why}（{stream.paused_reason}）"
    for where in filter(None, stream.no_room.split(",")):
        yield f"{name}：{NO_ROOM.get(where, where)}（no_room），有了空间自动继续"
    if stream.waiting_rows and _is_long(stream.waiting_since, now):
        yield f"{name}：{stream.waiting_rows} 行等待打包超过五分钟"
    if stream.last_proof_equal is False:
        yield f"{name}：与对方不一致，{stream.differing_buckets} 桶不同（differs）"
    if stream.refused_rows:
        yield (
            f"{name}：{stream.refused_rows} 行不可接受，已单独隔离，其余照常"
            "（row_refused），等待来源更正"
        )
    if stream.phantoms:
        yield f"{name}：{stream.phantoms} 行是对方没有的，请与对方核对（phantom）"


def _is_long(since: datetime | None, now: datetime) -> bool:
    return since is not None and now - since > HEALING
