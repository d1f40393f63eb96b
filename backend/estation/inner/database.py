"""Tortoise's configuration of the internal database: its own app and chain of migrations.

The gate's and the outbox's tables exist on both sides, and Tortoise lets a model class belong
to one app per process. Programs serve one side only; whoever opens both after each other (the
demo's first start, the drift check, tests) calls `release_shared_models` in between.
"""

import inspect
import os
from typing import Any

from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.models import Model

from estation.outside.gate import models as gate_models
from estation.shared import outbox
from estation.shared.connections import postgres


def database(url: str) -> dict[str, Any]:
    """For `Tortoise.init` and `migrate`."""
    return {
        "connections": {"default": postgres(url)},
        "apps": {
            "inner": {
                "models": [
                    "estation.inner.models",
                    "estation.outside.gate.models",
                    "estation.shared.outbox",
                ],
                "migrations": "estation.inner.migrations",
            }
        },
        "use_tz": True,
        "timezone": "Asia/Shanghai",
    }


def release_shared_models() -> None:
    """The next database to be initialised gets the models that both sides have.

    Otherwise they silently stay with the first one and are missing from the second. Tortoise
    also remembers its statements by table name, and both sides have a `case_party`.
    """
    EXECUTOR_CACHE.clear()
    for module in (gate_models, outbox):
        for _, model in inspect.getmembers(module, inspect.isclass):
            if issubclass(model, Model) and model is not Model:
                model._meta.app = None


DATABASE = database(os.environ.get("ESTATION_INNER_DATABASE_URL", "asyncpg://localhost/unused"))
"""For `tortoise makemigrations`, which wants a module attribute and touches no database."""
