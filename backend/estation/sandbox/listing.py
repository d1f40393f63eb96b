"""What the sandbox's page and control interface show of its state."""

import json
from typing import Any

from estation.sandbox import billing
from estation.sandbox.clocks import rfc3339
from estation.sandbox.hub import Hub
from estation.sandbox.store import Row
from estation.sandbox.wechat_pay import modes as wechat_modes
from estation.shared.clock import BEIJING

MOST_SUB_ORDERS = 50
_STATES = {
    "NOTPAY": "待支付",
    "SUCCESS": "已支付",
    "REFUND": "已退款",
    "CLOSED": "已关闭",
    "": "未扫码",
    "WAIT_BUYER_PAY": "已扫码，待支付",
    "TRADE_SUCCESS": "已支付",
    "TRADE_FINISHED": "已完结",
    "TRADE_CLOSED": "已关闭",
}


def clock(hub: Hub) -> dict[str, Any]:
    """virtual, real (RFC 3339, Beijing) and offset_seconds."""
    return {
        "virtual": hub.clocks.now().astimezone(BEIJING).isoformat(timespec="seconds"),
        "real": hub.clocks.real().astimezone(BEIJING).isoformat(timespec="seconds"),
        "offset_seconds": hub.clocks.offset_seconds,
    }


def modes(hub: Hub) -> dict[str, Any]:
    """wechat_pay_keys, wechat_pay_algorithm."""
    return {
        "wechat_pay_keys": wechat_modes.mode(hub.store),
        "wechat_pay_algorithm": wechat_modes.algorithm(hub.store),
    }


def bills(hub: Hub) -> dict[str, Any]:
    """ready_days: days whose bills were declared ready before their time."""
    return {"ready_days": billing.forced_days(hub.store)}


def notices(hub: Hub, out_trade_no: str | None, *, limit: int) -> list[dict[str, Any]]:
    """Oldest first, each with its deliveries."""
    rows = hub.store.rows(
        "select * from (select *, rowid as place from notice"
        " where out_trade_no = coalesce(?, out_trade_no) order by rowid desc limit ?)"
        " order by place",
        out_trade_no,
        limit,
    )
    return [_notice(hub, row) for row in rows]


def _notice(hub: Hub, row: Row) -> dict[str, Any]:
    tried = hub.store.rows("select * from delivery where notice_id = ? order by id", row["id"])
    return {
        "id": row["id"],
        "channel": row["channel"],
        "account": row["account"],
        "event": row["event"],
        "out_trade_no": row["out_trade_no"],
        "url": row["url"],
        "state": row["state"],
        "tries": row["tries"],
        "next_due_at": row["next_due_at"] and rfc3339(row["next_due_at"]),
        "plaintext": json.loads(row["plaintext"]),
        "deliveries": [
            {
                "virtual_at": rfc3339(delivery["virtual_at"]),
                "real_at": rfc3339(delivery["real_at"]),
                "try_no": delivery["try_no"],
                "fault": delivery["fault"],
                "status": delivery["status"],
                "reply": delivery["reply"],
                "outcome": delivery["outcome"],
                "took_ms": delivery["took_ms"],
            }
            for delivery in tried
        ],
    }


def orders(hub: Hub, out_trade_no: str | None, *, limit: int) -> list[dict[str, Any]]:
    """Orders of both channels, newest first; state is the channel's own word. Sub-orders of a
    combined order stand one by one; `combine_out_trade_no` joins them."""
    rows = hub.store.rows(
        "select 'wechat_pay' as channel, mchid as account, out_trade_no, description as title,"
        " amount_fen, state, coalesce(prepay_id, combine_out_trade_no) as code,"
        " combine_out_trade_no, created_at from wx_order"
        " where out_trade_no = coalesce(?1, out_trade_no)"
        " union all"
        " select 'alipay', k.app_id, k.out_trade_no, k.subject, k.amount_fen,"
        " coalesce(t.state, ''), k.token, '', k.created_at"
        " from ali_ticket k left join ali_trade t using (out_trade_no)"
        " where k.out_trade_no = coalesce(?1, k.out_trade_no)"
        " order by created_at desc limit ?2",
        out_trade_no,
        limit,
    )
    return [
        {
            **dict(row),
            "created_at": rfc3339(row["created_at"]),
            "state_text": _STATES.get(row["state"], row["state"]),
        }
        for row in rows
    ]


def payments(hub: Hub, *, limit: int) -> list[dict[str, Any]]:
    """As `orders`, but a combined order once: `subs` says of how many, 0 for a single one."""
    shown: dict[str, dict[str, Any]] = {}
    for order in orders(hub, None, limit=MOST_SUB_ORDERS * limit):
        whole = order["combine_out_trade_no"]
        if whole in shown:
            shown[whole]["amount_fen"] += order["amount_fen"]
            shown[whole]["subs"] += 1
        else:
            shown[whole or order["code"]] = {
                **order,
                "out_trade_no": whole or order["out_trade_no"],
                "subs": 1 if whole else 0,
            }
    return list(shown.values())[:limit]
