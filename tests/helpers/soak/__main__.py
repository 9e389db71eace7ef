"""`python -m tests.helpers.soak`: a build killed at random moments, 25 people browsing, 4 steering
while 10 browse.

Prints each target beside what was measured and leaves with status 1 where one is missed. `--short`
is what continuous integration runs, in under five minutes on two cores.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks._measure import Benchmark, Line, quiet

PARTS = ("kills", "browsing", "steering")


def part(name: str) -> Callable[[bool, int], tuple[dict[str, Any], list[Line]]]:
    match name:
        case "kills":
            from tests.helpers.soak.kills import run
        case "browsing":
            from tests.helpers.soak.browsing import run
        case _:
            from tests.helpers.soak.steering import run
    return run


def main() -> None:
    p = Benchmark("soak", __doc__, command="make soak")
    p.add(
        "--short",
        action="store_true",
        help="fewer kills, people and seconds, the small pair for steering",
    )
    p.add("--only", default=",".join(PARTS), help="some of " + ",".join(PARTS))
    p.add("--seed", type=int, default=0, help="of the kills' moments and of where people go")
    given = p.options()
    chosen = given.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        p.parser.error(f"--only {','.join(sorted(unknown))}: choose among {','.join(PARTS)}")
    quiet()
    settings: dict[str, Any] = {"form": "short" if given.short else "full", "seed": given.seed}
    lines: list[Line] = []
    for name in chosen:
        before = os.getloadavg()[0]
        found, some = part(name)(given.short, given.seed)
        settings |= {f"{name}: {k}": v for k, v in found.items()}
        settings |= {f"{name}: load before, after": f"{before:.1f}, {os.getloadavg()[0]:.1f}"}
        lines += some
    p.show("Soak", settings, lines)
    sys.exit(any(line.holds is False for line in lines))


if __name__ == "__main__":
    main()
