"""What opens models is imported whole, whichever threads ask for it at once."""

import subprocess
import sys

import pytest

from core.workspace.places import PROJECT

TWO_THREADS = """
import contextlib, sys, threading
from core.models.libraries import importing
if sys.argv[1] == "each for itself":
    importing = contextlib.nullcontext
both = threading.Barrier(2)
faults = []

def one(line):
    both.wait()
    try:
        with importing():
            exec(line)
    except ImportError as fault:
        faults.append(str(fault))

lines = "from transformer_lens.model_bridge import TransformerBridge", "from sae_lens import SAE"
threads = [threading.Thread(target=one, args=(line,)) for line in lines]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(faults)
"""


def faults_of(how: str) -> str:
    """What two threads of a fresh process meet that import the two libraries at the same time."""
    process = subprocess.run(
        [sys.executable, "-c", TWO_THREADS, how],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.splitlines()[-1]


@pytest.mark.whole
def test_two_threads_import_what_opens_models_one_after_the_other() -> None:
    assert "partially initialized" in faults_of("each for itself"), "else nothing is shown"
    assert faults_of("in turns") == "[]"


SEARCHES = """
import gc
from core.models.libraries import importing
searches = []
gc.callbacks.append(lambda phase, about: searches.append(phase))
gc.collect()
print(len(searches))
with importing():
    print(len(searches))
print(gc.isenabled())
"""


@pytest.mark.whole
def test_importing_searches_for_no_dead_cycles() -> None:
    """Each search stops every thread, a page's too, for up to a third of a second."""
    process = subprocess.run(
        [sys.executable, "-c", SEARCHES],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == ["2", "2", "True"]
