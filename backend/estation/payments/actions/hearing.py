"""What a channel answered about an attempt, in the order of its answers: for whoever looks into it
later. Equal answers after each other are one entry with a count."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Final
from uuid import UUID

from tortoise import Tortoise

from estation.payments.rules import MOST_HEARD
from estation.shared.jsonb import clean_text, jsonb_text

NO_ANSWER: Final = "no_answer"
CLOSING: Final = "close"

_HEARD: Final = """
with told as (
    select a.id, coalesce(a.heard, '[]') as before, $2::jsonb as news
    from pay_attempt a where a.id = $1::uuid for update
), joined as (
    select id, case when before -> -1 ->> 'said' = news -> 0 ->> 'said'
        then (before - -1) || jsonb_build_array((before -> -1) || jsonb_build_object(
                 'last_at', news -> 0 -> 'last_at',
                 'times', (before -> -1 ->> 'times')::int + (news -> 0 ->> 'times')::int))
             || (news - 0)
        else before || news end as all_of_it
    from told
)
update pay_attempt a
set heard = (
    select jsonb_agg(one order by place)
    from jsonb_array_elements(j.all_of_it) with ordinality as e(one, place)
    where place <= $3 or place > jsonb_array_length(j.all_of_it) - $3)
from joined j where a.id = j.id
"""
# The first answers and the last ones: what lies between is the least likely to explain an end.


async def note_heard(attempt_id: UUID, said: Sequence[str], *, at: datetime) -> None:
    """Put down what was answered one after the other: a ChannelState, `close:` with a
    CloseOutcome, `no_answer:` with the trouble's code. A statement of its own; moves nothing."""
    if not said:
        return
    news = [
        {
            "said": clean_text(answer, 80),
            "first_at": at.isoformat(),
            "last_at": at.isoformat(),
            "times": len(list(alike)),
        }
        for answer, alike in groupby(said)
    ]
    await Tortoise.get_connection("default").execute_query_dict(
        _HEARD, [attempt_id, jsonb_text(news), MOST_HEARD // 2]
    )
