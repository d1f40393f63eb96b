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
    mchid text not null, out_trade_no text not null, appid text not null,
    combine_mchid text not null default '', combine_out_trade_no text not null default '',
    trade_type text not null, description text not null,
    attach text not null, notify_url text not null, amount_fen integer not null,
    asked_openid text not null, parameters text not null, prepay_id text unique,
    code text unique, code_until integer not null, expires_at integer not null,
    created_at integer not null, state text not null, password_until integer not null default 0,
    transaction_id text unique, payer_openid text, paid_at integer, closed_at integer,
    primary key (mchid, out_trade_no));
create index if not exists wx_order_paid on wx_order (paid_at);
create index if not exists wx_order_combined on wx_order (combine_mchid, combine_out_trade_no)
    where combine_out_trade_no <> '';

create table if not exists wx_combine (
    combine_mchid text not null, combine_out_trade_no text not null, combine_appid text not null,
    trade_type text not null, notify_url text not null, asked_openid text not null,
    scene_info text not null, parameters text not null, prepay_id text not null unique,
    code text not null unique, code_until integer not null, expires_at integer not null,
    created_at integer not null, password_until integer not null default 0,
    primary key (combine_mchid, combine_out_trade_no));

create table if not exists wx_refund (
    mchid text not null, out_refund_no text not null, refund_id text not null unique,
    out_trade_no text not null, amount_fen integer not null, reason text not null,
    notify_url text not null, asked text not null, created_at integer not null,
    due_at integer not null, outcome text not null, state text not null, success_at integer,
    channel text not null default 'ORIGINAL',
    primary key (mchid, out_refund_no));
create index if not exists wx_refund_order on wx_refund (mchid, out_trade_no);
create index if not exists wx_refund_created on wx_refund (created_at);
create index if not exists wx_refund_due on wx_refund (due_at) where state = 'PROCESSING';

create table if not exists ali_ticket (
    token text primary key, kind text not null, out_trade_no text not null,
    amount_fen integer not null, subject text not null, body text not null,
    passback_params text not null, notify_url text not null, return_url text not null,
    charset text not null, usable_until integer not null, trade_until integer not null,
    created_at integer not null, app_id text not null default '2021000000000109');
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
    state text not null default 'REFUND_SUCCESS', outcome text not null default 'REFUND_SUCCESS',
    due_at integer not null default 0,
    primary key (trade_no, out_request_no));
create index if not exists ali_refund_created on ali_refund (created_at);
create index if not exists ali_refund_due on ali_refund (due_at)
    where state = 'REFUND_PROCESSING';

create table if not exists notice (
    id text primary key, channel text not null, event text not null, out_trade_no text not null,
    url text not null, plaintext text not null, created_at integer not null,
    tries integer not null default 0, next_due_at integer, state text not null,
    account text not null default '', held_back integer not null default 0);
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
create table if not exists account_token (
    token text primary key, created_at integer not null, expires_at integer not null,
    kind text not null default 'stable');

create table if not exists wx_message (
    id integer primary key, openid text not null, said text not null, body text not null,
    sent_at integer not null, answer text not null default '', outcome text not null default '');
create index if not exists wx_message_openid on wx_message (openid, id);
create table if not exists wx_message_delivery (
    id integer primary key, message_id integer not null, try_no integer not null,
    fault text not null, status integer, outcome text not null, took_ms integer not null);
create index if not exists wx_message_delivery_message on wx_message_delivery (message_id);

create table if not exists sms (
    id text primary key, phone text not null, text text not null, sent_at integer not null);
create index if not exists sms_phone on sms (phone, sent_at);

create table if not exists bill_file (
    token text primary key, channel text not null, name text not null, content blob not null,
    usable_until integer not null);
"""

_SHAPE = 2
_FROM_SHAPE_1 = """
alter table wx_order rename to wx_order_1;
alter table wx_refund rename to wx_refund_1;
drop index if exists wx_order_paid;
drop index if exists wx_refund_order;
drop index if exists wx_refund_created;
drop index if exists wx_refund_due;
alter table ali_ticket add column app_id text not null default '2021000000000109';
alter table ali_refund add column state text not null default 'REFUND_SUCCESS';
alter table ali_refund add column outcome text not null default 'REFUND_SUCCESS';
alter table ali_refund add column due_at integer not null default 0;
alter table notice add column account text not null default '';
alter table notice add column held_back integer not null default 0;
"""
_FILL_FROM_SHAPE_1 = """
insert into wx_order (mchid, out_trade_no, appid, trade_type, description, attach, notify_url,
    amount_fen, asked_openid, parameters, prepay_id, code, code_until, expires_at, created_at,
    state, password_until, transaction_id, payer_openid, paid_at, closed_at)
  select '1900000109', out_trade_no, 'wx8888888888888888', trade_type, description, attach,
    notify_url, amount_fen, asked_openid, parameters, prepay_id, code, code_until, expires_at,
    created_at, state, password_until, transaction_id, payer_openid, paid_at, closed_at
  from wx_order_1;
insert into wx_refund (mchid, out_refund_no, refund_id, out_trade_no, amount_fen, reason,
    notify_url, asked, created_at, due_at, outcome, state, success_at)
  select '1900000109', out_refund_no, refund_id, out_trade_no, amount_fen, reason, notify_url,
    asked, created_at, due_at, outcome, state, success_at
  from wx_refund_1;
drop table wx_order_1;
drop table wx_refund_1;
"""
"""Before there were several merchants, everything belonged to the collecting one."""

Row = sqlite3.Row


class Store:
    """One connection for the one server thread; statements take microseconds, so they block."""

    def __init__(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(data / "sandbox.sqlite", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
            self._connection.execute(f"pragma {pragma}")
        self._bring_into_shape()

    def _bring_into_shape(self) -> None:
        shape = self.number("pragma user_version")
        is_new = self.row("select 1 from sqlite_master where name = 'wx_order'") is None
        if is_new or shape == _SHAPE:
            script = _SCHEMA
        else:
            script = _FROM_SHAPE_1 + _SCHEMA + _FILL_FROM_SHAPE_1
        self._connection.executescript(
            f"begin immediate; {script} pragma user_version = {_SHAPE}; commit;"
        )

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
