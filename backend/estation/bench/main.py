"""`estation bench`: which measurement, and how large."""

from typing import Annotated

import typer
from rich.console import Console

from estation.bench import callback as callback_bench
from estation.bench import gate as gate_bench
from estation.bench import settle as settle_bench

BENCHES = ("callback", "settle", "gate")


def bench(
    name: Annotated[str, typer.Argument(help=" | ".join(BENCHES))],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for programs.")] = False,
    orders: Annotated[
        str, typer.Option(help="settle: how many orders the tables hold, e.g. 10000,10000000")
    ] = ",".join(map(str, settle_bench.SIZES)),
    rows: Annotated[int, typer.Option(help="gate: how many bills", min=5000)] = gate_bench.ROWS,
) -> None:
    """Measure ours and the floor in the same run, and print the ratio."""
    if name == "callback":
        callback_bench.run(as_json=as_json)
    elif name == "settle":
        settle_bench.run(as_json=as_json, sizes=tuple(int(size) for size in orders.split(",")))
    elif name == "gate":
        gate_bench.run(as_json=as_json, rows=rows)
    else:
        Console().print(f"可用的基准：{'、'.join(BENCHES)}")
        raise typer.Exit(2)
