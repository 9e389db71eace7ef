"""The scaffolding keeps its word: pins complete and portable, colours readable and apart for every
kind of vision."""

import itertools
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
THEME = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())["theme"]
HUES = ("blue", "violet", "orange", "green", "gray", "red", "yellow")
MEANINGS = ("model A", "model B", "semantic", "structural", "control", "free")

# Machado, Oliveira and Fernandes (2009), severity 1, for linear sRGB.
VISION = {
    "full": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def parse(name: str) -> list[Requirement]:
    """The requirements of one file, comments and blank lines left out."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def linear(colour: str) -> np.ndarray:
    """`#rrggbb` to linear sRGB, shape [3], in 0..1."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Linear sRGB to OKLab (Ottosson 2020), scaled to 0..100 lightness."""
    lms = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(rgb, 0, 1)
    )
    return 100 * (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ lms
    )


def distance(one: str, other: str, vision: str) -> float:
    """Euclidean OKLab distance between two colours as seen with `vision`; about 2 is just
    noticeable."""
    return float(
        np.linalg.norm(oklab(VISION[vision] @ linear(one)) - oklab(VISION[vision] @ linear(other)))
    )


def test_contrast_and_distance_agree_with_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)
    assert distance("#000000", "#ffffff", "full") == pytest.approx(100, abs=0.1)
    assert (
        distance("#cc0000", "#5b7400", "deutan") < distance("#cc0000", "#5b7400", "full") / 2
    )  # red and olive fall together


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_meets_wcag_aa(mode: str) -> None:
    theme = THEME[mode]
    backgrounds = theme["backgroundColor"], theme["secondaryBackgroundColor"]
    for key in ("textColor", "linkColor", *(f"{hue}TextColor" for hue in HUES)):
        for background in backgrounds:
            assert contrast(theme[key], background) >= 4.5, (mode, key, background)
    for hue in HUES:
        assert contrast(theme[f"{hue}TextColor"], theme[f"{hue}BackgroundColor"]) >= 4.5, (
            mode,
            hue,
        )
    assert contrast(theme["codeTextColor"], theme["codeBackgroundColor"]) >= 4.5
    if mode == "light":  # the dark theme has no primary buttons: `frame.action`
        assert contrast("#ffffff", theme["primaryColor"]) >= 4.5, "streamlit writes white on it"


def blend(colour: str, background: str, share: float) -> str:
    """`colour` laid over `background` with an opacity of `share`."""
    channels = ((int(colour[i : i + 2], 16), int(background[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(
        f"{round(share * over + (1 - share) * under):02x}" for over, under in channels
    )


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_what_is_chosen_is_stronger_than_what_is_not_and_faint_text_is_read(mode: str) -> None:
    theme = THEME[mode]
    paper = theme["backgroundColor"]
    chosen = blend(theme["primaryColor"], paper, 0.1)  # streamlit's pills and segments
    assert contrast(theme["primaryColor"], chosen) >= 4.5
    assert contrast(theme["primaryColor"], chosen) > 0.9 * contrast(theme["textColor"], paper), (
        "the text, on its fill"
    )
    assert contrast(theme["primaryColor"], paper) > 3 * contrast(theme["borderColor"], paper), (
        "the border"
    )
    for background in (paper, theme["secondaryBackgroundColor"]):
        caption = blend(theme["textColor"], background, 0.6)
        assert contrast(caption, background) >= 4.5, "captions have 60 % of the text's ink"


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_marks_stand_out_and_stay_apart(mode: str) -> None:
    theme = THEME[mode]
    marks = dict(zip(MEANINGS, theme["chartCategoricalColors"], strict=True))
    for meaning, colour in marks.items():
        for background in (theme["backgroundColor"], theme["secondaryBackgroundColor"]):
            assert contrast(colour, background) >= 3.0, (mode, meaning, background)
    for vision in VISION:
        for one, other in itertools.combinations(marks, 2):
            assert distance(marks[one], marks[other], vision) >= 10, (mode, vision, one, other)
    named = [theme[f"{hue}Color"] for hue in ("blue", "violet", "orange", "green", "gray", "red")]
    assert named == theme["chartCategoricalColors"], (
        "markdown colours and figures must mean the same"
    )


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_sequential_scale_is_monotone_for_every_vision(mode: str) -> None:
    scale = THEME[mode]["chartSequentialColors"]
    assert len(scale) == len(THEME[mode]["chartDivergingColors"]) == 10, (
        "streamlit drops a scale that has not ten colours"
    )
    sign = -1 if mode == "light" else 1
    for vision in VISION:
        lightness = [oklab(VISION[vision] @ linear(colour))[0] for colour in scale]
        assert all(sign * step > 0 for step in np.diff(lightness)), (mode, vision)


def test_every_requirement_is_pinned_once() -> None:
    constraints = parse("constraints.txt")
    names = [canonicalize_name(pin.name) for pin in constraints]
    assert len(names) == len(set(names))
    for pin in constraints:
        assert re.fullmatch(r"==[^*+]+", str(pin.specifier)), (
            f"{pin}: one exact version, no build suffix"
        )
        assert pin.url is None
    for wanted in parse("requirements.txt") + parse("requirements-dev.txt"):
        assert canonicalize_name(wanted.name) in names, wanted


def test_what_the_pins_need_is_pinned_and_fits() -> None:
    pins = {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
        for pin in parse("constraints.txt")
    }
    for name in pins:
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # a pin for another platform
            continue
        for need in map(Requirement, needs):
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            if canonicalize_name(need.name).startswith(
                ("nvidia-", "cuda-", "triton")
            ):  # torch's CUDA build pins its own
                continue
            assert canonicalize_name(need.name) in pins, f"{name} needs {need}"
            assert need.specifier.contains(pins[canonicalize_name(need.name)], prereleases=True), (
                f"{name} needs {need}"
            )


def test_no_file_names_a_local_path_or_an_index() -> None:
    for name in (
        "constraints.txt",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-models.txt",
    ):
        text = (ROOT / name).read_text()
        assert not re.search(r"file:|--index-url|--extra-index-url|--find-links|@ ", text), name
