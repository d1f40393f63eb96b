"""Persons as the counter knows them, how they log in, and staff."""

from enum import StrEnum
from uuid import UUID

from tortoise import fields
from tortoise.models import Model


class StaffRole(StrEnum):
    """Roles of the online side's staff pages."""

    FINANCE_CLERK = "finance_clerk"  # 财务经办
    FINANCE_CHECKER = "finance_checker"  # 财务复核
    OPERATOR = "operator"  # 平台运维


class Person(Model):
    """A citizen identified at a counter; personal data is sealed, found by blind index.

    Name and phone are those of `said_by`, the gate's peer that registered the person, whose
    narrowest region code has `reach` digits. What other peers say is kept in `PersonWord`.
    """

    id = fields.UUIDField(primary_key=True)
    id_type = fields.CharField(max_length=8)
    id_no_index = fields.CharField(max_length=64)
    id_no_sealed = fields.BinaryField()
    id_tail_index = fields.CharField(max_length=64)  # of the last six characters
    name_sealed = fields.BinaryField()
    phone_index = fields.CharField(max_length=64, db_index=True)
    phone_sealed = fields.BinaryField()
    updated_at = fields.DatetimeField()
    said_by = fields.CharField(max_length=64, default="", db_default="")
    reach = fields.SmallIntField(default=6, db_default=6)

    class Meta:
        table = "person"
        unique_together = (("id_type", "id_no_index"),)


class PersonWord(Model):
    """What a peer says of a person that another one registered; nobody logs in by it."""

    id = fields.UUIDField(primary_key=True)
    person: fields.ForeignKeyRelation[Person] = fields.ForeignKeyField(
        "estation.Person", related_name=False, on_delete=fields.RESTRICT
    )
    person_id: UUID
    said_by = fields.CharField(max_length=64)
    name_sealed = fields.BinaryField()
    phone_index = fields.CharField(max_length=64)
    phone_sealed = fields.BinaryField()
    said_at = fields.DatetimeField()

    class Meta:
        table = "person_word"
        unique_together = (("person_id", "said_by"),)


class WechatBinding(Model):
    """An openid of one appid belongs to one person.

    It is only ever looked for; sealed it is kept so that another key can index it anew.
    """

    id = fields.UUIDField(primary_key=True)
    appid = fields.CharField(max_length=32)
    openid = fields.CharField(max_length=128, null=True)  # in rows older than the index
    openid_index = fields.CharField(max_length=64, null=True)
    openid_sealed = fields.BinaryField(null=True)  # null until its owner comes by
    person: fields.ForeignKeyRelation[Person] = fields.ForeignKeyField(
        "estation.Person", related_name=False, on_delete=fields.RESTRICT
    )
    person_id: UUID
    bound_at = fields.DatetimeField()

    class Meta:
        table = "wechat_binding"
        unique_together = (("appid", "openid"), ("appid", "openid_index"))


class LoginCode(Model):
    """A short-message code for one phone: one use, five minutes, five tries."""

    id = fields.UUIDField(primary_key=True)
    phone_index = fields.CharField(max_length=64, db_index=True)
    code_digest = fields.CharField(max_length=64)
    created_at = fields.DatetimeField()
    expires_at = fields.DatetimeField()
    address_index = fields.CharField(max_length=64, db_index=True)
    tries = fields.IntField(default=0)
    wrong_persons = fields.IntField(default=0)  # in logins since this was the phone's newest code
    used_at = fields.DatetimeField(null=True)

    class Meta:
        table = "login_code"


class Session(Model):
    """One logged-in (or logging-in) browser. Only the token's digest is stored.

    Stages of a citizen's login: phone proven (`phone_index` set, `person` null), then the person
    chosen by the last six of the identity number (`person` set). `openid_sealed` is set when the
    browser came through WeChat.
    """

    id = fields.UUIDField(primary_key=True)
    token_digest = fields.CharField(max_length=64, unique=True)
    csrf_token = fields.CharField(max_length=64)
    person: fields.ForeignKeyNullableRelation[Person] = fields.ForeignKeyField(
        "estation.Person", related_name=False, on_delete=fields.RESTRICT, null=True
    )
    person_id: UUID | None
    staff_id = fields.UUIDField(null=True)
    phone_index = fields.CharField(max_length=64, null=True)
    phone_sealed = fields.BinaryField(null=True)  # with it, so that another key finds the person
    openid = fields.CharField(max_length=128, null=True)  # in rows older than the sealed one
    openid_sealed = fields.BinaryField(null=True)
    appid = fields.CharField(max_length=32, null=True)  # whose openid it is; null: official account
    bind_tries = fields.IntField(default=0)
    oauth_state = fields.CharField(max_length=64, null=True)
    created_at = fields.DatetimeField()
    seen_at = fields.DatetimeField()
    expires_at = fields.DatetimeField()

    class Meta:
        table = "session"


class StaffUser(Model):
    """An officer of the online side."""

    id = fields.UUIDField(primary_key=True)
    login = fields.CharField(max_length=32, unique=True)
    name = fields.CharField(max_length=64)
    role = fields.CharEnumField(StaffRole, max_length=32)
    password_hash = fields.CharField(max_length=256)
    failed_logins = fields.IntField(default=0)
    locked_until = fields.DatetimeField(null=True)
    disabled_at = fields.DatetimeField(null=True)

    class Meta:
        table = "staff_user"
