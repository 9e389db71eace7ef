"""Which artifacts there are: their names, what belongs together, which command makes each."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from core.errors import StitchLensError

if TYPE_CHECKING:
    from core.workspace.store import Workspace


@dataclass(frozen=True)
class Group:
    """Artifacts whose names begin with the same word."""

    title: str
    command: str
    """`python -m core …` that makes one, with `{pair}`, `{name}` and its makers to fill in, an
    option each; of what a person brings, the one that brings it."""
    of: "Kind | None" = None
    """What it belongs to, and goes with."""


Kind = Literal["stitches", "saes", "vectors"]
"""What a person may bring."""
KINDS: dict[str, str] = {
    "stitches": "stitch",
    "saes": "SAE",
    "vectors": "vector",
}
COMMANDS: dict[str, str] = {
    "stitches": "stitch",
    "saes": "sae",
    "vectors": "vector",
}
"""The groups of the command line that bring, make and remove them."""
BUILD = "build {pair}"
FIT = (
    "stitch fit {pair} --layer-a {layer_a} --layer-b {layer_b} --method {method} --metric {metric}"
    " --alpha {alpha} --lr {lr} --epochs {epochs} --positions {positions} --name {name}"
)
REFINED = (
    " --kinds {kinds} --inversion {inversion} --rounds {round_trips} --lr {lr} --batch {batch}"
    " --positions {moments} --seed {seed}"
)
REFINE = "stitch refine {pair} {of} --as {name} --objective {objective} --tokens {tokens}" + REFINED
GAINS = (
    "stitch refine {pair} {of} --as {name} --objective {objective} --tokens {trained}"
    f"{REFINED} --held-out {{tokens}}"
)
CEILING = (
    "stitch ceiling {pair} {name} --hidden {hidden} --positions {positions} --epochs {epochs}"
    " --lr {lr} --batch {batch} --seed {seed} --held-out {tokens}"
)
FEATURES = "features build {pair} --sae {sae_name} --stitch {stitch_name}"
TRAIN = (
    "features build {pair} --stitch {stitch_name} --width {width} --k {k} --epochs {epochs}"
    " --lr {lr} --positions {positions}"
)
LEVELS = "steer levels {pair} --sae {sae_name} --stitch {stitch_name}"
SEARCH = "steer features {pair} --sae {sae_name} --stitch {stitch_name}"
COMPARE = "features compare {pair} --sae {sae_name} --stitch {stitch_name}"
PROBES = "probes eval {pair} --sae {sae_name} --stitch {stitch_name}"
TRAINING = (
    "sae train {pair} --sae {sae_name} --widths {widths} --starts {starts} --seeds {seeds}"
    " --auxiliary {auxiliary} --positions {positions} --stitch-positions {stitch_positions}"
    " --lr {lr} --batch {batch} --name {name}"
)
STARTS = (
    "sae starts {pair} --sae {sae_name} --stitch {stitch_name} --epochs {epochs} --kinds {kinds}"
    " --seeds {seeds} --rates {rates} --positions {positions} --pairs {pairs} --batch {batch}"
)
STEERING = (
    "steer eval {pair} --languages {languages} --prompts {prompts} --choosing {choosing}"
    " --tokens {tokens} --stitches {stitches}"
)

FOLLOWING = (
    "steer eval {pair} --instructions --steered {steered} --only {instructions}"
    " --strengths {strengths} --prompts {prompts} --choosing {choosing} --tokens {tokens}"
    " --stitches {stitches}"
)

SINKS = (
    "stitch sink {pair} {name} --documents {documents} --rank {rank} --ridge {ridge} --read {read}"
    " --tokens {tokens} --prompts {prompts} --length {length}"
)

GROUPS: dict[str, Group] = {
    "pair": Group("The pair, its corpus, its alignment", BUILD),
    "svcca": Group("Which layers correspond (Fig. 6)", BUILD),
    "study": Group("In which metric to measure errors (Eq. 3)", BUILD),
    "alpha_sweep": Group("How strong inversion should be (Fig. 7)", BUILD),
    "stitches": Group("Stitches (Eq. 1 to 3)", BUILD, "stitches"),
    "downstream": Group("Downstream losses (Table 1)", BUILD, "stitches"),
    "kinds": Group("Downstream losses by kind of text", BUILD, "stitches"),
    "sinks": Group("Stitches in two pieces: the sink (5.2)", SINKS, "stitches"),
    "quality": Group("Variance unexplained, inversion errors", BUILD, "stitches"),
    "controls": Group("Controls: stitches of shuffled pairs", BUILD, "stitches"),
    "refine": Group("Refined stitches: what they gain, with controls", GAINS, "stitches"),
    "refine_price": Group("Refined stitches: what features pay", GAINS, "stitches"),
    "ceiling": Group("What a hidden layer gains beside them", CEILING, "stitches"),
    "cards": Group("Report cards of imported stitches", "stitch import", "stitches"),
    "sae_cards": Group("Report cards of SAEs that were brought", "sae import", "saes"),
    "vectors": Group("Steering vectors that were brought", "vector import", "vectors"),
    "vector_cards": Group("Their report cards", "vector import", "vectors"),
    "saes": Group(
        "Sparse autoencoders of A",
        TRAIN,
        "saes",
    ),
    "sae_quality": Group("SAEs before and after transfer (Table 2)", FEATURES, "saes"),
    "features": Group("Features: attribution correlation, class (Eq. 10)", FEATURES, "saes"),
    "agreement": Group("Agreement of features on the same text", COMPARE, "saes"),
    "labels": Group("Labels of features, with their scores", COMPARE, "saes"),
    "explanations": Group("Explanations of features by others", "features explanations", "saes"),
    "own_saes": Group("SAEs of B that were trained like A's", COMPARE, "saes"),
    "twins": Group("Native twins: features of both models' own SAEs", COMPARE, "saes"),
    "examples_a": Group("Top contexts of features in A", FEATURES, "saes"),
    "examples_b": Group("Top contexts of features in B", FEATURES, "saes"),
    "together_a": Group("The same contexts as A reads them", FEATURES, "saes"),
    "together_b": Group("The same contexts as B reads them", FEATURES, "saes"),
    "together_own": Group("The same contexts as native twins read them", COMPARE, "saes"),
    "histograms_a": Group("Activation histograms in A", FEATURES, "saes"),
    "histograms_b": Group("Activation histograms in B", FEATURES, "saes"),
    "logits": Group("Tokens that features raise and lower", FEATURES, "saes"),
    "feature_levels": Group("How far features push, read once for steering", LEVELS, "saes"),
    "feature_steering": Group("Features whose steering was searched", SEARCH, "saes"),
    "functional": Group(
        "Functional features: entropy, attention (Fig. 5)",
        "functional scan {pair} --sae {sae_name} --documents {documents}"
        " --candidates {features} --each {each}",
        "saes",
    ),
    "entropy_last": Group(
        "Entropy features at the last layers (Fig. 5a)",
        "functional entropy {pair} --side {side} --layer {layer} --width {width} --k {k}"
        " --epochs {epochs} --lr {lr} --positions {positions} --documents {documents}",
    ),
    "probes": Group("Probes of both models on every task (Fig. 3a, 9, 10)", PROBES, "saes"),
    "probe_features": Group("Features that were probed (Eq. 7)", PROBES, "saes"),
    "sae_training": Group("SAEs of B trained from several starts (Fig. 2, D)", TRAINING),
    "sae_curves": Group(
        "Their curves: explained variance, dead features, FLOPs (Fig. 2a)", TRAINING
    ),
    "sae_costs": Group("FLOPs of SAEs and stitches (Table 3)", TRAINING),
    "sae_starts": Group("Which start saves training: each mend alone and together", STARTS),
    "sae_start_curves": Group("Their curves", STARTS),
    "language_means": Group("Mean residual streams of each language", STEERING),
    "steering": Group("Response languages under steering (Tables 5, 6)", STEERING),
    "steering_choice": Group("Settings that the first half of the prompts chose from", STEERING),
    "generations": Group("What was written under steering", STEERING),
    "steering_instructions": Group(
        "Instructions that are followed under steering (Fig. 12, 13)", FOLLOWING
    ),
    "showcase": Group("The run that the first page shows", "showcase {pair}"),
}
"""Every group, in the order in which pages list them. What reads, repairs, keeps or removes
artifacts asks here."""


def parts(kind: Kind) -> list[str]:
    """The groups of what a person brought, that which makes it visible last."""
    groups = [name for name, group in GROUPS.items() if group.of == kind and name != kind]
    return [*groups, kind]


def belongings(
    artifacts: Iterable[str],
    kind: Kind,
    name: str,
) -> list[str]:
    """Those of `artifacts` that belong to one stitch, SAE or vector, itself last."""
    known = list(artifacts)
    own = [f"{group}/{name}" for group in parts(kind)]
    return [
        full for prefix in own for full in known if full == prefix or full.startswith(f"{prefix}/")
    ]


def command(
    pair: str,
    full: str,
    makers: Mapping[str, Any],
) -> str:
    """The command line that makes the artifact `full` of a pair again; empty for an unknown one.

    A stitch that a person fitted is not made by `build`; its own settings say how it was. What a
    person brought comes from a file that is not known here: the command's own help says how.
    """
    group, _, name = full.partition("/")
    if group not in GROUPS:
        return ""

    template = _template(group, makers)
    head, *options = template.split(" --")
    if "{pair}" not in head:
        return f"python -m core {head} --help"
    values = {
        "name": name.partition("/")[0],
        **makers,
        "pair": pair,
    }
    if is_brought(makers):
        bring = f"{COMMANDS[GROUPS[group].of or 'stitches']} import"
        return f"python -m core {bring} --help"

    if template in (FIT, TRAIN) and "positions" in values:
        values["positions"] = values["positions"] or 0  # None is all of the text

    words = [head.format_map(values)]
    for option in options:
        field = option.partition("{")[2].rstrip("}")
        value = values.get(field)

        if not field:
            words.append(f"--{option}")
        elif value not in (None, [], ()):  # an older version did not say; None is the default
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words.append(f"--{option.format_map({field: shlex.quote(text)})}")
    return f"python -m core {' '.join(words)}"


def missing(
    pair: str,
    full: str,
    artifacts: Collection[str],
) -> StitchLensError:
    """The refusal of an artifact that a workspace does not hold: those of its group, and the
    command that makes one."""
    group = full.partition("/")[0]
    near = [known for known in artifacts if known.partition("/")[0] == group]
    again = command(pair, full, {}) or f"python -m core build {pair}"
    if group == "stitches" and near:
        again = "python -m core stitch fit --help"

    todo = f"{'see' if again.endswith('--help') else 'run'} `{again}`"
    if near:
        todo = f"choose one, or {todo}"
    listed = ", ".join(near or artifacts)
    return StitchLensError(
        f"no '{full}' in workspace '{pair}'", f"one of {listed or 'none yet'}", todo
    )


def built(full: str, makers: Mapping[str, Any]) -> bool:
    """Whether `build` makes an artifact again."""
    group = full.partition("/")[0]
    return group in GROUPS and _template(group, makers) == BUILD and not is_brought(makers)


def _template(group: str, makers: Mapping[str, Any]) -> str:
    if group == "stitches" and makers.get("why") == "chosen by hand":
        return FIT
    if group == "stitches" and makers.get("why") == "refined":
        return REFINE
    if GROUPS[group].command == GAINS and "of" not in makers:
        return "stitch refine"
    return GROUPS[group].command


def discard(
    ws: "Workspace",
    kind: Kind,
    name: str,
) -> None:
    """Take a stitch, an SAE or a vector, and what was measured of it, out of a workspace, whoever
    made it. Raises StitchLensError where there is none."""
    ws.entry(f"{kind}/{name}")
    for part in reversed(belongings(ws.own(), kind, name)):
        ws.remove(part)


def provenance(ws: "Workspace", name: str) -> pd.DataFrame:
    """What a stitch was made from: `what`, `value`; nested makers as dotted names, then file, hash,
    date, versions."""
    entry = ws.entry(f"stitches/{name}")
    rows = [
        *_flat(entry.makers),
        ("file", entry.path),
        ("sha256", entry.sha256),
        ("bytes", f"{entry.bytes:,}"),
        ("made", entry.made),
        *_flat(entry.versions, "versions."),
    ]
    return pd.DataFrame(rows, columns=["what", "value"])


def computed(ws: "Workspace") -> pd.DataFrame:
    """What the workspace holds, a row a kind: `group`, `what`, `files`, `made` (the latest, UTC),
    `megabytes`."""
    rows = [
        (name.split("/")[0], pd.Timestamp(a.made) if a.made else pd.NaT, a.bytes / 1e6)
        for name, a in ws.manifest().artifacts.items()
    ]
    table = (
        pd.DataFrame(rows, columns=["group", "made", "megabytes"])
        .groupby("group", as_index=False)
        .agg(
            files=("made", "size"),
            made=("made", "max"),
            megabytes=("megabytes", "sum"),
        )
    )
    order = {group: i for i, group in enumerate(GROUPS)}
    titles = {name: group.title for name, group in GROUPS.items()}
    table["what"] = [titles.get(group, group) for group in table.group]
    return table.sort_values("group", key=lambda s: s.map(order)).reset_index(drop=True)


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, item in value.items():
        rows += (
            _flat(item, f"{prefix}{key}.")
            if isinstance(item, dict)
            else [(f"{prefix}{key}", str(item))]
        )
    return rows


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def name_from(text: str) -> str:
    """A name for an artifact from that of a file or a reference."""
    stem = re.split(r"[/:\\]", text.rstrip("/"))[-1]
    for ending in (
        ".safetensors",
        ".npz",
        ".npy",
        ".zip",
        ".gguf",
        ".json",
        ".pt",
        ".pth",
        ".bin",
        ".ckpt",
    ):
        stem = stem.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64] or "mine"


def check_spelling(name: str) -> None:
    """Raises StitchLensError for a name that no artifact may have."""
    if not NAME.fullmatch(name):
        raise StitchLensError(
            f"name {name!r}", "letters, digits, '.', '_' and '-', at most 64", "choose another name"
        )


def check_name(
    ws: "Workspace",
    kind: str,
    name: str,
) -> None:
    """Of an artifact of that kind. Raises StitchLensError where a name is unfit for a file, or
    taken."""
    if not NAME.fullmatch(name):
        raise StitchLensError(
            f"the name '{name}'",
            "up to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
            "choose another name",
        )
    if ws.exists and f"{kind}/{name}" in ws.manifest().artifacts:
        article, what = "an" if kind == "saes" else "a", KINDS.get(kind, "set")
        raise StitchLensError(
            f"{article} {what} named '{name}'", "a name that is free", "choose another name"
        )


def is_brought(makers: Mapping[str, Any]) -> bool:
    """Whether an artifact with these makers came from a person, so that nothing here can make it
    again."""
    return makers.get("method") == "imported" or "brought" in makers
