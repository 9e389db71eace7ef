"""Recipes from specs to artifacts: the only place where the steps are wired together."""

import json
from functools import partial
from typing import Any

import pandas as pd
import torch

from core.activations.gram import Gram
from core.activations.harvest import harvest_config
from core.activations.recording import harvest_recording
from core.bench import Bench
from core.config import BuildConfig
from core.errors import StitchLensError
from core.models.align import encode_both
from core.models.pairs import LayerPair, PairSpec
from core.stitches import downstream, svcca
from core.stitches.fit import fit_adam, fit_moments, quality
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch, load_stitch, save_stitch, with_makers
from core.stitches.study import Fits, alpha_sweep, best_setting, study
from core.stitches.tables import least_positions
from core.text.corpus import SPLITS, Split, check_splits
from core.workspace.artifacts import belongings, check_spelling
from core.workspace.disk import fingerprint, only_one
from core.workspace.store import Workspace

BY_PERSON = ("imported", "chosen by hand", "refined")
"""Why a stitch was made that is none of the build's."""


def describe_pair(bench: Bench, default_stitch: str | None = None) -> None:
    """The `pair` record: models, corpus, and how well the tokens pair up on the select split."""
    side = {
        name: (
            model.makers
            | model.spec.model_dump(include={"title", "n_layers", "d_model", "licence"})
        )
        for name, model in (("a", bench.a), ("b", bench.b))
    }
    record = side | {
        "pair": bench.pair.key,
        "title": bench.pair.title,
        "family": bench.pair.family,
        "corpus": {
            "name": bench.corpus.name,
            "fingerprint": bench.corpus.fingerprint,
            "documents": len(bench.corpus.documents),
            "characters": bench.corpus.characters,
            "splits": {s: len(bench.corpus.split(s)) for s in SPLITS},
        },
        "alignment": _alignment(bench),
        "default_stitch": default_stitch,
    }
    bench.workspace.put_record("pair", record, bench.makers)


def _alignment(bench: Bench) -> dict[str, float]:
    """How many usable tokens of the select split pair up; as recorded, where that is current."""
    if bench.current("pair", bench.makers):
        return bench.workspace.record("pair")["alignment"]

    both = encode_both(bench.a, bench.b, [d.text for d in bench.corpus.split("select")])
    tokens_a, tokens_b = (sum(int(e.usable.sum()) for e in es) for es in (both.a, both.b))
    paired = sum(len(own) for own, _ in both.paired)
    return {
        "tokens_a": tokens_a,
        "tokens_b": tokens_b,
        "paired": paired,
        "share_a": paired / tokens_a,
        "share_b": paired / tokens_b,
    }


def measure_svcca(bench: Bench) -> pd.DataFrame:
    """The `svcca` table (Fig. 6), from the select split."""
    makers = bench.makers | {"positions": bench.config.svcca_positions, "variance": svcca.VARIANCE}
    if not bench.current("svcca", makers):
        documents = bench.corpus.split("select")
        scores = svcca.layer_scores(bench.a, bench.b, documents, bench.config.svcca_positions)
        bench.workspace.put_table("svcca", scores, makers)
    return bench.workspace.table("svcca")


def layer_pairs(bench: Bench) -> tuple[LayerPair, ...]:
    """The registered layer pairs, or the middle of A with the layer of B that SVCCA picks (A.1)."""
    if bench.pair.layer_pairs:
        return bench.pair.layer_pairs
    middle = bench.pair.a.n_layers // 2
    return (
        LayerPair(
            a=middle,
            b=svcca.best_layer(measure_svcca(bench), middle),
            why="middle of A, SVCCA's pick in B",
        ),
    )


def stitch_makers(
    bench: Bench,
    pair: LayerPair,
    config: FitConfig,
    positions: int | None,
) -> dict[str, Any]:
    """What decides a stitch, known before it is fitted."""
    return (
        bench.makers
        | config.model_dump()
        | {
            "layer_a": pair.a,
            "layer_b": pair.b,
            "positions": positions,
            "hook_a": f"blocks.{pair.a}.hook_resid_pre",
            "hook_b": f"blocks.{pair.b}.hook_resid_pre",
            "why": pair.why,
        }
    )


def fit_stitch(
    bench: Bench,
    name: str,
    pair: LayerPair,
    config: FitConfig,
    positions: int | None = None,
    replace: bool = False,
) -> Stitch:
    """Fit, measure on the held-out split and keep: `stitches/`, `controls/`, `quality/`,
    `downstream/` and `kinds/` of that name.

    An identical one that is already there is not made again; another one is in the way, unless
    `replace` is set and it was made for the same reason (`pair.why`). Raises StitchLensError for a
    bad name, layer or strength.
    """
    _check(bench.pair, name, pair, config, positions)
    workspace = bench.workspace
    identity = stitch_makers(bench, pair, config, positions)
    grams, ledgers = bench.moments("fit", [pair], positions)
    gram, ledger = grams[pair.name], ledgers[pair.name]

    entry = None
    if workspace.exists:
        entry = workspace.manifest().artifacts.get(f"stitches/{name}")
    known = entry is not None and all(
        entry.makers.get(key) == value for key, value in _plain(identity).items()
    )
    replaceable = replace and entry is not None and entry.makers.get("why") == pair.why
    if entry is not None and not (known or replaceable):
        raise StitchLensError(
            f"another stitch named '{name}'",
            "a free name",
            f"choose one, or `python -m core stitch remove {bench.pair.key} {name}`",
        )

    if known and entry is not None:
        stitch = load_stitch(workspace.path(f"stitches/{name}"), entry.makers)
    else:
        stitch = _fitted(bench, pair, config, positions, gram)
        counts = {key: getattr(ledger, key) for key in ("tokens", "documents", "dropped")}
        stitch = with_makers(stitch, **_plain(identity | stitch.makers | counts))
        _put(workspace, name, stitch, config, gram)

    shuffled = load_stitch(workspace.path(f"controls/{name}"))
    _measure_stitch(bench, name, pair, config, stitch, shuffled, gram)
    return stitch


def _check(
    spec: PairSpec,
    name: str,
    layers: LayerPair,
    config: FitConfig,
    positions: int | None,
) -> None:
    """Raises StitchLensError for what cannot be fitted."""
    check_spelling(name)
    if not 0 <= config.alpha < float("inf"):
        raise StitchLensError(
            f"alpha {config.alpha}", "a finite number, 0 or more", "1 is the paper's choice"
        )
    least = least_positions(spec)
    if positions is not None and positions < least:
        raise StitchLensError(
            f"{positions} positions",
            f"{least} or more (twice both widths)",
            "ask for more positions (--positions)",
        )
    spec.check_layers(layers.a, layers.b)


def _fitted(
    bench: Bench,
    pair: LayerPair,
    config: FitConfig,
    positions: int | None,
    gram: Gram,
) -> Stitch:
    if config.method != "adam":
        return fit_moments(gram.moments(), config)

    setup = harvest_config(bench.a, bench.b, bench.corpus.fingerprint, "fit", positions)
    rows = harvest_recording(bench.a, bench.b, bench.corpus.split("fit"), pair, setup)
    return fit_adam(rows, gram.moments(), config)


def _put(
    workspace: Workspace,
    name: str,
    stitch: Stitch,
    config: FitConfig,
    gram: Gram,
) -> None:
    """The control first: a stitch that is there has one."""
    # Adam's control is fitted exactly: only what the pairing gives is to be compared.
    method = "lstsq" if config.method == "lstsq" else "exact"
    shuffled = fit_moments(
        gram.moments(shuffled=True), config.model_copy(update={"method": method})
    )
    control = with_makers(shuffled, control="shuffled pairs", of=name)
    workspace.put(
        f"controls/{name}",
        partial(save_stitch, control, dtype=torch.float16),
        "control",
        ".safetensors",
        control.makers,
    )
    workspace.put(
        f"stitches/{name}", partial(save_stitch, stitch), "stitch", ".safetensors", stitch.makers
    )


def _plain(makers: dict[str, Any]) -> dict[str, Any]:
    """As the header and the manifest give it back."""
    return json.loads(json.dumps(makers))


def _measure_stitch(
    bench: Bench,
    name: str,
    pair: LayerPair,
    config: FitConfig,
    stitch: Stitch,
    shuffled: Stitch,
    gram: Gram,
) -> None:
    makers = bench.makers | {
        "stitch": fingerprint(stitch.makers),
        "tokens": bench.config.held_out_tokens,
    }
    if not bench.current(f"quality/{name}", makers):
        few = None if stitch.makers["positions"] is None else stitch.makers["positions"] // 4
        held_grams, _ = bench.moments("held-out", [pair], few)
        fit, held_out = gram.moments(), held_grams[pair.name].moments()
        record = quality(stitch, held_out, config.metric, config.alpha, fit) | {
            "eq3_fit": quality(stitch, fit, config.metric, config.alpha)["eq3"],
            "n_fit": fit.n,
            "n_held_out": held_out.n,
            "dropped": stitch.makers["dropped"],
        }
        bench.workspace.put_record(f"quality/{name}", record, makers)
    if not (bench.current(f"downstream/{name}", makers) and bench.current(f"kinds/{name}", makers)):
        moments = gram.moments()
        conditions = [
            *downstream.unpatched(),
            *downstream.stitched(stitch),
            *downstream.controls(shuffled, moments.mean_a, moments.mean_b),
        ]
        documents = bench.corpus.split("held-out")
        tokens = bench.config.held_out_tokens
        losses = downstream.measure(
            bench.a, bench.b, documents, pair, conditions, f"Table 1 of {name}", tokens
        )
        table = pd.DataFrame(losses)
        bench.workspace.put_table(f"kinds/{name}", downstream.by_kind(table, documents), makers)
        bench.workspace.put_table(f"downstream/{name}", downstream.summarise(table), makers)


def read_splits(config: BuildConfig) -> dict[Split, int | None]:
    """Of which splits a build takes moments, and how many pairs of positions of each."""
    few = None if config.positions is None else config.positions // 4
    return {"fit": config.positions, "held-out": few}


def build(pair: PairSpec, config: BuildConfig | None = None) -> Workspace:
    """The whole workspace of a pair, step by step; what is there and current is kept, so a killed
    build goes on."""
    bench = Bench(pair, config or BuildConfig())
    check_splits(bench.corpus)
    with only_one(pair.key, "build"):
        if not bench.workspace.exists:
            describe_pair(bench)
        measure_svcca(bench)
        pairs = layer_pairs(bench)
        grams = {
            split: bench.moments(split, pairs, positions)[0]
            for split, positions in read_splits(bench.config).items()
        }
        first = pairs[0]
        fits = Fits(grams["fit"][first.name])
        held_out = grams["held-out"][first.name].moments()
        studied = study(bench, first, fits)
        chosen = best_setting(studied)
        alpha_sweep(bench, first, fits, held_out, chosen, studied)
        for p in pairs:
            fit_stitch(bench, p.name, p, chosen, bench.config.positions, replace=True)
        describe_pair(bench, pairs[0].name)
    return bench.workspace


def built_with(workspace: Workspace) -> BuildConfig:
    """The settings that a workspace was built with, as far as its artifacts tell; the defaults for
    the rest."""
    if not workspace.exists:
        return BuildConfig()

    artifacts = workspace.manifest().artifacts
    known = {name: artifact.makers for name, artifact in artifacts.items()}
    default = BuildConfig()
    chosen = known.get("study", known.get("alpha_sweep", {}))
    settings: dict[str, Any] = {
        "svcca_positions": known.get("svcca", {}).get("positions", default.svcca_positions),
        "select_tokens": chosen.get("tokens", default.select_tokens),
    }
    for name, makers in known.items():
        if name.startswith("stitches/") and makers.get("why") not in BY_PERSON:
            losses = known.get(name.replace("stitches/", "downstream/", 1), {})
            settings["positions"] = makers.get("positions")
            settings["held_out_tokens"] = losses.get("tokens", default.held_out_tokens)
    return BuildConfig.model_validate(settings)


def positions_to_fit(workspace: Workspace, asked: int | None) -> int | None:
    """Pairs of positions that a build fits on, None for all of the text: as many as were `asked`
    for (0: all), else as it was built with."""
    if asked is None:
        return built_with(workspace).positions
    return asked or None


def remove_stitch(workspace: Workspace, name: str) -> None:
    """Take a stitch and what was measured of it out of a workspace."""
    workspace.entry(f"stitches/{name}")
    for part in reversed(belongings(workspace.own(), "stitches", name)):
        workspace.remove(part)


def evaluate_stitch(bench: Bench, name: str) -> None:
    """Measure a stitch of the workspace again, with its control. Raises StitchLensError where
    either does not fit."""
    entry = bench.workspace.entry(f"stitches/{name}")
    if entry.makers.get("method") == "imported":
        raise StitchLensError(
            f"an imported stitch '{name}'", "one that was fitted here", "its report card has it all"
        )
    expect = {k: entry.makers[k] for k in ("pair", "layer_a", "layer_b")} | {
        side: {k: model.makers[k] for k in ("model", "weights", "tokenizer")}
        for side, model in (("a", bench.a), ("b", bench.b))
    }
    stitch = load_stitch(bench.workspace.path(f"stitches/{name}"), expect)
    shuffled = load_stitch(bench.workspace.path(f"controls/{name}"))
    config = FitConfig.model_validate({k: stitch.makers[k] for k in ("metric", "alpha")})
    pair = LayerPair(a=stitch.makers["layer_a"], b=stitch.makers["layer_b"])
    gram = bench.moments("fit", [pair], stitch.makers["positions"])[0][pair.name]
    _measure_stitch(bench, name, pair, config, stitch, shuffled, gram)
