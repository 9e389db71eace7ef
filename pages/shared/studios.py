"""A pair's models at hand: opened once a server, in the background, with words of how far it is."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from core.errors import StitchLensError
from core.models.libraries import importing
from core.models.pairs import get_pair
from core.workspace import store
from core.workspace.disk import fingerprint
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.steering.crossing import TextCrossing
    from core.steering.studio import Studio


class Opening:
    """Both models of a pair, being opened by a thread of their own; a fault is said by whoever
    asks for them next. Then the thread reads which tokens they say in the corpus, so that the
    first lane need not wait for it."""

    def __init__(self, pair: str) -> None:
        self.began = time.time()
        self._pair = pair
        self._opened = threading.Event()
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        with importing():
            from core.models.loading import load_shared
            from core.steering.vocabulary import said
            from core.text.corpus import load_corpus

        spec, models = get_pair(self._pair), []
        try:
            with suppress(StitchLensError):
                models = [load_shared(spec.a), load_shared(spec.b)]
        finally:
            self._opened.set()

        with suppress(StitchLensError):
            for model in models:
                said(model, load_corpus(spec.corpus))

    @property
    def over(self) -> bool:
        return self._opened.is_set()


@st.cache_resource(max_entries=4, show_spinner=False)
def opening(pair: str) -> Opening:
    return Opening(pair)


def waiting(status: Any) -> Callable[[int], None]:
    """Says in a placeholder how many are ahead in the queue for the models."""

    def tell(ahead: int) -> None:
        status.info(
            f"{ahead} before you: one stream at a time computes.", icon=":material/hourglass:"
        )

    return tell


def studio(ws: Workspace, stitch: str) -> "Studio":
    """The one that crossing holds, too: a pair and a stitch have one."""
    return crossing(ws, stitch).studio


def crossing(ws: Workspace, stitch: str) -> "TextCrossing":
    """Kept until the stitch is another one or there are language means."""
    mark = [store.makers(ws, f"stitches/{stitch}"), store.has(ws, "language_means/b")]
    return _crossing(ws.pair, stitch, ws.private, fingerprint(mark))


@st.cache_resource(max_entries=4, show_spinner=False)
def _crossing(pair: str, stitch: str, private: Path | None, stamp: str) -> "TextCrossing":
    with importing():
        from core.bench import open_pair
        from core.steering.crossing import TextCrossing
        from core.steering.studio import Studio

    return TextCrossing(Studio(open_pair(pair, private=private), stitch))
