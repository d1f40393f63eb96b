"""Who is who: checks of numbers, masking by viewer tier, life of codes and sessions. Pure."""

import re
from datetime import datetime, timedelta
from enum import IntEnum

from stdnum.cn import ric

CODE_LIFE = timedelta(minutes=5)
CODE_TRIES = 5
CODE_PAUSE = timedelta(seconds=60)
CODES_PER_DAY = 10
CODES_PER_ADDRESS_HOUR = 30
BIND_TRIES = 5

CITIZEN_LIFE = timedelta(hours=12)
CITIZEN_IDLE = timedelta(minutes=30)
STAFF_LIFE = timedelta(hours=8)
STAFF_IDLE = timedelta(minutes=15)
LOGIN_LIFE = timedelta(minutes=20)
"""For a login that is not finished: code sent, person not yet confirmed."""

STAFF_TRIES = 5
STAFF_LOCK = timedelta(minutes=15)

ID_CARD = "1"
"""Code table zjzl: the resident identity card (居民身份证)."""

_PHONE = re.compile(r"1[3-9][0-9]{9}")
_ID_TAIL = re.compile(r"[0-9]{5}[0-9X]")


class Tier(IntEnum):
    """Who is looking (facts/domain §8.1)."""

    PUBLIC = 1  # the public, the other party before consent
    PARTY = 2  # a party of the same case, staff lists
    SELF = 3  # one's own record


def is_phone(text: str) -> bool:
    """A mainland mobile number."""
    return _PHONE.fullmatch(text) is not None


def id_tail(text: str) -> str | None:
    """The last six characters of an identity number in capitals, or None."""
    tail = text.strip().upper()
    return tail if _ID_TAIL.fullmatch(tail) else None


def person_fault(*, id_type: str, id_no: str, name: str) -> str:
    """Why a replicated party cannot be a person, as a stable word; "" when it can.

    Only the identity card has a check digit (GB 11643); other papers need just be there.
    """
    if not name.strip() or len(name) > 128:
        return "name"
    if not id_no or len(id_no) > 32:
        return "id_no"
    if id_type == ID_CARD and not (len(id_no) == 18 and _is_card(id_no)):
        return "id_no"
    return ""


def _is_card(id_no: str) -> bool:
    # The six-digit place need not be a current GB/T 2260 code (facts §1.5), so no full validate.
    return id_no[:17].isdigit() and ric.calc_check_digit(id_no) == id_no[17]


def masked_name(name: str, tier: Tier) -> str:
    """张** for the public, 张*丰 for parties, the whole name for oneself."""
    if tier is Tier.SELF:
        return name
    if tier is Tier.PUBLIC:
        return name[:1] + "**"
    if len(name) <= 2:
        return name[:1] + "*"
    return name[:1] + "*" * (len(name) - 2) + name[-1:]


def masked_id_no(id_no: str, tier: Tier) -> str:
    """The length stays; only the ends are shown, by tier."""
    head, tail = {Tier.PUBLIC: (0, 2), Tier.PARTY: (3, 4), Tier.SELF: (6, 4)}[tier]
    if len(id_no) <= head + tail:
        return "*" * len(id_no)
    return id_no[:head] + "*" * (len(id_no) - head - tail) + id_no[-tail:]


def masked_phone(phone: str, tier: Tier) -> str:
    """138****1234 for everyone else."""
    return phone if tier is Tier.SELF else phone[:3] + "****" + phone[-4:]


def session_is_alive(
    *, now: datetime, expires_at: datetime, seen_at: datetime, is_staff: bool
) -> bool:
    """False after the absolute end or when idle for too long."""
    idle = STAFF_IDLE if is_staff else CITIZEN_IDLE
    return now < expires_at and now - seen_at < idle


def safe_next(text: str | None, *, otherwise: str = "/") -> str:
    """A path within this site, else `otherwise`: never a way to somebody else's page."""
    if not text or not re.fullmatch(r"/(?![/\\])[A-Za-z0-9/_\-.?=&%]*", text) or len(text) > 256:
        return otherwise
    return text
