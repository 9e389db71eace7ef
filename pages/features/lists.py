"""Lists of features with notes: private to this browser, or kept for all who use the workspace."""

from functools import partial

import streamlit as st

from core.features import feature_list, lists
from core.features.feature_list import LONGEST_NAME, LONGEST_NOTE, FeatureList
from core.workspace.store import Workspace
from pages.shared import address, frame, panels
from pages.shared.words import plain

TAB = "My lists"
NEW = "A new list"


def own(ws: Workspace) -> Workspace:
    """The workspace with this browser's part of it, whether anything lies there yet."""
    return Workspace(ws.pair, private=frame.mine())


def adding(ws: Workspace, sae: str, index: int) -> None:
    """A door from the card: put this feature into a list."""
    with st.popover("Add to list", icon=":material/playlist_add:"):
        if panels.closed("Keeping lists"):
            return
        known = lists.every(own(ws))
        titles = {NEW: NEW} | {list_id: one.name for list_id, one in known.items()}
        chosen = str(
            st.selectbox(
                "List",
                list(titles),
                index=min(1, len(titles) - 1),
                format_func=titles.__getitem__,
                key="add-to",
            )
        )
        if chosen == NEW:
            st.text_input("Its name", "My features", max_chars=LONGEST_NAME, key="list-name")
        st.text_area("Note", max_chars=LONGEST_NOTE, key="list-note", height=80)
        st.button("Add", on_click=add, args=(ws, sae, index), type=frame.action())


def add(ws: Workspace, sae: str, index: int) -> None:
    """From a callback: into the list that was chosen, or a new one."""
    now = st.session_state

    def change() -> None:
        list_id = str(now["add-to"])
        if list_id == NEW:
            list_id = lists.new(own(ws), str(now["list-name"]))
        lists.add(own(ws), list_id, sae, index, str(now["list-note"]))
        now["list-note"] = ""
        address.put("list", list_id)
        address.put("tab", TAB)

    panels.attempt(change)


def shown(ws: Workspace, sae: str) -> None:
    """One list, with what can be done with it."""
    now, mine = st.session_state, own(ws)
    known = lists.every(mine)
    asked = address.settle("list", "", str, ws.pair)
    if asked and asked not in known:
        now["list"] = ""
        lists.read(mine, asked)  # says why it is not there
    if not known:
        st.markdown(
            "No list yet: *Add to list*, on the card of a feature, starts one. It stays private to"
            " this browser until you keep it."
        )
        return

    now["list"] = now["list"] or next(iter(known))
    list_id = str(
        st.selectbox(
            "List",
            list(known),
            key="list",
            format_func=lambda one: f"{'🔒 ' if one.startswith('p-') else ''}{known[one].name}",
        )
    )
    entries(ws, sae, known[list_id])
    doors(mine, list_id, known[list_id])


def entries(ws: Workspace, sae: str, one: FeatureList) -> None:
    """The features of a list: a row that is chosen opens its feature."""
    table = feature_list.table(own(ws), one)
    if table.empty:
        st.markdown("Nothing in it yet.")
        return
    st.dataframe(
        table,
        hide_index=True,
        key="list-rows",
        height=min(420, 38 + 35 * len(table)),
        alt="Features of this list",
        selection_mode="single-row",
        on_select=partial(open_entry, table.sae.tolist(), table.feature.tolist(), sae),
        column_order=["feature", "note", "label", "agreement", "twin"],
        column_config={
            "feature": st.column_config.NumberColumn("Feature", pinned=True),
            "note": "Note",
            "label": "Label",
            "agreement": st.column_config.NumberColumn("Agreement ↑", format="%.2f"),
            "twin": st.column_config.NumberColumn("Twin"),
        },
    )


def open_entry(saes: list[str], features: list[int], sae: str) -> None:
    """A row of a list was chosen."""
    if rows := st.session_state["list-rows"].selection.rows:
        row = rows[0]
        if saes[row] != sae:
            address.put("sae", saes[row])
        address.put("feature", int(features[row]))


def doors(mine: Workspace, list_id: str, one: FeatureList) -> None:
    """Take this feature out, keep, delete, take along."""
    now = st.session_state
    feature = int(now["feature"])
    here = [entry for entry in one.entries if entry.feature == feature]
    with st.container(horizontal=True, gap="small"):
        for entry in here:
            st.button(
                f"Take {feature} out",
                key=f"out-{entry.sae}",
                on_click=panels.attempt,
                args=(partial(lists.remove, mine, list_id, entry.sae, feature),),
            )
        if list_id.startswith("p-"):
            st.button(
                "Keep in workspace",
                on_click=keep,
                args=(mine, list_id),
                help="Everyone who opens this workspace sees it then, and its link works.",
            )
        with st.popover("Delete"):
            st.button(
                "Delete it",
                on_click=panels.attempt,
                args=(partial(remove, mine, list_id),),
            )
        st.download_button(
            "CSV",
            lambda: feature_list.as_csv(mine, one).encode(),
            f"{one.name}.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
        st.download_button(
            "JSON",
            lambda: feature_list.as_json(one).encode(),
            f"{one.name}.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
        )
    for entry in here:
        if entry.note:
            st.markdown(f":small[Note at {feature}: {plain(entry.note)}]")


def remove(mine: Workspace, list_id: str) -> None:
    """The list is gone, and nothing asks for it."""
    lists.delete(mine, list_id)
    address.put("list", "")


def keep(mine: Workspace, list_id: str) -> None:
    """From a callback: for everyone; the link follows."""
    panels.attempt(lambda: address.put("list", lists.keep(mine, list_id)))
