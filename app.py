"""StitchLens as a server runs it: `make app`, `streamlit run app.py`, or any ASGI server."""

import gc
import sys
from pathlib import Path

# What pages read and draw tables with and import late: imported as the server starts, so that its
# first visitor does not wait for it.
import pandas.io.formats.style  # noqa: F401
import pyarrow.dataset  # noqa: F401
import scipy.special  # noqa: F401
import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from core import report  # noqa: F401 - the tables of every topic
from core.workspace import demonstration

PAGES = str(Path(__file__).absolute().parent / "pages")

# Streamlit puts the script's folder first in `sys.path` for as long as a page runs and takes it out
# again. Another thread that imports just then passes over an entry and finds no such package: with
# the folder there for good, nothing is put in or taken out.
if PAGES not in sys.path:
    sys.path.append(PAGES)

# What was imported stays: Python need not look through it again for dead cycles, which would take a
# tenth of each first visit.
gc.freeze()

UPLOADS = "/_stcore/upload_file"


class NoUploads:
    """A demonstration takes no file: Streamlit would hold one in memory for any session, whether a
    page asked for it or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if demonstration.active() and UPLOADS in scope.get("path", ""):
            refused = PlainTextResponse("A demonstration takes no files.", 403)
            await refused(scope, receive, send)
        else:
            await self.app(scope, receive, send)


# The script lies in `pages/`, so that Streamlit does not take that folder for its own kind of
# pages: a link to a page, as a server's first request, would be answered with "Page not found".
app = st.App("pages/main.py", middleware=[Middleware(NoUploads)])
