"""A flood of logins takes its bounded share of the machine and is told so."""

import asyncio
import threading

import pytest

from estation.identity.actions import staff
from estation.inner.actions import logins
from estation.shared import passwords
from estation.shared.passwords import MAX_WAITING, THREADS, TooManyLogins

ROOM = THREADS + MAX_WAITING


async def test_a_hash_made_in_turn_is_verified_in_turn() -> None:
    stored = await passwords.hash_in_turn("Right-1")

    assert await passwords.verify_in_turn("Right-1", stored)
    assert not await passwords.verify_in_turn("Wrong-1", stored)


async def test_two_work_eight_wait_and_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, working, most = threading.Event(), 0, 0
    counting = threading.Lock()

    def slow(password: str, stored: str) -> bool:
        nonlocal working, most
        with counting:
            working += 1
            most = max(most, working)
        let_go.wait(10)
        with counting:
            working -= 1
        return True

    monkeypatch.setattr(passwords, "verify_password", slow)
    flood = [asyncio.create_task(passwords.verify_in_turn("x", "y")) for _ in range(ROOM)]
    await asyncio.sleep(0.05)

    with pytest.raises(TooManyLogins) as refused:
        await passwords.verify_in_turn("x", "y")

    let_go.set()
    assert await asyncio.gather(*flood) == [True] * ROOM
    assert most == THREADS
    assert (refused.value.http_status, refused.value.code) == (429, "too_many_requests")
    assert refused.value.message == "登录的人较多，请稍后再试。"
    assert await passwords.verify_in_turn("x", "y")


async def test_callers_who_went_away_leave_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(passwords, "verify_password", lambda *_: let_go.wait(10))
    flood = [asyncio.create_task(passwords.verify_in_turn("x", "y")) for _ in range(ROOM)]
    await asyncio.sleep(0.05)

    for caller in flood:
        caller.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    let_go.set()
    for _ in range(100):
        if passwords._places._value == ROOM:
            break
        await asyncio.sleep(0.01)

    again = [passwords.verify_in_turn("x", "y") for _ in range(ROOM)]
    assert await asyncio.gather(*again) == [True] * ROOM


def test_both_sides_check_passwords_in_turn() -> None:
    for action in (staff.login_staff, logins.log_in):
        assert "verify_in_turn" in action.__code__.co_names
        assert "verify_password" not in action.__code__.co_names
