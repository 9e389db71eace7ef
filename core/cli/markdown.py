"""A workspace as tables in Markdown, with intervals (95 %): `report --markdown`, docs/results.md.

Losses are in nats/token of the model that is scored; FUV and shares are fractions.
"""

from core.cli import alike
from core.cli.following import following
from core.cli.last_layers import last_layers
from core.cli.losses import crossing_costs
from core.cli.refined import refined
from core.cli.sinks import sinks
from core.cli.starts import starts
from core.cli.tables import Names, Record, as_table, interval, records, short_names, with_names
from core.cli.words import fixed, number, percent, plain, rounded
from core.models.pairs import PairSpec
from core.probes import tables as probe_tables
from core.report import report
from core.saes import tables as sae_tables
from core.steering import tables as steering_tables
from core.steering.keys import LANE_KINDS
from core.workspace.store import Workspace

TOPICS = {
    "stitches": "What crossing costs (Table 1)",
    "refined": "Is mean squared error enough?",
    "saes": "The SAE before and after transfer (Table 2)",
    "features": "Features before and after transfer (Eq. 10)",
    "agreement": "Do a feature and what it became fire at the same places?",
    "labels": "Labels in words, in both models",
    "twins": "Native twins",
    "functional": "Functional features (5.2)",
    "sink": "Does the sink cross? (5.2)",
    "entropy": "Entropy features at the last layers (5.2)",
    "steering": "Steering to a language (Tables 5 and 6)",
    "instructions": "Steering to an instruction (Fig. 12 and 13)",
    "probes": "Probes (Fig. 3a)",
    "training": "Training an SAE from a transferred start (3.1)",
    "starts": "Which start saves training?",
}
"""What `sections` may hold, in the order of `as_markdown`: a title for each."""
DATASETS_AT = 10
"""Features of the sparse probes whose accuracy is shown dataset by dataset."""


def as_markdown(pair: PairSpec) -> str:
    """Everything measured of a pair, a heading a topic. Raises StitchLensError where the pair has
    no workspace or an artifact is damaged."""
    parts = [f"## {plain(pair.title)}"]
    parts += [f"### {TOPICS[topic]}\n\n{text}" for topic, text in sections(pair).items()]
    return "\n\n".join(parts)


def sections(pair: PairSpec) -> dict[str, str]:
    """The tables of `as_markdown` by topic: those of TOPICS that were measured."""
    measured, ws = report(pair), Workspace(pair.key)
    names = short_names(measured["a"]["title"], measured["b"]["title"])
    parts: dict[str, list[str]] = {topic: [] for topic in TOPICS}

    parts["stitches"] = crossing_costs(measured, names)
    parts["refined"] = refined(measured.get("refine", {}), names)
    if "sae" in measured:
        parts["saes"] = _sae(measured["sae"], names)
    if "features" in measured:
        features = measured["features"]
        parts["features"] = _features(features)
        parts["agreement"] = alike.agreement(features.get("agreement", {}))
        parts["labels"] = alike.labels(features.get("labels", {}), names)
        parts["twins"] = alike.twins(features.get("twins", {}), names)
    if "functional" in measured:
        parts["functional"] = _functional(measured["functional"], names)
    parts["sink"] = sinks(measured.get("sink", {}), names)
    parts["entropy"] = last_layers(measured.get("entropy_last", {}), names)
    steering = measured.get("steering", {})
    if "a_to_b" in steering:
        parts["steering"] = _steering(ws, steering, names)
    parts["instructions"] = following(ws, steering.get("instructions", {}), names)
    for name, record in measured.get("probes", {}).items():
        parts["probes"] += _probes(ws, name, record, names)
    for name, record in sae_tables.reported(measured).items():
        parts["training"] += _training(ws, name, record)
    parts["starts"] = starts(measured.get("sae_training", {}).get(sae_tables.ABLATIONS, {}))
    return {topic: "\n\n".join(texts) for topic, texts in parts.items() if texts}


def _sae(measured: Record, names: Names) -> list[str]:
    rows = [
        (
            plain(variant["name"]),
            names[variant["model"]],
            number(variant["fuv"]),
            number(variant["delta_loss"], sign=True),
            number(variant["l0"]),
            percent(variant["dead"]),
        )
        for variant in measured.values()
        if isinstance(variant, dict)
    ]
    positions = int(measured["original"]["n"])
    about = f"**SAE {plain(measured['sae'])}**, {positions:,} held-out positions:"
    return [about, *as_table("SAE | model | FUV | Δ loss, nats/token | L0 | dead features", rows)]


def _features(measured: Record) -> list[str]:
    titles = {
        "transferred": "transferred",
        "random": "random SAE",
        "shuffled": "shuffled stitch",
    }
    counts = ", ".join(f"{n:,} {kind}" for kind, n in measured["counts"].items())
    medians = ", ".join(f"{k} {number(x)}" for k, x in measured["median_by_kind"].items())
    rows = [
        (
            titles[key],
            number(x["median"]),
            f"{number(x['q05'])} to {number(x['q95'])}",
            interval(measured["effect"].get(key, {}), "superiority"),
        )
        for key, x in measured["correlation"].items()
    ]
    header = "features | median | 5 % to 95 % | chance that a transferred feature exceeds one"
    return [
        f"Features by kind: {counts}. Median attribution correlation by kind: {medians}.",
        "Attribution correlation over features (intervals: bootstrap over features):",
        *as_table(header, rows),
    ]


def _functional(measured: Record, names: Names) -> list[str]:
    null, sink, attention = (measured[key] for key in ("null_space", "sink", "attention"))
    about = (
        f"**SAE {plain(measured['sae'])}** through stitch {plain(measured['stitch'])},"
        f" {measured['documents']} held-out documents. Null space: the bottom"
        f" {percent(null['share'])} of the unembedding's singular values. Rank correlation of A"
        f" with B over features: null-space shares {number(null['spearman'])}, largest falls of"
        f" attention {number(attention['kept'])}. Share of the sink's direction in the null space:"
        f" A's {number(sink['a'])}, carried to B {number(sink['transferred'])}, B's own"
        f" {number(sink['b'])}."
    )
    rows = []
    for side in ("a", "b"):
        moved, heads = measured["entropy"][side], attention[side]
        best = heads["clearest"]
        change = number(best["change"], best["low"], best["high"], sign=True)
        rows.append(
            (
                names[side],
                f"{number(null[side])}; {number(null[f'random_{side}'])}",
                *(_against(moved, key) for key in ("entropy", "loss")),
                *(_against(heads, key) for key in ("deactivation", "activation")),
                number(heads["spearman"]),
                f"{best['feature']}, head {best['layer']}.{best['head']}: {change}",
            )
        )
    header = (
        "model | median null-space share; of a random SAE | entropy moved, nats: candidates;"
        " random features | loss moved, nats | attention to the first token, largest fall |"
        " largest rise | score against fall, rank correlation | clearest feature"
    )
    return [with_names(about, names), *as_table(header, rows)]


def _against(part: Record, key: str) -> str:
    """Candidates; random features."""
    return "; ".join(number(part[which][key]) for which in ("candidates", "random"))


def _steering(
    ws: Workspace,
    measured: Record,
    names: Names,
) -> list[str]:
    by_side = {"b": measured["a_to_b"], "a": measured["b_to_a"]}
    responses = next(iter(by_side["b"].values()))["own"]["n"]
    means = [(side, row) for side in by_side for row in records(steering_tables.means(ws, side))]
    rows = [
        (
            names[side],
            LANE_KINDS[mean["kind"]][0],
            fixed(mean["rate"], mean["low"], mean["high"]),
            fixed(mean["success"]),
            fixed(mean["loss"]),
            fixed(mean["paper"]),
        )
        for side, mean in means
    ]
    about = (
        f"{len(by_side['b'])} languages for {names['b']}, {len(by_side['a'])} for {names['a']};"
        f" {responses} responses for each language and vector. Share of responses in the vector's"
        " language, mean over languages (bootstrap over them), and of those that are fluent"
        " besides; the paper's are Gemma-2-9B's and 2B's:"
    )
    header = "model | steered by | in the language | fluent besides | nats/token | the paper's"

    sides = [(side, kind) for side in by_side for kind in ("own", "transferred")]
    languages = dict.fromkeys(code for rates in by_side.values() for code in rates)
    one_by_one = [
        (plain(code), *(_rate(by_side[side].get(code, {}).get(kind)) for side, kind in sides))
        for code in languages
    ]
    columns = " | ".join(f"{names[side]}, {kind}" for side, kind in sides)
    return [
        *[about, *as_table(header, rows)],
        *["Language by language:", *as_table(f"language | {columns}", one_by_one)],
    ]


def _rate(measured: Record | None) -> str:
    return fixed(measured["rate"], measured["low"], measured["high"]) if measured else "–"


def _probes(
    ws: Workspace,
    name: str,
    measured: Record,
    names: Names,
) -> list[str]:
    ways, ks = measured["mean"], [*map(str, probe_tables.ks(ws, name)), "0"]
    about = (
        f"**SAE {plain(measured['sae'])}** through stitch {plain(measured['stitch'])}:"
        f" {measured['tasks']} tasks of {len(measured['datasets'])} datasets,"
        f" {measured['test_documents']:,} held-out test documents. Accuracy, mean over datasets"
        " (bootstrap over documents):"
    )
    rows = [
        (with_names(way.label, names), *(_accuracy(ways[key].get(k)) for k in ks))
        for key, way in probe_tables.WAYS.items()
        if key in ways
    ]
    header = " | ".join(["probe", *(f"k = {k}" for k in ks[:-1]), "dense"])

    sparse = [(key, str(DATASETS_AT)) for key in ("own", "retrained", "reused")]
    dense = [(key, "0") for key in ("dense_own", "dense_moved", "dense_centred")]
    compared = [(key, k) for key, k in sparse + dense if k in ways.get(key, {})]
    titles = probe_tables.setup(ws, name)["datasets"]
    one_by_one = [
        (plain(titles[dataset][0]), *(_accuracy(by_way[key].get(k)) for key, k in compared))
        for dataset, by_way in measured["datasets"].items()
    ]
    columns = [with_names(probe_tables.WAYS[key].label, names) for key, _ in compared]
    return [
        *[about, *as_table(header, rows)],
        f"Dataset by dataset, sparse probes at k = {DATASETS_AT}:",
        *as_table(" | ".join(["dataset", *columns]), one_by_one),
    ]


def _accuracy(measured: Record | None) -> str:
    return number(measured["accuracy"], measured["low"], measured["high"]) if measured else ""


def _training(
    ws: Workspace,
    name: str,
    measured: Record,
) -> list[str]:
    pairs = int(measured["costs"]["stitch"]["positions"])
    about = (
        f"**Set {plain(name)}**, from SAE {plain(measured['sae'])}, {measured['positions']:,} rows."
        f" {measured['sentence']} FLOPs of an exact stitch relative to Adam's: on {pairs:,} pairs"
        f" {number(measured['stitch_exact_of_adam'])}, on all of the text"
        f" {number(measured['whole_stitch_exact_of_adam'])}."
    )
    runs = [
        (
            f"{run['width']:,}",
            plain(run["start"]),
            f"{run['auxiliary']:g}",
            rounded(run["explained_variance"], 3),
            percent(run["dead"]),
            number(run["cosine"]),
            str(run["seeds"]),
        )
        for run in sorted(measured["runs"], key=lambda run: (run["auxiliary"], run["width"]))
    ]
    header = (
        "features | start | auxiliary loss | explained variance at the end | dead features | median"
        " cosine to the start | seeds"
    )
    laws = [
        (plain(start), interval(law, "A"), interval(law, "beta"))
        for start, law in measured["laws_exact"].items()
    ]
    return [
        *[about, *_ratios(ws, name)],
        *["Runs, means over seeds:", *as_table(header, runs)],
        *["Law of the frontier (Table 4), L(C) = A C^−β:", *as_table("start | A | β", laws)],
    ]


def _ratios(ws: Workspace, name: str) -> list[str]:
    """FLOPs to thresholds over those from scratch, by width."""
    exact, adam = (sae_tables.curves(ws, name, fitter) for fitter in sae_tables.FITTERS)
    free = sae_tables.with_stitch(exact, -sae_tables.costs(ws, name)["stitch"]["exact"])
    ways = (
        ("stitch exact", exact, "transferred", (0.5, 0.7, 0.9, 0.99)),
        ("stitch by Adam, the paper's recipe", adam, "transferred", (0.9,)),
        ("the stitch for nothing", free, "transferred", (0.5, 0.7, 0.9)),
        ("control: stitch of shuffled pairs", exact, "shuffled stitch", (0.9,)),
        ("control: random stitch", exact, "random stitch", (0.9,)),
    )
    widths = sorted(map(int, exact.width.unique()))
    rows = []
    for label, curves, start, shares in ways:
        savings = sae_tables.savings(curves, start, shares).set_index(["share", "width"])
        for share in sorted(set(savings.index.get_level_values("share"))):
            ratios = savings.loc[share].reindex(widths)
            cells = [number(r.ratio, r.low, r.high, none="never") for r in ratios.itertuples()]
            rows.append((f"{percent(share)}, {label}", *cells))
    columns = " | ".join(f"{width:,} features" for width in widths)
    return as_table(f"FLOPs relative to scratch, to | {columns}", rows)
