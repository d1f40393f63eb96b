"""The main chain through whole programs: once as it should be, then with everything going wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from estation.demo.walker import ChainBroken, Citizen, FeeDesk, Wallet, eventually
from estation.inner import personas
from estation.local import CannotStart
from estation.shared.clock import beijing_day, system_clock
from tests.journeys.conftest import ROOT, RunningCity, free_ports
from tests.payments.city import MONEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Bill = dict[str, Any]
NewBill = Callable[[], Awaitable[Bill]]


@pytest.fixture
async def buyer(city: RunningCity, citizen: Citizen, wallet: Wallet) -> Citizen:
    """林晓舟, logged in."""
    await citizen.log_in(wallet, phone=personas.BUYER.phone, id_no=personas.BUYER.id_no)
    return citizen


@pytest.fixture
async def new_bill(city: RunningCity, buyer: Citizen) -> AsyncIterator[NewBill]:
    """Issues a bill inside and waits until the citizen has it."""
    async with FeeDesk(city.places.inner_url) as desk:
        await desk.log_in(personas.FEE_CLERK.login, personas.FEE_CLERK.password)

        async def issue() -> Bill:
            bill_no = await desk.issue_bill_for(personas.BUYER.name)
            return await eventually(f"bill {bill_no}", lambda: buyer.bill(bill_no))

        yield issue


async def open_code(buyer: Citizen, bill: Bill) -> tuple[str, str]:
    """Order and WeChat code for this bill: (order id, code)."""
    order = await buyer.order(bill)
    attempt = await buyer.attempt(order["id"], "wechat_pay", "native")
    return order["id"], attempt["qr_content"]


def transfers_of(city: RunningCity, order_id: str) -> int:
    """How often the order's money is booked: each part of a combined payment counts with its
    whole, and a part booked twice counts twice."""
    booked = city.online(
        "select coalesce(count(distinct left(our_no, 24)) * max(times), 0) from ("
        " select our_no, count(*) as times from ledger_transfer"
        f" where order_id = '{order_id}' and {MONEY} group by our_no) t"
    )
    return int(booked)


def bill_state_inside(city: RunningCity, bill_no: str) -> str:
    return city.inner(f"select state from fee_bill where bill_no = '{bill_no}'")


async def paid_inside(city: RunningCity, bill_no: str) -> None:
    async def look() -> bool | None:
        try:
            return True if bill_state_inside(city, bill_no) == "paid" else None
        except CannotStart:  # PostgreSQL is on its way back
            return None

    await eventually(f"{bill_no} paid inside", look)


def test_the_demo_plays_the_chain_once_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("once")
    for parent in (data, data.parent, data.parent.parent):
        parent.chmod(0o755)

    played = subprocess.run(
        [sys.executable, "-m", "estation", "demo", "--once", "--data", str(data),
         "--ports", ",".join(map(str, free_ports(3)))],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert played.returncode == 0, played.stdout[-3000:] + played.stderr[-3000:]
    for word in (
        "光闸数据包 jc-center-online",
        "weixin://",
        "回调已入账",
        "总账流水",
        "已缴",
        "balanced",
    ):
        assert word in played.stdout
    left = subprocess.run(["pgrep", "-f", str(data)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


async def test_ten_callbacks_at_once_make_one_transfer(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill
) -> None:
    bill = await new_bill()
    order_id, code = await open_code(buyer, bill)
    await wallet.control("faults", kind="duplicate", copies=10, channel="wechat_pay", count=1)

    await wallet.pay(code)
    await eventually("paid", lambda: buyer.paid_order(order_id))
    await asyncio.sleep(1)

    assert transfers_of(city, order_id) == 1
    await paid_inside(city, bill["bill_no"])


@pytest.mark.parametrize(
    "kind", ["signtest", "missing_signature", "stale", "future", "unknown_serial", "other_key"]
)
async def test_a_notice_that_cannot_be_believed_changes_nothing_and_the_query_finds_the_truth(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill, kind: str
) -> None:
    bill = await new_bill()
    order_id, code = await open_code(buyer, bill)
    await wallet.control("faults", kind=kind, channel="wechat_pay", count=1)

    await wallet.pay(code)
    await asyncio.sleep(1)
    notices = city.online("select count(*) from pay_notice where handled_at is null")

    assert notices == "0"
    paid = await eventually("paid by the query", lambda: buyer.paid_order(order_id), seconds=40)
    assert paid["paid_attempt"]["amount_fen"] == bill["total_fen"]
    assert transfers_of(city, order_id) == 1


async def test_a_payment_is_sealed_by_itself_and_the_books_verify(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill
) -> None:
    order_id, code = await open_code(buyer, await new_bill())
    await wallet.pay(code)

    async def sealed() -> str | None:
        return city.online(
            "select b.digest from ledger_block b"
            " join ledger_sealed_transfer s on s.block_id = b.id"
            f" join ledger_transfer t on t.id = s.transfer_id where t.order_id = '{order_id}'"
        ) or None  # fmt: skip

    await eventually("sealed", sealed, seconds=30)
    verified = city.estation("ledger", "verify", "--json")

    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)["breaks"] == []


async def test_without_any_callback_the_worker_finds_the_payment(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill
) -> None:
    bill = await new_bill()
    order_id, code = await open_code(buyer, bill)
    await wallet.control("faults", kind="hold", channel="wechat_pay", count=1)

    await wallet.pay(code)
    await paid_inside(city, bill["bill_no"])

    assert transfers_of(city, order_id) == 1


async def test_a_second_tab_is_told_of_the_open_order(buyer: Citizen, new_bill: NewBill) -> None:
    bill = await new_bill()
    order = await buyer.order(bill)

    status, answer = await buyer.try_call(
        "POST",
        "/api/orders",
        {
            "bills": [{"bill_id": bill["id"], "version": bill["version"]}],
            "expected_fen": bill["total_fen"],
        },
    )

    assert status == 409
    assert answer["code"] == "order_already_open"
    assert answer["details"]["order_id"] == order["id"]


async def test_another_citizens_bill_and_order_are_not_found(
    city: RunningCity,
    http: aiohttp.ClientSession,
    wallet: Wallet,
    buyer: Citizen,
    new_bill: NewBill,
) -> None:
    bill = await new_bill()
    order = await buyer.order(bill)
    seller = Citizen(http, city.places.online_url)
    await seller.log_in(wallet, phone=personas.SELLER.phone, id_no=personas.SELLER.id_no)

    for path in (f"/api/bills/{bill['id']}", f"/api/orders/{order['id']}"):
        status, answer = await seller.try_call("GET", path)
        assert (status, answer["code"][-9:]) == (404, "not_found")
    status, _, _ = await seller.fetch(f"/receipts/{order['id']}")
    assert status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"bills": [], "expected_fen": 1}, 422),
        ({"bills": [{"bill_id": "x", "version": 1}], "expected_fen": 1}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": 85.8}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": -1}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": 0}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": 10**30}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": "858000"}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": True}, 422),
        ({"bills": [{"bill_id": "ID", "version": 1}], "expected_fen": 1}, 412),
        ({"bills": [{"bill_id": "ID", "version": 9}], "expected_fen": 858_000}, 409),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_with_a_code(
    city: RunningCity, buyer: Citizen, new_bill: NewBill, body: dict[str, Any], status: int
) -> None:
    bill = await new_bill()
    for one in body["bills"]:
        one["bill_id"] = bill["id"] if one["bill_id"] == "ID" else one["bill_id"]
    orders = city.online("select count(*) from pay_order")

    got, answer = await buyer.try_call("POST", "/api/orders", body)

    assert got == status, answer
    assert answer["code"]
    assert city.online("select count(*) from pay_order") == orders


@pytest.mark.parametrize(
    ("content_type", "data", "status"),
    [
        ("application/json", b"{broken", 400),
        ("application/json", b"\xff\xfe", 400),
        ("text/plain", b"{}", 415),
        ("application/json", b"[" * 20_000, 413),
        ("application/json", b"x" * 400_000, 413),
    ],
)
async def test_a_body_that_is_no_json_is_refused_with_a_code(
    city: RunningCity, http: aiohttp.ClientSession, buyer: Citizen, content_type: str,
    data: bytes, status: int,
) -> None:  # fmt: skip
    async with http.post(
        f"{city.places.online_url}/api/orders",
        data=data,
        headers={"content-type": content_type, **buyer.headers},
    ) as answer:
        assert answer.status == status
        assert (await answer.json())["code"]


@pytest.mark.parametrize("channel", ["wechat-pay/1900000109", "alipay/2021000000000109"])
async def test_a_stranger_at_the_callback_door_gets_a_4xx(
    city: RunningCity, http: aiohttp.ClientSession, channel: str
) -> None:
    notices = city.online("select count(*) from pay_notice")
    address = f"{city.places.online_url}/notices/{channel}"
    for content_type, data in [
        ("application/json", b'{"id":"1"}'),
        ("application/json", b"x" * 70_000),
        ("application/x-www-form-urlencoded", b"trade_status=TRADE_SUCCESS&total_amount=1.00"),
        ("text/html", b"<html>"),
    ]:
        async with http.post(address, data=data, headers={"content-type": content_type}) as answer:
            assert 400 <= answer.status < 500

    async with http.post(f"{city.places.online_url}/notices/wechat-pay/9", data=b"{}") as answer:
        assert answer.status == 404
    assert city.online("select count(*) from pay_notice") == notices


async def test_the_official_account_shows_the_way_to_paying(
    city: RunningCity, wallet: Wallet
) -> None:
    """The demo set the account up as a city would: address, token, key, menu."""
    shown = await wallet.control("message", persona="zhou", text="我要缴费")

    assert shown["outcome"] == "answered"
    assert f"{city.places.online_url}/fees" in shown["answer"]


async def test_the_whole_inbox_heard_again_changes_nothing(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill
) -> None:
    order_id, code = await open_code(buyer, await new_bill())
    await wallet.pay(code)
    await eventually("paid", lambda: buyer.paid_order(order_id))
    money = """select count(*), sum(e.debit_fen) from ledger_transfer t
               join ledger_entry e on e.transfer_id = t.id where t.kind not like 'hold%'"""
    before = city.online(money)

    said = city.estation("inbox", "replay", "--json")

    told = json.loads(said.stdout.splitlines()[-1])
    assert (said.returncode, told["unbelieved"], told["failed"]) == (0, 0, 0), said.stderr
    assert told["read"] >= 1
    assert "applied" not in told["outcomes"]
    assert city.online(money) == before


@pytest.mark.parametrize("victim", ["online", "worker", "inner-worker", "inner", "postgres"])
async def test_the_chain_completes_after_kill_9(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill, victim: str
) -> None:
    bill = await new_bill()
    order_id, code = await open_code(buyer, bill)

    kill(city, victim)
    await wallet.pay(code)

    await paid_inside(city, bill["bill_no"])
    await eventually("paid", lambda: buyer.paid_order(order_id))
    assert transfers_of(city, order_id) == 1
    receipts = city.inner(f"select count(*) from fee_receipt where bill_no = '{bill['bill_no']}'")
    assert receipts == "1"
    await everything_is_back(city)


async def test_money_for_a_bill_withdrawn_while_paying_goes_back_by_itself(
    city: RunningCity, buyer: Citizen, wallet: Wallet, new_bill: NewBill
) -> None:
    bill = await new_bill()
    order_id, code = await open_code(buyer, bill)
    async with FeeDesk(city.places.inner_url) as desk:
        await desk.log_in(personas.FEE_CLERK.login, personas.FEE_CLERK.password)
        await desk.withdraw(bill["bill_no"], "金额有误")
    await eventually("withdrawn outside", lambda: withdrawn(buyer, bill["bill_no"]))

    try:
        await wallet.pay(code)
    except ChainBroken:
        # The janitor was faster and closed the code at the channel: no money can come.
        closed = await buyer.call("GET", f"/api/orders/{order_id}")
        assert (closed["state"], closed["close_reason"]) == ("closed", "bill_changed")
        assert transfers_of(city, order_id) == 0
        return

    async def incident() -> str | None:
        return (
            city.online(f"select distinct kind from incident where order_id = '{order_id}'") or None
        )

    assert await eventually("incident", incident) == "bill_withdrawn"
    assert await withdrawn(buyer, bill["bill_no"])
    kinds = f"""select distinct kind from ledger_transfer
                where order_id = '{order_id}' and kind <> 'refund' and {MONEY}"""
    assert set(city.online(kinds).split()) == {"suspense", "refund_start"}

    async def given_back() -> str | None:
        return (
            city.online(
                f"""select string_agg(r.channel_refund_no, ' ') from pay_refund r join incident i
                    on i.dedupe_key = r.incident_key where r.order_id = '{order_id}'
                    having bool_and(i.state = 'resolved' and r.state = 'succeeded')"""
            )
            or None
        )

    assert await eventually("given back", given_back)


def test_the_day_reconciles_and_the_gate_says_where_it_stands(city: RunningCity) -> None:
    ahead = beijing_day(system_clock()) + timedelta(days=2)  # also when midnight passes just now

    tomorrow = city.estation("reconcile", ahead.isoformat())
    status = city.estation("gate", "status", "--json")
    nonsense = city.estation("reconcile", "soon")

    assert tomorrow.returncode == 2
    assert nonsense.returncode == 2
    assert status.returncode == 0, status.stderr
    assert "jc-center-online" in status.stdout


async def withdrawn(buyer: Citizen, bill_no: str) -> bool | None:
    listed = (await buyer.call("GET", "/api/bills"))["bills"]
    states = [bill["state"] for bill in listed if bill["bill_no"] == bill_no]
    return True if "withdrawn" in states else None


async def everything_is_back(city: RunningCity) -> None:
    for url in (city.places.online_url, city.places.inner_url, city.places.sandbox_url):

        async def look(address: str = f"{url}/healthz") -> bool | None:
            async with aiohttp.ClientSession() as http, http.get(address) as answer:
                return True if answer.status == 200 else None

        await eventually(url, look)


def kill(city: RunningCity, victim: str) -> None:
    if victim == "postgres":
        pid = city.postgres.postmaster_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    else:
        city.kill(victim)
