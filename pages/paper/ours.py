"""What a workspace measured, in the words of one cell: a sentence for each result of the paper."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from core.saes import tables as sae_tables
from core.statistics import spearman
from core.steering import tables as steering_tables
from core.stitches import refined_tables
from core.stitches.kinds import headline
from core.workspace.store import Workspace
from pages.shared.words import number, percent, plain
from pages.stitches.refined import answer

Measured = Mapping[str, Any]
"""A workspace as `core.report.report` gives it."""
Names = Mapping[str, str]
"""What the two models are called, by 'a' and 'b'."""
LARGE, SMALL = 0.9, 10
"""Share of the final explained variance, and features of a probe, at which one number is quoted."""


def sentence(where: str, ws: Workspace, measured: Measured, names: Names) -> str:
    """Markdown; empty where the workspace does not hold it."""
    tell = TELLERS.get(where)
    return "" if tell is None else tell(ws, measured, names)


def _crossing(ws: Workspace, measured: Measured, names: Names) -> str:
    sentences = []
    for name in measured["stitches"]:
        best = headline(ws, name)
        if best is None:
            continue

        up, down, *rounds = (
            percent(best[f"{way}_relative"])
            for way in ("a_to_b", "b_to_a", "a_to_b_to_a", "b_to_a_to_b")
        )
        sentences.append(
            f"{plain(best['kind'])}, {plain(name)}: {names['a']} to {names['b']} {up}, back {down};"
            f" round trips {rounds[0]} and {rounds[1]}"
        )
    return "  \n".join(sentences)


def _refined(ws: Workspace, measured: Measured, names: Names) -> str:
    return "  \n".join(answer(ws, name, names) for name in refined_tables.refined_names(ws))


def _trained(measured: Measured) -> Mapping[str, Any] | None:
    return next(iter(sae_tables.reported(measured).values()), None)


def _law(ws: Workspace, measured: Measured, names: Names) -> str:
    trained = _trained(measured)
    if trained is None:
        return ""

    laws = trained["laws_exact"]
    if not {"scratch", "transferred"} <= set(laws):
        return ""
    scratch, carried = laws["scratch"], laws["transferred"]
    return (
        f"factor {number(scratch['A'])} from scratch, {number(carried['A'])} from a transferred"
        " start;"
        f" exponent {number(scratch['beta'])} and {number(carried['beta'])}"
    )


def _saved(ws: Workspace, measured: Measured, names: Names) -> str:
    trained = _trained(measured) or {"savings_exact": []}
    ratios = [
        f"{plain(format(row['width'], ','))} features {number(row['ratio'])}"
        for row in trained["savings_exact"]
        if row["share"] == LARGE and "ratio" in row
    ]
    said = []
    if ratios:
        said.append(f"FLOPs over those from scratch, stitch included: {', '.join(ratios)}")
    studies = measured.get("sae_training", {}).get(sae_tables.ABLATIONS, {})
    said += [f"{plain(name)}: {plain(study['sentence'])}" for name, study in studies.items()]
    return "  \n".join(said)


def _turned(ws: Workspace, measured: Measured, names: Names) -> str:
    trained = _trained(measured)
    if trained is None:
        return ""

    plain_runs = [run for run in trained["runs"] if run["auxiliary"] == 0]
    widest = max(run["width"] for run in plain_runs)
    cosine = {run["start"]: run["cosine"] for run in plain_runs if run["width"] == widest}
    if not {"scratch", "transferred"} <= set(cosine):
        return ""
    return (
        f"{widest:,} features, median cosine to the start: {number(cosine['transferred'])}, from"
        f" scratch {number(cosine['scratch'])}"
    )


def _stitch_costs(ws: Workspace, measured: Measured, names: Names) -> str:
    trained = _trained(measured)
    if trained is None:
        return ""
    share = trained["whole_stitch_exact_of_adam"]
    return f"Solved exactly, a stitch takes {percent(share, sign=False)} of what the paper's takes"


def _probes(ws: Workspace, measured: Measured, names: Names) -> str:
    probed = next(iter(measured.get("probes", {}).values()), None)
    if probed is None:
        return ""

    mean = probed["mean"]
    sparse = [
        f"{label} {number(mean[way][str(SMALL)]['accuracy'])}"
        for way, label in (("retrained", "retrained"), ("own", "its own SAE"), ("random", "random"))
        if str(SMALL) in mean.get(way, {})
    ]
    dense = [
        f"{label} {number(mean[way]['0']['accuracy'])}"
        for way, label in (
            ("dense_moved", "moved"),
            ("dense_centred", "moved and centred"),
            ("dense_own", "its own"),
        )
        if "0" in mean.get(way, {})
    ]
    return f"{SMALL} features: {', '.join(sparse)}  \nDense: {', '.join(dense)}"


def _datasets(ws: Workspace, measured: Measured, names: Names) -> str:
    probed = next(iter(measured.get("probes", {}).values()), None)
    if probed is None:
        return ""

    lost = {
        name: ways["reused"][str(SMALL)]["accuracy"] - ways["own"][str(SMALL)]["accuracy"]
        for name, ways in probed["datasets"].items()
        if all(str(SMALL) in ways.get(way, {}) for way in ("reused", "own"))
    }
    worst = sorted(lost, key=lambda name: lost[name])[:2]
    return f"Reused as they are they lose most on {plain(' and '.join(worst))}" if worst else ""


def _rates(measured: Measured, way: str, kind: str) -> list[float]:
    languages = measured["steering"][way].values()
    return [kinds[kind]["rate"] for kinds in languages if kind in kinds]


def _steering(ws: Workspace, measured: Measured, names: Names) -> str:
    if "a_to_b" not in measured.get("steering", {}):
        return ""

    lines = []
    for way, side in (("a_to_b", "b"), ("b_to_a", "a")):
        means = {}
        for kind in ("own", "transferred"):
            rates = _rates(measured, way, kind)
            means[kind] = sum(rates) / len(rates) if rates else math.nan
        own, carried = (percent(means[kind], sign=False) for kind in ("own", "transferred"))
        lines.append(f"{names[side]}: own vector {own}, transferred {carried}")
    return "  \n".join(lines)


def _gaps(ws: Workspace, measured: Measured, names: Names) -> str:
    if "a_to_b" not in measured.get("steering", {}):
        return ""

    gaps = [
        kinds["transferred"]["gap"]
        for kinds in measured["steering"]["a_to_b"].values()
        if "gap" in kinds.get("transferred", {})
    ]
    low, high = sum(gap <= 0.2 for gap in gaps), sum(gap >= 0.8 for gap in gaps)
    return f"{names['b']}: of {len(gaps)} languages {high} at 0.8 or more, {low} at 0.2 or less"


def _followed(ws: Workspace, measured: Measured, names: Names) -> str:
    lines = []
    for side, part in measured.get("steering", {}).get("instructions", {}).items():
        cells = part["instructions"].values()
        half = {
            kind: sum(kinds[kind]["rate"] >= 0.5 for kinds in cells)
            for kind in ("prompted", "own", "transferred", "none")
        }
        lines.append(
            f"{names[side]}, of {len(cells)} instructions followed in at least half of the"
            f" responses: {half['prompted']} in words, {half['own']} by its own vector,"
            f" {half['transferred']} by a transferred one, {half['none']} without any"
        )
    return "  \n".join(lines)


def _kinds_of_features(ws: Workspace, measured: Measured, names: Names) -> str:
    medians = measured.get("features", {}).get("median_by_kind", {})
    values = ", ".join(
        f"{kind} {number(medians[kind])}" for kind in ("structural", "semantic") if kind in medians
    )
    return f"Median attribution correlation: {values}" if values else ""


def _correlation(ws: Workspace, measured: Measured, names: Names) -> str:
    effect = measured.get("features", {}).get("effect", {}).get("random")
    if effect is None:
        return ""
    chance = percent(effect["superiority"], sign=False)
    return f"A transferred feature exceeds a random SAE's with a chance of {chance}"


def _entropy(ws: Workspace, measured: Measured, names: Names) -> str:
    lines = []
    if "functional" in measured:
        rank = measured["functional"]["null_space"]["spearman"]
        lines.append(
            "Candidates keep no part of their role: rank correlation of null-space shares"
            f" {number(rank)}"
        )
    for one in measured.get("entropy_last", {}).values():
        least = one["seen_from"].values()
        seen = f"; an unread one is seen from {percent(min(least), sign=False)}" if least else ""
        seen += " of the stream's norm on" if least else ""
        lines.append(
            f"{names[one['side']]} before layer {one['layer']}: {one['found']} of"
            f" {one['tried']:,} features act through the final norm alone{seen}"
        )
    return "  \n".join(lines)


def _attention(ws: Workspace, measured: Measured, names: Names) -> str:
    if "functional" not in measured:
        return ""
    kept = measured["functional"]["attention"]["kept"]
    return f"Largest falls of attention, before against after: rank correlation {number(kept)}"


def _sink(ws: Workspace, measured: Measured, names: Names) -> str:
    lines = []
    for name, found in measured.get("sink", {}).items():
        for direction, source, receiver in (("a_to_b", "a", "b"), ("b_to_a", "b", "a")):
            crossing = found[direction]["crossing"]
            before, own, ordinary, crossed = (
                number(crossing[condition]["share"])
                for condition in ("source", "own", "ordinary", "two_piece")
            )
            lines.append(
                f"{plain(name)}, {names[source]} to {names[receiver]}: {before} before; after,"
                f" {ordinary} by the ordinary map, {crossed} where first tokens have a map of their"
                f" own ({names[receiver]}'s own {own})"
            )
    return "  \n".join(lines)


def _layers(ws: Workspace, measured: Measured, names: Names) -> str:
    fitted = ", ".join(
        f"layer {stitch['layer_a']} to {stitch['layer_b']}"
        for stitch in measured["stitches"].values()
    )
    return f"Stitched here: {fitted}" if fitted else ""


def _inversion(ws: Workspace, measured: Measured, names: Names) -> str:
    sweep = [row for row in measured.get("alpha_sweep", []) if row["alpha"] in (0, 1)]
    rises = {
        row["alpha"]: [row["a_to_b_to_a"] / row["a"] - 1, row["b_to_a_to_b"] / row["b"] - 1]
        for row in sweep
    }
    if set(rises) != {0, 1}:
        return ""
    before, after = (" and ".join(map(percent, rises[alpha])) for alpha in (0, 1))
    return f"Round trips: {before} at α = 0, {after} at α = 1"


def _untrained(ws: Workspace, measured: Measured, names: Names) -> str:
    sae = measured.get("sae")
    if sae is None:
        return ""
    before, after = sae["original"], sae["transferred"]
    rises = [variant["loss"] - variant["loss_clean"] for variant in (before, after)]
    return (
        f"Variance unexplained {percent(before['fuv'], sign=False)} before,"
        f" {percent(after['fuv'], sign=False)} after; loss"
        f" {number(rises[0], sign=True)} before, {number(rises[1], sign=True)} after"
    )


def _more_text(ws: Workspace, measured: Measured, names: Names) -> str:
    if "a_to_b" not in measured.get("steering", {}):
        return ""
    gaps = steering_tables.gaps(ws, "b")
    rho = spearman(gaps.gap, gaps.characters)
    return (
        f"Spearman's ρ {number(rho, sign=True)} over {len(gaps)} languages ({names['b']} steered)"
    )


def _examples(ws: Workspace, measured: Measured, names: Names) -> str:
    counts = measured.get("features", {}).get("counts", {})
    listed = ", ".join(f"{n:,} {plain(kind)}" for kind, n in counts.items() if n)
    return f"Every feature has its own: {listed}" if listed else ""


TELLERS: dict[str, Callable[[Workspace, Measured, Names], str]] = {
    "Table 1": _crossing,
    "Equation 3": _refined,
    "Figure 1c, Table 4": _law,
    "Figure 2a": _saved,
    "Figure 2b": _turned,
    "Figure 3a": _probes,
    "Figure 3b, Tables 5 and 6": _steering,
    "Figure 3c": _gaps,
    "Figure 4b, Figure 15": _kinds_of_features,
    "Figure 5a": _entropy,
    "Figure 5b, Figure 16": _attention,
    "5.2, attention sinks": _sink,
    "Figure 6": _layers,
    "Figure 7": _inversion,
    "Table 2": _untrained,
    "Table 3": _stitch_costs,
    "Figure 9": _datasets,
    "Figure 11": _more_text,
    "Figures 12 and 13": _followed,
    "Figure 14": _correlation,
    "Tables 7 and 8": _examples,
}
"""By `where` of paper.toml."""
