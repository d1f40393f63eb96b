"""What may go wrong in a world, as data: how likely, and how often it was met."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Final

LIKELY: Final[Mapping[str, float]] = {
    # what becomes of a notice
    "notice_dropped": 0.20,
    "notice_doubled": 0.25,
    "notice_delayed": 0.35,
    "notice_delayed_25_hours": 0.03,
    # what a channel answers
    "open_unknown_before": 0.04,
    "open_unknown_after": 0.06,
    "open_lands_late": 0.03,
    "open_refused": 0.03,
    "query_unknown": 0.10,
    "close_unknown_before": 0.10,
    "close_unknown_after": 0.10,
    "payer_at_the_password_box": 0.40,
    "channel_clock_ahead": 0.05,
    "channel_clock_behind": 0.05,
    # what a payer does
    "wrong_amount": 0.04,
    # what becomes of a refund
    "refund_unknown_before": 0.06,
    "refund_unknown_after": 0.08,
    "refund_lands_late": 0.08,
    "refund_not_enough": 0.06,
    "refund_refused": 0.08,
    "refund_abnormal": 0.14,
    "refund_closed": 0.25,
    "closed_refund_given_back_after_all": 0.02,  # each time the channel looks at a closed one
    "given_back_another_way_and_after_all": 0.8,
    # what is wrong with a channel's bill of a day
    "bill_unavailable": 0.15,
    "bill_torn": 0.10,
    # what becomes of our own house
    "redis_lost": 0.25,
}
"""Chance of each hazard at each occasion while the weather lasts."""

NOTED: Final = (
    "news_out_of_order",
    "old_news_replayed",
    "both_wallets_at_once",
    "paid_an_old_code",
    "several_bills_in_one_order",
    "bill_revised_while_being_paid",
    "bill_withdrawn_while_being_paid",
    "one_of_several_bills_changed_while_being_paid",
    "combined_native_code",
    "combined_jsapi_code",
    "combined_payment",
    "combined_order_closed_at_the_channel",
    "combined_part_given_back_in_part",
    "combined_part_refund_abnormal",
    "combined_part_refund_closed",
    "refund_asked",
    "suspense_refund_asked",
    "late_money_applied",
    "incident_closed_in_words",
    "incident_rejected",
    "incident_settled_outside",
    "refund_ordered_by_the_centre",
    "closed_refund_given_back_another_way",
    "abnormal_refund_redirected",
    "redirected_refund_paid_by_hand",
    "claim_recovered",
    "claim_written_off",
    "claim_rejected",
    "bill_not_made_yet",
    "bill_line_wrong",
    "bill_corrected",
    "asked_without_redis",
    "killed_before_a_commit",
    "killed_after_a_commit",
    "failed_before_a_commit",
    "failed_after_a_commit",
)
"""Hazards that are events of a story, and blows at commits; counted when they happen."""

ODD_MONEY: Final = (
    "double_payment",
    "paid_after_close",
    "paid_after_expiry",
    "bill_revised",
    "bill_withdrawn",
    "wrong_amount",
    "refund_overpaid",
)
"""Hazards met by money itself, read from the incidents it left; also for each part of a combined
payment, where it is called `combined_…`."""

NEVER: Final = frozenset({"combined_paid_after_expiry"})
"""A combined order is WeChat's, closed there for certain before it expires here; only a code that
Alipay does not know yet can outlive its order's end."""

EXPECTED: Final = (
    frozenset({*LIKELY, *NOTED, *ODD_MONEY, *(f"combined_{kind}" for kind in ODD_MONEY)}) - NEVER
)
"""What a run must have met, each at least once: a generator that loses one of these proves less
than it says."""

RARE: Final = frozenset(
    {
        "abnormal_refund_redirected",
        "claim_rejected",
        "claim_written_off",
        "combined_refund_overpaid",
        "incident_rejected",
        "incident_settled_outside",
        "late_money_applied",
        "paid_after_expiry",
        "redirected_refund_paid_by_hand",
    }
)
"""So seldom that some hundreds of worlds may do without them."""

NEARLY_NEVER: Final = frozenset({"late_money_applied"})
"""Late money is given back by itself: it can only be applied where its refund came to nothing and
its bill is still free, so that also thousands of worlds may do without."""


class Weather:
    """Draws hazards from one seeded chance and counts those that were met."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.is_calm = False
        self.met: Counter[str] = Counter()

    def strikes(self, hazard: str) -> bool:
        if self.is_calm or self._chance.random() >= LIKELY[hazard]:
            return False
        self.met[hazard] += 1
        return True

    def note(self, hazard: str) -> None:
        """A hazard that is an event of the story, not a drawn one. Raises KeyError for a name
        that nobody would miss."""
        if hazard not in EXPECTED:
            raise KeyError(hazard)
        self.met[hazard] += 1
