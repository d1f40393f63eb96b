"""The lever that renews the channels' keys, and what it shows."""

from typing import Any

from estation.sandbox import certifying
from estation.sandbox.clocks import rfc3339
from estation.sandbox.hub import Hub
from estation.sandbox.keys import (
    ROTATING,
    KeyRing,
    generation_name,
    platform_serial,
    public_key_id,
)

OLD_LIVES_SECONDS = {"wechat_certificate": 86400, "alipay_certificate": 86400}
"""Certificates overlap for a day; bare keys until somebody ends the old one."""


def turn(
    hub: Hub,
    what: str,
    *,
    step: str,
    answers: str | None,
    notices: str | None,
    old_for_seconds: float | None,
) -> dict[str, Any]:
    """One step of a rotation: new, switch or finish. Raises ValueError."""
    if what not in ROTATING:
        raise ValueError(f"what: one of {', '.join(ROTATING)}")
    slot = hub.keys.slot(what)
    if step == "new":
        seconds = OLD_LIVES_SECONDS.get(what) if old_for_seconds is None else old_for_seconds
        until = None if seconds is None else hub.now_ms() + int(float(seconds) * 1000)
        hub.keys.rotate(what, answers=answers or "both", notices=notices or "both", old_until=until)
    elif step == "switch":
        hub.keys.switch(what, answers=answers or slot.answers, notices=notices or slot.notices)
    elif step == "finish":
        hub.keys.finish(what)
    else:
        raise ValueError("step: new, switch or finish")
    return _shown(hub.keys, what)


def shown(hub: Hub) -> dict[str, Any]:
    """For each rotating key: alive (oldest first), answers, notices, old_until, newest."""
    return {what: _shown(hub.keys, what) for what in ROTATING}


def _shown(keys: KeyRing, what: str) -> dict[str, Any]:
    slot = keys.slot(what)
    return {
        "alive": [_name(keys, what, generation) for generation in slot.alive],
        "answers": slot.answers,
        "notices": slot.notices,
        "old_until": slot.old_until and rfc3339(slot.old_until),
        "newest": _public(keys, what, slot.newest),
    }


def _name(keys: KeyRing, what: str, generation: int) -> str:
    if what == "wechat_public_key":
        return public_key_id(generation)
    if what == "wechat_certificate":
        return platform_serial(keys, generation)
    if what == "alipay_certificate":
        return certifying.cert_sn(keys.certificate(generation_name(what, generation)))
    return f"第 {generation} 把"


def _public(keys: KeyRing, what: str, generation: int) -> str:
    name = generation_name(what, generation)
    is_certificate = what in {"wechat_certificate", "alipay_certificate"}
    return keys.certificate_pem(name) if is_certificate else keys.public_pem(name)
