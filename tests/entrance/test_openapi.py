"""The published document is true: a fuzzer reads it, and every answer is one that it names."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count as counting
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from estation.shared.fields import MAX_FEN
from tests.entrance.running import ANNA, BO, Online, running_online
from tests.identity.people import Sms
from tests.outside.counterparts import NOW
from tests.payments.city import City, make_bill

EXAMPLES = 20
"""For each operation, role and kind of data."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ROLES = ("nobody", "owner", "another citizen", "staff")


@dataclass
class Place:
    """The program on a thread of its own, and what stands in it."""

    url: str = ""
    online: Any = None
    tokens: dict[str, str] = field(default_factory=dict)
    order_ids: list[str] = field(default_factory=list)
    bill_ids: list[str] = field(default_factory=list)
    bodies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    clicks: Iterator[int] = field(default_factory=lambda: counting(1))

    def headers(self, role: str) -> dict[str, str]:
        """Every click comes some seconds later and from elsewhere: no limit is met."""
        click = next(self.clicks)
        self.online.now[0] += timedelta(seconds=4)
        headers = {"x-forwarded-for": f"10.{click >> 16 & 255}.{click >> 8 & 255}.{click & 255}"}
        if role in self.tokens:
            headers["authorization"] = f"Bearer {self.tokens[role]}"
        return headers


@pytest.fixture
def place(own_database_url: str, tmp_path: Path) -> Iterator[Place]:
    made, is_ready, is_over = Place(), threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            asyncio.run(_serve(made, own_database_url, tmp_path, is_ready, is_over))
        except BaseException as failure:
            failures.append(failure)
            is_ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    assert is_ready.wait(60)
    try:
        assert failures == []
        yield made
    finally:
        is_over.set()
        thread.join(30)
    assert failures == []


async def _serve(
    made: Place,
    database_url: str,
    folder: Path,
    is_ready: threading.Event,
    is_over: threading.Event,
) -> None:
    city = City()
    channels = {city.wechat.account_id: city.wechat, city.alipay.account_id: city.alipay}
    async with running_online(
        folder, database_url=database_url, now=NOW, channels=channels
    ) as online:
        online.app.ctx.sms = Sms()
        made.url, made.online = f"http://127.0.0.1:{online.port}", online
        await _furnish(made, online, city)
        is_ready.set()
        await asyncio.to_thread(is_over.wait)


async def _furnish(made: Place, online: Online, city: City) -> None:
    """One citizen with bills and orders in several states, another one, an officer."""
    city.person_id, made.tokens["owner"] = await online.log_in(ANNA)
    _, made.tokens["another citizen"] = await online.log_in(BO)
    made.tokens["staff"] = await online.log_in_as_staff("finance_clerk")
    bills = [await make_bill(city.person_id, now=NOW) for _ in range(8)]
    orders = [await city.order(bill, now=NOW) for bill in bills[:4]]
    for order in orders[1:]:
        await city.attempt(order, now=NOW)
    made.bill_ids = [str(bill.id) for bill in bills]
    made.order_ids = [str(order.id) for order in orders]
    made.bodies = {
        "post_order": [
            {"bills": [{"bill_id": str(bill.id), "version": 1}], "expected_fen": bill.total_fen}
            for bill in bills
        ],
        "post_attempt": [
            {"channel": "wechat_pay", "scene": "native"},
            {"channel": "alipay", "scene": "wap"},
            {"channel": "alipay", "scene": "native"},
        ],
        "code": [{"phone": ANNA.phone}, {"phone": "1"}],
        "login": [{"phone": ANNA.phone, "code": "000000"}],
        "person": [{"id_tail": ANNA.id_no[-6:]}, {"id_tail": "\x00"}],
    }


def fetched(place: Place) -> dict[str, Any]:
    answer = requests.get(f"{place.url}/openapi.json", timeout=10)
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def test_every_answer_is_one_that_the_document_names(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = schemathesis.openapi.from_dict(fetched(place))
    seen: Counter[tuple[str, str, int]] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        for role in ROLES:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                fuzz(place, operation, role, mode, seen)

    with capsys.disabled():
        _tell(seen)
    assert {label for label, _, _ in seen} == {
        one.ok().label for one in schema.get_all_operations()
    }
    # The fuzz got past the doors, and somebody was told no in each of the ways that matter.
    statuses = {status for _, role, status in seen if role == "owner"}
    assert {200, 201, 404, 409, 422} <= statuses
    assert {status for label, role, status in seen if role == "nobody" and "order" in label} <= {
        400, 401, 404, 415, 422,
    }  # fmt: skip


def fuzz(
    place: Place,
    operation: Any,
    role: str,
    mode: GenerationMode,
    seen: "Counter[tuple[str, str, int]]",
) -> None:
    """So many examples of one operation by one role; raises what schemathesis finds."""
    with suppress(_NothingToNegate):
        cases = _cases(operation, mode)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases, known=st.data())
        def run(case: Any, known: Any) -> None:
            if known.draw(st.booleans()):
                _make_meaningful(place, case, known)
            answer = case.call(base_url=place.url, headers=place.headers(role))
            seen[operation.label, role, answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"code", "message", "details"}

        run()


class _NothingToNegate(Exception):
    """An operation without parameters or a body has no wrong data."""


def _cases(operation: Any, mode: GenerationMode) -> Any:
    has_data = bool(operation.body) or any(operation.iter_parameters())
    if mode is GenerationMode.NEGATIVE and not has_data:
        raise _NothingToNegate
    return operation.as_strategy(generation_mode=mode)


def _make_meaningful(place: Place, case: Any, known: Any) -> None:
    """Real numbers and bodies in the place of generated ones: the far rooms are fuzzed too."""
    parameters = case.path_parameters or {}
    if "order_id" in parameters:
        parameters["order_id"] = known.draw(st.sampled_from([*place.order_ids, str(uuid4())]))
    if "bill_id" in parameters:
        parameters["bill_id"] = known.draw(st.sampled_from(place.bill_ids))
    bodies = place.bodies.get(case.operation.definition.raw.get("operationId", ""))
    if bodies:
        case.body = known.draw(st.sampled_from(bodies))


def _tell(seen: "Counter[tuple[str, str, int]]") -> None:
    print(f"\n{sum(seen.values())} calls by the document's fuzzer:")  # noqa: T201 -- its report
    for role in ROLES:
        statuses: Counter[int] = Counter()
        for (_, one, status), many in seen.items():
            if one == role:
                statuses[status] += many
        print(f"  {role}: {dict(sorted(statuses.items()))}")  # noqa: T201 -- its report


def test_the_document_names_every_json_route_its_guard_and_its_refusals(place: Place) -> None:
    document = fetched(place)

    assert document["openapi"] == "3.1.0"
    assert {path for path in document["paths"] if path.startswith("/api/")} == {
        "/api/bills",
        "/api/bills/{bill_id}",
        "/api/login",
        "/api/login/code",
        "/api/login/person",
        "/api/orders",
        "/api/orders/{order_id}",
        "/api/orders/{order_id}/attempts",
        "/api/orders/{order_id}/cancel",
        "/api/orders/{order_id}/refunds",
        "/api/wechat/mini-login",
    }
    start = document["paths"]["/api/orders"]["post"]
    assert start["security"] == [{"bearer": []}, {"session": [], "form": []}]
    assert set(start["responses"]) == {
        "201", "400", "401", "403", "404", "409", "412", "413", "415", "422", "429", "503",
    }  # fmt: skip
    body = document["components"]["schemas"]["OrderBody"]
    assert body["properties"]["expected_fen"] == {"type": "integer", "minimum": 1,
                                                  "maximum": MAX_FEN}  # fmt: skip
    assert body["additionalProperties"] is False
