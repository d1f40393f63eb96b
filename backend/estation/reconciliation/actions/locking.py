"""What one run of a day at a time holds: the second sees what the first found."""

from datetime import date

from tortoise.backends.base.client import BaseDBAsyncClient


async def wait_for_day(db: BaseDBAsyncClient, day: date) -> None:
    """Until the end of the caller's transaction nobody else has the day."""
    await db.execute_query("select pg_advisory_xact_lock(hashtextextended($1, 0))", [_key(day)])


async def take_day(db: BaseDBAsyncClient, day: date) -> bool:
    """The same without waiting; False when somebody has it."""
    rows = await db.execute_query_dict(
        "select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as is_ours", [_key(day)]
    )
    return bool(rows[0]["is_ours"])


def _key(day: date) -> str:
    return f"reconcile:{day}"
