"""A small city for payment tests: bills, a citizen, services around fake channels."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from tortoise import Tortoise

from estation.fees.models import Bill, BillItem
from estation.fees.rules import BillState
from estation.outside.pay_channels import Channel, ChannelReport, ChannelState, Scene
from estation.outside.pay_channels.outages import Outages
from estation.payments import api
from estation.payments.api import AttemptView, BillChoice, OrderView
from estation.services import Services
from tests.outside.counterparts import VAULT
from tests.payments.fakes import NOW, FakeChannel, alipay, wechat

MONEY = "kind not in ('hold', 'hold_release')"
"""Transfers of any kind that move money: all but the memo of what open orders are to bring."""

SHARES = {"treasury": 817_524, "non_tax": 8_000}
TOTAL = sum(SHARES.values())


async def make_bill(
    payer_id: UUID, shares: dict[str, int] | None = None, *, now: datetime = NOW
) -> Bill:
    """A payable bill of version 1 with one item per payee."""
    shares = SHARES if shares is None else shares
    bill_id = uuid4()
    bill = Bill(
        id=bill_id,
        source="jc-center",
        source_id=str(bill_id),
        version=1,
        region="360101",
        bill_no=f"B{bill_id.hex[:12]}",
        case_source_id="case-1",
        payer_id=payer_id,
        title="存量房买卖税费",
        state=BillState.PAYABLE,
        total_fen=sum(shares.values()),
        issued_at=now,
        data_as_of=now,
    )
    await bill.save(force_create=True)
    for seq, (payee, amount_fen) in enumerate(shares.items(), start=1):
        await BillItem(
            id=uuid4(),
            bill_id=bill_id,
            version=1,
            seq=seq,
            code="deed_tax",
            name="契税",
            payee_code=payee,
            base_fen=None,
            rate="",
            relief_fen=0,
            amount_fen=amount_fen,
            formula="",
            legal_basis="",
            note="",
        ).save(force_create=True)
    return bill


COMBINING = "wechat_combine:1900000100"
MERCHANTS = {"treasury": "wechat_pay:1900000201", "non_tax": "wechat_pay:1900000202"}


def make_settings(*, merchants: dict[str, str] | None = None, combining: bool = True) -> Any:
    """What payments reads of the settings; `merchants` are the payees' own at WeChat Pay."""
    own = merchants or {}
    return SimpleNamespace(
        city_name="江城市",
        public_url="http://127.0.0.1:8000",
        order_minutes=15,
        collecting_accounts={
            "wechat_pay": "wechat_pay:1900000109",
            "alipay": "alipay:2021000000000109",
        },
        combining_accounts={"wechat_pay": COMBINING} if own and combining else {},
        wechat_pay=[
            SimpleNamespace(
                account_id=account_id, name=f"{account_id[-3:]} 号专户", mini_appid="wx-mini"
            )
            for account_id in ("wechat_pay:1900000109", *own.values())
        ],
        wechat_combine=[],
        alipay=[],
        hall=SimpleNamespace(name="登记大厅", phone="12345", hours="工作日"),
        wechat=SimpleNamespace(appid="wx-official"),
        mini_program=SimpleNamespace(appid="wx-mini"),
        payees=[
            SimpleNamespace(
                code=code,
                name=name,
                merchants={"wechat_pay": own[code]} if code in own else {},
            )
            for code, name in (
                ("treasury", "国家金库江城市中心支库（税务）"),
                ("non_tax", "江城市财政非税收入专户（不动产登记费）"),
            )
        ],
    )


@dataclass
class City:
    """One citizen before our desk, and both channels."""

    wechat: FakeChannel = field(default_factory=wechat)
    alipay: FakeChannel = field(default_factory=alipay)
    person_id: UUID = field(default_factory=uuid4)
    merchants: dict[str, str] = field(default_factory=dict)
    others: list[FakeChannel] = field(default_factory=list)
    outages: Outages = field(default_factory=Outages)

    @property
    def services(self) -> Services:
        channels = [self.wechat, self.alipay, *self.others]
        return cast(
            Services,
            SimpleNamespace(
                settings=make_settings(merchants=self.merchants),
                channels={channel.account_id: channel for channel in channels},
                clock=lambda: NOW,
                outages=self.outages,
                vault=VAULT,
            ),
        )

    async def order(self, *bills: Bill, now: datetime = NOW) -> OrderView:
        return await api.start_order(
            person_id=self.person_id,
            bills=[BillChoice(bill.id, bill.version) for bill in bills],
            expected_fen=sum(bill.total_fen for bill in bills),
            settings=make_settings(),
            now=now,
        )

    async def attempt(
        self,
        order: OrderView,
        channel: Channel = Channel.WECHAT_PAY,
        scene: Scene = Scene.NATIVE,
        *,
        now: datetime = NOW,
    ) -> AttemptView:
        return await api.open_attempt(
            person_id=self.person_id,
            order_id=order.id,
            channel=channel,
            scene=scene,
            services=self.services,
            payer_ip=None,
            openid="o-1",
            now=now,
        )

    async def opened(self, shares: dict[str, int] | None = None) -> tuple[Bill, OrderView, str]:
        """A bill, its open order, and the number of an open WeChat attempt."""
        bill = await make_bill(self.person_id, shares)
        order = await self.order(bill)
        attempt = await self.attempt(order)
        return bill, order, attempt.out_trade_no

    def paid(self, number: str, **changes: Any) -> ChannelReport:
        """The WeChat channel's word that `number` is paid (and from now on it says so)."""
        if number in self.wechat.trades:
            self.wechat.pay(number, amount_fen=changes.pop("amount_fen", None))
            return self.wechat.report(number)
        return ChannelReport(
            channel=Channel.WECHAT_PAY,
            account_id=self.wechat.account_id,
            out_trade_no=number,
            state=ChannelState.PAID,
            channel_trade_no=changes.get("trade_no", "4200000000000000000000009999"),
            paid_fen=changes.get("amount_fen", TOTAL),
            paid_at=NOW,
        )


async def rows(sql: str, *values: Any) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(
        sql, list(values)
    )
    return result


async def count(table: str, where: str = "true") -> int:
    found = await rows(f"select count(*) as n from {table} where {where}")
    return int(found[0]["n"])


def later(**passed: float) -> datetime:
    return NOW + timedelta(**passed)
