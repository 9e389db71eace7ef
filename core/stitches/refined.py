"""Refine a stitch of the workspace, with controls, and keep what it gained and what it cost."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from core.activations.gram import Moments
from core.bench import Bench
from core.errors import StitchLensError
from core.models.pairs import LayerPair
from core.stitches import downstream
from core.stitches.card import USELESS
from core.stitches.fit import quality
from core.stitches.gains import divergence, extra, gains, variants_of, with_unexplained
from core.stitches.objective import Inversion
from core.stitches.refine import Refined, Refinement, of_kinds
from core.stitches.settings import STARTS, Metric, RefineConfig
from core.stitches.stitch import PARTS, Stitch, load_stitch, save_stitch, with_makers
from core.stitches.tables import least_positions
from core.workspace.artifacts import check_spelling
from core.workspace.disk import fingerprint, only_one
from core.workspace.places import user_cache
from core.workspace.store import Workspace

SETTING = ("of", "objective", "kinds", "inversion", "round_trips", "lr", "batch", "seed")
"""Of a refined stitch's makers, what its tables were made with too."""


def refined_name(of: str, config: RefineConfig) -> str:
    """How a refined stitch is called that nobody named: L20-L9-kl."""
    return f"{of}-{config.objective}"


def refine_stitch(
    bench: Bench,
    of: str,
    name: str,
    config: RefineConfig,
    controls: bool = True,
) -> Stitch:
    """Refine the stitch `of` of the workspace and keep it as `stitches/<name>`, with what was
    measured: `controls/`, `quality/`, `downstream/`, `kinds/` and `refine/` of that name. Without
    `controls` the other STARTS are not trained, and its control is the stitch's own.

    A killed run goes on; what is there is not made again. Raises StitchLensError for a stitch that
    says nothing of the other model, that leads one way or belongs to other models or layers; for a
    bad or taken name; for too little text.
    """
    base = admitted(bench, of, config)
    identity = _makers(bench, of, base, config)
    _check_name(bench, name, identity)
    layers = LayerPair(a=base.makers["layer_a"], b=base.makers["layer_b"])
    moments = bench.moments("fit", [layers], config.positions)[0][layers.name].moments()
    _check_reading(base, of, moments)

    with only_one(bench.pair.key, f"refine-{name}"):
        shuffled = load_stitch(bench.workspace.path(f"controls/{of}"))
        shuffled = with_makers(shuffled, metric=_metric(base))
        origins = dict(zip(STARTS, (base, shuffled, base), strict=True))
        runs = {
            start: _run(bench, layers, origin, moments, config, start)
            for start, origin in origins.items()
            if controls or start == "paired"
        }
        stitches = {start: halved(run.maps) for start, run in runs.items()}
        details = {"rounds": len(runs["paired"].curve["up"]), "seconds": runs["paired"].seconds}
        stitches["paired"] = with_makers(stitches["paired"], **identity | details)
        _keep(bench, name, stitches, shuffled)
        _measure(bench, name, base, shuffled, stitches, moments, config)
    return stitches["paired"]


def _metric(stitch: Stitch) -> Metric:
    """In which the inversion terms are measured; the default, where others fitted it."""
    return stitch.makers.get("metric") or "std"


def _makers(
    bench: Bench,
    of: str,
    base: Stitch,
    config: RefineConfig,
) -> dict[str, Any]:
    """What decides a refined stitch, known before it is trained."""
    setting = config.model_dump(exclude={"positions"}) | {"moments": config.positions}
    costs = ("rounds", "seconds")
    makers = {key: value for key, value in base.makers.items() if key not in costs}
    makers |= bench.makers | setting
    makers |= {
        "method": "refined",
        "metric": _metric(base),
        "why": "refined",
        "of": of,
        "of_makers": fingerprint(base.makers),
    }
    return json.loads(json.dumps(makers))  # as the header and the manifest give it back


def admitted(
    bench: Bench,
    of: str,
    config: RefineConfig,
) -> Stitch:
    """The stitch to refine. Raises StitchLensError where it cannot be, or the text is too short."""
    workspace, pair = bench.workspace, bench.pair
    makers = workspace.entry(f"stitches/{of}").makers
    fit = f"`python -m core stitch fit {pair.key} --help`"
    if makers.get("method") == "refined":
        raise StitchLensError(
            f"'{of}', which was refined already",
            "a fitted stitch",
            f"refine '{makers['of']}', with more --tokens and another name by --as",
        )
    if set(makers.get("ways", ("up", "down"))) != {"up", "down"}:
        raise StitchLensError(f"'{of}', which leads one way", "both", f"fit one: {fit}")
    if makers.get("method") == "imported":
        _check_card(workspace, of, fit)

    pair.check_layers(makers["layer_a"], makers["layer_b"])
    least = least_positions(pair)
    if config.tokens < least:
        raise StitchLensError(
            f"{config.tokens} tokens",
            f"{least} or more (twice both widths)",
            "ask for more (--tokens)",
        )
    of_kinds(bench.corpus.split("fit"), config.kinds)
    expect: dict[str, Any] = {"d_a": pair.a.d_model, "d_b": pair.b.d_model}
    for side, model in (("a", bench.a), ("b", bench.b)):
        expect[side] = {key: model.makers[key] for key in ("model", "weights", "tokenizer")}
    return load_stitch(workspace.path(f"stitches/{of}"), expect)


def _check_card(
    workspace: Workspace,
    of: str,
    fit: str,
) -> None:
    """Raises StitchLensError for a stitch that was brought and whose report card warns of it."""
    for warning in workspace.record(f"cards/{of}")["warnings"]:
        raise StitchLensError(
            f"'{of}', of which its report card warns: {warning['says']}",
            "a stitch between these layers that carries",
            f"import it at its own layers, or fit one: {fit}",
        )


def _check_reading(
    stitch: Stitch,
    of: str,
    moments: Moments,
) -> None:
    """Raises StitchLensError where a map says no more of the other model than its mean does."""
    unexplained = quality(stitch, moments, "std", 1.0)
    worst = max(unexplained["fuv_up"], unexplained["fuv_down"])
    if worst >= USELESS:
        raise StitchLensError(
            f"'{of}', which leaves {worst:.0%} of a model's variance unexplained: one of shuffled"
            " pairs, or of other layers",
            f"less than {USELESS:.0%}",
            "refine a stitch that carries; `python -m core stitch fit --help` says how one is made",
        )


def _check_name(
    bench: Bench,
    name: str,
    identity: Mapping[str, Any],
) -> None:
    """Raises StitchLensError for a name that is unfit, or that another stitch has."""
    check_spelling(name)
    entry = bench.workspace.manifest().artifacts.get(f"stitches/{name}")
    if entry is not None and any(entry.makers.get(key) != x for key, x in identity.items()):
        raise StitchLensError(
            f"another stitch named '{name}'",
            "a free name",
            f"choose one by --as, or `python -m core stitch remove {bench.pair.key} {name}`",
        )


def _run(
    bench: Bench,
    layers: LayerPair,
    origin: Stitch,
    moments: Moments,
    config: RefineConfig,
    start: str,
) -> Refined[Stitch]:
    if start != "paired":  # a control has no way back that would be worth its time
        config = config.model_copy(update={"round_trips": 0.0})
    known = [bench.makers, layers.name, origin.makers, config.model_dump(), start]
    folder = user_cache() / "refine" / fingerprint(known)
    inversion = Inversion(moments, _metric(origin))
    means = (moments.mean_a.float(), moments.mean_b.float()) if start == "constant input" else None
    models = (bench.a, bench.b)
    run = Refinement(models, layers, origin, inversion, config, folder, means)
    return run.train(bench.corpus.split("fit"), f"refining from {start}")


def halved(stitch: Stitch) -> Stitch:
    """As a file in half precision gives it back: what is measured is what is kept."""
    return replace(stitch, **{name: getattr(stitch, name).half().float() for name in PARTS})


def _keep(
    bench: Bench,
    name: str,
    stitches: Mapping[str, Stitch],
    shuffled: Stitch,
) -> None:
    """The control first, refined where it was: a stitch that is there has one."""
    refined = stitches["paired"]
    control = with_makers(shuffled, control="shuffled pairs", of=name)
    if "shuffled pairs" in stitches:
        control = with_makers(
            stitches["shuffled pairs"], control="shuffled pairs, refined", of=name
        )
    places = (("controls", "control", control), ("stitches", "stitch", refined))
    for place, kind, stitch in places:
        if not bench.current(f"{place}/{name}", stitch.makers):
            write = partial(save_stitch, stitch, dtype=torch.float16)
            bench.workspace.put(f"{place}/{name}", write, kind, ".safetensors", stitch.makers)


def _measure(
    bench: Bench,
    name: str,
    base: Stitch,
    shuffled: Stitch,
    stitches: Mapping[str, Stitch],
    moments: Moments,
    config: RefineConfig,
) -> None:
    """Table 1, unexplained variance and divergence, before and after, of each start."""
    refined = stitches["paired"]
    makers = bench.makers | {
        "stitch": fingerprint(refined.makers),
        "tokens": bench.config.held_out_tokens,
    }
    about = makers | {key: refined.makers[key] for key in SETTING}
    about |= {"trained": config.tokens}
    if set(stitches) != set(STARTS):
        about["controls"] = False
    if bench.current(f"refine/{name}", about):
        return

    layers = LayerPair(a=refined.makers["layer_a"], b=refined.makers["layer_b"])
    held_out = bench.moments("held-out", [layers], config.positions // 4)[0][layers.name].moments()
    before = {"paired": base, "shuffled pairs": shuffled}
    before = {start: stitch for start, stitch in before.items() if start in stitches}
    unexplained = {
        (start, when): quality(stitch, held_out, _metric(base), base.makers["alpha"], moments)
        for when, known in (("before", before), ("after", stitches))
        for start, stitch in known.items()
        if start in before
    }
    record = unexplained["paired", "after"] | {
        "eq3_fit": quality(refined, moments, _metric(base), base.makers["alpha"])["eq3"],
        "n_fit": moments.n,
        "n_held_out": held_out.n,
        "dropped": base.makers.get("dropped", 0),
    }
    bench.workspace.put_record(f"quality/{name}", record, makers)

    constant = (moments.mean_a.float(), moments.mean_b.float())
    variants = variants_of(before, stitches, constant)
    documents = bench.corpus.split("held-out")
    conditions = [
        *downstream.unpatched(),
        *downstream.stitched(refined),
        *downstream.controls(stitches.get("shuffled pairs", shuffled), *constant),
        *(one for (start, when), ways in variants.items() for one in ways if extra(start, when)),
    ]
    losses = pd.DataFrame(
        downstream.measure(
            bench.a,
            bench.b,
            documents,
            layers,
            conditions,
            f"Table 1 of {name}",
            bench.config.held_out_tokens,
        )
    )
    usual = losses.loc[~losses.condition.str.contains("/")]
    bench.workspace.put_table(f"kinds/{name}", downstream.by_kind(usual, documents), makers)
    bench.workspace.put_table(f"downstream/{name}", downstream.summarise(usual), makers)

    apart = divergence(bench, layers, variants, documents, config.kinds)
    table = gains(losses, documents)
    table = table.merge(apart, on=["start", "kind", "condition"], how="left")
    bench.workspace.put_table(f"refine/{name}", with_unexplained(table, unexplained), about)
