"""How a stitch is best fitted: how strong inversion should be, and in which metric."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from core.models.pairs import LayerPair
from core.stitches import tables as stitch_tables
from core.stitches.conditions import BY_KEY, STITCHED
from core.workspace import store
from core.workspace.store import Workspace
from pages.shared import frame
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask
from pages.shared.words import explained, named, percent, plain
from pages.stitches import figures

UNITS = {"loss": "Loss", "relative": "Above unpatched"}


def sweep(ws: Workspace, names: Mapping[str, str], layer_a: int, layer_b: int, metric: str) -> None:
    """The losses for every α, at one pair of layers."""
    st.subheader("How strong should inversion be?", anchor="alpha")
    if not store.has(ws, "alpha_sweep"):
        st.markdown("Not swept yet; `build` does it.")
        st.code(f"python -m core build {ws.pair}", language=None)
        return

    table = ask(stitch_tables.alpha_sweep, ws, layer_a, layer_b)
    if table.empty:
        st.markdown(
            f"α was swept for the layer pairs of the build only, not for L{layer_a}-L{layer_b}."
        )
        return

    metrics = table.metric.unique().tolist()
    metric = metric if metric in metrics else metrics[0]
    if len(metrics) > 1:
        metric = bound(
            st.selectbox,
            "Metric of the sweep",
            metrics,
            key="sweep-metric",
            usual=metric,
            help=explained("metric"),
        )
    unit = bound(
        st.segmented_control,
        "Show",
        list(UNITS),
        required=True,
        label_visibility="collapsed",
        format_func=lambda choice: UNITS[choice],
        key="sweep-unit",
        what="unit of the sweep",
    )
    table = table.loc[table.metric == metric]
    layers = LayerPair(a=layer_a, b=layer_b).name
    draw(
        figures.alpha_sweep(
            table, names["a"], names["b"], "relative" if unit == "relative" else "loss"
        ),
        f"Next-token loss at {layers}, metric {plain(metric)}, on the select split for"
        f" {table.alpha.nunique()} values of α. Control: the unpatched models (dotted). (Fig. 7)",
        key="alpha-sweep",
        alt="Loss against alpha, one line for each way through the stitch",
    )


def study(ws: Workspace, names: Mapping[str, str], layer_a: int, layer_b: int) -> None:
    """The settings that the build chose from; at other layers where these were not studied."""
    st.subheader("Which metric and method?", anchor="study")
    if not store.has(ws, "study"):
        st.markdown("Not studied yet; `build` does it.")
        st.code(f"python -m core build {ws.pair}", language=None)
        return

    table = ask(stitch_tables.study, ws)
    at_layers = table[(table.layer_a == layer_a) & (table.layer_b == layer_b)]
    table = at_layers if len(at_layers) else table
    where = LayerPair(a=int(table.layer_a.iloc[0]), b=int(table.layer_b.iloc[0])).name
    view = pd.DataFrame(
        {
            "Used": table.chosen.map({True: "✓", False: ""}),
            "Method": table.method,
            "Metric": table.metric,
            "α": table.alpha,
        }
        | {f"{named(BY_KEY[way].label, names)} ↓": table[f"{way}_relative"] for way in STITCHED}
    )
    percents = dict.fromkeys([c for c in view.columns if c.endswith("↓")], percent)
    st.dataframe(
        view.style.format(percents | {"α": "{:g}"}),
        hide_index=True,
        alt="Study of metrics and methods",
        column_config=frame.heads(view.columns),
    )
    st.caption(
        f"Fitted at {where} with errors measured in each metric: increase of the next-token loss"
        " over the unpatched model that comes last, on the select split. The build used the setting"
        " with the least cost of both ways together among those whose round trips cost at most 5 %."
        " (Eq. 3)"
    )
