"""Which layers correspond, the pair that is picked, and a stitch there: fitted, or brought."""

import pandas as pd
import streamlit as st

from core import jobs
from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.stitches import conditions
from core.stitches import tables as stitch_tables
from core.workspace import artifacts, store, uploads
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_STITCH, MB, WEIGHT_FILES
from pages.shared import address, frame, panels
from pages.shared import figures as figures_base
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, number, plain, short_names
from pages.stitches import figures

ORIENTATIONS = {"linear": "[out, in], as nn.Linear", "paper": "[in, out], as the paper"}
POSITIONS = (
    "Paired token positions of the fit split that the errors are averaged over (Eq. 3). 60,000 take"
    " a few minutes on a laptop; more give a better stitch."
)


def layers(ws: Workspace, pair: PairSpec) -> None:
    left, right = st.columns([5, 3], gap="large")
    with right:
        st.subheader("Pick a pair of layers", anchor="pick")
        a, b = picked(pair)

    scores = None
    with left, section():
        if ws.exists and store.has(ws, "svcca"):
            scores = ask(stitch_tables.svcca, ws)
            compared(pair, scores, (a, b))
        else:
            panels.door(
                "**The layers have not been compared yet.** SVCCA scores each layer of"
                f" {plain(pair.a.title)} against each of {plain(pair.b.title)}.",
                f"python -m core svcca {ws.pair}",
                "Compare them",
                lambda: jobs.start(ws.pair, "svcca"),
            )
    with right:
        if scores is not None:
            st.markdown(alike(pair, scores, a, b))
        with section():
            form(ws, pair, a, b)
        with section():
            bring(ws, pair, a, b)


def picked(pair: PairSpec) -> tuple[int, int]:
    """The layer of either model, from its field."""
    fields = st.container(horizontal=True)
    names = short_names(pair)
    a, b = (
        int(
            fields.number_input(
                f"Layer of {names[side]}",
                0,
                spec.n_layers - 1,
                key=f"layer_{side}",
                width=150,
                help=(
                    "The residual stream before this layer's computation, `blocks.L.hook_resid_pre`"
                    " (ℓ of Eq. 1)."
                ),
            )
        )
        for side, spec in (("a", pair.a), ("b", pair.b))
    )
    return a, b


def compared(pair: PairSpec, scores: pd.DataFrame, at: tuple[int, int]) -> None:
    """Every layer of one model against every layer of the other."""
    draw(
        figures.svcca(scores, at, *short_names(pair).values()),
        "SVCCA, the mean correlation of the directions that hold 99 % of each layer's variance,"
        f" from 0 to 1, over {scores.n.max():,} positions. Control: unrelated streams of this width"
        f" would score about {number(scores.chance.median())}. Click a cell to pick it. (Fig. 6,"
        " A.1)",
        key="svcca",
        alt=f"SVCCA of every layer of {pair.a.title} with every layer of {pair.b.title}",
        on_select=pick,
        selection_mode="points",
    )


def pick() -> None:
    """A click on the heatmap: these layers, and the stitch fitted there where there is one."""
    now = st.session_state
    for layer_a, layer_b, _, _, stitches in figures_base.picked(now["svcca"])[:1]:
        address.put("layer_a", int(layer_a))
        address.put("layer_b", int(layer_b))
        if stitches:
            address.put("stitch", stitches.split(", ")[0])


def alike(pair: PairSpec, scores: pd.DataFrame, a: int, b: int) -> str:
    """How alike the picked layers are, and whether others are more so."""
    names = {side: plain(name) for side, name in short_names(pair).items()}
    of_a = scores.loc[scores.layer_a == a]
    row, best = of_a.loc[of_a.layer_b == b].iloc[0], of_a.loc[of_a.best].iloc[0]
    words = f"SVCCA **{number(row.svcca)}** (chance about {number(row.chance)})"
    if row.best:
        words += f", the best layer of {names['b']} for layer {a} of {names['a']}."
    else:
        words += (
            f"; for layer {a} of {names['a']}, layer {best.layer_b} of {names['b']} is best"
            f" ({number(best.svcca)})."
        )
    return words + (f"  \nFitted here: {plain(row.stitches)}." if row.stitches else "")


def form(ws: Workspace, pair: PairSpec, a: int, b: int) -> None:
    """Fit a stitch at the picked layers, as a background job."""
    if panels.closed("Fitting a stitch"):
        return

    table = ask(stitch_tables.stitches, ws) if ws.exists else pd.DataFrame()
    metrics = list(conditions.METRICS)
    used = table.metric.iloc[0] if len(table) else None
    with (
        st.expander(f"Fit a stitch from layer {a} to layer {b}", icon=":material/add:"),
        st.form("fit", border=False),
    ):
        method = st.selectbox(
            "Method",
            list(conditions.METHODS),
            format_func=lambda choice: conditions.METHODS[choice][0],
            help="How the errors are minimised (Eq. 3)." + listed(conditions.METHODS),
        )
        metric = st.selectbox(
            "Metric",
            metrics,
            index=metrics.index(used) if used in metrics else 0,
            format_func=lambda choice: conditions.METRICS[choice][0],
            help="In which units errors are measured (Eq. 3); the study below chose the default."
            + listed(conditions.METRICS),
        )
        left, right = st.columns(2)
        alpha = left.number_input("α", 0.0, 1000.0, 1.0, step=0.1, format="%g", help=explained("α"))
        positions = right.number_input(
            "Positions",
            stitch_tables.least_positions(pair),
            5_000_000,
            60_000,
            step=10_000,
            help=POSITIONS,
        )
        name = st.text_input(
            "Name",
            placeholder="made from the settings",
            help="Names the artifact `stitches/<name>`.",
            max_chars=64,
        ).strip()
        latest = jobs.latest(ws.pair)
        busy = latest is not None and not latest.over
        why_not = "One job at a time." if busy else None
        if st.form_submit_button("Fit", type=frame.action(), disabled=busy, help=why_not):
            jobs.start(
                ws.pair,
                "stitch fit",
                layer_a=a,
                layer_b=b,
                method=method,
                metric=metric,
                alpha=alpha,
                positions=int(positions),
                name=name or stitch_tables.free_name(ws, a, b, method, metric, alpha),
            )
            st.rerun()


def listed(words: dict[str, tuple[str, str]]) -> str:
    return "".join(f"\n- {short}: {long}" for short, long in words.values())


def bring(ws: Workspace, pair: PairSpec, a: int, b: int) -> None:
    """A stitch of a person's own: recognised, measured and kept by a background job."""
    if panels.closed("Bringing a stitch"):
        return

    names = short_names(pair)
    with (
        st.expander("Bring your own stitch", icon=":material/upload:"),
        st.form("bring", border=False),
    ):
        file = st.file_uploader(
            "File",
            type=[ending.removeprefix(".") for ending in WEIGHT_FILES],
            max_upload_size=LARGEST_STITCH // MB,
            help=(
                "Two nn.Linear layers under any sensible naming (up/down, a_to_b/b_to_a,"
                " encoder/decoder …), or P_up, b_up, P_down, b_down; one way alone will do."
                f" safetensors, a PyTorch state_dict or .npz; at most {LARGEST_STITCH // MB} MB."
                " Nothing in it is run."
            ),
        )
        left, right = st.columns(2)
        before = "Trained before layer of {}"
        layer_a = left.number_input(before.format(names["a"]), 0, pair.a.n_layers - 1, a)
        layer_b = right.number_input(before.format(names["b"]), 0, pair.b.n_layers - 1, b)
        orientation = None
        if pair.a.d_model == pair.b.d_model:
            orientation = st.segmented_control(
                "Its matrices are",
                list(ORIENTATIONS),
                format_func=lambda choice: ORIENTATIONS[choice],
                help=(
                    "Both widths are equal here, so the shape does not tell; names do where they"
                    " say weight or P."
                ),
            )
        name = st.text_input("Name", placeholder="the file's", max_chars=64, key="bring-name")
        if st.form_submit_button("Import"):
            if file is None:
                raise StitchLensError("no file", "a stitch", "drop one into the box")
            place = uploads.uploaded(file.name, file.getvalue())
            jobs.start(
                ws.pair,
                "stitch import",
                frame.mine(),
                file=place,
                layer_a=int(layer_a),
                layer_b=int(layer_b),
                name=name.strip() or artifacts.name_from(place.name),
                orientation=orientation,
            )
            st.rerun()
        st.caption(
            "It stays private to this browser until you keep it; the list is in the sidebar."
        )
