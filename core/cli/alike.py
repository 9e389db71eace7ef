"""Agreement, labels and native twins as tables in Markdown, from what `report --json` says of them,
see `core.features.alike.report`; none of what was not measured."""

import math

from core.cli.tables import Names, Record, as_table
from core.cli.words import number, percent, plain
from core.features.alike import ALIKE, LEAST, STEPS, WHOLE


def agreement(measured: Record) -> list[str]:
    """By kind of text."""
    ways = ("carried", "random", "shuffled")
    rows = []
    for kind, part in measured.items():
        row = [plain(kind), f"{part['positions']:,}"]
        for way in ways:
            row.append(_known(part[way]["median"]))
            row.append(_share(part[way]["share_alike"]))
        row.append(_known(part["f1"]))
        rows.append(row)

    header = (
        "text | positions | median | alike | random SAE, median | alike |"
        " shuffled stitch, median | alike | F1, median"
    )
    about = (
        "Correlation of a feature's activations with those of what it became, over positions that"
        f" crossed; of features that fire {LEAST} times or more in both models, the share that is"
        f" alike, at {ALIKE} or more. F1: a firing in the other model as a guess at one here."
    )
    return [about, *as_table(header, rows)] if rows else []


def labels(measured: Record, names: Names) -> list[str]:
    """On strong firings and on all."""
    if not measured:
        return []

    share, median = measured["share"], measured["median"]
    ways = (
        ("strong firings", "f1", "random", _share(measured["shuffled"]["share"])),
        ("all firings", "all", "random_all", ""),
    )
    rows = []
    for firings, key, random, shuffled in ways:
        row = [firings]
        for side in ("a", "b"):
            row.append(_share(share[f"{key}_{side}"]))
            row.append(_known(median[f"{key}_{side}"]))
        rows.append([*row, _share(measured[random]["share"]), shuffled])

    columns = [f"{names[side]} | F1, median" for side in ("a", "b")]
    header = " | ".join(["a label tells", *columns, "random SAE", "shuffled labels"])
    about = (
        f"{measured['n']:,} features fire strongly {LEAST} times or more in held-out text of"
        f" {names['a']}. The share of them whose label tells their firings there at an F1 of"
        f" {measured['bar']} or more; a label that does keeps {_known(measured['kept'])} of its F1"
        f" in {names['b']} (median)."
    )
    return [about, *as_table(header, rows)]


def twins(measured: Record, names: Names) -> list[str]:
    """By kind of text, and along the correlation on all of it."""
    if not measured:
        return []

    rows = [
        (
            plain(kind),
            f"{part['positions']:,}",
            f"{part['shared']:,}",
            f"{part['only_a']:,}",
            f"{part['only_b']:,}",
            f"{part['mutual']:,}",
            _known(part["cosine_alike"]),
            _known(part["cosine_below"]),
        )
        for kind, part in measured.items()
    ]
    sides = ("share_a", "share_b", "random", "shuffled")
    whole = measured[WHOLE]
    steps = [(str(step), *(_share(whole[side][str(step)]) for side in sides)) for step in STEPS]
    header = (
        f"text | positions | shared | only in {names['a']} | only in {names['b']} |"
        " mutually the best | cosine of decoders at or above it, median | below"
    )
    about = (
        "Each model's own SAE: a feature's twin is the one of the other model whose activations"
        f" correlate most with its own. Features that fire {LEAST} times or more, paired one to"
        f" one; shared are pairs at {ALIKE} or more. Cosines are of the twins' decoder rows, those"
        f" of {names['a']} carried through the stitch:"
    )
    along = f"The share of features with a twin at a correlation of so much or more, {WHOLE}:"
    columns = f"at least | {names['a']} | {names['b']} | random SAEs | shuffled positions"
    return [
        *[about, *as_table(header, rows)],
        *[along, *as_table(columns, steps)],
    ]


def _known(value: float | None) -> str:
    return "–" if value is None else number(value)


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else percent(value)
