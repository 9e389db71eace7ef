"""What makes an entropy feature: three parts, each on the columns of `core.functional.entropy` and
by whole intervals (95 %), so that what is doubtful is none. Nothing heavy."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

LEAST = 0.05
"""Nats by which an entropy feature moves the entropy where it fires, at the least, one way."""
REMAINS = 1 / 3
"""Of its effect on the entropy once the final norm's denominator is frozen, at the most."""
READ = 0.5
"""How strongly the unembedding reads its direction, at the most; 1 is a random direction."""
PARTS = ("large", "vanishes", "unread")


def parts(rows: Mapping[str, Any] | pd.DataFrame) -> dict[str, Any]:
    """Which parts hold, of one row or of each row of a table: `large`, it moves the entropy by
    LEAST or more; `vanishes`, at most REMAINS of that is left with the denominator frozen;
    `unread`, its direction is read at most READ as strongly as a random one."""
    return {
        "large": (rows["free_low"] >= LEAST) | (rows["free_high"] <= -LEAST),
        "vanishes": rows["left_high"] <= REMAINS,
        "unread": rows["reading"] <= READ,
    }


def is_entropy_feature(row: Mapping[str, Any]) -> bool:
    """Whether all parts hold of one row."""
    return all(bool(holds) for holds in parts(row).values())
