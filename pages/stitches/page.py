"""Which layers correspond, the stitches fitted between them, one of them in full, and a form that
fits another."""

from functools import partial

import pandas as pd
import streamlit as st

from core import jobs
from core.errors import StitchLensError
from core.models.pairs import LayerPair, PairSpec, get_pair
from core.stitches import conditions
from core.stitches import tables as stitch_tables
from core.workspace import artifacts, store, uploads
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_STITCH, MB, WEIGHT_FILES
from pages.shared import figures, frame, panels
from pages.shared import words as shared_words
from pages.shared.figures import draw, table_1
from pages.shared.frame import ask, section
from pages.shared.words import count, loss, percent, plain
from pages.stitches import beside
from pages.stitches import figures as stitch_figures

ALPHAS = "α of Eq. 3: how strongly each map must undo the other. The paper uses 1 (Fig. 7)."
ORIENTATIONS = {"linear": "[out, in], as nn.Linear", "paper": "[in, out], as the paper"}
POSITIONS = (
    "Paired token positions of the fit split that Eq. 3 is averaged over. 60,000 take a few minutes"
    " on a laptop; more give a better stitch."
)


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Stitches")
        st.markdown(
            f"Which layers of :blue[{plain(pair.a.title)}] and :violet[{plain(pair.b.title)}] see"
            " the same thing, and what survives a linear map between them."
        )
        panels.refusal()
        if gone := st.session_state.pop("removed", None):
            st.success(f"Stitch {plain(gone)} was removed.", icon=":material/check:")
        names = ask(stitch_tables.stitch_names, ws) if ws.exists else []
        state = follow(ws, names)
        with section():
            layers(ws, pair)
        panels.job_panel(ws.pair)
        if not names:
            st.markdown(
                "**No stitch yet.** Pick a pair of layers above and fit one, or build the whole"
                " workspace."
            )
            st.code(f"python -m core build {ws.pair}", language="bash")
            return
        with section():
            chosen = choose(ws, names)
            one(ws, pair, chosen, state)
        with section():
            beside.paper(ws)
        with section():
            beside.holds(ws)


def follow(ws: Workspace, names: list[str]) -> pd.DataFrame:
    """Settle, before any widget is drawn, which stitch is shown and which pair of layers is
    picked."""
    now = st.session_state
    table = ask(stitch_tables.stitches, ws) if names else pd.DataFrame()
    if (wanted := now.pop("show_stitch", None)) in names:
        now["stitch"] = wanted
    linked = st.query_params.get("stitch")
    if (
        now.get("stitch") not in names
    ):  # none yet, or another workspace's, which the address may still name
        linked = None if linked == now.pop("stitch", None) else linked
    shown = now.get("stitch") or linked
    if names and shown not in names:
        if shown:
            st.warning(f"No stitch named {plain(shown)} here; showing {plain(names[0])}.")
        shown = names[0]
    row = table[table.name == shown].iloc[0] if len(table) else None
    pair = get_pair(ws.pair)
    for key, spec in (("layer_a", pair.a), ("layer_b", pair.b)):
        usual = spec.n_layers // 2 if row is None else int(row[key])
        parse, limits = frame.whole(0, spec.n_layers - 1)
        frame.settle(key, usual, parse, (ws.pair, shown), limits)
    return table


def pick() -> None:
    """A click on the heatmap: these layers, and the stitch fitted there where there is one."""
    now = st.session_state
    for layer_a, layer_b, _, _, stitches in figures.picked(now["svcca"])[:1]:
        now["layer_a"], now["layer_b"] = int(layer_a), int(layer_b)
        if stitches:
            now["stitch"] = stitches.split(", ")[0]


def layers(ws: Workspace, pair: PairSpec) -> None:
    left, right = st.columns([5, 3], gap="large")
    with right:
        st.subheader("Pick a pair of layers", anchor="pick")
        both = st.container(horizontal=True)
        a = int(
            both.number_input(
                "Layer of A",
                0,
                pair.a.n_layers - 1,
                key="layer_a",
                width=150,
                help=(
                    "The residual stream before this layer's computation, `blocks.L.hook_resid_pre`"
                    " (ℓ_A of Eq. 1)."
                ),
            )
        )
        b = int(
            both.number_input(
                "Layer of B",
                0,
                pair.b.n_layers - 1,
                key="layer_b",
                width=150,
                help=(
                    "The residual stream before this layer's computation, `blocks.L.hook_resid_pre`"
                    " (ℓ_B of Eq. 1)."
                ),
            )
        )
    scores = None
    with left, section():
        if ws.exists and store.has(ws, "svcca"):
            scores = ask(stitch_tables.svcca, ws)
            draw(
                stitch_figures.svcca(scores, (a, b), pair.a.title, pair.b.title),
                "Fig. 6: SVCCA, the mean correlation of the directions that hold 99 % of each"
                f" layer's variance (A.1), from 0 to 1, over {scores.n.max():,} positions. Control:"
                f" unrelated streams of this width would score about {scores.chance.median():.2f}."
                " Click a cell to pick it.",
                key="svcca",
                alt="SVCCA of every layer of A with every layer of B",
                on_select=pick,
                selection_mode="points",
            )
        else:
            panels.door(
                "**The layers have not been compared yet.** SVCCA (A.1) scores each layer of A"
                " against each of B.",
                f"python -m core svcca {ws.pair}",
                "Compare them",
                lambda: jobs.start_svcca(ws.pair),
            )
    with right:
        if scores is not None:
            row = scores[(scores.layer_a == a) & (scores.layer_b == b)].iloc[0]
            best = scores[(scores.layer_a == a) & scores.best].iloc[0]
            st.markdown(
                f"SVCCA **{row.svcca:.2f}** (chance about {row.chance:.2f})"
                + (
                    f", the best layer of B for layer {a} of A."
                    if row.best
                    else (
                        f"; for layer {a} of A, layer {best.layer_b} of B is best"
                        f" ({best.svcca:.2f})."
                    )
                )
                + (f"  \nFitted here: {plain(row.stitches)}." if row.stitches else "")
            )
        with section():
            form(ws, pair, a, b)
        with section():
            bring(ws, a, b)


def form(ws: Workspace, pair: PairSpec, a: int, b: int) -> None:
    """Fit a stitch at the picked layers, as a background job."""
    table = ask(stitch_tables.stitches, ws) if ws.exists else pd.DataFrame()
    metrics = list(conditions.METRICS)
    default = table.metric.iloc[0] if len(table) and table.metric.iloc[0] in metrics else metrics[0]
    with (
        st.expander(f"Fit a stitch from layer {a} to layer {b}", icon=":material/add:"),
        st.form("fit", border=False),
    ):
        method = st.selectbox(
            "Method",
            list(conditions.METHODS),
            format_func=lambda m: conditions.METHODS[m][0],
            help="How Eq. 3 is minimised." + listed(conditions.METHODS),
        )
        metric = st.selectbox(
            "Metric",
            metrics,
            index=metrics.index(default),
            format_func=lambda m: conditions.METRICS[m][0],
            help="In which units Eq. 3 measures errors; the study below chose the default."
            + listed(conditions.METRICS),
        )
        left, right = st.columns(2)
        alpha = left.number_input("α", 0.0, 1000.0, 1.0, step=0.1, format="%g", help=ALPHAS)
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
        )
        latest = jobs.latest(ws.pair)
        busy = latest is not None and not latest.over
        why_not = "One job at a time." if busy else None
        if st.form_submit_button("Fit", type=frame.action(), disabled=busy, help=why_not):
            name = name.strip() or stitch_tables.free_name(ws, a, b, method, metric, alpha)
            jobs.start_fit(
                ws.pair,
                a,
                b,
                method=method,
                metric=metric,
                alpha=alpha,
                positions=int(positions),
                name=name,
            )
            st.rerun()


def bring(ws: Workspace, a: int, b: int) -> None:
    """A stitch of one's own: recognised, measured and kept by a background job."""
    with (
        st.expander("Bring your own stitch", icon=":material/upload:"),
        st.form("bring", border=False),
    ):
        file = st.file_uploader(
            "File",
            type=[e.removeprefix(".") for e in WEIGHT_FILES],
            max_upload_size=LARGEST_STITCH // MB,
            help=(
                "Two nn.Linear layers under any sensible naming (up/down, a_to_b/b_to_a,"
                " encoder/decoder …), or P_up, b_up, P_down, b_down; one way alone will do."
                f" safetensors, a PyTorch state_dict or .npz; at most {LARGEST_STITCH // MB} MB."
                " Nothing in it is run."
            ),
        )
        pair = get_pair(ws.pair)
        left, right = st.columns(2)
        layer_a = left.number_input("Trained before layer of A", 0, pair.a.n_layers - 1, a)
        layer_b = right.number_input("Trained before layer of B", 0, pair.b.n_layers - 1, b)
        orientation = None
        if pair.a.d_model == pair.b.d_model:
            orientation = st.segmented_control(
                "Its matrices are",
                list(ORIENTATIONS),
                format_func=lambda x: ORIENTATIONS[x],
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
            jobs.start_import(
                ws.pair,
                place,
                int(layer_a),
                int(layer_b),
                name.strip() or artifacts.name_from(place.name),
                orientation,
                frame.mine(),
            )
            st.rerun()
        st.caption(
            "It stays private to this browser until you keep it; the list is in the sidebar."
        )


def card(ws: Workspace, name: str) -> None:
    """The report card of an imported stitch."""
    if not store.has(ws, f"cards/{name}"):
        return
    found = ask(stitch_tables.card, ws, name)
    st.subheader("Report card", anchor="card")
    panels.warnings(found["warnings"])
    facts = []
    for way in found["ways"]:
        facts += [
            (
                f"FUV {way} ↓",
                percent(found[f"fuv_{way}"], sign=False),
                "variance unexplained, held-out sample",
            ),
            (
                f"Effective rank {way}",
                f"{found[f'rank_{way}']:.0f}",
                f"norm {found[f'norm_{way}']:.3g}",
            ),
            (
                f"Distance to ours {way}",
                f"{found[f'distance_{way}']:.2f}",
                f"relative; ours {found['ours']}",
            ),
        ]
    if "inversion_a" in found:
        facts += [
            (f"Inversion {k.upper()} ↓", percent(found[f"inversion_{k}"], sign=False), "Eq. 3")
            for k in ("a", "b")
        ]
    frame.cells(facts)
    read = "; ".join(
        f"{plain(name)}{': ' if role.startswith('not used') else ' is '}{plain(role)}"
        for name, role in found["layout"].items()
    )
    judged = f"{plain(found['reading'])} " if found.get("reading") else ""
    losses = ", ".join(
        f"{conditions.BY_KEY[row['condition']].label} {percent(row['relative'])}"
        for row in found["table_1"]
        if row["condition"] not in ("a", "b")
    )
    st.caption(
        f"As read: {read}. {judged}Next-token loss above the unpatched model (Table 1): {losses}. "
        f"{found['positions']:,} paired positions."
    )


def listed(words: dict[str, tuple[str, str]]) -> str:
    return "".join(f"\n- {short}: {long}" for short, long in words.values())


def choose(ws: Workspace, names: list[str]) -> str:
    """The table of stitches and a picker that hold the same choice; a link can set it."""
    st.subheader("Fitted stitches", anchor="stitches")
    table = ask(stitch_tables.stitches, ws)
    for fault in table.fault[table.fault != ""]:
        st.error(shared_words.sentence(fault), icon=":material/error:")
    shown = st.session_state.get("stitch") or st.query_params.get("stitch")
    shown = shown if shown in names else names[0]
    view = pd.DataFrame(
        {
            "Stitch": table.name,
            "ℓ A": table.layer_a,
            "ℓ B": table.layer_b,
            "Method": table.method,
            "Metric": table.metric,
            "α": table.alpha,
            "Positions": table.positions,
            "A→B ↓": table.a_to_b_relative,
            "B→A ↓": table.b_to_a_relative,
            "A→B→A ↓": table.a_to_b_to_a_relative,
            "B→A→B ↓": table.b_to_a_to_b_relative,
            "FUV up ↓": table.fuv_up,
            "FUV down ↓": table.fuv_down,
        }
    )
    styles = {c: percent for c in view.columns if c.endswith("→B ↓") or c.endswith("→A ↓")}
    styles |= {c: partial(percent, sign=False) for c in ("FUV up ↓", "FUV down ↓")}
    key = f"table-{shown}-{len(names)}"
    st.dataframe(
        view.style.format(styles | {"α": "{:g}", "Positions": count}, na_rep="–"),
        hide_index=True,
        key=key,
        placeholder="–",
        on_select=partial(_row, key, names),
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [names.index(shown)]}},
        alt="Stitches of this workspace",
        column_config={"Stitch": st.column_config.Column(pinned=True)},
    )
    st.caption(
        "Increase of the next-token loss over the unpatched model that comes last (Table 1), and"
        " the fraction of variance unexplained each way, on the held-out split; ↓ lower is better."
        " Choose a row to see it below."
    )
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = str(right.selectbox("Stitch shown", names, key="stitch", bind="query-params"))
    left.header(plain(chosen), anchor="stitch")
    return chosen


def _row(key: str, names: list[str]) -> None:
    if rows := st.session_state[key].selection.rows:
        st.session_state["stitch"] = names[rows[0]]


def one(ws: Workspace, pair: PairSpec, name: str, table: pd.DataFrame) -> None:
    """One stitch in full."""
    row = table[table.name == name].iloc[0]
    ends = f":blue[A] before layer {row.layer_a} ↔ :violet[B] before layer {row.layer_b}"
    how = (
        f"{plain(row.method)}, metric {plain(row.metric)}, α = {row.alpha:g},"
        f" {count(row.positions)} positions"
    )
    imported = row.method == "imported"
    st.markdown(f"{ends}; {'imported' if imported else how}.")
    remove(ws, name)
    with section():
        card(ws, name)
    if imported and not store.has(ws, f"downstream/{name}"):  # one way alone
        return
    with section():
        losses(ws, pair, name)
    with section():
        kinds(ws, name)
    with section():
        quality(ws, name)
    left, right = st.columns([5, 7], gap="large")
    with left, section():
        sweep(ws, int(row.layer_a), int(row.layer_b), str(row.metric))
    with right, section():
        study(ws, int(row.layer_a), int(row.layer_b))
    with (
        section(),
        st.expander("Provenance: what this stitch was made from", icon=":material/fingerprint:"),
    ):
        st.dataframe(ask(artifacts.provenance, ws, name), hide_index=True, alt="Provenance")


def remove(ws: Workspace, name: str) -> None:
    """Take a stitch out that a person fitted or brought; those of the build stay."""
    if not stitch_tables.by_hand(ws, name):
        return
    with st.popover("Remove", icon=":material/delete:", key="ask-remove"):
        if through := stitch_tables.made_through(ws, name):
            st.markdown(
                f"{plain(', '.join(through))} were made through {plain(name)}, so it stays."
            )
            return
        st.markdown(
            f"Takes {plain(name)} and what was measured of it out of this workspace, for all who"
            " use it."
        )
        st.button("Remove it", on_click=removed, args=(ws, name), key="remove-stitch")


def removed(ws: Workspace, name: str) -> None:
    from core.stitches.measure import remove_stitch

    try:
        remove_stitch(ws if f"stitches/{name}" in ws.own() else ws.shared, name)
        st.session_state["removed"] = name
    except StitchLensError as e:
        st.session_state["refusal"] = shared_words.sentence(e)


def losses(ws: Workspace, pair: PairSpec, name: str) -> None:
    if not store.has(ws, f"downstream/{name}"):
        st.markdown(
            "Its downstream losses have not been measured yet; a fit does so at its end, and so"
            " does:"
        )
        st.code(f"python -m core stitch eval {ws.pair} {name}", language="bash")
        return
    table = ask(stitch_tables.downstream, ws, name)
    draw(
        table_1(table, pair.a.title, pair.b.title),
        "Table 1 with its controls (shuffled pairs, mean ablation): next-token loss, and its"
        " increase over the unpatched model that comes last. Held-out split,"
        f" {table.documents.max():,} documents; bars are 95 % bootstrap intervals over documents.",
        key="table-1",
        alt=f"Next-token losses with stitch {name}: unpatched, stitched and controls",
    )
    view = pd.DataFrame(
        {
            "Condition": table.label,
            "Loss, nats/token ↓": [
                loss(*x) for x in zip(table.loss, table.low, table.high, strict=True)
            ],
            "Relative ↓": [
                "" if r == "unpatched" else percent(*x)
                for r, *x in zip(
                    table.role, table.relative, table.relative_low, table.relative_high, strict=True
                )
            ],
            "Bits/byte ↓": table.bits_per_byte.map(loss),
            "At patched, nats/token ↓": table.loss_patched.map(loss),
            "Patched": [percent(x, sign=False) for x in table.share_patched],
            "Tokens": table.tokens.map("{:,}".format),
        }
    )
    column = st.column_config.Column
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="Downstream losses with intervals",
        column_config={
            "Condition": column(pinned=True),
            "Relative ↓": column(
                help="Increase over the unpatched model that comes last, as in Table 1."
            ),
            "At patched, nats/token ↓": column(
                help="Loss of the predictions made at patched positions only."
            ),
            "Patched": column(
                help="Share of the scored model's positions whose residual was replaced."
            ),
        },
    )
    st.caption(
        "The figure's numbers, with 95 % intervals. Bits/byte can be compared across the two"
        " tokenizers."
    )


def kinds(ws: Workspace, name: str) -> None:
    """What one model has hardly read it cannot hand on: Table 1 for each kind of text."""
    if not store.has(ws, f"kinds/{name}"):
        return
    table = ask(stitch_tables.kinds, ws, name)
    st.subheader("By kind of text", anchor="kinds")
    view = pd.DataFrame(
        {
            "Text": [plain(kind) for kind in table.kind],
            "A, bits/byte ↓": table.bits_a.map(loss),
            "B, bits/byte ↓": table.bits_b.map(loss),
            **{
                f"{conditions.BY_KEY[key].label} ↓": [percent(x) for x in table[f"{key}_relative"]]
                for key in conditions.STITCHED
            },
            "Documents": table.documents.map("{:,}".format),
        }
    )
    st.dataframe(
        view,
        hide_index=True,
        height="content",
        row_height=30,
        alt="Downstream losses by kind of text",
    )
    st.caption(
        "The same measurement for each kind of text apart: increase of the loss over the unpatched"
        " model that comes last (Table 1). Where A itself reads a kind of text badly (bits/byte),"
        " little can reach B. Held-out split."
    )


def quality(ws: Workspace, name: str) -> None:
    if not store.has(ws, f"quality/{name}"):
        return
    found = ask(stitch_tables.quality, ws, name)
    labels = {
        "fuv_up": ("FUV up, A→B ↓", "of B's variance unexplained (Eq. 1)"),
        "fuv_down": ("FUV down, B→A ↓", "of A's variance unexplained (Eq. 2)"),
        "inversion_a": ("Inversion, A→B→A ↓", "of A's variance lost (Eq. 3, third term)"),
        "inversion_b": ("Inversion, B→A→B ↓", "of B's variance lost (Eq. 3, fourth term)"),
    }
    facts = [
        (name, percent(found.get(key, float("nan")), sign=False), note)
        for key, (name, note) in labels.items()
    ]
    if (eq3 := found.get("eq3")) is not None:
        facts.append(("Eq. 3 ↓", f"{eq3:.2g}", "all four terms, in the stitch's own metric"))
    frame.cells(facts)
    fit = f", where Eq. 3 is {found['eq3_fit']:.2g}" if found.get("eq3_fit") is not None else ""
    st.caption(
        f"Held-out, {found.get('n_held_out', 0):,} paired positions; fitted on"
        f" {found.get('n_fit', 0):,}{fit}. Control: the mean alone leaves 100 %."
        f" {found.get('dropped', 0):,} positions of extreme norm were left out."
    )


def sweep(ws: Workspace, layer_a: int, layer_b: int, metric: str) -> None:
    st.subheader("How strong should inversion be?", anchor="alpha")
    if not store.has(ws, "alpha_sweep"):
        st.markdown("Not swept yet; `build` does it.")
        st.code(f"python -m core build {ws.pair}", language="bash")
        return
    table = ask(stitch_tables.alpha_sweep, ws, layer_a, layer_b)
    if table.empty:
        st.markdown(
            f"α was swept for the layer pairs of the build only, not for L{layer_a}-L{layer_b}."
        )
        return
    metrics = table.metric.unique().tolist()
    if len(metrics) > 1:
        start = metrics.index(metric) if metric in metrics else 0
        metric = st.selectbox(
            "Metric of the sweep", metrics, index=start, help="Units of the errors in Eq. 3."
        )
    unit = st.segmented_control(
        "Show",
        ["loss", "relative"],
        default="loss",
        required=True,
        label_visibility="collapsed",
        format_func=lambda u: {"loss": "Loss", "relative": "Above unpatched"}[u],
        key="sweep-unit",
        bind="query-params",
    )
    table = table.loc[table.metric == (metric if metric in metrics else metrics[0])]
    draw(
        stitch_figures.alpha_sweep(table, "relative" if unit == "relative" else "loss"),
        f"Fig. 7 for {LayerPair(a=layer_a, b=layer_b).name}, metric {plain(table.metric.iloc[0])}:"
        f" next-token loss on the select split for {table.alpha.nunique()} values of α. Control:"
        " the unpatched models (dotted).",
        key="alpha-sweep",
        alt="Loss against alpha, one line for each way through the stitch",
    )


def study(ws: Workspace, layer_a: int, layer_b: int) -> None:
    st.subheader("Which metric and method?", anchor="study")
    if not store.has(ws, "study"):
        st.markdown("Not studied yet; `build` does it.")
        st.code(f"python -m core build {ws.pair}", language="bash")
        return
    table = ask(stitch_tables.study, ws)
    here = table[(table.layer_a == layer_a) & (table.layer_b == layer_b)]
    table = here if len(here) else table
    where = LayerPair(a=int(table.layer_a.iloc[0]), b=int(table.layer_b.iloc[0])).name
    view = pd.DataFrame(
        {
            "Used": table.chosen.map({True: "✓", False: ""}),
            "Method": table.method,
            "Metric": table.metric,
            "α": table.alpha,
            "A→B ↓": table.a_to_b_relative,
            "B→A ↓": table.b_to_a_relative,
            "A→B→A ↓": table.a_to_b_to_a_relative,
            "B→A→B ↓": table.b_to_a_to_b_relative,
        }
    )
    percents = dict.fromkeys([c for c in view.columns if c.endswith("↓")], percent)
    st.dataframe(
        view.style.format(percents | {"α": "{:g}"}),
        hide_index=True,
        alt="Study of metrics and methods",
    )
    st.caption(
        f"Eq. 3 solved at {where} with errors measured in each metric: increase of the next-token"
        " loss over the unpatched model that comes last, on the select split. The build used the"
        " setting with the least A→B and B→A together among those whose round trips cost at most"
        " 5 %."
    )


page()
