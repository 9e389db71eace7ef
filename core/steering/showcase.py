"""One run that is kept with the workspace, for the first page to show before any model is open."""

from typing import Any

from core.workspace.store import Workspace

NAME = "showcase"


def read(ws: Workspace) -> dict[str, Any] | None:
    """The run that is kept, None where there is none: `prompt`, `stitch`, the settings, and
    `lanes`, each with `lane`, `title`, `side` ('a' or 'b', the model that speaks), `carried`
    (whether something of the other model is in it) and `text`.

    Raises StitchLensError where it is damaged.
    """
    return ws.record(NAME) if ws.exists and NAME in ws.names() else None
