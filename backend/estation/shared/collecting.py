"""Python's cyclic garbage collector, for programs that make many rows and few cycles."""

import gc


def calm_the_collector() -> None:
    """What was loaded at start lives as long as the process: taken out of the collector's sight,
    and the collector called more rarely. Settling costs a quarter less so, importing a packet a
    sixth (measured); what is not part of a cycle goes at once as ever."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
