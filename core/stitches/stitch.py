"""The frozen affine pair: what it is, on disk and back, and its random control (Eq. 1)."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import StitchLensError
from core.models.pairs import Side


@runtime_checkable
class Maps(Protocol):
    """Both ways between rows of two residual streams: a stitch, or what is compared with one. A
    dataclass, of whose fields those named in `parts` are trained."""

    @property
    def parts(self) -> tuple[str, ...]: ...

    def up(self, h: Tensor) -> Tensor: ...

    def down(self, h: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Stitch:
    """T_up: h_A -> h_A P_up + b_up and T_down: h_B -> h_B P_down + b_down (Eq. 1-2), float32, row
    vectors.

    P_up [d_A, d_B], b_up [d_B], P_down [d_B, d_A], b_down [d_A]; `makers` says what it was made
    from.
    """

    P_up: Float[Tensor, "d_a d_b"]
    b_up: Float[Tensor, " d_b"]
    P_down: Float[Tensor, "d_b d_a"]
    b_down: Float[Tensor, " d_a"]
    makers: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that it is made of, by their fields."""
        return PARTS

    def up(self, h: Float[Tensor, "... d_a"]) -> Float[Tensor, "... d_b"]:
        return h.float() @ self.P_up + self.b_up

    def down(self, h: Float[Tensor, "... d_b"]) -> Float[Tensor, "... d_a"]:
        return h.float() @ self.P_down + self.b_down

    def carry(
        self,
        h: Float[Tensor, "... d"],
        to: Side,
        first: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "... e"]:
        """Rows of the other model's residual stream where model `to` has its own: `up` to B, `down`
        to A. Which rows are the `first` of their text matters to a stitch in two pieces alone."""
        return self.up(h) if to == "b" else self.down(h)


def random_stitch(like: Stitch, seed: int = 0) -> Stitch:
    """A control: every part drawn at random with the norm of that of `like`."""
    g = torch.Generator().manual_seed(seed)

    def drawn(t: Tensor) -> Tensor:
        out = torch.randn(t.shape, generator=g)
        return out * t.norm() / out.norm()

    return Stitch(drawn(like.P_up), drawn(like.b_up), drawn(like.P_down), drawn(like.b_down))


FORMAT = "stitchlens-stitch-1"


PARTS = ("P_up", "b_up", "P_down", "b_down")


def save_stitch(
    stitch: Stitch,
    path: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Safetensors with the makers in the header. `path` is written directly; `Workspace.put`
    renames it into place."""
    tensors = {name: getattr(stitch, name).to(dtype).contiguous() for name in PARTS}
    save_file(
        tensors,
        path,
        metadata={"format": FORMAT, "makers": json.dumps(stitch.makers, sort_keys=True)},
    )


def load_stitch(path: Path, expect: dict[str, Any] | None = None) -> Stitch:
    """A stitch that fits `expect` (any of its makers, such as layer_a, layer_b, a, b; nested keys
    are compared too).

    Raises StitchLensError that names the width, layer or hash that differs, or says what the file
    is not.
    """
    try:
        with safe_open(path, "pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != FORMAT:
                raise StitchLensError(
                    f"format {meta.get('format')!r} in {path.name}",
                    FORMAT,
                    "save it with this version",
                )
            parts, makers = {k: f.get_tensor(k).float() for k in PARTS}, json.loads(meta["makers"])
    except (SafetensorError, KeyError, ValueError, OSError) as e:
        raise StitchLensError(
            f"no readable stitch in {path.name} ({e})", "a stitch file", "check the file"
        ) from e
    d_a, d_b = (*parts["P_up"].shape, 0, 0)[:2]
    if [tuple(parts[k].shape) for k in PARTS] != [(d_a, d_b), (d_b,), (d_b, d_a), (d_a,)]:
        raise StitchLensError(
            ", ".join(f"{k} {tuple(parts[k].shape)}" for k in PARTS) + f" in {path.name}",
            "P_down as wide as P_up is high and the other way round",
            "check how the file was made",
        )
    stitch = Stitch(**parts, makers=makers)
    if not all(torch.isfinite(getattr(stitch, k)).all() for k in PARTS):
        raise StitchLensError(
            f"NaN or infinite weights in {path.name}", "finite ones", "fit it again"
        )
    _compare(stitch.makers | {"d_a": d_a, "d_b": d_b}, expect or {}, path.name)
    return stitch


def _compare(
    found: dict[str, Any],
    wanted: dict[str, Any],
    name: str,
    within: str = "",
) -> None:
    for key, value in wanted.items():
        if isinstance(value, dict):
            inner = found.get(key)
            _compare(inner if isinstance(inner, dict) else {}, value, name, f"{within}{key}.")
        elif found.get(key) != value:
            raise StitchLensError(
                f"{within}{key} = {found.get(key)!r} in {name}",
                f"{value!r}",
                "use a stitch made for this pair and place",
            )


def with_makers(stitch: Stitch, **makers: Any) -> Stitch:
    return replace(stitch, makers=stitch.makers | makers)
