"""What the gate's specification says, read back: its tables of fields, examples and limits.

`python -m tests.outside.gate_document` writes the tables of fields anew from the Structs and
keeps what the last column says; a new field's meaning is left to a person.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, inspect

from estation.outside.gate import format as packets
from estation.outside.gate import rows, symbols

FOLDER = Path(packets.__file__).parent
SPEC = FOLDER / "SPEC.md"
VECTORS = FOLDER / "vectors"
NO_MEANING = "—"

STRUCTS: dict[str, type[Struct]] = {
    found.__name__: found
    for module in (packets, symbols, rows)
    for found in vars(module).values()
    if isinstance(found, type)
    and issubclass(found, Struct)
    and found is not Struct
    and not found.__name__.startswith("_")
    and found.__name__ != "Owner"
}
"""Everything that has fields on the wire."""

_TABLE = re.compile(r"<!-- fields (?P<name>\w+) -->\n(?P<table>(?:\|.*\n)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"```json row=(?P<topic>\w+)\n(?P<json>.*?)\n```", re.DOTALL)
_HEAD = "| field | type | absent | meaning |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Field:
    """One line of a table."""

    name: str
    type: str
    absent: str
    meaning: str = NO_MEANING


def text() -> str:
    return SPEC.read_text(encoding="utf-8")


def tables(document: str) -> dict[str, list[Field]]:
    """Struct name -> what its table says."""
    return {
        match["name"]: [
            Field(*(cell.strip() for cell in line.strip("|").split(" | ")))
            for line in match["table"].splitlines()[2:]
        ]
        for match in _TABLE.finditer(document)
    }


def examples(document: str) -> list[tuple[str, bytes]]:
    """(topic, JSON) of every example row."""
    return [(match["topic"], match["json"].encode()) for match in _EXAMPLE.finditer(document)]


def cells(document: str, heading: str) -> list[list[str]]:
    """The table under a heading, without its head."""
    part = document.split(f"{heading}\n", 1)[1]
    lines = [line for line in part.split("\n#", 1)[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def fields_of(struct: type[Struct]) -> list[Field]:
    """What a Struct's table must say, meanings left out."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return [
        Field(
            f"`{field.encode_name}`",
            _type_text(field.type),
            # A manifest without format or version is refused, though the Struct has them.
            "no" if struct is packets.Manifest else _absent(field),
        )
        for field in info.fields
    ]


def _absent(field: inspect.Field) -> str:
    if field.required:
        return "no"
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return f"`{msgspec.json.encode(default).decode()}`"


def _type_text(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        text = _type_text(kind.type)
        return text.replace("text", "id", 1) if kind.extra == {"id": True} else text
    known = _KINDS.get(type(kind))
    return known(kind) if known else type(kind).__name__


def _text(kind: Any) -> str:
    if kind.pattern is not None:
        # A table's cell cannot hold the sign that separates cells.
        return "text `" + kind.pattern.replace("|", "¦") + "`"
    least, most = kind.min_length or 0, kind.max_length
    return f"text {least}" if least == most else f"text {least}…{most}"


def _integer(kind: Any) -> str:
    return f"integer {kind.ge}…{kind.le}"


def _list(kind: Any) -> str:
    least, most = kind.min_length or 0, kind.max_length
    span = f"{least}" if least == most else f"{least}…{most}"
    return f"list of {span}: {_type_text(kind.item_type)}"


def _union(kind: Any) -> str:
    return " or ".join(_type_text(one) for one in kind.types)


def _literal(kind: Any) -> str:
    return ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in kind.values)


_KINDS: dict[type, Any] = {
    inspect.StrType: _text,
    inspect.IntType: _integer,
    inspect.BoolType: lambda kind: "true or false",
    inspect.NoneType: lambda kind: "null",
    inspect.DateTimeType: lambda kind: "moment",
    inspect.DateType: lambda kind: "day",
    inspect.ListType: _list,
    inspect.UnionType: _union,
    inspect.LiteralType: _literal,
    inspect.StructType: lambda kind: f"{kind.cls.__name__}",
    inspect.RawType: lambda kind: "JSON",
}


def render(document: str) -> str:
    """The document with every table of fields as the Structs are now."""
    meanings = {
        (name, field.name): field.meaning
        for name, found in tables(document).items()
        for field in found
    }

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        lines = [
            f"| {f.name} | {f.type} | {f.absent} | {meanings.get((name, f.name), NO_MEANING)} |\n"
            for f in fields_of(STRUCTS[name])
        ]
        return f"<!-- fields {name} -->\n{_HEAD}{''.join(lines)}"

    return _TABLE.sub(table, document)


if __name__ == "__main__":
    SPEC.write_text(render(text()), encoding="utf-8")
