"""What the benchmarks share: a command line, measured lines with their targets, the record that is
kept of a run, and medians, peaks of memory and of matrix products.

`--json` keeps the record as `benchmarks/measured/NAME.json`, of which docs/performance.md is made.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch

from core.models.live import runtime
from core.workspace.disk import beside
from core.workspace.places import PROJECT

MEASURED = PROJECT / "benchmarks" / "measured"
FORMAT = 1
LIBRARIES = ("torch", "transformers", "sae-lens", "transformer-lens", "streamlit")
"""Whose versions a record names."""


@dataclass(frozen=True)
class Line:
    """One measured value, and its target where there is one: a least value or a greatest.

    `low` and `high` are the smallest and the largest of the `n` values whose median `value` is.
    """

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def median(
        cls,
        what: str,
        values: Sequence[float],
        unit: str = "",
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> Self:
        """The median of values, with their range."""
        return cls(
            what,
            statistics.median(values),
            unit,
            at_least,
            at_most,
            note,
            min(values),
            max(values),
            len(values),
        )

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)}"
        return "" if self.at_most is None else f"≤ {_number(self.at_most)}"

    @property
    def holds(self) -> bool | None:
        """None where there is no target."""
        if self.at_least is not None:
            return bool(self.value >= self.at_least)  # NumPy's own truths are no JSON
        return None if self.at_most is None else bool(self.value <= self.at_most)

    @property
    def measured(self) -> str:
        """The value with its range and unit, as a person reads it."""
        shown = _number(self.value)
        if self.low is not None and self.high is not None:
            shown += f" [{_number(self.low)}, {_number(self.high)}]"
        return f"{shown} {self.unit}".strip()

    def row(self) -> dict[str, Any]:
        """The line as a record keeps it."""
        measured = {"value": self.value, "unit": self.unit}
        if self.n is not None:
            measured |= {"low": self.low, "high": self.high, "median_of": self.n}
        return {
            "what": self.what,
            "measured": measured,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "holds": self.holds,
            "note": self.note,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The line that `row` was made of."""
        measured = row["measured"]
        return cls(
            row["what"],
            measured["value"],
            measured["unit"],
            row["at_least"],
            row["at_most"],
            row["note"],
            measured.get("low"),
            measured.get("high"),
            measured.get("median_of"),
        )


def _number(x: float) -> str:
    """Three significant digits, no exponent where a person would not write one."""
    if x == 0 or 0.001 <= abs(x) < 1000:
        return f"{x:.3g}"
    return f"{x:,.0f}" if 1 <= abs(x) < 1e7 else f"{x:.2g}"


class Benchmark:
    """A benchmark's command line, and what is printed and kept of one run of it."""

    def __init__(
        self,
        name: str,
        doc: str | None,
        command: str = "",
        documented: Mapping[str, Any] | None = None,
    ) -> None:
        """`documented` are the options, besides the defaults, of the run that
        docs/performance.md shows; `command` is that run's."""
        self.name = name
        self.command = command or f"make bench ONLY={name}"
        self.parser = argparse.ArgumentParser(
            description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        self.add = self.parser.add_argument
        self.documented = dict(documented or {})
        self.chosen: dict[str, Any] = {}
        self.target: Path | None = None
        self.silent = False
        self.load = 0.0
        self.started = 0.0

    def options(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """What the command line says. A record that would take the place of the documented run's
        with other options is refused, before anything is measured."""
        self.add(
            "--json",
            nargs="?",
            const="",
            default=None,
            metavar="FILE",
            help=f"keep the record, in benchmarks/measured/{self.name}.json or in FILE; with - it"
            " is all that is printed",
        )
        self.add(
            "--replace",
            action="store_true",
            help="keep it there also when these are not the documented options",
        )
        given = self.parser.parse_args(words)

        hidden = {"help", "json", "replace"}
        hidden |= {x.dest for x in self.parser._actions if x.help == argparse.SUPPRESS}
        options = {k: v for k, v in vars(given).items() if k not in hidden}
        # a path is of this machine only
        self.chosen = {k: v for k, v in options.items() if not isinstance(v, Path)}

        self.silent = given.json == "-"
        if given.json is not None and not self.silent:
            self.target = Path(given.json) if given.json else MEASURED / f"{self.name}.json"
        if self.target is not None and self.target.is_dir():
            self.parser.error(f"--json {self.target} is a folder: name a file")
        if given.json == "" and not given.replace and (others := self._others()):
            self.parser.error(
                f"docs/performance.md shows a run with other options ({', '.join(others)}): name a"
                " file (--json FILE), or say --replace"
            )
        if self.target is not None:
            rest()
        self.load = os.getloadavg()[0]
        self.started = time.perf_counter()
        return given

    def _others(self) -> list[str]:
        """Options that are not the documented run's, and what that has."""
        return [
            f"--{name.replace('_', '-')} {wanted}"
            for name, value in self.chosen.items()
            if value != (wanted := self.documented.get(name, self.parser.get_default(name)))
        ]

    def show(
        self,
        title: str,
        settings: dict[str, Any],
        lines: Sequence[Line],
        table: Sequence[dict[str, str]] = (),
        printed: str = "",
    ) -> None:
        """Print the figures, and keep the record where that was asked for. `table` says in words,
        a row each, what the figures are of; `printed` is printed in the place of all of it."""
        record = self.record(title, settings, lines) | {"table": list(table)}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        if self.silent:
            print(text)
            return

        if self.target is not None:
            with beside(self.target) as part:
                part.write_text(text + "\n", "utf-8")
            say(f"Kept: {self.target.name}")
        if printed:
            print(printed)
            return
        print(title)
        print("  " + ", ".join(f"{k} {v}" for k, v in (settings | machine()).items()))
        for row in aligned(lines):
            print("  " + row)
        for words in table:
            print("  " + "; ".join(f"{k}: {v}" for k, v in words.items()))

    def record(
        self,
        title: str,
        settings: dict[str, Any],
        lines: Sequence[Line],
    ) -> dict[str, Any]:
        """Everything that the figures depend on, and the figures."""
        dtype = settings.get("dtype", runtime().dtype)
        return {
            "format": FORMAT,
            "benchmark": self.name,
            "title": title,
            "command": self.command,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "load": round(self.load, 2),
            "seconds": round(time.perf_counter() - self.started, 1),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "dtype": str(dtype).removeprefix("torch."),
            "options": self.chosen,
            "settings": {k: v for k, v in settings.items() if k != "dtype"},
            "rows": [line.row() for line in lines],
        }


REST = 150
"""Seconds after which what ran before is no longer in the load of a minute."""


def rest() -> None:
    """Wait until the load of what ran before, such as another benchmark, has gone down; at most
    REST seconds, for a machine that does other work stays loaded."""
    wanted = (os.cpu_count() or 1) / 2
    end = time.monotonic() + REST
    while os.getloadavg()[0] > wanted and time.monotonic() < end:
        time.sleep(1)


def aligned(lines: Sequence[Line]) -> list[str]:
    """The lines as a table for a terminal."""
    marks = {True: "met", False: "MISSED", None: ""}
    cells = [("what", "measured", "target", "", "")]
    cells += [(x.what, x.measured, x.target, marks[x.holds], x.note) for x in lines]
    widths = [max(len(row[k]) for row in cells) for k in range(4)]
    padded = [
        [
            row[0].ljust(widths[0]),
            row[1].rjust(widths[1]),
            row[2].rjust(widths[2]),
            row[3].ljust(widths[3]),
            row[4],
        ]
        for row in cells
    ]
    return ["  ".join(row).rstrip() for row in padded]


def read_records(folder: Path = MEASURED) -> dict[str, dict[str, Any]]:
    """The kept records by the benchmark's name."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return {record["benchmark"]: record for record in records}


def benchmarks() -> list[str]:
    """The names of all benchmarks here."""
    files = (PROJECT / "benchmarks").glob("*.py")
    return sorted(path.stem for path in files if not path.stem.startswith("_"))


def commit() -> str | None:
    """The version of this code, with a + where files of it were changed; None outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


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


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the settings."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
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
    return peak_of(resource.getrusage(resource.RUSAGE_SELF))


def peak_of(used: resource.struct_rusage) -> float:
    """Largest resident memory of what `used` tells of, in bytes."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
