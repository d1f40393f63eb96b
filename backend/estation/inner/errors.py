"""Every way the fee desk refuses, with the sentence the clerk reads."""

from estation.shared.errors import InvalidInput, NotFound, Refused


class LoginRequired(Refused):
    """No session, or it ended: nobody may work under another's name."""

    code = "login_required"
    http_status = 401
    message = "请先登录。离开超过 30 分钟会自动退出。"


class LoginFailed(Refused):
    code = "login_failed"
    http_status = 422
    message = "工号或密码不正确。"


class LoginLocked(Refused):
    """Too many wrong passwords; `details["until"]` says until when."""

    code = "login_locked"
    http_status = 429
    message = "密码连续输错次数过多，账号已暂时锁定，请 15 分钟后再试。"


class NotYourRole(Refused):
    code = "not_your_role"
    http_status = 403
    message = "您的岗位没有办理这项业务的权限。"


class ForeignForm(Refused):
    """The form did not come from a page of this session."""

    code = "foreign_form"
    http_status = 403
    message = "页面已过期，请刷新后重新提交。"


class CaseNotFound(NotFound):
    code = "case_not_found"
    message = "没有这个受理号的办件。"


class BillNotFound(NotFound):
    code = "bill_not_found"
    message = "没有这个缴款单号的缴费单。"


class ReceiptNotFound(NotFound):
    code = "receipt_not_found"
    message = "没有这条回执。"


class RightNotFound(NotFound):
    code = "right_not_found"
    message = "登记簿上没有这项权利。"


class RightNotCurrent(Refused):
    """It is history already: nothing of it can end once more."""

    code = "right_not_current"
    message = "这项权利已不是现势状态，不能注销。"


class RestrictionNotFound(NotFound):
    code = "restriction_not_found"
    message = "登记簿上没有这项查封或限制。"


class RestrictionLifted(Refused):
    code = "restriction_lifted"
    message = "这项查封或限制已经解除。"


class BadEntry(InvalidInput):
    """What should be written into the register contradicts itself; `details["field"]`."""

    code = "bad_entry"
    message = "登记内容前后不一致，请核对后重填。"


class UnitNotFound(InvalidInput):
    code = "unit_not_found"
    message = "没有这个不动产单元。"


class HallNotFound(InvalidInput):
    code = "hall_not_found"
    message = "没有这个登记大厅。"


class CaseNotOpen(Refused):
    code = "case_not_open"
    message = "办件已办结或已撤回，不能再变更。"


class CaseChanged(Refused):
    """Somebody else changed the case since the page was shown."""

    code = "case_changed"
    message = "办件刚被他人修改，请核对最新内容后重新操作。"


class StageNotAllowed(Refused):
    """`details` names stage, from and to."""

    code = "stage_not_allowed"
    message = "这个环节现在不能变更为所选状态。"


class StageBeforeNotDone(Refused):
    code = "stage_before_not_done"
    message = "前面的环节还没有办完，不能办结这个环节。"


class TaxNotCleared(Refused):
    """契税法第十一条、个人所得税法第十五条: registration follows payment."""

    code = "tax_not_cleared"
    message = "还有未缴的缴费单，这个环节不能办结（先税后证）。"


class BillPaid(Refused):
    code = "bill_paid"
    message = "缴费单已缴，不能修改或撤回。"


class BillWithdrawn(Refused):
    code = "bill_withdrawn"
    message = "缴费单已撤回，不能再修改。"


class BillChanged(Refused):
    """Somebody else changed the bill since the page was shown; `details["version"]` is newest."""

    code = "bill_changed"
    message = "缴费单刚被他人修改，请核对最新版本后重新操作。"


class BillExists(Refused):
    """The form was sent twice with different content."""

    code = "bill_exists"
    message = "这张表单已经出具过缴费单，请不要重复提交。"


class PayerNotInCase(InvalidInput):
    code = "payer_not_in_case"
    message = "缴款人不是这个办件的当事人。"


class UnknownPayee(InvalidInput):
    """`details["seq"]` is the item's number."""

    code = "unknown_payee"
    message = "收款单位不在收款单位表中。"


class NothingDue(InvalidInput):
    code = "nothing_due"
    message = "至少要有一项应缴金额大于零。"


class AmountOutOfRange(InvalidInput):
    """Negative, or beyond what any column of ours holds; `details["seq"]` is the item's number."""

    code = "amount_out_of_range"
    message = "金额超出范围：不能为负，也不能超过 1000 亿元。"


class WrongItemNumbers(InvalidInput):
    """No item, too many, or numbers that repeat."""

    code = "wrong_item_numbers"
    message = "费用项目至少 1 项、至多 60 项，序号不能重复。"


class TextMissing(InvalidInput):
    """`details["field"]` says which."""

    code = "text_missing"
    message = "必填内容没有填写。"


class TextTooLong(InvalidInput):
    """`details` names the field and its limit."""

    code = "text_too_long"
    message = "填写的内容过长，请缩短后重新提交。"


class BadIdentifier(InvalidInput):
    """A number whose form or check digit is wrong; `details["field"]` says which."""

    code = "bad_identifier"
    message = "证件号码、信用代码或单元代码的格式或校验位不正确。"


class ReceiptAlreadyHandled(Refused):
    code = "receipt_already_handled"
    message = "这条回执已由他人处理。"


class BillNotPaid(Refused):
    """Only a payment that came back by a receipt can be given back."""

    code = "bill_not_paid"
    message = "缴费单没有可退的缴款。"


class RefundNotFound(NotFound):
    code = "refund_not_found"
    message = "没有这条退款申请。"


class RefundableChanged(Refused):
    """`details["refundable_fen"]` is the present sum."""

    code = "refundable_changed"
    http_status = 412
    message = "可退金额已变化，请核对新的可退金额后重新提交。"


class RefundTooMuch(Refused):
    code = "refund_too_much"
    http_status = 422
    message = "退款金额必须大于零，且不能超过可退金额。"


class RefundAlreadyDecided(Refused):
    code = "refund_already_decided"
    message = "这条退款申请已由他人处理。"


class SecondPersonNeeded(Refused):
    """经办与复核不得为同一人."""

    code = "second_person_needed"
    http_status = 403
    message = "经办人不能复核自己提交的退款申请，请由另一人复核。"
