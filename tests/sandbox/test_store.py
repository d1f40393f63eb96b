"""The memory file: an older one is brought into today's shape with everything it remembers."""

import sqlite3
from pathlib import Path

from estation.sandbox.store import Store

OLD_SHAPE = """
create table setting (name text primary key, value text not null);
create table wx_order (
    out_trade_no text primary key, trade_type text not null, description text not null,
    attach text not null, notify_url text not null, amount_fen integer not null,
    asked_openid text not null, parameters text not null, prepay_id text not null unique,
    code text not null unique, code_until integer not null, expires_at integer not null,
    created_at integer not null, state text not null, password_until integer not null default 0,
    transaction_id text unique, payer_openid text, paid_at integer, closed_at integer);
create index wx_order_paid on wx_order (paid_at);
create table wx_refund (
    out_refund_no text primary key, refund_id text not null unique, out_trade_no text not null,
    amount_fen integer not null, reason text not null, notify_url text not null,
    asked text not null, created_at integer not null, due_at integer not null,
    outcome text not null, state text not null, success_at integer);
create table ali_ticket (
    token text primary key, kind text not null, out_trade_no text not null,
    amount_fen integer not null, subject text not null, body text not null,
    passback_params text not null, notify_url text not null, return_url text not null,
    charset text not null, usable_until integer not null, trade_until integer not null,
    created_at integer not null);
create table ali_refund (
    trade_no text not null, out_request_no text not null, amount_fen integer not null,
    reason text not null, created_at integer not null,
    primary key (trade_no, out_request_no));
create table notice (
    id text primary key, channel text not null, event text not null, out_trade_no text not null,
    url text not null, plaintext text not null, created_at integer not null,
    tries integer not null default 0, next_due_at integer, state text not null);
insert into wx_order values ('OLD00001', 'NATIVE', 'd', '', 'u', 817524, '', 'p', 'wx1', 'c1',
    1, 2, 3, 'SUCCESS', 0, '4200', 'o', 4, null);
insert into wx_refund values ('R1', '503', 'OLD00001', 100, '', '', '{}', 5, 6, 'SUCCESS',
    'PROCESSING', null);
insert into ali_ticket values ('bax', 'wap', 'A1', 1, 's', '', '', '', '', 'utf-8', 1, 2, 3);
insert into ali_refund values ('2026', 'R1', 1, '', 3);
insert into notice values ('n', 'wechat_pay', 'e', 'OLD00001', 'u', '{}', 1, 0, 2, 'waiting');
"""


def test_an_older_memory_belongs_to_the_collecting_merchant(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "sandbox.sqlite") as old:
        old.executescript(OLD_SHAPE)
    old.close()

    for _ in range(2):  # the second opening finds it done
        store = Store(tmp_path)
        order = store.row("select * from wx_order")
        refund = store.row("select * from wx_refund")
        ticket = store.row("select app_id from ali_ticket")
        returned = store.row("select state from ali_refund")
        notice = store.row("select held_back from notice")
        store.close()

        assert order is not None
        assert (order["mchid"], order["appid"]) == ("1900000109", "wx8888888888888888")
        assert (order["out_trade_no"], order["amount_fen"]) == ("OLD00001", 817524)
        assert (order["transaction_id"], order["combine_out_trade_no"]) == ("4200", "")
        assert refund is not None
        assert (refund["mchid"], refund["state"], refund["due_at"]) == (
            "1900000109",
            "PROCESSING",
            6,
        )
        assert ticket is not None
        assert ticket["app_id"] == "2021000000000109"
        assert returned is not None
        assert returned["state"] == "REFUND_SUCCESS"
        assert notice is not None
        assert notice["held_back"] == 0
