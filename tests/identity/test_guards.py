"""Who may call what: the guards over real HTTP, with cookies as browsers send them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from estation.fees.models import Bill
from estation.fees.rules import BillState
from estation.identity import rules
from estation.identity.actions.persons import upsert_persons
from estation.identity.api import citizen_only, public, staff_only
from estation.identity.models import Session
from tests.identity.doors import NOW, PAGE, Doors, open_doors
from tests.identity.people import ANNA, BO, CENTRE, VAULT


@pytest.fixture
async def doors(database: str) -> AsyncIterator[Doors]:
    await upsert_persons([ANNA, BO], vault=VAULT, by=CENTRE, now=NOW)
    async with open_doors() as opened:
        yield opened


class TestLoggingIn:
    async def test_three_steps_lead_in_and_each_has_its_own_token(self, doors: Doors) -> None:
        await doors.ask("POST", "/api/login/code", json={"phone": ANNA.phone})
        _, proven = await doors.ask(
            "POST", "/api/login", json={"phone": ANNA.phone, "code": doors.sms.code}
        )
        own_form = {"x-csrf-token": proven["csrf_token"]}
        _, person = await doors.ask(
            "POST", "/api/login/person", json={"id_tail": "31002X"}, headers=own_form
        )

        assert (proven["needs_person"], person["needs_person"]) == (True, False)
        assert proven["token"] != person["token"]
        assert proven["csrf_token"] != person["csrf_token"]
        assert (await doors.ask("GET", "/own"))[1] == {"name": ANNA.name}
        old = {"authorization": f"Bearer {proven['token']}"}
        assert (await doors.ask("GET", "/own", headers=old))[0] == 401

    async def test_a_token_laid_by_somebody_else_is_not_taken_over(self, doors: Doors) -> None:
        laid = "A" * 43
        doors.client.cookie_jar.update_cookies({"estation_session": laid})

        person = await doors.log_in()

        assert person["token"] != laid
        stolen = {"authorization": f"Bearer {laid}"}
        assert (await doors.ask("GET", "/own", headers=stolen))[0] == 401

    async def test_whoever_logs_in_over_a_citizen_does_not_get_the_wechat_of_that_citizen(
        self, doors: Doors
    ) -> None:
        anna = await doors.log_in()
        await Session.all().update(openid_sealed=VAULT.seal("openid-of-anna"))
        await doors.ask("POST", "/api/login/code", json={"phone": BO.phone},
                        headers={"x-csrf-token": anna["csrf_token"]})  # fmt: skip

        status, _ = await doors.ask(
            "POST",
            "/api/login",
            json={"phone": BO.phone, "code": doors.sms.code},
            headers={"x-csrf-token": anna["csrf_token"]},
        )

        assert status == 200
        assert [(one.openid, one.openid_sealed) for one in await Session.all()] == [(None, None)]

    async def test_a_citizen_who_asks_for_wechat_login_goes_on_and_keeps_the_session(
        self, doors: Doors
    ) -> None:
        await doors.log_in()

        went = await doors.turned("GET", "/wechat/login?next=/fees")

        assert went == (303, "/fees")
        assert (await doors.ask("GET", "/own"))[1] == {"name": ANNA.name}
        assert await Session.all().count() == 1

    async def test_a_stranger_who_asks_for_wechat_login_goes_to_wechat(self, doors: Doors) -> None:
        status, where = await doors.turned("GET", "/wechat/login?next=/fees")

        assert (status, where.startswith("http://wechat.example/")) == (302, True)

    async def test_a_known_and_an_unknown_phone_get_the_same_answer(self, doors: Doors) -> None:
        known = await doors.ask("POST", "/api/login/code", json={"phone": ANNA.phone})
        unknown = await doors.ask("POST", "/api/login/code", json={"phone": "13999999999"})

        assert known == unknown == (200, {"sent": True})

    async def test_a_proven_phone_alone_opens_nothing(self, doors: Doors) -> None:
        await doors.log_in(tail="999999")

        assert (await doors.ask("GET", "/own"))[0] == 401
        assert (await doors.ask("GET", "/api/bills"))[0] == 401

    @pytest.mark.parametrize(
        ("public_url", "is_secure"), [("http://city.example", False), ("https://x.example", True)]
    )
    async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
        self, database: str, public_url: str, is_secure: bool
    ) -> None:
        await upsert_persons([ANNA], vault=VAULT, by=CENTRE, now=NOW)
        async with open_doors(public_url=public_url) as doors:
            await doors.ask("POST", "/api/login/code", json={"phone": ANNA.phone})
            code = {"phone": ANNA.phone, "code": doors.sms.code}
            async with doors.client.post("/api/login", json=code) as answer:
                cookie = answer.headers["set-cookie"].lower()

        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert ("secure" in cookie) is is_secure

    @pytest.mark.parametrize(
        ("options", "status", "code"),
        [
            ({"data": b"{}", "headers": {"content-type": "text/plain"}}, 415, "wrong_content_type"),
            ({"data": b"{", "headers": {"content-type": "application/json"}}, 400, "not_json"),
            ({"json": {"phone": 13800000001}}, 422, "invalid_input"),
            ({"json": {"phone": "13800000001", "admin": True}}, 422, "invalid_input"),
            ({"json": {"phone": "1" * 20_000}}, 413, "body_too_large"),
            ({"json": {"phone": "12345678901"}}, 422, "invalid_phone"),
        ],
    )
    async def test_what_is_no_login_request_is_named_and_sends_nothing(
        self, doors: Doors, options: dict[str, Any], status: int, code: str
    ) -> None:
        answered, body = await doors.ask("POST", "/api/login/code", **options)

        assert (answered, body["code"]) == (status, code)
        assert doors.sms.sent == []


class TestSessions:
    async def test_idle_half_an_hour_ends_it_and_use_keeps_it_alive(self, doors: Doors) -> None:
        await doors.log_in()
        for _ in range(3):
            doors.wait(timedelta(minutes=20))
            assert (await doors.ask("GET", "/own"))[0] == 200

        doors.wait(rules.CITIZEN_IDLE)

        assert (await doors.ask("GET", "/own"))[0] == 401

    async def test_twelve_hours_end_it_however_busy(self, doors: Doors) -> None:
        await doors.log_in()
        for _ in range(35):
            doors.wait(timedelta(minutes=20))
            assert (await doors.ask("GET", "/own"))[0] == 200

        doors.wait(timedelta(minutes=20))

        assert (await doors.ask("GET", "/own"))[0] == 401

    @pytest.mark.parametrize("token", ["", "short", "A" * 43, "é" * 43, "A" * 5000, "' or 1=1--"])
    async def test_a_token_of_any_bytes_is_just_nobody(self, doors: Doors, token: str) -> None:
        bearer = {"authorization": f"Bearer {token}".encode().decode("latin-1")}
        cookie = {"cookie": f"estation_session={token}".encode().decode("latin-1")}

        assert (await doors.ask("GET", "/own", headers=bearer))[0] == 401
        assert (await doors.ask("GET", "/own", headers=cookie))[0] == 401

    async def test_a_proxys_password_is_no_session(self, doors: Doors) -> None:
        await doors.log_in()

        status, _ = await doors.ask("GET", "/own", headers={"authorization": "Basic eDp5"})

        assert status == 200


class TestForms:
    async def test_a_cookie_alone_changes_nothing(self, doors: Doors) -> None:
        await doors.log_in()

        status, body = await doors.ask("POST", "/own")

        assert (status, body["code"]) == (403, "form_expired")
        assert doors.written == []

    async def test_the_sessions_token_in_header_or_form_is_enough(self, doors: Doors) -> None:
        token = (await doors.log_in())["csrf_token"]

        in_header = await doors.ask("POST", "/own", headers={"x-csrf-token": token})
        in_form = await doors.ask("POST", "/own", data={"csrf_token": token})

        assert (in_header[0], in_form[0]) == (200, 200)

    @pytest.mark.parametrize("token", ["", "x", "é", "A" * 32])
    async def test_a_wrong_token_changes_nothing(self, doors: Doors, token: str) -> None:
        await doors.log_in()
        header = {"x-csrf-token": token.encode().decode("latin-1")}

        assert (await doors.ask("POST", "/own", headers=header))[0] == 403
        assert (await doors.ask("POST", "/own", data={"csrf_token": token}))[0] == 403
        assert doors.written == []

    async def test_the_token_of_another_session_changes_nothing(self, doors: Doors) -> None:
        others = (await doors.log_in(BO.phone, BO.id_no[-6:]))["csrf_token"]
        doors.client.cookie_jar.clear()
        await doors.log_in()

        assert (await doors.ask("POST", "/own", headers={"x-csrf-token": others}))[0] == 403
        assert doors.written == []

    async def test_a_bearer_token_needs_no_form_token(self, doors: Doors) -> None:
        bearer = {"authorization": f"Bearer {(await doors.log_in())['token']}"}
        doors.client.cookie_jar.clear()

        assert (await doors.ask("POST", "/own", headers=bearer))[0] == 200

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "file://"])
    async def test_another_sites_page_is_refused_at_every_door(
        self, doors: Doors, origin: str
    ) -> None:
        token = (await doors.log_in())["csrf_token"]
        headers = {"origin": origin, "x-csrf-token": token}
        sent = len(doors.sms.sent)

        assert (await doors.ask("POST", "/own", headers=headers))[0] == 403
        assert (await doors.ask("POST", "/anybody", headers=headers))[0] == 403
        code = {"phone": BO.phone}
        assert (await doors.ask("POST", "/api/login/code", json=code, headers=headers))[0] == 403
        assert doors.written == []
        assert len(doors.sms.sent) == sent

    async def test_our_own_and_our_published_address_are_welcome(self, doors: Doors) -> None:
        token = (await doors.log_in())["csrf_token"]

        for origin in (f"http://{doors.host}", "http://city.example"):
            headers = {"origin": origin, "x-csrf-token": token}
            assert (await doors.ask("POST", "/own", headers=headers))[0] == 200

    async def test_a_public_door_asks_a_session_for_its_form_too(self, doors: Doors) -> None:
        """A browser too old to say where a form comes from must not be used to log out, say."""
        assert (await doors.ask("POST", "/anybody"))[0] == 200
        token = (await doors.log_in())["csrf_token"]

        assert (await doors.ask("POST", "/anybody"))[0] == 403
        assert (await doors.ask("POST", "/anybody", headers={"x-csrf-token": token}))[0] == 200


class TestWays:
    async def test_people_are_led_to_the_login_and_back(self, doors: Doors) -> None:
        led = await doors.turned("GET", "/own?page=2", headers=PAGE)
        staff = await doors.turned("GET", "/clerks", headers=PAGE)

        assert led == (303, "/login?next=/own%3Fpage%3D2")
        assert staff == (303, "/staff/login?next=/clerks")

    async def test_nobody_is_led_back_into_a_form_or_off_the_site(self, doors: Doors) -> None:
        form = await doors.turned("POST", "/own", headers=PAGE)
        odd = await doors.turned("GET", "/own?x=%0d%0aset-cookie:%20a", headers=PAGE)

        assert form == odd == (303, "/login")

    @pytest.mark.parametrize(
        ("where", "back"),
        [
            ("http://h/pay/1", "/login?next=/pay/1"),
            ("http://h//evil.example", "/login"),
            ("javascript:alert(1)", "/login"),
            ("", "/login"),
        ],
    )
    async def test_a_fragment_sends_the_whole_page_to_the_login(
        self, doors: Doors, where: str, back: str
    ) -> None:
        headers = {"hx-request": "true", "hx-current-url": where}

        assert await doors.turned("GET", "/own", headers=headers) == (401, back)

    async def test_programs_get_a_code(self, doors: Doors) -> None:
        status, body = await doors.ask("GET", "/own")

        assert (status, body["code"]) == (401, "login_required")


class TestRoles:
    async def test_only_the_named_role_passes(self, doors: Doors) -> None:
        clerk = {"authorization": f"Bearer {await doors.log_in_as_staff('finance_clerk')}"}
        operator = {"authorization": f"Bearer {await doors.log_in_as_staff('operator')}"}

        assert (await doors.ask("POST", "/clerks", headers=clerk))[0] == 200
        refused, body = await doors.ask("POST", "/clerks", headers=operator)
        assert (refused, body["code"]) == (403, "forbidden")
        assert (await doors.ask("POST", "/officers", headers=operator))[0] == 200
        assert doors.written == ["clerk", "officer"]

    async def test_citizens_and_staff_have_nothing_to_do_at_each_others_doors(
        self, doors: Doors
    ) -> None:
        clerk = {"authorization": f"Bearer {await doors.log_in_as_staff('finance_clerk')}"}
        anna = {"authorization": f"Bearer {(await doors.log_in())['token']}"}

        assert (await doors.ask("POST", "/own", headers=clerk))[0] == 401
        assert (await doors.ask("POST", "/officers", headers=anna))[0] == 401
        assert doors.written == []

    def test_every_guard_marks_its_handler(self) -> None:
        async def handler(request: Any) -> Any: ...

        marks = [vars(g(handler))["guard"] for g in (public, citizen_only, staff_only("operator"))]

        assert marks == ["public", "citizen", "staff"]


async def make_bill(payer: Any, number: int) -> Bill:
    known = await upsert_persons([payer], vault=VAULT, by=CENTRE, now=NOW)
    bill = Bill(
        id=uuid4(), source="jc", source_id=f"b{number}", version=1, region="360101",
        bill_no=f"JF{number}", case_source_id="c1", payer_id=known["1", payer.id_no],
        title="税费", state=BillState.PAYABLE, total_fen=8_000, issued_at=NOW, data_as_of=NOW,
    )  # fmt: skip
    await bill.save(force_create=True)
    return bill


async def test_only_ones_own_bills_are_shown_others_are_not_found(doors: Doors) -> None:
    mine, others = await make_bill(ANNA, 1), await make_bill(BO, 2)
    await doors.log_in()

    _, listed = await doors.ask("GET", "/api/bills")
    status, shown = await doors.ask("GET", f"/api/bills/{mine.id}")
    foreign = await doors.ask("GET", f"/api/bills/{others.id}")
    missing = await doors.ask("GET", f"/api/bills/{uuid4()}")

    assert [bill["bill_no"] for bill in listed["bills"]] == ["JF1"]
    assert (status, shown["total_fen"]) == (200, 8_000)
    assert foreign == missing
    assert (foreign[0], foreign[1]["code"]) == (404, "bill_not_found")
