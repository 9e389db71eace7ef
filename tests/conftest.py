"""What tests share: small real models with real tokenizers, a corpus, a cache of their own, and a
browser."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

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

from core.models.live import LiveModel
from core.models.loading import load
from core.models.pairs import NANO_A, NANO_B, PAIRS, LayerPair, ModelSpec, PairSpec, Source
from core.steering.vectors import Vector, diff_mean, means
from core.text.corpus import Corpus, build_corpus, load_corpus
from core.workspace.places import PROJECT
from tests.helpers.browser import CHROMIUM_NAMES, find_chromium
from tests.helpers.small import FLOAT32, KINDS, Tiny, TinySpec, metaspace, texts, untrained

USERS_CACHE = os.environ.get("STITCHLENS_CACHE")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers side by side, a core each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium():
        return
    reason = (
        "no Chromium found (looked for "
        + ", ".join(CHROMIUM_NAMES)
        + "; STITCHLENS_CHROMIUM can name one)"
    )
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


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> TinySpec:
    """The spec of a small model: the shipped, trained `nano-a` and `nano-b`, or `llama` and
    `gemma`, which are random and share a metaspace tokenizer."""
    home = tmp_path_factory.mktemp("models")
    tokenizer = cache(metaspace)

    @cache
    def make(kind: str) -> ModelSpec:
        if kind.startswith("nano"):
            return {"nano-a": NANO_A, "nano-b": NANO_B}[kind]
        layers, width = KINDS[kind]
        torch.manual_seed(len(kind) + width)
        untrained(kind, len(tokenizer())).eval().save_pretrained(home / kind)
        tokenizer().save_pretrained(home / kind)
        source = Source(kind="folder", ref=str(home / kind))
        return ModelSpec(
            key=kind, title=f"tiny {kind}", n_layers=layers, d_model=width, sources=(source,)
        )

    return make


@pytest.fixture(scope="session")
def tiny(tiny_spec: TinySpec, own_cache: Path) -> Tiny:
    """A small model opened by `core.models.loading.load` in float32 on the CPU, one a kind for the
    whole run."""
    return cache(lambda kind: load(tiny_spec(kind), FLOAT32))


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> PairSpec:
    """The nano models, with a folder of text as their corpus."""
    folder = tmp_path_factory.mktemp("text") / "english"
    folder.mkdir()
    for name in sorted(topics)[:24]:
        (folder / f"{name}.txt").write_text(topics[name], "utf-8")
    return PairSpec(
        key="tiny",
        title="the nano models",
        a=NANO_A,
        b=NANO_B,
        family="within-family",
        layer_pairs=(LayerPair(a=1, b=2, why="a test"),),
        corpus=str(folder),
    )


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


@pytest.fixture
def french(nano: LiveModel, corpus: Corpus) -> Vector:
    """French against English before layer 2 of nano-b."""
    return diff_mean(means(nano, texts(corpus, "fra"), texts(corpus, "eng"), 2))
