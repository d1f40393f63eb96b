"""Messages of the official account that were heard."""

from datetime import datetime

from tortoise import fields
from tortoise.models import Model


class HeardMessage(Model):
    """One message, however often WeChat delivered it; nothing of who sent it or what it said."""

    key = fields.CharField(max_length=64, primary_key=True)
    kind = fields.CharField(max_length=100)
    reply = fields.TextField()
    deliveries = fields.IntField(default=1)
    heard_at: datetime = fields.DatetimeField(db_index=True)

    class Meta:
        table = "official_account_message"
