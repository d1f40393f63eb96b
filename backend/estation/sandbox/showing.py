"""Renders the sandbox's own small pages; no asset comes from anywhere else."""

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sanic import HTTPResponse
from sanic.response import html

from estation.shared.money import display_yuan


def page(template: str, *, status: int = 200, title: str, **values: Any) -> HTTPResponse:
    return html(
        _environment().get_template(template).render(title=title, **values),
        status=status,
        headers={"cache-control": "no-store"},
    )


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["yuan"] = display_yuan
    return made
