"""The addresses of the API: GET only, nothing private, nothing written."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from core import __version__
from core.api import answers, live, page, problems, read
from core.errors import StitchLensError
from core.features import search
from core.models.pairs import known_pairs
from core.steering import finding
from core.stitches import directions
from core.workspace import demonstration

HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names of this machine to itself: a page of the web that has another name led here is refused."""
LONGEST_SENTENCE = 2_000
"""Characters that both models read to find features."""
LONGEST_TEXT = 20_000
"""Characters of a text that crosses."""
MOST = 200
"""Rows of an answer."""
FILES = re.compile(r"\s*(?:file|concept):", re.I)
"""Directions that name files of this machine."""
ABOUT = """Read-only answers from the same tables and functions as `python -m core`. What is private
to a browser is never served. A problem is answered with 4xx and
`{found, wanted, do}`. Questions to the models are answered one at a time; the first one opens them,
which takes some seconds."""

PairName = Annotated[str, InPath(max_length=64, description="A pair.", examples=["nano"])]
SaeName = Annotated[
    str | None,
    Query(
        max_length=200, description="An SAE whose features were measured; the first if not given."
    ),
]
Most = Annotated[int, Query(ge=1, le=MOST, description="Features in the answer.")]
SortBy = Literal[
    "feature",
    "agreement",
    "correlation",
    "label_f1_a",
    "label_f1_b",
    "twin_r",
]
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": answers.Problem, "description": "cannot be answered as it is asked"},
    404: {"model": answers.Problem, "description": "nothing of that name"},
    422: {"model": answers.Problem, "description": "a parameter out of range"},
    429: {"model": answers.Problem, "description": "too much at once, or too soon"},
}


def create_app() -> FastAPI:
    """The application, which any ASGI server runs. FastAPI's own pages stay away: they fetch
    scripts from the web."""
    app = FastAPI(
        title="StitchLens",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    app.middleware("http")(guard)
    app.exception_handler(StitchLensError)(refused)
    app.exception_handler(RequestValidationError)(misfit)
    app.exception_handler(HTTPException)(elsewhere)

    app.get("/", include_in_schema=False)(home)
    for path, endpoint, answer in (
        ("/pairs", pairs, answers.Pairs),
        ("/pairs/{pair}/stitches", stitches, answers.Stitches),
        ("/pairs/{pair}/features", features, answers.Features),
        ("/pairs/{pair}/features/{feature}", feature, answers.Feature),
        ("/pairs/{pair}/find", find, answers.Found),
        ("/pairs/{pair}/cross", cross, answers.Crossed),
    ):
        app.get(
            path,
            operation_id=endpoint.__name__,
            response_model=answer,
            response_model_exclude_unset=True,
        )(endpoint)
    return app


# problems


async def guard(
    request: Request,
    go_on: Callable[[Request], Awaitable[Response]],
) -> Response:
    """Only this machine is answered, and no page of the web reads along."""
    if request.url.hostname not in HOSTS:
        problem = StitchLensError(
            f"the name '{request.url.hostname}'",
            f"one of {', '.join(HOSTS)}",
            "open the address that `python -m core api` printed",
        )
        return JSONResponse(problems.record(problem), 400)

    response = await go_on(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


def refused(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, StitchLensError)
    return JSONResponse(
        problems.record(problem),
        problems.status(problem),
        problems.headers(problem),
    )


def misfit(request: Request, fault: Exception) -> JSONResponse:
    assert isinstance(fault, RequestValidationError)
    return JSONResponse(problems.misfit(list(fault.errors())), 422)


def elsewhere(request: Request, fault: Exception) -> JSONResponse:
    """An address, or a method, that there is none of."""
    assert isinstance(fault, HTTPException)
    problem = StitchLensError(
        f"{request.method} {request.url.path}",
        "GET of an address that is listed at /",
        "see /",
    )
    return JSONResponse(problems.record(problem), fault.status_code)


# addresses


def home(request: Request) -> HTMLResponse:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(page.of(request.app.openapi()), headers=headers)


def pairs() -> dict[str, Any]:
    """The known pairs of models, and the SAEs whose features were measured."""
    return {"pairs": [read.pair_row(spec) for spec in known_pairs().values()]}


def stitches(pair: PairName) -> dict[str, Any]:
    """The stitches of a pair, with what crossing costs (Table 1)."""
    ws = read.workspace(pair)
    return {"pair": pair, "stitches": read.stitch_rows(ws)}


def features(
    pair: PairName,
    sae: SaeName = None,
    sort: Annotated[SortBy, Query(description="The measure to sort by.")] = "agreement",
    descending: Annotated[bool, Query(description="The largest first.")] = True,
    offset: Annotated[int, Query(ge=0, le=10**7, description="Features to pass over.")] = 0,
    limit: Most = 50,
) -> dict[str, Any]:
    """The features of an SAE of A, a page at a time; those without the measure come last."""
    ws = read.workspace(pair)
    name = read.sae_of(ws, sae)
    order = read.ordered(ws, name, sort, descending)
    return {
        "pair": pair,
        "sae": name,
        "total": len(order),
        "offset": offset,
        "results": search.results(ws, name, order[offset : offset + limit]),
    }


def feature(
    pair: PairName,
    feature: Annotated[int, InPath(ge=0, description="A feature.", examples=[7])],
    sae: SaeName = None,
) -> dict[str, Any]:
    """All that is known of one feature: its measures, label, agreement and twins by kind of text,
    and in either model its tokens, histogram and contexts (as pointers into the corpus)."""
    ws = read.workspace(pair)
    return read.feature(ws, read.sae_of(ws, sae), feature)


def find(
    pair: PairName,
    q: Annotated[
        str,
        Query(
            max_length=LONGEST_SENTENCE,
            description="A word, a sentence, or a direction: lang:fr, vector:NAME, feature:SAE/7.",
            examples=["French"],
        ),
    ],
    by: Annotated[
        Literal["word", "sentence", "direction"],
        Query(description="What q is."),
    ] = "word",
    where: Annotated[
        Literal["a", "b", "both"],
        Query(alias="in", description="By sentence: the model that it has to move."),
    ] = "both",
    sae: SaeName = None,
    most: Most = search.MOST,
) -> dict[str, Any]:
    """Features by a word (labels, peak tokens, contexts), by a sentence that both models read, or
    by a direction."""
    ws = read.workspace(pair)
    spec = read.spec(pair)
    name = read.sae_of(ws, sae)
    match by:
        case "word":
            with live.WORDS.turn():
                about = finding.by_word(ws, spec, name, q, most)
                return finding.answer(ws, spec, name, q, about, in_words=True)
        case "sentence":
            read.no_empty(q)
            with live.MODELS.turn():
                about = finding.by_sentence(live.reader(ws, name), ws, name, q, where, most)
        case "direction":
            no_files(q)
            demonstration.admit(q)
            with live.MODELS.turn():
                studio = live.crossing(ws, read.stitch_of(ws, name)).studio
                about = finding.by_direction(studio, name, q, most)
    return finding.answer(ws, spec, name, q, about, in_words=False)


def cross(
    pair: PairName,
    text: Annotated[
        str,
        Query(
            max_length=LONGEST_TEXT,
            description="What both models read.",
            examples=["The capital of France is Paris."],
        ),
    ],
    direction: Annotated[
        directions.Direction,
        Query(description="Whose layers come first and whose last."),
    ] = "a_to_b",
    stitch: Annotated[
        str | None,
        Query(max_length=200, description="The default one if not given."),
    ] = None,
    control: Annotated[
        Literal["shuffled", "random", "none"],
        Query(description="To compare with."),
    ] = "shuffled",
) -> dict[str, Any]:
    """A text as the stitched model reads it: one model's layers first, the other's go on."""
    ws = read.workspace(pair)
    read.no_empty(text)
    name = read.stitch(ws, stitch)
    controls = () if control == "none" else (control,)
    directions.check(ws, name, direction, *controls)
    with live.MODELS.turn():
        passage = live.crossing(ws, name).read(text, direction, controls)
    return {
        "pair": pair,
        "stitch": name,
        "control": control,
        **passage.record(),
    }


def no_files(source: str) -> None:
    """Raises StitchLensError for a direction that names a file of this machine."""
    if FILES.match(source):
        raise StitchLensError(
            f"direction '{source[:60]}', which names a file",
            "lang:, vector: or feature:",
            "use the command line for files",
        )
