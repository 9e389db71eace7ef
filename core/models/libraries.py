"""The libraries that open models, imported whole and in one thread at a time."""

import gc
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = (
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformer_lens.model_bridge",
    "sae_lens",
)
"""What the boxes below import when they first open a model or an SAE."""
_ONE_THREAD = threading.RLock()


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's search for dead cycles. Most of the many small objects that a library or a
    tokenizer's file becomes live on; looking for those that do not takes a quarter of the importing
    and four fifths of the reading, and no other thread runs meanwhile."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """For the body's imports of what works with models, wherever several threads may import: a page
    and the thread that warms a model up.

    TransformerLens' modules import one another in a circle. Two threads that enter it from
    different ends would each wait for the other, and Python then hands out a module half
    imported. So one thread at a time walks the circle, and all of it, before it imports more.
    """
    with _ONE_THREAD, no_collection():
        for name in LIBRARIES:
            importlib.import_module(name)
        yield
