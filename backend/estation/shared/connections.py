"""How a program connects to PostgreSQL: enough connections, and no wait without an end."""

from typing import Any

from tortoise.backends.base.config_generator import expand_db_url

MAX_CONNECTIONS = 16
"""Per process. The longest queue is people's; five waiters must not stop the callbacks."""

WAITS = {
    "lock_timeout": "10s",  # a row somebody holds: the caller is told to come again
    "statement_timeout": "120s",  # the longest is a day's reconciliation
    "idle_in_transaction_session_timeout": "60s",  # a lost host must not hold locks for hours
}


def postgres(url: str) -> dict[str, Any]:
    """Tortoise's connection entry for `asyncpg://user@/name?host=…`, every wait bounded."""
    entry: dict[str, Any] = expand_db_url(url)
    entry["credentials"] = {
        "maxsize": MAX_CONNECTIONS,
        "server_settings": WAITS,
        "reset": _nothing_to_reset,
        **entry["credentials"],
    }
    return entry


async def _nothing_to_reset(connection: object) -> None:
    """Saves a round trip at each release: we keep no session state (no SET, LISTEN, session locks).

    asyncpg itself still rolls back a transaction that was left open before it calls this.
    """
