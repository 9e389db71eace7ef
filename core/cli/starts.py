"""Which start saves an SAE's training, as a table in Markdown."""

import math

from core.cli.tables import Record, as_table
from core.cli.words import number, percent, plain, rounded
from core.saes.start_tables import SHARES, in_per_cent


def starts(measured: Record) -> list[str]:
    """`sae_training.ablations` of the report: each study with its sentence, a row a start."""
    parts: list[str] = []
    for name, study in measured.items():
        kinds = ", ".join(map(plain, study["kinds"])) or "all text"
        parts.append(
            f"**{plain(name)}**, SAEs of {study['width']:,} features on {kinds}, starts made from"
            f" {study['pairs']:,} pairs of positions. {plain(study['sentence'])} FLOPs to shares of"
            " what the best run from scratch explains in the end, relative to scratch at its best"
            " learning rate; what a start is made for, as a share of a whole run:"
        )
        rows = [
            (
                plain(start["start"]),
                *(_ratio(start, share) for share in SHARES),
                number(start.get("free", math.nan), none="never"),
                percent(start["made"]),
                rounded(start["begins"], 3),
                rounded(start["explained_variance"], 3),
                percent(start["dead"]),
                f"{start['lr']:g}",
                str(start["seeds"]),
            )
            for start in study["starts"]
        ]
        shares = " | ".join(f"to {percent(share)}" for share in SHARES)
        header = f"start | {shares} | to 90 %, made for nothing | made for | explains at first"
        parts += as_table(f"{header} | in the end | dead | learning rate | seeds", rows)
    return parts


def _ratio(start: Record, share: float) -> str:
    value, low, high = (
        start.get(f"{end}_{in_per_cent(share)}", math.nan) for end in ("ratio", "low", "high")
    )
    return number(value, low, high, none="never")
