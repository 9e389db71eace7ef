"""StitchLens as a server runs it: `make app`, `streamlit run app.py`, or any ASGI server."""

import sys
from pathlib import Path

import streamlit as st

PAGES = str(Path(__file__).absolute().parent / "pages")

# Streamlit puts the script's folder first in `sys.path` for as long as a page runs and takes it out
# again. Another thread that imports just then passes over an entry and finds no such package: with
# the folder there for good, nothing is put in or taken out.
if PAGES not in sys.path:
    sys.path.append(PAGES)

# The script lies in `pages/`, so that Streamlit does not take that folder for its own kind of
# pages: a link to a page, as a server's first request, would be answered with "Page not found".
app = st.App("pages/main.py")
