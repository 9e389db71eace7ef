"""Instructions that are followed under steering, as tables in Markdown."""

from core.cli.tables import Names, Record, as_table, records
from core.cli.words import fixed, plain
from core.steering import tables as steering_tables
from core.steering.instructions import CONDITIONS
from core.workspace.store import Workspace


def following(
    ws: Workspace,
    measured: Record,
    names: Names,
) -> list[str]:
    """`core.steering.tables.followed_report` of each steered model: means, then one by one."""
    parts: list[str] = []
    for side, part in measured.items():
        cells = part["instructions"]
        responses = next(iter(cells.values()))["own"]["n"]
        base = [names[each] for each, taught in part["chat_template"].items() if not taught]
        bare = f" {' and '.join(base)}: a base model, asked by bare requests." if base else ""
        parts.append(
            f"**{names[side]}**, {len(cells)} instructions, {responses} responses for each"
            f" instruction and condition.{bare} Share of responses that follow, mean over"
            " instructions (bootstrap over them), and of those that do not repeat themselves"
            " besides:"
        )
        means = [
            (
                CONDITIONS[mean["kind"]],
                fixed(mean["rate"], mean["low"], mean["high"]),
                fixed(mean["success"]),
                fixed(mean["loss"]),
                fixed(mean["repetition"]),
            )
            for mean in records(steering_tables.followed_means(ws, side))
        ]
        header = "steered by | followed | without loops besides | nats/token | repeated"
        parts += as_table(header, means)

        rows = [
            (
                plain(kinds["own"]["title"]),
                *(fixed(x["rate"], x["low"], x["high"]) for x in map(kinds.get, CONDITIONS) if x),
            )
            for kinds in cells.values()
        ]
        parts.append("Instruction by instruction (Clopper-Pearson):")
        parts += as_table(" | ".join(["instruction", *CONDITIONS.values()]), rows)
    return parts
