"""Features in the layout that a Neuronpedia of one's own imports: an SAE of A, and what became of
it in B, each under its model.

    FOLDER/MODEL/SOURCE/   model, release, source and sourceset.jsonl
        features/, activations/, explanations/   batch-0.jsonl.gz and so on, a row a line

Its importer takes the columns of a file from its first line, so that every row has the same keys,
and leaves those to the database that are not named. Where something is not known here, it is left
out (LEFT_OUT) instead of filled with zeros.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.features import alike
from core.features.tables import neuronpedia, unpacked
from core.models.pairs import SIDES, ModelSpec, PairSpec, Side
from core.progress import Progress
from core.workspace import demonstration
from core.workspace.disk import disk_faults, folder_beside
from core.workspace.store import Workspace, has

BATCH = 256
"""Features of a file."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""The user that a new database of Neuronpedia has, whose data it is said to be."""
CREATOR_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MARK = "stitchlens-export.json"
"""Beside the models' folders: what was written, and that it may be written again."""
LEFT_OUT = (
    "loss and logit contributions of each context",
    "bounds of the intervals that contexts were drawn from",
    "histograms of logits and of decoder weights, neurons and features that correlate",
    "embeddings of explanations, by which Neuronpedia searches",
    "features without a label have no explanation",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Export:
    """One model's side of an SAE, and whom it is said to be of."""

    ws: Workspace
    sae: str
    side: Side
    spec: ModelSpec
    layer: int
    vectors: Float[np.ndarray, "f d"]
    """Decoder rows."""
    creator: str

    @property
    def source_set(self) -> str:
        return source_set(self.sae, self.side)

    @property
    def source(self) -> str:
        """As Neuronpedia names one: layer, then set."""
        return f"{self.layer}-{self.source_set}"

    @property
    def key(self) -> Row:
        """What a row is of."""
        return {"modelId": slug(self.spec.key), "layer": self.source}


def source_set(sae: str, side: Side) -> str:
    """What an export calls an SAE of A, or what it became in B."""
    carried = "-carried" if side == "b" else ""
    return f"stitchlens-{slug(sae)}{carried}"


def names_of(ws: Workspace, pair: PairSpec, sae: str) -> set[str]:
    """What an SAE of A may be called in explanations, MODEL/SOURCE: by its release, and by an
    export of ours."""
    layer = ws.entry(f"saes/{sae}").makers["layer_a"]
    names = {f"{slug(pair.a.key)}/{layer}-{source_set(sae, 'a')}"}
    if page := neuronpedia(ws, sae, 0):
        names.add("/".join(page.split("/")[3:5]))
    return names


def slug(name: str) -> str:
    """A name of small letters, digits, dashes and underscores, which Neuronpedia's ids are of."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "sae"


def export(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    out: Path,
    vectors: dict[Side, Float[np.ndarray, "_ _"]],
    layers: dict[Side, int],
    texts: dict[str, str],
    creator: str = CREATOR,
    force: bool = False,
) -> Row:
    """Write `out`, whole or not at all; returns what it holds by model: `features`, `activations`,
    `explanations`. `vectors` are decoder rows by side, `texts` the corpus's documents by id.

    Raises StitchLensError where something is there, unless it is an export and `force` is given.
    """
    demonstration.refuse("an export")
    check_place(out, force)
    if not CREATOR_ID.fullmatch(creator):
        raise StitchLensError(
            f"creator '{creator[:80]}'", "the id of a user of that Neuronpedia", "see its users"
        )

    counts: Row = {}
    with disk_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(out) as part:
        for side in SIDES:
            spec = pair.a if side == "a" else pair.b
            one = Export(ws, sae, side, spec, layers[side], vectors[side], creator)
            folder = part / slug(spec.key) / one.source
            counts[f"{folder.parent.name}/{folder.name}"] = _write(one, folder, texts)
        about = {"pair": pair.key, "sae": sae, "holds": counts, "left_out": LEFT_OUT}
        (part / MARK).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return counts


def check_place(out: Path, force: bool) -> None:
    """Raises StitchLensError where something else than an earlier export would be lost."""
    if not out.exists():
        return
    if not (out / MARK).is_file():
        raise StitchLensError(
            f"{out.name} there already, which is no export",
            "a free place",
            "name another --out",
        )
    if not force:
        raise StitchLensError(
            f"an export at {out.name}",
            "a free place",
            "name another --out, or give --force to write it again",
        )


def _write(one: Export, folder: Path, texts: dict[str, str]) -> Row:
    """One source; returns how many rows of each kind."""
    folder.mkdir(parents=True)
    for name, row in about(one).items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n", "utf-8")

    table = one.ws.table(f"features/{one.sae}")
    labels = alike.labels(one.ws, one.sae) if has(one.ws, f"labels/{one.sae}") else None
    paths = {
        name: one.ws.path(f"{name}/{one.sae}")
        for name in (f"examples_{one.side}", f"histograms_{one.side}", "logits")
    }
    counts: Row = dict.fromkeys(("features", "activations", "explanations"), 0)
    desc = f"exporting {one.spec.title}"
    with Progress(desc, total=len(table), unit="features") as progress:
        for batch, first in enumerate(range(0, len(table), BATCH)):
            rows = table.iloc[first : first + BATCH]
            parts = {name: _part(path, first) for name, path in paths.items()}
            examples = unpacked(parts[f"examples_{one.side}"])
            shown = examples.loc[examples.heat.str.len() > 0]
            files: dict[str, Iterable[Row]] = {
                "features": features_of(one, rows, parts, shown),
                "activations": activations_of(one, shown, texts),
            }
            if labels is not None:
                files["explanations"] = explanations_of(one, labels.iloc[first : first + BATCH])
            for name, lines in files.items():
                path = folder / name / f"batch-{batch}.jsonl.gz"
                counts[name] += write_lines(path, lines)
            progress.advance(len(rows))
    return counts


def _part(path: Path, first: int) -> pd.DataFrame:
    """The rows of a table that belong to a batch of features."""
    within = [("feature", ">=", first), ("feature", "<", first + BATCH)]
    return pd.read_parquet(path, filters=within)


def write_lines(path: Path, rows: Iterable[Row]) -> int:
    """Rows as JSON, a line each, the same bytes each time; no file where there is none."""
    lines = [json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows]
    if not lines:
        return 0
    path.parent.mkdir(exist_ok=True)
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
    return len(lines)


def about(one: Export) -> dict[str, Row]:
    """The rows of a model, a release, a set of sources and a source, by the names of their
    files."""
    model = slug(one.spec.key)
    title = f"StitchLens: {one.sae} of pair {one.ws.pair}"
    public = {"creatorId": one.creator, "visibility": "PUBLIC"}
    release = f"stitchlens-{slug(one.ws.pair)}"
    carried = "" if one.side == "a" else ", carried over from the smaller model by a stitch"
    return {
        "model": public
        | {
            "id": model,
            "displayName": one.spec.title,
            "displayNameShort": one.spec.title,
            "layers": one.spec.n_layers,
            "neuronsPerLayer": 0,
            "dimension": one.spec.d_model,
            "owner": "",
        },
        "release": public
        | {
            "name": release,
            "description": title,
            "descriptionShort": title,
            "creatorName": "StitchLens",
            "urls": [],
        },
        "sourceset": public
        | {
            "modelId": model,
            "name": one.source_set,
            "description": f"Residual stream{carried}",
            "creatorName": "StitchLens",
            "releaseName": release,
            "urls": [],
        },
        "source": public
        | {
            "id": one.source,
            "modelId": model,
            "setName": one.source_set,
            "dataset": f"held-out text of pair {one.ws.pair}",
            "notes": f"Left out: {'; '.join(LEFT_OUT)}.",
        },
    }


def features_of(
    one: Export,
    rows: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    shown: pd.DataFrame,
) -> Iterator[Row]:
    """Rows of the table Neuron."""
    largest = shown.groupby("feature").activation.max()
    histograms = parts[f"histograms_{one.side}"].set_index("feature").histogram
    logits = parts["logits"]
    logits = logits.loc[logits.side == one.side].sort_values("rank", kind="stable")
    tokens = dict(tuple(logits.groupby("feature")))
    for row in rows.to_dict("records"):
        feature = int(row["feature"])
        most = float(largest.get(feature, 0.0))
        yield one.key | {
            "index": str(feature),
            "sourceSetName": one.source_set,
            "creatorId": one.creator,
            "maxActApprox": _number(most),
            "hasVector": True,
            "vector": _numbers(one.vectors[feature]),
            "vectorDefaultSteerStrength": _number(most),
            "hookName": f"blocks.{one.layer}.hook_resid_pre",
            "frac_nonzero": _number(row[f"density_{one.side}"]),
            "umap_x": _number(row["x"]),
            "umap_y": _number(row["y"]),
            **_logits(tokens[feature]),
            **_histogram(histograms[feature]),
        }


def _logits(tokens: pd.DataFrame) -> Row:
    """The tokens that a feature raises most, the most first, and those that it lowers most."""
    raised = tokens.loc[tokens["rank"] >= 0]
    lowered = tokens.loc[tokens["rank"] < 0].iloc[::-1]
    return {
        "pos_str": _texts(raised.token),
        "pos_values": _numbers(raised.weight),
        "neg_str": _texts(lowered.token),
        "neg_values": _numbers(lowered.weight),
    }


def _histogram(counts: NDArray[np.integer[Any]]) -> Row:
    """Tokens by activation: the middles of the half octaves in which there are any."""
    filled = np.flatnonzero(counts)
    middles = 2.0 ** ((filled + 0.5) / 2 - 10)
    return {
        "freq_hist_data_bar_heights": [int(counts[k]) for k in filled],
        "freq_hist_data_bar_values": _numbers(middles),
    }


def activations_of(one: Export, shown: pd.DataFrame, texts: dict[str, str]) -> Iterator[Row]:
    """Rows of the table Activation: every context that can be shown, with its text."""
    columns = ("feature", "document", "group", "rank", "ends", "heat", "peak")
    contexts = zip(*(shown[column] for column in columns), strict=True)
    for feature, document, group, rank, places, heat, peak in contexts:
        ends = places - places[0]
        text = _text(texts.get(document, "")[places[0] : places[-1]])
        tokens = [text[i:j] for i, j in pairwise(ends)]
        values = _numbers(heat)
        name = (one.key, int(feature), document, group, int(rank))
        yield one.key | {
            "id": _id("a", name),
            "index": str(int(feature)),
            "creatorId": one.creator,
            "tokens": tokens,
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "qualifyingTokenIndex": int(peak),
            "dataSource": one.ws.pair,
            "dataIndex": str(document),
        }


def explanations_of(one: Export, labels: pd.DataFrame) -> Iterator[Row]:
    """Rows of the table Explanation: labels that tell when a feature fires."""
    for row in labels.loc[labels.named].to_dict("records"):
        feature = int(row["feature"])
        score = row[f"f1_{one.side}"]
        scored = "not scored here" if score != score else f"F1 {score:.2f} on held-out text"
        yield one.key | {
            "id": _id("e", (one.key, feature)),
            "index": str(feature),
            "description": _text(row["label"]),
            "authorId": one.creator,
            "notes": f"A label of StitchLens: {scored}.",
        }


def _id(kind: str, name: Any) -> str:
    """The same each time, another for each row."""
    digest = hashlib.sha256(json.dumps(name, default=str).encode()).hexdigest()
    return f"{kind}{digest[:24]}"


def _text(text: str) -> str:
    """As long, without what Postgres cannot hold."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _texts(tokens: Iterable[str]) -> list[str]:
    return [_text(token) for token in tokens]


def _number(value: Any) -> float | None:
    """Six digits; None for what is not one."""
    number = float(f"{float(value):.6g}")
    return number if np.isfinite(number) else None


def _numbers(values: Any) -> list[float]:
    return [float(f"{float(value):.6g}") for value in values]
