"""Every way cases refuse."""

from estation.shared.errors import NotFound


class CaseNotFound(NotFound):
    """There is no such case, or the asker is no party of it: the asker cannot tell which."""

    code = "case_not_found"
    message = "没有找到这个办件，请核对后重试。"
