"""The tables of docs/performance.md, from the records that benchmarks keep in benchmarks/measured/
and from the workspaces that are shipped. `python -m tests.helpers.documents` writes them."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from typing import Any

from benchmarks._measure import Line, benchmarks, read_records
from core.cli.words import number, plain
from core.models.pairs import get_pair
from core.report import report
from core.saes import tables as sae_tables
from core.workspace.places import PROJECT

PERFORMANCE = PROJECT / "docs" / "performance.md"
MEASURED = re.compile(r"<!-- measured (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
OTHERS = {
    "fuzz": "make fuzz SECONDS=1800 JSON=1",
    "monkey": "make monkey SECONDS=600 JSON=1",
    "soak": "make soak JSON=1",
}
"""Programs that keep a record, besides the benchmarks, and how."""
SHOWN = {True: "holds", False: "**missed**", None: ""}
PAIRS = ("nano", "smollm2-gemma3")
Record = Mapping[str, Any]


def with_measured(text: str, records: Mapping[str, Record] | None = None) -> str:
    """A document whose parts between `<!-- measured NAME -->` and `<!-- end -->` are those of the
    records, by default the kept ones."""
    kept = read_records() if records is None else records

    def part(marked: re.Match[str]) -> str:
        match marked["name"]:
            case "summary":
                body = summary(kept)
            case "not-run":
                body = not_run(kept)
            case "workspaces":
                body = markdown(workspaces())
            case name if name in kept:
                body = shown(kept[name])
            case _:
                body = "No record yet: see [not run](#not-run)."
        return f"<!-- measured {marked['name']} -->\n\n{body}\n\n<!-- end -->"

    return MEASURED.sub(part, text)


def names() -> list[str]:
    """Everything that keeps a record."""
    return sorted([*benchmarks(), *OTHERS])


def command(name: str) -> str:
    """What keeps a record anew."""
    return OTHERS.get(name, f"make bench ONLY={name} JSON=1")


def summary(records: Mapping[str, Record]) -> str:
    """How many targets hold, and those that do not."""
    rows = [(name, row) for name, record in records.items() for row in record["rows"]]
    judged = [(name, Line.from_row(row)) for name, row in rows if row["holds"] is not None]
    missed = [(name, line) for name, line in judged if not line.holds]
    held = len(judged) - len(missed)
    says = f"{held} of {len(judged)} targets hold in the records below."
    if missed:
        says += " Missed:\n"
    for name, line in missed:
        says += f"\n- [{name}](#{name}): {plain(line.what)}, {line.measured} ({line.target})"
        if busy(records[name]):
            says += f", at load {records[name]['load']:.1f}"
    return says


def busy(record: Record) -> bool:
    """Whether the machine did much other work when the run began."""
    return record["load"] > record["machine"]["cores"] / 2


def not_run(records: Mapping[str, Record]) -> str:
    """The commands that no record is of."""
    absent = [name for name in names() if name not in records]
    return "\n".join(f"- {name}: `{command(name)}`" for name in absent) or "Nothing."


def shown(record: Record) -> str:
    """Where and when it was measured, its figures, and what they are of."""
    parts = [circumstances(record), markdown([Line.from_row(row) for row in record["rows"]])]
    if record["table"]:
        parts.append(worded(record["table"]))
    return "\n\n".join(parts)


def circumstances(record: Record) -> str:
    """Everything but the figures, in one paragraph."""
    at, day = record["machine"], date.fromisoformat(record["date"])
    load = f"load {record['load']:.1f} at the start"
    if busy(record):
        load += ", beside other work"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    settings = record["options"] | record["settings"]
    options = ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in settings.items())
    return (
        f"*{day.day} {day:%B %Y}, {plain(at['cpu'])}, {at['cores']} cores,"
        f" {plain(at['gpu'] or 'no GPU')}, {record['dtype']}; {load}; {record['seconds']:,.0f} s;"
        f" commit {record['commit']}; {versions}.*\n\n"
        f"`{record['command']}`" + (f": {plain(options)}" if options else "")
    )


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(lines: Sequence[Line]) -> str:
    """A table of figures."""
    rows = ["| what | target | measured | | |", "| --- | --- | --- | --- | --- |"]
    for line in lines:
        note = plain(line.note)
        if line.n is not None:
            note = f"median of {line.n} [least, greatest]" + (f"; {note}" if note else "")
        cells = [plain(line.what), line.target, line.measured, SHOWN[line.holds], note]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def worded(table: Sequence[Mapping[str, str]]) -> str:
    """A table of words."""
    columns = list(table[0])
    rows = [columns, ["---"] * len(columns)]
    rows += [[row[column].replace("|", "&#124;") for column in columns] for row in table]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


@cache
def reported(pair: str) -> dict[str, Any]:
    """What `python -m core report PAIR --json` prints."""
    return report(get_pair(pair))


def workspaces() -> list[Line]:
    """What `sae train` and `probes eval` measured of speed and of what carrying costs, for both
    pairs."""
    lines = []
    for name in PAIRS:
        measured = reported(name)
        for trained in sae_tables.reported(measured).values():
            lines += savings(name, trained)
        for probed in measured["probes"].values():
            lines += behind(name, probed["mean"])
    return lines


def savings(name: str, trained: Mapping[str, Any]) -> list[Line]:
    """FLOPs of a stitch, and to 90 % of what an SAE trained from scratch explains."""
    at_90 = [row for row in trained["savings_exact"] if row["share"] == 0.9]
    reached = [row for row in at_90 if row["reached"]]
    ratios = [
        f"{row['width']:,} features {number(row['ratio'], row['low'], row['high'])}"
        for row in reached
    ]
    lines = [
        Line(
            f"{name}: FLOPs of a stitch, exact against the paper's recipe, on all of the text",
            trained["whole_stitch_exact_of_adam"],
            at_most=0.2,
            note=f"on the pairs that it was fitted on {trained['stitch_exact_of_adam']:.2f}",
        )
    ]
    if reached:
        lines.append(
            Line(
                f"{name}: FLOPs to 90 % of scratch's explained variance, transferred start, stitch"
                " included, largest over widths",
                max(row["ratio"] for row in reached),
                at_most=0.5,
                note="; ".join(ratios),
            )
        )
    return lines


def behind(name: str, mean: Mapping[str, Any]) -> list[Line]:
    """How many points of accuracy probes that were carried over are behind B's own."""
    moved, centred = (-100 * mean[key]["0"]["gap"] for key in ("dense_moved", "dense_centred"))
    features = {k: -100 * mean["retrained"][k]["gap"] for k in ("10", "20", "50")}
    each = ", ".join(f"k = {k} {points:.1f}" for k, points in features.items())
    return [
        Line(
            f"{name}: dense probe moved to the other model, behind its own",
            moved,
            "points",
            at_most=5,
            note=f"threshold shifted by unlabelled texts {centred:.1f}; less than 0 is ahead",
        ),
        Line(
            f"{name}: features chosen in the first model with a probe fitted in the other, behind"
            " its own SAE, most over k",
            max(features.values()),
            "points",
            at_most=3,
            note=each,
        ),
    ]
