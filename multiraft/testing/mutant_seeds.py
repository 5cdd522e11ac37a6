"""Runs seeds in the mutated tree, in a process of its own: ``python -m multiraft.testing.mutant_seeds '{"first": 1, ...}'``.

Which mutant the process shows is in its environment (``multiraft.testing.mutants`` starts it). It writes one line of JSON a
seed, and ends with the first that is wrong. A seed that takes more than ``CPU_S_MAX`` ends the process by a signal.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from typing import Any

from multiraft.testing.simulation import Settings, run

CPU_S_MAX = 20.0


def run_seed(seed: int, settings: Settings) -> dict[str, Any]:
    """What came of one seed, as plain values."""
    signal.setitimer(signal.ITIMER_PROF, CPU_S_MAX)
    began_s = time.process_time()
    try:
        outcome = run(seed, settings)
    except (
        Exception
    ) as error:  # a mutant may break the simulator's own assumptions: that shows it, too
        violation, trace = f"the simulation itself ended: {error!r}", 0
    else:
        violation, trace = outcome.violation, outcome.trace
    return {
        "seed": seed,
        "violation": violation,
        "trace": trace,
        "cpu_s": round(time.process_time() - began_s, 3),
    }


def main(arguments: list[str]) -> int:
    asked = json.loads(arguments[0])
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    settings = Settings(
        nodes=asked.get("nodes", 3),
        groups=asked.get("groups", 1),
        seconds=asked.get("seconds", 15.0),
        profile=asked.get("profile", "mutants"),
        config=tuple(asked.get("config", {}).items()),
    )
    for seed in asked["seeds"]:
        found = run_seed(seed, settings)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        if found["violation"] and not asked.get("all", False):
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
