"""What tests share: small real models with real tokenizers, a corpus, a cache of their own, and a browser."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# Before any Hugging Face import: what the hub would say must not depend on the machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait give their core away: the other worker's, and the app's under test, need it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from pydoc_data.topics import topics

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright
from tokenizers import Tokenizer, decoders, normalizers, trainers
from tokenizers import models as tokenizer_models

from core.bench import Bench, BuildConfig
from core.models.live import LiveModel, Runtime
from core.models.loading import load
from core.models.pairs import NANO_A, NANO_B, PAIRS, LayerPair, ModelSpec, PairSpec, Source
from core.steering.vectors import Vector, diff_mean, means
from core.stitches.fit import FitConfig
from core.stitches.measure import fit_stitch
from core.text.corpus import Corpus, build_corpus, load_corpus
from core.workspace.places import PROJECT

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ON_MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
USERS_CACHE = os.environ.get("STITCHLENS_CACHE")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers side by side, a core each


@cache
def find_chromium() -> str | None:
    """The Chromium to drive: STITCHLENS_CHROMIUM if set, else the first found; None where there is none."""
    if named := os.environ.get("STITCHLENS_CHROMIUM"):
        return named
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((path for path in (*found, *CHROMIUM_ON_MAC) if path and Path(path).exists()), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium():
        return
    reason = "no Chromium found (looked for " + ", ".join(CHROMIUM_NAMES) + "; STITCHLENS_CHROMIUM can name one)"
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the whole run; take a fresh `browser.new_page()` in each test."""
    with sync_playwright() as playwright:
        args = ["--disable-gpu", "--disable-background-networking"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            args.append("--no-sandbox")  # Chromium refuses to run as root with it
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=args)
        yield chromium
        chromium.close()


@contextmanager
def users_cache() -> Iterator[None]:
    """The user's own cache for a while: what is dequantised there need not be made again."""
    with pytest.MonkeyPatch.context() as patch:
        if USERS_CACHE is None:
            patch.delenv("STITCHLENS_CACHE", raising=False)
        else:
            patch.setenv("STITCHLENS_CACHE", USERS_CACHE)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this run, for everything but the tests marked `model` and `browser`."""
    folder = tmp_path_factory.mktemp("user-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def cache_of_the_marker(request: pytest.FixtureRequest, own_cache: Path) -> Iterator[None]:
    if request.node.get_closest_marker("model") or request.node.get_closest_marker("browser"):
        with users_cache():
            yield
    else:
        yield


FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
ENGLISH = "\n\n".join(topics[k] for k in sorted(topics)[:40])
"""About 190,000 characters of English that come with Python."""
SCRIPTS = {
    "Latin": "Voilà, le cœur a ses raisons.",
    "Cyrillic": "Привет, мир! Как дела?",
    "Devanagari": "नमस्ते दुनिया, कैसे हैं?",
    "Han": "你好，世界。今天天气很好。",
    "Arabic": "مرحبا بالعالم، كيف الحال؟",
    "emoji": "😀 👍🏽 👩‍👩‍👧 fin",
}


def metaspace() -> Any:
    """A BPE over characters with ▁ for spaces and bytes for unknown characters, as of Llama and Gemma."""
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(tokenizer_models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence(steps)  # type: ignore[assignment]
    special = ["<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=620, show_progress=False, special_tokens=special + [f"<0x{i:02X}>" for i in range(256)]
    )
    tok.train_from_iterator([ENGLISH[60_000:90_000].replace("\n", " "), "Привет, мир"], trainer)
    plain = json.loads(tok.to_str())  # the bytes are ordinary tokens, not special ones
    plain["added_tokens"] = [t for t in plain["added_tokens"] if t["content"] in special]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), bos_token="<bos>", unk_token="<unk>"
    )


def _untrained(kind: str, vocabulary: int) -> Any:
    import transformers as t

    common: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": 1024, "num_attention_heads": 4}
    size: dict[str, Any]
    more: dict[str, Any]
    match kind:
        case "llama":
            size = {"hidden_size": 40, "num_hidden_layers": 3, "intermediate_size": 80, "num_key_value_heads": 2}
            return t.LlamaForCausalLM(t.LlamaConfig(**common, **size))
        case "gemma":
            size = {"hidden_size": 40, "num_hidden_layers": 3, "intermediate_size": 80, "num_key_value_heads": 1}
            more = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
            return t.Gemma3ForCausalLM(t.Gemma3TextConfig(**common, **size, **more))
    raise KeyError(kind)


KINDS = {"nano-a": (4, 128), "nano-b": (6, 256), "llama": (3, 40), "gemma": (3, 40)}
TinySpec = Callable[[str], ModelSpec]
Tiny = Callable[[str], LiveModel]


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> TinySpec:
    """The spec of a small model: the shipped, trained `nano-a` and `nano-b`, or `llama` and `gemma`, which are random
    and share a metaspace tokenizer."""
    home = tmp_path_factory.mktemp("models")
    tokenizer = cache(metaspace)

    @cache
    def make(kind: str) -> ModelSpec:
        if kind.startswith("nano"):
            return {"nano-a": NANO_A, "nano-b": NANO_B}[kind]
        layers, width = KINDS[kind]
        torch.manual_seed(len(kind) + width)
        _untrained(kind, len(tokenizer())).eval().save_pretrained(home / kind)
        tokenizer().save_pretrained(home / kind)
        source = Source(kind="folder", ref=str(home / kind))
        return ModelSpec(key=kind, title=f"tiny {kind}", n_layers=layers, d_model=width, sources=(source,))

    return make


@pytest.fixture(scope="session")
def tiny(tiny_spec: TinySpec, own_cache: Path) -> Tiny:
    """A small model opened by `core.models.loading.load` in float32 on the CPU, one a kind for the whole run."""
    return cache(lambda kind: load(tiny_spec(kind), FLOAT32))


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> PairSpec:
    """The nano models, with a folder of text as their corpus."""
    folder = tmp_path_factory.mktemp("text") / "english"
    folder.mkdir()
    for name in sorted(topics)[:24]:
        (folder / f"{name}.txt").write_text(topics[name], "utf-8")
    return PairSpec(
        key="tiny", title="the nano models", a=NANO_A, b=NANO_B, family="within-family",
        layer_pairs=(LayerPair(a=1, b=2, why="a test"),), corpus=str(folder),
    )  # fmt: skip


@contextmanager
def stitched_bench(
    pair: PairSpec, tmp_path_factory: pytest.TempPathFactory, config: BuildConfig | None = None
) -> Iterator[Bench]:
    """The tiny pair in a workspace of its own, in float32, with a stitch L1-L2 fitted on a little English."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_DTYPE", "float32")
        patch.setenv("STITCHLENS_WORKSPACES", str(tmp_path_factory.mktemp("workspaces")))
        found = Bench(pair.model_copy(update={"corpus": "wheel:eng"}), config or BuildConfig(held_out_tokens=100))
        fit_stitch(found, "L1-L2", pair.layer_pairs[0], FitConfig(), 3000)
        yield found


@pytest.fixture(scope="session")
def english() -> Corpus:
    return build_corpus("english", [(name, "eng", topics[name]) for name in sorted(topics)[:40]])


@pytest.fixture(scope="module")
def nano_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the shipped `nano` workspace as the only one there is."""
    root = tmp_path_factory.mktemp("workspaces")
    shutil.copytree(PROJECT / "cache" / "nano", root / "nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_WORKSPACES", str(root))
        yield root


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return load_corpus(PAIRS["nano"].corpus)


@pytest.fixture
def nano(tiny: Tiny) -> LiveModel:
    return tiny("nano-b")


def texts(corpus: Corpus, language: str, n: int = 30) -> list[str]:
    return [d.text for d in corpus.split("fit") if d.label.split("/")[0] == language][:n]


@pytest.fixture
def french(nano: LiveModel, corpus: Corpus) -> Vector:
    """French against English before layer 2 of nano-b."""
    return diff_mean(means(nano, texts(corpus, "fra"), texts(corpus, "eng"), 2))
