"""The citizens of a day: they pay what the online side shows them, at channels that work."""

import random
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

from tortoise import Tortoise

from estation import worker
from estation.outside.pay_channels import Channel, Scene, VerifiedNotice
from estation.payments import api, jobs
from estation.payments.api import (
    BillChoice,
    ProvenLine,
    SettleItem,
    from_notice,
    put_evidence,
    settle_batch,
)
from estation.services import Services
from estation.settings import Settings
from estation.shared.clock import beijing_day
from estation.shared.crypto import Vault
from estation.shared.errors import Refused
from estation.shared.key_files import KeyFiles
from estation.shared.transactions import in_transaction
from estation.simulation.bills import settings_of
from estation.simulation.channels import Paid, SimChannel
from estation.simulation.city import DAWN
from estation.simulation.hazards import Weather

IP, OPENID = "127.0.0.1", "openid-of-a-payer"
RECKONINGS, SECOND_FILES = 0.2, 0.1
"""How often a turn of work reads a channel's bill, and how often it proves a payment once more."""

_PROVABLE = """
select t.id as transfer_id, t.order_id, a.account_id, a.channel, a.out_trade_no,
       t.channel_no as channel_trade_no, a.amount_fen, t.occurred_at as at,
       exists (select from payment_evidence e where e.transfer_id = t.id) as is_proved
from ledger_transfer t join pay_attempt a on a.out_trade_no = t.our_no
where t.kind = 'payment' and t.order_id is not null order by a.out_trade_no
"""


class Payers:
    """All citizens together; also what our worker does about their money."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = DAWN
        self.weather = Weather(chance)
        self.weather.is_calm = True  # this is a day of the gate: payments have worlds of their own
        self._heard: list[SettleItem] = []
        self.services = self._open(settings_of("collected"))

    def hear(
        self, channel: Channel, account_id: str, notice: VerifiedNotice, *, surely: bool = False
    ) -> None:
        """A channel's news is at the door at once."""
        self._heard.append(from_notice(notice, channel=channel, account_id=account_id))

    async def work(self, payments: int, now: datetime) -> list[str]:
        """At most so many payments; what was done."""
        self._now = now
        done = []
        for _ in range(payments):
            try:
                if await self._pay():
                    done.append("pay")
            except Refused:
                continue
        if self._chance.random() < RECKONINGS:
            done += ["prove"] * await self._prove()
        return done

    async def look_after_money(self, now: datetime) -> None:
        """Settle what was heard, send refunds on their way, and tell the centres of both."""
        self._now = now
        for channel in self._channels.values():
            channel.let_refunds_end()
        heard, self._heard = self._heard, []
        if heard:
            await settle_batch(heard, now=now)
        await jobs.send_refunds(self.services, now=now, limit=200)
        await jobs.close_due_orders(self.services, now=now, limit=200)
        await jobs.release_holds(now=now)
        await worker.dispatch_outbox(self.services, now)

    async def _pay(self) -> bool:
        bill = await self._a_payable_bill()
        if bill is None:
            return False
        order = await api.start_order(
            person_id=bill["payer_id"],
            bills=[BillChoice(bill["id"], bill["version"])],
            expected_fen=bill["total_fen"],
            settings=self.services.settings,
            now=self._now,
        )
        channel, scene = self._chance.choice(
            ((Channel.WECHAT_PAY, Scene.NATIVE), (Channel.ALIPAY, Scene.PRECREATE))
        )
        attempt = await api.open_attempt(
            person_id=bill["payer_id"],
            order_id=order.id,
            channel=channel,
            scene=scene,
            services=self.services,
            payer_ip=IP,
            openid=OPENID,
            now=self._now,
        )
        account = self.services.settings.collecting_accounts[channel]
        self._channels[account].pay(
            attempt.out_trade_no, amount_fen=bill["total_fen"], at=self._now
        )
        return True

    async def _prove(self) -> int:
        """A bill of the channels proves what no bill proved before, and a little of it again, as
        a second file of the same day does; so many rows for the centres."""
        rows: Sequence[dict[str, Any]] = await Tortoise.get_connection(
            "default"
        ).execute_query_dict(_PROVABLE)
        file_digest = self._chance.randbytes(32).hex()
        lines = [
            ProvenLine(
                **paid,
                day=beijing_day(paid["at"]),
                file_digest=file_digest,
                file_line=at,
                proved_at=self._now,
            )
            for at, paid in enumerate(rows, 1)
            if not paid.pop("is_proved") or self._chance.random() < SECOND_FILES
        ]
        async with in_transaction() as tx:
            return await put_evidence(tx, lines, vault=self.services.vault, now=self._now)

    async def _a_payable_bill(self) -> dict[str, Any] | None:
        rows: Sequence[dict[str, Any]] = await Tortoise.get_connection(
            "default"
        ).execute_query_dict(
            """select id, payer_id, version, total_fen from bill
               where state = 'payable' and total_fen > 0 order by bill_no limit 200"""
        )
        return dict(self._chance.choice(rows)) if rows else None

    def _open(self, settings: Settings) -> Services:
        paid: dict[str, Paid] = {}
        self._channels = {
            account: SimChannel(
                Channel(account.split(":")[0]), account, lambda: self._now, lambda: self, paid
            )
            for account in settings.collecting_accounts.values()
        }
        nobody: Any = SimpleNamespace()
        return Services(
            settings=settings,
            clock=lambda: self._now,
            vault=Vault.watching(KeyFiles.of(settings), settings.data_key_file),
            pay_code_keys=tuple,
            receipt_keys=tuple,
            channels=cast("dict[str, Any]", self._channels),
            wechat=nobody,
            sms=nobody,
            redis=None,
        )
