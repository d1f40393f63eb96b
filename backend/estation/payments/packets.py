"""What arrives through the gate about payments: the centre's refund orders."""

from collections.abc import Sequence
from typing import cast

import structlog
from msgspec import Struct
from tortoise import Tortoise

from estation.outside.gate import more, replicas
from estation.outside.gate.arriving import Seal
from estation.outside.gate.errors import RowRefused
from estation.outside.gate.receiving import Arrival, Handler
from estation.outside.gate.replicas import Replica
from estation.outside.gate.rows import RefundOrderRow
from estation.payments.actions.refunds.centre import follow_orders, keep_orders
from estation.shared.clock import Clock

log = structlog.get_logger()

replicas.register(Replica("refund_order", "centre_refund_order"))


def make_handler(clock: Clock, seal: Seal) -> Handler:
    """The handler of topic `refund_order`. Raises RowRefused for an order of another source
    or region; one that cannot be followed is answered, not refused: the stream goes on.

    An order is followed once, whether it comes again, in a snapshot or as a repair: its number
    is looked for among the refunds and answers, not in the copy that is proved.

    The channels' limits count from now, not from when the centre sealed the file. `seal`: for
    what an order says beyond what we know.
    """

    async def apply_refund_orders(rows: Sequence[Struct], arrival: Arrival) -> None:
        orders = [cast("RefundOrderRow", row) for row in rows]
        for order in orders:
            fault = arrival.fault_of(order)
            if fault:
                raise RowRefused(f"refund_order {order.source_id} v{order.version}: {fault}")
        db = Tortoise.get_connection("default")
        await follow_orders(db, orders, now=clock())
        await replicas.write_as_sent(
            db, "refund_order", [(order.source, order.source_id) for order in orders]
        )
        await keep_orders(
            db,
            [
                (order, sent.digest)
                for order, sent in zip(orders, arrival.as_sent(rows), strict=True)
            ],
            data_as_of=arrival.watermark,
            repairs=arrival.repairs,
        )
        await more.keep("refund_order", rows, arrival, seal=seal, now=clock())
        log.info(
            "refund_orders_applied", stream=arrival.stream, seq=arrival.seq, orders=len(orders)
        )

    return apply_refund_orders
