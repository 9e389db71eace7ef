"""What a refusal advises, read from the source: every text that the third part of a
StitchLensError can have, with `1` for what is filled in."""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from core.cli.main import app
from core.errors import StitchLensError
from core.workspace.places import PROJECT
from tests.helpers.documents import parses

COMMAND = re.compile(r"(?:\.venv/bin/)?python -m core (?P<words>[^`|]+)")
QUOTED = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
FILE = re.compile(r"\b(?:core|pages|tests|docs|examples|benchmarks)/[\w./-]+\w")
PROGRAMS = {"hf": "hf", "jq": "jq", "iconv": "iconv", "git": "git lfs", "pip": "pip"}
"""Programs of others, by their first word; `hf` comes with our own packages."""
FIELDS = {"bos", "model_name", "norm_scaling_factor", "scale"}
"""What a file or a function calls a value that the advice is about."""
METHODS = {
    "fold_activation_whitening": "sae_lens.SAE",
    "save_inference_model": "sae_lens.TrainingSAE",
    "save_model": "sae_lens.SAE",
    "save_pretrained": "transformers.PreTrainedModel",
    "resize_token_embeddings": "transformers.PreTrainedModel",
}


@dataclass(frozen=True)
class Advice:
    """One text that a refusal may advise."""

    file: str
    line: int
    text: str


def sources() -> list[Path]:
    return [
        PROJECT / "app.py",
        *sorted((PROJECT / "core").rglob("*.py")),
        *sorted((PROJECT / "pages").rglob("*.py")),
    ]


class _Texts:
    """The texts that an expression of one file can have."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        self.assigned: dict[str, list[ast.expr]] = {}
        self.returned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned.setdefault(node.targets[0].id, []).append(node.value)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                if isinstance(node.value, ast.Tuple):
                    for name, value in zip(node.targets[0].elts, node.value.elts, strict=False):
                        if isinstance(name, ast.Name):
                            self.assigned.setdefault(name.id, []).append(value)
            elif isinstance(node, ast.FunctionDef):
                self.returned[node.name] = [
                    x.value for x in ast.walk(node) if isinstance(x, ast.Return) and x.value
                ]

    def of(self, node: ast.AST, depth: int = 0) -> list[str]:
        """Empty where that is not written in this file."""
        if depth > 4:
            return []
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return self._joined(parts, depth)
            case ast.FormattedValue(value=value):
                return self.of(value, depth + 1) or ["1"]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return [a + b for a in self.of(left, depth) for b in self.of(right, depth)]
            case ast.IfExp(body=body, orelse=orelse):
                return self.of(body, depth) + self.of(orelse, depth)
            case ast.Name(id=name) if name in self.assigned:
                return [x for value in self.assigned[name] for x in self.of(value, depth + 1)]
            case ast.Name(id=name) if self.module.startswith("core."):  # a page runs when imported
                value = getattr(importlib.import_module(self.module), name, None)
                return [value] if isinstance(value, str) else []
            case ast.Subscript(value=ast.Name(id=name)):
                table = getattr(importlib.import_module(self.module), name, None)
                return [str(x) for x in table.values()] if isinstance(table, dict) else []
            case ast.Call(func=ast.Attribute(attr="join"), args=[parts]):
                called = [x for x in ast.walk(parts) if isinstance(x, ast.Call)]
                return [text for one in called for text in self.of(one, depth + 1)]
            case ast.Call(func=ast.Name(id=name)):
                home = self if name in self.returned else self._home(name)
                values = home.returned.get(name, []) if home else []
                return [x for value in values for x in home.of(value, depth + 1)] if home else []
        return []

    def _home(self, function: str) -> "_Texts | None":
        """The texts of the file that a function of core comes from."""
        if not self.module.startswith("core."):
            return None
        value = getattr(importlib.import_module(self.module), function, None)
        module = getattr(value, "__module__", "")
        if not inspect.isfunction(value) or not module.startswith("core."):
            return None
        path = PROJECT / f"{module.replace('.', '/')}.py"
        return _Texts(path, ast.parse(path.read_text("utf-8")))

    def _joined(self, parts: list[ast.expr], depth: int) -> list[str]:
        out = [""]
        for part in parts:
            out = [before + text for before in out for text in self.of(part, depth)]
        return out


def refusals() -> Iterator[tuple[str, int, ast.expr, _Texts]]:
    """(file, line, what is advised, the file's texts) of every refusal in core and pages."""
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        texts = _Texts(path, tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _refuses(node.func) and len(node.args) == 3:
                yield str(path.relative_to(PROJECT)), node.lineno, node.args[2], texts


def texts(path: Path) -> list[str]:
    """Every text of a file that names a command, docstrings among them, filled in."""
    tree = ast.parse(path.read_text("utf-8"))
    known = _Texts(path, tree)
    inside = {id(x) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for x in n.values}
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr | ast.Constant)]
    out = [text for node in nodes if id(node) not in inside for text in known.of(node)]
    return [text for text in out if "python -m core" in text]


def _refuses(function: ast.expr) -> bool:
    name = ast.unparse(function).rpartition(".")[2]
    return name in ("StitchLensError", "NoText", "NoColumn", "NoRows")


def advice() -> list[Advice]:
    """Every text of every refusal; one that is handed on (`e.todo`) is counted where it is
    written."""
    return [
        Advice(file, line, text)
        for file, line, node, texts in refusals()
        for text in texts.of(node)
    ]


def faults(text: str) -> list[str]:
    """What a piece of advice names that is not there: a command, an option, a program, a target of
    make, a function, an environment variable, a file."""
    out = []
    for quoted in QUOTED.findall(text):
        out += _quoted(quoted)
    bare = QUOTED.sub("", text)
    out += [f"option {x}" for x in OPTION.findall(bare) if x not in options()]
    out += [f"variable {x}" for x in VARIABLE.findall(text) if not _read(x)]
    out += [f"file {x}" for x in FILE.findall(text) if not (PROJECT / x).exists()]
    return out


def _quoted(text: str) -> list[str]:
    """Faults of what stands between backticks."""
    words = text.split()
    if text == "1":  # filled in whole, from the table of artifacts, which has tests of its own
        return []
    if command := COMMAND.fullmatch(text):
        return [] if parses(shlex.split(command["words"])) else [f"command {text}"]
    if words[0] == "make":
        return [] if f"\n{words[1]}:" in (PROJECT / "Makefile").read_text() else [f"target {text}"]
    if words[0] in commands():
        group = commands()[words[0]]
        known = {o for name in group for o in group[name]}
        wrong = [w for w in words[1:] if w not in (known if w.startswith("--") else group)]
        return [f"command {text}"] if wrong else []
    if words[0] in PROGRAMS or text in FIELDS:
        return []
    if text.startswith("--"):
        return [f"option {w}" for w in words if w.startswith("--") and w not in options()]
    names = re.findall(r"(?:torch|transformers|safetensors|sae_lens)(?:\.\w+)+", text)
    names += [METHODS[text] + f".{text}"] if text in METHODS else []
    if not names:
        return [f"`{text}`, which says nothing that is known"]
    return [f"function {name}" for name in names if not _importable(name)]


def _importable(dotted: str) -> bool:
    module, _, rest = dotted.partition(".")
    value: Any = importlib.import_module(module)
    for name in rest.split("."):
        if not hasattr(value, name):
            try:
                importlib.import_module(f"{value.__name__}.{name}")
            except (ImportError, AttributeError):
                return False
        value = getattr(value, name)
    return True


def commands() -> dict[str, dict[str, set[str]]]:
    """Options by command and group; a command that stands alone is its own group."""
    root: Any = typer.main.get_command(app)

    def named(command: Any) -> set[str]:
        return {o for parameter in command.params for o in parameter.opts}

    return {
        group: {
            name: named(c) for name, c in getattr(command, "commands", {group: command}).items()
        }
        for group, command in root.commands.items()
    }


def options() -> set[str]:
    return {o for group in commands().values() for some in group.values() for o in some}


def _read(variable: str) -> bool:
    """Whether code of ours asks the environment for it."""
    asked = re.compile(rf"""environ\S*?[\[(]\s*["']{variable}["']|= "{variable}"$""", re.MULTILINE)
    return any(asked.search(path.read_text("utf-8")) for path in sources())


# following it


def refused(act: Callable[[], Any], says: str) -> StitchLensError:
    """The refusal with which something fails."""
    with pytest.raises(StitchLensError, match=says) as e:
        act()
    return e.value


def call(*words: object) -> str:
    """What a command prints; it has to work."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def refusal(*words: object, says: str) -> str:
    """The sentence with which a command is refused."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2 and re.search(says, done.stderr), done.output
    return done.stderr


def advised(sentence: str) -> list[str]:
    """The words of the command that a sentence advises."""
    command = COMMAND.search(sentence)
    assert command is not None, sentence
    return shlex.split(command["words"])
