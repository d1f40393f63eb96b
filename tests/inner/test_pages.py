"""The desk's pages work as forms, without scripts."""

import re
from urllib.parse import quote

import pytest

from estation.inner import personas, worker
from estation.inner.actions import receipts
from estation.outside.gate.pay_codes import is_code_of
from estation.shared import key_files
from estation.shared.keyring import KeptKey, write_keys
from tests.inner.desk import Browser, Desk, query


@pytest.fixture
async def at_fees(pages: Browser) -> Browser:
    await pages.log_in(personas.FEE_CLERK)
    return pages


@pytest.fixture
async def at_register(pages: Browser) -> Browser:
    await pages.log_in(personas.REGISTRAR)
    return pages


async def test_a_bill_is_issued_from_the_form(desk: Desk, at_fees: Browser) -> None:
    case_no = await desk.open_case()
    shown = await at_fees.get(f"/cases/{case_no}/bills/new?payer=1")
    form = shown.fields() | {
        "title": "契税与登记费",
        "1-base": "850,000.00",
        "1-rate": "1%",
        "1-amount": "8500",
        "1-formula": "850,000.00 元 × 1% = 8,500.00 元",
        "2-amount": "0",
        "3-amount": "80.00",
        "do": "issue",
    }

    issued = await at_fees.submit(f"/cases/{case_no}/bills/new", form)
    page = await at_fees.get(issued.location)

    assert issued.status == 303, issued.text
    assert "¥ 8,580.00" in page.text
    items = await query("select code, payee_code, amount_fen from fee_bill_item order by seq")
    assert [tuple(row.values()) for row in items] == [
        ("DEED", "treasury", 850_000),
        ("STAMP", "treasury", 0),
        ("REG", "non_tax", 8_000),
    ]


async def test_mistakes_are_named_beside_their_fields_and_nothing_is_issued(
    desk: Desk, at_fees: Browser
) -> None:
    case_no = await desk.open_case()
    path = f"/cases/{case_no}/bills/new"
    form = (await at_fees.get(f"{path}?payer=1")).fields() | {
        "1-amount": "85.001",
        "2-name": "自编费用",
        "3-amount": "-80",
        "due_on": "明天",
        "do": "issue",
    }

    answer = await at_fees.submit(path, form)

    assert answer.status == 422
    for key in ("title", "due_on", "1-amount", "2-amount", "3-amount"):
        assert f'id="error-{key}"' in answer.text, key
    assert 'value="85.001"' in answer.text
    assert "尚未出具" in answer.text
    assert await query("select 1 from fee_bill") == []


async def test_a_bill_of_zeros_is_refused_with_a_sentence(desk: Desk, at_fees: Browser) -> None:
    case_no = await desk.open_case()
    path = f"/cases/{case_no}/bills/new"
    form = (await at_fees.get(f"{path}?payer=2")).fields()

    nothing = await at_fees.submit(path, form | {"title": "税费", "do": "issue"})
    zero = await at_fees.submit(path, form | {"title": "税费", "1-amount": "0", "do": "issue"})

    assert (nothing.status, zero.status) == (422, 422)
    assert "费用项目至少 1 项" in nothing.text
    assert "至少要有一项应缴金额大于零" in zero.text


async def test_checking_and_adding_lines_issue_nothing_and_keep_what_was_typed(
    desk: Desk, at_fees: Browser
) -> None:
    case_no = await desk.open_case()
    path = f"/cases/{case_no}/bills/new"
    form = (await at_fees.get(f"{path}?payer=1")).fields()
    form |= {"title": "契税", "1-amount": "8,500.5", "3-amount": "80"}

    checked = await at_fees.submit(path, form | {"do": "check"})
    longer = await at_fees.submit(path, form | {"do": "more"})

    assert (checked.status, longer.status) == (200, 200)
    assert "8,580.50" in checked.text
    assert longer.fields()["1-amount"] == "8,500.5"
    assert "6-name" in longer.fields()
    assert await query("select 1 from fee_bill") == []


async def test_pressing_the_button_twice_issues_one_bill(desk: Desk, at_fees: Browser) -> None:
    case_no = await desk.open_case()
    path = f"/cases/{case_no}/bills/new"
    form = (await at_fees.get(f"{path}?payer=1")).fields()
    form |= {"title": "契税", "1-amount": "8500", "do": "issue"}

    first, second = await at_fees.submit(path, form), await at_fees.submit(path, form)

    assert first.location == second.location
    assert len(await query("select 1 from fee_bill")) == 1


async def test_a_bill_is_revised_from_its_form(desk: Desk, at_fees: Browser) -> None:
    bill_no = await desk.issue()
    path = f"/bills/{bill_no}/revise"
    form = (await at_fees.get(path)).fields() | {"2-amount": "90.00", "do": "issue"}

    without_reason = await at_fees.submit(path, form)
    revised = await at_fees.submit(path, form | {"reason": "工本费"})
    stale = await at_fees.submit(path, form | {"reason": "工本费"})
    page = await at_fees.get(revised.location)

    assert without_reason.status == 422
    assert 'id="error-reason"' in without_reason.text
    assert revised.status == 303
    assert stale.status == 409
    assert "刚被他人修改" in stale.text
    assert "¥ 8,590.00" in page.text
    assert "第 1 版" in page.text
    assert "工本费" in page.text


async def test_a_bill_is_withdrawn_with_a_reason(desk: Desk, at_fees: Browser) -> None:
    bill_no = await desk.issue()
    token = await at_fees.csrf_token()
    path = f"/bills/{bill_no}/withdraw"

    silent = await at_fees.post(path, csrf_token=token, version="1", reason=" ")
    done = await at_fees.post(path, csrf_token=token, version="1", reason="解除合同")
    again = await at_fees.post(path, csrf_token=token, version="2", reason="解除合同")
    page = await at_fees.get(f"/bills/{bill_no}")

    assert (silent.status, done.status, again.status) == (422, 303, 409)
    assert "必填内容没有填写" in silent.text
    assert "缴费单已撤回" in again.text
    assert "解除合同" in page.text
    assert f"/bills/{bill_no}/revise" not in page.text


async def test_a_payment_that_came_back_is_seen(desk: Desk, at_fees: Browser) -> None:
    bill_no = await desk.issue()
    await receipts.keep_receipts(
        [desk.receipt(bill_no)], source=desk.settings.source, packet_seq=3, now=desk.now
    )

    bill = await at_fees.get(f"/bills/{bill_no}")
    listed = await at_fees.get("/receipts")

    assert "已缴" in bill.text
    for text in ("4200001", "R1", "第 3 包", "微信支付"):
        assert text in listed.text, text
    assert (await at_fees.get(f"/bills/{bill_no}/revise")).status == 409


async def test_a_payment_that_does_not_fit_is_shown_until_somebody_handled_it(
    desk: Desk, at_fees: Browser
) -> None:
    bill_no = await desk.issue()
    await desk.revise(bill_no, 1)
    await receipts.keep_receipts(
        [desk.receipt(bill_no)], source=desk.settings.source, packet_seq=3, now=desk.now
    )
    receipt_id = (await query("select id from fee_receipt"))[0]["id"]
    token = await at_fees.csrf_token()

    waiting = await at_fees.get("/receipts?attention=1")
    bill = await at_fees.get(f"/bills/{bill_no}")
    silent = await at_fees.post(f"/receipts/{receipt_id}/handled", csrf_token=token, note="")
    done = await at_fees.post(f"/receipts/{receipt_id}/handled", csrf_token=token, note="已补缴")
    after = await at_fees.get("/receipts?attention=1")

    assert "缴的是旧版本" in waiting.text
    assert "有一笔缴款需要处理" in bill.text
    assert (silent.status, done.status) == (422, 303)
    assert "没有待处理的回执" in after.text
    assert "已补缴" in (await at_fees.get("/receipts")).text


async def test_cases_are_found_by_number_and_name_and_nothing_else(
    desk: Desk, at_fees: Browser
) -> None:
    case_no = await desk.open_case()

    for search in (case_no, case_no[:6], "林晓", "周建国"):
        assert case_no in (await at_fees.get(f"/cases?q={quote(search)}")).text, search
    for search in ("%", "_", "晓舟", "2025", "\\"):
        answer = await at_fees.get(f"/cases?q={quote(search)}")
        assert answer.status == 200
        assert "没有符合条件的办件" in answer.text, search


async def test_long_lists_have_pages(desk: Desk, at_fees: Browser) -> None:
    for _ in range(27):
        await desk.open_case()

    first = await at_fees.get("/cases")
    second = await at_fees.get("/cases?page=2")
    strange = await at_fees.get("/cases?page=-1&state=nothing")

    assert first.text.count('<a href="/cases/2026') == 25
    assert second.text.count('<a href="/cases/2026') == 2
    assert "第 2 / 2 页，共 27 条" in second.text
    assert strange.status == 200


async def test_a_registrar_moves_the_flow_chart_and_is_told_why_not(
    desk: Desk, at_register: Browser
) -> None:
    case_no = await desk.open_case()
    await desk.issue(case_no)
    token = await at_register.csrf_token()
    path = f"/cases/{case_no}/stages"
    form = {"csrf_token": token, "version": "1", "note": ""}

    unpaid = await at_register.post(path, **form, stage="tax", to="done")
    nonsense = await at_register.post(path, **form, stage="tea", to="drunk")
    moved = await at_register.post(path, **form, stage="registration", to="doing")
    stale = await at_register.post(path, **form, stage="registration", to="done")

    assert [answer.status for answer in (unpaid, nonsense, moved, stale)] == [409, 409, 303, 409]
    assert "先税后证" in unpaid.text
    assert "刚被他人修改" in stale.text


async def test_a_registrar_takes_in_a_case(desk: Desk, at_register: Browser) -> None:
    form = (await at_register.get("/cases/new")).fields() | {
        "unit_code": "360102 001001 GB00001 F00010101",
        "1-name": "林晓舟",
        "1-id_no": "360102199203150027",
        "1-phone": "13800000001",
        "2-name": "周建国",
        "2-id_no": "360103196808120019",
        "2-phone": "13800000002",
    }

    wrong = await at_register.submit("/cases", form)
    right = await at_register.submit("/cases", form | {"2-id_no": "360103196808120018"})
    page = await at_register.get(right.location)

    assert wrong.status == 422
    assert "第 2 位当事人" in wrong.text
    assert "360103196808120019" in wrong.text
    assert right.status == 303
    assert "林晓舟" in page.text
    assert "360102199203150027" not in page.text


async def test_what_people_typed_is_text_on_every_page(desk: Desk, at_fees: Browser) -> None:
    bill_no = await desk.issue(title="<script>alert(1)</script>")

    page = await at_fees.get(f"/bills/{bill_no}")

    assert "<script>alert" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


async def test_the_gate_line_says_what_waits_and_what_stopped(desk: Desk, at_fees: Browser) -> None:
    empty = await at_fees.get("/cases")
    await worker.run_once(desk.settings, desk.now)
    await query("update gate_incoming_stream set stopped_reason = 'bad_seal', last_seq = 8")
    stopped = await at_fees.get("/cases")

    assert "尚未交换任何数据" in empty.text
    assert "发出：第 1 包" in stopped.text
    assert "收到：第 8 包" in stopped.text
    assert "已停止：签名不符" in stopped.text


@pytest.mark.parametrize("path", ["/cases/0", "/bills/0", "/bills/0/revise", "/nothing"])
async def test_what_does_not_exist_is_said_in_a_sentence(at_fees: Browser, path: str) -> None:
    answer = await at_fees.get(path)

    assert answer.status == 404
    assert "没有" in answer.text


async def test_a_form_that_is_too_large_or_broken_is_refused(desk: Desk, at_fees: Browser) -> None:
    case_no = await desk.open_case()
    path = f"/cases/{case_no}/bills/new"
    token = await at_fees.csrf_token()

    large = await at_fees.post(path, csrf_token=token, payer="1", title="长" * 400_000)
    torn = await at_fees.post(path, csrf_token=token, payer="1", form_id="x", title="x", do="issue")
    stranger = await at_fees.get(f"{path}?payer=9")

    assert large.status == 413
    assert torn.status == 422
    assert "表单不完整" in torn.text
    assert stranger.status == 422
    assert await query("select 1 from fee_bill") == []


async def test_the_stylesheet_and_the_health_need_no_login(pages: Browser) -> None:
    sheet = await pages.get("/inner.css")
    health = await pages.get("/healthz")

    assert (sheet.status, health.status) == (200, 200)
    assert sheet.headers["content-type"].startswith("text/css")


async def test_the_printed_notice_carries_a_code_the_online_side_believes(
    desk: Desk, at_fees: Browser
) -> None:
    key = b"k" * 32
    (desk.settings.secrets_dir / desk.settings.pay_code_key_file).write_bytes(key)
    bill_no = await desk.issue()

    page = await at_fees.get(f"/bills/{bill_no}/sheet")

    found = re.search(rf"{re.escape(desk.settings.online_url)}/c/([A-Z0-9-]+)", page.text)
    assert found is not None
    assert is_code_of([key], found[1], source=desk.settings.source, source_id=bill_no)
    assert 'aria-label="缴费码"' in page.text
    assert f"/bills/{bill_no}/sheet" in (await at_fees.get(f"/bills/{bill_no}")).text


async def test_a_notice_is_printed_under_the_newest_key_as_soon_as_its_file_has_it(
    desk: Desk, at_fees: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    file = desk.settings.secrets_dir / desk.settings.pay_code_key_file
    old, new = KeptKey(b"k" * 32, is_named=False), KeptKey(b"n" * 32, is_named=True)
    bill_no = await desk.issue()

    async def printed() -> str:
        page = await at_fees.get(f"/bills/{bill_no}/sheet")
        found = re.search(r"/c/([A-Z0-9-]+)", page.text)
        assert found is not None
        return found[1]

    file.write_bytes(old.secret)
    before = await printed()
    file.write_bytes(write_keys([new, old]))
    after = await printed()

    of_bill = {"source": desk.settings.source, "source_id": bill_no}
    assert is_code_of([new.secret], after, **of_bill)
    for code in (before, after):
        assert is_code_of([new.secret, old.secret], code, **of_bill)


async def test_a_withdrawn_bill_has_no_notice_to_print(desk: Desk, at_fees: Browser) -> None:
    (desk.settings.secrets_dir / desk.settings.pay_code_key_file).write_bytes(b"k" * 32)
    bill_no = await desk.issue()
    await desk.withdraw(bill_no, 1)

    page = await at_fees.get(f"/bills/{bill_no}/sheet")

    assert "缴费通知单" not in page.text
    assert f"/bills/{bill_no}/sheet" not in (await at_fees.get(f"/bills/{bill_no}")).text
