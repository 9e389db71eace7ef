"""Labels of a person: texts of two kinds, a probe of A, moved to B at once and judged on both."""

import io
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from core.errors import StitchLensError
from core.models.libraries import importing
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.probes.labelled import LEAST, MOST_ROWS, Labelled, labelled, read_csv, two_lists
from core.workspace import demonstration, store
from core.workspace.store import Workspace
from pages.probes.features import links
from pages.shared import frame
from pages.shared.address import bound
from pages.shared.frame import ask
from pages.shared.words import explained, number, plain, short_names

if TYPE_CHECKING:
    from core.probes.labels import OwnLabels
    from core.probes.prober import Prober

MOST_TYPED = 20_000
"""Characters of each box."""
YES = """The nurse thanked everyone and smiled.
We danced until the morning and laughed a lot.
The soup was warm, rich and full of flavour.
My brother won the race and hugged us all.
The children loved the little theatre by the lake.
At last the sun came out and the picnic began.
She was proud of the kind letter from her teacher.
The new library is bright, calm and welcoming."""
NO = """The nurse sighed and nobody answered her.
We waited in the rain and the bus never came.
The soup was cold, thin and tasted of nothing.
My brother lost his keys and missed the train.
The children were bored by the endless speech.
At last the roof broke and the water came in.
She was hurt by the cruel letter from her boss.
The old station is dark, dirty and full of noise."""


@st.cache_resource(max_entries=1, show_spinner=False)
def _prober(
    pair: str,
    sae: str,
    stitch: str,
    private: Path | None,
    stamp: str,
) -> "Prober":
    with importing():
        from core.bench import open_pair
        from core.probes.prober import Prober

    return Prober(open_pair(pair, private=private), sae, stitch)


def own_labels(
    ws: Workspace,
    pair: PairSpec,
    name: str,
) -> None:
    """A form that takes texts of two kinds, and what came of them."""
    st.subheader("Probe your own labels", anchor="own", help=explained("probe"))
    names = short_names(pair)
    st.markdown(
        f"Give texts of two kinds. A probe is fitted on {plain(names['a'])}, moved to"
        f" {plain(names['b'])} by weights alone, and judged on both."
    )
    how = bound(
        st.segmented_control,
        "From",
        ("Two lists",) if demonstration.active() else ("Two lists", "A CSV"),
        required=True,
        key="own-from",
        what="source of labels",
    )
    positive = None
    with st.form("own", border=False):
        if how == "A CSV":
            file = st.file_uploader(
                "CSV",
                type=["csv", "tsv"],
                max_upload_size=20,
                help=(
                    "With the columns text and label, parted by commas, semicolons or tabs; two"
                    f" labels, {LEAST} texts of each or more, at most {MOST_ROWS:,} rows."
                ),
            )
            positive = st.text_input(
                "Class",
                max_chars=80,
                help="The label that stands against the others; needed for over two labels.",
            )
            rows = None if file is None else partial(read_csv, file.getvalue(), file.name)
        else:
            left, right = st.columns(2)
            texts = [
                column.text_area(
                    f"{label}, one text a line", text, max_chars=MOST_TYPED, height=210
                )
                for column, label, text in ((left, "Yes", YES), (right, "No", NO))
            ]
            rows = partial(two_lists, *texts)
        asked = st.form_submit_button("Probe", type=frame.action())

    now = st.session_state
    if asked:
        if rows is None:
            raise StitchLensError("no file", "a CSV", "drop one into the box")
        given = labelled(rows(), (positive or "").strip() or None)
        now["own-probes"] = (ws.pair, name, probe(ws, name, given))
    if "own-probes" in now and now["own-probes"][:2] == (ws.pair, name):
        outcome(ws, pair, name, now["own-probes"][2])
    else:
        st.caption("Press Probe: both models are opened once, which takes some seconds.")


def probe(
    ws: Workspace,
    name: str,
    given: Labelled,
) -> "OwnLabels":
    with importing():
        from core.probes.labels import own_labels as measure

    about = ask(probe_tables.setup, ws, name)
    with st.spinner("Reading; the first time, both models are opened"):
        prober = _prober(
            ws.pair, about["sae_name"], about["stitch_name"], ws.private, store.stamp(ws)
        )
        return measure(prober, given)


def outcome(
    ws: Workspace,
    pair: PairSpec,
    name: str,
    labels: "OwnLabels",
) -> None:
    """How the probe does in both models, the features that it reads, and all probes to take
    along."""
    table = labels.table.set_index("method")
    a, b = map(plain, short_names(pair).values())
    probes = {
        "dense_source": f":blue[{a}, its own probe]",
        "dense_moved": f":violet[{b}, {a}'s probe moved]",
        "dense_own": f":violet[{b}, its own probe]",
        "dense_shuffled": f"{b}, shuffled stitch",
        "reused": f":violet[{b}, 10 features]",
    }
    facts = []
    for method, label in probes.items():
        row = table.loc[method]
        interval = number(row.accuracy, row.low, row.high)
        facts.append((label, interval, f"AUC {number(row.auc)}"))
    frame.cells(facts, 190)

    left_out = ""
    if labels.left_out:
        left_out += f", {labels.left_out:,} rows without text or label left out"
    if labels.unused:
        left_out += f", columns not used: {plain(', '.join(labels.unused))}"
    st.caption(
        f"Accuracy ↑ on {labels.n:,} texts, '{plain(labels.positive)}' against the rest{left_out}:"
        " stratified cross-validation, each text judged by a probe fitted without it; exact 95 %"
        " intervals. Control: a stitch of shuffled pairs."
    )
    sae = ask(probe_tables.setup, ws, name)["sae_name"]
    described = ask(probe_tables.described, ws, sae, labels.features)
    st.markdown(links(ws, pair, sae, described))
    st.download_button(
        "Probes",
        lambda: zipped(labels),
        "probes.zip",
        "application/zip",
        on_click="ignore",
        icon=":material/download:",
        help=(
            f"For {pair.a.title} and {pair.b.title}, dense and sparse: safetensors and "
            "JSON that scikit-learn can be rebuilt from; the README says how."
        ),
    )


def zipped(labels: "OwnLabels") -> bytes:
    """Every probe in a folder of its own."""
    with importing():
        from core.probes.probe import save_probe

    out = io.BytesIO()
    with (
        tempfile.TemporaryDirectory(prefix="stitchlens-probes-") as folder,
        zipfile.ZipFile(out, "w") as archive,
    ):
        for name, probe in labels.probes.items():
            save_probe(probe, Path(folder) / name)
            for file in sorted((Path(folder) / name).iterdir()):
                archive.write(file, f"{name}/{file.name}")
    return out.getvalue()
