"""What an operator reads at a terminal is whole, however narrow; programs read JSON."""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from estation import operating
from estation.cli import main
from estation.commanding import on_online
from estation.identity.api import ensure_staff
from estation.ledger.api import Leg, TransferInput, clearing, payee_payable, post_many
from estation.payments import api
from estation.payments.actions.incidents import open_incident
from estation.payments.errors import NotReversible, NotYourIncident, SecondPersonNeeded
from estation.shared import ids
from estation.shared.clock import system_clock
from tests.payments.city import City, rows
from tests.payments.fakes import NOW
from tests.payments.office import PASSWORD

NUMBER = "FY20260803120000ABCDEFGHJKMNPQRS"


@pytest.fixture(autouse=True)
def _city(own_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)


def estation(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None, result.output
    return result.output


def plant(many: int) -> None:
    async def open_them() -> None:
        for number in range(many):
            await open_incident(
                kind="wrong_amount",
                channel="wechat_pay",
                account_id="wechat_pay:1900000109",
                out_trade_no=NUMBER,
                distinction=str(number),
                evidence={},
                amount_fen=12_345,
                now=NOW + timedelta(seconds=number),
            )

    on_online(open_them)


def listed() -> Any:
    return json.loads(estation("incidents", "list", "--json"))


def test_incidents_are_told_to_programs_with_how_many_there_are() -> None:
    assert listed() == {"open": 0, "incidents": []}

    plant(operating.INCIDENTS_SHOWN + 1)

    told = listed()
    assert told["open"] == operating.INCIDENTS_SHOWN + 1
    assert len(told["incidents"]) == operating.INCIDENTS_SHOWN
    dues = [datetime.fromisoformat(one["due"]) for one in told["incidents"]]
    assert dues == sorted(dues)
    first = told["incidents"][0]
    assert (first["number"], first["cause"], first["amount"]) == (NUMBER, "金额不符", "123.45")


def test_a_narrow_terminal_folds_numbers_and_cuts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(1)
    (one,) = listed()["incidents"]
    monkeypatch.setattr(operating.console, "_width", 60)

    table = estation("incidents", "list")

    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in table.splitlines()
        if "│" in line
    ]
    columns = ["".join(parts) for parts in zip(*cells, strict=True)]
    assert any(one["id"] in column for column in columns), table
    assert any(NUMBER in column for column in columns), table
    assert "…" not in table


def test_who_sees_a_part_of_the_incidents_is_told_so() -> None:
    plant(operating.INCIDENTS_SHOWN + 1)

    assert f"共 {operating.INCIDENTS_SHOWN + 1} 件" in estation("incidents", "list")


CHECKER = "罗建平（财务复核）"


async def an_office_with_odd_money() -> UUID:
    for login, name, role in (
        ("fuhe", "罗建平", "finance_checker"),
        ("yunwei", "丁一", "operator"),
    ):
        await ensure_staff(login=login, name=name, role=role, password=PASSWORD, now=NOW)
    city = City()
    _, _, number = await city.opened()
    now = system_clock()  # the channel gives nothing back after a year
    await api.settle_batch([api.from_report(city.paid(number, amount_fen=5_000, at=now))], now=now)
    (found,) = await rows("select id from incident")
    return UUID(str(found["id"]))


def test_who_asks_at_the_command_line_may_not_approve_at_the_page() -> None:
    incident_id = on_online(an_office_with_odd_money)

    estation("refunds", "ask", str(incident_id), "--by", "fuhe", "--reason", "原路退回")

    async def approve() -> Any:
        (refund,) = await rows("select * from pay_refund")
        (officer,) = await rows("select id from staff_user where login = 'fuhe'")
        with pytest.raises(SecondPersonNeeded):
            await api.approve_refund(
                request_id=refund["request_id"], by=CHECKER, by_id=officer["id"], now=NOW
            )
        return refund, officer["id"]

    refund, account = on_online(approve)
    assert (refund["state"], refund["asked_by"]) == ("asked", CHECKER)
    assert refund["asked_by_id"] == account


@pytest.mark.parametrize("by", ["罗建平", "nobody", "", "a\x00b", "\udcff", "yunwei"])
def test_only_a_known_login_of_finance_asks_for_a_refund(by: str) -> None:
    incident_id = on_online(an_office_with_odd_money)

    result = CliRunner().invoke(
        main, ["refunds", "ask", str(incident_id), "--by", by, "--reason", "原路退回"]
    )

    assert result.exit_code == 2
    words = NotYourIncident.message if by == "yunwei" else "没有这个登录名的工作人员"
    assert words in result.output.replace("\n", "")
    assert on_online(lambda: rows("select id from pay_refund")) == []


def resolve(incident_id: Any, by: str) -> tuple[int, str]:
    words = ["incidents", "resolve", str(incident_id), "--by", by, "--words", "已核实"]
    result = CliRunner().invoke(main, words)
    return result.exit_code, result.output.replace("\n", "")


def incident_of(number: str) -> Any:
    """The incident of this number and who the history names."""
    (row,) = on_online(
        lambda: rows(
            """select i.id, i.state, i.resolved_by, s.login from incident i
               left join incident_action a on a.incident_id = i.id
               left join staff_user s on s.id = a.by_id where i.out_trade_no = $1""",
            number,
        )
    )
    return row


def test_who_resolves_at_the_command_line_is_named_as_at_the_page() -> None:
    on_online(an_office_with_odd_money)
    plant(1)
    one = incident_of(NUMBER)

    code, _ = resolve(one["id"], "fuhe")

    assert code == 0
    assert incident_of(NUMBER) == {
        "id": one["id"],
        "state": "resolved",
        "resolved_by": CHECKER,
        "login": "fuhe",
    }


@pytest.mark.parametrize(
    ("owner", "by", "words"),
    [
        ("finance", "yunwei", NotYourIncident.message),
        ("operator", "fuhe", NotYourIncident.message),
        ("finance", "丁一", "没有这个登录名的工作人员"),
    ],
)
def test_the_command_line_resolves_for_nobody_whom_the_page_refuses(
    owner: str, by: str, words: str
) -> None:
    on_online(an_office_with_odd_money)
    plant(1)
    on_online(
        lambda: rows(
            "update incident set owner = $2 where out_trade_no = $1 returning id", NUMBER, owner
        )
    )
    before = incident_of(NUMBER)

    code, said = resolve(before["id"], by)

    assert code == 2
    assert words in said
    assert before["state"] == "open"
    assert incident_of(NUMBER) == before


def test_an_operator_resolves_what_is_the_operators() -> None:
    on_online(an_office_with_odd_money)
    plant(1)
    on_online(
        lambda: rows("update incident set owner = 'operator' where out_trade_no = $1", NUMBER)
    )

    code, _ = resolve(incident_of(NUMBER)["id"], "yunwei")

    assert (code, incident_of(NUMBER)["resolved_by"]) == (0, "丁一（运维）")


def a_transfer_by_hand(kind: str = "payout") -> str:
    """As only somebody at the database can post one."""

    async def post() -> str:
        now = system_clock()
        await ensure_staff(
            login="caiwu", name="何敏", role="finance_clerk", password=PASSWORD, now=NOW
        )
        transfer = TransferInput(
            id=str(ids.row_id(now)),
            idempotency_key=f"by-hand-{kind}",
            kind=kind,
            region="360101",
            order_id=None,
            our_no="by-hand",
            channel_no="",
            occurred_at=now,
            legs=[
                Leg(payee_payable("treasury"), debit_fen=500),
                Leg(clearing("wechat_pay:1900000109"), credit_fen=500),
            ],
        )
        (posted,) = await post_many([transfer], now=now)
        return posted

    return str(on_online(post))


def reverse(transfer: str, incident_id: Any, by: str, approved_by: str) -> tuple[int, str]:
    words = ["--incident", str(incident_id), "--by", by, "--approved-by", approved_by]
    result = CliRunner().invoke(main, ["ledger", "reverse", transfer, *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.replace("\n", "")


def mirrors() -> Any:
    return on_online(
        lambda: rows(
            """select t.reverses_id::text as undone, a.action, s.login from ledger_transfer t
               left join incident_action a on a.transfer_id = t.id
               left join staff_user s on s.id = a.by_id
               where t.kind = 'reversal' order by a.at"""
        )
    )


def test_a_transfer_is_undone_by_two_persons_of_finance_who_both_stand_in_the_history() -> None:
    incident_id = on_online(an_office_with_odd_money)
    transfer = a_transfer_by_hand()

    code, _ = reverse(transfer, incident_id, "caiwu", "fuhe")
    again, said = reverse(transfer, incident_id, "caiwu", "fuhe")

    assert (code, again) == (0, 2)
    assert NotReversible.message in said
    assert mirrors() == [
        {"undone": transfer, "action": "reversal_asked", "login": "caiwu"},
        {"undone": transfer, "action": "reversed", "login": "fuhe"},
    ]


@pytest.mark.parametrize(
    ("by", "approved_by", "words"),
    [
        ("fuhe", "fuhe", SecondPersonNeeded.message),
        ("fuhe", "caiwu", NotYourIncident.message),
        ("yunwei", "fuhe", NotYourIncident.message),
        ("caiwu", "yunwei", NotYourIncident.message),
        ("caiwu", "nobody", "没有这个登录名的工作人员"),
    ],
)
def test_one_person_or_one_of_another_post_undoes_no_transfer(
    by: str, approved_by: str, words: str
) -> None:
    incident_id = on_online(an_office_with_odd_money)
    transfer = a_transfer_by_hand()

    code, said = reverse(transfer, incident_id, by, approved_by)

    assert code == 2
    assert words in said
    assert mirrors() == []
    assert on_online(lambda: rows("select id from incident_action")) == []


def test_what_our_own_actions_post_is_undone_by_no_hand() -> None:
    incident_id = on_online(an_office_with_odd_money)
    a_transfer_by_hand()
    (own,) = on_online(lambda: rows("select id from ledger_transfer where kind = 'suspense'"))

    for transfer in (str(own["id"]), str(uuid4())):
        code, said = reverse(transfer, incident_id, "caiwu", "fuhe")

        assert code == 2
        assert NotReversible.message in said
    assert mirrors() == []


def test_a_closed_incident_leads_to_no_reversal() -> None:
    on_online(an_office_with_odd_money)
    plant(1)
    transfer = a_transfer_by_hand()
    closed = incident_of(NUMBER)["id"]
    assert resolve(closed, "fuhe")[0] == 0

    code, said = reverse(transfer, closed, "caiwu", "fuhe")

    assert code == 2
    assert NotYourIncident.message in said
    assert mirrors() == []


@pytest.mark.parametrize(
    "words", ["\x00", "已\x00核实", "已\x1b[2J核实", "\udcff", " ", "字" * 2001]
)
def test_words_that_are_no_text_are_refused_at_the_command_line(words: str) -> None:
    incident_id = str(on_online(an_office_with_odd_money))
    plant(1)
    (found,) = on_online(lambda: rows("select id from incident where out_trade_no = $1", NUMBER))
    asked = ["refunds", "ask", incident_id, "--by", "fuhe", "--reason", words]
    resolved = ["incidents", "resolve", str(found["id"]), "--by", "fuhe", "--words", words]

    for command in (asked, resolved):
        result = CliRunner().invoke(main, command)

        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        assert "填写的内容" in result.output
    assert on_online(lambda: rows("select id from pay_refund")) == []
    assert on_online(lambda: rows("select 1 from incident_action")) == []


@pytest.mark.parametrize("number", ["a\x00b", "\udcff", "\x1b", "NOBODYS"])
def test_a_number_that_is_no_text_is_nobodys_at_the_command_line(number: str) -> None:
    for command in (
        ["receipts", "resend", number],
        ["split-export", "2026-03-10", "--account", number],
    ):
        result = CliRunner().invoke(main, command)

        assert (result.exit_code, type(result.exception)) == (2, SystemExit), command
        assert "没有" in result.output


@pytest.fixture
def _data_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.key").write_bytes(bytes(32))
    monkeypatch.setenv("ESTATION_SECRETS_DIR", str(tmp_path))


def test_no_peers_position_is_forgotten_by_a_guess_whose_it_is() -> None:
    result = CliRunner().invoke(main, ["gate", "resume", "--anew", "--by", "yunwei"])

    assert result.exit_code == 2
    assert "--peer" in result.output


@pytest.mark.usefixtures("_data_key")
def test_who_paid_is_sealed_in_older_rows_by_one_command_that_may_be_repeated() -> None:
    async def plant_an_old_one() -> None:
        await open_incident(
            kind="wrong_amount",
            channel="wechat_pay",
            account_id="wechat_pay:1900000109",
            out_trade_no=NUMBER,
            distinction="old",
            evidence={"plaintext": {"payer": {"openid": "oUpF8uMuAJO"}}},
            now=NOW,
        )

    async def evidence() -> str:
        (kept,) = await rows("select evidence::text as said from incident")
        return str(kept["said"])

    on_online(plant_an_old_one)

    first = estation("seal-payers")
    again, from_the_start = estation("seal-payers"), estation("seal-payers", "--again")

    assert "oUpF8uMuAJO" not in on_online(evidence)
    assert "incident：已查 1，已加密 1，完成" in first
    assert "incident：已查 1，已加密 1，完成" in again
    assert "incident：已查 1，已加密 0，完成" in from_the_start
    assert "channel_bill_file：已查 0，已加密 0，完成" in first


@pytest.mark.usefixtures("_data_key")
def test_bill_files_that_were_changed_are_passed_over_and_named_at_the_end() -> None:
    whole = hashlib.sha256(b"whole").hexdigest()

    async def plant() -> None:
        for number, digest in enumerate(("a-digest", whole, "b-digest", "")):
            await rows(
                """insert into channel_bill_file (id, channel, account_id, day, sha256, content,
                       byte_count, fetched_at, seen_at)
                   values ($1, 'alipay', $2, '2026-08-01', $3, $4, 5, $5, $5)""",
                UUID(int=number + 1),
                f"a{number}",
                digest or hashlib.sha256(b"last").hexdigest(),
                b"whole" if digest == whole else b"last" if not digest else b"other",
                NOW,
            )

    async def unsealed() -> list[str]:
        found = await rows("select sha256 from channel_bill_file where not is_sealed order by id")
        return [row["sha256"] for row in found]

    async def restore() -> None:
        """As from a backup: no program of ours may do that."""
        await rows("alter table channel_bill_file disable trigger user")
        await rows(
            """update channel_bill_file set sha256 = $1, content = $2
               where sha256 in ('a-digest', 'b-digest')""",
            whole,
            b"whole",
        )
        await rows("alter table channel_bill_file enable trigger user")

    on_online(plant)

    first = CliRunner().invoke(main, ["seal-payers"])
    left = on_online(unsealed)
    repeated = CliRunner().invoke(main, ["seal-payers"])
    on_online(restore)
    again = CliRunner().invoke(main, ["seal-payers", "--again"])

    assert (first.exit_code, repeated.exit_code, again.exit_code) == (1, 1, 0)
    assert left == ["a-digest", "b-digest"]
    for told in (first.output, repeated.output):
        assert "2 个账单文件" in told
        assert told.index("a-digest") < told.index("b-digest")
    assert "channel_bill_file：已查 4，已加密 2，完成" in first.output
    assert on_online(unsealed) == []


def keep_messages(many: int) -> None:
    """Notices of just now, and their messages."""

    async def keep() -> None:
        for number in range(many):
            await rows(
                """with n as (insert into pay_notice (id, channel, account_id, event_key, kind,
                       out_trade_no, plaintext, received_at, handled_at, outcome, tries, last_error)
                   values ($1, 'wechat_pay', 'wechat_pay:1900000109', $2, 'k', '', '{}', $3, $3,
                       'applied', 0, '') returning id),
                   m as (insert into pay_notice_message select id, $4 from n returning id)
                   select id from m""",
                ids.row_id(system_clock() - timedelta(minutes=1)), str(number), NOW, b"sealed",
            )  # fmt: skip

    on_online(keep)


def test_an_export_of_the_inbox_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_messages(3)
    file = tmp_path / "inbox.jsonl"
    (tmp_path / ".inbox.jsonl.part").write_text("of somebody who writes at the same time")
    assert "3 条" in estation("inbox", "export", str(file))
    whole = file.read_text()

    async def torn(**_: object) -> Any:
        yield "[]"
        raise OSError("no space left on device")

    monkeypatch.setattr(operating.replaying, "inbox_lines", torn)
    broken = CliRunner().invoke(main, ["inbox", "export", str(file)])

    assert len(whole.splitlines()) == 3
    assert isinstance(broken.exception, OSError)
    assert file.read_text() == whole
    assert sorted(one.name for one in tmp_path.iterdir()) == [".inbox.jsonl.part", "inbox.jsonl"]
