"""Our own keys are changed at the command line: nothing is lost, nothing stays under the former
key, and whoever goes too fast is told in words."""

import asyncio
import hashlib
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from cryptography.exceptions import InvalidTag
from tortoise import Tortoise
from typer.testing import CliRunner

from estation import key_commands
from estation import settings as settings_module
from estation.cases.models import CaseEvent, CaseVersion
from estation.cli import main
from estation.fees.models import BillAsSent
from estation.identity.actions import citizens
from estation.identity.actions.persons import upsert_persons
from estation.identity.api import login_with_code, send_login_code
from estation.identity.models import WechatBinding
from estation.identity.queries import openid_index, viewer_of
from estation.local import LocalPostgres
from estation.outside.gate.models import ParkedRow, RefusedRow, RowAsSent
from estation.outside.pay_channels.messages import opened_message, sealed_message
from estation.outside.pay_channels.payers import open_payers, seal_payers
from estation.payments import api as payments
from estation.payments.models import Incident, Notice, NoticeMessage
from estation.reconciliation.api import bill_file
from estation.registry.api import rights_of_holder
from estation.shared import ids, resealing, sealing
from estation.shared.clock import beijing_day
from estation.shared.crypto import Vault
from estation.shared.keyring import KeptKey, read_keys, write_keys
from tests.identity.people import ANNA, BO, CENTRE, COUNTY, NOW, VAULT, Sms
from tests.keyed import AFTER, BOTH, NEW, OLD, vault_of
from tests.outside.counterparts import alipay_notice, transaction
from tests.registry.rows import arrive, certificate, right
from tests.scanning import tables_with

T = TypeVar("T")

OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
BILL = "用户标识,金额\n".encode()
DAY = beijing_day(NOW)
TABLES = {
    "person", "person_word", "wechat_binding", "session", "registry_holder", "registry_version",
    "case_version", "case_event", "bill_as_sent", "pay_notice", "incident", "channel_bill_file",
    "gate_refused_row", "gate_row_as_sent", "gate_parked_row", "pay_notice_message",
}  # fmt: skip


class Desk:
    """A city's database and folder of secrets, before whoever changes its keys."""

    def __init__(self, url: str, secrets: Path) -> None:
        self._url = url
        self.secrets = secrets

    def __call__(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, list(words))
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result.exit_code, result.output.replace("\n", "")

    def on_database(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            config = settings_module.database(self._url)
            await Tortoise.init(config=config, _enable_global_fallback=True)
            try:
                return await work()
            finally:
                await Tortoise.close_connections()

        return asyncio.run(run())

    def keys(self, name: str = "data.key") -> tuple[KeptKey, ...]:
        return read_keys((self.secrets / name).read_bytes())

    def hold(self, *keys: KeptKey) -> None:
        (self.secrets / "data.key").write_bytes(write_keys(keys))

    def everything(self) -> dict[str, str]:
        return self.on_database(everything)


@pytest.fixture
def desk(own_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("ESTATION_DATABASE_URL", own_database_url)
    monkeypatch.setenv("ESTATION_SECRETS_DIR", str(tmp_path))
    for name in ("data.key", "pay_code.key", "receipt.key"):
        (tmp_path / name).write_bytes(OLD.secret)
        (tmp_path / name).chmod(0o600)
    return Desk(own_database_url, tmp_path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Time has passed since the file's last change."""
    return lambda: monkeypatch.setattr(key_commands, "SETTLED_SECONDS", 0.0)


async def rows(sql: str, *values: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return found


async def everything() -> dict[str, str]:
    digest = "select md5(string_agg(t::text, '' order by id)) as md5 from"
    return {table: (await rows(f"{digest} {table} t"))[0]["md5"] for table in TABLES}


async def live() -> None:
    """Something in every table that holds what is sealed, all of it by the first key."""
    await upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)
    await upsert_persons([ANNA], vault=VAULT, by=COUNTY, now=NOW)
    await arrive(right(), right(2))
    await arrive(certificate())
    await log_in()
    sealed = VAULT.seal("{}")
    head: dict[str, Any] = {"source": "jc-center", "version": 1, "data_as_of": NOW}
    for model, more in (
        (BillAsSent, {}),
        (CaseVersion, {"region": "360101", "row_digest": bytes(32)}),
        (CaseEvent, {"region": "360101", "row_digest": bytes(32), "case_source_id": "c", "seq": 1,
                     "what": "stage", "stage": "tax", "state": "done", "at": NOW, "note": ""}),
    ):  # fmt: skip
        await model(id=ids.row_id(NOW), source_id="s", body_sealed=sealed, **head, **more).save(
            force_create=True
        )
    await RefusedRow(
        id=ids.row_id(NOW), stream="jc-center-online", seq=1, topic="right", source="jc-center",
        key="R1", version=1, digest=bytes(32), body_sealed=sealed, reason="share", at=NOW,
        seen_at=NOW,
    ).save(force_create=True)  # fmt: skip
    await ParkedRow(
        id=ids.row_id(NOW), stream="jc-center-online", seq=1, line=1, topic="hall_calendar",
        body_sealed=sealed, created_at=NOW, digest=bytes(32),
    ).save(force_create=True)  # fmt: skip
    await RowAsSent(
        id=ids.row_id(NOW), topic="refund_order", source="jc-center", key="TK1", version=1,
        digest=bytes(32), body_sealed=sealed, at=NOW,
    ).save(force_create=True)  # fmt: skip
    await a_notice(transaction())
    await a_message()
    evidence = {"report": {"raw": [alipay_notice(), "words"]}}
    seal_payers(VAULT, evidence)
    await payments.open_incident(
        kind="wrong_amount", distinction="1", channel="wechat_pay", account_id="a",
        out_trade_no="", evidence=evidence, now=NOW,
    )  # fmt: skip
    await a_bill()


async def log_in() -> None:
    """Anna by her WeChat, and somebody who has only proven the phone."""
    for tail in (ANNA.id_no[-6:], ""):
        sms = Sms()
        now = NOW + timedelta(minutes=0 if tail else 5)
        await send_login_code(phone=ANNA.phone, address="a", vault=VAULT, sms=sms, now=now)
        opened = await login_with_code(
            phone=ANNA.phone, code=sms.code, vault=VAULT, now=now, openid=OPENID
        )
        if tail:
            viewer = await viewer_of(opened.token, vault=VAULT, now=now)
            assert viewer is not None
            await citizens.choose_person(
                session_id=viewer.session_id, id_tail=tail, vault=VAULT, appid="wx1", now=now
            )


async def a_notice(said: dict[str, Any], *, vault: Vault = VAULT, id: UUID | None = None) -> None:
    said = dict(said)
    seal_payers(vault, said)
    await Notice(
        id=id or ids.row_id(NOW), channel="wechat_pay", account_id="a",
        event_key=str(ids.row_id(NOW)), kind="k", out_trade_no="", plaintext=said,
        received_at=NOW, handled_at=NOW, outcome="applied", tries=0, last_error="",
    ).save(force_create=True)  # fmt: skip


async def a_message() -> None:
    """Of the notice that is there, as it came."""
    (notice,) = await Notice.all()
    headers = {"content-type": "application/json"}
    sealed = sealed_message(VAULT, headers, b'{"id": "EV-1"}', believed_at=NOW)
    await NoticeMessage(id=notice.id, message_sealed=sealed).save(force_create=True)


async def a_bill() -> None:
    await rows(
        """with f as (insert into channel_bill_file (id, channel, account_id, day, sha256, content,
               is_sealed, byte_count, fetched_at, seen_at)
           values ($1, 'wechat_pay', 'a', $2, $3, $4, true, $5, $6, $6) returning id)
           select id from f""",
        ids.row_id(NOW), DAY, hashlib.sha256(BILL).hexdigest(), VAULT.seal_file(BILL), len(BILL),
        NOW,
    )  # fmt: skip


async def a_bill_that_was_changed() -> None:
    """By somebody who had the key and the rights to."""
    await rows(
        """with f as (insert into channel_bill_file (id, channel, account_id, day, sha256, content,
               is_sealed, byte_count, fetched_at, seen_at)
           values ($1, 'wechat_pay', 'b', $2, $3, $4, true, 3, $5, $5) returning id)
           select id from f""",
        ids.row_id(NOW), DAY, hashlib.sha256(BILL).hexdigest(), VAULT.seal_file(b"xxx"), NOW,
    )  # fmt: skip


async def opened_by(vault: Vault) -> list[str]:
    """Where this vault opens a value, whatever the column of whatever table is called."""
    columns = await rows(
        """select table_name as table, column_name as column, data_type as kind
           from information_schema.columns join information_schema.tables using (table_name)
           where tables.table_schema = 'public' and table_type = 'BASE TABLE'
             and data_type in ('bytea', 'jsonb', 'text', 'character varying')"""
    )
    found = []
    for one in columns:
        place = f"{one['table']}.{one['column']}"
        is_bytes = one["kind"] == "bytea"
        values = await rows(
            f'select "{one["column"]}"{"" if is_bytes else "::text"} as value from "{one["table"]}"'
            f' where "{one["column"]}" is not null'
        )
        for row in values:
            sealed = (
                [bytes(row["value"])]
                if is_bytes
                else [b64decode(t) for t in re.findall(r"sealed:1:([A-Za-z0-9+/=]+)", row["value"])]
            )
            for value in sealed:
                try:
                    vault.keys.open(value)
                except (InvalidTag, ValueError):
                    continue
                found.append(place)
    return found


INDEXED = (
    f"phone:{ANNA.phone}", f"1:{ANNA.id_no}", f"tail:{ANNA.id_no[-6:]}", f"name:{ANNA.name}",
    f"openid:{OPENID}",
)  # fmt: skip


# A key's whole life


def test_a_data_key_is_replaced_and_nothing_opens_with_the_former_one(
    desk: Desk, settled: Callable[[], None]
) -> None:
    desk.on_database(live)
    under_old = set(desk.on_database(lambda: opened_by(VAULT)))
    assert {place.partition(".")[0] for place in under_old} == TABLES

    assert desk("keys", "add", "data")[0] == 0
    new, old = desk.keys()
    assert (old, new.is_named) == (OLD, True)
    assert (desk.secrets / "data.key").stat().st_mode & 0o777 == 0o600
    code, said = desk("reseal")

    assert code == 0, said
    assert "没有数据再需要旧密钥" in said
    after = vault_of(new)
    assert set(desk.on_database(lambda: opened_by(VAULT))) == set()
    assert set(desk.on_database(lambda: opened_by(after))) == under_old
    assert desk.on_database(
        lambda: tables_with([VAULT.index(text) for text in INDEXED])
    ) == {"login_code"}  # fmt: skip
    settled()
    assert desk("keys", "drop", "data")[0] == 0
    assert desk.keys() == (new,)
    assert desk("reseal", "--check")[0] == 0

    async def look() -> None:
        assert await _says_the_same(after)

    desk.on_database(look)


async def _says_the_same(vault: Vault) -> bool:
    """Through the doors people use."""
    rights = await rights_of_holder("1", ANNA.id_no, vault=vault)
    assert [one.holders[0].name for one in rights] == [ANNA.name, ANNA.name]
    (untouched,) = await rows(
        "select count(*) as n from registry_right where row_digest = $1", bytes(32)
    )
    assert untouched["n"] == 0
    again = await upsert_persons([ANNA, BO], vault=vault, by=CENTRE, now=NOW)
    assert len(set(again.values())) == 2
    assert (await rows("select count(*) as n from person"))[0]["n"] == 2
    (file,) = await rows("select id from channel_bill_file")
    assert (await bill_file(DAY, file["id"], vault=vault))[1] == BILL
    (notice,) = await Notice.all()
    assert open_payers(vault, notice.plaintext) == transaction()
    (message,) = await NoticeMessage.all()
    assert opened_message(vault, message.message_sealed).body == b'{"id": "EV-1"}'
    (incident,) = await Incident.all()
    assert open_payers(vault, incident.evidence) == {"report": {"raw": [alipay_notice(), "words"]}}
    bound = await citizens._bound(Tortoise.get_connection("default"), "wx1", OPENID, vault)
    return bound == again["1", ANNA.id_no]


def test_a_walk_that_is_killed_between_two_rows_goes_on_and_both_keys_serve_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resealing, "ROWS_AT_ONCE", 1)
    desk.on_database(live)
    desk.hold(NEW, OLD)
    told: list[sealing.Progress] = []

    def killed(progress: sealing.Progress) -> None:
        told.append(progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(key_commands, "_tell", killed)
    CliRunner().invoke(main, ["reseal"])
    monkeypatch.setattr(key_commands, "_tell", told.append)

    async def meanwhile() -> None:
        assert {place.partition(".")[0] for place in await opened_by(VAULT)} == TABLES
        assert "person.name_sealed" in await opened_by(AFTER)
        assert await _says_the_same(BOTH)

    assert [(one.walk, one.looked, one.sealed) for one in told] == [
        (f"reseal:{NEW.key_id}:person", 1, 1)
    ]
    desk.on_database(meanwhile)
    code, _ = desk("reseal")
    assert code == 0
    persons = [one for one in told if one.walk.endswith(":person")]
    assert [one.looked for one in persons] == [1, 2, 2], "and not from the first row again"
    assert desk.on_database(lambda: opened_by(VAULT)) == []


# Too fast


def test_a_key_taken_out_too_early_is_told_in_words_and_nothing_is_changed(desk: Desk) -> None:
    desk.on_database(live)
    before = desk.everything()
    desk.hold(NEW)

    code, said = desk("reseal")

    assert code == 1
    assert "旧密钥已不在 data_key_file 里：请放回" in said
    assert desk.everything() == before
    desk.hold(NEW, OLD)
    assert desk("reseal")[0] == 0


async def rotten(table: str, column: str, content: bytes) -> UUID:
    """The first row of a table as it is after a sector of the disk went bad."""
    found = await rows(
        f"with u as (update {table} set {column} = $1"
        f" where id = (select min(id::text)::uuid from {table}) returning id) select id from u",
        content,
    )
    return UUID(str(found[0]["id"]))


def third_key_sealed(text: str) -> bytes:
    return vault_of(KeptKey(b"t" * 32, is_named=True)).seal(text)


def test_a_row_that_no_key_opens_is_named_at_the_end_and_holds_up_nobody(desk: Desk) -> None:
    desk.on_database(live)
    foreign = desk.on_database(lambda: rotten("person", "name_sealed", third_key_sealed("x")))
    altered = desk.on_database(lambda: rotten("case_version", "body_sealed", b"x" * 40))
    before = desk.on_database(lambda: rows("select * from person where id = $1", foreign))
    desk.hold(NEW, OLD)

    code, said = desk("reseal")

    assert code == 1
    assert f"表 person 的 {foreign} 是用一把不在 data_key_file 里的密钥加密的" in said
    assert f"表 case_version 的 {altered} 打不开" in said
    assert "以上共 2 行没有改动" in said
    assert desk.on_database(lambda: rows("select * from person where id = $1", foreign)) == before
    left = desk.on_database(lambda: opened_by(VAULT))
    assert {place.partition(".")[0] for place in left} <= {"person", "case_version"}
    assert desk.on_database(lambda: rows("select * from person")) != before


def test_a_bill_file_that_somebody_changed_keeps_no_former_key_in_the_file_for_ever(
    desk: Desk, settled: Callable[[], None]
) -> None:
    desk.on_database(a_bill)
    desk.on_database(a_bill_that_was_changed)
    desk.hold(NEW, OLD)
    code, said = desk("reseal")
    (bad,) = re.findall(r"表 channel_bill_file 的 (\S+) 打不开", said)
    settled()
    (good,) = [
        str(row["id"])
        for row in desk.on_database(lambda: rows("select id from channel_bill_file"))
        if str(row["id"]) != bad
    ]

    blocked = desk("keys", "drop", "data")
    wrong_row = desk("keys", "drop", "data", "--without", bad, "--without", good)
    no_row = desk("keys", "drop", "data", "--without", str(UUID(int=7)))
    held = desk.keys()
    dropped = desk("keys", "drop", "data", "--without", bad)

    assert (code, blocked[0], wrong_row[0], no_row[0], dropped[0]) == (1, 1, 1, 1, 0)
    assert "没有打不开的数据" in wrong_row[1]
    assert (held, desk.keys()) == ((NEW, OLD), (NEW,))


def test_a_key_that_is_still_needed_or_perhaps_still_used_is_not_taken_out(
    desk: Desk, settled: Callable[[], None]
) -> None:
    desk.on_database(live)
    desk("keys", "add", "data")
    held = desk.keys()

    fresh = desk("keys", "drop", "data")
    settled()
    needed = desk("keys", "drop", "data")

    assert fresh[0] == needed[0] == 1
    assert "密钥文件刚刚更换" in fresh[1]
    assert "还有数据需要旧密钥，没有取出" in needed[1]
    assert desk.keys() == held


def test_rows_that_programs_made_behind_the_walk_are_found_by_the_same_command(desk: Desk) -> None:
    desk.hold(NEW, OLD)
    desk.on_database(lambda: a_notice(transaction(), vault=AFTER))
    assert desk("reseal")[0] == 0
    desk.on_database(lambda: a_notice(alipay_notice(), id=UUID(int=1)))

    check, _ = desk("reseal", "--check")
    code, _ = desk("reseal")

    assert (check, code) == (1, 0)
    assert desk.on_database(lambda: opened_by(VAULT)) == []


def test_a_binding_whose_openid_nobody_kept_waits_for_its_owner_or_is_forgotten(
    desk: Desk,
) -> None:
    async def bound_before() -> None:
        known = await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        await WechatBinding(
            id=ids.row_id(NOW), appid="wx1", openid_index=openid_index(OPENID, vault=VAULT),
            person_id=known["1", ANNA.id_no], bound_at=NOW,
        ).save(force_create=True)  # fmt: skip

    desk.on_database(bound_before)
    desk.hold(NEW, OLD)

    waits, said = desk("reseal")
    bindings = desk.on_database(lambda: WechatBinding.all().count())
    done, gone = desk("reseal", "--forget-bindings")

    assert (waits, bindings, done) == (1, 1, 0)
    assert "余下的微信绑定要等本人" in said
    assert "微信绑定 1 个" in gone
    assert desk.on_database(lambda: WechatBinding.all().count()) == 0


def test_there_is_nothing_to_seal_anew_before_there_is_a_new_key(desk: Desk) -> None:
    code, said = desk("reseal")

    assert code == 1
    assert "先执行 estation keys add data" in said


# The other files


@pytest.mark.parametrize(
    ("which", "file"), [("pay-code", "pay_code.key"), ("receipt", "receipt.key")]
)
def test_a_key_for_what_is_printed_goes_only_when_somebody_means_it(
    desk: Desk, which: str, file: str
) -> None:
    assert desk("keys", "add", which)[0] == 0
    added = desk.keys(file)

    doubted, said = desk("keys", "drop", which)
    dropped, _ = desk("keys", "drop", which, "--yes")
    last, _ = desk("keys", "drop", which, "--yes")

    assert [key.secret for key in added[1:]] == [OLD.secret]
    assert (doubted, dropped, last) == (1, 0, 1)
    assert "印出的码全部失效" in said
    assert desk.keys(file) == added[:1]


def test_keys_are_shown_by_their_ids_and_never_themselves(desk: Desk) -> None:
    desk.hold(NEW, OLD)

    code, said = desk("keys", "show")

    assert code == 0
    assert NEW.key_id in said
    assert OLD.key_id in said
    assert OLD.secret.hex() not in said


def test_a_key_from_the_environment_is_not_changed_by_a_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTATION_SECRET_DATA_KEY", "k" * 32)

    code, said = desk("keys", "add", "data")

    assert code == 1
    assert "由环境变量给出" in said
    assert desk.keys() == (OLD,)


# What is sealed anywhere


async def test_every_sealed_column_and_blind_index_has_its_walk(database: str) -> None:
    """Or a former key could never be taken out, or would be with what still needs it."""
    tables = (
        *key_commands.identity.SEALED, *key_commands.registry.SEALED, *key_commands.cases.SEALED,
        *key_commands.fees.SEALED, *key_commands.refused.SEALED, *key_commands.more.SEALED,
        *key_commands.later.SEALED,
        *key_commands.payments.SEALED,
    )  # fmt: skip
    walked = {(one.name, column) for one in tables for column in one.sealed}
    walked |= {(one.name, index.column) for one in tables for index in one.indexed}

    columns = await rows(
        """select table_name as table, column_name as column from information_schema.columns
           where table_schema = 'public'
             and (column_name like '%\\_sealed' and data_type = 'bytea'
                  or column_name like '%\\_index')"""
    )

    named = {(one["table"], one["column"]) for one in columns}
    within_a_day = {("login_code", "phone_index"), ("login_code", "address_index")}
    assert named - walked == within_a_day
    assert walked - named == set()
    assert {one.table for one in key_commands._resealings(BOTH)} == TABLES


def test_a_bill_file_changes_only_from_one_key_to_another(desk: Desk) -> None:
    desk.on_database(a_bill)

    async def change(content: bytes) -> None:
        await rows(
            "with u as (update channel_bill_file set content = $1 returning id) select id from u",
            content,
        )

    for forged in (VAULT.seal_file(b"other"), b"other"):
        with pytest.raises(Exception, match="stays as it came"):
            desk.on_database(lambda forged=forged: change(forged))

    desk.on_database(lambda: change(AFTER.seal_file(BILL)))

    with pytest.raises(Exception, match="stays as it came"):
        desk.on_database(lambda: change(AFTER.seal_file(b"other")))


def test_two_rows_of_one_person_are_told_and_neither_is_touched(desk: Desk) -> None:
    """Made by a program that could not read the file while another one already could."""

    async def twice() -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        keys = AFTER.keys
        keys.whole.add("person")  # it asked before the other one had made anybody
        await upsert_persons([ANNA], vault=Vault(lambda: keys), by=CENTRE, now=NOW)

    desk.on_database(twice)
    before = desk.everything()
    desk.hold(NEW, OLD)

    code, said = desk("reseal")

    assert code == 1
    assert "表 person 里有两行本是同一个" in said
    assert desk.everything() == before


def test_a_batch_that_meets_the_gates_import_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.on_database(lambda: a_notice(transaction()))
    desk.hold(NEW, OLD)
    walk_on, met = sealing.walk_on, iter([True, False])

    async def meeting(*given: Any, **more: Any) -> sealing.Progress:
        if next(met, False):
            raise asyncpg.DeadlockDetectedError
        return await walk_on(*given, **more)

    monkeypatch.setattr(sealing, "walk_on", meeting)

    assert desk("reseal")[0] == 0
    assert desk.on_database(lambda: opened_by(VAULT)) == []


@pytest.mark.parametrize("table", sorted(TABLES - {"pay_notice", "incident"}))
def test_each_batch_begins_behind_the_one_before_in_the_plan_of_all_batches(
    postgres: LocalPostgres, migrated: str, table: str
) -> None:
    found = {
        one.name: resealing._next(one)
        for one in (
            *key_commands.identity.SEALED, *key_commands.registry.SEALED,
            *key_commands.cases.SEALED, *key_commands.fees.SEALED,
            *key_commands.refused.SEALED, *key_commands.more.SEALED,
            *key_commands.later.SEALED, *key_commands.payments.SEALED,
        )
    } | {"channel_bill_file": key_commands.reconciliation._NEXT_SEALED}  # fmt: skip
    plan = postgres.psql(
        "set enable_seqscan = off; set enable_bitmapscan = off;"
        f" explain (generic_plan, costs off) {found[table]}",
        database=migrated,
    )

    assert "Index Cond: (id > $1)" in plan
