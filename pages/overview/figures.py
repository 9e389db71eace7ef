"""Table 1 of a pair beside the paper's, as rows of a table."""

import pandas as pd

from core.stitches.conditions import TABLE_1
from pages.shared.words import NARROW, loss, percent


def table_1_rows(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """`queries.table_1` in the paper's layout and colour code: loss, and the relative loss in
    parentheses."""
    a, b = ":blue[A]", ":violet[B]"
    heads = dict(
        zip(TABLE_1, (a, b, f"{a}→{b}", f"{b}→{a}", f"{a}→{b}→{a}", f"{b}→{a}→{b}"), strict=True)
    )
    out = pd.DataFrame({label: table.label, "Family": table.family.str.removesuffix("-family")})
    for key in TABLE_1:
        relative = table[f"{key}_relative"]
        out[heads[key]] = [
            loss(x)
            + ("" if key in ("a", "b") else f" ({f'<1{NARROW}%' if 0 <= r < 0.01 else percent(r)})")
            for x, r in zip(table[key], relative, strict=True)
        ]
    return out
