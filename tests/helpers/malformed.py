"""Files as others might bring them: good ones of every accepted form, and a corpus of bad ones, one
fault each.

`READERS` opens one of each kind as the app does. Pickled payloads make a file, the canary, where
anything runs them.
"""

import builtins
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gguf import GGUFWriter
from safetensors.numpy import save
from torch import Tensor

from core.models.pairs import NANO_A, NANO_B, SPEC_BYTES, PairSpec, get_pair
from core.probes.labelled import MOST_BYTES, labelled, read_labels
from core.saes.files import PLACE
from core.saes.sae import read_sae
from core.steering.files import FORMAT, open_vector
from core.stitches.files import read_tensors
from core.stitches.recognition import recognise
from core.stitches.stitch import Stitch
from core.text.corpus import load_corpus
from core.text.packing import WHOLE
from core.text.reading import LFS
from core.workspace import untrusted
from core.workspace.places import SPEC
from core.workspace.store import Workspace
from core.workspace.untrusted import WEIGHT_FILES

A, B = 3, 5
D, WIDTH, K = 4, 6, 2
G = torch.Generator().manual_seed(0)
P_UP, B_UP, P_DOWN, B_DOWN = (
    torch.randn(*shape, generator=G) for shape in ((A, B), (B,), (B, A), (A,))
)
TRUE = Stitch(P_UP, B_UP, P_DOWN, B_DOWN)
LINEAR = {
    "up.weight": TRUE.P_up.T.contiguous(),
    "up.bias": TRUE.b_up,
    "down.weight": TRUE.P_down.T.contiguous(),
    "down.bias": TRUE.b_down,
}
Arrays = dict[str, np.ndarray[Any, Any]]
Faults = dict[str, tuple[bytes, str]]
"""Name to (bytes, words of the sentence that refuses them)."""


def read_stitch(path: Path) -> bool:
    """Is what was accepted finite?"""
    stitch = recognise(read_tensors(path), A, B).stitch
    return all(
        bool(torch.isfinite(t).all())
        for t in (stitch.P_up, stitch.b_up, stitch.P_down, stitch.b_down)
    )


def read_vector(path: Path) -> bool:
    said = path.suffix in (".npy", ".npz", ".pt", ".pth", ".bin") or path.name.startswith("row-")
    vector = open_vector(path, "nano-b", 1) if said else open_vector(path)
    numbers = np.asarray([vector.mean, vector.base, float(vector.v.norm())], dtype=np.float32)
    return (
        bool(torch.isfinite(vector.v).all())
        and bool(np.isfinite(numbers).all())
        and abs(numbers[2] - 1) < 2e-3
    )


def read_an_sae(path: Path) -> bool:
    sae = read_sae(path, D)
    json.dumps(sae.cfg.to_dict())
    return all(bool(torch.isfinite(t).all()) for t in sae.state_dict().values()) and sae(
        torch.ones(2, D)
    ).shape == (
        2,
        D,
    )


def read_manifest(path: Path) -> bool:
    """A workspace whose manifest is this file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pair").mkdir()
        shutil.copyfile(path, Path(folder) / "pair" / "manifest.json")
        ws = Workspace("pair", Path(folder))
        ws.verify()
        return all(isinstance(name, str) for name in ws.names())


def read_spec(path: Path) -> bool:
    """A pair that a person added, whose spec is this file."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"STITCHLENS_WORKSPACES": folder}),
    ):
        (Path(folder) / "mine").mkdir()
        shutil.copyfile(path, Path(folder) / "mine" / SPEC)
        return get_pair("mine").key == "mine"


def read_corpus(path: Path) -> bool:
    """A corpus that is this file; its texts can be written, and its fingerprint taken."""
    corpus = load_corpus(str(path))
    return bool(corpus.fingerprint) and all(
        d.text.encode() and "\0" not in d.text for d in corpus.documents
    )


def read_own_labels(path: Path) -> bool:
    given = labelled(read_labels([path]))
    return all(text.encode() for text in given.texts)


READERS: dict[str, tuple[Callable[[Path], bool], int]] = {
    "stitch": (read_stitch, untrusted.LARGEST_STITCH),
    "vector": (read_vector, untrusted.LARGEST_VECTOR),
    "sae": (read_an_sae, untrusted.LARGEST_SAE),
    "manifest": (read_manifest, untrusted.LONGEST_JSON),
    "spec": (read_spec, SPEC_BYTES),
    "text": (read_corpus, WHOLE),
    "labels": (read_own_labels, MOST_BYTES),
}
"""Each with the most bytes that it takes."""


@dataclass(frozen=True)
class Case:
    """One file; `raw` is what is in it, or makes it at a path. `says`: words of its refusal; None
    where it is good."""

    reader: str
    name: str
    raw: bytes | Callable[[Path], None]
    says: str | None

    def put(self, folder: Path) -> Path:
        path = folder / self.name
        if callable(self.raw):
            self.raw(path)
        else:
            path.write_bytes(self.raw)
        return path


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, raw in members.items():
            archive.writestr(zipfile.ZipInfo(name), raw, compression)
    return out.getvalue()


def parts(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {m.filename: archive.read(m) for m in archive.infolist()}


def saved(value: object, **how: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def npz(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def npy(value: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def npy_header(descr: str, shape: str, body: bytes = b"", order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text += " " * (64 - (10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + body


def header(value: object, length: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file whose header is `value`, or these very bytes."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def numbers(tensors: dict[str, Tensor]) -> Arrays:
    return {k: v.numpy() for k, v in tensors.items()}


ROW = np.asarray([0.5, -0.5, 0.5, 0.5], dtype=np.float32)
ABOUT = {
    "format": FORMAT,
    "layer": "1",
    "mean": "3.5",
    "base": "-1.0",
    "makers": '{"from": "a test"}',
}
NEURONPEDIA: dict[str, Any] = {
    "modelId": "nano-b",
    "layerNumber": 1,
    "hookType": "resid-pre",
    "vector": ROW.tolist(),
    "vectorDefaultSteerStrength": 4.5,
    "vectorLabel": "French",
}
SAELENS: dict[str, Any] = {
    "d_in": D,
    "d_sae": WIDTH,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "k": K,
    "rescale_acts_by_decoder_norm": False,
    "architecture": "topk",
    "metadata": {
        "sae_lens_version": "6.5.0",
        "hook_name": "blocks.2.hook_resid_pre",
        "model_name": "nano-a",
    },
}
SPARSIFY: dict[str, Any] = {
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": WIDTH,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "pair": "pair",
    "artifacts": {
        "quality/s": {"path": "quality/s.0.json", "sha256": "0", "bytes": 1, "kind": "record"}
    },
}
SPECIFIED = PairSpec(key="mine", title="mine", a=NANO_A, b=NANO_B, family="within-family")


def weights(layout: str) -> Arrays:
    g = np.random.default_rng(3)
    wide = (WIDTH, D)
    shapes = (
        {"W_enc": (D, WIDTH), "W_dec": wide, "b_enc": (WIDTH,), "b_dec": (D,)}
        if layout == "saelens"
        else {"encoder.weight": wide, "encoder.bias": (WIDTH,), "W_dec": wide, "b_dec": (D,)}
    )
    return {k: g.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def sae_parts(layout: str) -> dict[str, bytes]:
    if layout == "saelens":
        return {
            "cfg.json": json.dumps(SAELENS).encode(),
            "sae_weights.safetensors": save(weights(layout)),
        }
    return {
        "layers.3/cfg.json": json.dumps(SPARSIFY).encode(),
        "layers.3/sae.safetensors": save(weights(layout)),
    }


def gguf(tmp: Path, arrays: Arrays, **fields: Any) -> bytes:
    path = tmp / "made.gguf"
    writer = GGUFWriter(path, fields.pop("architecture", "controlvector"))
    writer.add_string("controlvector.model_hint", "nano-b")
    writer.add_uint32("controlvector.layer_count", 6)
    for name, value in arrays.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def good(tmp: Path) -> list[Case]:
    """A file of every accepted form."""
    paper = {k: getattr(TRUE, k) for k in ("P_up", "b_up", "P_down", "b_down")}
    stitches = {
        "good.safetensors": save(numbers(LINEAR)),
        "paper.safetensors": save(numbers(paper)),
        "good.pt": saved(LINEAR),
        "good.pth": saved(OrderedDict(LINEAR)),
        "good.npz": npz(numbers(LINEAR)),
        "nested.ckpt": saved({"epoch": 3, "state_dict": LINEAR, "lr": 1e-4}),
        "half.bin": saved({k: v.half() for k, v in LINEAR.items()}),
        "one.pt": saved({"down.weight": LINEAR["down.weight"]}),
        "parameters.pt": saved(torch.nn.Linear(A, B).state_dict(keep_vars=True)),
        "deflated.npz": zipped(parts(npz(numbers(LINEAR))), zipfile.ZIP_DEFLATED),
    }
    vectors = {
        "good.safetensors": save({"v": ROW}, ABOUT),
        "good.json": json.dumps(NEURONPEDIA).encode(),
        "good.npy": npy(3 * ROW),
        "wide.npy": npy(ROW.astype(np.float64)[None]),
        "whole.npy": npy(np.arange(5)),
        "good.gguf": gguf(tmp, {"direction.0": ROW, "direction.3": 2 * ROW}),
    }
    saes = {}
    for layout in ("saelens", "sparsify"):
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            saes[f"{layout}{how}.zip"] = zipped(sae_parts(layout), how)
    old = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": WIDTH,
        "dtype": "float32",
        "hook_name": "blocks.2.hook_resid_pre",
        "activation_fn_str": "relu",
        "finetuning_scaling_factor": False,
    }
    saes["old.zip"] = zipped(sae_parts("saelens") | {"cfg.json": json.dumps(old).encode()})
    record = {k: x for k, x in NEURONPEDIA.items() if k not in ("layerNumber", "hookType")}
    record |= {
        "layer": "1-neuronpedia-resid-pre",
        "index": "7",
        "hookName": "blocks.1.hook_resid_pre",
    }
    vectors |= {
        "record.json": json.dumps(record).encode(),
        "row-any.safetensors": save({"steering": ROW}, {"format": "pt"}),
        "row-bare.safetensors": save({"v": ROW[None]}),
        "row.npz": npz({"v": ROW}),
        "row.pt": saved(torch.from_numpy(ROW)),
        "row.pth": saved({"v": torch.from_numpy(ROW), "name": "French"}),
        "blocks.bin": saved({"layer_activations": {n: torch.from_numpy(ROW) for n in (0, 3)}}),
        "still.json": json.dumps(NEURONPEDIA | {"vectorDefaultSteerStrength": 0}).encode(),
    }
    factor = weights("saelens") | {"finetuning_scaling_factor": np.ones(WIDTH, np.float32)}
    saes["finetuned.zip"] = zipped(sae_parts("saelens") | {"sae_weights.safetensors": save(factor)})
    saes["noted.zip"] = zipped(
        {"cfg.json": json.dumps(SAELENS | {"noise_scale": 0.1}).encode()}
        | {"sae_weights.safetensors": save(weights("saelens"))}
    )
    kinds = {
        "stitch": stitches,
        "vector": vectors,
        "sae": saes,
        "manifest": {"good.json": json.dumps(MANIFEST).encode()},
        "spec": {"good.json": SPECIFIED.model_dump_json().encode()},
    }
    return good_texts() + [
        Case(reader, name, raw, None)
        for reader, files in kinds.items()
        for name, raw in files.items()
    ]


def faulty_safetensors(arrays: Arrays, about: dict[str, str] | None = None) -> Faults:
    """Faults of a header and of numbers, in a file that would be good without."""
    raw = save(arrays, about)
    length = int.from_bytes(raw[:8], "little")
    head, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    key = next(k for k in head if k != "__metadata__")
    other = next((k for k in reversed(head) if k not in (key, "__metadata__")), None)
    whole = raw[8 : 8 + length].strip()
    entry = head[key]

    def changed(**fields: Any) -> bytes:
        return header(head | {key: entry | fields}, None, body)

    def filled(value: float, dtype: Any = np.float32) -> bytes:
        array = arrays[key].astype(dtype)
        array.flat[-1] = value
        return save(arrays | {key: array}, about)

    end = entry["data_offsets"][1]
    out: Faults = {
        "junk": (b"not what it says" * 9, "header of"),
        "zeros": (b"\0" * 4096, "no JSON"),
        "html": (b"<!doctype html><script>alert(1)</script>" * 20, "header of"),
        "seven": (b"\7" * 7, "header of|ends within"),
        "nothing": (b"\0" * 8, "no JSON"),
        "huge-length": (header(whole, 2**60, body), "header of"),
        "signed-length": (header(whole, 2**64 - 1, body), "header of"),
        "length-past": (header(whole, len(raw), body), "ends within"),
        "length-short": (header(whole, 9, body), "no JSON"),
        "long": (header(whole + b" " * untrusted.HEADER, None, body), "header of"),
        "not-text": (header(b'{"\xff":1}', None, body), "no JSON"),
        "open": (header(b"{" * 60), "no JSON"),
        "deep": (header(b"[" * 20_000), "nested"),
        "list": (header([1, 2]), "JSON list"),
        "word": (header("x"), "JSON str"),
        "number": (header(b"7"), "JSON int"),
        "null": (header(b"null"), "NoneType"),
        "nan": (header(b"NaN"), "NaN"),
        "none": (header({}), "no tensor|none in|no b|no W|no enc"),
        "twice": (
            header(whole[:-1] + f",{json.dumps(key)}:{json.dumps(entry)}}}".encode(), None, body),
            "twice",
        ),
        "short-body": (raw[:-3], "within the file"),
        "no-body": (raw[: 8 + length], "within the file"),
        "long-body": (raw + b"\0" * 8, "readable|does not open"),
        "not-entry": (header(head | {key: 3}, None, body), "no dtype"),
        "no-dtype": (
            header(head | {key: {k: v for k, v in entry.items() if k != "dtype"}}, None, body),
            "no dtype",
        ),
        "no-shape": (
            header(head | {key: {k: v for k, v in entry.items() if k != "shape"}}, None, body),
            "no dtype",
        ),
        "no-place": (
            header(
                head | {key: {k: v for k, v in entry.items() if k != "data_offsets"}}, None, body
            ),
            "no dtype",
        ),
        "strange-dtype": (changed(dtype="Q9"), "type Q9"),
        "bool": (changed(dtype="BOOL"), "BOOL"),
        "complex": (changed(dtype="C64"), "C64"),
        "dtype-number": (changed(dtype=3), "type 3"),
        "half-width": (changed(dtype="F16"), "as many bytes"),
        "double-width": (changed(dtype="F64"), "as many bytes"),
        "negative": (changed(shape=[-3, 5]), "whole numbers"),
        "float": (changed(shape=[3.5]), "whole numbers"),
        "truth": (changed(shape=[True]), "whole numbers"),
        "text-shape": (changed(shape="3"), "whole numbers"),
        "null-shape": (changed(shape=None), "whole numbers"),
        "axes": (changed(shape=[1] * 90), "whole numbers"),
        "vast": (changed(shape=[2**40, 2**40]), "as many bytes"),
        "vaster": (changed(shape=[2**70]), "whole numbers"),
        "million": (changed(shape=[10**6, 10**3], data_offsets=[0, 4 * 10**9]), "within the file"),
        "zero": (changed(shape=[0, 5], data_offsets=[0, 0]), "widths above 0"),
        "past": (changed(data_offsets=[0, 10**15]), "as many bytes"),
        "backwards": (changed(data_offsets=[end, 0]), "as many"),
        "before": (changed(data_offsets=[-8, 8]), "whole numbers"),
        "one-place": (changed(data_offsets=[0]), "whole numbers"),
        "shifted": (
            changed(data_offsets=[end, 2 * end - entry["data_offsets"][0]]),
            "within the file|readable|does not open",
        ),
        "long-name": (header(head | {"x" * 300: entry}, None, body), "300 letters"),
        "many": (header(head | {f"t{k}": entry for k in range(400)}, None, body), "tensors in"),
        "text-about": (header(head | {"__metadata__": 3}, None, body), "readable|does not open"),
        "nested-about": (
            header(head | {"__metadata__": {"a": {"b": 1}}}, None, body),
            "readable|does not open",
        ),
        "nan-number": (filled(float("nan")), "NaN or infinite"),
        "inf": (filled(float("inf")), "NaN or infinite"),
        "minus-inf": (filled(float("-inf")), "NaN or infinite"),
        "too-big": (filled(1e300, np.float64), "NaN or infinite"),
        "half-inf": (filled(float("inf"), np.float16), "NaN or infinite"),
    }
    if other:
        out["overlap"] = (header(head | {other: entry}, None, body), "readable|as many|of shape")
    return out


def faulty_json(value: dict[str, Any], needs: tuple[str, ...], least: int) -> Faults:
    """Faults of JSON, and each thing that it needs left out."""
    raw = json.dumps(value).encode()
    out: Faults = {
        "junk": (b"not what it says", "no JSON"),
        "html": (b"<html>", "no JSON"),
        "cut": (raw[: len(raw) // 2], "no JSON"),
        "list": (b"[1]", "JSON list"),
        "number": (b"1", "JSON int"),
        "word": (b'"x"', "JSON str"),
        "null": (b"null", "NoneType"),
        "blank": (b" \n", "no JSON"),
        "deep": (b"[" * 100_000, "nested"),
        "deeper": (b'{"a":' * 5_000 + b"1", "nested"),
        "closed": (b"[" * 500 + b"]" * 500, "nested"),
        "more": (raw + b"{}", "no JSON"),
        "zeros": (b"\0" * 99, "no JSON"),
        "twice": (raw[:-1] + b',"d_in":4,"d_in":4,"vector":[1],"vector":[2]}', "twice"),
        "nan": (raw[:-1] + b',"x":NaN}', "NaN"),
        "inf": (raw[:-1] + b',"x":-Infinity}', "infinite"),
        "utf16": (raw.decode().encode("utf-16"), "no JSON"),
        "latin": (raw[:-1] + b',"x":"\xe9"}', "no JSON"),
        "control": (raw[:-1] + b',"x":"\x01"}', "no JSON"),
        "quotes": (b'"' + b'\\"' * 30_000 + b"\\", "no JSON"),
        "digits": (raw[:-1] + b',"x":' + b"9" * 5_000 + b"}", "no JSON"),
        "long": (raw + b" " * least, "bytes"),
    }
    for key in needs:
        without = {k: v for k, v in value.items() if k != key}
        out[f"no-{key}"] = (json.dumps(without).encode(), key)
    return out


def faulty_zip(members: dict[str, bytes]) -> Faults:
    """Faults of a zip that would be good without."""
    raw = zipped(members)
    first = next(iter(members))
    size = len(members[first])
    directory = raw.find(b"PK\1\2")
    end = raw.find(b"PK\5\6")

    def patched(at: int, value: bytes) -> bytes:
        return raw[:at] + value + raw[at + len(value) :]

    def beside(name: str, body: bytes = b"x", **info: Any) -> bytes:
        out = io.BytesIO(raw)
        with zipfile.ZipFile(out, "a") as archive:
            part = zipfile.ZipInfo(name)
            part.filename = name
            for key, value in info.items():
                setattr(part, key, value)
            archive.writestr(part, body)
        return out.getvalue()

    def again() -> bytes:
        import warnings

        out = io.BytesIO(raw)
        with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
            warnings.simplefilter("ignore")
            archive.writestr(zipfile.ZipInfo(first), members[first])
        return out.getvalue()

    zip64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    zip64 += b"PK\6\7" + struct.pack("<IQI", 0, end, 1)
    return {
        "junk": (b"not what it says" * 9, "no zip"),
        "zeros": (b"\0" * 4096, "no zip"),
        "mark": (b"PK\3\4" * 50, "no zip"),
        "html": (b"<!doctype html>" * 30, "no zip"),
        "half": (raw[: len(raw) // 2], "no zip"),
        "no-end": (raw[:end], "no zip"),
        "end-alone": (raw[end:], "no zip|damaged"),
        "no-parts": (zipped({}), "no "),
        "front-cut": (raw[10:], "damaged|readable|no zip|more than weights"),
        "climbs": (beside("../../etc/cron.d/x"), "leads out"),
        "rooted": (beside("/tmp/x"), "leads out"),
        "drive": (beside("C:/x"), "leads out"),
        "backslash": (beside("..\\..\\x"), "leads out"),
        "link": (beside("inner", b"/etc/passwd", external_attr=0xA1FF << 16), "is a link"),
        "twice": (again(), "same name"),
        "password": (patched(directory + 8, b"\1\0"), "password"),
        "strange": (patched(directory + 10, b"\x63\0"), "compression"),
        "bzip2": (zipped(members, zipfile.ZIP_BZIP2), "compression"),
        "lzma": (zipped(members, zipfile.ZIP_LZMA), "compression"),
        "bomb": (
            zipped(members | {"zeros": b"\0" * 20_000_000}, zipfile.ZIP_DEFLATED),
            "grows|compressed",
        ),
        "many": (zipped(members | {f"p{k}": b"" for k in range(1200)}), "parts in"),
        "long-list": (zipped(members | {f"{k:0150}": b"" for k in range(8000)}), "list of parts"),
        "claims-4gb": (patched(directory + 20, b"\xfe\xff\xff\xff" * 2), "unpacks to"),
        "claims-more": (patched(directory + 20, struct.pack("<II", size, 3000 + size)), "kept as"),
        "bad-sum": (patched(directory + 16, b"\1\2\3\4"), "damaged|readable"),
        "offset-past": (patched(directory + 42, b"\xff\xff\xff\x7f"), "damaged|readable|no zip"),
        "long-end": (patched(end + 12, b"\xff\xff\xff\x7f"), "no zip"),
        "end-before": (patched(end + 16, b"\xff\xff\xff\x7f"), "no zip|damaged|readable"),
        "zip64": (raw[:end] + zip64 + raw[end:], "no zip"),
    }


def faulty_npy() -> Faults:
    """Faults of NumPy's own form."""
    body = b"\0\0\x80\x3f" * 15
    f4 = "'<f4'"
    made = npy_header(f4, "(3, 5)", body)
    return {
        "junk": (b"hello", "readable"),
        "zeros": (b"\0" * 200, "readable"),
        "mark": (b"\x93NUMPY", "readable"),
        "version": (b"\x93NUMPY\x09\x00" + made[8:], "readable"),
        "no-header": (made[:10], "readable"),
        "cut-header": (made[:40], "readable"),
        "short": (made[:-9], "as many bytes"),
        "vast": (npy_header(f4, "(1099511627776, 1048576)", body), "as many bytes"),
        "vaster": (npy_header(f4, f"({2**90},)", body), "as many bytes|readable"),
        "negative": (npy_header(f4, "(-3, 5)", body), "as many bytes|readable"),
        "zero": (npy_header(f4, "(0, 5)", body), "widths above 0"),
        "float-shape": (npy_header(f4, "(3.0, 5)", body), "readable"),
        "text-shape": (npy_header(f4, "'3'", body), "readable"),
        "objects": (npy_header("'|O'", "(1,)", pickle.dumps([1])), "pickled"),
        "text": (npy_header("'<U9'", "(3, 5)", body * 9), "real|no numbers"),
        "complex": (npy_header("'<c8'", "(3, 2)", body), "real"),
        "bool": (npy_header("'|b1'", "(3, 5)", body), "real|no numbers"),
        "date": (npy_header("'<M8[s]'", "(3,)", body), "real"),
        "void": (npy_header("'|V4'", "(3, 5)", body), "real"),
        "fields": (npy_header("[('a', '<f4')]", "(3, 5)", body), "real"),
        "strange": (npy_header("'<q9'", "(3,)", body), "readable"),
        "call": (npy_header("__import__('os')", "(3,)", body), "readable"),
        "order": (npy_header(f4, "(3, 5)", body, "7"), "readable"),
        "no-keys": (npy_header("1}#", "2", body), "readable"),
        "nan": (npy(np.full((3, 5), np.nan, np.float32)), "NaN|shape"),
        "inf": (npy(np.asarray([1, np.inf])), "NaN|infinite|no matrix"),
        "long-header": (npy_header(f4, "(3, 5" + " " * 20_000 + ")", body), "readable"),
        "deep": (npy_header(f4, "(" * 900 + ")" * 900, body), "readable"),
    }


def faulty_gguf(tmp: Path) -> Faults:
    """Faults of a GGUF control vector."""
    raw = gguf(tmp, {"direction.0": ROW})
    kv = raw[24:]

    def text(value: bytes, length: int | None = None) -> bytes:
        return struct.pack("<Q", len(value) if length is None else length) + value

    def made(tensors: int, fields: int, body: bytes, version: int = 3) -> bytes:
        return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + body + b"\0" * 64

    arch = text(b"general.architecture") + struct.pack("<I", 8) + text(b"controlvector")

    def tensor(
        *dims: int,
        name: bytes = b"direction.0",
        axes: int | None = None,
        kind: int = 0,
        place: int = 0,
    ) -> bytes:
        head = text(name) + struct.pack("<I", len(dims) if axes is None else axes)
        return arch + head + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, place)

    def array(of: int, count: int, body: bytes = b"") -> bytes:
        return arch + text(b"x") + struct.pack("<IIQ", 9, of, count) + body

    bad = np.asarray([1, np.nan], dtype=np.float32)
    return {
        "junk": (b"GGUF" + b"\xff" * 200, "version"),
        "zeros": (b"\0" * 400, "no GGUF"),
        "mark": (b"GGUF", "does not end"),
        "html": (b"<!doctype html>" * 30, "no GGUF"),
        "version": (raw[:4] + b"\x09" + raw[5:], "version"),
        "big-endian": (raw[:4] + struct.pack(">I", 3) + raw[8:], "version"),
        "cut-header": (raw[:60], "does not end"),
        "cut-numbers": (raw[:-40], "readable|shape"),
        "many-tensors": (made(2**60, 1, kv), "tensors in"),
        "many-fields": (made(1, 2**40, kv), "tensors in"),
        "long-text": (made(0, 1, text(b"a", 2**50)), "a text of"),
        "longer-text": (made(0, 1, text(b"a", 90_000)), "does not end|kind"),
        "long-list": (made(0, 2, array(4, 2**40)), "a list of"),
        "list-of-lists": (made(0, 2, array(9, 1, b"\0" * 12)), "kind 9"),
        "strange-kind": (made(0, 2, arch + text(b"x") + struct.pack("<I", 77)), "kind 77"),
        "twice": (made(0, 2, arch + arch), "twice"),
        "no-direction": (made(0, 1, arch), "directions"),
        "vast": (made(1, 1, tensor(2**40)), "shape"),
        "product": (made(1, 1, tensor(2**32, 2**32)), "shape"),
        "zero": (made(1, 1, tensor(0)), "shape"),
        "axes": (made(1, 1, tensor(1, axes=2**31)), "axes"),
        "wide": (made(1, 1, tensor(untrusted.WIDEST + 1)), "shape"),
        "past": (made(1, 1, tensor(4, place=2**50)), "shape"),
        "quantised": (made(1, 1, tensor(32, kind=2)), "type 2"),
        "strange-type": (made(1, 1, tensor(4, kind=999)), "type 999"),
        "short-body": (made(1, 1, tensor(4096)), "readable"),
        "model": (gguf(tmp, {"direction.0": ROW}, architecture="llama"), "llama"),
        "name": (gguf(tmp, {"blk.0": ROW}), "directions"),
        "layer": (gguf(tmp, {"direction.999999": ROW}), "directions"),
        "nan": (gguf(tmp, {"direction.0": bad}), "NaN"),
        "nothing": (gguf(tmp, {"direction.0": 0 * ROW}), "norm 0"),
        "matrix": (gguf(tmp, {"direction.0": np.ones((3, 4), np.float32)}), "shape"),
    }


class Payload:
    """Pickled, it calls `function(*args)` when it is opened."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def payloads(canary: Path) -> dict[str, Payload]:
    """Ways in which a pickle makes the canary."""
    code = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    return {
        "system": Payload(os.system, f"touch {canary}"),
        "popen": Payload(subprocess.Popen, ["touch", str(canary)]),
        "exec": Payload(builtins.exec, code),
        "eval": Payload(builtins.eval, code),
        "open": Payload(builtins.open, str(canary), "w"),
        "mkdir": Payload(os.mkdir, str(canary)),
        "output": Payload(subprocess.check_output, ["touch", str(canary)]),
    }


def pickles(canary: Path) -> Iterator[Case]:
    """Payloads in every place where a pickle may lie, and pickles that only want memory or time."""
    up = torch.zeros(5, 3)
    for how, payload in payloads(canary).items():
        for ending in (".pt", ".pth", ".bin", ".ckpt"):
            yield Case("stitch", f"raw-{how}{ending}", pickle.dumps(payload), "no zip")
        yield Case("stitch", f"{how}.pt", saved(payload), "calls")
        yield Case("stitch", f"beside-{how}.ckpt", saved({"up.weight": up, "x": payload}), "calls")
        yield Case(
            "stitch",
            f"legacy-{how}.bin",
            saved(payload, _use_new_zipfile_serialization=False),
            "an old torch.save format",
        )
        for protocol in (0, 2, 4):
            index = pickle.dumps(payload, protocol=protocol)
            members = {"archive/data.pkl": index, "archive/version": b"3\n"}
            yield Case("stitch", f"protocol{protocol}-{how}.pth", zipped(members), "calls|damaged")
        objects = npy_header("'|O'", "(1,)", pickle.dumps([payload]))
        yield Case("stitch", f"objects-{how}.npz", zipped({"up.weight.npy": objects}), "pickled")
        yield Case(
            "stitch",
            f"member-{how}.npz",
            zipped({"up.weight.npy": pickle.dumps(payload)}),
            "readable",
        )
        yield Case("vector", f"objects-{how}.npy", objects, "pickled")
        yield Case("vector", f"raw-{how}.npy", pickle.dumps(payload), "readable")
        yield Case("vector", f"raw-{how}.safetensors", pickle.dumps(payload), "header of")
        yield Case(
            "sae",
            f"only-{how}.zip",
            zipped({"cfg.json": b"{}", "sae.pt": pickle.dumps(payload)}),
            "no SAE",
        )
        swapped = sae_parts("saelens") | {"sae_weights.safetensors": pickle.dumps(payload)}
        yield Case("sae", f"swapped-{how}.zip", zipped(swapped), "header of|ends within")
    members = parts(saved({"up.weight": up}))
    index = next(k for k in members if k.endswith("data.pkl"))
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([k]) + b"(" + (b"h" + bytes([k - 1])) * 60 + b"e" for k in range(1, 7)
    )
    claims = members[index].replace(b"K\x0f", b"J\xff\xff\xff\x7f", 1)
    few = {
        "module.pt": (saved(torch.nn.Linear(3, 5)), "calls"),
        "number.pt": (saved(7), "no tensor"),
        "no-tensor.pt": (saved({"lr": 1e-4}), "no tensor"),
        "many.pt": (saved({f"t{k}": up[0] for k in range(400)}), "tensors in"),
        "complex.pt": (saved({"up.weight": up.to(torch.complex64)}), "complex"),
        "bool.pt": (saved({"up.weight": up.bool()}), "no numbers"),
        "expanded.pt": (
            saved({"up.weight": torch.zeros(1).expand(100_000, 100_000)}),
            "numbers in",
        ),
        "sparse.pt": (saved({"up.weight": up.to_sparse()}), "calls"),
        "legacy.pt": (
            saved({"up.weight": up}, _use_new_zipfile_serialization=False),
            "an old torch.save format",
        ),
        "zero.pt": (saved({"up.weight": torch.zeros(0, 3)}), "widths above 0"),
        "nan.pt": (saved({"up": up / 0}), "NaN"),
        "takes.pt": (
            zipped(members | {index: b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."}),
            "bytearray",
        ),
        "hidden.pt": (
            zipped(members | {index: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."}),
            "calls",
        ),
        "no-index.pt": (zipped({"archive/weights": b"\0" * 60}), "data.pkl"),
        "laughs.pt": (zipped(members | {index: laughs + b"."}), "values in"),
        "two-indexes.pt": (zipped({"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "data.pkl"),
        "long-index.pt": (zipped({"a/data.pkl": b"N" * 2_000_000}), "index of"),
        "junk-index.pt": (zipped({"a/data.pkl": b"\xff" * 9}), "damaged"),
        "endless.pt": (zipped(members | {index: b"\x80\x02" + b"N" * 999}), "damaged"),
        "claims.pt": (zipped(members | {index: claims}), "claims more|damaged"),
        "deflated.pt": (zipped(members, zipfile.ZIP_DEFLATED), "compressed"),
        "cut.pt": (saved({"up.weight": up})[:-30], "no zip"),
        "part-gone.pt": (
            zipped({k: v for k, v in members.items() if "/data/" not in k}),
            "damaged",
        ),
    }
    deep: Any = up
    for _ in range(40):
        deep = {"x": deep}
    few["nested.pt"] = (saved(deep), "nested")
    for name, (raw, says) in few.items():
        yield Case("stitch", name, raw, says)


def faulty_saes() -> Iterator[tuple[str, bytes, str]]:
    """Configs that do not fit their weights, and archives that hold no SAE, or two."""
    members, other = sae_parts("saelens"), sae_parts("sparsify")
    vast = 10**9
    for number, (field, value, says) in enumerate(
        (
            ("d_in", 5, "shape"),
            ("d_sae", 7, "shape"),
            ("d_in", 0, "d_in"),
            ("d_sae", 0, "d_sae"),
            ("d_in", -1, "d_in"),
            ("d_in", vast, "d_in"),
            ("d_sae", vast, "d_sae"),
            ("d_sae", 10**8, "bytes as float32"),
            ("d_in", "4", "d_in"),
            ("d_in", 4.5, "d_in"),
            ("d_in", True, "d_in"),
            ("d_in", None, "d_in"),
            ("d_in", [4], "d_in"),
            ("k", 0, "k 0"),
            ("k", 7, "k 7"),
            ("k", -1, "k -1"),
            ("k", "2", "k '2'"),
            ("k", None, "k None"),
            ("architecture", "gated", "no b_gate"),
            ("architecture", "jumprelu", "no threshold"),
            ("architecture", "temporal", "temporal"),
            ("architecture", 3, "architecture"),
            ("architecture", ["topk"], "architecture|not read"),
            ("architecture", "../x", "architecture"),
            ("apply_b_dec_to_input", "x", "apply_b"),
            ("normalize_activations", "covariance_whitening", "normalize"),
            ("normalize_activations", {}, "normalize"),
            ("reshape_activations", 3, "reshape"),
            ("metadata", 3, "not read|metadata"),
            ("metadata", [1], "not read|metadata"),
            ("metadata", {"sae_lens_version": "x" * 9999}, "not read"),
            ("metadata", {"sae_lens_version": 6}, "not read"),
        )
    ):
        yield (
            f"{number}-{field}",
            zipped(members | {"cfg.json": json.dumps(SAELENS | {field: value}).encode()}),
            says,
        )
    for field, value, says in (
        ("d_in", 5, "shape"),
        ("num_latents", 7, "shape"),
        ("num_latents", 0, "shape"),
        ("d_in", 0, "d_in"),
        ("d_in", "4", "d_in"),
        ("num_latents", vast, "d_sae"),
        ("num_latents", -1, "d_sae"),
        ("expansion_factor", "x", "shape|d_sae"),
        ("k", 0, "k 0"),
        ("k", 99, "k 99"),
        ("k", "x", "k 'x'"),
        ("transcode", True, "transcode"),
        ("skip_connection", True, "skip_connection"),
        ("signed", True, "signed"),
        ("activation", "groupmax", "groupmax"),
        ("activation", ["x"], "activation"),
    ):
        if field == "expansion_factor":
            config = SPARSIFY | {field: value, "num_latents": 0}
        else:
            config = SPARSIFY | {field: value}
        yield (
            f"sparsify-{field}-{str(value)[:12]}",
            zipped(other | {"layers.3/cfg.json": json.dumps(config).encode()}),
            says,
        )
    for field, value, says in (
        ("use_error_term", True, "use_error_term"),
        ("transcode", True, "transcode"),
        ("activation_fn", "tanh-relu", "tanh-relu"),
        ("activation_fn_kwargs", {"signed": True}, "signed"),
        ("activation_fn", ["x"], "activation_fn"),
        ("architecture", "matryoshka_batchtopk", "save_inference_model"),
    ):
        yield (
            f"another-{field}-{len(says)}",
            zipped(members | {"cfg.json": json.dumps(SAELENS | {field: value}).encode()}),
            says,
        )
    for name, factor, says in (
        ("unapplied", 2.0, "does not apply"),
        ("nan-factor", float("nan"), "does not apply"),
    ):
        more = weights("saelens") | {"scaling_factor": np.full(WIDTH, factor, np.float32)}
        yield name, zipped(members | {"sae_weights.safetensors": save(more)}), says
    for place in ("layers.3.mlp", "layers.3.attn", "model.layers.3.mlp.down_proj"):
        assert not PLACE.fullmatch(place)
        yield (
            place,
            zipped({f"{place}/{k.split('/')[1]}": v for k, v in other.items()}),
            "residual stream",
        )
    yield "both", zipped(members | other), "2 SAEs"
    yield "deeper", zipped({f"a/b/{k}": v for k, v in members.items()}), "no SAE"
    yield "no-config", zipped({k: v for k, v in members.items() if k != "cfg.json"}), "no SAE"
    yield "no-weights", zipped({"cfg.json": members["cfg.json"]}), "no SAE"
    yield (
        "folder-config",
        zipped(members | {"cfg.json/": b""}),
        "parts of the same|no SAE|damaged|no JSON|twice",
    )
    yield (
        "more-weights",
        zipped(members | {"sae_weights.safetensors": save(weights("saelens") | {"W_skip": ROW})}),
        "besides",
    )
    fewer = {k: v for k, v in weights("saelens").items() if k != "b_dec"}
    yield "less-weights", zipped(members | {"sae_weights.safetensors": save(fewer)}), "no b_dec"
    turned = {k: np.ascontiguousarray(v.T) for k, v in weights("saelens").items()}
    yield "turned", zipped(members | {"sae_weights.safetensors": save(turned)}), "shape"
    yield (
        "wider",
        zipped(
            {
                "cfg.json": json.dumps(SAELENS | {"d_in": 3}).encode(),
                "sae_weights.safetensors": save(
                    {
                        "W_enc": np.ones((3, WIDTH), np.float32),
                        "W_dec": np.ones((WIDTH, 3), np.float32),
                        "b_enc": np.ones(WIDTH, np.float32),
                        "b_dec": np.ones(3, np.float32),
                    }
                ),
            }
        ),
        "width 3",
    )


def faulty_rows() -> Iterator[tuple[str, bytes, str]]:
    """Vectors of others that hold more than a row, or say two things."""
    row = torch.from_numpy(ROW)
    for name, value, says in (
        ("two-rows", {"a": row, "b": row}, "one row alone"),
        ("matrix", torch.ones(3, 4), "one row alone"),
        ("scaled", {"v": row, "scale": torch.tensor(2.0)}, "scale"),
        ("scalar", torch.tensor(2.0), "one row alone"),
        ("mlp", {"layer_activations": {1: row}, "layer_type": "mlp"}, "layer_type mlp"),
        ("other-block", {"layer_activations": {3: row}}, "none before 1"),
        ("nan", row * float("nan"), "NaN"),
        ("nothing", 0 * row, "norm 0"),
        ("module", torch.nn.Linear(3, 5), "calls"),
        ("text", "x", "no tensor"),
    ):
        yield f"row-{name}.pt", saved(value), says
    yield "row-two.npz", npz({"a": ROW, "b": ROW}), "one row alone"
    yield "row-two.safetensors", save({"a": ROW, "b": ROW}), "one row alone"
    yield "unsaid.safetensors", save({"v": ROW}), "does not say its model"
    record = {k: x for k, x in NEURONPEDIA.items() if k not in ("layerNumber", "hookType")}
    for number, (fields, says) in enumerate(
        (
            ({"layer": "1-x", "hookName": "blocks.1.hook_mlp_out"}, "hook_mlp_out"),
            ({}, "layerNumber"),
            ({"layer": "x"}, "layer 'x'"),
            ({"layer": "1-x-resid-post"}, "resid-post"),
            ({"layer": [1]}, "layer"),
            ({"layerNumber": 1, "hookName": "blocks.2.hook_resid_pre"}, "layers that differ"),
            ({"layer": None}, "layerN"),
        )
    ):
        yield f"record-{number}.json", json.dumps(record | fields).encode(), says


def corpus(tmp: Path, canary: Path) -> list[Case]:
    """Bad files of every family of fault, each with what its refusal says."""
    out: list[Case] = []

    def add(
        reader: str,
        prefix: str,
        ending: str,
        faults: Faults,
        wrap: Callable[[bytes], bytes] = bytes,
    ) -> None:
        out.extend(
            Case(reader, f"{prefix}{k}{ending}", wrap(raw), says)
            for k, (raw, says) in faults.items()
        )

    for reader, endings in (
        ("stitch", WEIGHT_FILES),
        ("vector", (".safetensors", ".gguf", ".json", ".npy")),
        ("sae", (".zip", ".npz")),
    ):
        out.extend(Case(reader, f"empty{e}", b"", "empty") for e in endings)
        out.extend(Case(reader, f"folder{e}", Path.mkdir, "no file|no SAE") for e in endings[:1])
        out.extend(Case(reader, f"missing{e}", _nothing, "unreadable") for e in endings[:1])
        out.extend(
            Case(reader, name, b"1 2 3", "ends with")
            for name in ("words.txt", "words.pkl", "words")
        )
        size = READERS[reader][1] + 1
        out.extend(
            Case(reader, f"large{e}", _sparse(size), "bytes; wanted at most") for e in endings
        )
        if hasattr(os, "mkfifo"):
            out.append(Case(reader, f"pipe{endings[0]}", os.mkfifo, "no file"))
    add("stitch", "st-", ".safetensors", faulty_safetensors(numbers(LINEAR)))
    add("vector", "st-", ".safetensors", faulty_safetensors({"v": ROW}, ABOUT))
    for layout in ("saelens", "sparsify"):
        members = sae_parts(layout)
        config, file = members
        add(
            "sae",
            f"{layout}-st-",
            ".zip",
            faulty_safetensors(weights(layout)),
            lambda raw, m=members, f=file: zipped(m | {f: raw}),
        )
        value, needs = (
            (SAELENS, ("d_in", "d_sae", "architecture"))
            if layout == "saelens"
            else (SPARSIFY, ("d_in",))
        )
        add(
            "sae",
            f"{layout}-json-",
            ".zip",
            faulty_json(value, needs, untrusted.HEADER),
            lambda raw, m=members, c=config: zipped(m | {c: raw}),
        )
        add("sae", f"{layout}-zip-", ".zip", faulty_zip(members))
    add("stitch", "zip-", ".pt", faulty_zip(parts(saved(LINEAR))))
    add("stitch", "zip-", ".npz", faulty_zip(parts(npz(numbers(LINEAR)))))
    add("stitch", "npy-", ".npz", faulty_npy(), lambda raw: zipped({"up.weight.npy": raw}))
    add("vector", "npy-", ".npy", faulty_npy())
    add("vector", "gguf-", ".gguf", faulty_gguf(tmp))
    add(
        "vector",
        "json-",
        ".json",
        faulty_json(NEURONPEDIA, ("modelId", "layerNumber", "vector"), untrusted.LONGEST_JSON),
    )
    known = json.loads(SPECIFIED.model_dump_json())
    for reader, value, says in (
        ("manifest", MANIFEST, "manifest"),
        ("spec", known, "spec|pair named"),
    ):
        faults = {
            k: (raw, says)
            for k, (raw, _) in faulty_json(value, ("pair",) * (reader == "manifest"), 0).items()
        }
        faults.pop("long")
        add(reader, "json-", ".json", faults)
        for path in (
            "../../etc/hostname",
            "/etc/hostname",
            "a/../../b",
            "",
            "a\0b",
            "..\\..\\x",
            "U" * 300,
            "\ud800",
            "a/" * 600,
        ):
            if reader == "manifest":
                entry = MANIFEST["artifacts"]["quality/s"] | {"path": path}
                raw = json.dumps(MANIFEST | {"artifacts": {"quality/s": entry}}).encode()
                out.append(Case(reader, f"path-{len(out)}.json", raw, "outside the workspace"))
    out.append(
        Case(
            "spec", "large.json", SPECIFIED.model_dump_json().encode() + b" " * SPEC_BYTES, "bytes"
        )
    )
    out.append(
        Case("spec", "other.json", json.dumps(known | {"key": "other"}).encode(), "its own folder")
    )
    out.append(
        Case("manifest", "newer.json", json.dumps(MANIFEST | {"schema_version": 99}).encode(), "99")
    )
    out.append(
        Case(
            "manifest",
            "other.json",
            json.dumps(MANIFEST | {"pair": "other"}).encode(),
            "of pair 'other'",
        )
    )
    out.extend(Case("sae", f"{name}.zip", raw, says) for name, raw, says in faulty_saes())
    out.extend(pickles(canary))
    for field, value, says in (
        ("hookType", "resid-post", "resid-post"),
        ("layerNumber", -1, "layer"),
        ("layerNumber", 10**9, "layer"),
        ("layerNumber", 1.5, "layer"),
        ("layerNumber", None, "layer"),
        ("vector", [], "vector|norm"),
        ("vector", ["1"], "no list"),
        ("vector", [[1.0]], "no list"),
        ("vector", "1", "no list"),
        ("vector", [0.0, 0.0], "norm 0"),
        ("vector", [True], "no list"),
        ("vector", {"0": 1}, "no list"),
        ("vector", [10**400], "readable|large"),
        ("vector", [1e300, 1.0], "vast"),
        ("vector", [1] * 70_000, "no list"),
        ("vectorDefaultSteerStrength", "x", "no number"),
        ("vectorDefaultSteerStrength", 1e300, "vast"),
        ("vectorDefaultSteerStrength", [1], "no number"),
    ):
        raw = json.dumps(NEURONPEDIA | {field: value}).encode()
        out.append(Case("vector", f"{field}-{str(value)[:9].replace('/', '-')}.json", raw, says))
    out.append(
        Case(
            "vector",
            "overflow.json",
            json.dumps(NEURONPEDIA).replace("4.5", "1e999").encode(),
            "vast",
        )
    )
    for field, value, says in (
        ("format", "x", "format"),
        ("layer", "-1", "layer"),
        ("layer", "9" * 50, "layer"),
        ("mean", "nan", "NaN"),
        ("mean", "x", "float"),
        ("base", "1e999", "infinite"),
        ("makers", "[" * 9000, "nested"),
        ("makers", "[1]", "JSON list"),
        ("makers", "", "no JSON"),
    ):
        out.append(
            Case(
                "vector",
                f"{field}-{value[:9]}.safetensors",
                save({"v": ROW}, ABOUT | {field: value}),
                says,
            )
        )
    for field in ABOUT:
        about = {k: v for k, v in ABOUT.items() if k != field}
        out.append(Case("vector", f"no-{field}.safetensors", save({"v": ROW}, about), field))
    for name, array, says in (
        ("norm", 2 * ROW, "norm 2"),
        ("matrix", ROW[None], "one row"),
        ("wide", np.zeros(untrusted.WIDEST + 1, np.float32), "one row"),
    ):
        out.append(Case("vector", f"{name}.safetensors", save({"v": array}, ABOUT), says))
    out.append(Case("vector", "other.safetensors", save({"w": ROW}, ABOUT), "one row"))
    wide = np.ones(untrusted.LARGEST_VECTOR - 500, np.int8)
    out.append(Case("vector", "near-limit.npy", npy(wide), "numbers in"))
    out.append(Case("vector", "matrix.npy", npy(np.ones((3, 4))), "shape"))
    out.append(Case("vector", "nothing.npy", npy(0 * ROW), "norm 0"))
    out.append(
        Case(
            "vector",
            "lists.json",
            b'{"a":[' + b"[],".replace(b"[]", b"[" * 50 + b"]" * 50) * 19_000 + b"[]]}",
            "lists and objects",
        )
    )
    for name, arrays, says in (
        ("widths", {"up": np.ones((7, 9))}, "no matrix"),
        ("bias-alone", {"b": np.ones(5)}, "no matrix"),
        ("three", {f"m{k}": np.ones((3, 5)) for k in range(3)}, "3 matrices"),
        ("wrong-bias", {"up.weight": np.ones((5, 3)), "up.bias": np.ones(3)}, "5 numbers"),
        ("newline\x1b[31m", {"a\nb\x1b[31m\u202e": np.ones((7, 9))}, "no matrix"),
    ):
        out.append(Case("stitch", f"{name}.npz", npz(arrays), says))
        out.append(
            Case(
                "stitch",
                f"{name}.safetensors",
                save({k: v.astype(np.float32) for k, v in arrays.items()}),
                says,
            )
        )
    out.extend(Case(*one) for one in faulty_texts())
    out.extend(Case("vector", name, raw, says) for name, raw, says in faulty_rows())
    names = [(case.reader, case.name) for case in out]
    assert len(set(names)) == len(names), "else a file would replace another"
    return out


LINE = "A line of plain text that is long enough to be kept as a document"
LABELS = "text;label\r\n" + "".join(f"{LINE} {k};{'yes' if k % 2 else 'no'}\r\n" for k in range(12))


def _parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def good_texts() -> list[Case]:
    """A corpus in each form, and labels of one's own."""
    rows = [{"id": k, "text": f"{LINE} {k} \ud83d"} for k in range(9)]
    json_lines = "\r\n".join(json.dumps(row) for row in rows).encode()
    csv = f'text,id\n"{LINE},\nquoted",1\n'
    texts = {
        "text.txt": f"\ufeff{LINE}\r\n".encode(),
        "text.md": LINE.encode("utf-16"),
        "rows.jsonl": json_lines,
        "rows.json": json.dumps(rows, indent=1).encode(),
        "rows.csv": csv.encode(),
        "packed.gz": gzip.compress(LINE.encode()),
        "rows.parquet": _parquet(text=[LINE], id=[1]),
    }
    return [
        *(Case("text", name, raw, None) for name, raw in texts.items()),
        Case("labels", "labels.csv", LABELS.encode("utf-16"), None),
    ]


def faulty_texts() -> Iterator[tuple[str, str, bytes, str]]:
    """Reader, name, bytes and words of the refusal."""
    latin, row = (
        "un café très cher, où l'été dure\n".encode("latin-1") * 9,
        json.dumps({"text": LINE}).encode(),
    )
    for ending in (".txt", ".jsonl", ".csv"):
        yield "text", f"latin{ending}", latin, "not in UTF-8.*cp1252|line 1"
        yield "text", f"utf16{ending}", latin.decode("latin-1").encode("utf-16-le"), "utf-16le"
        yield "text", f"binary{ending}", row + b"\0", "NUL at"
        yield "text", f"odd{ending}", LINE.encode("utf-16") + b"x", "UTF-16"
    for ending in (".txt", ".jsonl", ".json"):
        yield "text", f"empty{ending}", b"", "no text of 40"
    for ending in (".parquet", ".arrow", ".jsonl.gz", ".csv.xz", ".json.zst", ".txt.bz2"):
        yield "text", f"nonsense{ending}", b"no such file as its name says" * 9, "damaged"
        yield "text", f"pointer{ending}", LFS + b"v1\n", "git lfs pull"
    for name, line in (
        ("half", b'{"text": "'),
        ("list", b"[1]"),
        ("number", b'{"text": 7}'),
        ("other", b'{"body": "x"}'),
        ("deep", b"[" * 99_999),
    ):
        yield "text", f"{name}.jsonl", row + b"\n" + line + b"\n", "line 2 of"
    yield "text", "two.parquet", _parquet(q=["a"], a=["b"]), "columns: q, a"
    yield "text", "number.parquet", _parquet(text=[1.5]), "no strings in column 'text'"
    yield "text", "cut.parquet", _parquet(text=[LINE])[:-9], "damaged"
    yield (
        "text",
        "bomb.json.gz",
        gzip.compress(b" " * (WHOLE + 9)),
        "no text of 40|bytes in one piece|characters",
    )
    for reader in ("text", "labels"):
        yield reader, "open.csv", b'text,label\n"never closed,yes\n', "line 2 that is no CSV"
        yield (
            reader,
            "ragged.csv",
            b"text,label\nno quotes, two commas,yes\n",
            "3 cells under 2 columns",
        )
        yield reader, "twice.csv", b"text,label,text\na,b,c\n", "column text twice"
        yield reader, "columns.csv", b"a;b\n1;x\n" + b"y;z\n", "columns: a, b"
    yield "labels", "latin.csv", b"text,label\n" + latin, "not in UTF-8"
    yield "labels", "binary.csv", b"text,label\na\0b,yes\n", "NUL at line 2"
    yield "labels", "large.csv", b"text,label\n" + b"x" * MOST_BYTES, "bytes; wanted at most"
    yield "labels", "one.csv", b"text,label\n" + b"a,yes\n" * 9, "one label"


def _nothing(path: Path) -> None:
    """There is no file there."""


def _sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as f:
            f.truncate(size)

    return make
