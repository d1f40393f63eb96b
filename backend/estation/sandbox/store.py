"""What the outside world remembers: one SQLite file, so that a restart forgets nothing.

Moments are integer milliseconds since 1970 (UTC) on the virtual clock unless a name says
`real`; money is integer fen.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
create table if not exists setting (name text primary key, value text not null);

create table if not exists wx_order (
    out_trade_no text primary key, trade_type text not null, description text not null,
    attach text not null, notify_url text not null, amount_fen integer not null,
    asked_openid text not null, parameters text not null, prepay_id text not null unique,
    code text not null unique, code_until integer not null, expires_at integer not null,
    created_at integer not null, state text not null, password_until integer not null default 0,
    transaction_id text unique, payer_openid text, paid_at integer, closed_at integer);
create index if not exists wx_order_paid on wx_order (paid_at);

create table if not exists wx_refund (
    out_refund_no text primary key, refund_id text not null unique, out_trade_no text not null,
    amount_fen integer not null, reason text not null, notify_url text not null,
    asked text not null, created_at integer not null, due_at integer not null,
    outcome text not null, state text not null, success_at integer);
create index if not exists wx_refund_order on wx_refund (out_trade_no);
create index if not exists wx_refund_created on wx_refund (created_at);
create index if not exists wx_refund_due on wx_refund (due_at) where state = 'PROCESSING';

create table if not exists ali_ticket (
    token text primary key, kind text not null, out_trade_no text not null,
    amount_fen integer not null, subject text not null, body text not null,
    passback_params text not null, notify_url text not null, return_url text not null,
    charset text not null, usable_until integer not null, trade_until integer not null,
    created_at integer not null);
create index if not exists ali_ticket_trade on ali_ticket (out_trade_no, created_at);

create table if not exists ali_trade (
    trade_no text primary key, out_trade_no text not null unique, token text not null,
    amount_fen integer not null, subject text not null, state text not null,
    buyer_id text not null, buyer_logon_id text not null, created_at integer not null,
    expires_at integer not null, paid_at integer, closed_at integer,
    refunded_fen integer not null default 0);
create index if not exists ali_trade_paid on ali_trade (paid_at);

create table if not exists ali_refund (
    trade_no text not null, out_request_no text not null, amount_fen integer not null,
    reason text not null, created_at integer not null,
    primary key (trade_no, out_request_no));
create index if not exists ali_refund_created on ali_refund (created_at);

create table if not exists notice (
    id text primary key, channel text not null, event text not null, out_trade_no text not null,
    url text not null, plaintext text not null, created_at integer not null,
    tries integer not null default 0, next_due_at integer, state text not null);
create index if not exists notice_due on notice (next_due_at) where state = 'waiting';
create index if not exists notice_trade on notice (out_trade_no);

create table if not exists delivery (
    id integer primary key, notice_id text not null, virtual_at integer not null,
    real_at integer not null, try_no integer not null, fault text not null, status integer,
    reply text not null, outcome text not null, took_ms integer not null);
create index if not exists delivery_notice on delivery (notice_id);

create table if not exists fault (
    id integer primary key, target text not null, channel text not null, kind text not null,
    remaining integer not null, options text not null);

create table if not exists oauth_code (
    code text primary key, openid text not null, unionid text not null, scope text not null,
    created_at integer not null, used_at integer);
create table if not exists api_token (
    token text primary key, created_at integer not null, expires_at integer not null);

create table if not exists sms (
    id text primary key, phone text not null, text text not null, sent_at integer not null);
create index if not exists sms_phone on sms (phone, sent_at);

create table if not exists bill_file (
    token text primary key, channel text not null, name text not null, content blob not null,
    usable_until integer not null);
"""

Row = sqlite3.Row


class Store:
    """One connection for the one server thread; statements take microseconds, so they block."""

    def __init__(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(data / "sandbox.sqlite", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
            self._connection.execute(f"pragma {pragma}")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> Row | None:
        found: Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def number(self, sql: str, *values: Any) -> int:
        """The one integer this asks for; 0 when it is null."""
        return int(self._connection.execute(sql, values).fetchone()[0] or 0)

    def run(self, sql: str, *values: Any) -> int:
        """How many rows were changed."""
        return self._connection.execute(sql, values).rowcount

    def insert(self, table: str, **columns: Any) -> None:
        """`table` and column names come from this program, never from outside."""
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        self.run(f"insert into {table} ({names}) values ({marks})", *columns.values())  # noqa: S608 -- names are ours

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Not to be held across an await."""
        self._connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def setting(self, name: str, default: Any) -> Any:
        row = self.row("select value from setting where name = ?", name)
        return default if row is None else json.loads(row["value"])

    def set_setting(self, name: str, value: Any) -> None:
        self.run(
            "insert into setting values (?, ?)"
            " on conflict (name) do update set value = excluded.value",
            name,
            json.dumps(value),
        )


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]
