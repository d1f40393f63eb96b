"""Rows that say more than we know, kept whole where their context keeps only what it knows.

Senders may be newer than we are. Registers, cases and bills keep such rows in tables of their own;
orders, receipts, refunds and evidence keep columns, and the rest of what was said stays here.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from tortoise import Tortoise

from estation.outside.gate import rows
from estation.outside.gate.arriving import Arrival, Seal
from estation.shared import ids
from estation.shared.resealing import SealedTable

SEALED = (SealedTable("gate_row_as_sent", ("body_sealed",)),)


async def keep(
    topic: str, given: Sequence[Struct], arrival: Arrival, *, seal: Seal | None, now: datetime
) -> None:
    """Each row that says more, once for each version and content. Joins the caller's transaction.

    `seal`: fields that nobody here knows may name anybody. None for a side that seals nothing.
    """
    more = [
        (name, sent)
        for row, sent in zip(given, arrival.as_sent(given), strict=True)
        if sent.says_more and (name := rows.identity(topic, row)) is not None
    ]
    if not more:
        return
    bodies = [sent.body.decode() for _, sent in more]
    await Tortoise.get_connection("default").execute_query(
        """insert into gate_row_as_sent
             (id, topic, source, key, version, digest, body, body_sealed, at)
           select id, $2, source, key, version, digest, body, body_sealed, $3
           from unnest($1::uuid[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::text[],
                       $9::bytea[]) as t(id, source, key, version, digest, body, body_sealed)
           on conflict do nothing""",
        [
            ids.row_ids(now, len(more)),
            topic,
            now,
            [name.source for name, _ in more],
            [name.key for name, _ in more],
            [name.version for name, _ in more],
            [sent.digest for _, sent in more],
            [body if seal is None else None for body in bodies],
            [None if seal is None else seal(body) for body in bodies],
        ],
    )
