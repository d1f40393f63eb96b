"""Who is who: checks of numbers, masking by viewer tier, life of codes and sessions. Pure."""

import functools
import re
from datetime import date, datetime, timedelta
from enum import IntEnum
from ipaddress import IPv6Address, ip_address

from estation.shared.identity_papers import RESIDENT_CARD, valid_paper

CODE_LIFE = timedelta(minutes=5)
CODE_TRIES = 5
CODE_PAUSE = timedelta(seconds=60)
CODES_PER_DAY = 10
CODES_PER_ADDRESS_HOUR = 30
CODES_KEPT = timedelta(days=1)
BIND_TRIES = 5
WRONG_PERSONS_PER_DAY = 15
"""For a phone, over all its logins: whoever bought a recycled number may ask for new codes, but
learns nothing by trying the last holder's identity number."""

CITIZEN_LIFE = timedelta(hours=12)
CITIZEN_IDLE = timedelta(minutes=30)
STAFF_LIFE = timedelta(hours=8)
STAFF_IDLE = timedelta(minutes=15)
LOGIN_LIFE = timedelta(minutes=20)
"""For a login that is not finished: code sent, person not yet confirmed."""

STAFF_TRIES = 5
STAFF_LOCK = timedelta(minutes=15)

_ORGANISATIONS = frozenset({"6", "7", "8"})
"""Code table zjzl: organisation code, business licence, unified social credit code."""

_PHONE = re.compile(r"1[3-9][0-9]{9}")
_ID_TAIL = re.compile(r"[0-9A-Z]{6}")
_BUILDING = re.compile(r".*(?:小区|花园|公寓|大厦|幢|栋|座|号楼)")
_STREET = re.compile(r".*?号")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")


class Tier(IntEnum):
    """Who is looking (facts/domain §8.1)."""

    PUBLIC = 1  # the public, the other party before consent
    PARTY = 2  # a party of the same case, staff lists
    SELF = 3  # one's own record


def is_phone(text: str) -> bool:
    """A mainland mobile number."""
    return _PHONE.fullmatch(text) is not None


def clean_phone(text: str) -> str:
    """As people and counters write it: without blanks, hyphens and the country's prefix."""
    if is_phone(text):
        return text
    return re.sub(r"^(?:\+|00)86", "", re.sub(r"[\s-]", "", text))


def clean_id_no(text: str) -> str:
    """One spelling per number, so that one person stays one: no blanks around, capitals."""
    return text.strip().upper()


def id_tail(text: str) -> str | None:
    """The last six characters of an identity number in capitals, or None."""
    tail = clean_id_no(text)
    return tail if _ID_TAIL.fullmatch(tail) else None


@functools.lru_cache(maxsize=4096)
def address_key(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the /64 that an IPv6 user owns."""
    try:
        parsed = ip_address(address.strip("[]"))  # Sanic brackets what a proxy told it
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}/64"


def person_fault(*, id_type: str, id_no: str, name: str, today: date) -> str:
    """Why a replicated party cannot be a person, as a stable word; "" when it can.

    Numbers are judged as the internal platform judges them before it sends them.
    """
    if not name.strip() or len(name) > 128:
        return "name"
    return "" if valid_paper(id_type, id_no, today=today) else "id_no"


def masked_name(name: str, tier: Tier, *, id_type: str = RESIDENT_CARD) -> str:
    """张** for the public, 张*丰 for parties, the whole name for oneself and of organisations."""
    if tier is Tier.SELF or id_type in _ORGANISATIONS:
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
    """138****1234 for everyone else; of a number too short for that, nothing."""
    if tier is Tier.SELF:
        return phone
    return phone[:3] + "****" + phone[-4:] if len(phone) >= 11 else "*" * len(phone)


def masked_bank_card(number: str) -> str:
    """The last four, for everyone."""
    return "*" * max(len(number) - 4, 0) + number[-4:] if len(number) > 4 else "*" * len(number)


def masked_address(address: str, tier: Tier) -> str:
    """坐落: the public sees it up to the estate or building, never the room."""
    if tier is not Tier.PUBLIC:
        return address
    shown = _BUILDING.match(address) or _STREET.match(address)
    return (shown[0] if shown else address[: len(address) // 2]) + "****"


def masked_certificate_no(number: str, tier: Tier) -> str:
    """证号: the public sees the year and the last two digits."""
    if tier is not Tier.PUBLIC:
        return number
    year, digits = _YEAR.search(number), re.findall(r"[0-9]", number)
    return (f"({year[0]})" if year else "") + "****" + "".join(digits[-2:])


def session_is_alive(
    *, now: datetime, expires_at: datetime, seen_at: datetime, is_staff: bool
) -> bool:
    """False after the absolute end or when idle for too long."""
    idle = STAFF_IDLE if is_staff else CITIZEN_IDLE
    return now < expires_at and now - seen_at < idle


def needs_nobody(path: str) -> bool:
    """True for pages of ours that serve somebody who has not logged in: WeChat's word on the
    openid is all they need."""
    return path.startswith("/c/")


def safe_next(text: str | None, *, otherwise: str = "/") -> str:
    """A path within this site, else `otherwise`: never a way to somebody else's page."""
    if not text or not re.fullmatch(r"/(?![/\\])[A-Za-z0-9/_\-.?=&%]*", text) or len(text) > 256:
        return otherwise
    return text
