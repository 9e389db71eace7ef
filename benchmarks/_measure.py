"""What the benchmarks share: medians, the matrix-product peak, peak memory, and a table of targets
and measurements."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Line:
    """One measured value, and its target where there is one: a least value or a greatest."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {_number(self.at_most)}"

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


def _number(x: float) -> str:
    """Three significant digits, no exponent where a person would not write one."""
    if x == 0 or 0.001 <= abs(x) < 1000:
        return f"{x:.3g}"
    return f"{x:,.0f}" if 1 <= abs(x) < 1e7 else f"{x:.2g}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark; `--json` is common to all."""
    out = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout and nothing else there"
    )
    return out


def quiet() -> None:
    """Third-party advice and loading bars would drown the progress; nothing here needs the hub."""
    for key, value in {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "true",
    }.items():
        os.environ.setdefault(key, value)
    warnings.filterwarnings("ignore")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def show(title: str, settings: dict[str, Any], lines: Sequence[Line], as_json: bool) -> None:
    """The table, or its JSON: settings, then each line with unit, target and whether it is met."""
    settings = settings | machine()
    if as_json:
        rows = [
            {
                "what": x.what,
                "value": x.value,
                "unit": x.unit,
                "target": x.target,
                "met": x.met,
                "note": x.note,
            }
            for x in lines
        ]
        print(
            json.dumps(
                {"benchmark": title, "settings": settings, "rows": rows},
                indent=1,
                ensure_ascii=False,
            )
        )
        return
    marks = {True: "met", False: "MISSED", None: ""}
    cells = [("what", "measured", "target", "", "")]
    cells += [
        (x.what, f"{_number(x.value)} {x.unit}".strip(), x.target, marks[x.met], x.note)
        for x in lines
    ]
    widths = [max(len(row[k]) for row in cells) for k in range(4)]
    print(title)
    print("  " + ", ".join(f"{k} {v}" for k, v in settings.items()))
    for row in cells:
        padded = [
            row[0].ljust(widths[0]),
            row[1].rjust(widths[1]),
            row[2].rjust(widths[2]),
            row[3].ljust(widths[3]),
        ]
        print("  " + "  ".join([*padded, row[4]]).rstrip())


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the settings."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of a call, after one that warms up."""
    work()
    return statistics.median(seconds(work) for _ in range(repeats))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


def matmul_rate(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product: the median of `repeats`."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, size, generator=g).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: x @ y, repeats)


def alone(module: str, *arguments: object, environment: dict[str, str] | None = None) -> Any:
    """What a benchmark prints last, as JSON, when it runs in a process of its own with these
    arguments."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_rss() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
