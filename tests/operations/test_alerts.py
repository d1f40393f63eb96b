"""Every alert reads a metric we export, has a runbook, fires at a planted fault, and is silent
again after an operator did what the runbook says."""

import asyncio
import os
import re
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import yaml
from sanic import Sanic
from tortoise import Tortoise

from estation import measuring, services, worker
from estation import settings as settings_module
from estation.app import create_app
from estation.demo import places as places_module
from estation.demo.places import Places
from estation.local import LocalPostgres
from estation.outside.gate import keys, merkle, peering, receiving, sending, shortage, upkeep
from estation.outside.gate.events import Finding, raise_finding
from estation.outside.gate.rows import ReceivedUpToRow, RowsWantedRow
from estation.outside.gate.shortage import Where
from estation.outside.pay_channels import ChannelUnknown
from estation.outside.pay_channels.outages import SILENCES
from estation.payments import api
from estation.payments.actions import asking, watching
from estation.payments.actions.silences import note_silences
from estation.payments.invariant_meanings import MEANINGS, incident_kind
from estation.payments.invariants import INVARIANTS
from estation.sandbox.credentials import export_secrets, write_credentials
from estation.settings import CONFIG, ROOT, Settings
from estation.shared import connections, logs
from estation.shared.clock import system_clock
from estation.shared.migrating import asyncpg_dsn
from estation.shared.transactions import in_transaction
from tests.operations.promql import Scrape, is_firing, metric_names, scrape
from tests.operations.runbooks import RUNBOOKS, Operator, blocks_of, breaches_now
from tests.outside import counterparts
from tests.payments.city import rows
from tests.payments.plants import PLANTS, LivedIn, by_hand, lived_in
from tests.registry import rows as register

ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for file in sorted((CONFIG / "alerts").glob("*.yml"))
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
INVARIANT_ALERTS = {incident_kind(name): name for name in INVARIANTS}
GATE_STREAM = "jc-center-online"
BACK_STREAM = "online-jc-center"


def test_the_rule_files_have_the_shape_prometheus_wants() -> None:
    for file in sorted((CONFIG / "alerts").glob("*.yml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert content.keys() == {"groups"}
        for group in content["groups"]:
            assert group.keys() == {"name", "rules"}
            for rule in group["rules"]:
                assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
                assert re.fullmatch(r"[a-z_]+", rule["alert"])
                assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
                assert rule["labels"]["severity"] in {"critical", "warning"}
                assert rule["labels"]["owner"] in {"finance", "operator"}
                assert rule["annotations"].keys() == {"summary", "description", "runbook"}


def test_no_two_alerts_share_a_name_and_every_rule_is_read() -> None:
    names = re.findall(
        r"- alert: (\w+)",
        "".join(file.read_text() for file in (CONFIG / "alerts").glob("*.yml")),
    )

    assert sorted(names) == sorted(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_reads_metrics_that_the_program_exports(alert: str) -> None:
    names = metric_names(ALERTS[alert]["expr"])

    assert names
    assert names <= measuring.exported_names()
    is_firing(ALERTS[alert]["expr"], *_nothing())  # every part of the expression is understood


def test_every_invariant_has_its_alert_with_its_owner_and_severity() -> None:
    for alert, name in INVARIANT_ALERTS.items():
        labels = ALERTS[alert]["labels"]
        assert ALERTS[alert]["expr"] == f'estation_invariant_breaches{{name="{name}"}} > 0'
        assert (labels["owner"], labels["severity"]) == (
            MEANINGS[name].owner,
            MEANINGS[name].severity,
        )


def test_every_signal_is_watched_by_an_alert() -> None:
    watched = {name for rule in ALERTS.values() for name in metric_names(rule["expr"])}
    told_only = {"estation_invariants_duration_seconds"}

    assert {signal.name for signal in measuring.SIGNALS} - told_only <= watched


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_names_a_runbook_that_looks_mends_and_makes_sure(alert: str) -> None:
    runbook = ROOT / ALERTS[alert]["annotations"]["runbook"]

    assert runbook == RUNBOOKS / f"{alert}.md"
    text = runbook.read_text(encoding="utf-8")
    for heading in ("**现象**", "**对市民意味着**", "## 先看", "## 处置", "## 如何确认已结束"):
        assert heading in text
    assert {block.purpose for block in blocks_of(runbook)} == {"look", "remedy", "over"}


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(ALERTS)


def test_every_alert_has_a_plant() -> None:
    assert set(FAULTS) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_ends_what_set_off_its_alert(
    alert: str, world: "World", monkeypatch: pytest.MonkeyPatch
) -> None:
    expression = ALERTS[alert]["expr"]
    blocks = blocks_of(RUNBOOKS / f"{alert}.md")
    fault = FAULTS[alert]
    monkeypatch.setattr(
        services, "channels_from_settings", fault.channels or (lambda *_: world.fakes())
    )
    calm = world.scrape()
    assert not is_firing(expression, calm, calm)
    try:
        world.run(fault.plant, world)
        world.look_at_invariants(fault)
        fault.traffic(world)
        fired = world.scrape()
        assert is_firing(expression, calm, fired)

        for purpose in ("look", "remedy"):
            for block in blocks:
                if block.purpose == purpose:
                    codes = world.operator(alert).perform(block)
                    assert purpose == "look" or set(codes) <= {0}, block.text
        before = world.scrape()
        world.look_at_invariants(fault)
        fault.traffic(world)

        for block in blocks:
            if block.purpose == "over":
                assert set(world.operator(alert).perform(block)) == {0}, block.text
        assert not is_firing(expression, before, world.scrape())
    finally:
        fault.always(world)


@pytest.mark.parametrize("alert", ["a_proof_is_late", "a_snapshot_is_late"])
def test_what_never_was_is_late_when_its_stream_is_old_enough(alert: str, world: "World") -> None:
    async def begins() -> None:
        await _packet_arrives(world)
        await _our_worker_turns()
        assert await rows("select stream from gate_proof") == []
        assert await rows("select stream from gate_snapshot where ended_at is not null") == []

    async def grows_old() -> None:
        await by_hand(
            "update gate_incoming_file set received_at = received_at - interval '3 days'",
            "update gate_peer set created_at = created_at - interval '3 days'",
        )

    world.run(begins)
    young = world.scrape()
    world.run(grows_old)
    old = world.scrape()

    assert not is_firing(ALERTS[alert]["expr"], young, young)
    assert is_firing(ALERTS[alert]["expr"], young, old)


@dataclass
class World:
    """A lived-in city in a database of its own, and the program's settings in the environment."""

    postgres: LocalPostgres
    url: str
    places: Places
    lived_in: LivedIn = field(default_factory=lambda: LivedIn(system_clock()))

    @property
    def database(self) -> str:
        return urlsplit(self.url).path.removeprefix("/")

    def run(self, work: Callable[..., Awaitable[Any]], *given: Any) -> Any:
        """In an event loop and a pool of its own, as each command has."""

        async def run() -> Any:
            await Tortoise.init(
                config=settings_module.database(self.url), _enable_global_fallback=True
            )
            try:
                return await work(*given)
            finally:
                await Tortoise.close_connections()

        return asyncio.run(run())

    def scrape(self) -> Scrape:
        now = system_clock()

        async def read() -> bytes:
            return await measuring.exposition(now=now)

        return scrape(self.run(read).decode(), at=now)

    def look_at_invariants(self, fault: "Fault") -> None:
        async def look() -> None:
            await watching.check_invariants(now=system_clock(), again=True)

        if fault.by_the_round:
            self.run(look)

    def fakes(self) -> dict[str, Any]:
        city = self.lived_in.city
        return {one.account_id: one for one in (city.wechat, city.alipay)}

    def operator(self, alert: str) -> Operator:
        return Operator(
            self.postgres,
            self.database,
            {
                "breach": lambda: breaches_now(INVARIANT_ALERTS[alert]),
                "clerk_login": lambda: ["caiwu"],
                "checker_login": lambda: ["fuhe"],
                "operator_login": lambda: ["yunwei"],
                "finance_incident": lambda: self._open_incidents_after_the_checker("finance"),
                "operator_incident": lambda: self._open_incidents_after_the_checker("operator"),
                "breach_incident": lambda: self._column(
                    "select id::text as one from incident"
                    f" where state = 'open' and kind = '{alert}'"
                ),
                "incident_with_money": lambda: self._column(
                    "select id::text as one from incident"
                    " where state = 'open' and kind = 'wrong_amount'"
                ),
                "gate_incident": lambda: self._column(
                    "select id::text as one from incident"
                    " where state = 'open' and kind like 'gate%'"
                ),
                "unrefunded_incident": lambda: self._column(
                    "select id::text as one from incident where kind = 'paid_after_close'"
                ),
                "wrong_transfer": lambda: self._column(
                    "select id::text as one from ledger_transfer where our_no = 'by-hand'"
                ),
            },
        )

    def _open_incidents_after_the_checker(self, owner: str) -> list[str]:
        """What was asked for has been approved at /staff/refunds by then."""

        async def approve() -> None:
            asked = await rows("select distinct request_id from pay_refund where state = 'asked'")
            for row in asked:
                await api.approve_refund(
                    request_id=row["request_id"], by="复核", now=system_clock()
                )

        self.run(approve)
        return self._column(
            f"select id::text as one from incident where state = 'open' and owner = '{owner}'"
        )

    def _column(self, sql: str) -> list[str]:
        return [row["one"] for row in self.run(rows, sql)]


@dataclass(frozen=True)
class Fault:
    """`plant` breaks something; `traffic` is what goes on meanwhile and afterwards; `always` is
    done at the end whatever happens. `channels` replaces the fake channels."""

    plant: Callable[[World], Awaitable[None]]
    traffic: Callable[[World], None] = lambda _: None
    always: Callable[[World], None] = lambda _: None
    channels: Any = None
    by_the_round: bool = False


def _of_invariant(name: str) -> Fault:
    async def plant(world: World) -> None:
        await PLANTS[name](world.lived_in)
        if name == "the_copy_from_inside_is_fresh":
            await _packet_arrives(world)

    return Fault(plant, by_the_round=True)


def _as_invariant(name: str) -> Fault:
    """The same fault, seen by its age and not by the round."""
    return Fault(_of_invariant(name).plant)


async def _incidents_are_four_days_old(world: World) -> None:
    opened = system_clock() - timedelta(days=4)
    await by_hand(
        f"update incident set opened_at = '{opened.isoformat()}',"
        f" due_at = '{(opened + timedelta(days=1)).isoformat()}'"
    )


async def _a_channel_gave_no_answer(world: World) -> None:
    """For twenty minutes; now it would answer, if somebody asked."""
    city = world.lived_in.city
    city.wechat.trouble["query"] = ChannelUnknown("TIMEOUT")
    for minutes in (20, 10, 0):
        then = system_clock() - timedelta(minutes=minutes)
        for _ in range(SILENCES):
            await asking.ask_again(world.lived_in.open_number, city.services, now=then)
        await note_silences(city.services, now=then)
    city.wechat.trouble.clear()
    await by_hand("update pay_attempt set next_query_at = now() where state = 'open'")


async def _rounds_stand_still(world: World) -> None:
    await watching.check_invariants(now=system_clock(), again=True)
    await by_hand("update invariant_check set checked_at = now() - interval '1 hour'")


async def _nobody_seals(world: World) -> None:
    await by_hand("update ledger_transfer set posted_at = now() - interval '6 minutes'")


async def _the_disk_was_full(world: World) -> None:
    """The worker met a full disk at this peer's folder, and stopped before it was cleared."""
    settings = Settings.read()
    await peering.keep_first_peer(
        settings.gate,
        title="市中心",
        sources=["jc-center"],
        secret=settings.secret,
        now=system_clock(),
    )
    await by_hand("update gate_peer set trouble = 'No space left on device', trouble_at = now()")


async def _packet_arrives(world: World) -> None:
    """A sealed heartbeat from inside waits in our incoming folder."""
    outgoing = world.places.data / "device"
    outgoing.mkdir(exist_ok=True)
    key = keys.load_seal_key((world.places.secrets / "gate/jc-center_key.pem").read_bytes())
    await sending.pack_waiting(
        GATE_STREAM, folder=outgoing, key=key, now=system_clock(), heartbeat=True
    )
    for packet in outgoing.iterdir():
        shutil.move(packet, world.places.online_gate / "incoming" / packet.name)


# The gate: the inside is played in the same database, by its own key and stream.


async def _our_worker_turns(times: int = 1) -> None:
    for _ in range(times):
        fates = await worker.work_once(Settings.read())
        assert set(fates.values()) == {"ok"}, fates


async def _inside_holds(which: str = "true") -> None:
    """What it sent: these of the bills that are here."""
    await by_hand(
        f"""insert into gate_sent_row
              (stream, topic, source, key, version, digest, body, at, bucket)
            select '{GATE_STREAM}', 'fee_bill', source, source_id, version,
                   coalesce(row_digest, decode(repeat('00', 32), 'hex')), '{{}}', now(),
                   {merkle.BUCKET_OF.format(key="source_id")}
            from bill where {which} on conflict do nothing"""
    )


async def _a_proof_arrives(world: World) -> None:
    await upkeep.prove(GATE_STREAM)
    await _packet_arrives(world)


async def _inside_lacks_a_bill(world: World) -> None:
    """One that is alone in its bucket, so that no other row is asked for with it."""
    alone = await rows(
        f"""select min(source_id) as one from bill
            group by {merkle.BUCKET_OF.format(key="source_id")}
            having count(*) = 1 and bool_and(state = 'payable') order by 1"""
    )
    await _inside_holds(f"source_id <> '{alone[0]['one']}'")
    await _a_proof_arrives(world)
    await _our_worker_turns(2)


async def _a_copy_differs(world: World) -> None:
    """The inside then sends what it lacked, and another proof is on its way."""
    await _inside_lacks_a_bill(world)
    await _inside_holds()
    await _a_proof_arrives(world)


async def _a_bill_here_is_none_of_the_inside(world: World) -> None:
    await _inside_lacks_a_bill(world)
    key = keys.load_peer_key((world.places.secrets / "gate/online_public.pem").read_bytes())
    await receiving.apply_incoming(
        BACK_STREAM,
        folder=world.places.online_gate / "outgoing",
        peer_key=key,
        handlers={},
        now=system_clock(),
        reply_stream=GATE_STREAM,
    )
    await _packet_arrives(world)
    await _our_worker_turns()


async def _a_unit_breaks_its_rules(world: World) -> None:
    """The corrected version of it is on its way."""
    bad = register.unit(source="jc-center", parcel_code="360102001001GB00013")
    await sending.put_rows(GATE_STREAM, "unit", [bad], now=system_clock())
    await _packet_arrives(world)
    await _our_worker_turns()
    corrected = register.unit(source="jc-center", version=2)
    await sending.put_rows(GATE_STREAM, "unit", [corrected], now=system_clock())
    await _packet_arrives(world)


async def _nothing_was_proved_for_hours(world: World) -> None:
    await _inside_holds()
    await _a_proof_arrives(world)
    await _our_worker_turns()
    await by_hand("update gate_proof set at = now() - interval '4 hours'")
    await _a_proof_arrives(world)


async def _the_last_snapshot_is_old(world: World) -> None:
    await _our_worker_turns()
    await by_hand(
        f"""insert into gate_snapshot
              (id, stream, why, state, topic, source, key, is_exhausted, rows, planned_at, ended_at)
            values ('{uuid4()}', '{BACK_STREAM}', 'schedule', 'done', '', '', '', true, 0,
                    now() - interval '3 days', now() - interval '3 days')"""
    )


async def _the_disk_was_nearly_full(world: World) -> None:
    await _our_worker_turns()
    await by_hand(
        "update gate_upkeep set paused_reason = 'disk_low', paused_at = now() - interval '1 hour'"
    )
    await by_hand("update gate_outgoing_stream set packed_at = now() - interval '1 hour'")


async def _little_room_is_left(world: World) -> None:
    await _our_worker_turns()
    await by_hand(f"update gate_peer set disk_free = {100 * 1024 * 1024}")


async def _a_further_folder_was_not_mounted(world: World) -> None:
    """It is back, and the worker has not looked since."""
    await _our_worker_turns()
    await by_hand(
        f"""insert into gate_destination
              (id, stream, folder, written_seq, passed_over, failure, failed_at, created_at)
            values ('{uuid4()}', '{BACK_STREAM}', '{world.places.data / "spare"}', 0, 0,
                    'no answer', now(), now())"""
    )


async def _the_disk_had_no_room(world: World) -> None:
    """A shortage began a while ago; the disk has room by now."""
    await _our_worker_turns()
    await shortage.begins(
        GATE_STREAM, Where.disk, detail={}, alarm=worker.open_gate_incident, now=system_clock()
    )


async def _the_inside_was_silent(world: World) -> None:
    """Two packets with content, two hours ago and large; only now its word is on its way."""
    for bucket in (1, 2):
        wanted = RowsWantedRow(
            stream=GATE_STREAM, topic="fee_bill", source="jc-center", buckets=[bucket]
        )
        await sending.put_rows(BACK_STREAM, "rows_wanted", [wanted], now=system_clock())
        await _our_worker_turns()
    await by_hand("update gate_outgoing_packet set created_at = now() - interval '2 hours'")
    (last,) = await rows(
        f"""update gate_outgoing_packet p set bytes_upto = bytes_upto + {2 * 1024**3}
            from gate_outgoing_stream s
            where s.stream = '{BACK_STREAM}' and p.stream = s.stream and p.seq = s.last_seq
            returning p.seq, p.digest"""
    )
    word = ReceivedUpToRow(stream=BACK_STREAM, at=system_clock(), **last)
    await sending.put_rows(GATE_STREAM, "received_up_to", [word], now=system_clock())
    await _packet_arrives(world)


async def _the_inside_received_something_else(world: World) -> None:
    """So it said; only now a word that agrees is on its way."""
    wanted = RowsWantedRow(stream=GATE_STREAM, topic="fee_bill", source="jc-center", buckets=[1])
    await sending.put_rows(BACK_STREAM, "rows_wanted", [wanted], now=system_clock())
    await _our_worker_turns()
    (sent,) = await rows(
        f"""select last_seq as seq, last_digest as digest from gate_outgoing_stream
            where stream = '{BACK_STREAM}'"""
    )
    for said in ({**sent, "digest": "f" * 64}, sent):
        word = ReceivedUpToRow(stream=BACK_STREAM, at=system_clock(), **said)
        await sending.put_rows(GATE_STREAM, "received_up_to", [word], now=system_clock())
        await _packet_arrives(world)
        if said is not sent:
            await _our_worker_turns()


async def _another_history_arrives(world: World) -> None:
    """What was applied as the first packet comes again with another content, rightly sealed."""
    await _packet_arrives(world)
    await _our_worker_turns()
    await by_hand(
        f"delete from gate_outgoing_packet where stream = '{GATE_STREAM}'",
        f"delete from gate_outgoing_stream where stream = '{GATE_STREAM}'",
    )
    await _packet_arrives(world)
    await _our_worker_turns()


def _finding(kind: str) -> Fault:
    async def plant(world: World) -> None:
        found = Finding(kind, GATE_STREAM, 7, "fee_bill", "jc-center", 1, ["F000001"])
        async with in_transaction():
            await raise_finding(found, worker.open_gate_incident, now=system_clock())

    return Fault(plant)


# Traffic: notices at the door of the real program.


def _ring(world: World, sent: Callable[[], tuple[dict[str, str], bytes]], *, times: int) -> None:
    """Open the program, ring its door, close it: each traffic is after a restart."""

    async def ring() -> None:
        app: Any = create_app(name=f"door-{uuid4().hex}", settings=Settings.read())
        app.config.TOUCHUP = False  # it rewrites functions once per process
        door = socket.create_server(("127.0.0.1", 0))
        server: Any = await app.create_server(
            sock=door, return_asyncio_server=True, access_log=False
        )
        await server.startup()
        await server.before_start()
        await server.start_serving()
        try:
            address = f"http://127.0.0.1:{door.getsockname()[1]}/notices/wechat-pay/1900000109"
            async with aiohttp.ClientSession() as http:
                for _ in range(times):
                    headers, body = sent()
                    async with http.post(address, headers=headers, data=body) as answer:
                        await answer.read()
        finally:
            await server.close()
            await server.after_stop()
            Sanic._app_registry.pop(app.name, None)

    asyncio.run(ring())


def _news_of_the_open_order(world: World) -> None:
    """The channel tells, three times, that the open order is paid."""
    channel, number = world.lived_in.city.wechat, world.lived_in.open_number
    channel.pay(number, at=world.lived_in.now)
    headers = {"wechatpay-signature": "good", "content-type": "application/json"}
    body = f'{{"out_trade_no": "{number}"}}'.encode()
    _ring(world, lambda: (headers, body), times=3)


def _signed_news(world: World) -> None:
    """Notices rightly signed with the channel's present key."""

    def sent() -> tuple[dict[str, str], bytes]:
        notice = counterparts.WechatNotice(timestamp=str(int(system_clock().timestamp())))
        return notice.sent()

    _ring(world, sent, times=25)


async def _the_channel_changed_its_key(world: World) -> None:
    folder = world.places.secrets / "wechat_pay"
    (folder / "api_v3.key").write_bytes(counterparts.API_V3_KEY)
    new = world.places.data / "new_platform_key.pem"
    new.write_bytes(counterparts.public_pem("platform"))
    os.environ["NEW_PLATFORM_KEY"] = str(new)


async def _a_session_holds_the_orders(world: World) -> None:
    """Somebody's editor, left open in the middle of a transaction."""
    connections.WAITS["lock_timeout"] = "1500ms"  # the same wait, shorter
    entered = threading.Event()

    async def hold() -> None:
        ended = asyncio.Event()
        connection = await asyncpg.connect(asyncpg_dsn(world.url))
        connection.add_termination_listener(lambda _: ended.set())
        await connection.execute("begin; lock table pay_order in access exclusive mode")
        entered.set()
        await ended.wait()

    threading.Thread(target=lambda: asyncio.run(hold()), daemon=True).start()
    await asyncio.to_thread(entered.wait, 10)


def _nobody_holds_anything(world: World) -> None:
    connections.WAITS["lock_timeout"] = "10s"
    world.postgres.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        f" where datname = '{world.database}' and pid <> pg_backend_pid()"
    )


async def _read_only(world: World) -> None:
    """As after a failover that nobody finished."""
    await by_hand(f"alter database {world.database} set default_transaction_read_only = on")


async def _closed(world: World) -> None:
    world.postgres.psql(f"alter database {world.database} allow_connections false")
    world.postgres.psql(
        f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{world.database}'"
    )


FAULTS: dict[str, Fault] = {
    **{alert: _of_invariant(name) for alert, name in INVARIANT_ALERTS.items()},
    "inbox_stands_still": _as_invariant("news_is_settled_in_time"),
    "questions_are_late": _as_invariant("attempts_are_asked_about_in_time"),
    "a_channel_is_out": Fault(_a_channel_gave_no_answer),
    "outbox_stands_still": _as_invariant("messages_leave_in_time"),
    "messages_are_dead": _as_invariant("no_message_is_dead"),
    "incidents_are_overdue": _as_invariant("an_overdue_incident_is_escalated"),
    "an_incident_is_old": Fault(_incidents_are_four_days_old),
    "the_gate_lags": _as_invariant("the_copy_from_inside_is_fresh"),
    "the_gate_stands_still": _as_invariant("no_incoming_stream_stands_still"),
    "a_gate_peer_fails": Fault(_the_disk_was_full),
    "a_gate_disk_fills": Fault(_little_room_is_left),
    "a_destination_fails": Fault(_a_further_folder_was_not_mounted),
    "packing_is_paused": Fault(_the_disk_was_nearly_full),
    "a_peer_has_another_history": Fault(_the_inside_received_something_else),
    "a_peer_confirms_nothing": Fault(_the_inside_was_silent),
    "unconfirmed_packets_pile_up": Fault(_the_inside_was_silent),
    "a_copy_differs": Fault(_a_copy_differs),
    "a_proof_is_late": Fault(_nothing_was_proved_for_hours),
    "a_snapshot_is_late": Fault(_the_last_snapshot_is_old),
    "a_copy_was_repaired": _finding("repaired"),
    "a_copy_cannot_be_healed": _finding("unhealed"),
    "rows_are_unknown_to_their_source": Fault(_a_bill_here_is_none_of_the_inside),
    "a_snapshot_replaced_lost_packets": _finding("jumped"),
    "a_stream_is_stopped": Fault(_another_history_arrives),
    "a_row_is_refused": Fault(_a_unit_breaks_its_rules),
    "a_file_is_incomplete": _finding("file_incomplete"),
    "there_is_no_room": Fault(_the_disk_had_no_room),
    "rows_wait_at_the_gate": _as_invariant("rows_leave_through_the_gate_in_time"),
    "the_books_are_not_sealed": Fault(_nobody_seals),
    "invariants_are_not_looked_at": Fault(_rounds_stand_still),
    "notices_answered_slowly": Fault(
        _a_session_holds_the_orders, _news_of_the_open_order, always=_nobody_holds_anything
    ),
    "notices_refused": Fault(
        _the_channel_changed_its_key, _signed_news, channels=services.channels_from_settings
    ),
    "notices_not_settled": Fault(_read_only, _news_of_the_open_order),
    "the_database_is_lost": Fault(
        _closed,
        always=lambda world: (
            world.postgres.psql(f"alter database {world.database} allow_connections true") and None
        ),
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Folders, keys and secrets as the demo makes them; nothing listens."""
    made = Places(tmp_path_factory.mktemp("operations"), 1, 1, 1)
    places_module.make_folders(made)
    write_credentials(made.sandbox_data, made.sandbox_url)
    export_secrets(made.sandbox_data, made.secrets)
    places_module.make_data_key(made)
    places_module.make_ledger_key(made)
    for side in ("online", "jc-center"):
        keys.make_pair(
            private=made.secrets / f"gate/{side}_key.pem",
            public=made.secrets / f"gate/{side}_public.pem",
        )
    return made


@pytest.fixture
def world(
    postgres: LocalPostgres,
    own_database_url: str,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    for folder in (
        places.online_gate / "incoming",
        places.online_gate / "outgoing",
        places.published,
    ):
        for left in folder.iterdir():
            left.unlink() if left.is_file() else shutil.rmtree(left)
    export_secrets(places.sandbox_data, places.secrets)
    environment = places_module.child_environment(
        places, online_db=own_database_url, inner_db="unused", redis="redis://127.0.0.1:1/0"
    )
    for name, value in environment.items():
        if name.startswith("ESTATION_"):
            monkeypatch.setenv(name, value)
    # A command's output ends with it; loggers that kept it would write to a closed file.
    monkeypatch.setattr(logs, "configure", lambda **_: None)
    made = World(postgres, own_database_url, places)

    async def begin() -> LivedIn:
        world = await lived_in(system_clock())
        # The receipts have left: whatever lies in the outbox afterwards is the fault's.
        await by_hand("update outbox_message set sent_at = created_at")
        await by_hand(
            """insert into staff_user (id, login, name, role, password_hash, failed_logins) values
               (gen_random_uuid(), 'caiwu', '何敏', 'finance_clerk', '', 0),
               (gen_random_uuid(), 'fuhe', '罗建平', 'finance_checker', '', 0),
               (gen_random_uuid(), 'yunwei', '丁一', 'operator', '', 0)"""
        )
        await watching.check_invariants(now=system_clock(), again=True)
        return world

    made.lived_in = made.run(begin)
    return made


def _nothing() -> tuple[Scrape, Scrape]:
    empty = Scrape(system_clock(), {})
    return empty, empty
