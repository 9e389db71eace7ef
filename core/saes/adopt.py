"""Someone else's SAE of A, kept in the workspace."""

from typing import TYPE_CHECKING, Any

from core.bench import Bench
from core.errors import StitchLensError
from core.saes.sae import metadata, sae_hash, sae_of
from core.stitches.transfer import save_sae
from core.workspace.artifacts import check_name, name_from

if TYPE_CHECKING:
    from sae_lens import SAE


def adopt(
    bench: Bench,
    ref: str,
    layer: int | None = None,
    name: str | None = None,
    stitched: int | None = None,
    scale: float | None = None,
) -> str:
    """The name of someone else's SAE of A, kept as `saes/<name>` as precise as it came; one that is
    there already is not kept again. Raises StitchLensError as `sae_of` does, and where the
    name is another one's."""
    sae, at = sae_of(bench, ref, "a", layer, stitched, scale)
    if bench.workspace.exists and f"saes/{ref}" in bench.workspace.names():
        if scale is not None:
            raise StitchLensError(
                f"a scale beside SAE {ref} of the workspace",
                "one with its file",
                "bring the file again under another name with its scale",
            )
        return ref
    return keep_foreign(bench, sae, at, ref, name or name_from(ref))


def keep_foreign(
    bench: Bench,
    sae: "SAE[Any]",
    at: int,
    ref: str,
    name: str,
) -> str:
    """The name of an SAE of A that came as `ref` and was admitted, kept as `saes/<name>` with its
    place in its own metadata. Raises StitchLensError where the name is another one's."""
    ws = bench.workspace
    makers = {
        "pair": bench.pair.key,
        "a": bench.a.makers,
        "layer_a": at,
        "hook_a": f"blocks.{at}.hook_resid_pre",
        "from": sae_hash(sae),
        "name": name,
        "brought": name_from(ref),
    }
    for key, value in metadata(bench.pair.a.key, at).items():
        if sae.cfg.metadata[key] is None:
            sae.cfg.metadata[key] = value
    if not bench.current(f"saes/{name}", makers):
        check_name(ws, "saes", name)
        ws.put_folder(f"saes/{name}", lambda folder: save_sae(sae, folder), "sae", makers)
    return name
