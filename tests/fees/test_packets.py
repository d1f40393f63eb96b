"""Replicated bills: newer versions win, paid ones stay, bad rows stop the file."""

import contextlib
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from estation.fees import packets
from estation.fees.actions import PaidMark, lock_bills
from estation.fees.errors import BillNotFound
from estation.fees.models import Bill, BillAsSent, BillItem
from estation.fees.queries import bill_of, bills_of
from estation.identity.models import Person
from estation.outside.gate.arriving import Arrival, TwoSteps
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.rows import FeeBillRow, FeeItemRow, as_sent, digest
from estation.shared import ids
from estation.shared.outbox import OutboxMessage
from estation.shared.transactions import in_transaction
from tests.fees.marking import mark_paid
from tests.identity.people import ANNA, BO, NOW, VAULT

pytestmark = pytest.mark.usefixtures("database")

PAYEES = {"treasury", "non_tax"}


def item(seq: int = 1, amount_fen: int = 850_000, payee: str = "treasury") -> FeeItemRow:
    return FeeItemRow(
        seq=seq, code="DEED", name="契税", payee_code=payee, base_fen=85_000_000, rate="0.01",
        relief_fen=0, amount_fen=amount_fen, formula="850,000.00 元 × 1%", legal_basis="契税法",
    )  # fmt: skip


def bill(number: int = 1, version: int = 1, **changes: Any) -> FeeBillRow:
    row = FeeBillRow(
        source="jc", source_id=f"b{number}", version=version, region="360101",
        bill_no=f"JF{number}", case_source_id="c1", title="二手房转移登记税费", payer=ANNA,
        state="issued", issued_at=NOW, due_on=date(2026, 3, 31), total_fen=858_000,
        items=[item(1), item(2, 8_000, "non_tax")],
    )  # fmt: skip
    return msgspec.structs.replace(row, **changes)


@pytest.fixture(autouse=True, params=["made ready before", "at its turn"])
def manner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet of which nothing was made ready must end as one that was."""
    monkeypatch.setattr(arrive, "is_ready", request.param == "made ready before", raising=False)


async def arrive(*rows: FeeBillRow, seq: int = 1, at: datetime = NOW) -> None:
    handler = packets.make_handler(VAULT, payees=PAYEES)
    assert isinstance(handler, TwoSteps)
    arrival = Arrival("jc-online", seq, at)
    ready = None
    if getattr(arrive, "is_ready", False):
        with contextlib.suppress(RowRefused):  # as the importer: said again at its turn
            ready = handler.prepare(rows, arrival)
    async with in_transaction():
        await handler.apply(rows, arrival, ready)


async def test_a_bill_arrives_with_its_items_and_payer() -> None:
    await arrive(bill())

    person = await Person.get()
    (listed,) = await bills_of(person.id)
    shown = await bill_of(person.id, listed.id)
    assert shown.total_fen == 858_000
    assert [one.amount_fen for one in shown.items] == [850_000, 8_000]
    assert shown.data_as_of == NOW
    assert ANNA.name.encode() not in bytes(person.name_sealed)


async def test_the_same_packet_again_changes_nothing() -> None:
    await arrive(bill())
    before = await Bill.get()
    await arrive(bill(), at=NOW + timedelta(hours=1))

    assert (await Bill.get()).data_as_of == before.data_as_of
    assert await BillItem.all().count() == 2


async def test_the_same_bill_again_does_not_bring_its_payer_back_to_an_older_state() -> None:
    """A snapshot repeats old rows under a new watermark: the payer has moved on meanwhile."""
    await arrive(bill())
    moved = msgspec.structs.replace(ANNA, phone="13900000009")
    await arrive(bill(2, payer=moved), at=NOW + timedelta(hours=1))
    before = await Person.get()

    await arrive(bill(), at=NOW + timedelta(hours=2))

    after = await Person.get()
    assert after.phone_index == before.phone_index == VAULT.index("phone:13900000009")
    assert after.updated_at == before.updated_at


async def test_a_bill_we_have_says_nothing_of_its_payer_behind_a_new_one_either() -> None:
    """Both in one packet, the old bill last: the new one's word about the payer counts."""
    await arrive(bill())
    moved = msgspec.structs.replace(ANNA, phone="13900000009")

    await arrive(bill(2, payer=moved), bill(), at=NOW + timedelta(hours=1))

    assert (await Person.get()).phone_index == VAULT.index("phone:13900000009")


async def test_payers_are_made_ready_only_while_packets_bring_news() -> None:
    handler = packets.make_handler(VAULT, payees=PAYEES)
    assert isinstance(handler, TwoSteps)
    arrival = Arrival("jc-online", 1, NOW)
    first = handler.prepare([bill()], arrival)
    async with in_transaction():
        await handler.apply([bill()], arrival, first)
        await handler.apply([bill()], arrival, handler.prepare([bill()], arrival))

    assert first is not None
    assert handler.prepare([bill()], arrival) is None


def test_what_is_made_ready_in_a_thread_draws_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a simulated day come from its seed, in the order in which its loop asks."""
    monkeypatch.setattr(ids, "secrets", None)
    handler = packets.make_handler(VAULT, payees=PAYEES)
    assert isinstance(handler, TwoSteps)

    ready = handler.prepare([bill()], Arrival("jc-online", 1, NOW))

    assert ready is not None


async def test_a_payer_of_whom_newer_news_is_known_still_gets_the_bill() -> None:
    await arrive(bill(), at=NOW + timedelta(hours=1))

    await arrive(bill(2), bill(3, payer=BO))

    anna = await Person.get(id_no_index=VAULT.index(f"1:{ANNA.id_no}"))
    assert {shown.bill_no for shown in await bills_of(anna.id)} == {"JF1", "JF2"}
    assert anna.updated_at == NOW + timedelta(hours=1)


async def test_an_older_version_after_a_newer_one_changes_nothing() -> None:
    await arrive(bill(version=2, total_fen=8_000, items=[item(1, 8_000)]))
    await arrive(bill(version=1))

    row = await Bill.get()
    assert (row.version, row.total_fen) == (2, 8_000)


async def test_a_revision_keeps_the_items_of_every_version() -> None:
    await arrive(bill())
    await arrive(bill(version=2, total_fen=8_000, items=[item(1, 8_000)]))

    person = await Person.get()
    (listed,) = await bills_of(person.id)
    assert [one.amount_fen for one in (await bill_of(person.id, listed.id)).items] == [8_000]
    assert await BillItem.filter(version=1).count() == 2


async def test_two_versions_in_one_packet_end_in_the_newer() -> None:
    await arrive(bill(version=1), bill(version=2, state="withdrawn"))

    assert (await Bill.get()).state == "withdrawn"


async def test_a_paid_bill_stays_paid_and_the_news_goes_to_a_person() -> None:
    await arrive(bill())
    row = await Bill.get()
    async with in_transaction():
        await lock_bills([row.id])
        await mark_paid([PaidMark(row.id, 1, NOW)])

    await arrive(bill(version=2, state="withdrawn"))

    row = await Bill.get()
    assert (row.state, row.version, row.paid_version) == ("paid", 2, 1)
    message = await OutboxMessage.get(topic="bill_changed_after_payment")
    assert message.body["state"] == "withdrawn"
    assert message.body["version"] == 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"total_fen": 858_001}, "total"),
        ({"items": [item(1, -1), item(2, 858_001)]}, "amount"),
        ({"items": [item(1), item(1, 8_000)]}, "items"),
        ({"items": []}, "items"),
        ({"items": [item(1), item(2, 8_000, "somebody")]}, "payee"),
        ({"version": 0}, "version"),
        ({"payer": msgspec.structs.replace(ANNA, id_no="110105194912310021")}, "id_no"),
    ],
)
async def test_a_row_that_cannot_be_right_is_refused_and_nothing_is_kept(
    changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(RowRefused, match=word):
        await arrive(bill(2), bill(1, **changes))

    assert await Bill.all().count() == 0
    assert await Person.all().count() == 0


async def test_another_citizens_bill_is_not_found() -> None:
    await arrive(bill(1), bill(2, payer=BO))
    anna = await Person.get(id_no_index=VAULT.index(f"1:{ANNA.id_no}"))
    others = await Bill.get(source_id="b2")

    with pytest.raises(BillNotFound):
        await bill_of(anna.id, others.id)
    assert [shown.bill_no for shown in await bills_of(anna.id)] == ["JF1"]


async def test_a_large_packet_arrives_whole() -> None:
    await arrive(*(bill(n) for n in range(1, 2001)))

    assert await Bill.all().count() == 2000
    assert await BillItem.all().count() == 4000


class TestLocking:
    async def test_the_split_adds_up_to_the_total(self) -> None:
        await arrive(bill())
        row = await Bill.get()
        async with in_transaction():
            (locked,) = await lock_bills([row.id])

        assert locked.payee_split == {"treasury": 850_000, "non_tax": 8_000}
        assert sum(locked.payee_split.values()) == locked.total_fen

    async def test_a_bill_is_not_marked_paid_twice_or_in_another_version(self) -> None:
        await arrive(bill())
        row = await Bill.get()

        with pytest.raises(RuntimeError):
            await mark_paid([PaidMark(row.id, 2, NOW)])
        await mark_paid([PaidMark(row.id, 1, NOW)])
        with pytest.raises(RuntimeError):
            await mark_paid([PaidMark(row.id, 1, datetime.now(UTC))])

    async def test_unknown_ids_are_simply_missing(self) -> None:
        async with in_transaction():
            assert await lock_bills([UUID(int=1)]) == []


@pytest.mark.parametrize("source", ["county", "j", "", "jc-online", "jc-"])
async def test_a_sender_may_not_speak_for_another_source(source: str) -> None:
    with pytest.raises(RowRefused, match="source"):
        await arrive(bill(source=source))

    assert await Bill.all().count() == 0


def test_a_source_is_not_a_longer_one_that_begins_alike() -> None:
    assert Arrival("jc-center-online", 1, NOW).is_from("jc-center")
    assert not Arrival("jc-center-online", 1, NOW).is_from("jc")


async def test_a_bill_keeps_the_digest_of_its_newest_version() -> None:
    await arrive(bill(version=2), bill(version=1))
    before = await Bill.get()
    await arrive(bill(version=1))

    assert before.row_digest == digest(msgspec.json.encode(bill(version=2)))
    assert (await Bill.get()).row_digest == before.row_digest

    await arrive(bill(version=3, title="改"))
    assert (await Bill.get()).row_digest == digest(msgspec.json.encode(bill(version=3, title="改")))


async def test_a_paid_bill_takes_note_of_the_version_that_came_after() -> None:
    """Else the copy would look older than what the sender knows it has sent."""
    await arrive(bill())
    await pay(await Bill.get())

    later = bill(version=2, state="withdrawn")
    await arrive(later)

    row = await Bill.get()
    assert (row.state, row.version) == ("paid", 2)
    assert row.row_digest == digest(msgspec.json.encode(later))


async def test_fields_we_do_not_know_are_kept_sealed() -> None:
    plain, newer = bill(1), bill(2)
    body = msgspec.to_builtins(newer)
    body["items"][0]["discount_card"] = "林晓舟 8 折"
    sent = [as_sent(msgspec.json.encode(plain), plain)]
    sent.append(as_sent(msgspec.json.encode(body), newer))

    for seq in (1, 2):
        async with in_transaction():
            handler = packets.make_handler(VAULT, payees=PAYEES)
            await handler([plain, newer], Arrival("jc-online", seq, NOW, sent))

    kept = await BillAsSent.get()
    assert (kept.source_id, kept.version) == ("b2", 1)
    assert VAULT.open(kept.body_sealed).encode() == sent[1].body
    assert ANNA.name.encode() not in bytes(kept.body_sealed)


async def test_a_county_writes_no_bill_of_another_region() -> None:
    handler = packets.make_handler(VAULT, payees=PAYEES)
    with pytest.raises(RowRefused, match="fee_bill b1 v1: region"):
        async with in_transaction():
            await handler([bill()], Arrival("jc-online", 1, NOW, regions=("360121", "3602")))

    assert await Bill.all().count() == 0
    async with in_transaction():
        await handler([bill()], Arrival("jc-online", 1, NOW, regions=("3601",)))
    assert await Bill.all().count() == 1


async def test_a_refunded_bill_that_is_revised_is_due_anew() -> None:
    await arrive(bill())
    await pay(await Bill.get())
    await Bill.all().update(state="refunded")

    await arrive(bill(version=2))

    row = await Bill.get()
    assert (row.state, row.version, row.paid_at, row.paid_version) == ("payable", 2, None, None)


async def pay(row: Bill) -> None:
    async with in_transaction():
        await lock_bills([row.id])
        await mark_paid([PaidMark(row.id, row.version, NOW)])
