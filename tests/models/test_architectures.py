"""Each architecture, as a tiny folder: `pair new`, `build` and `steer` give what plain transformers
gives."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from typer.testing import CliRunner

from core.cli.main import app
from core.errors import StitchLensError
from core.features.unembedding import extreme_tokens
from core.functional.attention import Heads, pattern
from core.models import hooks
from core.models.configuration import look
from core.models.live import LiveModel, Runtime
from core.models.loading import load
from core.models.pairs import ModelSpec
from core.models.prospect import prospect
from core.steering.files import save_vector
from core.steering.generate import generate
from core.steering.lanes import Lane
from core.steering.settings import Sampling
from core.steering.vectors import Vector
from core.stitches.downstream import token_losses
from core.text.corpus import load_corpus
from core.workspace.store import Workspace
from tests.helpers.small import ENGLISH, FLOAT32

ROWS, PADDED = 600, 640
"""Of the tokenizer, and of a vocabulary padded beyond it."""
LAYER = 1
PROMPT = "The value of a name is"
BF16 = Runtime(torch.device("cpu"), torch.bfloat16)


@cache
def tokenizer(bos: bool) -> Any:
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(tokenizer_models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tok.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=ROWS, show_progress=False, special_tokens=["<|end|>"], initial_alphabet=alphabet
    )
    tok.train_from_iterator([ENGLISH[:60_000]], trainer)
    first = {"bos_token": "<|end|>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|end|>", **first)


def config(kind: str) -> Any:
    import transformers as t

    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
    } | ids
    wide: dict[str, Any] = size | {"intermediate_size": 64}
    llama: dict[str, Any] = wide | {"num_key_value_heads": 2}
    gemma: dict[str, Any] = llama | {
        "vocab_size": ROWS,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 32,
    }
    caps: dict[str, Any] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    opt: dict[str, Any] = size | {"vocab_size": ROWS, "ffn_dim": 64, "pad_token_id": 1}
    gpt2: dict[str, Any] = {"vocab_size": ROWS, "n_embd": 32, "n_layer": 3, "n_head": 4} | ids
    made: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2Config(**gpt2, n_positions=128),
        "neox": lambda: t.GPTNeoXConfig(**wide, vocab_size=PADDED),
        "gemma2": lambda: t.Gemma2Config(**gemma, **caps),
        "gemma2-wide": lambda: t.Gemma2Config(
            **gemma | {"hidden_size": 40, "num_hidden_layers": 4}, **caps
        ),
        "gemma3": lambda: t.Gemma3TextConfig(**gemma),
        "llama": lambda: t.LlamaConfig(**llama, vocab_size=PADDED, tie_word_embeddings=False),
        "qwen2": lambda: t.Qwen2Config(**llama, vocab_size=PADDED, tie_word_embeddings=True),
        "qwen3": lambda: t.Qwen3Config(**llama, vocab_size=ROWS, head_dim=8),
        "opt": lambda: t.OPTConfig(**opt, word_embed_proj_dim=32),
        "opt-350m": lambda: t.OPTConfig(**opt, word_embed_proj_dim=16, do_layer_norm_before=False),
        "olmo": lambda: t.OlmoConfig(**llama, vocab_size=PADDED),
        "olmo2": lambda: t.Olmo2Config(**llama, vocab_size=ROWS),
        "mistral": lambda: t.MistralConfig(**llama, vocab_size=ROWS, sliding_window=32),
        "phi": lambda: t.PhiConfig(**wide, vocab_size=ROWS),
        "granite": lambda: t.GraniteConfig(
            **llama, vocab_size=ROWS, logits_scaling=3.0, embedding_multiplier=2.0
        ),
        "gptj": lambda: t.GPTJConfig(**gpt2, rotary_dim=4, n_positions=1024),
        "bloom": lambda: t.BloomConfig(vocab_size=ROWS, hidden_size=32, n_layer=3, n_head=4, **ids),
        "falcon": lambda: t.FalconConfig(**size, vocab_size=ROWS),
        "mpt": lambda: t.MptConfig(
            vocab_size=ROWS, d_model=32, n_layers=3, n_heads=4, max_seq_len=1024
        ),
        "gpt-oss": lambda: t.GptOssConfig(
            **llama,
            vocab_size=ROWS,
            head_dim=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=32,
        ),
        "bert": lambda: t.BertConfig(**wide, vocab_size=ROWS),
        "cohere": lambda: t.CohereConfig(**llama, vocab_size=ROWS),
        "mamba": lambda: t.MambaConfig(
            vocab_size=ROWS, hidden_size=32, num_hidden_layers=3, state_size=4
        ),
    }
    return made[kind]()


NO_FIRST_TOKEN = ("qwen2", "olmo")
PAIRS = [("gpt2", "neox"), ("gemma2", "gemma2-wide"), ("llama", "qwen2"), ("opt", "olmo")]
OTHERS = [
    "gemma3",
    "qwen3",
    "opt-350m",
    "olmo2",
    "mistral",
    "phi",
    "granite",
    "gptj",
    "bloom",
    "falcon",
    "mpt",
    "gpt-oss",
]
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    home = tmp_path_factory.mktemp("architectures")

    @cache
    def make(kind: str) -> Path:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(len(kind))
        model = AutoModelForCausalLM.from_config(config(kind))
        for (
            p
        ) in model.parameters():  # gains and biases, which are drawn as 1 and 0, would hide a fault
            p.data += 0.08 * torch.randn_like(p)
        model.save_pretrained(home / kind)
        tokenizer(kind not in NO_FIRST_TOKEN).save_pretrained(home / kind)
        return home / kind

    return make


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where workspaces go; everything in float32."""
    root = tmp_path_factory.mktemp("workspaces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_WORKSPACES", str(root))
        patch.setenv("STITCHLENS_DTYPE", "float32")
        yield root


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    for name in sorted(topics)[:24]:
        (place / f"{name}.txt").write_text(topics[name], "utf-8")
    return place


def plainly(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="eager"
    ).eval()


@cache
def reader(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def ids_of(path: Path, text: str, most: int) -> list[int]:
    """As one would read it with transformers alone: the first token where there is one, cut at the
    context."""
    first = [] if path.name in NO_FIRST_TOKEN else [0]
    return (first + reader(path)(text, add_special_tokens=False)["input_ids"])[:most]


def call(*args: str) -> str:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def greedy(path: Path, n: int, v: torch.Tensor | None = None, mean: float = 0.0) -> str:
    """The likeliest tokens after PROMPT, with the component along v before LAYER put to `mean` at
    all but the first token."""
    model, ids = plainly(path), ids_of(path, PROMPT, 1024)
    blocks = next(
        m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count(model)
    )
    start = len(ids)

    def steer(block: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h = args[0].clone()
        some = h[:, torch.tensor(ids) != 0]
        assert v is not None
        h[:, torch.tensor(ids) != 0] = some + (mean - some @ v)[..., None] * v
        return (h, *args[1:])

    handle = blocks[LAYER].register_forward_pre_hook(steer) if v is not None else None
    with torch.inference_mode():
        while len(ids) < start + n:
            token = int(
                model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()
            )
            if token == 0:
                break
            ids.append(token)
    if handle is not None:
        handle.remove()
    return reader(path).decode(ids[start:], skip_special_tokens=True)


def count(model: Any) -> int:
    return model.config.num_hidden_layers


@pytest.mark.whole
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_a_pair_is_added_built_and_steered(
    pair: tuple[str, str], folder: Folder, home: Path, text: Path, tmp_path: Path
) -> None:
    places = [folder(kind) for kind in pair]
    key = "-".join(pair)
    said = call(
        "pair",
        "new",
        *map(str, places),
        "--key",
        key,
        "--corpus",
        str(text),
        "--layers",
        f"{LAYER}-2",
    )
    assert ("gpt2 reads 128 tokens at once" in said) == ("gpt2" in pair)
    assert ("640 (tokenizer 600)" in said) == bool({"neox", "llama", "qwen2", "olmo"} & set(pair))
    assert ("has no first token" in said) == bool(set(NO_FIRST_TOKEN) & set(pair))
    call("build", key, "--positions", "2000", "--tokens", "500", "--select-tokens", "200")

    table = Workspace(key).table(f"downstream/L{LAYER}-L2").set_index("condition")
    held_out = [d.text for d in load_corpus(str(text)).split("held-out")][:64]
    for side, kind, path in zip("ab", pair, places, strict=True):
        model, total, n = plainly(path), 0.0, 0
        for document in held_out:
            ids = torch.tensor([ids_of(path, document, 128 if kind == "gpt2" else 1024)])
            with torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            n += ids.shape[1] - 1
        assert table.loc[side, "tokens"] == n
        assert table.loc[side, "loss"] == pytest.approx(total / n, rel=1e-5)

        v = torch.nn.functional.normalize(
            torch.randn(model.config.hidden_size, generator=rng(3)), dim=0
        )
        spec = look(str(path))[0]
        save_vector(Vector(LAYER, v, 1.5, makers={"model": spec.key}), tmp_path / "v.safetensors")
        lanes = f"{side}:none,{side}:own"
        record = json.loads(
            call(
                "steer",
                key,
                "--prompt",
                PROMPT,
                "--source",
                f"file:{tmp_path / 'v.safetensors'}",
                "--lanes",
                lanes,
                f"--layers-{side}",
                str(LAYER),
                "--tokens",
                "12",
                "--temperature",
                "0",
                "--repetition",
                "1",
                "--json",
            )
        )
        written = {lane["lane"]: lane["text"] for lane in record["lanes"]}
        assert written[f"{side}:none"] == greedy(path, 12)
        assert written[f"{side}:own"] == greedy(path, 12, v, 1.5)
        assert written[f"{side}:none"] != written[f"{side}:own"]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("where", [FLOAT32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [kind for pair in PAIRS for kind in pair] + OTHERS)
def test_what_opens_equals_transformers(kind: str, where: Runtime, folder: Folder) -> None:
    path = folder(kind)
    model = load(look(str(path))[0], where)
    plain = plainly(path, where.dtype)
    document = ENGLISH[:900]
    (encoded,) = model.encode([document])
    assert encoded.ids.tolist() == ids_of(path, document, model.context), (
        "longer than every sliding window"
    )
    assert encoded.ends[0] == -1 and encoded.usable[1:].sum() > 100, (
        "the first position is masked in every model"
    )
    ids = model.pad([encoded.ids])
    with torch.inference_mode():
        theirs = plain(input_ids=ids, output_hidden_states=True, use_cache=False)
        fast = model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
    layers = range(model.spec.n_layers)
    # in bfloat16 rounding of one path to another, seen after three layers
    near: dict[str, Any] = (
        {"rtol": 1e-4, "atol": 1e-4} if where is FLOAT32 else {"rtol": 4e-2, "atol": 1e-1}
    )
    for layer, h in hooks.residuals(model, ids, layers).items():
        expected = theirs.hidden_states[layer].float()
        difference = (h.float() - expected).norm(dim=-1)
        assert (difference <= near["rtol"] * expected.norm(dim=-1)).all(), layer
    hidden = hooks.final_hidden(model, ids)
    for logits in (model.logits(hidden[0]), model.logits(fast)):
        assert float((logits - theirs.logits[0].float()).abs().max()) <= near["rtol"] * float(
            theirs.logits.abs().max()
        )
    losses = torch.nn.functional.cross_entropy(
        theirs.logits[0, :-1].float(), ids[0, 1:], reduction="none"
    )
    assert torch.allclose(
        token_losses(model, hidden, ids)[0], losses, rtol=10 * near["rtol"], atol=near["atol"]
    )


@pytest.mark.parametrize("kind", ["bert", "cohere", "mamba"])
def test_what_does_not_is_one_sentence(kind: str, folder: Folder) -> None:
    """An encoder; a norm that the bridge computes in another way; no attention."""
    for where in (FLOAT32, BF16):
        with pytest.raises(StitchLensError, match=kind) as e:
            load(look(str(folder(kind)))[0], where)
        assert "\n" not in str(e.value) and "made anew" not in str(e.value)
    if kind == "bert":
        with pytest.raises(StitchLensError, match="decoder-only"):
            prospect(str(folder("bert")), "nano-b", "wheel:eng")


def test_top_tokens_are_tokens(folder: Folder) -> None:
    """A vocabulary padded beyond the tokenizer has rows that stand for nothing, and a norm without
    weights a gain."""
    for kind in ("llama", "olmo"):
        model = load(look(str(folder(kind)))[0], FLOAT32)
        directions = torch.randn(4, 32, generator=rng(0))
        weights, ids = extreme_tokens(model, directions)
        assert int(ids.max()) < ROWS <= model.rows
        rows = model.hf.get_output_embeddings().weight[:ROWS].float()
        gain = model.hf.model.norm.weight.float() if kind == "llama" else 1.0
        rows = rows * gain - (0.0 if kind == "llama" else rows.mean(-1, keepdim=True))
        theirs = (directions @ rows.T).topk(8).values
        assert torch.allclose(weights[:, :8], theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma2", "opt", "olmo", "gpt-oss"])
def test_heads_look_where_transformers_says(kind: str, folder: Folder) -> None:
    """Soft caps, windows, and a learned logit for looking nowhere included."""
    model = load(look(str(folder(kind)))[0], FLOAT32)
    ids = model.pad([model.encode([ENGLISH[:600]])[0].ids])
    heads, layers = Heads(model), range(model.spec.n_layers)
    with torch.inference_mode():
        theirs = plainly(folder(kind))(
            input_ids=ids, output_attentions=True, use_cache=False
        ).attentions
    for layer, seen in heads.calls(ids, layers).items():
        assert torch.allclose(pattern(heads.look(layer, seen)), theirs[layer], atol=1e-5)


def test_a_text_grows_no_longer_than_the_context(folder: Folder) -> None:
    model: LiveModel = load(look(str(folder("gpt2")))[0], FLOAT32)
    start = len(model.encode([PROMPT])[0].ids)
    sampling = Sampling(tokens=128 - start, temperature=1.0, top_p=1.0)
    *_, last = generate(model, PROMPT, [Lane()], sampling)
    assert last[0].done
    with pytest.raises(
        StitchLensError, match=f"a prompt of {start} tokens; wanted at most {start - 1}"
    ):
        next(generate(model, PROMPT, [Lane()], Sampling(tokens=129 - start)))
    with pytest.raises(StitchLensError, match="gpt2 reads 128 at once"):
        next(generate(model, PROMPT, [Lane()], Sampling(tokens=500)))


def test_one_token_is_a_prompt_where_there_is_no_first_token(folder: Folder) -> None:
    spec: ModelSpec = look(str(folder("qwen2")))[0]
    model = load(spec, FLOAT32)
    assert (
        not model.encode(["a"])[0].usable.any()
        and model.bos is None
        and model.makers["bos"] is None
    )
    assert next(generate(model, "a", [Lane()], Sampling(temperature=0)))[0].ids
