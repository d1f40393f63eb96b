"""The flow chart's boxes and what a replicated case may say. Pure."""

from collections.abc import Mapping, Sequence
from typing import Protocol

STAGES: Mapping[str, str] = {
    "contract": "网签",
    "escrow": "资金托管",
    "loan": "抵押",
    "tax": "纳税",
    "registration": "登记",
}
"""In the order of the chart (facts/domain §4)."""

STAGE_STATES: Mapping[str, str] = {
    "waiting": "未开始",
    "doing": "办理中",
    "done": "已完成",
    "not_required": "不需要",
    "returned": "已退回",
}
CASE_STATES = frozenset({"open", "closed", "withdrawn"})

ROLES: Mapping[str, str] = {
    "buyer": "买方",
    "seller": "卖方",
    "developer": "开发企业",
    "mortgagee": "抵押权人",
    "owner": "权利人",
    "heir": "继承人",
}


class Stage(Protocol):
    @property
    def stage(self) -> str: ...
    @property
    def state(self) -> str: ...


class Row(Protocol):
    @property
    def version(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def stages(self) -> Sequence[Stage]: ...


def fault_of(row: Row) -> str:
    """Why a replicated case can never be accepted, as a stable word; "" when it can."""
    if row.version < 1:
        return "version"
    if row.state not in CASE_STATES:
        return "state"
    if any(one.stage not in STAGES or one.state not in STAGE_STATES for one in row.stages):
        return "stage"
    if len({one.stage for one in row.stages}) != len(row.stages):
        return "stage"
    return ""


class Event(Protocol):
    @property
    def what(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def state(self) -> str: ...


def fault_of_event(event: Event) -> str:
    """Why a replicated event can never be accepted; "" when it can.

    A stage's event names a box of the chart and what it became; any other one names none.
    """
    if event.what != "stage_moved":
        fits = event.state in CASE_STATES
        return "stage" if event.stage else "" if fits else "state"
    if event.stage not in STAGES:
        return "stage"
    return "" if event.state in STAGE_STATES else "state"


def stage_order(stage: str) -> int:
    return list(STAGES).index(stage)
