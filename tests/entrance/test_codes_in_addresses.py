"""A code is somebody's right: it stands in an address only on its way, in no log and no metric."""

from typing import Any

import pytest
import structlog

from estation.outside.gate.pay_codes import pay_code
from tests.entrance.running import DATA_KEY, Online
from tests.payments.city import make_bill

PAGE = {"accept": "text/html"}
RECEIPT_CODE = "7K2M-ZQ0V-9XCB-4T1D"


async def a_pay_code(online: Online) -> str:
    person_id, _ = await online.log_in()
    bill = await make_bill(person_id, now=online.now[0])
    code = pay_code(DATA_KEY, bill_no=bill.bill_no, source=bill.source, source_id=bill.source_id)
    assert code is not None
    return code


async def read(online: Online, path: str, **options: Any) -> tuple[int, str]:
    """Status and referrer policy of a page."""
    method = "POST" if "data" in options else "GET"
    async with online.client.request(method, path, headers=PAGE, **options) as answer:
        await answer.read()
        return answer.status, answer.headers["referrer-policy"]


async def test_no_log_and_no_metric_ever_holds_a_code(
    online: Online, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = await a_pay_code(online)
    forged = code[:-1] + ("0" if code[-1] != "0" else "1")
    receipt = {"no": "R1", "code": RECEIPT_CODE}

    async def everything() -> list[int]:
        return [
            (await read(online, f"/c/{code}"))[0],
            (await read(online, f"/c/{forged}"))[0],
            (await read(online, f"/verify?no=R1&code={RECEIPT_CODE}"))[0],
            (await read(online, "/verify", data=receipt))[0],
        ]

    async def lost(*_: object) -> None:
        raise ConnectionError

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logged:
        sound = await everything()
        for name, trouble in (("lost", lost), ("broken", broken)):
            monkeypatch.setattr("estation.payments.pages.codes.bills_numbered", trouble)
            monkeypatch.setattr("estation.payments.pages.verify.receipt_numbered", trouble)
            assert set(await everything()) == {503 if name == "lost" else 500}
    async with online.client.get("/metrics") as answer:
        metrics = await answer.text()
    written = "".join(capfd.readouterr())

    assert sound == [200, 404, 200, 200]
    routes = {one["route"] for one in logged if one["event"] == "request_failed"}
    assert routes == {"/c/<code:str>", "/verify"}
    for told in (str(logged), metrics, written):
        assert code[:-1] not in told
        assert RECEIPT_CODE not in told


async def test_the_next_page_is_told_our_domain_and_not_the_address(online: Online) -> None:
    # Nothing at all would do for us, but WeChat's H5 page serves only domains it knows.
    code = await a_pay_code(online)

    policies = {
        (await read(online, path))[1]
        for path in ("/", f"/c/{code}", f"/verify?no=R1&code={RECEIPT_CODE}", "/no/such/page")
    }

    assert policies == {"strict-origin"}
