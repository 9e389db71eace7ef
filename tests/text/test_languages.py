"""Detection is seeded, intervals are SciPy's, gaps follow Eq. 16, and the prompts name no
language."""

import os
import re
import subprocess
import sys

import pytest
from scipy.stats import beta

from core.statistics import share_interval
from core.text.languages import LANGUAGES, detect, prompts, repetition, transfer_gap
from core.workspace.places import PROJECT

TEXTS = {
    "fr": (
        "Il est important de savoir comment les autres ont fait et comment ils ont trouvé la"
        " réponse."
    ),
    "de": "Das ist die Botschaft von dem Lehrer, der seit vielen Jahren in dieser Schule arbeitet.",
    "nl": "Het is een van de belangrijkste dingen die je moet leren in het leven.",
    "ru": "Это очень важный вопрос, на который мы должны ответить сегодня.",
    "zh": "今天天气很好，我们去公园散步，然后回家吃饭。",
    "en": "It is important to know how the others have done it and where they found it.",
}


@pytest.mark.parametrize(("code", "text"), TEXTS.items())
def test_languages_are_told(code: str, text: str) -> None:
    found, probability = detect(text)
    assert found == code and 0.5 < probability <= 1
    assert detect(text) == (found, probability), "seeded"


@pytest.mark.parametrize("text", ["", "   ", "12345 67", "🙂🙂🙂", "...!?"])
def test_nothing_to_go_by_is_no_language(text: str) -> None:
    assert detect(text) == ("", 0.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 66), (1, 66), (33, 66), (65, 66), (66, 66), (3, 7)])
def test_intervals_are_clopper_pearson(hits: int, n: int) -> None:
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    assert share_interval(hits, n) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("transferred", "own", "gap"),
    [
        (0.4, 0.8, 0.5),
        (0.9, 0.6, 1.0),
        (0.0, 0.0, 0.0),
        (0.3, 0.0, 1.0),
        (0.0, 0.5, 0.0),
        (0.5, 0.5, 1.0),
    ],
)
def test_gaps_follow_eq_16(transferred: float, own: float, gap: float) -> None:
    assert transfer_gap(transferred, own) == pytest.approx(gap)


def test_repetition() -> None:
    assert repetition("one two three four five six seven") == 0
    assert repetition("go home now please " * 6) > 0.7
    assert repetition("今天天气很好我们去公园" * 5) > 0.6
    assert repetition("") == 0 and repetition("two words") == 0


def test_prompts_are_neutral_and_halved() -> None:
    first, second = prompts()
    assert len(first) + len(second) >= 120 and len(first) == len(second)
    assert len({*first, *second}) == len(first) + len(second)
    names = {name.lower() for _, name in LANGUAGES.values()} | {"language", "translate"}
    for prompt in (*first, *second):
        assert not names & set(re.findall(r"[a-z]+", prompt.lower())), prompt
        assert prompt.isascii() and 2 <= len(prompt.split()) <= 12


AT_ONCE = """
import sys, threading
sys.setswitchinterval(1e-6)
from core.text.languages import detect
ready, found = threading.Barrier(16), []
def work():
    ready.wait()
    try:
        found.append(detect("Il est important de savoir comment les autres ont fait.")[0])
    except Exception as e:
        found.append(repr(e))
threads = [threading.Thread(target=work) for _ in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sorted(set(found)))
"""


def test_the_first_use_may_come_from_many_threads() -> None:
    """langdetect reads its profiles on the first call and says that they are there before they
    are."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE],
        cwd=PROJECT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['fr']"
