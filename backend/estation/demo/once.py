"""The main chain, played headless: a bill leaves the internal platform, is paid, comes back."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
from tortoise import Tortoise

from estation import settings as settings_module
from estation.demo.city import City
from estation.demo.places import COUNTY
from estation.demo.walker import (
    BILL_LINES,
    FUND_LINES,
    ChainBroken,
    Citizen,
    FeeDesk,
    Wallet,
    eventually,
)
from estation.inner import personas
from estation.outside.gate import format as packets
from estation.payments.invariants import broken_invariants
from estation.reconciliation.api import reconcile_day
from estation.services import open_services
from estation.settings import Settings
from estation.shared.clock import beijing_day, system_clock
from estation.shared.money import display_yuan

Say = Callable[[str], None]

Payment = tuple[str, str, str, Mapping[str, str]]
PAYMENTS: Sequence[Payment] = (
    ("wechat_pay", "native", "微信支付", BILL_LINES),
    ("alipay", "precreate", "支付宝", BILL_LINES),
    ("wechat_pay", "native", "微信支付", FUND_LINES),
)
"""To the payees' own merchants at once; and twice collected by the city."""


@dataclass(frozen=True, slots=True)
class Centre:
    """An internal platform: its desk, its database, and its name in the streams."""

    url: str
    dsn: str
    source: str


async def play_once(city: City, say: Say) -> None:
    """Play it with both wallets. Raises ChainBroken at the first step that does not hold."""
    timeout = aiohttp.ClientTimeout(total=20)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=jar) as http:
        wallet = Wallet(http, city.places.sandbox_url)
        citizen = Citizen(http, city.places.online_url)
        buyer = personas.BUYER
        await citizen.log_in(wallet, phone=buyer.phone, id_no=buyer.id_no)
        say(f"市民 {buyer.name} 已登录")
        for centre, payments in _centres(city):
            async with FeeDesk(centre.url) as desk:
                await desk.log_in(personas.FEE_CLERK.login, personas.FEE_CLERK.password)
                for channel, scene, name, lines in payments:
                    bill_no = await desk.issue_bill_for(buyer.name, lines)
                    await _pay_one(
                        city, centre, say, citizen, wallet, bill_no, channel, scene, name
                    )
    await _reconcile(city, wallet_url=city.places.sandbox_url, say=say)


def _centres(city: City) -> list[tuple[Centre, Sequence[Payment]]]:
    """The city's with every way to pay; a county's, when there is one, with one."""
    places = city.places
    centres: list[tuple[Centre, Sequence[Payment]]]
    centres = [(Centre(places.inner_url, city.inner_dsn, "jc-center"), PAYMENTS)]
    if places.has_county:
        centres.append((Centre(places.county_url, city.county_dsn, COUNTY), PAYMENTS[:1]))
    return centres


async def _pay_one(
    city: City, centre: Centre, say: Say, citizen: Citizen, wallet: Wallet, bill_no: str,
    channel: str, scene: str, wallet_name: str,
) -> None:  # fmt: skip
    say(f"内网开出缴费单 {bill_no}")
    bill = await eventually(f"缴费单 {bill_no} 到达线上", lambda: citizen.bill(bill_no))
    packet = await _packet_with(centre.dsn, f"{centre.source}-online", "fee_bill", bill_no)
    say(
        f"光闸数据包 {centre.source}-online #{packet} → 线上：{len(bill['items'])} 项，"
        f"合计 ¥ {display_yuan(bill['total_fen'])}"
    )
    order = await citizen.order(bill)
    attempt = await citizen.attempt(order["id"], channel, scene)
    say(f"订单 {order['order_no']}，{wallet_name}二维码 {attempt['qr_content']}")
    await wallet.pay(attempt["qr_content"])
    paid = await eventually(
        f"订单 {order['order_no']} 变为已缴", lambda: citizen.paid_order(order["id"])
    )
    done = paid["paid_attempt"]
    say(
        f"回调已入账：{done['out_trade_no']} ¥ {display_yuan(done['amount_fen'])}，"
        f"渠道单号 {done['channel_trade_no']}"
    )
    arrivals = len(done["parts"]) or 1
    await _say_transfers(city, say, order["id"], bill["total_fen"], arrivals=arrivals)
    await _fetch_receipts(say, citizen, paid)
    await _receipt_is_back(city, centre, say, bill_no)


async def _say_transfers(
    city: City, say: Say, order_id: str, total_fen: int, *, arrivals: int
) -> None:
    """Exactly one transfer per arrival (a combined payment has one per payee), together balanced
    and of the whole amount. What the order was expected to bring is no money."""
    rows = await _all(
        city.online_dsn,
        "select t.id, e.account, e.debit_fen, e.credit_fen from ledger_transfer t"
        " join ledger_entry e on e.transfer_id = t.id where t.order_id = $1::uuid"
        " and t.kind not in ('hold', 'hold_release')"
        " order by e.credit_fen, e.account",
        order_id,
    )
    booked = len({row["id"] for row in rows})
    if booked != arrivals:
        raise ChainBroken(f"订单 {order_id} 应有 {arrivals} 笔总账流水，实际 {booked} 笔")
    debit, credit = (sum(row[side] for row in rows) for side in ("debit_fen", "credit_fen"))
    if not debit == credit == total_fen:
        raise ChainBroken(f"总账不平：借 {debit}，贷 {credit}，应为 {total_fen}")
    legs = "，".join(
        f"{'借' if row['debit_fen'] else '贷'} {row['account']}"
        f" {display_yuan(row['debit_fen'] or row['credit_fen'])}"
        for row in rows
    )
    say(f"总账流水 {rows[0]['id']}：{legs}")


async def _fetch_receipts(say: Say, citizen: Citizen, paid: dict[str, Any]) -> None:
    for split in paid["splits"]:
        path = f"/receipts/{paid['id']}/{split['receipt_no']}.pdf"
        status, kind, body = await citizen.fetch(path)
        if status != 200 or kind != "application/pdf" or not body.startswith(b"%PDF"):
            raise ChainBroken(f"凭据 {split['receipt_no']} 无法下载：{status} {kind}")
        say(
            f"凭据 {split['receipt_no']} → {split['payee_name']}"
            f" ¥ {display_yuan(split['amount_fen'])}（PDF {len(body)} 字节）"
        )


async def _receipt_is_back(city: City, centre: Centre, say: Say, bill_no: str) -> None:
    """Over the gate into the internal platform: its bill is paid, too."""

    async def look() -> str | None:
        state: str = await _one(
            centre.dsn, "select state from fee_bill where bill_no = $1", bill_no
        )
        return state if state == "paid" else None

    await eventually(f"缴费单 {bill_no} 的回执回到内网", look)
    packet = await _packet_with(city.online_dsn, f"online-{centre.source}", "receipt", bill_no)
    say(f"光闸数据包 online-{centre.source} #{packet} → 内网：缴费单 {bill_no} 已缴")


async def _reconcile(city: City, *, wallet_url: str, say: Say) -> None:
    """The day's bills of both channels against the ledger; then every invariant."""
    today = beijing_day(system_clock())
    async with aiohttp.ClientSession() as http:
        # Channels make bills the morning after; the sandbox can be told not to wait.
        await Wallet(http, wallet_url).control("bills", day=today.isoformat(), ready=True)
    settings = Settings.read()
    await Tortoise.init(
        config=settings_module.database(settings.database_url), _enable_global_fallback=True
    )
    try:
        async with open_services(settings, system_clock) as services:
            view = await reconcile_day(today, services=services, now=system_clock())
        broken = await broken_invariants()
    finally:
        await Tortoise.close_connections()
    say(f"对账 {today}：{view.state}，相符 {view.matched} 笔，¥ {display_yuan(view.matched_fen)}")
    if view.state != "balanced":
        raise ChainBroken(f"当日未对平：{view.counts} {view.legs}")
    if broken:
        raise ChainBroken(f"不变量被破坏：{broken}")
    say("全部不变量成立")


async def _packet_with(dsn: str, stream: str, topic: str, bill_no: str) -> int | None:
    """The newest one that carries news of the bill, as its own lines say."""
    for packet in await _all(
        dsn,
        "select seq, manifest, body from gate_outgoing_packet where stream = $1 and rows > 0"
        " order by seq desc limit 200",
        stream,
    ):
        for line in packets.read_made(packet["manifest"], packet["body"]):
            if line.topic == topic and json.loads(bytes(line.row))["bill_no"] == bill_no:
                return int(packet["seq"])
    return None


async def _one(dsn: str, sql: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


async def _all(dsn: str, sql: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        rows: list[Any] = await connection.fetch(sql, *arguments)
        return rows
    finally:
        await connection.close()
