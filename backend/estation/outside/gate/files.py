"""What a topic that carries files runs now and then beside its handler."""

import asyncio
from datetime import datetime

from tortoise import Tortoise

from estation.outside.gate.events import MAX_NAMED, Alarm, Finding, raise_finding
from estation.outside.gate.spool import Overdue, Spool
from estation.shared.transactions import in_transaction


async def look_after(files: Spool, *, topic: str, alarm: Alarm | None, now: datetime) -> int:
    """Tell of files that are still not whole, and give up what is too old; how many were told of.

    Parts that the medium lost come again by themselves: their packets are written again, and a
    snapshot brings what was jumped over. What is told here the sender must send again, because
    one side lost its memory. Told once for each file.
    """
    overdue = await asyncio.to_thread(files.overdue, now=now)
    for one in overdue:
        async with in_transaction():
            await raise_finding(await _finding(one, topic), alarm, now=now)
    await asyncio.to_thread(files.collect, now=now)
    return len(overdue)


async def _finding(one: Overdue, topic: str) -> Finding:
    found = await Tortoise.get_connection("default").execute_query_dict(
        """select p.stream_in, i.last_seq from gate_peer_source s
             join gate_peer p on p.name = s.peer
             left join gate_incoming_stream i on i.stream = p.stream_in
           where s.source = $1""",
        [one.source],
    )
    stream, seq = (found[0]["stream_in"], found[0]["last_seq"]) if found else ("", None)
    return Finding(
        "file_incomplete",
        stream,
        seq or 0,
        topic,
        one.source,
        count=len(one.missing),
        keys=[one.file_id],
        detail={"parts": one.count, "missing": one.missing[:MAX_NAMED]},
        about=f"{one.source}:{one.file_id}",
    )
