"""Guessing is bounded, also for many hands at once; and nothing readable stays behind."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import structlog
from tortoise import Tortoise

from estation.identity import rules
from estation.identity.actions import citizens, sessions, staff
from estation.identity.actions.persons import upsert_persons
from estation.identity.errors import (
    BadPerson,
    CodeNotSent,
    CodeTooSoon,
    LoginDead,
    PersonTriesUsedUp,
    WechatLoginFailed,
    WrongCode,
    WrongPassword,
    WrongPerson,
)
from estation.identity.models import LoginCode, Person, Session, StaffUser, WechatBinding
from estation.identity.queries import viewer_of
from estation.outside.wechat import WechatIdentity
from tests.identity.people import ANNA, BO, CENTRE, NOW, VAULT, Sms

pytestmark = pytest.mark.usefixtures("database")

CHILD = msgspec.structs.replace(BO, phone=ANNA.phone)
"""Somebody else at the counter with Anna's phone."""


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


async def send(
    sms: Sms, *, phone: str = ANNA.phone, address: str = "10.0.0.1", seconds: float = 0
) -> str:
    await citizens.send_login_code(
        phone=phone, address=address, vault=VAULT, sms=sms, now=at(seconds)
    )
    return sms.code


async def prove(code: str, *, seconds: float = 0, **more: Any) -> sessions.OpenedSession:
    return await citizens.login_with_code(
        phone=ANNA.phone, code=code, vault=VAULT, now=at(seconds), **more
    )


async def session_of(opened: sessions.OpenedSession, *, seconds: float = 0) -> Any:
    viewer = await viewer_of(opened.token, vault=VAULT, now=at(seconds))
    assert viewer is not None
    return viewer


async def choose(
    opened: sessions.OpenedSession, tail: str, *, seconds: float = 0
) -> sessions.OpenedSession:
    return await citizens.choose_person(
        session_id=(await session_of(opened, seconds=seconds)).session_id,
        id_tail=tail,
        vault=VAULT,
        appid="wx1",
        now=at(seconds),
    )


async def all_of(*many: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*many, return_exceptions=True)


class TestCodes:
    async def test_ten_taps_at_once_send_one_code(self) -> None:
        sms = Sms()

        answers = await all_of(*(send(sms) for _ in range(10)))

        assert len(sms.sent) == 1
        assert sum(isinstance(one, CodeTooSoon) for one in answers) == 9

    async def test_many_phones_at_once_from_one_address_stay_within_its_allowance(self) -> None:
        sms = Sms()
        count = rules.CODES_PER_ADDRESS_HOUR + 8

        await all_of(*(send(sms, phone=f"139000000{n:02d}") for n in range(count)))

        assert len(sms.sent) == rules.CODES_PER_ADDRESS_HOUR

    async def test_one_ipv6_household_is_one_address(self) -> None:
        sms = Sms()
        for n in range(rules.CODES_PER_ADDRESS_HOUR):
            await send(sms, phone=f"139000000{n:02d}", address=f"2001:db8:1:2::{n + 1:x}")

        with pytest.raises(CodeTooSoon):
            await send(sms, phone="13911111111", address="2001:db8:1:2:ffff::1")
        await send(sms, phone="13911111111", address="2001:db8:1:3::1")

    async def test_one_code_typed_ten_times_at_once_opens_one_session(self) -> None:
        code = await send(Sms())

        answers = await all_of(*(prove(code) for _ in range(10)))

        assert sum(isinstance(one, sessions.OpenedSession) for one in answers) == 1
        assert await Session.all().count() == 1

    async def test_guessing_at_once_gets_no_sixth_try(self) -> None:
        code = await send(Sms())
        wrong = [f"{n:06d}" for n in range(20) if f"{n:06d}" != code]

        answers = await all_of(*(prove(guess) for guess in wrong))

        assert all(isinstance(one, WrongCode) for one in answers)
        assert (await LoginCode.get()).tries == rules.CODE_TRIES

    async def test_a_new_code_ends_the_one_before_also_after_it_was_used(self) -> None:
        sms = Sms()
        first = await send(sms)
        second = await send(sms, seconds=61)
        if first != second:
            with pytest.raises(WrongCode):
                await prove(first, seconds=62)
        await prove(second, seconds=63)

        with pytest.raises(WrongCode):
            await prove(first, seconds=64)

    async def test_failing_to_send_is_no_way_around_the_days_allowance(self) -> None:
        broken = Sms(fails=True)
        for n in range(rules.CODES_PER_DAY):
            with pytest.raises(CodeNotSent):
                await send(broken, address=f"10.0.0.{n}", seconds=n)

        with pytest.raises(CodeTooSoon):
            await send(broken, address="10.0.0.99", seconds=30)

        assert len(broken.sent) == rules.CODES_PER_DAY

    async def test_a_code_that_came_after_a_time_out_works(self) -> None:
        broken = Sms(fails=True)
        with pytest.raises(CodeNotSent):
            await send(broken)

        await prove(broken.code)

    async def test_a_phone_is_the_same_however_it_is_typed(self) -> None:
        code = await send(Sms(), phone="+86 138-0000-0001")

        await prove(code)


class TestPersons:
    async def test_a_family_with_one_phone_is_told_apart_by_the_tail(self) -> None:
        await upsert_persons([ANNA, CHILD], vault=VAULT, by=CENTRE, now=NOW)

        anna = await choose(await prove(await send(Sms())), ANNA.id_no[-6:])
        child = await choose(
            await prove(await send(Sms(), seconds=61), seconds=61), CHILD.id_no[-6:], seconds=61
        )

        assert (await session_of(anna)).name == ANNA.name
        assert (await session_of(child, seconds=61)).name == CHILD.name

    async def test_a_recycled_number_opens_nothing_of_its_last_holder(self) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        moved = msgspec.structs.replace(ANNA, phone="13900000009")
        await upsert_persons([moved], vault=VAULT, by=CENTRE, now=at(1))

        proven = await prove(await send(Sms()))

        with pytest.raises(WrongPerson):
            await choose(proven, ANNA.id_no[-6:])

    async def test_new_codes_do_not_buy_new_guesses(self) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        for login in range(rules.WRONG_PERSONS_PER_DAY // rules.BIND_TRIES):
            proven = await prove(await send(Sms(), seconds=login * 61), seconds=login * 61)
            for _ in range(rules.BIND_TRIES):
                with pytest.raises((WrongPerson, LoginDead)):
                    await choose(proven, "000000", seconds=login * 61)

        proven = await prove(await send(Sms(), seconds=300), seconds=300)
        with pytest.raises(PersonTriesUsedUp):
            await choose(proven, ANNA.id_no[-6:], seconds=300)
        tomorrow = timedelta(days=1, minutes=10).total_seconds()
        proven = await prove(await send(Sms(), seconds=tomorrow), seconds=tomorrow)
        assert not (await choose(proven, ANNA.id_no[-6:], seconds=tomorrow)).needs_person

    async def test_guessing_at_once_gets_no_sixth_try(self) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        proven = await prove(await send(Sms()))

        answers = await all_of(*(choose(proven, f"{n:06d}") for n in range(20)))

        assert sum(isinstance(one, WrongPerson) for one in answers) == rules.BIND_TRIES - 1
        assert (await LoginCode.get()).wrong_persons == rules.BIND_TRIES
        assert await Session.all().count() == 0

    async def test_one_person_stays_one_however_the_number_is_spelt(self) -> None:
        small = msgspec.structs.replace(ANNA, id_no=" 11010519491231002x")

        known = await upsert_persons([ANNA, small], vault=VAULT, by=CENTRE, now=NOW)

        assert len(set(known.values())) == 1
        assert await Person.all().count() == 1

    async def test_a_bad_party_is_named_by_its_place_and_nothing_is_written(self) -> None:
        unborn = msgspec.structs.replace(BO, id_no="11010520991231003X")

        with pytest.raises(BadPerson) as bad:
            await upsert_persons([ANNA, unborn], vault=VAULT, by=CENTRE, now=NOW)

        assert (bad.value.reason, bad.value.position) == ("id_no", 1)
        assert await Person.all().count() == 0


class TestWechat:
    class Platform:
        appid = "wx1"

        def authorize_url(self, *, redirect_uri: str, state: str) -> str:
            return redirect_uri

        async def identity_from_code(self, code: str) -> WechatIdentity:
            return WechatIdentity("openid-1")

    async def come_back(self, state: str = "") -> sessions.OpenedSession:
        opened, right = await citizens.begin_wechat_login(now=NOW)
        return await citizens.login_with_wechat(
            session_id=(await session_of(opened)).session_id,
            code="c",
            state=state or right,
            wechat=self.Platform(),
            vault=VAULT,
            now=NOW,
        )

    async def log_in(self, tail: str, *, seconds: float = 0) -> sessions.OpenedSession:
        """WeChat first, then phone and person in the same browser."""
        begun = await session_of(await self.come_back())
        proven = await prove(
            await send(Sms(), seconds=seconds),
            seconds=seconds,
            session_id=begun.session_id,
            openid=begun.openid,
        )
        return await choose(proven, tail, seconds=seconds)

    async def test_confirmed_once_the_same_wechat_user_goes_straight_in(self) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        await self.log_in(ANNA.id_no[-6:])

        again = await self.come_back()

        assert not again.needs_person
        viewer = await session_of(again)
        assert (viewer.name, viewer.openid) == (ANNA.name, "openid-1")

    async def test_who_confirms_another_person_is_bound_to_that_one(self) -> None:
        known = await upsert_persons([ANNA, CHILD], vault=VAULT, by=CENTRE, now=NOW)
        await self.log_in(ANNA.id_no[-6:])
        await self.log_in(CHILD.id_no[-6:], seconds=61)

        assert (await WechatBinding.get()).person_id == known["1", CHILD.id_no]

    async def test_a_wrong_tail_binds_nobody(self) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)

        with pytest.raises(WrongPerson):
            await self.log_in("000000")

        assert await WechatBinding.all().count() == 0

    async def test_a_state_of_any_bytes_is_just_wrong(self) -> None:
        for state in ("é", "\ud800", "x" * 1000):
            with pytest.raises(WechatLoginFailed):
                await self.come_back(state)


class TestStaff:
    async def test_guessing_at_once_locks_after_five(self) -> None:
        await staff.ensure_staff(
            login="caiwu", name="何敏", role="finance_clerk", password="Right-1", now=NOW
        )

        await all_of(
            *(staff.login_staff(login="caiwu", password=f"w{n}", now=NOW) for n in range(8))
        )

        with pytest.raises(WrongPassword):
            await staff.login_staff(login="caiwu", password="Right-1", now=NOW)
        assert (await StaffUser.get()).locked_until == NOW + rules.STAFF_LOCK

    async def test_a_disabled_officer_is_out_at_once(self) -> None:
        await staff.ensure_staff(
            login="caiwu", name="何敏", role="finance_clerk", password="Right-1", now=NOW
        )
        opened = await staff.login_staff(login="caiwu", password="Right-1", now=NOW)

        await StaffUser.all().update(disabled_at=NOW)

        assert await viewer_of(opened.token, vault=VAULT, now=NOW) is None
        with pytest.raises(WrongPassword):
            await staff.login_staff(login="caiwu", password="Right-1", now=NOW)

    @pytest.mark.parametrize(
        ("login", "password"), [("a\0", "x"), ("a" * 33, "x"), ("a", "x" * 257)]
    )
    async def test_what_cannot_be_a_login_is_a_wrong_one(self, login: str, password: str) -> None:
        with pytest.raises(WrongPassword):
            await staff.login_staff(login=login, password=password, now=NOW)


class TestTraces:
    async def test_nothing_readable_is_stored_or_logged(self) -> None:
        with structlog.testing.capture_logs() as logged:
            await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
            code = await send(Sms())
            proven = await prove(code)
            with pytest.raises(WrongPerson):
                await choose(proven, "000000")
            opened = await choose(proven, ANNA.id_no[-6:])

        stored = ""
        db = Tortoise.get_connection("default")
        for table in ("person", "login_code", "session", "wechat_binding"):
            stored += str(await db.execute_query_dict(f"select t::text as row from {table} t"))
        for secret in (ANNA.phone, ANNA.name, ANNA.id_no, ANNA.id_no[-6:], opened.token, code):
            assert secret not in str(logged)
            assert secret not in stored or secret == code  # six digits may be part of a digest
            assert secret.encode().hex() not in stored

    async def test_what_ended_is_forgotten_and_the_rest_stays(self) -> None:
        await prove(await send(Sms()))
        await prove(await send(Sms(), seconds=90_000), seconds=90_000)

        gone = await sessions.forget_expired(now=at(90_000))

        assert gone == 2
        assert await Session.all().count() == 1
        assert await LoginCode.all().count() == 1
        assert await sessions.forget_expired(now=at(90_000)) == 0

    async def test_a_crowd_of_ended_logins_goes_in_one_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "FORGET_AT_ONCE", 3)
        for _ in range(10):
            await sessions.open_session(now=NOW, life=rules.LOGIN_LIFE)

        assert await sessions.forget_expired(now=at(90_000)) == 10
        assert await Session.all().count() == 0

    async def test_forgetting_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "FORGET_AT_ONCE", 1)
        monkeypatch.setattr(sessions, "FORGET_ROUNDS", 4)
        for _ in range(5):
            await sessions.open_session(now=NOW, life=rules.LOGIN_LIFE)

        assert await sessions.forget_expired(now=at(90_000)) == 4
