"""What the books do by themselves: sealing every few seconds, publishing once a day."""

from datetime import datetime

import structlog

from estation.ledger.actions import publishing, sealing
from estation.ledger.actions.sealing import Sealed
from estation.outside.gate.keys import load_seal_key
from estation.settings import Settings

log = structlog.get_logger()


async def seal(now: datetime) -> Sealed | None:
    """Chain what is new; None while another worker does."""
    sealed = await sealing.seal(now)
    if sealed is not None and sealed.blocks:
        log.info("ledger_sealed", blocks=sealed.blocks, transfers=sealed.transfers)
    return sealed


async def publish(settings: Settings, now: datetime) -> int:
    """Publish today's heads that are not yet; the key is read anew, so it may be replaced."""
    published = await publishing.publish_heads(
        key=load_seal_key(settings.secret(settings.ledger_key_file)),
        folder=settings.published_dir,
        now=now,
    )
    if published:
        log.info("ledger_heads_published", heads=published)
    return published
