"""A phone proves possession, the identity number's tail the person; everything is bounded."""

from datetime import timedelta

import pytest

from estation.identity import rules
from estation.identity.actions import citizens, persons, sessions, staff
from estation.identity.errors import (
    CodeNotSent,
    CodeTooSoon,
    InvalidPhone,
    LoginDead,
    LoginRequired,
    WechatLoginFailed,
    WrongCode,
    WrongPassword,
    WrongPerson,
)
from estation.identity.models import LoginCode, Session, StaffUser, WechatBinding
from estation.identity.queries import openid_index, viewer_of
from estation.outside.wechat import WechatIdentity, WechatRefused
from tests.identity.people import ANNA, BO, CENTRE, NOW, VAULT, Sms
from tests.scanning import tables_with

pytestmark = pytest.mark.usefixtures("database")


class Wechat:
    appid = "wx8888888888888888"

    def __init__(self, identity: WechatIdentity | None = None) -> None:
        self._identity = identity

    def authorize_url(self, *, redirect_uri: str, state: str) -> str:
        return f"{redirect_uri}?state={state}"

    async def identity_from_code(self, code: str) -> WechatIdentity:
        if self._identity is None:
            raise WechatRefused(40029, "invalid code")
        return self._identity


async def send(sms: Sms, phone: str = ANNA.phone, address: str = "a", seconds: int = 0) -> None:
    await citizens.send_login_code(
        phone=phone, address=address, vault=VAULT, sms=sms, now=NOW + timedelta(seconds=seconds)
    )


async def prove_phone(phone: str = ANNA.phone) -> sessions.OpenedSession:
    sms = Sms()
    await send(sms, phone)
    return await citizens.login_with_code(phone=phone, code=sms.code, vault=VAULT, now=NOW)


async def choose(opened: sessions.OpenedSession, tail: str) -> sessions.OpenedSession:
    viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
    assert viewer is not None
    return await citizens.choose_person(
        session_id=viewer.session_id, id_tail=tail, vault=VAULT, appid="wx1", now=NOW
    )


class TestCodes:
    async def test_nothing_readable_is_stored(self) -> None:
        sms = Sms()
        await send(sms)

        (row,) = await LoginCode.all()
        assert sms.code not in row.code_digest
        assert ANNA.phone not in row.phone_index

    async def test_a_second_code_within_a_minute_is_refused(self) -> None:
        sms = Sms()
        await send(sms)

        with pytest.raises(CodeTooSoon):
            await send(sms, seconds=59)

        assert len(sms.sent) == 1

    async def test_ten_codes_a_day_are_enough(self) -> None:
        sms = Sms()
        for minute in range(rules.CODES_PER_DAY):
            await send(sms, address=str(minute), seconds=minute * 61)

        with pytest.raises(CodeTooSoon):
            await send(sms, address="z", seconds=3600)

    async def test_an_address_cannot_pester_many_phones(self) -> None:
        sms = Sms()
        for n in range(rules.CODES_PER_ADDRESS_HOUR):
            await send(sms, phone=f"139000000{n:02d}")

        with pytest.raises(CodeTooSoon):
            await send(sms, phone="13911111111")

    async def test_a_message_that_was_not_sent_may_be_asked_for_again(self) -> None:
        with pytest.raises(CodeNotSent):
            await send(Sms(fails=True))

        await send(Sms())

    @pytest.mark.parametrize("phone", ["", "1380000000", "23800000001", "1380000000a", "１３８"])
    async def test_what_is_no_mobile_number_is_refused(self, phone: str) -> None:
        with pytest.raises(InvalidPhone):
            await send(Sms(), phone)

    async def test_a_code_works_once(self) -> None:
        sms = Sms()
        await send(sms)
        await citizens.login_with_code(phone=ANNA.phone, code=sms.code, vault=VAULT, now=NOW)

        with pytest.raises(WrongCode):
            await citizens.login_with_code(phone=ANNA.phone, code=sms.code, vault=VAULT, now=NOW)

    async def test_a_code_ends_after_five_minutes(self) -> None:
        sms = Sms()
        await send(sms)

        with pytest.raises(WrongCode):
            await citizens.login_with_code(
                phone=ANNA.phone, code=sms.code, vault=VAULT, now=NOW + rules.CODE_LIFE
            )

    async def test_five_wrong_tries_kill_the_code(self) -> None:
        sms = Sms()
        await send(sms)
        wrong = "000000" if sms.code != "000000" else "000001"
        for _ in range(rules.CODE_TRIES):
            with pytest.raises(WrongCode):
                await citizens.login_with_code(phone=ANNA.phone, code=wrong, vault=VAULT, now=NOW)

        with pytest.raises(WrongCode):
            await citizens.login_with_code(phone=ANNA.phone, code=sms.code, vault=VAULT, now=NOW)
        assert await Session.all().count() == 0


class TestPerson:
    async def test_the_right_tail_confirms_and_the_old_token_is_dead(self) -> None:
        known = await persons.upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)
        proven = await prove_phone()

        opened = await choose(proven, "31002x")

        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None
        assert viewer.person_id == known["1", ANNA.id_no]
        assert viewer.name == ANNA.name
        assert await viewer_of(proven.token, vault=VAULT, now=NOW) is None

    async def test_somebody_elses_tail_is_refused(self) -> None:
        await persons.upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)
        proven = await prove_phone()

        with pytest.raises(WrongPerson):
            await choose(proven, BO.id_no[-6:])

    async def test_five_wrong_tails_end_the_login(self) -> None:
        await persons.upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        proven = await prove_phone()
        for _ in range(rules.BIND_TRIES - 1):
            with pytest.raises(WrongPerson):
                await choose(proven, "000000")

        with pytest.raises(LoginDead):
            await choose(proven, "000000")
        assert await viewer_of(proven.token, vault=VAULT, now=NOW) is None

    async def test_without_a_proven_phone_nobody_is_chosen(self) -> None:
        opened, _ = await citizens.begin_wechat_login(now=NOW)

        with pytest.raises(LoginRequired):
            await choose(opened, ANNA.id_no[-6:])


class TestWechat:
    async def test_an_openid_bound_in_clear_words_goes_straight_in_and_is_clear_no_more(
        self,
    ) -> None:
        known = await persons.upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        wechat = Wechat(WechatIdentity("openid-1"))
        await WechatBinding(
            id=known["1", ANNA.id_no],
            appid=wechat.appid,
            openid="openid-1",
            person_id=known["1", ANNA.id_no],
            bound_at=NOW,
        ).save(force_create=True)

        opened = await self.come_back(wechat)

        assert not opened.needs_person
        (binding,) = await WechatBinding.all()
        assert binding.openid is None
        assert binding.person_id == known["1", ANNA.id_no]
        assert await tables_with(["openid-1"]) == set()

    async def test_a_newer_binding_in_clear_words_counts_before_an_older_sealed_one(self) -> None:
        """A program of the release before did not see the sealed one, and bound somebody else."""
        known = await persons.upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)
        wechat = Wechat(WechatIdentity("openid-1"))
        for party, words, minutes in (
            (ANNA, {"openid_index": openid_index("openid-1", vault=VAULT)}, 0),
            (BO, {"openid": "openid-1"}, 5),
        ):
            await WechatBinding(
                id=known["1", party.id_no],
                appid=wechat.appid,
                person_id=known["1", party.id_no],
                bound_at=NOW + timedelta(minutes=minutes),
                **words,
            ).save(force_create=True)

        opened = await self.come_back(wechat)

        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None
        assert viewer.person_id == known["1", BO.id_no]
        (binding,) = await WechatBinding.all()
        assert (binding.openid, binding.person_id) == (None, known["1", BO.id_no])

    async def test_a_new_openid_still_has_to_prove_phone_and_person(self) -> None:
        opened = await self.come_back(Wechat(WechatIdentity("openid-2")))

        assert opened.needs_person

    @pytest.mark.parametrize(
        "wechat", [Wechat(), Wechat(WechatIdentity("x", is_snapshot_user=True))]
    )
    async def test_a_bad_code_and_a_preview_user_are_refused(self, wechat: Wechat) -> None:
        with pytest.raises(WechatLoginFailed):
            await self.come_back(wechat)

    async def test_a_foreign_state_is_refused_and_a_right_one_works_once(self) -> None:
        wechat = Wechat(WechatIdentity("openid-1"))
        opened, state = await citizens.begin_wechat_login(now=NOW)
        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None

        with pytest.raises(WechatLoginFailed):
            await citizens.login_with_wechat(
                session_id=viewer.session_id,
                code="c",
                state="other",
                wechat=wechat,
                vault=VAULT,
                now=NOW,
            )
        with pytest.raises(WechatLoginFailed):
            await citizens.login_with_wechat(
                session_id=None, code="c", state=state, wechat=wechat, vault=VAULT, now=NOW
            )

    async def come_back(self, wechat: Wechat) -> sessions.OpenedSession:
        opened, state = await citizens.begin_wechat_login(now=NOW)
        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None
        return await citizens.login_with_wechat(
            session_id=viewer.session_id, code="c", state=state, wechat=wechat, vault=VAULT, now=NOW
        )


class TestSessions:
    async def test_a_session_ends_when_idle_and_at_its_absolute_end(self) -> None:
        await persons.upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        opened = await choose(await prove_phone(), ANNA.id_no[-6:])

        assert await viewer_of(opened.token, vault=VAULT, now=NOW + rules.CITIZEN_IDLE) is None
        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None
        await sessions.touch(viewer.session_id, now=NOW + rules.CITIZEN_LIFE)
        assert await viewer_of(opened.token, vault=VAULT, now=NOW + rules.CITIZEN_LIFE) is None

    async def test_a_logged_out_token_is_nobody(self) -> None:
        opened = await prove_phone()
        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None

        await sessions.logout(viewer.session_id)

        assert await viewer_of(opened.token, vault=VAULT, now=NOW) is None


class TestStaff:
    async def make(self) -> None:
        await staff.ensure_staff(
            login="caiwu", name="何敏", role="finance_clerk", password="Right-1", now=NOW
        )

    async def test_the_right_password_opens_and_a_wrong_one_does_not(self) -> None:
        await self.make()

        opened = await staff.login_staff(login="caiwu", password="Right-1", now=NOW)

        viewer = await viewer_of(opened.token, vault=VAULT, now=NOW)
        assert viewer is not None
        assert viewer.role == "finance_clerk"
        for login, password in [("caiwu", "wrong"), ("nobody", "Right-1")]:
            with pytest.raises(WrongPassword):
                await staff.login_staff(login=login, password=password, now=NOW)

    async def test_five_wrong_passwords_lock_for_fifteen_minutes(self) -> None:
        await self.make()
        for _ in range(rules.STAFF_TRIES):
            with pytest.raises(WrongPassword):
                await staff.login_staff(login="caiwu", password="wrong", now=NOW)

        with pytest.raises(WrongPassword):
            await staff.login_staff(login="caiwu", password="Right-1", now=NOW)
        await staff.login_staff(login="caiwu", password="Right-1", now=NOW + rules.STAFF_LOCK)

    async def test_no_password_is_stored(self) -> None:
        await self.make()

        assert "Right-1" not in (await StaffUser.get()).password_hash
