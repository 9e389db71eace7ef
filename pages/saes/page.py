"""What training an SAE of B saves that starts from a transferred one: Fig. 1c, 2, 8, Tables 3, 4;
one's own runs."""

import math
from functools import partial

import pandas as pd
import streamlit as st

from core import jobs
from core.models.pairs import get_pair
from core.saes import tables as sae_tables
from core.saes.tables import FITTERS, HEADLINE
from core.stitches.conditions import METHODS
from core.workspace.store import Workspace
from pages.saes import figures
from pages.saes.starts import starts
from pages.saes.train import live, train
from pages.shared import address, frame, panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import number, percent, plain, short_names


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("SAE training")
        st.markdown(
            f"An SAE of :blue[{plain(pair.a.title)}] that is carried to"
            f" :violet[{plain(pair.b.title)}] is not yet a good SAE there; is it a start that saves"
            " training?"
        )
        panels.job_panel(ws.pair)
        panels.refusal()
        with section():
            live(ws)
        names = sae_tables.sets(ws)
        if not names:
            panels.door(
                f"**No SAEs trained yet.** This trains SAEs of {plain(pair.b.title)} from scratch,"
                f" from one of {plain(pair.a.title)} carried over, and from two controls, at"
                f" several widths. It needs an SAE of {plain(pair.a.title)} and a stitch from its"
                " layer.",
                f"python -m core sae train {ws.pair}",
            )
        else:
            just_made(ws, names)
            chosen = choose(names)
            frame.titled(f"Runs {chosen}", "SAE training")
            measured(ws, chosen)
        with section():
            starts(ws)
        with section():
            train(ws, pair, names)


def choose(names: list[str]) -> str:
    """The set of runs; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("set", names, "runs")
        return names[0]
    return str(bound(st.selectbox, "Runs", names, key="set"))


def just_made(ws: Workspace, names: list[str]) -> None:
    """Show a set that was finished while this person looked on."""
    job, now = jobs.latest(ws.pair), st.session_state
    over = None if job is None or not job.over else job.id
    before, now["last_job"] = now.get("last_job", over), over
    if job is not None and before != over:
        name = job.record.makes.removeprefix("sae_training/")
        if job.state == "done" and name in names:
            address.put("set", name)


def measured(ws: Workspace, name: str) -> None:
    about = ask(sae_tables.setup, ws, name)
    headline = st.container()
    fitter = bound(
        st.segmented_control,
        "Fitter of the stitch",
        FITTERS,
        required=True,
        key="fitter",
        what="fitter",
        help=(
            "Its cost is added to the FLOPs of every start that needs a stitch. The paper trains it"
            " with Adam; the exact fitter solves for it from second moments (Eq. 3)."
        ),
    )
    table = ask(sae_tables.curves, ws, name, "adam" if fitter == "adam" else "exact")
    headline.markdown(f"**{plain(sae_tables.sentence(table))}**")
    with section():
        saved(ws, about, name, table)
    with section():
        one_width(ws, about, name, table)
    with section():
        law(about, table)
    with section():
        st.header("Every run", anchor="runs")
        runs(ws, name)


def saved(ws: Workspace, about: dict, name: str, table: pd.DataFrame) -> None:
    rows = sae_tables.savings(table)
    if rows.empty:
        st.info(
            "No run from scratch and from a transferred SAE of the same width and seed to compare."
        )
        return
    stitch = ask(sae_tables.costs, ws, name)["stitch"]
    small = short_names(get_pair(ws.pair))["a"]
    draw(
        figures.relative(rows),
        "FLOPs that a transferred start needs to reach a threshold, over those from"
        f" scratch with the same data order; the stitch, learned on {stitch['positions']:,} pairs,"
        f" is included, the SAE of {plain(small)} is taken as given. Bars: 95 %, Student, over"
        f" {about['seeds']} seeds. Dotted: {percent(HEADLINE, sign=False)} of scratch's final"
        " explained variance."
        " The paper found 30 to 50 % less at high thresholds, with up to 65 k features and 4"
        " billion tokens. (Fig. 2a)",
        key="relative",
        alt="Relative FLOPs to explained variance thresholds",
    )


def one_width(ws: Workspace, about: dict, name: str, table: pd.DataFrame) -> None:
    st.header("One width", anchor="width")
    widths = [int(w) for w in sorted(table.width.unique())]
    if not widths:
        st.info(
            "Every run diverged at its start, so there is nothing to draw: lower the learning rate."
        )
        return
    with st.container(horizontal=True):
        width = bound(
            st.segmented_control,
            "Features",
            widths,
            required=True,
            key="width",
            usual=widths[-1],
            what="width",
            help="How many features the SAE has.",
        )
        extra = sorted(float(x) for x in table.auxiliary.unique() if x)
        loss = (
            bound(
                st.segmented_control,
                "Auxiliary loss",
                ("without", "with"),
                required=True,
                key="auxiliary",
                help=(
                    "SAELens' loss that lets dead features rebuild what is left"
                    f" over{f', coefficient {extra[0]:g}' if extra else ''}; the paper uses none"
                    " and conjectures that it would cure dead features that a transferred start"
                    " inherits (D)."
                ),
            )
            if extra
            else "without"
        )
    auxiliary = extra[0] if loss == "with" else 0.0
    rows = table.loc[(table.width == width) & (table.auxiliary == auxiliary)]
    left, right = st.columns(2)
    with left:
        draw(
            figures.curves(
                rows,
                "flops",
                "explained_variance",
                "FLOPs, the stitch included",
                "explained variance (↑ better)",
            ),
            f"Explained variance of each batch before it is learned from; k = {about['k']},"
            f" {about['positions']:,} rows once, learning rate {about['lr']:g}. Faint: further"
            " seeds. Controls: a stitch of shuffled pairs, a random stitch.",
            key="curves",
            alt="Explained variance against FLOPs by start",
        )
    with right:
        draw(
            figures.curves(rows, "step", "dead", "step", "dead features (↓ better)"),
            f"Features that were active for none of the last {about['window']} steps "
            f"({about['window'] * about['batch']:,} rows).",
            key="dead",
            alt="Dead features during training by start",
        )
    if not auxiliary:
        turned = ask(sae_tables.turning, ws, name, int(width))
        draw(
            figures.turning(turned),
            "How far active features turned from where they started; means over seeds. A start that"
            " already has the model's features turns less than a random one. (Fig. 2b)",
            key="turning",
            alt="Decoder cosine to the start",
        )


def law(about: dict, table: pd.DataFrame) -> None:
    st.header("Frontier", anchor="frontier")
    points, laws = sae_tables.frontier(table)
    if points.empty:
        st.info(
            "The starts share no range of FLOPs: train longer, or learn the stitch from fewer"
            " positions."
        )
        return
    draw(
        figures.frontier(points, laws),
        "The least mean squared error (per dimension, of rows at an average norm of"
        " √d) within so many FLOPs of any of the widths"
        f" {', '.join(f'{w:,}' for w in about['widths'])}; lines: L(C) = A C^−β, a"
        " factor and an exponent, fitted in logarithms without an irreducible loss. It pictures"
        " these runs; it is no scaling law."
        " (Fig. 1c, 8, Eq. 14)",
        key="frontier",
        alt="Frontier of error against FLOPs by start",
    )
    rows = [
        {
            "Start": start,
            "Factor": number(x["A"]),
            "Exponent β": number(
                x["beta"], x.get("beta_low", math.nan), x.get("beta_high", math.nan)
            ),
        }
        for start, x in laws.items()
    ]
    rows += [
        {"Start": f"paper, Pythia, {s}", "Factor": a, "Exponent β": b}
        for s, a, b in (("scratch", "41.2", "0.16"), ("transferred", "18.5", "0.14"))
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Fitted coefficients")
    st.caption("Intervals: 95 %, bootstrap over seeds, where every width has several. (Table 4)")


def runs(ws: Workspace, name: str) -> None:
    table = ask(sae_tables.summary, ws, name)
    shown = pd.DataFrame(
        {
            "Start": table.start,
            "Features": table.width,
            "Auxiliary loss": table.auxiliary,
            "Explained variance ↑": table.explained_variance,
            "Dead ↓": [percent(x, sign=False) for x in table.dead],
            "Cosine to start": table.cosine,
            "Seeds": table.seeds,
        }
    )
    if table.stopped.any():
        shown["Stopped"] = table.stopped
    st.dataframe(
        shown.style.format(
            {
                "Explained variance ↑": partial(percent, sign=False),
                "Cosine to start": number,
                "Auxiliary loss": "{:g}",
            }
        ),
        hide_index=True,
        height="content",
        alt="Results of every run",
        column_config=frame.heads(shown.columns),
    )
    st.caption("On held-out text, means over seeds; median cosine of active features.")
    costs = ask(sae_tables.costs, ws, name)
    n, small = costs["positions"], costs["stitch"]
    names = short_names(get_pair(ws.pair))
    rows = [
        (f"SAE of {names['a']}, {int(w):,} features", x["a"] * n) for w, x in costs["row"].items()
    ]
    rows += [
        (f"SAE of {names['b']}, {int(w):,} features", x["b"] * n) for w, x in costs["row"].items()
    ]
    rows += [
        (f"SAE of {names['b']}, {int(w):,} features, auxiliary loss at work", x["b_auxiliary"] * n)
        for w, x in list(costs["row"].items())[-1:]
    ]
    rows += [
        (f"Stitch on {small['positions']:,} pairs, {METHODS[f][0]}", small[f]) for f in FITTERS
    ]
    whole = costs["stitch_whole"]
    rows += [
        (f"Stitch on {whole['positions']:,} pairs, {METHODS[f][0]}", whole[f]) for f in FITTERS
    ]
    st.dataframe(
        pd.DataFrame([{"Procedure": p, "FLOPs": scientific(x)} for p, x in rows]),
        hide_index=True,
        height="content",
        alt="FLOPs of each procedure",
    )
    st.caption(
        "Matrix products of one step counted by FlopCounterMode and scaled, activations"
        f" cached; SAEs see {n:,} rows once. The exact fitter's factorisations are counted by"
        " textbook formulas. (Table 3)"
    )


def scientific(x: float) -> str:
    """Two digits and a power of ten."""
    mantissa, power = f"{x:.1e}".split("e")
    return f"{mantissa} × 10" + str(int(power)).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


page()
