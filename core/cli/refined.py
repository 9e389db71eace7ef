"""What refined stitches gain and cost, as tables in Markdown."""

import math

from core.cli.tables import Names, Record, as_table, interval, with_names
from core.cli.words import number, percent, plain
from core.stitches.conditions import BY_KEY, WHOLE
from core.stitches.settings import CEILINGS

OBJECTIVES = {
    "kl": "the reading model's own predictions (KL)",
    "features": "the reading model's last stream after the final norm",
    "loss": "the next token",
}
"""What a stitch is refined on, in words."""


def refined(measured: Record, names: Names) -> list[str]:
    """`refine` of the report: each refined stitch by kind of text, then its controls, its price."""
    parts: list[str] = []
    for name, stitch in measured.items():
        kinds = ", ".join(map(plain, stitch["kinds"])) or "all text"
        parts.append(
            f"**Stitch {plain(name)}**: {plain(stitch['of'])} trained on"
            f" {OBJECTIVES[stitch['objective']]}, {stitch['trained']:,} tokens of {kinds}. Increase"
            " of the loss over the unpatched model, before and after, and KL from its own"
            " predictions where positions crossed, nats:"
        )
        rows = [
            (
                with_names(BY_KEY[way].label, names),
                plain(kind),
                plain(start),
                *(_increase(row, f"relative_{when}") for when in ("before", "after")),
                _increase(row, "change"),
                *(interval(row, f"kl_{when}") for when in ("before", "after")),
                *(number(row.get(f"unexplained_{x}", math.nan)) for x in ("before", "after")),
            )
            for start, by_kind in stitch["starts"].items()
            for kind, ways in by_kind.items()
            for way, row in ways.items()
            if start == "paired" or kind == next(iter(by_kind)) or _whole(start, kind)
        ]
        header = "way | text | start | before | after | change | KL before | KL after"
        parts += as_table(f"{header} | unexplained before | unexplained after", rows)
        if CEILINGS[0] in stitch["starts"]:
            parts.append(
                "One hidden layer, a ceiling: from least squares, each way by itself, to a hidden"
                " layer beside it, by squared error on all text; then that layer trained like the"
                " stitch, without what holds back its round trips."
            )

        costs = [
            (
                with_names(plain(cost["measure"]), names),
                number(cost["before"]),
                number(cost["after"]),
            )
            for cost in stitch["price"]
        ]
        if costs:
            parts.append(f"What SAE {plain(stitch['price'][0]['sae'])} pays, carried by it:")
        parts += as_table("measure | before | after", costs)
    return parts


def _whole(start: str, kind: str) -> bool:
    """Of a ceiling, what all text says: there stands what it leaves unexplained."""
    return start in CEILINGS and kind == WHOLE


def _increase(row: Record, key: str) -> str:
    return percent(*(row[f"{key}{end}"] for end in ("", "_low", "_high")), sign=True)
