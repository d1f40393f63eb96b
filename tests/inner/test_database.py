"""What the models promise must really be in the internal database."""

import importlib
import pkgutil
import re
from datetime import UTC, datetime

from tortoise import Tortoise
from tortoise.migrations.autodetector import MigrationAutodetector

from estation.inner import migrations, packets
from estation.inner.database import database
from tests.inner.desk import query

STATEMENTS = {
    name
    for module in pkgutil.iter_modules(migrations.__path__)
    for name in getattr(
        importlib.import_module(f"{migrations.__name__}.{module.name}"), "STATEMENTS", ()
    )
}


async def test_every_named_constraint_exists(empty_inner: str) -> None:
    rows = await query(
        """select conname as name from pg_constraint union
           select indexname from pg_indexes union
           select tgname from pg_trigger union
           select proname from pg_proc where pronamespace = 'public'::regnamespace"""
    )

    assert STATEMENTS - {row["name"] for row in rows} == set()


async def test_every_copy_of_the_other_sides_rows_notices_what_is_changed_past_the_gate(
    empty_inner: str,
) -> None:
    """Else a proof would call it equal."""
    topics = packets.make_handlers(source="jc-center", now=datetime.now(UTC))
    copies = {packets.replicas.REPLICAS[topic].table for topic in topics}

    watched = await query(
        """select tgrelid::regclass::text as name from pg_trigger
           where tgfoid = 'gate_copy_was_touched'::regproc"""
    )

    assert {"fee_receipt", "fee_payment_evidence"} <= copies
    assert copies - {row["name"] for row in watched} == set()


async def test_every_unique_together_exists(empty_inner: str) -> None:
    missing = []
    for model in Tortoise.apps["inner"].values():
        for columns in model._meta.unique_together:
            rows = await query(
                "select indexdef from pg_indexes where tablename = $1", model._meta.db_table
            )
            wanted = ", ".join(columns)
            found = [re.sub(r'"', "", row["indexdef"]) for row in rows]
            if not any("UNIQUE" in text and f"({wanted})" in text for text in found):
                missing.append(f"{model._meta.db_table} ({wanted})")

    assert missing == []


async def test_models_and_migrations_agree(empty_inner: str) -> None:
    changes = await MigrationAutodetector(Tortoise.apps, database(empty_inner)["apps"]).changes()

    assert [writer.name for writer in changes] == []
