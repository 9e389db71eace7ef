"""The SAE itself: before and after transfer, a form that takes a person's own, and its report
card."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core import jobs
from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.saes import tables as sae_tables
from core.workspace import artifacts, store, uploads
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_UPLOAD, MB
from pages.shared import frame, panels
from pages.shared.frame import ask
from pages.shared.words import loss, number, percent, plain, short_names

MOST_UNEXPLAINED = 10
"""Of the variance: what is more says no more than that."""


def share(x: float) -> str:
    return percent(x, sign=False) if x < MOST_UNEXPLAINED else ">\u202f1,000\u202f%"


def quality(ws: Workspace, pair: PairSpec, sae: str) -> None:
    st.subheader("The SAE before and after transfer", anchor="table-2")
    names = short_names(pair)
    table = ask(sae_tables.sae_quality, ws, sae)
    view = pd.DataFrame(
        {
            "SAE": table.name,
            "Model": table.model.map(names),
            "L0": table.l0,
            "FUV ↓": table.fuv,
            "Cosine ↑": table.cossim,
            "L2 ratio": table.l2_ratio,
            "Dead ↓": table.dead,
            "Δ loss ↓": table.delta_loss,
            "CE score ↑": table.ce_loss_score,
            "Rank": table["rank"],
        }
    )
    digits = {
        "L0": number,
        "FUV ↓": share,
        "Cosine ↑": number,
        "L2 ratio": number,
        "Dead ↓": share,
        "Δ loss ↓": partial(number, sign=True),
        "CE score ↑": number,
    }
    st.dataframe(
        view.style.format(digits),
        hide_index=True,
        alt="Table 2 with controls",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        "With its controls, on the held-out split. FUV: fraction of variance unexplained about the"
        " mean. Δ loss: nats per token lost with the reconstruction in the residual stream's place;"
        " CE score: the share of the loss that zeros cost which it wins back. Rank: of the decoder;"
        f" a transferred SAE writes along at most the width of {plain(names['a'])}. (Table 2)"
    )


def bring(ws: Workspace, pair: PairSpec) -> None:
    """SAEs of a person's own: the form that takes one, and the report cards of those that were
    brought."""
    panels.job_panel(ws.pair)
    brought = sae_tables.cards_of_saes(ws) if ws.exists else []
    for name in brought:
        with st.expander(
            f"Report card of {plain(name)}",
            icon=":material/assignment:",
            expanded=len(brought) == 1,
        ):
            card(ws, pair, name)
    if panels.closed("Bringing an SAE"):
        return

    with (
        st.expander("Bring your own SAE", icon=":material/upload:"),
        st.form("bring-sae", border=False),
    ):
        form(ws, pair)


def form(ws: Workspace, pair: PairSpec) -> None:
    file = st.file_uploader(
        "File",
        type=["zip", "npz"],
        max_upload_size=LARGEST_UPLOAD // MB,
        help=(
            f"An SAE of {pair.a.title} as SAELens' folder (cfg.json, sae_weights.safetensors) or"
            " sparsify's (cfg.json, sae.safetensors), zipped, or Gemma Scope's params.npz; at most"
            f" {LARGEST_UPLOAD // MB} MB, larger ones by the command line. Nothing in it is run."
        ),
    )
    known = st.text_input(
        "or RELEASE:ID",
        placeholder="gemma-scope-2-270m-pt-res:layer_9_width_16k_l0_medium",
        max_chars=200,
        help="An SAE that SAELens knows by release and id; it is fetched from the hub.",
    ).strip()
    left, middle, right = st.columns(3)
    layer = left.number_input(
        "Layer, if it does not say",
        0,
        pair.a.n_layers - 1,
        None,
        help=(
            f"It reads the residual stream of {pair.a.title} before this layer; resid_post of L is"
            " before L + 1."
        ),
    )
    scale = middle.number_input(
        "Scale, if it is known",
        0.0,
        None,
        None,
        format="%.4g",
        placeholder="estimated",
        help=(
            "The factor by which its training scaled activations (norm_scaling_factor). Where the"
            " SAE expects one, it is estimated from held-out text unless you give it."
        ),
    )
    name = right.text_input("Name", placeholder="the file's", max_chars=64, key="sae-name").strip()

    if st.form_submit_button("Import"):
        if file is None and not known:
            raise StitchLensError(
                "no SAE", "a file, or a release and an id", "drop one into the box"
            )
        ref = known if file is None else str(uploads.uploaded(file.name, file.getvalue()))
        where = None if layer is None else int(layer)
        jobs.start(
            ws.pair,
            "sae import",
            frame.mine(),
            sae=ref,
            name=name or artifacts.name_from(ref),
            layer=where,
            scale=scale,
        )
        st.rerun()
    st.caption("It stays private to this browser until you keep it; the list is in the sidebar.")


def card(ws: Workspace, pair: PairSpec, name: str) -> None:
    """The report card of an SAE that was brought, and what comes next."""
    record = ask(sae_tables.sae_card, ws, name)
    panels.warnings(record["warnings"], short_names(pair))
    facts(record)
    rows = record.get("table_2")
    if not rows:
        st.markdown(
            f"No stitch leads from layer {record['layer']} of {plain(short_names(pair)['a'])} yet,"
            " so it cannot cross: fit one on Stitches."
        )
        return

    crossing(rows, record["stitch"], short_names(pair))
    if not store.has(ws, f"features/{name}"):
        if panels.closed("Measuring its features"):
            return
        st.markdown(
            "Its features have not been measured before and after transfer yet; that takes some"
            " minutes."
        )
        measure = partial(
            jobs.start, ws.pair, "features build", ws.private, sae=name, stitch=record["stitch"]
        )
        st.button(
            "Measure its features", key=f"measure-{name}", on_click=panels.attempt, args=(measure,)
        )


def facts(record: Mapping[str, Any]) -> None:
    frame.cells(
        [
            (
                "Architecture",
                plain(record["architecture"]),
                f"{record['d_sae']:,} features, before layer {record['layer']}",
            ),
            (
                "Explained variance ↑",
                percent(record["explained_variance"], sign=False),
                "about the mean, held-out sample",
            ),
            ("Active a token", number(record["l0"]), "L0"),
            ("Dead ↓", percent(record["dead"], sign=False), f"over {record['n']:,.0f} positions"),
            ("Decoder norm", number(record["norm"]), "mean over features"),
        ]
    )
    if "scale" in record:
        st.caption(
            f"Its rows are scaled by {record['scale']:.4g} ({plain(record['scale_from'])}), folded"
            " into its weights."
        )


def crossing(rows: list[dict[str, Any]], stitch: str, names: Mapping[str, str]) -> None:
    """What the SAE explains and costs in both models, with its controls."""
    explained = [percent(row["explained_variance"], sign=False) for row in rows]
    view = pd.DataFrame(
        {
            "SAE": [row["name"] for row in rows],
            "Model": [names[row["model"]] for row in rows],
            "Explained variance ↑": explained,
            "Loss, nats/token ↓": [row["loss"] for row in rows],
            "Δ ↓": [row["delta_loss"] for row in rows],
        }
    )
    st.dataframe(
        view.style.format({"Loss, nats/token ↓": loss, "Δ ↓": partial(number, sign=True)}),
        hide_index=True,
        height="content",
        alt="Table 2 for this SAE",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        f"On a few documents, through stitch {plain(stitch)}: each SAE's reconstruction in the"
        " residual stream's place. Controls: an SAE at random, and a stitch of shuffled pairs."
        " (Table 2)"
    )
