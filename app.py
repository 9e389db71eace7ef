"""StitchLens as a server runs it: `make app`, `streamlit run app.py`, or any ASGI server."""

import streamlit as st

# The script lies in `pages/`, so that Streamlit does not take that folder for its own kind of
# pages: a link to a page, as a server's first request, would be answered with "Page not found".
app = st.App("pages/main.py")
