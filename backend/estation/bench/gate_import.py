"""The importing process of `scripts/bench gate`, alone so that its memory can be seen.

`python -m estation.bench.gate_import URL PUBLIC_KEY_FILE DATA_KEY_FILE`: each line on standard
input names an `incoming/` folder, which is applied until nothing moves; each answer is one JSON
object.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from tortoise import Tortoise

from estation import settings as settings_module
from estation.bench.bills import PAYEES, STREAM
from estation.fees import packets as fee_packets
from estation.outside.gate import keys, receiving, rounds
from estation.shared import logs
from estation.shared.clock import system_clock
from estation.shared.collecting import calm_the_collector
from estation.shared.crypto import Vault


async def _serve(url: str, public_key: bytes, data_key: bytes) -> None:
    rounds.use_enough_threads()  # this and the next as the worker does
    calm_the_collector()
    await Tortoise.init(config=settings_module.database(url), _enable_global_fallback=True)
    try:
        peer = keys.load_peer_key(public_key)
        handlers = {"fee_bill": fee_packets.make_handler(Vault(data_key), payees=set(PAYEES))}
        for line in sys.stdin:
            answer = await _apply(Path(line.strip()), peer, handlers)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await Tortoise.close_connections()


async def _apply(
    folder: Path, peer: keys.PeerKey, handlers: dict[str, receiving.Handler]
) -> dict[str, object]:
    rows = duplicates = 0
    begun, cpu = time.perf_counter(), time.process_time()
    while True:
        report = await receiving.apply_incoming(
            STREAM, folder=folder, peer_key=peer, handlers=handlers, now=system_clock()
        )
        if report.quarantined or report.stopped_reason or report.busy:
            raise SystemExit(f"the stream stands still: {report}")
        if not report.applied and not report.duplicates:
            break
        rows += report.rows
        duplicates += report.duplicates
    return {
        "rows": rows,
        "duplicates": duplicates,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    logs.configure(as_json=True)
    url, *files = sys.argv[1:]
    asyncio.run(_serve(url, *(Path(file).read_bytes() for file in files)))


if __name__ == "__main__":
    main()
