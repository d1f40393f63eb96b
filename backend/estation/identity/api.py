"""What other contexts may ask of identity. Everything else here is private."""

from estation.identity.actions.citizens import (
    begin_wechat_login,
    choose_person,
    login_with_code,
    login_with_mini_program,
    login_with_wechat,
    send_login_code,
)
from estation.identity.actions.persons import (
    SealedPersons,
    Speaker,
    put_persons,
    seal_persons,
    upsert_persons,
)
from estation.identity.actions.sealing import walks_over_openids
from estation.identity.actions.sessions import OpenedSession, forget_expired, logout
from estation.identity.actions.staff import ensure_staff, login_staff
from estation.identity.errors import BadPerson, LoginRequired
from estation.identity.guards import (
    Citizen,
    address_of,
    attach_viewer,
    citizen,
    citizen_only,
    clear_session_cookie,
    code_holder,
    public,
    set_session_cookie,
    staff_only,
)
from estation.identity.queries import (
    MaskedParty,
    StaffMember,
    Viewer,
    masked_parties,
    number_index,
    number_indexes,
    number_text,
    staff_by_login,
)
from estation.identity.rules import Tier, address_key, safe_next

__all__ = [
    "BadPerson",
    "Citizen",
    "LoginRequired",
    "MaskedParty",
    "OpenedSession",
    "SealedPersons",
    "Speaker",
    "StaffMember",
    "Tier",
    "Viewer",
    "address_key",
    "address_of",
    "attach_viewer",
    "begin_wechat_login",
    "choose_person",
    "citizen",
    "citizen_only",
    "clear_session_cookie",
    "code_holder",
    "ensure_staff",
    "forget_expired",
    "login_staff",
    "login_with_code",
    "login_with_mini_program",
    "login_with_wechat",
    "logout",
    "masked_parties",
    "number_index",
    "number_indexes",
    "number_text",
    "public",
    "put_persons",
    "safe_next",
    "seal_persons",
    "send_login_code",
    "set_session_cookie",
    "staff_by_login",
    "staff_only",
    "upsert_persons",
    "walks_over_openids",
]
