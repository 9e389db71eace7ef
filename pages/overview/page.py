"""What this pair is, what has been computed for it, and its Table 1 beside the paper's."""

import pandas as pd
import streamlit as st

from core import jobs
from core.models.pairs import PairSpec, get_pair
from core.stitches import tables as stitch_tables
from core.workspace import artifacts, store
from core.workspace.store import Workspace
from pages.overview import figures
from pages.shared import frame, panels
from pages.shared.figures import draw, table_1
from pages.shared.frame import ask, section
from pages.shared.words import count, percent, plain, short_names

STITCHES = "stitches/page.py"


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title(pair.title)
        st.markdown(
            "Two language models joined by an affine stitch: the closer a diamond lies to its"
            " circle, the better one model goes on from the other's residual stream."
        )
        panels.refusal()
        panels.job_panel(ws.pair)
        if not ws.exists:
            empty(pair)
            return
        with section():
            figure(ws, pair)
        with section():
            facts(ws, pair)
        with section():
            paper(ws)
        with section():
            computed(ws)


def empty(pair: PairSpec) -> None:
    panels.door(
        f"**No workspace for {plain(pair.title)} yet.** Building one reads the corpus with both"
        " models, compares their layers, fits stitches and measures them. It may be stopped and"
        " goes on where it was.",
        f"python -m core build {pair.key}",
        "Build it",
        lambda: jobs.start_build(pair.key),
    )


def figure(ws: Workspace, pair: PairSpec) -> None:
    names = ask(stitch_tables.stitch_names, ws)
    if not names:
        st.markdown("No stitch has been fitted yet.")
        st.page_link(
            STITCHES, label="Fit one", icon=":material/hub:", query_params={"pair": ws.pair}
        )
        return
    if not store.has(ws, f"downstream/{names[0]}"):
        st.markdown(f"Stitch {plain(names[0])} has not been measured yet.")
        return
    table = ask(stitch_tables.downstream, ws, names[0])
    row = ask(stitch_tables.stitches, ws).iloc[0]
    models = {side: plain(name) for side, name in short_names(pair).items()}
    draw(
        table_1(table, pair.a.title, pair.b.title),
        f"Stitch **{plain(names[0])}**, between the residual stream of {models['a']} before layer"
        f" {row.layer_a} and that of {models['b']} before layer {row.layer_b}: next-token loss, and"
        " its increase over the unpatched model that comes last. Held-out split,"
        f" {table.documents.max():,} documents; bars are 95 % bootstrap intervals over documents."
        " Controls: a stitch fitted on shuffled pairs, and the residual replaced by its mean."
        " (Table 1)",
        key="overview-table-1",
        alt=f"Next-token losses of {pair.title}: unpatched, stitched and controls",
    )


def facts(ws: Workspace, pair: PairSpec) -> None:
    about = ask(stitch_tables.about, ws)
    corpus, alignment = about["corpus"], about["alignment"]
    a, b = map(plain, short_names(pair).values())
    splits = corpus.get("splits", {})
    default = ask(stitch_tables.stitches, ws)
    cells = [
        (
            ":blue[The smaller], A",
            plain(pair.a.title),
            f"{pair.a.n_layers} layers, {pair.a.d_model} wide",
        ),
        (
            ":violet[The larger], B",
            plain(pair.b.title),
            f"{pair.b.n_layers} layers, {pair.b.d_model} wide",
        ),
        (
            "Corpus",
            f"{count(corpus['characters'])} characters",
            f"{corpus['documents']:,} documents: "
            + ", ".join(f"{n:,} {plain(split)}" for split, n in splits.items()),
        ),
        (
            "Paired positions",
            count(alignment["paired"]),
            (
                f"{percent(alignment['share_a'], sign=False)} of {a}'s tokens, "
                f"{percent(alignment['share_b'], sign=False)} of {b}'s: {plain(pair.family)}"
            ),
        ),
    ]
    if len(default) and pd.notna(default.fuv_up.iloc[0]):
        best = default.iloc[0]
        cells.append(
            (
                "Variance unexplained ↓",
                f"{percent(best.fuv_up, sign=False)} up, {percent(best.fuv_down, sign=False)} down",
                f"FUV, held-out, stitch {plain(best['name'])}",
            )
        )
    frame.cells(cells)


def paper(ws: Workspace) -> None:
    st.subheader("This pair, other pairs here, the paper's", anchor="table-1")
    table = ask(stitch_tables.table_1, ws, stitch_tables.others(ws))
    label = "Pair of model and layer"
    rows = figures.table_1_rows(table, label)
    before = {"this workspace": "", "another workspace": "{}, ", "the paper": "*paper*: "}
    described = zip(table.source, table.pair, table.label, strict=True)
    rows[label] = [
        before[source].format(plain(pair)) + plain(name) for source, pair, name in described
    ]
    st.table(rows.set_index(label), border="horizontal")
    st.caption(
        "Next-token cross-entropy, nats/token (↓ better), and its increase over the model that"
        " comes last; the paper's increases are recomputed from its rounded losses."
        " *Within* a family both models read the same tokens; *cross* family they do not, and only"
        " positions that have read the same text are stitched. Losses are over different text:"
        " compare the increases, not the losses. Controls are in the figure above. (Table 1)"
    )


def computed(ws: Workspace) -> None:
    done, go = st.columns([3, 2], gap="large")
    table = ask(artifacts.computed, ws)
    with done:
        st.subheader("What has been computed", anchor="computed")
        rows = table[["what", "files", "made", "megabytes"]]
        st.dataframe(
            rows,
            hide_index=True,
            alt="Artifacts of this workspace",
            column_config={
                "what": "What",
                "files": "Files",
                "made": st.column_config.DatetimeColumn(
                    "Made (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"
                ),
                "megabytes": st.column_config.NumberColumn("MB", format="%.2f"),
            },
        )
    with go:
        st.subheader("Where to go next", anchor="next")
        for row in ask(stitch_tables.stitches, ws).dropna(subset=["a"]).head(6).to_dict("records"):
            st.page_link(
                STITCHES,
                icon=":material/hub:",
                query_params={"pair": ws.pair, "stitch": str(row["name"])},
                label=(
                    f"{plain(row['name'])}: A→B {percent(row['a_to_b_relative'])}, "
                    f"B→A {percent(row['b_to_a_relative'])}"
                ),
            )
        if store.has(ws, "steering"):
            st.page_link(
                "steering/page.py",
                icon=":material/explore:",
                query_params={"pair": ws.pair},
                label="Steer with a vector of the other model",
            )
        st.page_link(
            STITCHES,
            icon=":material/grid_on:",
            query_params={"pair": ws.pair},
            label="Pick layers and fit your own",
        )


page()
