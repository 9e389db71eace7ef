"""Which layers correspond, the stitches fitted between them, one of them in full, and a form that
fits another."""

from functools import partial

import pandas as pd
import streamlit as st

from core.models.libraries import importing
from core.models.pairs import PairSpec, get_pair
from core.stitches import tables as stitch_tables
from core.stitches.conditions import BY_KEY, STITCHED
from core.stitches.kinds import headlines
from core.workspace import artifacts, demonstration, store
from core.workspace.store import Workspace
from pages.shared import address, frame, panels, saving
from pages.shared.frame import ask, section
from pages.shared.words import count, named, percent, plain, sentence, short_names
from pages.stitches import beside
from pages.stitches.card import card
from pages.stitches.layers import layers
from pages.stitches.losses import kinds, losses, quality
from pages.stitches.refined import refined
from pages.stitches.settings import study, sweep


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
        table = follow(ws, pair, names)
        with section():
            layers(ws, pair)
        panels.job_panel(ws.pair)
        if not names:
            st.markdown(
                "**No stitch yet.** Pick a pair of layers above and fit one, or build the whole"
                " workspace."
            )
            st.code(f"python -m core build {ws.pair}", language=None)
            return
        with section():
            stitch(ws, pair, choose(ws, pair, names), table)
        with section():
            refined(ws, pair, names[0])
        with section():
            beside.paper(ws)
        with section():
            beside.holds(ws)


def follow(ws: Workspace, pair: PairSpec, names: list[str]) -> pd.DataFrame:
    """Settle, before any widget is drawn, which stitch is shown and which pair of layers is
    picked."""
    now = st.session_state
    table = ask(stitch_tables.stitches, ws) if names else pd.DataFrame()
    if (wanted := now.pop("show_stitch", None)) in names:
        address.put("stitch", wanted)
    shown = None
    if names:
        by_name = {name: name for name in names}
        shown = address.settle("stitch", names[0], by_name.get, ws.pair, what="stitch named")
    else:
        address.choices("stitch", (), "stitch named")

    row = table[table.name == shown].iloc[0] if len(table) else None
    for key, spec in (("layer_a", pair.a), ("layer_b", pair.b)):
        usual = spec.n_layers // 2 if row is None else int(row[key])
        parse, limits = address.whole(0, spec.n_layers - 1)
        address.settle(key, usual, parse, (ws.pair, shown), limits)
    return table


def choose(ws: Workspace, pair: PairSpec, names: list[str]) -> str:
    """The table of stitches and a picker that hold the same choice; a link can set it."""
    st.subheader("Fitted stitches", anchor="stitches")
    table = ask(stitch_tables.stitches, ws)
    for fault in table.fault[table.fault != ""]:
        st.error(sentence(fault), icon=":material/error:")

    shown = st.session_state["stitch"]
    view = overview(table, ask(headlines, ws), short_names(pair))
    increases = [column for column in view.columns if "→" in column]
    shares = [column for column in view.columns if "FUV" in column or "crossed" in column]
    styles = dict.fromkeys(increases, percent)
    styles |= dict.fromkeys(shares, partial(percent, sign=False))
    key = f"table-{shown}-{len(names)}"
    st.dataframe(
        view.style.format(styles | {"α": "{:g}", "Positions": count}, na_rep="–"),
        hide_index=True,
        key=key,
        placeholder="–",
        on_select=partial(open_row, key, names),
        selection_mode="single-row-required",
        selection_default={"selection": {"rows": [names.index(shown)]}},
        alt="Stitches of this workspace",
        column_config=frame.heads(view.columns, Stitch=st.column_config.Column(pinned=True)),
    )
    st.caption(
        "Increase of the next-token loss over the unpatched model that comes last: first on the"
        " text that both models read best, with the share of a model's positions that crossed"
        " there, then on all text. FUV: fraction of a model's variance that is unexplained."
        " Held-out split; ↓ lower is better. Choose a row to see it below. (Table 1)"
    )
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = str(right.selectbox("Stitch shown", names, key="stitch"))
    left.header(plain(chosen), anchor="stitch")
    frame.titled(f"Stitch {chosen}", "Stitches")
    return chosen


def overview(table: pd.DataFrame, apart: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The table of stitches as it is shown: what crossing costs on the text that both models read
    best, `apart` from the mean over all text, which stands behind it."""
    apart = apart.set_index("name").loc[table.name].reset_index()
    columns = {"Stitch": table.name, "Text": apart.kind.map(plain)}

    for way in ("a_to_b", "b_to_a"):
        columns[f"{named(BY_KEY[way].label, names)} ↓"] = apart[f"{way}_relative"]
        speaker = BY_KEY[way].model
        columns[f"{names[speaker]}, crossed"] = apart[f"crossed_{speaker}"]
    for way in STITCHED[2:]:
        columns[f"{named(BY_KEY[way].label, names)} ↓"] = apart[f"{way}_relative"]
    for way in STITCHED:
        columns[f"All text, {named(BY_KEY[way].label, names)} ↓"] = table[f"{way}_relative"]

    columns[f"FUV of {names['b']} ↓"] = table.fuv_up
    columns[f"FUV of {names['a']} ↓"] = table.fuv_down
    for side in ("a", "b"):
        columns[f"Layer, {names[side]}"] = table[f"layer_{side}"]
    settings = {"Method": table.method, "Metric": table.metric, "α": table.alpha}
    return pd.DataFrame(columns | settings | {"Positions": table.positions})


def open_row(key: str, names: list[str]) -> None:
    """A row that was chosen shows its stitch."""
    if rows := st.session_state[key].selection.rows:
        st.session_state["stitch"] = names[rows[0]]


def stitch(ws: Workspace, pair: PairSpec, name: str, table: pd.DataFrame) -> None:
    """One stitch in full."""
    saving.begin(name)
    row = table[table.name == name].iloc[0]
    models = short_names(pair)
    ends = (
        f":blue[{plain(models['a'])}] before layer {row.layer_a} ↔ :violet[{plain(models['b'])}]"
        f" before layer {row.layer_b}"
    )
    how = (
        f"{plain(row.method)}, metric {plain(row.metric)}, α = {row.alpha:g},"
        f" {count(row.positions)} positions"
    )
    imported = row.method == "imported"
    st.markdown(f"{ends}; {'imported' if imported else how}.")
    remove(ws, name)
    with section():
        card(ws, pair, name)
    if imported and not store.has(ws, f"downstream/{name}"):  # one way alone
        return

    with section():
        losses(ws, pair, name)
    with section():
        kinds(ws, pair, name)
    with section():
        quality(ws, pair, name)
    left, right = st.columns([5, 7], gap="large")
    with left, section():
        sweep(ws, models, int(row.layer_a), int(row.layer_b), str(row.metric))
    with right, section():
        study(ws, models, int(row.layer_a), int(row.layer_b))
    made_from = st.expander(
        "Provenance: what this stitch was made from",
        key="provenance",
        icon=":material/fingerprint:",
        on_change="rerun",
    )
    if made_from.open:
        with made_from, section():
            st.dataframe(ask(artifacts.provenance, ws, name), hide_index=True, alt="Provenance")


def remove(ws: Workspace, name: str) -> None:
    """Take a stitch out that a person fitted or brought; those of the build stay."""
    if demonstration.active() or not stitch_tables.by_hand(ws, name):
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
    with importing():
        from core.stitches.measure import remove_stitch

    def change() -> None:
        remove_stitch(ws if f"stitches/{name}" in ws.own() else ws.shared, name)
        st.session_state["removed"] = name

    panels.attempt(change)


page()
