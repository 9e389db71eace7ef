"""StitchLens: the router and the frame that every page stands in. Start it with `make app`."""

from pathlib import Path

import streamlit as st

from core import __version__
from core.models import pairs
from core.models.pairs import known_pairs
from core.workspace import demonstration
from pages.shared import address, frame, panels, saving

HERE = Path(__file__).parent
MARK = HERE / "shared" / "mark.svg"

st.set_page_config(
    page_icon=str(MARK), layout="wide"
)  # before st.navigation: no icon is asked of the network
st.logo(str(MARK), size="large")
pages = [
    st.Page(
        "home/page.py",
        url_path="overview",
        title="StitchLens",
        icon=":material/home:",
        default=True,
    ),
    st.Page(
        "crossing/page.py", url_path="crossing", title="Crossing", icon=":material/swap_horiz:"
    ),
    st.Page("stitches/page.py", url_path="stitches", title="Stitches", icon=":material/hub:"),
    st.Page(
        "features/page.py", url_path="features", title="Features", icon=":material/scatter_plot:"
    ),
    st.Page(
        "functional/page.py",
        url_path="functional",
        title="Functional features",
        icon=":material/troubleshoot:",
    ),
    st.Page("steering/page.py", url_path="steering", title="Steering", icon=":material/explore:"),
    st.Page("probes/page.py", url_path="probes", title="Probes", icon=":material/labs:"),
    st.Page(
        "saes/page.py", url_path="training", title="SAE training", icon=":material/model_training:"
    ),
    st.Page("paper/page.py", url_path="paper", title="The paper", icon=":material/article:"),
    st.Page("models/page.py", url_path="pair", title="New pair", icon=":material/add_link:"),
    st.Page("glossary/page.py", url_path="glossary", title="Glossary", icon=":material/menu_book:"),
]
demonstration.visitors(frame.visitor)
frame.begin()
page = st.navigation(pages)
st.set_page_config(page_title=f"{page.title} · StitchLens")
asked = st.query_params.get("pair")
with st.sidebar:
    built = pairs.pairs_with_workspace()
    which = "those that are built" if built else "none is built yet, so those that are known"
    chosen = st.selectbox(
        "Workspace",
        built or list(known_pairs()),
        key="pair",
        bind="query-params",
        help=f"A pair of models and all that was computed for it; listed: {which}.",
    )
    panels.about_demonstration()
    panels.yours(frame.workspace())
    st.caption(f"StitchLens {__version__}")
    frame.touch()
    saving.buttons()
frame.other_workspace(asked, chosen, built)
address.arrive()
saving.begin()
try:
    page.run()
finally:  # also where the page is drawn anew from its middle
    address.write()
    frame.end()
