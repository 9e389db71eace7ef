"""An explainer: asked in delphi's format over a real connection, scored by what it detects, never
asked without leave, never asked twice, and stopped in words when the server fails."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from core.cli.main import app
from core.errors import StitchLensError
from core.features import chat, delphi, explain, explained
from core.features import tables as feature_tables
from core.features.chat import Remote
from core.features.delphi import Passage
from core.features.passages import Contexts, Pool, contexts, draw_pool, sample
from core.models.pairs import NANO_A, NANO_B, Side, get_pair
from core.saes.sae import load_sae
from core.text.corpus import load_corpus
from core.workspace.places import PROJECT
from core.workspace.store import Workspace
from tests.helpers.chatting import Asked, Reply, Responder, says, serving
from tests.helpers.small import Tiny

SAE = "L2-1024"
WORD = " quokka"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The shipped `nano` workspace, to be written to, and a cache in which nothing was answered."""
    shutil.copytree(PROJECT / "cache" / "nano", tmp_path / "workspaces" / "nano")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path / "workspaces"))
    monkeypatch.setattr(chat, "user_cache", lambda: tmp_path / "cache")
    yield Workspace("nano")


# planted passages: a feature fires at one word and nowhere else


def planted(k: int, word: str | None) -> Passage:
    """A passage of its own document, with the word in it or without."""
    tokens = [f" word{(7 * k + j) % 50}" for j in range(9)]
    activations = [0.0] * 9
    if word:
        tokens[k % 9], activations[k % 9] = word, 1.0 + k % 5
    return Passage(f"d{k}-{word}", tuple(tokens), tuple(activations))


def material(feature: int, word: str = WORD) -> explain.Material:
    sides: dict[Side, Contexts] = {}
    for offset, side in enumerate(("a", "b")):
        every = [planted(100 * offset + k, word) for k in range(20)]
        sides[side] = Contexts(every[:10], every[10:])
    return explain.Material(feature, sides)


def pools(features: int) -> dict[Side, Pool]:
    silent = [planted(k, None) for k in range(40)]
    fires = np.zeros((40, features), dtype=bool)
    return {"a": Pool(silent, fires), "b": Pool(silent, fires)}


def passages_in(text: str) -> list[str]:
    return re.findall(r"^Example \d+:(.*)$", text, flags=re.MULTILINE)


def is_detection(asked: Asked) -> bool:
    return asked.text.startswith("Explanation: ")


def perfect(asked: Asked, n: int) -> Reply:
    """It names the word between the marks, and finds it again."""
    if not is_detection(asked):
        (word,) = set(re.findall(r"<<(.*?)>>", asked.text))
        return says(f"It is about one word.\n{delphi.MARKER} the word '{word.strip()}'")
    word = re.findall(r"the word '(.*?)'", asked.text)[0]
    return says(json.dumps([int(word in passage) for passage in passages_in(asked.text)]))


def coin(asked: Asked, n: int) -> Reply:
    """It says anything, and then tosses a coin for each passage."""
    if not is_detection(asked):
        return says(f"{delphi.MARKER} something {n}")
    tosses = [
        hashlib.sha256((asked.text[:30] + passage).encode()).digest()[0] & 1
        for passage in passages_in(asked.text)
    ]
    return says(f"Here: {tosses}")


def always(asked: Asked, n: int) -> Reply:
    many = len(passages_in(asked.text))
    return says(str([1] * many) if is_detection(asked) else f"{delphi.MARKER} all text")


def asker(address: str, waits: list[float] | None = None, seconds: float = 5.0) -> Remote:
    pause: Callable[[float], None] = (waits if waits is not None else []).append
    return Remote(address, "a-model", seconds=seconds, pause=pause)


def asked_of(ws: Workspace, respond: Responder, features: int = 2) -> explain.Outcome:
    every = [material(k) for k in range(features)]
    with serving(respond) as server:
        return explain.explain(ws, SAE, every, pools(features), asker(server.address))


def test_a_perfect_explainer_finds_every_passage(ws: Workspace) -> None:
    table = asked_of(ws, perfect).table
    assert table.f1_a.tolist() == table.f1_b.tolist() == [1.0, 1.0]
    assert table.n_a.tolist() == table.n_b.tolist() == [20, 20]
    assert set(table.text) == {"the word 'quokka'"}
    assert set(table.origin) == {"explainer"} and table.source[0].startswith("a-model at 127.0.0.1")
    pd_table = explained.of_sae(ws, SAE)
    assert pd_table.f1_a.tolist() == [1.0, 1.0], "it is kept"


def test_a_coin_and_who_always_says_yes_get_what_chance_gives(ws: Workspace) -> None:
    scores = asked_of(ws, coin, features=12).table
    assert 0.4 < scores[["f1_a", "f1_b"]].to_numpy().mean() < 0.6
    scores = asked_of(ws, always).table
    assert scores.f1_a.to_numpy() == pytest.approx(2 / 3)


def test_an_explanation_of_another_feature_finds_nothing(ws: Workspace) -> None:
    """Negative control: the reader is perfect, the explanation is not this feature's."""

    def mistaken(asked: Asked, n: int) -> Reply:
        if is_detection(asked):
            return perfect(asked, n)
        return says(f"{delphi.MARKER} the word 'wombat'")

    assert asked_of(ws, mistaken).table.f1_a.tolist() == [0.0, 0.0]


# the format


def test_tokens_are_marked_and_listed_as_delphi_does() -> None:
    one = Passage("d", (" over", " the", " moon", " he", " is"), (2.0, 4.0, 9.0, 0.0, 2.9))
    assert delphi.marked(one) == " over<< the moon>> he<< is>>"
    assert delphi.levels(one, 18.0) == '(" the", 2), (" moon", 5), (" is", 2)'
    at_end = Passage("d", ("a", "b"), (0.0, 1.0))
    assert delphi.marked(at_end) == "a<<b>>"
    assert delphi.marked(Passage("d", ("a",), (0.0,))) == "a"


@pytest.mark.parametrize(
    ("answer", "votes"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("Sure! [1,0,1].", [1, 0, 1]),
        ("See [1] and [0, 1,\n 1]", [0, 1, 1]),
        ("[1, 0]", None),
        ("[1, 0, 2]", None),
        ("[1, 0, 1, 1]", None),
        ("1 0 1", None),
        ("", None),
        ("[[1, 0, 1]]", [1, 0, 1]),
        ("[true, false, true]", None),
    ],
)
def test_votes_are_zeros_and_ones_of_the_right_number(answer: str, votes: list[int] | None) -> None:
    assert delphi.votes_in(answer, 3) == votes


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("thoughts\n[EXPLANATION]: Names of towns.", "Names of towns."),
        ("[EXPLANATION]: one\n[EXPLANATION]: two\nmore", "two"),
        ("Names of towns.", "Names of towns."),
        ("many\nlines", None),
        ("[EXPLANATION]:", None),
        ("**[EXPLANATION]:** bold **", "bold"),
    ],
)
def test_an_explanation_is_what_follows_its_marker(answer: str, text: str | None) -> None:
    assert delphi.explanation_in(answer) == text


def test_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, votes = rng.random((2, 30)) < 0.4
        assert delphi.f1(truth, votes) == pytest.approx(f1_score(truth, votes))
    assert delphi.f1(np.zeros(3, dtype=bool), np.zeros(3, dtype=bool)) == 0


# what it is asked about


def test_what_was_shown_scores_nothing() -> None:
    contexts_of = material(0).sides["a"]
    seen = {passage.document for passage in contexts_of.scored[:4]}
    drawn = sample(contexts_of, pools(1)["a"], 0, seen)
    assert drawn is not None and len(drawn.passages) == 12
    assert not seen & {passage.document for passage in drawn.passages}
    assert [bool(max(p.activations)) for p in drawn.passages] == drawn.truth.tolist()
    assert 0 < drawn.truth[:6].sum() < 6, "in an order of chance"

    everywhere = Pool(pools(1)["a"].passages, np.ones((40, 1), dtype=bool))
    assert sample(contexts_of, everywhere, 0, set()) is None, "it fires in every passage"
    rare = Contexts(contexts_of.shown, contexts_of.scored[:2])
    assert sample(rare, pools(1)["a"], 0, set()) is None


def test_contexts_read_back_are_those_of_the_tables() -> None:
    ws = Workspace("nano", PROJECT / "cache")
    texts = feature_tables.texts(get_pair("nano").corpus)
    of_a = contexts(ws, SAE, "a", 7, texts)
    assert of_a is not None and len(of_a.shown) == 10 and len(of_a.scored) == 20
    table = feature_tables.feature_examples(ws, SAE, "a", 7)
    best = table.loc[table.group == "top"].iloc[0]
    assert of_a.shown[0].text == texts[best.document][best.ends[0] : best.ends[-1]]
    assert max(of_a.shown[0].activations) == pytest.approx(best.activation, rel=0.01)
    shown, scored = ({p.document for p in part} for part in of_a)
    assert not shown & scored


def test_drawn_passages_know_which_features_fire_in_them(tiny: Tiny) -> None:
    """Against the SAE on the same tokens, read by themselves."""
    ws = Workspace("nano", PROJECT / "cache")
    model = tiny(NANO_A.key)
    sae = load_sae(ws.path(f"saes/{SAE}"), NANO_A.d_model)
    documents = load_corpus(get_pair("nano").corpus).split("select")[:6]
    pool = draw_pool(model, tiny(NANO_B.key), sae, 2, documents)
    texts = {d.id: d.text for d in documents}
    assert len(pool.passages) == 24 and pool.fires.shape == (24, 1024)
    assert all(p.text and p.text in texts[p.document] for p in pool.passages)
    mean = pool.fires.mean()
    density = feature_tables.features(ws, SAE).density_a.mean()
    assert density < mean < 25 * density, "21 tokens fire more features than one"


def test_features_are_chosen_by_number_or_first() -> None:
    ws = Workspace("nano", PROJECT / "cache")
    assert explain.features_from(ws, SAE, "7, 12,7") == [7, 12]
    assert explain.features_from(ws, SAE, "7,") == [7]
    assert len(explain.features_from(ws, SAE, "5")) == 5
    for wrong in ("", "x", "-1", "7,x", "1.5", "7,1024", ",", "²"):
        with pytest.raises(StitchLensError):
            explain.features_from(ws, SAE, wrong)


# what is kept


def test_no_question_is_asked_twice(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies in the middle; the same command goes on from there."""
    every = [material(k, f" word-{k}") for k in range(3)]
    whole = explain.plan(every).requests
    half = whole // 2

    def dying(asked: Asked, n: int) -> Reply:
        return perfect(asked, n) if n < half or alive else Reply(500)

    alive: set[int] = set()
    monkeypatch.setenv("STITCHLENS_PROGRESS_FILE", str(tmp_path / "progress.json"))
    with serving(dying) as server:
        with pytest.raises(StitchLensError, match="status 500"):
            explain.explain(ws, SAE, every, pools(3), asker(server.address))
        assert len(explained.of_sae(ws, SAE)) == 1, "the first was explained and is kept"
        assert len(server.asked) == half + chat.TRIES

        alive.add(1)
        outcome = explain.explain(ws, SAE, every, pools(3), asker(server.address))
        assert outcome.table.f1_b.tolist() == [1.0, 1.0, 1.0]
        assert len(server.asked) == whole + chat.TRIES
        progress = json.loads((tmp_path / "progress.json").read_text())
        assert (progress["done"], progress["total"], progress["unit"]) == (whole, whole, "answers")

        explain.explain(ws, SAE, every, pools(3), asker(server.address))
        assert len(server.asked) == whole + chat.TRIES
    assert len(explained.of_sae(ws, SAE)) == 3, "asked again, it is replaced"


def test_a_model_that_makes_no_sense_ends_in_words(ws: Workspace) -> None:
    with pytest.raises(StitchLensError, match=r"2 features in a row.*no\? idea"):
        asked_of(ws, lambda asked, n: says("no?\nidea"))
    assert explained.of_sae(ws, SAE).empty

    def mute(asked: Asked, n: int) -> Reply:
        return says("no list") if is_detection(asked) else says("a word")

    outcome = asked_of(ws, mute)
    assert outcome.table.f1_a.isna().all() and outcome.table.n_a.tolist() == [0, 0]

    def first_mute(asked: Asked, n: int) -> Reply:
        return says("no\nidea") if n < explain.SENSELESS else perfect(asked, n)

    every = [material(0, " emu"), material(1, " kiwi")]
    with serving(first_mute) as server:
        outcome = explain.explain(ws, SAE, every, pools(2), asker(server.address))
    assert outcome.without == [0] and outcome.table.feature.tolist() == [1]


def test_a_demonstration_asks_nobody(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    with serving(perfect) as server:
        with pytest.raises(StitchLensError, match="demonstration"):
            explain.explain(ws, SAE, [material(0)], pools(1), asker(server.address))
        with pytest.raises(StitchLensError, match="demonstration"):
            asker(server.address).ask(MESSAGES, 10)
        words = ["features", "explain", "nano", "--address", server.address, "--model", "m"]
        for more in ([], ["--send"], ["--local"]):
            done = CliRunner().invoke(app, [*words, *more])
            assert done.exit_code == 2 and "demonstration" in done.output
        assert not server.asked


# the command


def oracle(features: list[int]) -> Responder:
    """It knows the shipped tables: the feature by its contexts, and those in which it fires."""
    ws = Workspace("nano", PROJECT / "cache")
    every = explain.material(ws, SAE, features, get_pair("nano").corpus)
    questions = {delphi.question(one.sides["a"].shown)[-1]["content"]: one.feature for one in every}
    fires = {
        one.feature: {p.text for side in one.sides.values() for p in side.scored} for one in every
    }

    def answer(asked: Asked, n: int) -> Reply:
        if not is_detection(asked):
            return says(f"{delphi.MARKER} feature {questions[asked.text]}")
        number = int(re.findall(r"Explanation: feature (\d+)", asked.text)[0])
        listed = asked.text.partition("\n\n")[2].rpartition("\n\n")[0]
        passages = re.split(r"(?:^|\n)Example \d+: ", listed)[1:]
        return says(str([int(passage in fires[number]) for passage in passages]))

    return answer


def test_nothing_is_sent_without_leave_and_all_is_with_it(ws: Workspace) -> None:
    with serving(oracle([7, 391])) as server:
        words = ["features", "explain", "nano", "--features", "7,391"]
        remote = [*words, "--address", server.address, "--model", "m"]
        done = CliRunner().invoke(app, remote)
        assert done.exit_code == 0, done.output
        assert "Nothing was sent" in done.output and f"{server.address}/chat" in done.output
        planned = re.findall(r"([\d,]+) requests with about ([\d,]+) characters", done.output)[0]
        requests, characters = (int(number.replace(",", "")) for number in planned)
        assert not server.asked and explained.of_sae(ws, SAE).empty

        done = CliRunner().invoke(app, [*remote, "--send"])
        assert done.exit_code == 0, done.output
        assert len(server.asked) == requests
        letters = sum(len(m["content"]) for one in server.asked for m in one.body["messages"])
        assert letters == pytest.approx(characters, rel=0.2)
    table = explained.of_sae(ws, SAE)
    assert table.feature.tolist() == [7, 391]
    assert table.f1_a.tolist() == table.f1_b.tolist() == [1.0, 1.0]
    assert "1.00 → 1.00  feature 391" in done.output


@pytest.mark.parametrize(
    ("words", "says_why"),
    [
        ([], "neither --address nor --local"),
        (["--local", "--address", "http://localhost/v1"], "--local and --address"),
        (["--local"], "no instruct model"),
        (["--address", "http://localhost/v1"], "no --model"),
        (["--address", "nowhere", "--model", "m"], "address 'nowhere'"),
        (
            ["--address", "http://localhost/v1", "--model", "m", "--key-from-env", "NO_KEY"],
            "NO_KEY",
        ),
        (["--local", "--features", "x"], "--features x"),
        (["--local", "--sae", "L9"], "SAE 'L9'"),
    ],
)
def test_the_command_refuses_in_words(ws: Workspace, words: list[str], says_why: str) -> None:
    done = CliRunner().invoke(app, ["features", "explain", "nano", *words])
    assert done.exit_code == 2 and says_why in done.output, done.output


@pytest.mark.model
def test_the_pairs_own_instruct_model_answers() -> None:
    from core.bench import open_pair
    from core.features.local import instruct_model

    one = instruct_model(open_pair("smollm2-gemma3"))
    assert "SmolLM2" in one.title
    answer = one.ask([{"role": "user", "content": "What is the capital of France?"}], 12)
    assert "Paris" in answer
