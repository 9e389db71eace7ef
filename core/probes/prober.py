"""From texts to rows of both models, at hand for probes: what is read, and with which SAEs (4, E).

`a` is read at the positions that pair up with one of B, where the stitch was learned; `b` at every
position.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from core.activations.harvest import norm_limit, record
from core.activations.recording import kept_positions
from core.bench import Bench
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.models.pairs import SIDES, Side
from core.probes.methods import Arrays
from core.progress import Progress
from core.saes.crossing import Crossing
from core.saes.settings import SaeConfig
from core.saes.train import kept_sae, sae_makers
from core.stitches.transfer import transfer_sae
from core.workspace.disk import beside
from core.workspace.places import user_cache
from core.workspace.units import share

if TYPE_CHECKING:
    from sae_lens import SAE

BLOCK = 64
"""Texts read at a time; what is read survives a stop."""


def pool(
    model: LiveModel,
    texts: Sequence[str],
    layer: int,
    saes: Mapping[str, "SAE[Any]"],
    partner: LiveModel | None,
    limit: float | None = None,
) -> tuple[Arrays, float]:
    """A row a text: `dense`, the mean of the residual stream before `layer` over its positions, and
    under the name of each SAE the mean of its activations there. With `partner` the positions that
    pair up with one of it, all where none does. Rows of a norm above `limit` (10 medians of these
    rows if not given) are left out; the limit comes back."""
    encoded, kept = kept_positions(model, texts, partner)
    kept = [k if len(k) else np.flatnonzero(e.usable) for k, e in zip(kept, encoded, strict=True)]
    h = record(model, encoded, kept, [layer])[layer].float()
    of = torch.from_numpy(np.repeat(np.arange(len(texts)), [len(k) for k in kept]))
    norm = h.norm(dim=-1)
    limit = norm_limit(norm) if limit is None else limit
    h, of = h[norm <= limit], of[norm <= limit]
    share = 1 / torch.bincount(of, minlength=len(texts)).clamp(min=1)

    def mean(rows: torch.Tensor) -> NDArray[np.float32]:
        return (
            torch.zeros(len(texts), rows.shape[1]).index_add_(0, of, rows) * share[:, None]
        ).numpy()

    with torch.inference_mode():
        return {"dense": mean(h)} | {name: mean(sae.encode(h)) for name, sae in saes.items()}, limit


class Prober:
    """A pair with an SAE of A, the stitch that it crosses by, and what they are compared with;
    opened when needed.

    Raises StitchLensError where SAE and stitch belong to different layers, or the SAE to another
    model or place.
    """

    def __init__(
        self,
        bench: Bench,
        sae_name: str,
        stitch_name: str,
        own_positions: int | None = None,
    ) -> None:
        self.bench = bench
        self._own_positions = own_positions
        self.crossing = Crossing(bench, sae_name, stitch_name)
        self.layers = self.crossing.layers

    @property
    def own_config(self) -> SaeConfig:
        """A's SAE's, where it was trained here; else the defaults at its width and k."""
        return self.crossing.source_config

    @property
    def own_positions(self) -> int | None:
        """Rows that B's own SAE is trained on: as many as A's was if not given otherwise; None is
        the whole split."""
        return self._own_positions or self.crossing.source_positions

    @property
    def own_makers(self) -> dict[str, Any]:
        return sae_makers(*self.crossing.own_like(self._own_positions))

    @cached_property
    def own(self) -> "SAE[Any]":
        """B's own SAE, trained as A's was at the same places of the text; kept in the user's cache,
        it is large."""
        return kept_sae(*self.crossing.own_like(self._own_positions))

    def saes(
        self,
        side: Side,
        own: bool,
    ) -> dict[str, "SAE[Any]"]:
        if side == "a":
            return {"source": self.crossing.sae}
        shuffled = transfer_sae(self.crossing.sae, self.crossing.shuffled)
        crossed = {"transferred": self.crossing.transferred, "shuffled": shuffled}
        return crossed | ({"own": self.own} if own else {})

    def read(
        self,
        texts: Sequence[str],
        own: bool = True,
        kept: str | None = None,
    ) -> Arrays:
        """Both models over texts; with a name under `kept` in the user's cache, where a stopped
        reading goes on and several processes share it."""
        folder = user_cache() / "probes" / kept if kept else None
        rows: Arrays = {}
        for side in SIDES:
            rows |= self._rows(side, texts, own, folder)
        return rows

    def _rows(
        self,
        side: Side,
        texts: Sequence[str],
        own: bool,
        folder: Path | None,
    ) -> Arrays:
        """What one model makes of texts, block by block."""
        saes = self.saes(side, own)
        with Progress(f"reading texts with {side.upper()}", len(texts), "texts") as bar:

            def read(k: int, limit: float | None) -> tuple[Arrays, float]:
                some = texts[k : k + BLOCK]
                block = self._block(side, some, saes, limit, folder, f"{side}-{k:06d}")
                bar.advance(len(some))
                return block

            # The first block says above which norm a row is an outlier.
            (first,) = share(folder, {f"{side}-{0:06d}": partial(read, 0, None)}).values()
            further = {
                f"{side}-{k:06d}": partial(read, k, first[1])
                for k in range(BLOCK, len(texts), BLOCK)
            }
            blocks = [first, *share(folder, further).values()]

        return {
            f"dense_{side}" if name == "dense" else name: np.concatenate(
                [arrays[name] for arrays, _ in blocks]
            )
            for name in first[0]
        }

    def _block(
        self,
        side: Side,
        texts: Sequence[str],
        saes: Mapping[str, "SAE[Any]"],
        limit: float | None,
        folder: Path | None,
        name: str,
    ) -> tuple[Arrays, float]:
        """`pool` of some texts with the model of a side, or what a folder keeps of it."""
        place = folder / f"{name}.safetensors" if folder else None
        if place and place.exists():
            arrays = load_file(place)
            return arrays, float(arrays.pop("limit")[0])

        bench = self.bench
        alike = bench.a.tokenizer_hash == bench.b.tokenizer_hash
        if side == "a":
            partner = None if alike else bench.b
            arrays, limit = pool(bench.a, texts, self.layers.a, saes, partner, limit)
        else:
            arrays, limit = pool(bench.b, texts, self.layers.b, saes, None, limit)
        if place:
            with beside(place) as part:
                save_file(arrays | {"limit": np.array([limit])}, part)
        return arrays, limit

    def about_probe(
        self,
        side: Side,
        k: int,
    ) -> dict[str, Any]:
        """What a probe of that side reads, for its file."""
        spec, layer = (
            (self.bench.pair.a, self.layers.a)
            if side == "a"
            else (self.bench.pair.b, self.layers.b)
        )
        about: dict[str, Any] = {
            "model": spec.key,
            "hook": f"blocks.{layer}.hook_resid_pre",
            "layer": layer,
            "stitch": self.crossing.stitch_name,
            "row": "mean over a text's positions, the first special token left out",
        }
        if side == "a" and self.bench.a.tokenizer_hash != self.bench.b.tokenizer_hash:
            about["row"] = "mean over a text's positions that end where a token of B does"
        if k:
            about["row"] += ", of the SAE's activations"
            about["sae"] = self.crossing.sae_name + (
                "" if side == "a" else f", carried through {self.crossing.stitch_name}"
            )
        return about


def default_names(bench: Bench) -> tuple[str, str]:
    """(SAE, stitch) of the feature explorer. Raises StitchLensError where no SAE of A is there."""
    ws = bench.workspace
    names = [n.removeprefix("features/") for n in ws.names(prefix="features/")] if ws.exists else []
    if not names:
        raise StitchLensError(
            f"no features in workspace '{bench.pair.key}'",
            "measured ones",
            f"run `python -m core features build {bench.pair.key}`",
        )
    return names[0], ws.entry(f"features/{names[0]}").makers["stitch_name"]
