"""Stitches in two pieces, as tables in Markdown."""

from core.cli.tables import Names, Record, as_table, interval
from core.cli.words import fixed, number, percent, plain
from core.functional.sink_tables import CONDITIONS, DIRECTIONS


def sinks(measured: Record, names: Names) -> list[str]:
    """`core.functional.sink_tables.summary` of each stitch."""
    parts: list[str] = []
    for stitch, found in measured.items():
        rows = found["rows"]
        shares = ", ".join(
            f"{names[side]}'s {interval(found[direction]['crossing']['source'], 'share')}"
            for direction, side in zip(DIRECTIONS, "ab", strict=True)
        )
        documents = found["a_to_b"]["crossing"]["own"]["documents"]
        parts.append(
            f"**Stitch {plain(stitch)}**, second piece from {rows['first']:,} first tokens and"
            f" {rows['massive_a']:,} massive activations of {names['a']}, {rows['massive_b']:,} of"
            f" {names['b']} (rank of the remainder {rows['rank_up']} and {rows['rank_down']})."
            f" Share of the sink's norm in its own model's null space (2 %): {shares}. Null space"
            f" and attention over {documents} held-out documents:"
        )
        lines = []
        for direction, ends in zip(DIRECTIONS, ("ab", "ba"), strict=True):
            way = " → ".join(names[side] for side in ends)
            lines += _lines(way, found[direction])
        header = (
            "carried | first token | sink's share in the null space | attention to the first |"
            " loss, all text | more than today, nats/token | written, nats/token | texts changed"
        )
        parts += as_table(header, lines)
    return parts


def _lines(way: str, part: Record) -> list[tuple[str, ...]]:
    """A line a condition that crosses, the receiver's own first."""
    lines = []
    for condition, cost in part["losses"]["all text"].items():
        crossed = part["crossing"][condition]
        written = part["speech"].get(condition)
        more = ""
        if condition not in ("own", "kept"):
            more = number(cost["more"], cost["more_low"], cost["more_high"], sign=True)
        lines.append(
            (
                way,
                CONDITIONS[condition],
                interval(crossed, "share"),
                interval(crossed, "attention"),
                fixed(cost["loss"]),
                more,
                "" if written is None else interval(written, "loss"),
                "" if written is None else percent(written["changed"]),
            )
        )
    return lines
