"""A program that plays the cohorts of some worlds and tells all of them: the folder of a migrated
cluster, how many processes, how many steps, and the worlds."""

import sys
from pathlib import Path

from estation.simulation import running


def main(cluster: str, processes: str, steps: str, *worlds: str) -> None:
    results = running.run_all(
        [running.cohort_of(int(world)) for world in worlds],
        seed=1,
        processes=int(processes),
        steps=int(steps),
        tell=True,
        told=lambda result: None,
        cluster=Path(cluster),
    )
    for result in results:
        sys.stdout.write(f"{result.told}\n{result}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
