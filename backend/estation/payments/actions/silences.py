"""What the worker learns of channels that give no answer, written down for the alarms."""

from datetime import datetime

from tortoise import Tortoise

from estation.payments.signals import SILENCE_FORGOTTEN
from estation.services import Services

_NOTE = f"""
insert into channel_silence (account_id, since, last_at)
select * from unnest($1::text[], $2::timestamptz[], $3::timestamptz[])
on conflict (account_id) do update set
    since = case when channel_silence.last_at > excluded.last_at - {SILENCE_FORGOTTEN}
                 then least(channel_silence.since, excluded.since) else excluded.since end,
    last_at = greatest(channel_silence.last_at, excluded.last_at)
"""  # noqa: S608  (our own constant)
# A worker that starts again amid an outage learns of it anew: it began when it began.


async def note_silences(services: Services, *, now: datetime) -> dict[str, int]:
    """Keep one row for each account that is out, and none for one that answered. Few writes: a
    row for each outage every few seconds, none while all answer."""
    out, answered = services.outages.take_news()
    db = Tortoise.get_connection("default")
    ended = []
    if answered:
        ended = await db.execute_query_dict(
            "delete from channel_silence where account_id = any($1::text[]) returning account_id",
            [answered],
        )
    if out:
        await db.execute_query_dict(
            f"{_NOTE} returning account_id",
            [
                [one.account_id for one in out],
                [one.since for one in out],
                [one.last_at for one in out],
            ],
        )
    return {"out": len(out), "ended": len(ended)}
