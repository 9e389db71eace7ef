"""Where the vector that steers comes from: a language, two texts, a feature, or a file of a
person's own."""

import json
from collections.abc import Callable
from typing import Any

import streamlit as st
from safetensors import safe_open

from core.errors import StitchLensError
from core.features import tables as feature_tables
from core.models.libraries import importing
from core.models.pairs import PairSpec
from core.steering import tables as steering_tables
from core.steering.sources import Brought, Concept, Feature, Language
from core.stitches import tables as stitch_tables
from core.text.languages import LANGUAGES
from core.workspace import artifacts, store, uploads
from core.workspace.store import Workspace
from core.workspace.untrusted import LARGEST_VECTOR, MB, VECTOR_FILES
from pages.shared import address, frame, panels
from pages.shared.address import bound
from pages.shared.frame import ask, section
from pages.shared.words import number, plain, short_names

SOURCES = {"lang": "Language", "concept": "Texts", "feature": "Feature", "vector": "Your own"}
"""As the address calls them."""
TARGETS = {"concept": "two texts", "feature": "a feature", "vector": "a file"}
"""As the sentence calls those that are no language."""
PLUS = (
    "I love this, it is wonderful.\nWhat a beautiful and happy day.\nThis is the best gift I ever"
    " got."
)
MINUS = (
    "I hate this, it is terrible.\nWhat an ugly and sad day.\nThis is the worst gift I ever got."
)
LONGEST = 5000
"""Characters of a text that stands for a concept."""


def target(ws: Workspace) -> str:
    """What to steer toward, one choice of languages and of what else there is; returns the kind."""
    codes, names = ask(language_codes, ws), dict(LANGUAGES.values())
    kind = chosen("source", list(SOURCES), SOURCES.__getitem__, "source of vectors")
    code = chosen("lang", codes, names.__getitem__, "language")

    others = [kind for kind in SOURCES if kind != "lang"]
    options = [*others, *(f"lang:{code}" for code in codes)]
    wanted = f"lang:{code}" if kind == "lang" else kind
    if st.session_state.get("target") != wanted:
        st.session_state["target"] = wanted
    st.selectbox(
        "Steer toward",
        options,
        key="target",
        format_func=lambda option: TARGETS.get(option) or names[option.removeprefix("lang:")],
        on_change=aim,
        label_visibility="collapsed",
        width=160,
    )
    return kind


def chosen(
    key: str,
    options: list[str],
    words: Callable[[str], str],
    what: str,
) -> str:
    """A choice that the address holds, drawn together with another one."""
    parse, limits, write_as = address.one_of(options, words)
    return str(address.settle(key, options[0], parse, "", limits, words=write_as, what=what))


def aim() -> None:
    """Another target was chosen; the prompt stays."""
    kind, _, code = str(st.session_state["target"]).partition(":")
    address.put("source", kind)
    if code:
        address.put("lang", code)


def given(
    ws: Workspace,
    pair: PairSpec,
    kind: str,
    row: Any,
    below: Any,
) -> dict[str, Any]:
    """Ask for the rest of a target, in the `row` of the sentence and `below` it: the `source`, and
    of a feature its `sae`."""
    match kind:
        case "lang":
            return {"source": Language(st.session_state["lang"])}
        case "concept":
            with below:
                return {"source": concept()}
        case "feature":
            with row:
                return feature(ws, pair)
    return {"source": Brought(brought(ws, pair, row, below))}


def language_codes(ws: Workspace) -> list[str]:
    """Those with means; first the ones to which transferred vectors steer B best."""
    best: list[str] = []
    if store.has(ws, "steering"):
        table = steering_tables.steering(ws, "b")
        transferred = table.loc[table.kind == "transferred"]
        best = transferred.sort_values("success", ascending=False).language.to_list()

    with safe_open(ws.path("language_means/b"), "np") as means:
        labels = json.loads((means.metadata() or {}).get("labels", "[]"))
    codes = {LANGUAGES[label][0] for label in labels if label != "eng"}
    return [*best, *sorted(codes - set(best))]


def concept() -> Concept:
    """Two texts, more of one and less of the other."""
    words = "Examples, one a line. v is the difference of the mean residual streams."
    boxes = (("plus", "More of this", PLUS), ("minus", "Less of this", MINUS))
    texts = []
    for column, (key, label, text) in zip(st.columns(2), boxes, strict=True):
        box = bound(
            column.text_area,
            label,
            usual=text,
            key=key,
            max_chars=LONGEST,
            help=words,
        )
        texts.append(str(box))
    return Concept(*texts)


def feature(ws: Workspace, pair: PairSpec) -> dict[str, Any]:
    """A feature of an SAE of A."""
    saes = feature_tables.saes(ws)
    if not saes:
        st.markdown("(no SAE yet: see the Features page)", width="content")
        return {"sae": ""}

    number, of = st.container(width=120), st.container(width="content")
    sae = str(
        bound(
            st.selectbox,
            "SAE",
            saes,
            key="steer_sae",
            what="SAE",
            label_visibility="collapsed",
            width=150,
        )
    )
    last = len(ask(feature_tables.features, ws, sae)) - 1
    index = bound(
        number.number_input,
        "Feature",
        0,
        last,
        key="steer_feature",
        label_visibility="collapsed",
    )
    of.markdown(
        "of",
        width="content",
        help=(
            f"An SAE of {plain(pair.a.title)}. v is the feature's decoder direction; z̄ the mean"
            " component where it is active in its top contexts."
        ),
    )
    return {"source": Feature(sae, int(index)), "sae": sae}


def fitting(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
) -> list[str]:
    """The stitches that carry this SAE's features, the one that they were measured through first;
    where there is none, a way to fit one."""
    names = ask(stitch_tables.stitches_from, ws, sae) if sae else []
    if store.has(ws, f"features/{sae}"):
        usual = ask(store.makers, ws, f"features/{sae}").get("stitch_name")
        names = sorted(names, key=lambda name: name != usual)
    if sae and not names:
        layer = ask(store.makers, ws, f"saes/{sae}")["layer_a"]
        st.markdown(
            f"No stitch leads from layer {layer} of {plain(short_names(pair)['a'])}, where SAE"
            f" {plain(sae)} reads: fit one on Stitches."
        )
        link = {"pair": ws.pair, "layer_a": str(layer)}
        st.page_link("stitches/page.py", label="Fit one", icon=":material/hub:", query_params=link)
    return names


def brought(
    ws: Workspace,
    pair: PairSpec,
    row: Any,
    below: Any,
) -> str:
    """A vector that was brought, with its report card, and a form that takes another."""
    vectors = steering_tables.vectors(ws)
    if (added := st.session_state.pop("added_vector", None)) in vectors:
        address.put("vector", added)

    name = ""
    if vectors:
        name = str(
            bound(
                row.selectbox,
                "Vector",
                vectors,
                key="vector",
                label_visibility="collapsed",
                width=190,
            )
        )
    with below:
        if vectors:
            with section():
                card(ask(steering_tables.vector_card, ws, name), short_names(pair))
        with section():
            bring(ws, pair)
    return name


def card(record: dict[str, Any], names: dict[str, str]) -> None:
    """The report card of a vector that was brought."""
    near = ", ".join(
        f"{plain(code)} {number(cosine, sign=True)}" for code, cosine in record.get("nearest", [])
    )
    through = ", ".join(
        f"{plain(stitch)} {number(cosine)}" for stitch, cosine in record["crossing"].items()
    )
    panels.warnings(record["warnings"])

    words = f"For {plain(names[record['side']])} before layer {record['layer']}; pushes by"
    words += f" {number(record['push'])}"
    if "from" in record:
        words += f" ({plain(record['from'])})"
    if near:
        words += (
            f", the mean residual stream is {number(record['size'])}. Nearest languages, by cosine:"
            f" {near}"
        )
    if through:
        words += f". Through a stitch and back, cosine with itself: {through}"
    notes = "".join(f" Note: {plain(note)}." for note in record.get("notes", ()))
    st.caption(f"{words}.{notes}")


def bring(ws: Workspace, pair: PairSpec) -> None:
    """A vector of a person's own: checked at once and kept private."""
    if panels.closed("Bringing a vector"):
        return
    names = short_names(pair)
    with (
        st.expander("Bring a vector", icon=":material/upload:"),
        st.form("bring-vector", border=False),
    ):
        file = st.file_uploader(
            "File",
            type=[ending[1:] for ending in VECTOR_FILES],
            max_upload_size=LARGEST_VECTOR // MB,
            help=(
                "As `vector export` writes it, a GGUF control vector, Neuronpedia's JSON, or a row"
                " alone as NumPy, safetensors or PyTorch tensor; at most"
                f" {LARGEST_VECTOR // MB} MB."
            ),
        )
        left, right = st.columns(2)
        side = left.segmented_control(
            "It is for",
            ["as it says", "a", "b"],
            default="as it says",
            required=True,
            format_func=lambda choice: str(names.get(choice, choice)),
            help=(
                "A row alone does not say its model and layer; a control vector often says the"
                " architecture alone."
            ),
        )
        layer = right.number_input(
            "Before layer, if it does not say",
            0,
            1000,
            None,
            help="Of a file with several layers, the one to take; the middle one if left empty.",
        )
        name = st.text_input("Name", placeholder="the file's", max_chars=64)
        if st.form_submit_button("Add"):
            if file is None:
                raise StitchLensError("no file", "a vector", "drop one into the box")
            add(pair, file, name.strip(), None if side == "as it says" else str(side), layer)
            st.rerun()
        st.caption(
            "It stays private to this browser until you keep it; the list is in the sidebar."
        )


def add(
    pair: PairSpec,
    file: Any,
    name: str,
    side: str | None,
    layer: float | None,
) -> None:
    """Take in a vector that was uploaded, and choose it."""
    with importing():
        from core.bench import open_pair
        from core.steering.card import import_vector

    path = uploads.uploaded(file.name, file.getvalue())
    name = name or artifacts.name_from(path.name)
    bench = open_pair(pair.key, private=frame.mine())
    where = None if layer is None else int(layer)
    import_vector(bench, path, name, side, where)  # type: ignore[arg-type]
    st.session_state["added_vector"] = name
