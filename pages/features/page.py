"""How each feature of an SAE fared: the histograms, a map, a table, and one feature before and
after transfer."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core import jobs
from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair
from core.saes import tables as sae_tables
from core.stitches import tables as stitch_tables
from core.text.reading import clean
from core.workspace import artifacts, store, uploads
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_UPLOAD, MB
from pages.features import figures
from pages.shared import figures as figures_base
from pages.shared import frame, panels, tokens
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import percent, plain

if TYPE_CHECKING:
    from core.features import measure as feature_measure

SIDES = {"a": ":blue[A, with the original SAE]", "b": ":violet[B, with the transferred SAE]"}
SILENT = "Not active in any of the documents that were read for examples."
GROUPS = {"top": "Top", "q4": "Strong", "q3": "Upper", "q2": "Lower", "q1": "Weak"}
EACH, SAME, OWN = "Contexts of each", "Same text", "Your own text"
COLOURS = {"kind": "Class", "correlation": "Correlation", "density_a": "Density in A"}
DRAGS = {"click": "Click", "select": "Box", "lasso": "Lasso"}
SAMPLE = "The committee will meet in Paris on Monday, and nobody knows whether they will agree."
DRAWN = 16_384
"""Features on the map; more hide one another and cost seconds."""
LONGEST = 2000
"""Characters of a text that is typed in."""
MARKS = (
    "Tint: activation over the largest in that model; underlined: the strongest token, dotted: the"
    " next one, which it helps predict. Hover for values."
)


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Features")
        st.markdown(
            f"Features of a sparse autoencoder of :blue[{plain(pair.a.title)}], carried to "
            f":violet[{plain(pair.b.title)}] by a stitch: which do the same there?"
        )
        panels.refusal()
        names = feature_tables.saes(ws) if ws.exists else []
        if not names:
            with section():
                bring(ws, pair)
            panels.door(
                "**No features measured yet.** This trains an SAE of A, carries it through the"
                " default stitch (Eq. 6) and measures every feature before and after.",
                f"python -m core features build {ws.pair}",
            )
            return
        frame.answer("sae", names, "SAE")
        frame.answer("view", (EACH, SAME, OWN), "comparison")
        frame.answer("map-colour", COLOURS.values(), "colour")
        frame.answer("map-drag", DRAGS.values(), "way to pick")
        frame.within("structural", 0, 1, "consistency")
        frame.within("sentences", 1, 30, "number of sentences")
        sae = (
            st.selectbox("SAE", names, key="sae", bind="query-params")
            if len(names) > 1
            else names[0]
        )
        table = ask(feature_tables.features, ws, sae)
        settings = ask(store.makers, ws, f"features/{sae}")
        follow(ws, sae, table)
        brushed = None
        with section():
            brushed = correlations(table, settings)
        with section():
            table = classes(table, settings)
        with section():
            listed(overview(table), len(table), brushed)
        with section():
            one(ws, pair, sae, table)
        with section():
            quality(ws, sae)
        with section():
            bring(ws, pair)


def bring(ws: Workspace, pair: PairSpec) -> None:
    """SAEs of one's own: the form that takes one, and the report cards of those that were
    brought."""
    panels.job_panel(ws.pair)
    brought = sae_tables.cards_of_saes(ws) if ws.exists else []
    for name in brought:
        with st.expander(
            f"Report card of {plain(name)}",
            icon=":material/assignment:",
            expanded=len(brought) == 1,
        ):
            card(ws, name)
    with (
        st.expander("Bring your own SAE", icon=":material/upload:"),
        st.form("bring-sae", border=False),
    ):
        file = st.file_uploader(
            "File",
            type=["zip", "npz"],
            max_upload_size=LARGEST_UPLOAD // MB,
            help=(
                f"An SAE of {pair.a.title} as SAELens' folder (cfg.json, sae_weights.safetensors)"
                " or sparsify's (cfg.json, sae.safetensors), zipped, or Gemma Scope's params.npz;"
                f" at most {LARGEST_UPLOAD // MB} MB, larger ones by the command line. Nothing in"
                " it is run."
            ),
        )
        known = st.text_input(
            "or RELEASE:ID",
            placeholder="gemma-scope-2-270m-pt-res:layer_9_width_16k_l0_medium",
            max_chars=200,
            help="An SAE that SAELens knows by release and id; it is fetched from the hub.",
        )
        left, middle, right = st.columns(3)
        layer = left.number_input(
            "Layer, if it does not say",
            0,
            pair.a.n_layers - 1,
            None,
            help=(
                "It reads the residual stream of A before this layer; resid_post of L is before L"
                " + 1."
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
                "The factor by which its training scaled activations (norm_scaling_factor). Where"
                " the SAE expects one, it is estimated from held-out text unless you give it."
            ),
        )
        name = right.text_input("Name", placeholder="the file's", max_chars=64, key="sae-name")
        if st.form_submit_button("Import"):
            if file is None and not known.strip():
                raise StitchLensError(
                    "no SAE", "a file, or a release and an id", "drop one into the box"
                )
            ref = (
                known.strip() if file is None else str(uploads.uploaded(file.name, file.getvalue()))
            )
            name = name.strip() or artifacts.name_from(ref)
            where = None if layer is None else int(layer)
            jobs.start_sae_import(ws.pair, ref, name, where, frame.mine(), scale)
            st.rerun()
        st.caption(
            "It stays private to this browser until you keep it; the list is in the sidebar."
        )


def card(ws: Workspace, name: str) -> None:
    """The report card of an SAE that was brought, and what comes next."""
    found = ask(sae_tables.sae_card, ws, name)
    panels.warnings(found["warnings"])
    frame.cells(
        [
            (
                "Architecture",
                plain(found["architecture"]),
                f"{found['d_sae']:,} features, before layer {found['layer']}",
            ),
            (
                "Explained variance ↑",
                percent(found["explained_variance"], sign=False),
                "about the mean, held-out sample",
            ),
            ("Active a token", f"{found['l0']:.0f}", "L0"),
            ("Dead ↓", percent(found["dead"], sign=False), f"over {found['n']:,.0f} positions"),
            ("Decoder norm", f"{found['norm']:.3g}", "mean over features"),
        ]
    )
    if "scale" in found:
        said = plain(found["scale_from"])
        st.caption(
            f"Its rows are scaled by {found['scale']:.4g} ({said}), folded into its weights."
        )
    if rows := found.get("table_2"):
        view = pd.DataFrame(
            {
                "SAE": [row["name"] for row in rows],
                "Model": [row["model"].upper() for row in rows],
                "Explained variance ↑": [
                    percent(row["explained_variance"], sign=False) for row in rows
                ],
                "Loss, nats/token ↓": [row["loss"] for row in rows],
                "Δ ↓": [row["delta_loss"] for row in rows],
            }
        )
        st.dataframe(
            view.style.format({"Loss, nats/token ↓": "{:.2f}", "Δ ↓": "{:+.2f}"}),
            hide_index=True,
            height="content",
            alt="Table 2 for this SAE",
        )
        st.caption(
            f"Table 2 on a few documents, through stitch {plain(found['stitch'])}: each SAE's"
            " reconstruction in the residual stream's place. Controls: an SAE at random, and a"
            " stitch of shuffled pairs."
        )
    else:
        st.markdown(
            f"No stitch leads from layer {found['layer']} of A yet, so it cannot cross: fit one on"
            " Stitches."
        )
        return
    if not store.has(ws, f"features/{name}"):
        st.markdown(
            "Its features have not been measured before and after transfer yet; that takes some"
            " minutes."
        )
        st.button(
            "Measure its features",
            key=f"measure-{name}",
            on_click=panels.begin,
            args=(partial(jobs.start_features, ws.pair, name, found["stitch"], ws.private),),
        )


def follow(ws: Workspace, sae: str, table: pd.DataFrame) -> None:
    """Settle, before any widget is drawn, which feature is shown: the link's, or the one most alike
    in both."""
    usual = int((table.correlation + table.rbo).where(table.reliable).fillna(-1).idxmax())
    parse, limits = frame.whole(0, len(table) - 1)
    frame.settle("feature", usual, parse, (ws.pair, sae), limits, tell=True)
    frame.settle("text", SAMPLE, lambda text: text[:LONGEST], "features")


def correlations(table: pd.DataFrame, settings: dict[str, Any]) -> tuple[float, float] | None:
    """Fig. 14; returns the range of correlations that is selected on it."""
    rows = table.loc[table.reliable]
    random, shuffled = (
        round(float(rows[control].quantile()), 2) + 0.0 for control in ("random", "shuffled")
    )
    brush = not frame.on_phone()
    drawn = draw(
        figures.correlations(rows, brush),
        "Eq. 10 (Fig. 14): Pearson correlation, over held-out positions where the same text comes"
        " next, of a feature's attribution to the next token in A and, after transfer through"
        f" {plain(settings['stitch_name'])}, in B; {len(rows):,} of {len(table):,} features, those"
        f" active in both at 20 positions or more. Median {rows.correlation.median():.2f};"
        f" controls: a random SAE through the same stitch, {random:.2f}, and the same features"
        f" through a stitch of shuffled pairs, {shuffled:.2f} (its peak is cut off)."
        f" {'Drag over bars' if brush else 'Tap a bar'} to list their features below.",
        key="correlations",
        alt="Histogram of attribution correlation with two controls",
        on_select="rerun",
        selection_mode=("points", "box"),
    )
    return figures.picked_range(drawn)


def classes(table: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """Fig. 4b; returns the table with its `kind`."""
    st.subheader("Semantic or structural", anchor="classes")
    left, right = st.columns([3, 1], gap="large")
    threshold = right.slider(
        "Structural from a consistency of",
        0.0,
        1.0,
        0.5,
        0.05,
        key="structural",
        bind="query-params",
        help=(
            "Share of the sentences with the feature in which it stays active in all rewrites that"
            " keep structure and function words and change content (5.1)."
        ),
    )
    least = right.slider(
        "At least so many sentences",
        1,
        30,
        3,
        key="sentences",
        bind="query-params",
        help="Features active in fewer of the sampled sentences are left out.",
    )
    table = table.assign(kind=feature_tables.kinds_of_features(table, threshold, least))
    counts = table.kind.value_counts()
    right.markdown(
        f":orange[**{counts.get('semantic', 0):,} semantic**],"
        f" :green[**{counts.get('structural', 0):,} structural**], {counts.get('unseen', 0):,}"
        f" unseen, {counts.get('dead', 0):,} dead"
    )
    rows = table.query("reliable and kind in ['semantic', 'structural']")
    with left:
        if rows.kind.nunique() < 2:
            st.markdown("With these thresholds all features fall into one class.")
        else:
            shares = stitch_tables.structural_share(rows)
            structural, n = int(shares.structural.sum()), int(shares.n.sum())
            draw(
                figures.classes(rows, shares),
                "Fig. 4b: densities of Eq. 10, each class by itself, and above them the share of"
                " structural features among both, counted in steps of 0.1 (dotted: over all,"
                f" {structural:,} of {n:,}); {settings['sentences']:,} English sentences with"
                f" {settings['rewrites']} rewrites each.",
                key="classes",
                alt="Densities of attribution correlation of semantic and structural features",
            )
    return table


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """The map of decoder directions; returns the features that are selected on it, or all."""
    st.subheader("All features", anchor="all")
    left, right = st.columns([3, 2])
    colour = left.segmented_control(
        "Colour by",
        list(COLOURS),
        default="kind",
        required=True,
        format_func=lambda c: COLOURS[c],
        key="map-colour",
        bind="query-params",
        help="Attribution correlation (Eq. 10); density: share of positions in A, logarithm.",
    )
    drag = right.segmented_control(
        "Pick by",
        list(DRAGS),
        default="click",
        required=True,
        format_func=lambda d: DRAGS[d],
        key="map-drag",
        bind="query-params",
        help="A click or tap opens a feature; a box or a lasso filters the table below.",
    )
    shown = table if len(table) <= DRAWN else table.sample(DRAWN, random_state=0)
    some = (
        "" if len(shown) == len(table) else f"; {len(shown):,} of {len(table):,}, drawn at random"
    )
    drawn = draw(
        figures.feature_map(shown, str(colour), str(drag)),
        f"UMAP (cosine) of the decoder directions in A: near means alike{some}. "
        + (
            "Click or tap a mark to open its feature; pick by box or lasso to filter the table"
            " below."
            if drag == "click"
            else "Drag over marks to list them below; a double click lists all again."
        ),
        key="map",
        alt="Map of all features",
        on_select=partial(pick, "map"),
        selection_mode=("points", "box", "lasso"),
    )
    chosen = [int(data[0]) for data in figures_base.picked(drawn)]
    if len(chosen) == 1:
        st.markdown(f"[Feature {chosen[0]} is open below.](#feature)")
    return table.loc[table.feature.isin(chosen)] if len(chosen) > 1 else table


def pick(key: str) -> None:
    chosen = figures_base.picked(st.session_state[key])
    if len(chosen) == 1:
        st.session_state["feature"] = int(chosen[0][0])


def listed(table: pd.DataFrame, total: int, brushed: tuple[float, float] | None) -> None:
    """The table of those features that the map and the histogram leave."""
    if brushed is not None:
        table = table.loc[table.reliable & table.correlation.between(*brushed)]
    view = table[
        [
            "feature",
            "kind",
            "correlation",
            "low",
            "high",
            "consistency",
            "density_a",
            "density_b",
            "max_a",
            "max_b",
            "rbo",
            "raises",
        ]
    ]
    sent = view.astype(
        {"kind": "category"} | dict.fromkeys(view.select_dtypes("float64"), "float32")
    )  # half of it
    number = st.column_config.NumberColumn
    key = f"features-{len(table)}-{table.feature.sum()}"
    st.dataframe(
        sent,
        hide_index=True,
        key=key,
        height=320,
        alt="Features",
        on_select=partial(_row, key, view.feature.tolist()),
        selection_mode="single-row",
        placeholder="–",
        column_config={
            "feature": number("Feature", pinned=True),
            "kind": "Class",
            "correlation": number(
                "Eq. 10 ↑", format="%.2f", help="Attribution correlation before and after transfer."
            ),
            "low": number(
                "low", format="%.2f", help="95 % interval, bootstrap over blocks of documents."
            ),
            "high": number(
                "high", format="%.2f", help="95 % interval, bootstrap over blocks of documents."
            ),
            "consistency": number(
                "Consistency", format="%.2f", help="Share of sentences whose rewrites all keep it."
            ),
            "density_a": number("Density A", format="percent"),
            "density_b": number("Density B", format="percent"),
            "max_a": number("Max A", format="%.3g"),
            "max_b": number("Max B", format="%.3g"),
            "rbo": number(
                "Overlap",
                format="%.2f",
                help="Rank-biased overlap of the top contexts in A and in B.",
            ),
            "raises": st.column_config.TextColumn(
                "Raises in A", help="Tokens with the largest logit weight."
            ),
        },
    )
    said = f"{len(table):,} of {total:,} features"
    if brushed is not None:
        said += (
            f", with Eq. 10 from {brushed[0]:.2g} to {brushed[1]:.2g} (double-click the histogram"
            " for all)"
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{said}. Sort by a head, search with the lens, choose a row to open it.")
        st.download_button(
            "Table",
            lambda: view.to_csv(index=False).encode(),
            "features.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
            help="These features as CSV.",
        )


def _row(key: str, features: list[int]) -> None:
    if rows := st.session_state[key].selection.rows:
        st.session_state["feature"] = features[rows[0]]


def step(by: int, most: int) -> None:
    st.session_state["feature"] = min(max(st.session_state["feature"] + by, 0), most)


def one(ws: Workspace, pair: PairSpec, sae: str, table: pd.DataFrame) -> None:
    """The same feature in A and in B, side by side."""
    last = len(table) - 1
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    f = int(bar.number_input("Feature", 0, last, key="feature", width=150))
    bar.button(
        "Previous", on_click=step, args=(-1, last), disabled=f == 0, icon=":material/chevron_left:"
    )
    bar.button(
        "Next", on_click=step, args=(1, last), disabled=f == last, icon=":material/chevron_right:"
    )
    bar.download_button(
        "Feature",
        lambda: json.dumps(feature_tables.feature_record(ws, sae, f)).encode(),
        f"{sae}-{f}.json",
        "application/json",
        on_click="ignore",
        icon=":material/download:",
        help="All that is known of it, as JSON.",
    )
    if address := ask(feature_tables.neuronpedia, ws, sae, f):
        bar.link_button("Neuronpedia", address, icon=":material/open_in_new:")
    row = table.iloc[f]
    known, rewritten, shared = (row[x] == row[x] for x in ("correlation", "consistency", "jaccard"))
    st.header(f"Feature {f}", anchor="feature")
    frame.cells(
        [
            (
                "Eq. 10 ↑",
                f"{row.correlation:.2f} [{row.low:.2f}, {row.high:.2f}]" if known else "–",
                f"{row.joint:,} joint activations"
                + ("" if row.reliable else ", too few to rely on"),
            ),
            ("Class", str(row.kind), f"consistency {row.consistency:.2f}" if rewritten else ""),
            (
                ":blue[A]",
                percent(row.density_a, sign=False),
                f"of positions, up to {row.max_a:.3g}",
            ),
            (
                ":violet[B]",
                percent(row.density_b, sign=False),
                f"of positions, up to {row.max_b:.3g}",
            ),
            (
                "Same top contexts",
                f"{row.jaccard:.2f} Jaccard" if shared else "–",
                f"{row.rbo:.2f} rank-biased" if shared else "",
            ),
        ]
    )
    scale = {side: float(row[f"max_{side}"]) for side in SIDES}
    view = st.segmented_control(
        "Compare",
        (EACH, SAME, OWN),
        default=EACH,
        required=True,
        key="view",
        bind="query-params",
        help=(
            "Contexts where each model finds it strongest; the same ones in both; or a text of "
            "yours, read by both models now."
        ),
    )
    if view == OWN:
        own(ws, pair, sae, f, scale, table)
        return
    texts = frame.documents(pair)
    if view == SAME:
        same(ws, sae, f, texts, scale)
        return
    left, right = st.columns(2, gap="large")
    for side, column in (("a", left), ("b", right)):
        with column, section():
            panel(ws, sae, side, f, texts, scale[side])


def panel(ws: Workspace, sae: str, side: str, f: int, texts: dict[str, str], scale: float) -> None:
    st.subheader(SIDES[side], anchor=f"side-{side}")
    bars = ask(feature_tables.feature_histogram, ws, sae, side, f)
    if bars.tokens.sum():
        draw(
            figures.activations(bars, side),
            f"How often it was active, {bars.tokens.sum():,} tokens in all.",
            key=f"bars-{side}",
            alt="Histogram of activations",
        )
    logits = ask(feature_tables.feature_logits, ws, sae, side, f)
    for what, rows in (
        ("Raises", logits[logits["rank"] >= 0]),
        ("Lowers", logits[logits["rank"] < 0]),
    ):
        words = " ".join(map(tokens.token, rows.token))
        st.markdown(
            f"**{what}** {words}", help="Tokens with the largest and least logit weight, Eq. 10."
        )
    examples = ask(feature_tables.feature_examples, ws, sae, side, f)
    if examples.empty:
        st.markdown(SILENT)
        return
    groups = [g for g in GROUPS if g in set(examples.group)]
    shown = st.segmented_control(
        "Contexts",
        groups,
        default=groups[0],
        required=True,
        format_func=lambda g: GROUPS[g],
        key=f"group-{side}",
        bind="query-params",
        help="The strongest contexts, or a sample from each quarter of the others by activation.",
    )
    rows = examples.loc[examples.group == shown].head(10).to_dict("records")
    lines = [
        tokens.tokens(texts[row["document"]], row["ends"], row["heat"], row["peak"], scale, side)
        for row in rows
        if row["document"] in texts
    ]
    st.html(
        '<div style="display:flex;flex-direction:column;gap:0.6rem;">' + "".join(lines) + "</div>"
    )
    missing(len(rows) - len(lines))
    st.caption(MARKS)


def missing(contexts: int) -> None:
    if contexts:
        st.caption(
            f"{contexts} contexts point into another version of the corpus than the one installed; "
            "`python -m core doctor` says which."
        )


def same(ws: Workspace, sae: str, f: int, texts: dict[str, str], scale: dict[str, float]) -> None:
    """Both models over the contexts that are strongest in either."""
    rows = ask(feature_tables.same_text, ws, sae, f).to_dict("records")
    if not rows:
        st.markdown(SILENT)
        return
    for found, title in (
        ("a", "Strongest in :blue[A]"),
        ("b", "Strongest in :violet[B] and not among these"),
    ):
        shown = [row for row in rows if row["found"] == found and row["document"] in texts]
        if not shown:
            continue
        st.subheader(title, anchor=f"strongest-{found}")
        for row in shown:
            for side, column in zip(SIDES, st.columns(2, gap="large"), strict=True):
                text, peak = texts[row["document"]], int(row[f"{side}_peak"])
                column.html(
                    tokens.tokens(
                        text, row[f"{side}_ends"], row[f"{side}_heat"], peak, scale[side], side
                    )
                )
    missing(sum(row["document"] not in texts for row in rows))
    st.caption(
        "Left A with the original SAE, right B with the transferred one, around the same place."
        f" {MARKS}"
    )


@st.cache_resource(max_entries=1, show_spinner=False)
def _live(pair: str, sae: str, private: Path | None, stamp: str) -> "feature_measure.Live":
    from core.features.measure import Live

    return Live(get_pair(pair), sae, private)


def own(
    ws: Workspace, pair: PairSpec, sae: str, f: int, scale: dict[str, float], table: pd.DataFrame
) -> None:
    """A text that was typed in, read by both models: this feature in it, and the features that are
    strongest there."""
    with st.form("own-text", border=False):
        text = st.text_area(
            "Text",
            max_chars=LONGEST,
            key="text",
            help=f"At most {LONGEST:,} characters. Both models read it up to the stitched layers.",
        )
        asked = st.form_submit_button("Read", type=frame.action())
    now = st.session_state
    if asked:
        with st.spinner("Reading; the first time, both models are opened"):
            text = clean(text)
            now["read"] = (
                ws.pair,
                sae,
                text,
                _live(ws.pair, sae, ws.private, store.stamp(ws)).read(text),
            )
    if "read" not in now or now["read"][:2] != (ws.pair, sae):
        st.caption(
            "Press Read: both models are opened once, which takes some seconds, and then read in a"
            " moment."
        )
        return
    _, _, text, found = now["read"]
    strongest = {side: found[side].acts.max(0).values for side in SIDES}
    for side, column in zip(SIDES, st.columns(2, gap="large"), strict=True):
        values = found[side].acts[:, f].tolist()
        peak = max(range(len(values)), key=values.__getitem__) if max(values) > 0 else -2
        column.subheader(SIDES[side], anchor=f"own-{side}")
        column.html(
            tokens.tokens(text, [0, *found[side].ends.tolist()], values, peak, scale[side], side)
        )
    both = table[["feature", "kind", "correlation", "raises"]].assign(
        a=strongest["a"], b=strongest["b"]
    )
    both = both.loc[(both.a > 0) | (both.b > 0)].sort_values("a", ascending=False)
    number, key = st.column_config.NumberColumn, f"own-{hash(text)}"
    st.dataframe(
        both,
        hide_index=True,
        key=key,
        height=280,
        alt="Features active in this text",
        selection_mode="single-row",
        on_select=partial(_row, key, both.feature.tolist()),
        column_order=["feature", "a", "b", "kind", "correlation", "raises"],
        column_config={
            "feature": number("Feature"),
            "a": number("Max here, A", format="%.3g"),
            "b": number("Max here, B", format="%.3g"),
            "kind": "Class",
            "raises": "Raises in A",
            "correlation": number("Eq. 10 ↑", format="%.2f"),
        },
    )
    st.caption(f"Every feature that is active in this text; choose a row to open it. {MARKS}")


def quality(ws: Workspace, sae: str) -> None:
    st.subheader("The SAE before and after transfer", anchor="table-2")
    table = ask(sae_tables.sae_quality, ws, sae)
    view = pd.DataFrame(
        {
            "SAE": table.name,
            "Model": table.model.str.upper(),
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
        "L0": "{:.1f}",
        "Cosine ↑": "{:.2f}",
        "L2 ratio": "{:.2f}",
        "Δ loss ↓": "{:+.2f}",
        "CE score ↑": "{:.2f}",
    }
    percents = dict.fromkeys(
        ("FUV ↓", "Dead ↓"), lambda x: percent(x, sign=False) if x < 10 else ">\u202f1,000\u202f%"
    )
    st.dataframe(view.style.format(digits | percents), hide_index=True, alt="Table 2 with controls")
    st.caption(
        "Table 2 with its controls, held-out split. FUV: fraction of variance unexplained about the"
        " mean. Δ loss: nats per token lost with the reconstruction in the residual stream's place;"
        " CE score: the share of the loss that zeros cost which it wins back. Rank: of the decoder;"
        " a transferred SAE writes along at most A's width."
    )


page()
