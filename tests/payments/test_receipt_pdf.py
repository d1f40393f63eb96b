"""A receipt's PDF says what was paid, in real Chinese glyphs."""

import re
import zlib
from datetime import UTC, datetime

from estation.payments.glyphs import drawable
from estation.payments.receipts import Paper, PaperLine, receipt_pdf


def paper(payer_name: str = "林晓舟", lines: int = 1, *, refunded_fen: int = 0) -> Paper:
    return Paper(
        title="税费缴纳凭据",
        receipt_no="R202605060001",
        bureau_name="江城市不动产登记中心",
        payer_name=payer_name,
        payee_name="国家金库江城市中心支库（税务）",
        bill_title="存量房转移登记税费",
        bill_no="JC202605060001",
        order_no="20260506QWB7D3FTH9K2MZX4",
        wallet="微信",
        account="江城市国库税款专户（1900000111）",
        out_trade_no="202605069K2MZX4QWB7D3FTH",
        channel_trade_no="4200002026050612345678901234",
        paid_at=datetime(2026, 5, 6, 6, 17, tzinfo=UTC),
        amount_fen=809524 * lines,
        lines=[PaperLine("契税", "计税依据 809,523.81 元 × 税率 1%", 809524)] * lines,
        refunded_fen=refunded_fen,
        code="7K2M-ZQ0V-9XCB-4T1D",
        verify_address="https://e.jiangcheng.gov.cn/verify#no=R202605060001&code=7K2M-ZQ0V-9XCB-4T1D",
    )


def drawn_characters(pdf: bytes) -> set[str]:
    """Every character that a font in this file draws with a real glyph.

    Read from the fonts' ToUnicode maps; glyph 0 is the box for "no such character".
    """
    drawn: set[str] = set()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            continue
        for glyph, letters in re.findall(rb"<([0-9A-F]{4})> <([0-9A-F]+)>", text):
            if int(glyph, 16) != 0:
                drawn.update(bytes.fromhex(letters.decode()).decode("utf-16-be", "ignore"))
    return drawn


def test_a_receipt_draws_every_character_of_its_texts() -> None:
    pdf = receipt_pdf(paper())

    wanted = "林晓舟税费缴纳凭据国家金库支库存量房转移登记捌仟零玖拾伍元贰角肆分¥8,095.24"
    assert pdf.startswith(b"%PDF-")
    assert set(wanted) - drawn_characters(pdf) == set()


def test_the_paper_says_its_code_its_account_and_what_was_given_back() -> None:
    part, whole = paper(refunded_fen=8_000), paper(refunded_fen=809_524)

    assert (part.refund_words, whole.refund_words) == (
        "其中已退款 ¥ 80.00",
        "已全部退款 ¥ 8,095.24",
    )
    assert paper().refund_words == ""
    words = "校验码7K2MZQV9XCBT1D核对真伪江城市国库税款专户"
    assert set(words) <= drawn_characters(receipt_pdf(paper()))
    assert set("其中已退款") <= drawn_characters(receipt_pdf(part))
    assert receipt_pdf(part) != receipt_pdf(paper())


def test_rare_characters_of_names_are_drawn_not_boxed() -> None:
    pdf = receipt_pdf(paper("张㛃䶮𬱖"))

    assert set("张㛃䶮𬱖") <= drawn_characters(pdf)


def test_a_character_the_font_lacks_is_written_as_its_code_not_as_a_box() -> None:
    assert drawable("张\U000f1234 三") == "张〔U+F1234〕 三"

    assert set("张〔U+F1234〕") <= drawn_characters(receipt_pdf(paper("张\U000f1234")))


def test_a_name_cannot_become_typesetting_code() -> None:
    pdf = receipt_pdf(paper('#panic("x") *粗* $1$'))

    assert set('#"*$粗') <= drawn_characters(pdf)


def test_the_same_receipt_is_the_same_file() -> None:
    assert receipt_pdf(paper()) == receipt_pdf(paper())


def test_a_receipt_of_forty_items_runs_over_pages() -> None:
    pdf = receipt_pdf(paper(lines=40))

    assert pdf.startswith(b"%PDF-")
