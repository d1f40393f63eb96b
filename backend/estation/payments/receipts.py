"""Receipts as PDF: typst with the Chinese font of the wheel, nothing of the machine's."""

import functools
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pylopdf_fonts_zh_cn
import typst

from estation.payments.glyphs import drawable
from estation.shared.clock import BEIJING
from estation.shared.money import capital_yuan, display_yuan
from estation.shared.qr import qr_svg

TEMPLATE = Path(__file__).with_name("receipt.typ")


@dataclass(frozen=True, slots=True)
class PaperLine:
    """One item on a receipt."""

    name: str
    formula: str
    amount_fen: int


@dataclass(frozen=True, slots=True)
class Paper:
    """What one payee received of one bill; `lines` add up to `amount_fen`.

    `account` is the merchant account that received it; `refunded_fen` what was given back since;
    `code` proves the paper at `verify_address`.
    """

    title: str
    receipt_no: str
    bureau_name: str
    payer_name: str
    payee_name: str
    bill_title: str
    bill_no: str
    order_no: str
    wallet: str
    account: str
    out_trade_no: str
    channel_trade_no: str
    paid_at: datetime
    amount_fen: int
    lines: list[PaperLine]
    refunded_fen: int
    code: str
    verify_address: str

    @property
    def capitals(self) -> str:
        return capital_yuan(self.amount_fen)

    @property
    def refund_words(self) -> str:
        """已退款 …, as it has to stand on the paper; "" when nothing was given back."""
        if not self.refunded_fen:
            return ""
        kind = "已全部退款" if self.refunded_fen >= self.amount_fen else "其中已退款"
        return f"{kind} ¥ {display_yuan(self.refunded_fen)}"


def receipt_pdf(paper: Paper) -> bytes:
    """One A4 page, some 30 ms of CPU with its QR code; the same paper gives the same page.

    Texts travel as JSON data, never as markup, so that no name can become typst code.
    """
    pdf = _compiler().compile(
        sys_inputs={"paper": drawable(json.dumps(_words(paper), ensure_ascii=False))},
        format="pdf",
        timestamp=int(paper.paid_at.timestamp()),
    )
    if not isinstance(pdf, bytes):  # The binding returns other types for other formats only.
        raise TypeError(f"typst returned {type(pdf).__name__}")
    return pdf


def _words(paper: Paper) -> dict[str, object]:
    facts = [
        ("缴款人", paper.payer_name),
        ("收款单位", paper.payee_name),
        ("账单", f"{paper.bill_title}（{paper.bill_no}）"),
        ("缴费时间", paper.paid_at.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")),
        ("付款方式", paper.wallet),
        ("收款账户", paper.account),
        ("订单号", paper.order_no),
        ("商户单号", paper.out_trade_no),
        ("支付流水号", paper.channel_trade_no),
    ]
    return {
        "title": paper.title,
        "bureau": paper.bureau_name,
        "receipt_no": paper.receipt_no,
        "facts": [pair for pair in facts if pair[1]],
        "lines": [
            [line.name, line.formula, f"¥ {display_yuan(line.amount_fen)}"] for line in paper.lines
        ],
        "total": f"¥ {display_yuan(paper.amount_fen)}",
        "capitals": paper.capitals,
        "refund": paper.refund_words,
        "code": paper.code,
        "verify_page": paper.verify_address.partition("#")[0],
        "qr": qr_svg(paper.verify_address, ""),
    }


@functools.cache
def _compiler() -> typst.Compiler:
    """One for the process: fonts and template are read once.

    Without a Chinese font typst prints boxes and raises nothing, so only ours are offered.
    """
    fonts = typst.Fonts(
        include_system_fonts=False,
        include_embedded_fonts=False,
        font_paths=[pylopdf_fonts_zh_cn.sans_path().parent],
    )
    return typst.Compiler(TEMPLATE, root=TEMPLATE.parent, font_paths=fonts)
