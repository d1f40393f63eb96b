"""Every way the payment desk refuses."""

from estation.shared.errors import InvalidInput, NotFound, Refused


class OrderNotFound(NotFound):
    """No such order of the asker (somebody else's looks the same)."""

    code = "order_not_found"
    message = "没有找到这笔缴费订单，请返回重试。"


class OrderAlreadyOpen(Refused):
    """A bill is in another open order; `order_id` is told when it is the asker's own."""

    code = "order_already_open"
    http_status = 409
    message = "这笔费用已有一个进行中的缴费订单，请先完成或取消它。"


class AmountChanged(Refused):
    """The asker believed another sum; `amount_fen` is the present one."""

    code = "amount_changed"
    http_status = 412
    message = "应缴金额已变化，请核对新的金额后再缴费。"


class OrderNotOpen(Refused):
    """The order is paid, cancelled or over; `state` says which."""

    code = "order_not_open"
    http_status = 409
    message = "这笔缴费订单已结束，请返回查看结果。"


class AnotherAttemptLive(Refused):
    """The earlier code could not be closed yet: somebody may be paying it now."""

    code = "another_attempt_live"
    http_status = 409
    message = "上一个付款码正在使用中，暂时不能更换或取消，请稍候再试。"


class SceneNotOffered(InvalidInput):
    """The channel has no such scene, or the scene needs what the asker does not have."""

    code = "scene_not_offered"
    http_status = 422
    message = "不支持这种付款方式，请换一种。"


class ChannelTrouble(Refused):
    """The channel gave no usable answer; nothing is lost, we keep asking it."""

    code = "channel_trouble"
    http_status = 503
    message = "支付渠道暂时没有响应，请稍候重试；如已付款，结果会自动更新。"


class IncidentNotFound(NotFound):
    code = "incident_not_found"
    message = "没有找到这条异常记录。"


class IncidentAlreadyResolved(Refused):
    code = "incident_already_resolved"
    http_status = 409
    message = "这条异常已处理完毕。"
