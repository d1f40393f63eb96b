"""Everything a handler of the sandbox needs, hung on `app.ctx`."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypeAlias

from sanic import Request, Sanic
from sanic.config import Config

from estation.sandbox.clocks import TwoClocks, to_ms
from estation.sandbox.faults import Faults
from estation.sandbox.keys import KeyRing
from estation.sandbox.notifier import Notifier
from estation.sandbox.store import Store


@dataclass(slots=True)
class Hub:
    store: Store
    clocks: TwoClocks
    keys: KeyRing
    faults: Faults
    notifier: Notifier

    def now_ms(self) -> int:
        """Virtual now."""
        return to_ms(self.clocks.now())


class SandboxContext(SimpleNamespace):
    """`hub` is set before the server starts."""

    hub: Hub


SandboxApp: TypeAlias = Sanic[Config, SandboxContext]
SandboxRequest: TypeAlias = Request[SandboxApp, SimpleNamespace]


def wire_target(request: SandboxRequest) -> str:
    """Path and query exactly as they came over the wire, without host."""
    target = request.raw_url.decode("latin-1")
    if target.startswith(("http://", "https://")):  # absolute form, as some SDKs send it
        target = "/" + target.split("/", 3)[3]
    return target
