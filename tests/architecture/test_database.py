"""What the models promise must really be in the database."""

import importlib
import pkgutil
import re

from tortoise import Tortoise

from estation import migrations, worker
from estation.inner import migrations as inner_migrations
from estation.shared.migrating import SwiftMigration

STATEMENTS = [
    name
    for module in pkgutil.iter_modules(migrations.__path__)
    for name in getattr(
        importlib.import_module(f"estation.migrations.{module.name}"), "STATEMENTS", ()
    )
]


async def test_every_named_constraint_exists(database: str) -> None:
    rows = await Tortoise.get_connection("default").execute_query_dict(
        """select conname as name from pg_constraint union
           select indexname from pg_indexes union
           select tgname from pg_trigger union
           select proname from pg_proc where pronamespace = 'public'::regnamespace""",
        [],
    )

    assert len(STATEMENTS) > 50
    assert set(STATEMENTS) - {row["name"] for row in rows} == set()


def test_every_migration_is_a_swift_one() -> None:
    """What writes them knows only Tortoise's own class; with that, all models are copied first."""
    slow = [
        module.name
        for package in (migrations, inner_migrations)
        for module in pkgutil.iter_modules(package.__path__)
        if not issubclass(
            importlib.import_module(f"{package.__name__}.{module.name}").Migration, SwiftMigration
        )
    ]

    assert slow == []


async def test_every_copy_of_the_other_sides_rows_notices_what_is_changed_past_the_gate(
    database: str,
) -> None:
    """Else a proof would call it equal."""
    ours = {model._meta.db_table for model in Tortoise.apps["estation"].values()}
    copies = ours & {one.table for one in worker.fee_packets.replicas.REPLICAS.values()}

    watched = await Tortoise.get_connection("default").execute_query_dict(
        """select tgrelid::regclass::text as name from pg_trigger
           where tgfoid = 'gate_copy_was_touched'::regproc""",
        [],
    )

    assert {"bill", "case_record", "centre_refund_order"} <= copies
    assert copies - {row["name"] for row in watched} == set()


async def test_every_unique_together_exists(database: str) -> None:
    connection = Tortoise.get_connection("default")
    missing = []
    for model in Tortoise.apps["estation"].values():
        for columns in model._meta.unique_together:
            rows = await connection.execute_query_dict(
                "select indexdef from pg_indexes where tablename = $1", [model._meta.db_table]
            )
            wanted = ", ".join(columns)
            found = [re.sub(r'"', "", row["indexdef"]) for row in rows]
            if not any("UNIQUE" in text and f"({wanted})" in text for text in found):
                missing.append(f"{model._meta.db_table} ({wanted})")

    assert missing == []
