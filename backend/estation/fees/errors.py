"""Every way fees refuse."""

from estation.shared.errors import NotFound, Refused


class BillNotFound(NotFound):
    """There is no such bill, or it is somebody else's: the asker cannot tell which."""

    code = "bill_not_found"
    message = "没有找到这张缴费单，请核对后重试。"


class BillNotPayable(Refused):
    """Paid already, or withdrawn by the centre."""

    code = "bill_not_payable"
    message = "这张缴费单已缴清或已撤回，不需要再缴。"


class BillChanged(Refused):
    """The centre has issued a newer version than the one the citizen saw."""

    code = "bill_changed"
    message = "缴费单刚刚有更新，请核对新的金额后再缴。"
