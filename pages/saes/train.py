"""Runs of a person's own: a form that starts them in the background, and their curves meanwhile."""

import streamlit as st

from core import jobs
from core.models.libraries import importing
from core.models.pairs import PairSpec
from core.saes import tables as sae_tables
from core.saes.settings import COMPARED, STARTS, TrainingSet
from core.workspace.store import Workspace
from pages.saes import figures
from pages.shared import frame, panels
from pages.shared.figures import draw
from pages.shared.frame import section
from pages.shared.words import plain, short_names


def live(ws: Workspace) -> None:
    """The curves of a set that is being made."""
    job = jobs.latest(ws.pair)
    if job is None or not job.record.makes.startswith("sae_training/"):
        return
    name = job.record.makes.removeprefix("sae_training/")
    if job.over and name in sae_tables.sets(ws):
        return
    st.fragment(_live, run_every=None if job.over else 3.0)(ws.pair, name)


def _live(pair: str, name: str) -> None:
    with importing():
        from core.saes.measure import under_way

    table = under_way(pair, name)
    if table.empty:
        st.caption("The first curve is drawn here as soon as a run has begun.")
        return
    with section():
        widths = [int(w) for w in sorted(table.width.unique())]
        width = st.segmented_control(
            "Features",
            widths,
            default=widths[-1],
            required=True,
            key="live-width",
            format_func=lambda w: f"{w:,}",
        )
        draw(
            figures.curves(
                table.loc[table.width == width],
                "step",
                "explained_variance",
                "step",
                "explained variance (↑ better)",
            ),
            f"{plain(name)} as far as it got: {table.run.nunique()} runs begun.",
            key="live",
            alt="Explained variance of runs under way",
        )


def train(ws: Workspace, pair: PairSpec, names: list[str]) -> None:
    """A form that starts runs in the background."""
    st.header("Train more", anchor="train")
    if panels.closed("Training"):
        return
    short = short_names(pair)
    sources = sae_tables.sources(ws)
    if not sources:
        st.info(
            f"This needs an SAE of {plain(short['a'])} with a stitch from its layer: see the"
            " Features and the Stitches page."
        )
        return
    with st.form("train", border=True):
        one, two, three = st.columns(3)
        source = one.selectbox(
            "From",
            sources,
            format_func=" through ".join,
            help=f"An SAE of {short['a']}, and the stitch whose layers, metric and α are used.",
        )
        widths = two.text_input(
            "Features",
            "1024",
            max_chars=60,
            help=(
                "Of an SAE; several with commas. One of"
                f" {short['a']} of a width that is not there is trained first."
            ),
        )
        name = three.text_input("Name", sae_tables.free_name(names), max_chars=64)
        starts = st.pills(
            "Starts",
            STARTS,
            selection_mode="multi",
            default=list(COMPARED),
            help="Compared at equal data order and settings.",
        )
        one, two, three, four = st.columns(4)
        positions = one.number_input(
            "Rows",
            2_000,
            5_000_000,
            100_000,
            step=50_000,
            help=f"Positions of {short['b']} that a run reads, each once.",
        )
        seeds = two.number_input(
            "Seeds", 1, 10, 1, help="Of scratch and transferred; an interval needs two."
        )
        lr = three.number_input(
            "Learning rate",
            1e-6,
            1e3,
            TrainingSet().lr,
            format="%g",
            help="Constant; the paper takes 1e-4.",
        )
        auxiliary = four.number_input(
            "Auxiliary loss", 0.0, 10.0, 0.0, help="Coefficient of further runs with it."
        )
        if st.form_submit_button("Train", type=frame.action(), icon=":material/model_training:"):
            sae, stitch = source
            asked = {
                "widths": widths,
                "starts": starts,
                "positions": int(positions),
                "seeds": int(seeds),
                "lr": lr,
                "auxiliary": auxiliary,
            }
            with section():
                jobs.start(
                    pair.key, "sae train", sae=sae, stitch=stitch, name=name.strip(), **asked
                )
                st.rerun()
    st.caption(
        "Runs in the background, stops and goes on where it was, and ends as a set above; its SAEs"
        " are kept as SAELens folders in the cache of whoever runs the app."
    )
