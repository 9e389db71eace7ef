"""What else there is to see, a tile each: one picture, one number, one link. A part that was not
measured is a door to it."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from core.cli.tables import Names
from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.saes import tables as sae_tables
from core.steering import tables as steering_tables
from core.stitches import tables as stitch_tables
from core.stitches.kinds import by_kind
from core.workspace.store import Workspace
from pages.home import figures
from pages.home.figures import Bar, Curve
from pages.shared import frame, panels, tokens
from pages.shared.frame import ask, section
from pages.shared.words import number, percent, plain

CURATED = {"smollm2-gemma3": ("L15-4096", 3989)}
"""A feature that shows at a glance what crosses: (SAE, feature) by pair."""
WORDS = 5
WIDEST = 312
"""Of a tile, in pixels: three stand side by side on a desk, one under the other on a phone."""


def tiles(ws: Workspace, pair: PairSpec, names: Names) -> None:
    """`names` are what the two models are called, by 'a' and 'b'."""
    with st.container(horizontal=True, gap="small", key="tiles"):
        for tile in (crossing, features, steering, probes, training, own):
            with st.container(border=True, width=WIDEST, height="stretch"), section():
                tile(ws, pair, names)


def door(title: str, says: str, page: str, label: str, pair: str, **link: str) -> None:
    st.markdown(f"**{title}**  \n{says}")
    st.page_link(
        page, label=label, icon=":material/arrow_forward:", query_params={"pair": pair} | link
    )


def crossing(ws: Workspace, pair: PairSpec, names: Names) -> None:
    title, page = "What crossing costs", "stitches/page.py"
    stitches = ask(stitch_tables.stitch_names, ws)
    table = measured(by_kind, ws, stitches[0]) if stitches else None
    if table is None:
        door(title, "Not measured yet.", page, "Fit a stitch", ws.pair)
        return

    first = table.iloc[0]
    rises = [float(x) for x in table.a_to_b_relative]
    widest = max(*rises, 0.01)
    rows = [
        Bar(str(kind), rise / widest, percent(rise), "transferred")
        for kind, rise in zip(table.kind, rises, strict=True)
    ]
    st.html(figures.bars(rows, f"Rise of {names['b']}'s loss by kind of text"))
    door(
        f"{percent(float(first.a_to_b_relative))} loss",
        f"{plain(names['b'])} going on from {plain(names['a'])}'s thought, {plain(first.kind)};"
        f" {percent(float(first.crossed_b), sign=False)} of its positions crossed. Back:"
        f" {percent(float(first.b_to_a_relative))}.",
        page,
        title,
        ws.pair,
    )


def measured(
    query: Callable[[Workspace, str], pd.DataFrame], ws: Workspace, name: str
) -> pd.DataFrame | None:
    """A table, or None where the workspace does not hold it."""
    if f"kinds/{name}" not in ws.names():
        return None
    return ask(query, ws, name)


def features(ws: Workspace, pair: PairSpec, names: Names) -> None:
    page = "features/page.py"
    saes = feature_tables.saes(ws)
    if not saes:
        door("Features", "None was carried across yet.", page, "Carry an SAE", ws.pair)
        return

    sae, feature = CURATED.get(ws.pair, (saes[0], None))
    if sae not in saes:
        sae, feature = saes[0], None
    table = ask(feature_tables.features, ws, sae)
    if feature is None:
        reliable = table.loc[table.reliable & (table.joint > 0)]
        feature = int((reliable if len(reliable) else table).correlation.idxmax())

    before, after = (peak_words(ws, pair, sae, side, feature) for side in ("a", "b"))
    if before and after:
        st.html(figures.words(before, after, (names["a"], names["b"])))
    door(
        f"{len(table):,} features",
        f"carried across by weights alone; this is feature {feature}, before and after.",
        page,
        "See where it fires",
        ws.pair,
        sae=sae,
        feature=str(feature),
    )


def peak_words(ws: Workspace, pair: PairSpec, sae: str, side: str, feature: int) -> list[str]:
    """The different tokens at which a feature was strongest, the strongest first."""
    examples = ask(feature_tables.feature_examples, ws, sae, side, feature)
    texts = frame.documents(pair) if len(examples) else {}
    found = []
    for row in examples.to_dict("records"):
        text, peak, ends = texts.get(row["document"], ""), int(row["peak"]), row["ends"]
        word = tokens.seen(text[ends[peak] : ends[peak + 1]].strip())
        if word not in (*found, tokens.EMPTY):
            found.append(word)
    return found[:WORDS]


def steering(ws: Workspace, pair: PairSpec, names: Names) -> None:
    page = "steering/page.py"
    if "steering" not in ws.names():
        door("Steering", "Not measured yet; live it works.", page, "Steer", ws.pair)
        return

    table = ask(steering_tables.means, ws, "b").set_index("kind")
    rows = [
        Bar(label, float(table.rate[kind]), percent(float(table.rate[kind]), sign=False), role)
        for kind, label, role in (
            ("own", f"{names['b']}'s own", "b"),
            ("transferred", f"{names['a']}'s", "transferred"),
            ("random", "random vector", "control"),
        )
        if kind in table.index
    ]
    st.html(figures.bars(rows, "Share of responses in the language of the vector"))
    carried = next((row.number for row in rows if row.role == "transferred"), "–")
    door(
        f"{carried} in the language",
        f"that a vector of {plain(names['a'])} asks {plain(names['b'])} to write in, mean over"
        " languages.",
        page,
        "Steer live",
        ws.pair,
    )


def probes(ws: Workspace, pair: PairSpec, names: Names) -> None:
    page = "probes/page.py"
    evaluated = probe_tables.evaluated(ws)
    if not evaluated:
        door("Probes", "None was carried across yet.", page, "Carry probes", ws.pair)
        return

    mean = ask(probe_tables.record, ws, evaluated[0])["mean"]
    chosen = (
        ("dense_own", f"{names['b']}'s own", "b"),
        ("dense_moved", f"{names['a']}'s, moved", "transferred"),
        ("dense_shuffled", "shuffled stitch", "control"),
    )
    rows = [
        Bar(label, mean[way]["0"]["accuracy"], number(mean[way]["0"]["accuracy"]), role)
        for way, label, role in chosen
        if "0" in mean.get(way, {})
    ]
    st.html(figures.bars(rows, "Accuracy of probes"))
    moved = next((row.number for row in rows if row.role == "transferred"), "–")
    door(
        f"{moved} accuracy",
        f"of a probe trained on {plain(names['a'])} and moved to {plain(names['b'])} untouched.",
        page,
        "Probes",
        ws.pair,
    )


def training(ws: Workspace, pair: PairSpec, names: Names) -> None:
    page, sets = "saes/page.py", sae_tables.sets(ws)
    if not sets:
        door("SAE training", "No run yet.", page, "Train from a transferred start", ws.pair)
        return

    points = ask(sae_tables.curves, ws, sets[0])
    width = int(points.width.min())
    lines = []
    for start, label, role in (
        ("transferred", "transferred start", "b"),
        ("scratch", "from scratch", "control"),
    ):
        run = points.loc[
            (points.start == start) & (points.width == width) & (points.auxiliary == 0)
        ]
        lines.append((label, run.loc[run.seed == run.seed.min()], role))
    most = max(float(run.flops.max()) for _, run, _ in lines)
    drawn = [
        Curve(
            label,
            [
                (float(x) / most, min(max(float(y), 0), 1))
                for x, y in zip(run.flops, run.explained_variance, strict=True)
            ],
            role,
        )
        for label, run, role in lines
    ]
    st.html(figures.curves(drawn, "Explained variance over compute, from both starts"))

    saved = ask(savings, ws, sets[0])
    saved = saved.loc[saved.width == width]
    ratio = float(saved.ratio.iloc[0]) if len(saved) else float("nan")
    door(
        f"{number(ratio)} times the compute",
        f"to {percent(sae_tables.HEADLINE, sign=False)} of what training from scratch explains in"
        f" the end; {width:,} features, the stitch paid for.",
        page,
        "SAE training",
        ws.pair,
    )


def savings(ws: Workspace, name: str) -> pd.DataFrame:
    """What transferred starts of a set of runs saved, at the threshold that stands for all."""
    return sae_tables.savings(sae_tables.curves(ws, name), shares=(sae_tables.HEADLINE,))


def own(ws: Workspace, pair: PairSpec, names: Names) -> None:
    st.markdown(
        "**Bring your own**  \nA stitch checkpoint, an SAE, a steering vector, two models: read"
        " without trust, judged in a report card, private until you keep it."
    )
    if panels.closed("Bringing anything"):
        return

    for page, label in (
        ("stitches/page.py", "A stitch"),
        ("features/page.py", "An SAE"),
        ("steering/page.py", "A vector"),
        ("models/page.py", "Two models"),
    ):
        st.page_link(
            page,
            label=label,
            icon=":material/arrow_forward:",
            query_params={"pair": ws.pair},
        )
