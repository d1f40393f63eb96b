"""Split instructions as pure rules: who is told what, of payments, refunds and corrections."""

import csv
import hashlib
import io
from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import UUID

from estation.ledger.api import PayeeMovement
from estation.payments.refund_rules import is_started_again, start_key
from estation.payments.splitting import (
    Instructed,
    Instruction,
    corrections_of,
    fee_key,
    instructions_of,
    refund_keys,
    sheet_of,
)

AT = datetime(2026, 8, 3, 2, 0, tzinfo=UTC)
PAYMENT = PayeeMovement(
    transfer_id=UUID(int=1),
    idempotency_key="arrival:wechat_pay:1:4200",
    kind="payment",
    our_no="FY1",
    channel_no="4200",
    occurred_at=AT,
    payee_code="treasury",
    fen=817_524,
)
TO_NON_TAX = replace(PAYMENT, payee_code="non_tax", fen=8_000)
REFUND = replace(
    PAYMENT,
    transfer_id=UUID(int=2),
    idempotency_key=start_key("R1"),
    kind="refund_start",
    fen=-500,
)


def test_a_payments_fee_is_shared_and_one_without_a_fee_costs_nothing() -> None:
    key = fee_key("4200", is_refund=False)

    told = instructions_of([PAYMENT, TO_NON_TAX], {key: 4953})
    free = instructions_of([PAYMENT], {})

    assert [(line.payee_code, line.amount_fen, line.fee_fen) for line in told] == [
        ("treasury", 817_524, 4905),
        ("non_tax", 8_000, 48),
    ]
    assert sum(line.net_fen for line in told) == 817_524 + 8_000 - 4953
    assert [line.fee_fen for line in free] == [0]


def test_a_line_says_of_which_transfer_it_is_and_is_not_late_by_itself() -> None:
    assert instructions_of([PAYMENT], {}) == [
        Instruction(UUID(int=1), "treasury", False, 817_524, 0, "FY1", "4200", AT)
    ]


def test_fees_of_payments_and_of_refunds_never_share_a_key() -> None:
    assert fee_key("4200", is_refund=False) == "payment:4200"
    assert fee_key("4200", is_refund=True) == "refund:4200"


def test_a_refund_of_one_fen_that_was_reversed_costs_no_fee() -> None:
    reversed_ = replace(REFUND, kind="refund_reversal", fen=1)

    lines = instructions_of([reversed_], {fee_key("R1", is_refund=True): 1})

    assert [(line.is_refund, line.fee_fen) for line in lines] == [(False, 0)]


def test_a_refund_takes_back_amount_and_fee_where_it_was_reserved_first() -> None:
    fees = {fee_key("R1", is_refund=True): 3}
    again = replace(REFUND, transfer_id=UUID(int=3), idempotency_key=start_key("R1", again=True))
    reversed_ = replace(REFUND, transfer_id=UUID(int=4), kind="refund_reversal", fen=500)

    lines = instructions_of([REFUND, again, reversed_], fees, are_late=True)

    assert [(line.is_refund, line.fee_fen, line.net_fen) for line in lines] == [
        (True, 3, -497),
        (True, 0, -500),
        (False, 0, 500),
    ]
    assert all(line.is_late for line in lines)


def test_a_key_is_of_a_refund_begun_again_only_when_it_says_so() -> None:
    assert is_started_again(start_key("R1", again=True))
    assert not is_started_again(start_key("R1"))
    assert not is_started_again("refund:R1")


def test_the_keys_of_refunds_are_those_of_both_beginnings() -> None:
    fees = {fee_key("4200", is_refund=False): 1, fee_key("R1", is_refund=True): 1}

    assert refund_keys(fees) == ["refund_start:R1", "refund_start:R1:again"]
    assert refund_keys({"refund:R:2": 1}) == ["refund_start:R:2", "refund_start:R:2:again"]


def test_a_fee_known_later_corrects_only_whose_share_it_changes() -> None:
    key = fee_key("4200", is_refund=False)
    told = [Instructed(PAYMENT, 4905), Instructed(TO_NON_TAX, 48)]

    more = corrections_of(told, {key: 4955})
    same = corrections_of(told, {key: 4953})
    unknown = corrections_of(told, {})

    assert [(line.payee_code, line.fee_fen, line.amount_fen) for line in more] == [
        ("treasury", 2, 0)
    ]
    assert all(line.is_correction and line.is_late for line in more)
    assert same == unknown == []


def test_each_transfers_fee_is_corrected_by_its_own_payees() -> None:
    other = replace(PAYMENT, transfer_id=UUID(int=5), channel_no="4201", fen=10_000)
    told = [Instructed(PAYMENT, 4905), Instructed(TO_NON_TAX, 48), Instructed(other, 60)]

    lines = corrections_of(told, {"payment:4200": 4953, "payment:4201": 61})

    assert [(line.transfer_id, line.fee_fen) for line in lines] == [(UUID(int=5), 1)]


def test_the_file_is_word_for_word_what_the_settlement_system_reads() -> None:
    line = Instruction(
        UUID(int=1), "treasury", False, 817_524, 4905, "FY1", "4200",
        datetime(2026, 8, 3, 9, 5, 7, tzinfo=UTC),
    )  # fmt: skip

    sheet = sheet_of(
        [line],
        export_no="S1",
        day=date(2026, 8, 4),
        account_id="wechat_pay:9",
        payee_names={"treasury": "国库"},
    )

    transfer = "00000000-0000-0000-0000-000000000001"
    sums = "8175.24,49.05,8126.19"
    assert sheet.content.decode("utf-8-sig").split("\r\n") == [
        "分账指令,S1,清算日期,2026-08-04,归集账户,wechat_pay:9",
        "序号,收款单位代码,收款单位,类型,金额（元）,手续费（元）,应划金额（元）,商户订单号,渠道流水号,"
        "渠道时间,总账凭证,备注",
        f"1,treasury,国库,付款,{sums},FY1,4200,2026-08-03 17:05:07,{transfer},",
        f"小计,treasury,国库,,{sums},,,,,",
        f"合计,,1 条,,{sums},,,,,",
        "",
    ]
    assert sheet.sha256 == hashlib.sha256(sheet.content).hexdigest()


def test_the_sheet_says_what_each_line_is_and_ties_out() -> None:
    line = Instruction(UUID(int=1), "treasury", False, 100, 1, "FY1", "4200", AT)
    lines = [
        line,
        replace(line, payee_code="non_tax", amount_fen=50, is_late=True),
        replace(line, is_refund=True, amount_fen=30),
        replace(line, amount_fen=0, fee_fen=2, is_correction=True, is_late=True),
        replace(line, is_refund=True, amount_fen=0, fee_fen=2, is_correction=True),
    ]

    sheet = sheet_of(
        lines,
        export_no="S1",
        day=date(2026, 8, 3),
        account_id="=danger",
        payee_names={"treasury": "国库"},
    )

    rows = list(csv.reader(io.StringIO(sheet.content.decode("utf-8-sig"))))
    assert [row[3] for row in rows[2:7]] == ["付款", "付款", "退款", "手续费更正", "退款手续费更正"]
    assert [row[11] for row in rows[2:7]] == [
        "",
        "迟到入账，清算日期 2026-08-03",
        "",
        "手续费在下达后才确定，清算日期 2026-08-03",
        "",
    ]
    assert rows[0][5] == "'=danger"
    assert [row[:3] + row[4:7] for row in rows[7:]] == [
        ["小计", "non_tax", "non_tax", "0.50", "0.01", "0.49"],
        ["小计", "treasury", "国库", "0.70", "0.00", "0.70"],
        ["合计", "", "5 条", "1.20", "0.01", "1.19"],
    ]
    assert len(sheet.sha256) == 64
