"""Who a session belongs to, and persons for other contexts; no writes."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tortoise import Tortoise

from estation.identity import rules
from estation.identity.errors import StaffNotFound
from estation.identity.models import StaffUser
from estation.identity.rules import Tier
from estation.shared.crypto import Vault, token_digest
from estation.shared.typed import is_text

_SESSION = """
select s.id, s.csrf_token, s.person_id, s.staff_id, s.phone_index, s.openid,
       s.openid_sealed, s.appid, s.seen_at, s.expires_at, p.name_sealed,
       u.name as staff_name, u.role, u.disabled_at
from session s
left join person p on p.id = s.person_id
left join staff_user u on u.id = s.staff_id
where s.token_digest = $1
"""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who is looking. All of person, staff and phone empty: a login that has only begun."""

    session_id: UUID
    csrf_token: str
    person_id: UUID | None
    staff_id: UUID | None
    role: str | None
    name: str
    openid: str | None
    appid: str | None  # whose openid it is; None: the official account's
    phone_is_proven: bool
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class MaskedParty:
    """A person as somebody of this tier may see them."""

    name: str
    id_no: str
    phone: str


@dataclass(frozen=True, slots=True)
class StaffMember:
    """An officer in office; `id` is the account, which outlasts name and post."""

    id: UUID
    name: str
    role: str


async def staff_by_login(login: str) -> StaffMember:
    """Raises StaffNotFound: no such login, or its account is disabled."""
    may_be = is_text(login)
    user = await StaffUser.get_or_none(login=login, disabled_at=None) if may_be else None
    if user is None:
        raise StaffNotFound
    return StaffMember(user.id, user.name, user.role)


def number_index(id_type: str, id_no: str, *, vault: Vault) -> str:
    """The blind index under which a paper's number, cleaned, is kept wherever it is kept."""
    return vault.index(number_text(id_type, id_no))


def number_indexes(id_type: str, id_no: str, *, vault: Vault) -> tuple[str, ...]:
    """`number_index` first, and those under which the number may still stand while the key of
    personal data is being changed."""
    return vault.indexes(number_text(id_type, id_no))


def number_text(id_type: str, id_no: str) -> str:
    """What the index of a paper's number is made of."""
    return f"{id_type}:{id_no}"


async def viewer_of(token: str, *, vault: Vault, now: datetime) -> Viewer | None:
    """The living session of this token; one query."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        _SESSION, [token_digest(token)]
    )
    if not rows:
        return None
    row = rows[0]
    alive = rules.session_is_alive(
        now=now,
        expires_at=row["expires_at"],
        seen_at=row["seen_at"],
        is_staff=row["staff_id"] is not None,
    )
    if not alive or row["disabled_at"] is not None:
        return None
    name = vault.open(row["name_sealed"]) if row["name_sealed"] else row["staff_name"] or ""
    return Viewer(
        session_id=row["id"],
        csrf_token=row["csrf_token"],
        person_id=row["person_id"],
        staff_id=row["staff_id"],
        role=row["role"],
        name=name,
        openid=openid_in(row["openid"], row["openid_sealed"], vault=vault),
        appid=row["appid"],
        phone_is_proven=row["phone_index"] is not None,
        seen_at=row["seen_at"],
    )


def openid_in(clear: str | None, sealed: bytes | None, *, vault: Vault) -> str | None:
    """The openid of a session, which is clear in rows of before."""
    return vault.open(sealed) if sealed is not None else clear


def openid_index(openid: str, *, vault: Vault) -> str:
    """The blind index under which a binding keeps an openid."""
    return vault.index(f"openid:{openid}")


def openid_indexes(openid: str, *, vault: Vault) -> tuple[str, ...]:
    """`openid_index` first, and those of other keys while the key is being changed."""
    return vault.indexes(f"openid:{openid}")


async def masked_parties(
    person_ids: list[UUID], *, tier: Tier, vault: Vault
) -> dict[UUID, MaskedParty]:
    """Persons masked for this tier, by id."""
    rows = await Tortoise.get_connection("default").execute_query_dict(
        "select id, id_type, name_sealed, id_no_sealed, phone_sealed from person"
        " where id = any($1::uuid[])",
        [person_ids],
    )
    return {
        row["id"]: MaskedParty(
            name=rules.masked_name(vault.open(row["name_sealed"]), tier, id_type=row["id_type"]),
            id_no=rules.masked_id_no(vault.open(row["id_no_sealed"]), tier),
            phone=rules.masked_phone(vault.open(row["phone_sealed"]), tier),
        )
        for row in rows
    }
