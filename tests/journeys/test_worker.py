"""The worker's own duties: a message that will not go becomes somebody's business."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from estation import worker
from estation.payments.models import Incident
from estation.shared import outbox

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)


async def test_a_message_that_never_goes_opens_an_incident(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(body: dict[str, Any], now: datetime) -> None:
        raise RuntimeError("no folder")

    monkeypatch.setattr(worker, "handlers", lambda services: {"receipt": broken})
    services: Any = None
    await outbox.put("receipt", {"bill_no": "JF1"}, now=NOW)
    moment = NOW
    for _ in range(outbox.MAX_TRIES):
        await worker.dispatch_outbox(services, moment)
        moment += timedelta(minutes=11)

    incident = await Incident.get()
    assert (incident.kind, incident.owner) == ("message_not_delivered", "operator")
    assert incident.evidence["body"] == {"bill_no": "JF1"}
    assert await worker.dispatch_outbox(services, moment) == 0


async def test_a_delivered_message_is_not_delivered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    async def take(body: dict[str, Any], now: datetime) -> None:
        seen.append(body)

    monkeypatch.setattr(worker, "handlers", lambda services: {"receipt": take})
    services: Any = None
    await outbox.put("receipt", {"n": 1}, now=NOW)

    await worker.dispatch_outbox(services, NOW)
    await worker.dispatch_outbox(services, NOW + timedelta(hours=1))

    assert seen == [{"n": 1}]
