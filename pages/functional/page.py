"""Features by what they do: entropy features, and features that make attention heads look away
(5.2, I)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from core import statistics
from core.features import tables as feature_tables
from core.functional import tables as functional_tables
from core.models.pairs import PairSpec, get_pair
from core.text.reading import clean
from core.workspace import store
from core.workspace.store import Workspace
from pages.functional import figures
from pages.shared import figures as figures_base
from pages.shared import frame, panels, tokens
from pages.shared.figures import draw
from pages.shared.frame import ask, section
from pages.shared.words import plain

if TYPE_CHECKING:
    from core.functional import measure as functional_measure

SIDES = {"a": ":blue[A, original]", "b": ":violet[B, transferred]"}
SAMPLE = (
    "def area(width, height):\n    return (width * height)\n\nprint(area(3, 4)); print((1 + 2) * 3)"
)
LONGEST = 600
"""Characters of a text that is typed in."""
BEFORE = 120
"""Characters shown before a context, so that its tokens are read in their place."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("Functional features")
        st.markdown(
            f"Some features of :blue[{plain(pair.a.title)}] are known by what they *do*: they tune"
            " how sure the model is, or tell a head to rest; do they still do it in"
            f" :violet[{plain(pair.b.title)}] after transfer?"
        )
        names = functional_tables.scanned(ws) if ws.exists else []
        if not names:
            panels.door(
                "**No functional features measured yet.** This looks for entropy and"
                " attention-deactivation features of an SAE whose features were measured, and"
                " ablates them in both models.",
                f"python -m core functional scan {ws.pair}",
            )
            return
        frame.answer("sae", names, "SAE")
        frame.answer("share", functional_tables.SHARES, "share of the null space")
        sae = (
            st.selectbox("SAE", names, key="sae", bind="query-params")
            if len(names) > 1
            else names[0]
        )
        known = ask(functional_tables.about, ws, sae)
        single = ask(functional_tables.moved, ws, sae)
        table = ask(feature_tables.features, ws, sae)
        follow(ws, sae, pair, known["makers"], single, table, ask(functional_tables.heads, ws, sae))
        with section():
            entropy(ws, sae, known)
        with section():
            attention(ws, sae, known)
        with section():
            one(ws, pair, sae, single, table)
        with section():
            live(ws, pair, sae, known["makers"])


def follow(
    ws: Workspace,
    sae: str,
    pair: PairSpec,
    makers: dict[str, Any],
    single: pd.DataFrame,
    table: pd.DataFrame,
    heads: pd.DataFrame,
) -> None:
    """Settle, before any widget is drawn, which feature and head are shown: the link's, or the
    clearest."""
    of = (ws.pair, sae)
    parse, limits = frame.whole(0, len(table) - 1)
    feature = frame.settle(
        "feature", functional_tables.clearest(single), parse, of, limits, tell=True
    )
    side = frame.settle(
        "side", "a", lambda text: text if text in SIDES else None, of, ", they are a and b"
    )
    first, last = makers[f"layer_{side}"], (pair.a if side == "a" else pair.b).n_layers - 1
    most = int(heads.loc[heads.side == side, "head"].max())
    rows = single.loc[(single.side == side) & (single.kind == "deactivation")].sort_values("change")
    rows = rows.loc[rows.feature == feature] if feature in set(rows.feature) else rows
    best = rows.iloc[0]
    for key, low, high in (("layer", first, last), ("head", 0, most)):
        parse, limits = frame.whole(low, high)
        frame.settle(key, int(best[key]), parse, of, limits)
    st.session_state["_range"] = (first, last, most)
    frame.settle(
        "text",
        sample(ws, sae, pair, feature, side),
        lambda text: text[:LONGEST],
        ("functional", *of),
    )


def sample(ws: Workspace, sae: str, pair: PairSpec, feature: int, side: str) -> str:
    """A text in which the feature fires: its strongest context, with what comes before it."""
    contexts = ask(feature_tables.feature_examples, ws, sae, side, feature)
    documents = frame.documents(pair)
    for row in contexts.sort_values("activation", ascending=False).to_dict("records"):
        if text := documents.get(row["document"]):
            begin, end = int(row["ends"][0]), int(row["ends"][-1])
            return text[max(0, begin - BEFORE) : end][-LONGEST:]
    return SAMPLE


def entropy(ws: Workspace, sae: str, known: dict[str, Any]) -> None:
    """Fig. 5a and its causal check."""
    place = st.container()
    share = int(
        st.select_slider(
            "Null space: lowest singular values, per cent",
            functional_tables.SHARES,
            value=2,
            key="share",
            bind="query-params",
            help=(
                "Which directions of the residual stream the unembedding hardly reads. The paper"
                " takes 2 %."
            ),
            width=320,
        )
    )
    table = ask(functional_tables.null_shares, ws, sae, share)
    random = {side: known["random"][f"{side}_{share}"] for side in SIDES}
    rank = statistics.spearman(table.share_a, table.share_b)
    with place:
        draw(
            figures.null_space(table, random, st.session_state["feature"]),
            f"Fig. 5a: each of {len(table):,} features, by the share of its decoder direction's"
            f" norm in the effective null space of the unembedding (bottom {share} % of singular"
            " values, the final norm's weights folded in) and its maximal activation: entropy"
            " features are far right and high up. Rank correlation of the share in A with that in"
            f" B: {rank:.2f}. Band: 90 % of a random SAE's features, through the same stitch. Click"
            " a mark to pick its feature.",
            key="null-space",
            alt="Null-space share against maximal activation, before and after transfer",
            on_select=partial(pick, "null-space"),
            selection_mode="points",
        )
    tried = ask(functional_tables.ablations, ws, sae)
    n = int((~tried.random).sum() // 2)
    draw(
        figures.ablations(tried),
        f"Causal check: {n} candidates (at the paper's 2 %; half stand out in A, half in both) are"
        " taken out of the residual stream where they fire; mean change in entropy and loss there,"
        " with 95 % intervals over documents. An entropy feature moves entropy and spares the"
        " loss. Control: as many random features, matched in activation and density.",
        key="ablations",
        alt="Change of entropy and loss under ablation, with random features",
        on_select=partial(pick, "ablations"),
        selection_mode="points",
    )


def attention(ws: Workspace, sae: str, known: dict[str, Any]) -> None:
    st.subheader("Features that make heads rest", anchor="attention")
    table = ask(functional_tables.heads, ws, sae)
    found = {side: statistics.spearman(x.score, -x.change) for side, x in table.groupby("side")}
    n = table.loc[~table.random, "feature"].nunique()
    sink = known["sink"]
    draw(
        figures.heads(table, st.session_state["feature"]),
        f"{n} candidates and as many matched random features against every downstream head: the"
        " heuristic score, how much the feature should add to the head's attention logit for the"
        " first token, and what path patching finds: the change in attention to the first token"
        " where it fires when its contribution is taken out of that head's input at the current"
        " token. Below zero it deactivates the head, above it activates it (Fig. 16). Rank"
        f" correlation of score and fall: A {found['a']:.2f}, B {found['b']:.2f}. What sets the"
        f" first token apart (the sink) has {sink['a_2']:.2f} of its norm in A's null space,"
        f" {sink['transferred_2']:.2f} after transfer in B's (B's own: {sink['b_2']:.2f}; the"
        " paper: 0.27 and 0.77). Click a mark to pick feature and head.",
        key="heads",
        alt="Heuristic score against measured change of attention, with random features",
        on_select=partial(pick, "heads"),
        selection_mode="points",
    )


def pick(key: str) -> None:
    now = st.session_state
    for data in figures_base.picked(now[key])[-1:]:
        now["feature"] = int(data[0])
        if key == "heads":
            now["side"], now["layer"], now["head"] = str(data[1]), int(data[2]), int(data[3])


def one(ws: Workspace, pair: PairSpec, sae: str, single: pd.DataFrame, table: pd.DataFrame) -> None:
    """Fig. 5b and 16 for the feature picked."""
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    f = int(bar.number_input("Feature", 0, len(table) - 1, key="feature", width=150))
    st.header(f"Feature {f}", anchor="feature")
    bar.page_link(
        "features/page.py",
        label=f"Feature {f} on the Features page",
        icon=":material/scatter_plot:",
        query_params={"pair": ws.pair, "sae": sae, "feature": str(f)},
    )
    rows = single.loc[single.feature == f]
    logits = ask(feature_tables.feature_logits, ws, sae, "a", f)
    raised = " ".join(map(tokens.token, logits.token[logits["rank"] >= 0]))
    st.markdown(f"Raises in :blue[A] {raised}")
    if rows.empty:
        measured = sorted(single.loc[~single.random, "feature"].unique().tolist())
        st.markdown(
            "Path patching was not run over documents for this feature; the head below reads it"
            " live. Measured: " + ", ".join(map(str, measured)) + "."
        )
        return
    role = "a matched random feature, drawn as a control" if rows.random.any() else "a candidate"
    said = []
    for row in rows.sort_values(["side", "kind"], ascending=[True, False]).to_dict("records"):
        said.append(
            f"{row['side'].upper()} head {row['layer']}.{row['head']} {row['change']:+.3f}"
            f" [{row['low']:+.3f}, {row['high']:+.3f}], {row['places']} places"
        )
    draw(
        figures.places(rows),
        "Fig. 5b and 16: attention to the first token at places from its strongest to its weakest,"
        " before (open) and when the feature's contribution is taken out of the head's input"
        " (full), for the head of each model that it deactivates and the one that it activates"
        f" most; this is {role}. Mean change over all places, 95 % intervals: {'; '.join(said)}."
        f" Random features by the same choice of head: {_control(single)}.",
        key="places",
        alt="Attention to the first token before and after path patching",
    )


def _control(single: pd.DataFrame) -> str:
    mean = single.loc[single.random].groupby(["side", "kind"]).change.mean()
    return ", ".join(
        f"{s.upper()} {mean[s, 'deactivation']:+.3f} and {mean[s, 'activation']:+.3f}"
        for s in SIDES
    )


@st.cache_resource(max_entries=1, show_spinner=False)
def _live(pair: str, sae: str, private: Path | None, stamp: str) -> "functional_measure.Live":
    from core.functional.measure import Live

    return Live(get_pair(pair), sae, private)


def _other_side() -> None:
    """Layers and heads are those of a model: the clearest of the other one are shown."""
    for key in ("layer", "head"):
        st.session_state.pop(key, None)


def live(ws: Workspace, pair: PairSpec, sae: str, makers: dict[str, Any]) -> None:
    """A head's pattern over a typed text, with the feature, without it, and the difference."""
    st.subheader("Look through a head", anchor="live")
    now = st.session_state
    first, last, most = now["_range"]
    side = str(
        st.segmented_control(
            "Model",
            list(SIDES),
            key="side",
            required=True,
            format_func=lambda s: SIDES[s],
            on_change=_other_side,
        )
    )
    with st.form("look", border=False):
        text = st.text_area(
            "Text",
            max_chars=LONGEST,
            key="text",
            help=(
                f"At most {LONGEST} characters. Until you type one, a text where the feature fires."
            ),
        )
        bar = st.container(horizontal=True, vertical_alignment="bottom")
        help_ = f"{first} to {last}: behind the features."
        layer = int(bar.number_input("Layer", first, last, key="layer", width=130, help=help_))
        head = int(bar.number_input("Head", 0, most, key="head", width=130))
        asked = bar.form_submit_button("Look", type=frame.action())
    text = clean(text)
    f = int(now["feature"])
    key = (ws.pair, sae, text, side, f, layer, head)
    if asked:
        now.pop("looked", None)
        with st.spinner("Looking; the first time, both models are opened"):
            live = _live(ws.pair, sae, ws.private, store.stamp(ws))
            now["looked"] = (key, live.attend(text, side, f, layer, head))
    if "looked" not in now or now["looked"][0][:2] != (ws.pair, sae):
        st.caption(
            "Press Look: both models are opened once, which takes some seconds, and then look in a"
            " moment."
        )
        return
    (_, _, text, side, f, layer, head), found = now["looked"]
    starts = np.maximum.accumulate(np.r_[0, found.ends[:-1].clip(min=0)])
    labels = [
        f"{k} {tokens.visible(text[a:b]) if b >= 0 else 'first' if k == 0 else '·'}"
        for k, (a, b) in enumerate(zip(starts, found.ends, strict=True))
    ]
    on = found.activation > 0
    if not on.any():
        st.markdown(f"Feature {f} fires nowhere in this text, so taking it out changes nothing.")
    to_first = pd.DataFrame(
        {
            "before": found.before[:, 0],
            "after": found.after[:, 0],
            "control": found.control[:, 0],
            "activation": found.activation,
        }
    )
    change = {
        name: float((to_first[name] - to_first.before)[on].mean())
        for name in ("after", "control")
        if on.any()
    }
    said = ""
    if on.any():
        said = (
            f" Mean change at the {int(on.sum())} of {len(on)} tokens where the feature fires:"
            f" {change['after']:+.3f}, control {change['control']:+.3f}."
        )
    draw(
        figures.patterns(found.before, found.after, labels, side),
        f"Head {layer}.{head} of {side.upper()} over this text: where each token (row) looks, then"
        f" with feature {f} taken out of its input at the current token alone (path patching: all"
        " other tokens keep theirs), and the difference.",
        key="patterns",
        alt="Attention pattern before, after, and the difference",
    )
    draw(
        figures.sink(to_first, labels, side),
        "Column 0 of the patterns: attention to the first token. Control: a random direction as"
        " long as the feature's, taken out at the same tokens." + said,
        key="sink",
        alt="Attention to the first token with and without the feature, and a random control",
    )


page()
