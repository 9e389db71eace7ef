"""Two models that have not been stitched yet: what they are, how their tokens pair up, what a build
will take."""

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open

from core.config import Frozen
from core.errors import StitchLensError
from core.models.align import pair_positions
from core.models.live import MAX_TOKENS, Reader, limits_of, runtime, some
from core.models.loading import (
    check_architecture,
    check_device,
    has_sdpa,
    locate,
    open_plain,
    quiet_hub,
    tokenizer_of,
)
from core.models.pairs import (
    USUAL_NAMES,
    LayerPair,
    ModelSpec,
    PairSpec,
    Source,
    known_pairs,
    same_model,
)
from core.text.corpus import Corpus, check_splits, load_corpus
from core.workspace.disk import beside
from core.workspace.places import KEY, SPEC, named, workspaces_dir
from core.workspace.untrusted import first_line

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
CONFIG_BYTES = 1_000_000
SAMPLE = 120
"""Documents whose tokens are paired up."""
EFFICIENCY = 0.35
"""Share of the measured matrix rate that reading text reaches."""
PASS_SECONDS = 2e-4
"""What a layer costs a pass over 2,000 tokens besides its products."""
LOADING = 20.0
"""Seconds to import libraries and open both models."""


class Found(Frozen):
    """What a model turned out to be, from its configuration, its tokenizer and the headers of its
    weights."""

    spec: ModelSpec
    architecture: str
    vocabulary: int
    """Rows of its embedding."""
    tokenizer: int
    """Ids of its tokenizer, from 0 to the largest."""
    context: int
    """Tokens that it reads at once; longer texts are cut there."""
    parameters: int
    bytes: int
    """Of its weights on disk, or to download."""
    here: bool
    """Whether they are on this machine already."""
    tokens_per_character: float
    notes: tuple[str, ...] = ()

    @property
    def body(self) -> int:
        """Parameters that every token is multiplied with, the embeddings left out."""
        return max(self.parameters - self.vocabulary * self.spec.d_model, self.parameters // 20)


class Prospect(Frozen):
    """A pair that could be built."""

    pair: PairSpec
    a: Found
    b: Found
    same_tokenizer: bool
    share_a: float
    """Of A's tokens that pair up with one of B's, on a sample of the corpus."""
    share_b: float
    characters: int
    """Of the corpus."""
    notes: tuple[str, ...] = ()


class Estimate(Frozen):
    """What a build will take, roughly, on a machine that does nothing else."""

    seconds: float
    steps: dict[str, float]
    """Seconds of each."""
    memory: int
    """Bytes at its peak; `available` are free now."""
    available: int
    disk: int = Field(ge=0)
    """Bytes of workspace and moments."""
    download: int = Field(ge=0)
    rate: float
    """Matrix products that this machine was measured to do, FLOP/s."""


def look(ref: str) -> tuple[ModelSpec, Path | None]:
    """The spec of a model by a local folder, a hub id, or the key or another usual name of a
    registered one; and its folder, None on the hub.

    Only its config.json is read. Raises StitchLensError where there is none, or it is not a
    decoder-only language model.
    """
    ref = ref.strip()
    known = {m.key: m for p in known_pairs().values() for m in (p.a, p.b)}
    if ref in known:
        return known[ref], locate(known[ref])
    folder = named(ref)
    local = bool(ref) and folder.is_dir()
    if not local and "/" not in ref:
        for spec in known.values():
            if same_model(ref, spec):
                return spec, locate(spec)
        ref = USUAL_NAMES.get(ref.casefold(), ref)
    if not local and (ref.startswith((".", "/", "~")) or not HUB_ID.fullmatch(ref)):
        raise StitchLensError(
            f"no folder '{ref}'",
            f"a model's folder, a hub id (owner/name), or one of {', '.join(known)}",
            "check the path",
        )
    config = _config(ref, folder if local else None)
    text = config.get_text_config()
    layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    if config.is_encoder_decoder or not isinstance(layers, int) or not isinstance(width, int):
        raise StitchLensError(
            f"{config.model_type} in {ref}",
            "a decoder-only language model",
            "use another model, such as GPT-2 or Gemma",
        )
    name = (folder.resolve().name if local else ref.split("/")[-1]) or "model"
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:40] or "model"
    source = (
        Source(kind="folder", ref=str(folder.resolve())) if local else Source(kind="hub", ref=ref)
    )
    spec = ModelSpec(key=slug, title=name[:60], n_layers=layers, d_model=width, sources=(source,))
    return spec, folder if local else None


def _config(ref: str, folder: Path | None) -> Any:
    from transformers import AutoConfig

    if folder is not None:
        path = folder / "config.json"
        if not path.is_file():
            raise StitchLensError(
                f"no config.json in {folder.name}", "a Hugging Face model folder", "check the path"
            )
        try:
            if path.stat().st_size > CONFIG_BYTES:
                raise ValueError(f"over {CONFIG_BYTES:,} bytes")
            raw = json.loads(path.read_text("utf-8"))
            if not isinstance(raw, dict):
                raise TypeError("no object")
        except (OSError, ValueError, TypeError, RecursionError) as e:
            raise StitchLensError(
                f"an unreadable config.json in {folder.name} ({e})", "JSON", "restore the folder"
            ) from None
        if "auto_map" in raw:
            raise StitchLensError(
                f"{folder.name}, which brings code of its own",
                "an architecture that transformers knows",
                "code of a model is never run here",
            )
        if not list(folder.glob("*.safetensors")):
            raise StitchLensError(
                f"no *.safetensors in {folder.name}",
                "weights in safetensors",
                "load it with transformers and save it with `save_pretrained`",
            )
    quiet_hub()
    try:
        return AutoConfig.from_pretrained(folder or ref, trust_remote_code=False)
    except Exception as e:  # noqa: BLE001 - no network, no such repository, a gate, an unknown type: many kinds
        why = (str(e).splitlines() or [type(e).__name__])[0][:160]
        raise StitchLensError(
            f"no model '{ref}' ({why})",
            "a folder, or a hub id that can be reached",
            "check the name and the network; `hf auth login` opens gated ones",
        ) from None


def _opened(ref: str, spec: ModelSpec, folder: Path | None) -> tuple[Any, list[str]]:
    """transformers' model without its weights, and the tensors on file that are no part of it (of a
    folder alone)."""
    config = _config(spec.sources[-1].ref, folder)
    check_architecture(config, spec.title)
    if folder is not None:
        return open_plain(folder, torch.float32, "meta")
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False), []
    except Exception as e:  # noqa: BLE001 - configurations that fit no model: many kinds
        raise StitchLensError(
            f"no language model in {ref} ({first_line(e)})",
            "one that transformers opens",
            "use another model",
        ) from None


def _weights(spec: ModelSpec, folder: Path | None) -> tuple[int, int]:
    """(parameters, bytes) from the headers of the weights, or from what the hub says of them."""
    if folder is None:
        from huggingface_hub import HfApi

        try:
            info = HfApi().model_info(spec.sources[-1].ref, files_metadata=True)
        except Exception as e:  # noqa: BLE001 - the hub client raises many kinds
            why = (str(e).splitlines() or [type(e).__name__])[0][:160]
            raise StitchLensError(
                f"no word of {spec.title} from the hub ({why})", "one", "try later"
            ) from None
        files = [f for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
        if not files:
            raise StitchLensError(
                f"no safetensors of {spec.title} on the hub",
                "weights in safetensors",
                "use another",
            )
        size = sum(f.size or 0 for f in files)
        return (info.safetensors.total if info.safetensors else size // 2), size
    count = 0
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, "pt") as f:
                for key in f.keys():  # noqa: SIM118 - no mapping
                    n = 1
                    for width in f.get_slice(key).get_shape():
                        n *= width
                    count += n
        except (SafetensorError, OSError) as e:
            raise StitchLensError(
                f"{path.name} unreadable ({e})", "safetensors", "restore the folder"
            ) from None
    return count, sum(path.stat().st_size for path in files)


def prospect(
    ref_a: str,
    ref_b: str,
    corpus: str = "wheel",
    key: str | None = None,
    layers: tuple[LayerPair, ...] = (),
) -> Prospect:
    """What two models are and how they would pair up; nothing is kept and no weight is loaded.

    `key` names the pair, made of both models' names by default; without `layers`, the middle of A
    meets the layer that SVCCA picks in B. Raises StitchLensError where a model cannot be used, a
    layer is out of range, the key is unfit or taken, or their tokens do not pair up.
    """
    looked = [look(ref) for ref in (ref_a, ref_b)]
    (spec_a, _), (spec_b, _) = looked
    if spec_a == spec_b:
        raise StitchLensError(f"{spec_a.title} twice", "two models", "name another one")
    if spec_a.key == spec_b.key:
        spec_b = spec_b.model_copy(update={"key": f"{spec_b.key}-b"})
        looked[1] = (spec_b, looked[1][1])
    key = key or f"{spec_a.key}-{spec_b.key}"[:64].strip("-._")
    check_key(key)
    text = load_corpus(corpus)
    check_splits(text)
    sample = _sample(text)
    models, readers = [], []
    for ref, (spec, folder) in zip((ref_a, ref_b), looked, strict=True):
        models.append(_opened(ref, spec, folder))
        place = folder or spec.sources[-1].ref
        readers.append(
            Reader(tokenizer_of(place, spec.title), spec.bos, Path(place), limits_of(models[-1][0]))
        )
    encoded = [reader.encode(sample) for reader in readers]
    same = readers[0].tokenizer_hash == readers[1].tokenizer_hash
    usable = [sum(int(e.usable.sum()) for e in es) for es in encoded]
    paired = sum(len(pair_positions(x, y, same)[0]) for x, y in zip(*encoded, strict=True))
    if not paired:
        raise StitchLensError(
            "no token of A that pairs up with one of B", "text that both read", "use another corpus"
        )
    found = []
    for (spec, folder), (hf, unused), reader, n in zip(
        looked, models, readers, usable, strict=True
    ):
        parameters, size = _weights(spec, folder)
        found.append(
            Found(
                spec=spec,
                architecture=hf.config.model_type,
                vocabulary=reader.rows,
                tokenizer=max(reader.tokenizer.get_vocab().values()) + 1,
                context=reader.context,
                parameters=parameters,
                bytes=size,
                here=folder is not None,
                tokens_per_character=n / max(1, sum(map(len, sample))),
                notes=tuple(_own_notes(spec, hf, unused, reader)),
            )
        )
    pair = PairSpec(
        key=key,
        title=f"{spec_a.title} and {spec_b.title}",
        a=spec_a,
        b=spec_b,
        layer_pairs=layers,
        corpus=corpus,
        family="within-family" if same else "cross-family",
    )
    for one in layers:
        pair.check_layers(one.a, one.b)
    return Prospect(
        pair=pair,
        a=found[0],
        b=found[1],
        same_tokenizer=same,
        share_a=paired / usable[0],
        share_b=paired / usable[1],
        characters=text.characters,
        notes=tuple(_notes(pair, found, text, paired / usable[0], same)),
    )


def _sample(corpus: Corpus) -> list[str]:
    documents = corpus.split("select")
    return [d.text for d in documents[:: max(1, len(documents) // SAMPLE)]][:SAMPLE]


def _own_notes(spec: ModelSpec, hf: Any, unused: list[str], reader: Reader) -> list[str]:
    """What is unusual about one model."""
    out = []
    if unused:
        out.append(f"{spec.title}: {some(unused)} in its weights is of another task and left out.")
    if reader.context < MAX_TOKENS:
        out.append(
            f"{spec.title} reads {reader.context:,} tokens at once: longer texts are cut there."
        )
    if reader.bos is None:
        out.append(
            f"{spec.title} has no first token of its own: the first token of every text is masked"
            " instead."
        )
    if not has_sdpa(hf):
        kind = hf.config.model_type
        out.append(
            f"{spec.title} is steered with its plain attention: transformers has no faster one for"
            f" {kind}."
        )
    return out


def _notes(
    pair: PairSpec, found: list[Found], corpus: Corpus, share: float, same: bool
) -> list[str]:
    out = [note for one in found for note in one.notes]
    if corpus.reading is not None:
        out.append(f"The text: {corpus.reading}.")
    if pair.a.d_model > pair.b.d_model:
        out.append(
            "A is the wider model: the paper stitches from the smaller to the larger; consider"
            " swapping them."
        )
    if pair.a.d_model == pair.b.d_model:
        out.append(
            "Both residual streams are equally wide: how the matrices of a stitch that others made"
            " lie follows from their names, else from which reading fits the text; `stitch import"
            " --orientation` says it outright."
        )
    if not same:
        out.append(
            f"The tokenizers differ: {share:.0%} of A's tokens end where one of B's does; the rest"
            " is left out."
        )
    if any(one.parameters > 2e9 for one in found) and not torch.cuda.is_available():
        out.append("Over two billion parameters without a GPU: expect hours.")
    return out


def check_key(key: str) -> None:
    """Raises StitchLensError where a pair's key is unfit for a folder, or taken."""
    if not KEY.fullmatch(key):
        raise StitchLensError(
            f"the key '{key}'",
            "up to 64 small letters, digits, '.', '_' and '-', the first a letter or digit",
            "choose another",
        )
    if key in known_pairs() or (workspaces_dir() / key).exists():
        raise StitchLensError(f"a pair named '{key}'", "a key that is free", "choose another")


def speed(seconds: float = 0.3) -> float:
    """Matrix products of this machine in the models' precision, FLOP/s, the best of a few."""
    where = runtime()
    check_device(where)
    x = torch.ones(1024, 1024, dtype=where.dtype, device=where.device)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((x @ x)[0, 0])
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def estimate(
    found: Prospect,
    positions: int | None = None,
    held_out_tokens: int = 10_000,
    select_tokens: int = 2_500,
) -> Estimate:
    """What `build` of this pair will take. The terms: reading text (2 FLOP a parameter and token,
    the embeddings left out), scoring (the unembedding too), SVCCA of every two layers, exact solves
    (eigendecompositions of both widths)."""
    a, b, rate = found.a, found.b, speed()
    d_a, d_b, l_a, l_b = a.spec.d_model, b.spec.d_model, a.spec.n_layers, b.spec.n_layers
    pairs = max(1, len(found.pair.layer_pairs))
    depth = {
        side: max((getattr(p, side) for p in found.pair.layer_pairs), default=n * 0.7) / n
        for side, n in (("a", l_a), ("b", l_b))
    }
    rows = found.characters * 0.75 * a.tokens_per_character * found.share_a
    rows = min(rows, positions * 1.25 if positions else rows)
    per_row = {"a": 1 / found.share_a, "b": 1 / found.share_b}
    sides = (("a", a), ("b", b))

    def read(n: float, whole: bool) -> float:
        out = 0.0
        for side, one in sides:
            tokens, part = n * per_row[side], 1.0 if whole else depth[side]
            out += (
                part
                * tokens
                * (2 * one.body / (rate * EFFICIENCY) + PASS_SECONDS * one.spec.n_layers / 2000)
            )
        return out

    def score(tokens: float, conditions: float) -> float:
        out = 0.0
        for _, one in sides:
            flops = (
                one.body + 2 * one.vocabulary * one.spec.d_model
            )  # half of the body, the whole head
            out += (
                tokens
                * conditions
                / 2
                * (flops / (rate * EFFICIENCY) + PASS_SECONDS * one.spec.n_layers / 2000)
            )
        return out

    double = rate / 8  # eigendecompositions in float64
    solve = 15 * 25 * (d_a**3 + d_b**3) / double
    compare = 9 * (l_a * d_a**3 + l_b * d_b**3) / double + l_a * l_b * 3 * 8192 * d_a * d_b / rate
    steps = {
        "opening the models": LOADING,
        "SVCCA": read(8192, True) + compare,
        "reading the text": read(rows, False),
        "study and alpha sweep": 17 * solve + score(select_tokens, 76),
        "stitches and Table 1": pairs * (2 * solve + score(held_out_tokens, 14)),
    }
    width = 2 if runtime().dtype != torch.float32 else 4
    gram = (d_a + d_b + 1) ** 2 * 8
    memory = 1.2e9 + (a.parameters + b.parameters) * width + 8 * pairs * gram
    memory += 8192 * (l_a * d_a + l_b * d_b) * 4 + 1024 * 4 * max(a.vocabulary, b.vocabulary)
    disk = pairs * (2 * d_a * d_b * 6 + 3 * gram) + 1_000_000
    return Estimate(
        seconds=sum(steps.values()),
        steps=steps,
        memory=int(memory),
        available=psutil.virtual_memory().available,
        disk=int(disk),
        download=sum(one.bytes for one in (a, b) if not one.here),
        rate=rate,
    )


def register(pair: PairSpec) -> Path:
    """Keep a new pair's spec beside its workspace to come. Raises StitchLensError where its key is
    unfit or taken."""
    check_key(pair.key)
    path = workspaces_dir() / pair.key / SPEC
    with beside(path) as part:
        part.write_text(pair.model_dump_json(indent=1) + "\n", "utf-8")
    return path


def as_text(found: Prospect, cost: Estimate) -> str:
    lines = [f"{found.pair.key}: {found.pair.title}, {found.pair.family}"]
    for side, one in (("A", found.a), ("B", found.b)):
        tokens = "" if one.tokenizer == one.vocabulary else f" (tokenizer {one.tokenizer:,})"
        where = "here" if one.here else f"to download, {one.bytes / 1e9:.2g} GB"
        lines.append(
            f"  {side} {one.spec.title}: {one.architecture}, {one.spec.n_layers} layers of width"
            f" {one.spec.d_model}, vocabulary {one.vocabulary:,}{tokens},"
            f" {one.parameters / 1e6:,.0f} M parameters, {where}"
        )
    lines.append(
        f"  tokenizers {'equal' if found.same_tokenizer else 'differ'}; {found.share_a:.1%} of A's"
        f" and {found.share_b:.1%} of B's tokens pair up"
    )
    layers = ", ".join(p.name for p in found.pair.layer_pairs) or "middle of A, SVCCA's pick in B"
    lines.append(f"  layers: {layers}")
    lines += [f"  note: {note}" for note in found.notes]
    duration = f"{cost.seconds:.0f} s" if cost.seconds < 90 else f"{cost.seconds / 60:.0f} min"
    lines.append(
        f"  a build takes about {duration}, {cost.memory / 1e9:.1f} GB of memory "
        f"({cost.available / 1e9:.1f} free) and {cost.disk / 1e6:.0f} MB of disk"
    )
    return "\n".join(lines)
