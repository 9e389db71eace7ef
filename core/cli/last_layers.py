"""Entropy features at the last layers, as tables in Markdown."""

from core.cli.tables import Names, Record, as_table
from core.cli.words import number, percent


def last_layers(measured: dict[str, Record], names: Names) -> list[str]:
    """`core.functional.last_tables.summary` of each layer: what was found, and from which size on
    it would have been."""
    rows = [
        (
            f"{names[one['side']]}, before layer {one['layer']}",
            f"{one['tried']:,}; {one['dense']}",
            number(one["sae"]["fuv"]),
            number(one["floor"]),
            *(str(one["criterion"][part]) for part in ("large", "vanishes", "unread")),
            f"{one['found']}: {percent(one['found'] / one['tried'])}"
            f" [{percent(one['found_low'])}, {percent(one['found_high'])}]",
            "; ".join(f"{part['found']} of {part['n']}" for part in one["controls"].values()),
            _semantic(one),
            _sizes(one["seen_from"]),
            _sizes(one["seen_as_it_is"]),
            f"{one['large_enough']:,}",
        )
        for one in measured.values()
    ]
    header = (
        "SAE of | features tried; dense | FUV | null space is read | moves entropy | by the scale"
        " alone | unread | all three: entropy features | random directions; random SAE | planted"
        " semantic ones |"
        " one that is not read is seen from, share of the norm | in the null space as it is |"
        " features as large as the first"
    )
    if not rows:
        return []
    about = (
        "**At the last layers**, each feature taken out of what the final norm reads, where it"
        " fires. *Null space is read*: how strongly the unembedding reads even the directions that"
        " it reads least, beside a random one (1)."
    )
    return [about, *as_table(header, rows)]


def _semantic(one: Record) -> str:
    """Planted semantic features that pass for entropy features."""
    rows = [row for row in one["planted"] if row["kind"] == "semantic"]
    return f"{sum(row['found'] for row in rows)} of {sum(row['n'] for row in rows)}"


def _sizes(seen: dict[str, float]) -> str:
    """The least sizes at which planted features are found with a chance of 0.8."""
    sizes = [f"{percent(size)} ({firings} firings)" for firings, size in seen.items()]
    return ", ".join(sizes) or "no size"
