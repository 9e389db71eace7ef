"""Does a probe of one model work in the other? Every task, the features that were probed, and a
person's own labels."""

import pandas as pd
import streamlit as st

from core.models.pairs import PairSpec, get_pair
from core.probes import tables as probe_tables
from core.workspace.store import Workspace
from pages.probes import figures
from pages.probes.features import features
from pages.probes.labels import own_labels
from pages.shared import address, frame, panels
from pages.shared.address import bound
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import explained, named, number, plain, short_names

SHOWN = {
    "own": "{b}'s own",
    "retrained": "Retrained",
    "reused": "Reused",
    "random": "Random",
    "shuffled": "Shuffled",
    "dense_own": "Dense, {b}'s",
    "dense_moved": "Dense, {a}'s",
    "dense_centred": "Dense, {a}'s, centred",
    "dense_shuffled": "Dense, shuffled",
}
"""Columns of the table of datasets."""


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
                " every task and carries those of the smaller one over. It needs the tables of the"
                " Features page, and trains an SAE of the larger one to compare with.",
                f"python -m core probes eval {ws.pair}",
            )
            return
        name = choose(names)
        task = pick(ws, name)
        frame.titled(str(task.title), "Probes")
        with section():
            curves(ws, pair, name, task)
        with section():
            if task.label:
                features(ws, pair, name, task)
            else:
                datasets(ws, pair, name)
        with section():
            grid(ws, pair, name)
        with section():
            own_labels(ws, pair, name)


def choose(names: list[str]) -> str:
    """Which SAE the features were chosen from; there is nothing to choose from one."""
    if len(names) == 1:
        address.choices("probes", names, "probes")
        return names[0]
    label, says = "Features chosen from", explained("sparse probe")
    return str(bound(st.selectbox, label, names, key="probes", what="probes", help=says))


def pick(ws: Workspace, name: str) -> pd.Series:
    """The task that is shown, a row of `probe_tables.picker`."""
    table = ask(probe_tables.picker, ws, name)
    keys = [
        f"{d}/{c}".strip("/") or "mean" for d, c in zip(table.dataset, table.label, strict=True)
    ]
    titles = dict(zip(keys, table.title, strict=True))
    key = bound(st.selectbox, "Task", keys, format_func=lambda task: titles[task], key="task")
    return table.iloc[keys.index(str(key))]


def curve(
    ws: Workspace,
    pair: PairSpec,
    name: str,
    dataset: str,
    label: str,
) -> pd.DataFrame:
    """The ways to probe of one task, in words with both models' names."""
    names = short_names(pair)
    table = ask(probe_tables.curve, ws, name, dataset, label)
    words = {column: [named(text, names) for text in table[column]] for column in ("way", "says")}
    return table.assign(**words)


def curves(
    ws: Workspace,
    pair: PairSpec,
    name: str,
    task: pd.Series,
) -> None:
    """Accuracy against the number of features, for one task or on the mean."""
    a, b = map(plain, short_names(pair).values())
    table = curve(ws, pair, name, str(task.dataset), str(task.label))
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
    points = [number(100 * x.gap, 100 * x.gap_low, 100 * x.gap_high, sign=True) for x in gaps]
    chosen = "size of the difference" if about["absolute"] else "difference"
    draw(
        figures.probes(table),
        f"{says}; half of each are of the class. Features are those of {a}'s SAE with the largest"
        f" {chosen} in mean activation, carried by {plain(about['stitch_name'])}; dense: the whole"
        " residual stream. Bars: 95 %, bootstrap over documents. Controls: random features,"
        f" {a}'s probe through a stitch of shuffled pairs. {a}'s dense probe moved to {b}, against"
        f" one fitted on {b}: {points[0]} points; centred, its threshold shifted so that its mean"
        f" score over the unlabelled training texts is the one in {a}: {points[1]}."
        " (Fig. 3a, Eq. 7)",
        key="curves",
        alt="Accuracy of probes against their number of features",
    )


def datasets(
    ws: Workspace,
    pair: PairSpec,
    name: str,
) -> None:
    """Every dataset at one number of features."""
    table = ask(probe_tables.results, ws, name)
    titles = ask(probe_tables.setup, ws, name)["datasets"]
    ks = ask(probe_tables.ks, ws, name)
    k = bound(
        st.segmented_control,
        "Features, k",
        ks,
        required=True,
        key="k",
        usual=10 if 10 in ks else ks[-1],
        what="number of features",
        help=explained("k"),
    )
    rows = table.loc[(table.label == "") & table.k.isin([0, k])]
    wide = rows.pivot_table(index="dataset", columns="method", values="accuracy")
    wide = wide.loc[[*titles, ""], [m for m in SHOWN if m in wide]]
    wide.index = pd.Index([*(t for t, _ in titles.values()), "Mean"], name="Dataset")
    names = short_names(pair)
    wide.columns = [f"{SHOWN[method].format(**names)} ↑" for method in wide.columns]
    st.dataframe(
        wide.style.format("{:.2f}"),
        height="content",
        alt="Accuracy by dataset",
        column_config=frame.heads(wide.columns),
    )
    a, b = map(plain, names.values())
    st.caption(
        f"Accuracy on held-out documents, mean over a dataset's classes. Sparse: {b}'s own SAE;"
        f" {a}'s features in {b} with a probe fitted there, and with {a}'s own; the controls. Dense"
        f" probes in {b}: {b}'s own, {a}'s moved, the control. Pick a task above for its features."
    )


def grid(
    ws: Workspace,
    pair: PairSpec,
    name: str,
) -> None:
    st.subheader("Every dataset", anchor="datasets", help=explained("accuracy"))
    titles = ask(probe_tables.setup, ws, name)["datasets"]
    tables = {}
    for dataset, (title, _) in titles.items():
        tables[title] = curve(ws, pair, name, dataset, "")
    draw(
        figures.grid(tables),
        "Test accuracy against the number of features, dense probes at the right end; hover for"
        " intervals and AUC. (Fig. 9 and 10)",
        key="grid",
        alt="Accuracy of probes on every dataset",
    )


page()
