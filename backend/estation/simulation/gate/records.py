"""What each side says happened, read from its business tables: the gate's own proof is not asked.

A side's records are topic -> key -> (version, what matters). Two sides are equal when their
records are the same.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tortoise import Tortoise

from estation.demo.places import COUNTY, COUNTY_REGION, COUNTY_TITLE
from estation.outside.gate import peering
from estation.outside.gate.peering import Deed, NewPeer
from estation.settings import Settings

Records = dict[str, dict[str, tuple[Any, ...]]]

_OF_CENTRE: Final[Mapping[str, str]] = {
    "fee_bill": "select bill_no as key, version, '' as said from fee_bill",
    "case": "select case_no as key, version, state as said from case_file",
    "case_event": """select c.case_no || '-' || lpad(e.seq::text, 4, '0') as key, 1 as version,
                       e.what || ' ' || e.stage || ' ' || e.state as said
                     from case_event e join case_file c on c.id = e.case_id""",
    "unit": "select unit_code as key, 1 as version, address as said from unit",
    "right": "select right_no as key, version, state as said from right_entry",
    "restriction": "select restriction_no as key, version, state as said from restriction_entry",
    "certificate": """select r.right_no as key, c.version, c.state as said
                      from certificate c join right_entry r on r.id = c.right_id""",
    "receipt": """select source_id || ':' || order_no as key, bill_version as version,
                    amount_fen::text as said from fee_receipt""",
    "refund": """select refund_no as key, version, state || ' ' || amount_fen as said
                 from fee_refund_news where refund_no <> ''""",
    "payment_evidence": """select source_id || ':' || order_no || ':' || out_trade_no as key,
                             version, (said ->> 'file_digest') || ' ' || attention as said
                           from fee_payment_evidence""",
}
"""Topic -> what the internal platform knows, its own and what came back."""

_OF_ONLINE: Final[Mapping[str, str]] = {
    "fee_bill": "select source, source_id as key, version, '' as said from bill",
    "case": "select source, source_id as key, version, state as said from case_record",
    "case_event": """select source, source_id as key, 1 as version,
                       what || ' ' || stage || ' ' || state as said from case_event""",
    "unit": "select source, source_id as key, version, address as said from registry_unit",
    "right": "select source, source_id as key, version, state as said from registry_right",
    "restriction": """select source, source_id as key, version, state as said
                      from registry_restriction""",
    "certificate": """select source, source_id as key, version, state as said
                      from registry_certificate""",
    "receipt": """select b.source, b.source_id || ':' || o.order_no as key,
                    ob.bill_version as version, ob.amount_fen::text as said
                  from pay_order o join pay_order_bill ob on ob.order_id = o.id
                    join bill b on b.id = ob.bill_id where o.state = 'paid'""",
    "refund": """select distinct on (source, key) source, body ->> 'refund_no' as key,
                    version, (body ->> 'state') || ' ' || (body ->> 'amount_fen') as said
                 from gate_sent_row where topic = 'refund' and body ->> 'refund_no' <> ''
                 order by source, key, version desc""",
    "payment_evidence": """select distinct on (source, key) said ->> 'source' as source,
                             (said ->> 'source_id') || ':' || (said ->> 'order_no') || ':'
                               || (said ->> 'out_trade_no') as key,
                             version, file_digest || ' ' as said
                           from payment_evidence order by source, key, version desc""",
}
"""The same of the online side. How a refund stands was said to the centre once per move; what
was said last is kept with the stream."""


async def of_centre(source: str) -> dict[str, Records]:
    """By source, here the only one."""
    found: Records = {}
    for topic, sql in _OF_CENTRE.items():
        found[topic] = {row["key"]: (row["version"], row["said"]) for row in await _rows(sql)}
    return {source: found}


async def of_online() -> dict[str, Records]:
    """By source."""
    found: dict[str, Records] = {}
    for topic, sql in _OF_ONLINE.items():
        for row in await _rows(sql):
            records = found.setdefault(row["source"], {name: {} for name in _OF_ONLINE})
            records[topic][row["key"]] = (row["version"], row["said"])
    return found


def differences(centre: Records, online: Records) -> list[str]:
    """What one of the two sides does not know, or knows otherwise; the first of them by name."""
    found = []
    for topic, ours in centre.items():
        theirs = online.get(topic, {})
        wrong = sorted(
            key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)
        )
        if wrong:
            key = wrong[0]
            found.append(
                f"{topic}: {len(wrong)} differ, {key} is {ours.get(key)} at the centre"
                f" and {theirs.get(key)} online"
            )
    return found


async def events() -> Counter[str]:
    """The gate's own events by kind."""
    rows = await _rows("select kind, count(*) as n from gate_event group by kind")
    return Counter({row["kind"]: row["n"] for row in rows})


async def newest_proofs() -> dict[tuple[str, str, str], tuple[int, str, bool]]:
    """(stream, topic, source) -> (rows, root, equal)."""
    rows = await _rows(
        """select distinct on (stream, topic, source) stream, topic, source, rows, root, is_equal
           from gate_proof order by stream, topic, source, seq desc, at desc"""
    )
    return {
        (row["stream"], row["topic"], row["source"]): (row["rows"], row["root"], row["is_equal"])
        for row in rows
    }


async def newest_packet(stream: str) -> dict[str, Any]:
    """Its `last_seq` and `last_digest`, as the sender has them."""
    (row,) = await Tortoise.get_connection("default").execute_query_dict(
        "select last_seq, last_digest from gate_outgoing_stream where stream = $1", [stream]
    )
    return row


async def add_county(settings: Settings, *, now: datetime) -> None:
    """`estation gate add-source`."""
    county = NewPeer(
        name=COUNTY,
        title=COUNTY_TITLE,
        sources=[COUNTY],
        regions=[COUNTY_REGION],
        public_pem=settings.secret(f"gate/{COUNTY}_public.pem"),
        folder=Path(settings.gate.folder) / "peers" / COUNTY,
    )
    await peering.add_source(
        county,
        here=peering.ends(settings.gate)[1],
        signing_key_file=settings.gate.signing_key_file,
        secret=settings.secret,
        deed=Deed(by="simulation", reason="a county joins"),
        now=now,
    )


async def _rows(sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(sql)
    return found
