"""A pair's models at hand: opened once a server, in the background, with words of how far it is."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from core.errors import StitchLensError
from core.models.libraries import importing
from core.models.pairs import get_pair
from core.workspace import store
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.steering.crossing import Crossing


class Opening:
    """Both models of a pair, being opened by a thread of their own; a fault is said by whoever
    asks for them next."""

    def __init__(self, pair: str) -> None:
        self.began = time.time()
        self._pair = pair
        self._thread = threading.Thread(target=self._open, daemon=True)
        self._thread.start()

    def _open(self) -> None:
        with importing():
            from core.models.loading import load_shared

        spec = get_pair(self._pair)
        with suppress(StitchLensError):
            load_shared(spec.a)
            load_shared(spec.b)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()


@st.cache_resource(max_entries=4, show_spinner=False)
def opening(pair: str) -> Opening:
    return Opening(pair)


def crossing(ws: Workspace, stitch: str) -> "Crossing":
    """Kept until the stitch is another one or there are language means."""
    mark = [store.makers(ws, f"stitches/{stitch}"), store.has(ws, "language_means/b")]
    return _crossing(ws.pair, stitch, ws.private, fingerprint(mark))


@st.cache_resource(max_entries=4, show_spinner=False)
def _crossing(pair: str, stitch: str, private: Path | None, stamp: str) -> "Crossing":
    with importing():
        from core.bench import open_pair
        from core.steering.crossing import Crossing
        from core.steering.studio import Studio

    return Crossing(Studio(open_pair(pair, private=private), stitch))
