"""Every way identity refuses."""

from estation.shared.errors import InvalidInput, NotFound, Refused, TooManyRequests


class LoginRequired(Refused):
    code = "login_required"
    http_status = 401
    message = "请先登录。"


class Forbidden(Refused):
    code = "forbidden"
    http_status = 403
    message = "您的岗位不能办理这项操作。"


class FormExpired(Refused):
    """The form's token is missing or another session's: forged, or open for too long."""

    code = "form_expired"
    http_status = 403
    message = "页面停留时间过长，请返回刷新后重新提交。"


class InvalidPhone(InvalidInput):
    code = "invalid_phone"
    message = "请填写 11 位手机号码。"


class WrongCode(Refused):
    code = "wrong_code"
    http_status = 422
    message = "验证码不正确或已过期，请核对或重新获取。"


class WrongPerson(Refused):
    """No person the counter registered with this phone has such an identity number."""

    code = "wrong_person"
    http_status = 422
    message = "与登记的信息不一致。请核对证件号码后六位；手机号码有变更的，请到不动产登记窗口更新。"


class LoginDead(Refused):
    """Too many wrong answers: this login must begin again."""

    code = "login_dead"
    http_status = 403
    message = "错误次数过多，请重新登录。"


class PersonTriesUsedUp(LoginDead):
    """Too many wrong answers for this phone today, over all its logins."""

    code = "person_tries_used_up"
    message = "今天核对次数过多，请明天再试，或携带证件到不动产登记窗口办理。"


class CodeTooSoon(TooManyRequests):
    code = "code_too_soon"
    message = "验证码发送过于频繁，请稍后再试。"


class CodeNotSent(Refused):
    code = "code_not_sent"
    http_status = 503
    message = "短信暂时没有发出，请稍后重试。"


class WechatLoginFailed(Refused):
    code = "wechat_login_failed"
    http_status = 403
    message = "微信登录没有完成，请重新进入或使用手机号登录。"


class WrongPassword(Refused):
    """Wrong login, wrong password, locked or disabled: the asker cannot tell which."""

    code = "wrong_password"
    http_status = 403
    message = "账号或密码不正确；连续输错 5 次将锁定 15 分钟。"


class StaffNotFound(NotFound):
    code = "staff_not_found"
    message = "没有这个登录名的工作人员，或其账号已停用。请填写登录名，不是姓名。"


class BadPerson(Exception):
    """A replicated party that cannot be a person.

    `reason` is a stable word, no personal data; `position` counts the parties given from 0.
    """

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
