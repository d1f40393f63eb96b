"""While the key of personal data is being changed: nobody becomes a second person, nobody is
locked out, and no limit is counted anew."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs
from tortoise import Tortoise

from estation.identity.actions import citizens, sessions
from estation.identity.actions.persons import upsert_persons
from estation.identity.errors import CodeTooSoon, WrongPerson
from estation.identity.models import WechatBinding
from estation.identity.queries import openid_index, viewer_of
from estation.outside.wechat import WechatIdentity
from estation.shared.crypto import DataKeys, FormerKeyMissing, Vault
from estation.shared.keyring import KeptKey
from estation.shared.transactions import in_transaction
from tests.identity.people import ANNA, BO, CENTRE, COUNTY, NOW, VAULT, Sms
from tests.keyed import AFTER, BOTH, NOT_YET, OLD, vault_of

FORMER = vault_of(OLD)
OTHER = vault_of(KeptKey(b"o" * 32, is_named=False))
OTHER_NAMED = vault_of(KeptKey(b"o" * 32, is_named=True))

pytestmark = pytest.mark.usefixtures("database")


async def query(sql: str, *values: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return rows


@pytest.mark.parametrize(("first", "then"), [(VAULT, BOTH), (VAULT, NOT_YET), (BOTH, NOT_YET)])
async def test_a_person_is_the_same_under_either_key(first: Vault, then: Vault) -> None:
    known = await upsert_persons([ANNA, BO], vault=first, by=CENTRE, now=NOW)

    moved = structs.replace(ANNA, phone="13999999999")
    found = await upsert_persons([moved, BO], vault=then, by=CENTRE, now=NOW + timedelta(days=1))
    again = await upsert_persons([ANNA], vault=then, by=COUNTY, now=NOW + timedelta(days=2))

    assert found == known
    assert list(again.values()) == [known["1", ANNA.id_no]]
    rows = await query("select id, id_no_index, phone_index, id_no_sealed from person order by id")
    assert len(rows) == 2
    (anna,) = [row for row in rows if row["id"] == known["1", ANNA.id_no]]
    assert anna["id_no_index"] == then.index(f"1:{ANNA.id_no}")
    assert anna["phone_index"] == then.index("phone:13999999999")
    assert then.open(anna["id_no_sealed"]) == ANNA.id_no


@pytest.mark.parametrize(
    ("first", "then", "back"),
    [(VAULT, AFTER, BOTH), (AFTER, FORMER, BOTH), (BOTH, FORMER, BOTH), (VAULT, OTHER, VAULT)],
    ids=["former_taken_out", "file_of_before_put_back", "host_without_the_new_one", "wrong_file"],
)
async def test_nobody_is_made_a_second_time_while_a_key_is_missing(
    first: Vault, then: Vault, back: Vault
) -> None:
    known = await upsert_persons([ANNA, BO], vault=first, by=CENTRE, now=NOW)

    with pytest.raises(FormerKeyMissing):
        await upsert_persons([ANNA], vault=then, by=CENTRE, now=NOW)

    assert len(await query("select from person")) == 2
    assert await upsert_persons([ANNA, BO], vault=back, by=CENTRE, now=NOW) == known


async def test_one_missing_among_several_named_keys_is_found_between_them() -> None:
    others = [KeptKey(bytes([n]) * 32, is_named=True) for n in range(1, 6)]
    lowest, middle, highest = (sorted(others, key=lambda key: key.key_id)[n] for n in (0, 2, 4))
    traveller = structs.replace(ANNA, id_type="3", id_no="E12345678")
    for missing in (lowest, middle, highest):
        held = [key for key in (lowest, middle, highest) if key is not missing]
        await empty_persons()
        await upsert_persons([BO], vault=vault_of(held[0]), by=CENTRE, now=NOW)
        making = vault_of(missing, held[0])
        await upsert_persons([traveller], vault=making, by=CENTRE, now=NOW)

        with pytest.raises(FormerKeyMissing):
            await upsert_persons([BO], vault=vault_of(*held), by=CENTRE, now=NOW)
        await upsert_persons([BO], vault=vault_of(*held, missing), by=CENTRE, now=NOW)


async def test_the_question_is_asked_once_for_each_reading_of_the_file() -> None:
    keys = DataKeys(BOTH.keys.held, BOTH.keys.making)
    vault = Vault(lambda: keys)
    await upsert_persons([ANNA], vault=vault, by=CENTRE, now=NOW)
    await query("with u as (update person set id_no_sealed = $1 returning id) select id from u",
                OTHER_NAMED.seal("x"))  # fmt: skip

    await upsert_persons([ANNA], vault=vault, by=CENTRE, now=NOW)

    with pytest.raises(FormerKeyMissing):
        await upsert_persons([ANNA], vault=BOTH, by=CENTRE, now=NOW)


async def test_two_peers_that_make_with_different_keys_make_one_person(database: str) -> None:
    """Each in a transaction of its own, and neither sees what the other has not committed."""
    first_put, second_began = asyncio.Event(), asyncio.Event()

    async def slow() -> UUID:
        async with in_transaction():
            known = await upsert_persons([ANNA], vault=NOT_YET, by=CENTRE, now=NOW)
            first_put.set()
            await second_began.wait()
            await asyncio.sleep(0.1)
        return known["1", ANNA.id_no]

    async def quick() -> UUID:
        await first_put.wait()
        second_began.set()
        async with in_transaction():
            known = await upsert_persons([ANNA], vault=BOTH, by=COUNTY, now=NOW)
        return known["1", ANNA.id_no]

    one, other = await asyncio.gather(slow(), quick())

    assert one == other
    assert len(await query("select from person")) == 1


async def empty_persons() -> None:
    await query("with d as (delete from person returning id) select id from d")


async def code_sent(vault: Vault, *, seconds: int = 0) -> str:
    sms = Sms()
    now = NOW + timedelta(seconds=seconds)
    await citizens.send_login_code(phone=ANNA.phone, address="a", vault=vault, sms=sms, now=now)
    return sms.code


async def choose(opened: sessions.OpenedSession, vault: Vault, tail: str = ANNA.id_no[-6:]):
    viewer = await viewer_of(opened.token, vault=vault, now=NOW)
    assert viewer is not None
    return await citizens.choose_person(
        session_id=viewer.session_id, id_tail=tail, vault=vault, appid="wx1", now=NOW
    )


async def test_a_login_goes_through_while_the_key_changes_under_it() -> None:
    known = await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)

    code = await code_sent(VAULT)
    opened = await citizens.login_with_code(phone=ANNA.phone, code=code, vault=NOT_YET, now=NOW)
    await upsert_persons([ANNA], vault=BOTH, by=CENTRE, now=NOW)
    chosen = await choose(opened, BOTH)

    viewer = await viewer_of(chosen.token, vault=AFTER, now=NOW)
    assert viewer is not None
    assert (viewer.person_id, viewer.name) == (known["1", ANNA.id_no], ANNA.name)


async def test_a_login_begun_before_phones_were_kept_sealed_is_finished() -> None:
    await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
    code = await code_sent(VAULT)
    opened = await citizens.login_with_code(phone=ANNA.phone, code=code, vault=VAULT, now=NOW)
    await query("with u as (update session set phone_sealed = null returning id) select id from u")

    chosen = await choose(opened, VAULT)

    assert not chosen.needs_person


async def test_no_limit_is_counted_anew_under_the_new_key() -> None:
    await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
    code = await code_sent(VAULT)

    with pytest.raises(CodeTooSoon):
        await code_sent(BOTH, seconds=30)

    opened = await citizens.login_with_code(phone=ANNA.phone, code=code, vault=BOTH, now=NOW)
    with pytest.raises(WrongPerson):
        await choose(opened, BOTH, tail="000000")
    assert [
        row["wrong_persons"] for row in await query("select wrong_persons from login_code")
    ] == [1]


class Platform:
    appid = "wx1"

    async def identity_from_code(self, code: str) -> WechatIdentity:
        return WechatIdentity("openid-1")


async def back_in_wechat(vault: Vault) -> sessions.OpenedSession:
    opened, state = await citizens.begin_wechat_login(now=NOW)
    viewer = await viewer_of(opened.token, vault=vault, now=NOW)
    assert viewer is not None
    wechat: Any = Platform()
    return await citizens.login_with_wechat(
        session_id=viewer.session_id, code="c", state=state, wechat=wechat, vault=vault, now=NOW
    )


async def bound_before() -> None:
    """Under the former key, without the openid itself."""
    known = await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
    await WechatBinding(
        id=known["1", ANNA.id_no],
        appid="wx1",
        openid_index=openid_index("openid-1", vault=VAULT),
        person_id=known["1", ANNA.id_no],
        bound_at=NOW,
    ).save(force_create=True)


async def test_a_wechat_user_is_found_under_the_former_key_and_brought_to_the_new_one() -> None:
    await bound_before()

    first, second = await back_in_wechat(BOTH), await back_in_wechat(AFTER)

    assert not first.needs_person
    assert not second.needs_person
    (binding,) = await WechatBinding.all()
    assert binding.openid_sealed is not None
    assert AFTER.open(binding.openid_sealed) == "openid-1"


async def test_a_binding_of_before_is_kept_sealed_when_its_owner_comes_by() -> None:
    await bound_before()

    await back_in_wechat(VAULT)

    (binding,) = await WechatBinding.all()
    assert binding.openid_sealed is not None
    assert VAULT.open(binding.openid_sealed) == "openid-1"
