"""Does a probe of A work in B? Fig. 3a, 9 and 10, every task, the features that were probed, and
one's own labels."""

import io
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from core.errors import StitchLensError
from core.models.pairs import PairSpec, get_pair
from core.probes import tables as probe_tables
from core.probes.tasks import LEAST, MOST_ROWS, Labelled, labelled, read_csv, two_lists
from core.workspace import store
from core.workspace.store import Workspace
from pages.probes import figures
from pages.shared import frame, panels, tokens
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import plain

if TYPE_CHECKING:
    from core.probes.labels import OwnLabels
    from core.probes.prober import Prober

SHOWN = {
    "own": "B's own",
    "retrained": "Retrained",
    "reused": "Reused",
    "random": "Random",
    "shuffled": "Shuffled",
    "dense_own": "Dense, B's",
    "dense_moved": "Dense, A's",
    "dense_centred": "Dense, A's, centred",
    "dense_shuffled": "Dense, shuffled",
}
"""Columns of the table of datasets."""
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


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Probes")
        st.markdown(
            f"A linear probe that was fitted on :blue[{plain(pair.a.title)}], read out of "
            f":violet[{plain(pair.b.title)}] through a stitch: does it still know its class?"
        )
        names = probe_tables.evaluated(ws)
        if not names:
            panels.door(
                "**No probes measured yet.** This fits sparse and dense probes of both models on"
                " every task and carries A's to B. It needs the tables of the Features page, and"
                " trains an SAE of B to compare with.",
                f"python -m core probes eval {ws.pair}",
            )
            return
        frame.answer("probes", names, "probes")
        name = (
            st.selectbox("Features chosen from", names, key="probes", bind="query-params")
            if len(names) > 1
            else names[0]
        )
        task = pick(ws, name)
        with section():
            curves(ws, name, task)
        with section():
            if task.label:
                features(ws, name, task)
            else:
                datasets(ws, name)
        with section():
            grid(ws, name)
        with section():
            own(ws, pair, name)


def pick(ws: Workspace, name: str) -> pd.Series:
    """The task that is shown, a row of `probe_tables.picker`."""
    table = ask(probe_tables.picker, ws, name)
    keys = [
        f"{d}/{c}".strip("/") or "mean" for d, c in zip(table.dataset, table.label, strict=True)
    ]
    titles = dict(zip(keys, table.title, strict=True))
    frame.answer("task", titles.values(), "task")
    key = st.selectbox(
        "Task", keys, format_func=lambda k: titles[k], key="task", bind="query-params"
    )
    return table.iloc[keys.index(str(key))]


def curves(ws: Workspace, name: str, task: pd.Series) -> None:
    table = ask(probe_tables.curve, ws, name, str(task.dataset), str(task.label))
    about = ask(probe_tables.setup, ws, name)
    one = table.iloc[0]
    if task.label:
        size = (
            f"{one.train:,} training texts of the fit split, {one.test:,} test texts of the"
            " held-out split"
        )
        says = f"{plain(task.title)}, {plain(about['datasets'][task.dataset][1])}: {size}"
    elif task.dataset:
        says = f"{plain(task.title)}, each {plain(about['datasets'][task.dataset][1])}"
    else:
        says = f"Mean over {len(about['datasets'])} datasets, {one.test:,} test documents in all"
    gaps = [table.set_index("method").loc[m] for m in ("dense_moved", "dense_centred")]
    points = [
        f"{100 * x.gap:+.1f} [{100 * x.gap_low:+.1f}, {100 * x.gap_high:+.1f}]".replace("-", "−")
        for x in gaps
    ]
    chosen = "size of the difference" if about["absolute"] else "difference"
    draw(
        figures.probes(table),
        f"Fig. 3a. {says}; half of each are of the class. Features are those of A's SAE with the"
        f" largest {chosen} in mean activation (Eq. 7), carried by {plain(about['stitch_name'])};"
        " dense: the whole residual stream. Bars: 95 %, bootstrap over documents. Controls: random"
        " features, A's probe through a stitch of shuffled pairs. A's dense probe moved to B,"
        f" against one fitted on B: {points[0]} points; centred, its threshold shifted so that its"
        f" mean score over the unlabelled training texts is the one in A: {points[1]}.",
        key="curves",
        alt="Accuracy of probes against their number of features",
    )


def datasets(ws: Workspace, name: str) -> None:
    """Every dataset at one number of features."""
    table = ask(probe_tables.results, ws, name)
    titles = ask(probe_tables.setup, ws, name)["datasets"]
    ks = ask(probe_tables.ks, ws, name)
    frame.answer("k", ks, "number of features")
    k = st.segmented_control(
        "Features, k",
        ks,
        default=10 if 10 in ks else ks[-1],
        required=True,
        key="k",
        bind="query-params",
    )
    rows = table.loc[(table.label == "") & table.k.isin([0, k])]
    wide = rows.pivot_table(index="dataset", columns="method", values="accuracy")
    wide = wide.loc[[*titles, ""], [m for m in SHOWN if m in wide]]
    wide.index = pd.Index([*(t for t, _ in titles.values()), "Mean"], name="Dataset")
    wide.columns = [f"{SHOWN[m]} ↑" for m in wide.columns]
    st.dataframe(wide.style.format("{:.2f}"), height="content", alt="Accuracy by dataset")
    st.caption(
        "Accuracy on held-out documents, mean over a dataset's classes. Sparse: B's own SAE; A's"
        " features in B with a probe fitted there, and with A's own; the controls. Dense probes in"
        " B: B's own, A's moved, the control. Pick a task above for its features."
    )


def links(ws: Workspace, sae: str, table: pd.DataFrame) -> str:
    """The features as a markdown table; each leads to its view. What the feature explorer knows
    stands beside them where it was measured."""
    heads = {"Feature": "---", "Difference in A": "---:", "in B": "---:"}
    if "correlation" in table:
        heads |= {"Eq. 10": "---:", "Raises in A": "---"}
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(heads.values())} |"]
    for row in table.to_dict("records"):
        query = urlencode({"pair": ws.pair, "sae": sae, "feature": row["feature"]})
        cells = [
            f"[{row['feature']}](features?{query})",
            f"{row['difference']:+.2g}",
            f"{row['difference_b']:+.2g}",
        ]
        if "correlation" in table:
            alike = row["correlation"]
            cells += [
                "–" if alike != alike else f"{alike:.2f}",
                plain(tokens.seen(str(row["raises"]))),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def features(ws: Workspace, name: str, task: pd.Series) -> None:
    st.subheader("What was probed", anchor="features")
    k = st.select_slider(
        "Features, k", ask(probe_tables.ks, ws, name), value=10, key="shown-k", bind="query-params"
    )
    table = ask(probe_tables.probed, ws, name, str(task.dataset), str(task.label), int(k))
    st.markdown(links(ws, ask(probe_tables.setup, ws, name)["sae_name"], table))
    st.caption(
        "The argument of Eq. 7: mean activation over training texts of the class less that over the"
        " others, in A and, transferred, in B. A number opens the feature before and after"
        " transfer."
    )


def grid(ws: Workspace, name: str) -> None:
    st.subheader("Every dataset", anchor="datasets")
    titles = ask(probe_tables.setup, ws, name)["datasets"]
    tables = {}
    for dataset, (title, _) in titles.items():
        tables[title] = ask(probe_tables.curve, ws, name, dataset, "")
    draw(
        figures.grid(tables),
        "Fig. 9 and 10: test accuracy against the number of features, dense probes at the right"
        " end; hover for intervals and AUC.",
        key="grid",
        alt="Accuracy of probes on every dataset",
    )


@st.cache_resource(max_entries=1, show_spinner=False)
def _prober(pair: str, sae: str, stitch: str, private: Path | None, stamp: str) -> "Prober":
    from core.bench import Bench, BuildConfig
    from core.probes.prober import Prober

    return Prober(Bench(get_pair(pair), BuildConfig(), private), sae, stitch)


def own(ws: Workspace, pair: PairSpec, name: str) -> None:
    """Labels of a person: a probe of A, moved to B at once."""
    st.subheader("Probe your own labels", anchor="own")
    st.markdown(
        "Give texts of two kinds. A probe is fitted on A, moved to B by weights alone, and judged"
        " on both."
    )
    how = st.segmented_control(
        "From", ("Two lists", "A CSV"), default="Two lists", required=True, key="own-from"
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


def probe(ws: Workspace, name: str, given: Labelled) -> "OwnLabels":
    from core.probes.labels import own_labels

    about = ask(probe_tables.setup, ws, name)
    with st.spinner("Reading; the first time, both models are opened"):
        prober = _prober(
            ws.pair, about["sae_name"], about["stitch_name"], ws.private, store.stamp(ws)
        )
        return own_labels(prober, given)


def outcome(ws: Workspace, pair: PairSpec, name: str, found: "OwnLabels") -> None:
    table = found.table.set_index("method")
    said = [
        (
            label,
            f"{table.accuracy[m]:.2f} [{table.low[m]:.2f}, {table.high[m]:.2f}]",
            f"AUC {table.auc[m]:.2f}",
        )
        for m, label in (
            ("dense_source", ":blue[A, its own probe]"),
            ("dense_moved", ":violet[B, A's probe moved]"),
            ("dense_own", ":violet[B, its own probe]"),
            ("dense_shuffled", "B, shuffled stitch"),
            ("reused", ":violet[B, 10 features]"),
        )
    ]
    frame.cells(said, 190)
    left_out = f", {found.left_out:,} rows without text or label left out" if found.left_out else ""
    if found.unused:
        left_out += f", columns not used: {plain(', '.join(found.unused))}"
    st.caption(
        f"Accuracy ↑ on {found.n:,} texts, '{plain(found.positive)}' against the rest{left_out}:"
        " stratified cross-validation, each text judged by a probe fitted without it; exact 95 %"
        " intervals. Control: a stitch of shuffled pairs."
    )
    sae = ask(probe_tables.setup, ws, name)["sae_name"]
    st.markdown(links(ws, sae, ask(probe_tables.described, ws, sae, found.features)))
    st.download_button(
        "Probes",
        lambda: zipped(found),
        "probes.zip",
        "application/zip",
        on_click="ignore",
        icon=":material/download:",
        help=(
            f"For {pair.a.title} and {pair.b.title}, dense and sparse: safetensors and "
            "JSON that scikit-learn can be rebuilt from; the README says how."
        ),
    )


def zipped(found: "OwnLabels") -> bytes:
    from core.probes.probe import save_probe

    out = io.BytesIO()
    with (
        tempfile.TemporaryDirectory(prefix="stitchlens-probes-") as folder,
        zipfile.ZipFile(out, "w") as archive,
    ):
        for name, one in found.probes.items():
            save_probe(one, Path(folder) / name)
            for file in sorted((Path(folder) / name).iterdir()):
                archive.write(file, f"{name}/{file.name}")
    return out.getvalue()


page()
