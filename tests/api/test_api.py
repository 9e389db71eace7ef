"""The API against its schema: every address on nano, every parameter wrong, nothing private."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from fastapi.testclient import TestClient

from core.api import answers, live, page, serve
from core.api.answers import Problem
from core.api.app import LONGEST_SENTENCE, LONGEST_TEXT, MOST, create_app
from core.api.problems import Busy
from core.errors import StitchLensError
from core.features import alike, search
from core.features import tables as feature_tables
from core.stitches import tables as stitch_tables
from core.workspace import demonstration
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

SAE = "L2-1024"
TEXT = "The house of my mother is old."
NANO = "/pairs/nano"


@pytest.fixture(scope="module")
def client(nano_home: Path) -> Iterator[TestClient]:
    with TestClient(
        create_app(), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        yield client


@pytest.fixture
def ws(nano_home: Path) -> Workspace:
    return Workspace("nano", nano_home)


def ask(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    reply = client.get(path, params=asked)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client: TestClient, path: str, **asked: Any) -> tuple[int, Problem]:
    reply = client.get(path, params=asked)
    assert 400 <= reply.status_code < 500, reply.text
    assert "Traceback" not in reply.text
    return reply.status_code, Problem.model_validate_json(reply.text)


# what is answered


def test_pairs_are_those_of_the_command_line(client: TestClient) -> None:
    listed = answers.Pairs.model_validate(ask(client, "/pairs")).pairs
    nano = next(one for one in listed if one.pair == "nano")
    assert (nano.workspace, nano.saes, nano.family) == (True, [SAE], "within-family")
    large = next(one for one in listed if one.pair == "smollm2-gemma3")
    assert (large.workspace, large.saes) == (False, []), "its workspace is not here"


def test_stitches_are_those_of_the_tables(client: TestClient, ws: Workspace) -> None:
    listed = answers.Stitches.model_validate(ask(client, f"{NANO}/stitches"))
    assert [one.name for one in listed.stitches] == stitch_tables.stitch_names(ws)
    table = stitch_tables.stitches(ws).set_index("name")
    for one in listed.stitches:
        row = table.loc[one.name]
        assert one.losses["a_to_b"] == pytest.approx(row.a_to_b)
        assert one.relative["a_to_b"] == pytest.approx(row.a_to_b_relative)
        assert (one.layer_a, one.layer_b) == (row.layer_a, row.layer_b)


@pytest.mark.parametrize("sort", ["agreement", "correlation", "label_f1_a", "twin_r", "feature"])
@pytest.mark.parametrize("descending", [True, False])
def test_pages_of_features_hold_each_once_in_order(
    client: TestClient, ws: Workspace, sort: str, descending: bool
) -> None:
    rows: list[answers.Row] = []
    while True:
        part = ask(
            client,
            f"{NANO}/features",
            sort=sort,
            descending=descending,
            offset=len(rows),
            limit=MOST,
        )
        batch = answers.Features.model_validate(part)
        assert batch.total == 1024 and len(batch.results) <= MOST
        rows += batch.results
        if not batch.results:
            break

    assert sorted(row.feature for row in rows) == list(range(1024))
    values = [getattr(row, sort) for row in rows]
    known = [value for value in values if value is not None]
    assert known and known == sorted(known, reverse=descending)
    assert values[: len(known)] == known, "those without it come last"

    (of,) = search.results(ws, SAE, [rows[3].feature])
    assert rows[3].model_dump() == pytest.approx(of)


def test_a_page_past_the_end_is_empty(client: TestClient) -> None:
    part = ask(client, f"{NANO}/features", offset=5000)
    assert (part["results"], part["total"]) == ([], 1024)


def test_one_feature_has_all_that_is_known(client: TestClient, ws: Workspace) -> None:
    record = ask(client, f"{NANO}/features/7")
    feature = answers.Feature.model_validate(record)
    of = feature_tables.feature_record(ws, SAE, 7)
    for side in ("a", "b"):
        assert record[side] == of[side], side
    assert feature.feature == pytest.approx(of["feature"]) and feature.makers == of["makers"]

    labels = alike.labels(ws, SAE).set_index("feature")
    assert feature.label is not None and feature.label["label"] == labels.label[7]
    kinds = {row["kind"]: row for row in feature.agreement}
    agreement = alike.agreement(ws, SAE).set_index("feature").agreement[7]
    assert kinds[alike.WHOLE]["agreement"] == pytest.approx(agreement)
    twins = {row["kind"]: row for row in feature.twins}
    assert twins[alike.WHOLE]["twin"] == alike.twins(ws, SAE).set_index("feature").twin[7]
    assert {row["side"] for row in feature.twins} == {"a"}


def test_no_text_of_the_corpus_is_in_a_feature(client: TestClient) -> None:
    contexts = ask(client, f"{NANO}/features/7")["a"]["contexts"]
    assert contexts and set(contexts[0]) >= {"document", "ends", "heat"}
    assert not any(isinstance(v, str) and len(v) > 100 for row in contexts for v in row.values())


def test_a_word_is_found_as_the_command_finds_it(client: TestClient, ws: Workspace) -> None:
    found = answers.Found.model_validate(ask(client, f"{NANO}/find", q="French", most=5))
    command = [sys.executable, "-m", "core", "features", "find", "nano", "French", "--json"]
    printed = json.loads(
        subprocess.run([*command, "--most", "5"], cwd=PROJECT, capture_output=True).stdout
    )
    rows = [row.model_dump(exclude_unset=True) for row in found.results]
    assert rows and [row["feature"] for row in rows] == [
        row["feature"] for row in printed["results"]
    ]
    assert rows[0] == pytest.approx(printed["results"][0])


def test_an_empty_find_says_why(client: TestClient) -> None:
    found = answers.Found.model_validate(ask(client, f"{NANO}/find", q="qqqzzzqqq"))
    assert not found.results and found.empty and "neither has the corpus" in found.empty


def test_a_sentence_moves_features(client: TestClient) -> None:
    asked = {"q": TEXT, "by": "sentence", "in": "b", "most": 7}
    found = answers.Found.model_validate(ask(client, f"{NANO}/find", **asked))
    scores = [row.score for row in found.results]
    assert 0 < len(scores) <= 7 and scores == sorted(scores, key=lambda x: -(x or 0))
    assert all(row.share_b is not None and 0 < row.share_b <= 1 for row in found.results)


def test_a_direction_finds_its_own_feature(client: TestClient) -> None:
    asked = {"q": f"feature:{SAE}/7", "by": "direction"}
    found = answers.Found.model_validate(ask(client, f"{NANO}/find", **asked))
    assert found.results[0].feature == 7
    assert found.results[0].cosine == pytest.approx(1, abs=1e-4)


def test_a_text_crosses(client: TestClient) -> None:
    crossed = answers.Crossed.model_validate(ask(client, f"{NANO}/cross", text=TEXT))
    assert "".join(token.text for token in crossed.tokens if not token.special) == TEXT
    assert crossed.stitch == "L2-L3" and crossed.read == len(TEXT)
    assert {"a", "b", "a_to_b", "shuffled_a_to_b"} <= set(crossed.totals)
    loss = crossed.totals["a_to_b"]["loss"]
    assert loss is not None and 0 < loss < 20


@pytest.mark.model
def test_the_large_pair_is_answered_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STITCHLENS_WORKSPACES")
    large = "/pairs/smollm2-gemma3"
    rows = answers.Features.model_validate(ask(client, f"{large}/features", limit=3)).results
    assert len(rows) == 3 and rows[0].agreement is not None
    text = "The capital of France is Paris."
    crossed = answers.Crossed.model_validate(ask(client, f"{large}/cross", text=text))
    assert "".join(token.text for token in crossed.tokens if not token.special) == text


# what is refused

WRONG = [
    ("/pairs/nona/stitches", {}, 404, "no pair named 'nona'"),
    ("/pairs/../../etc/stitches", {}, 404, "GET"),
    (f"/pairs/{'x' * 65}/stitches", {}, 422, "pair ="),
    ("/pairs/smollm2-gemma3/stitches", {}, 404, "no workspace"),
    ("/nothing", {}, 404, "GET /nothing"),
    (f"{NANO}/features", {"sae": "L9"}, 404, "SAE 'L9'"),
    (f"{NANO}/features", {"sae": "../L2-1024"}, 404, "SAE"),
    (f"{NANO}/features", {"sort": "beauty"}, 422, "sort = 'beauty'"),
    (f"{NANO}/features", {"offset": -1}, 422, "offset"),
    (f"{NANO}/features", {"offset": 10**30}, 422, "offset"),
    (f"{NANO}/features", {"limit": 0}, 422, "limit"),
    (f"{NANO}/features", {"limit": MOST + 1}, 422, "limit"),
    (f"{NANO}/features", {"descending": "perhaps"}, 422, "descending"),
    (f"{NANO}/features/1024", {}, 404, "feature 1024"),
    (f"{NANO}/features/-1", {}, 422, "feature = '-1'"),
    (f"{NANO}/features/seven", {}, 422, "feature = 'seven'"),
    (f"{NANO}/features/{'9' * 5000}", {}, 422, "feature ="),
    (f"{NANO}/find", {}, 422, "q = nothing"),
    (f"{NANO}/find", {"q": "x" * 201}, 400, "201 characters"),
    (f"{NANO}/find", {"q": "x" * (LONGEST_SENTENCE + 1)}, 422, "q ="),
    (f"{NANO}/find", {"q": "x", "by": "magic"}, 422, "by ="),
    (f"{NANO}/find", {"q": "x", "in": "c"}, 422, "in ="),
    (f"{NANO}/find", {"q": "x", "most": 10**9}, 422, "most"),
    (f"{NANO}/find", {"q": " ", "by": "sentence"}, 400, "an empty text"),
    (f"{NANO}/find", {"q": "file:/etc/passwd", "by": "direction"}, 400, "names a file"),
    (f"{NANO}/find", {"q": " FILE:/etc/passwd", "by": "direction"}, 400, "names a file"),
    (f"{NANO}/find", {"q": "concept:/etc/passwd,/etc/hosts", "by": "direction"}, 400, "a file"),
    (f"{NANO}/find", {"q": "vector:nothing", "by": "direction"}, 400, "nothing"),
    (f"{NANO}/find", {"q": "vector:../../x", "by": "direction"}, 400, "x"),
    (f"{NANO}/find", {"q": f"feature:{SAE}/99999", "by": "direction"}, 400, "99999"),
    (f"{NANO}/find", {"q": "feature:/", "by": "direction"}, 400, "feature"),
    (f"{NANO}/find", {"q": "lang:xx", "by": "direction"}, 400, "xx"),
    (f"{NANO}/find", {"q": "", "by": "direction"}, 400, "source"),
    (f"{NANO}/cross", {}, 422, "text = nothing"),
    (f"{NANO}/cross", {"text": ""}, 400, "an empty text"),
    (f"{NANO}/cross", {"text": "\n\t "}, 400, "an empty text"),
    (f"{NANO}/cross", {"text": "x" * (LONGEST_TEXT + 1)}, 422, "text ="),
    (f"{NANO}/cross", {"text": TEXT, "direction": "a_to_c"}, 422, "direction ="),
    (f"{NANO}/cross", {"text": TEXT, "control": "best"}, 422, "control ="),
    (f"{NANO}/cross", {"text": TEXT, "stitch": "L9-L9"}, 404, "stitch 'L9-L9'"),
    (f"{NANO}/cross", {"text": TEXT, "stitch": "x" * 201}, 422, "stitch ="),
]


@pytest.mark.parametrize(("path", "asked", "status", "says"), WRONG)
def test_a_wrong_parameter_is_said(
    client: TestClient, path: str, asked: dict[str, Any], status: int, says: str
) -> None:
    code, problem = refused(client, path, **asked)
    assert (code, says in problem.found) == (status, True), problem
    assert problem.wanted and problem.do and len(problem.found) <= 300


@pytest.mark.parametrize(
    "garbage", ["\0", "\ud800", "%", "🙂" * 50, "'; DROP TABLE", "-1e999", "[]"]
)
def test_every_parameter_wrong_at_once_never_breaks_it(client: TestClient, garbage: str) -> None:
    openapi = ask(client, "/openapi.json")
    word = quote(garbage, errors="surrogatepass", safe="")
    for path, methods in openapi["paths"].items():
        parts = methods["get"].get("parameters", [])
        names = [part["name"] for part in parts if part["in"] == "query"]
        for pair in ("nano", word):
            address = path.replace("{pair}", pair).replace("{feature}", word)
            reply = client.get(f"{address}?" + "&".join(f"{name}={word}" for name in names))
            if address == "/pairs" or (pair == "nano" and address.endswith("/stitches")):
                assert reply.status_code == 200
            else:
                assert 400 <= reply.status_code < 500, (address, reply.text)
                Problem.model_validate_json(reply.text)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(client: TestClient, method: str) -> None:
    for path in ("/pairs", f"{NANO}/features", f"{NANO}/features/7", f"{NANO}/cross"):
        reply = client.request(method, path, content=b"{" * 1000)
        assert reply.status_code == 405
        Problem.model_validate_json(reply.text)


def test_only_this_machine_is_answered(client: TestClient) -> None:
    """A page of the web whose name was led here learns nothing."""
    reply = client.get("/pairs", headers={"host": "evil.example:8601"})
    assert (
        reply.status_code == 400 and "evil.example" in Problem.model_validate_json(reply.text).found
    )
    for host in ("localhost:8601", "127.0.0.1", "[::1]:8601"):
        assert client.get("/pairs", headers={"host": host}).status_code == 200
    assert (
        "access-control-allow-origin"
        not in client.get("/pairs", headers={"origin": "https://evil.example"}).headers
    )


def test_nothing_private_is_served(
    client: TestClient, ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Workspace("nano", ws.root.parent, tmp_path / "me")
    owner.put_table("features/brought", ws.table(f"features/{SAE}"), {})
    assert "brought" in feature_tables.saes(owner), "else this proves nothing"
    assert refused(client, f"{NANO}/features", sae="brought")[0] == 404

    monkeypatch.setenv("STITCHLENS_PRIVATE", str(tmp_path / "me"))
    assert "brought" not in json.dumps(ask(client, "/pairs"))
    for path in ("stitches", "features", "features/7", "find", "cross"):
        code, problem = refused(client, f"{NANO}/{path}", q="x", text=TEXT)
        assert code == 400 and "STITCHLENS_PRIVATE" in problem.found


def test_a_damaged_workspace_is_said(
    client: TestClient, ws: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "manifest.json").write_text("{")
    monkeypatch.setenv("STITCHLENS_WORKSPACES", str(tmp_path))
    assert refused(client, f"{NANO}/features")[0] == 400
    assert ask(client, "/pairs")["pairs"], "other pairs are still listed"


# within bounds


def test_a_demonstration_has_its_bounds(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    monkeypatch.setenv("STITCHLENS_DEMO_CHARACTERS", "40")
    monkeypatch.setenv("STITCHLENS_DEMO_RUNS", "2")
    demonstration.GATE.forget()
    for path, asked in (
        ("cross", {"text": "x" * 41}),
        ("find", {"q": "x" * 41, "by": "sentence"}),
        ("find", {"q": "lang:" + "x" * 36, "by": "direction"}),
    ):
        code, problem = refused(client, f"{NANO}/{path}", **asked)
        assert (code, problem.found) == (400, "41 characters of text"), (path, problem)

    ask(client, f"{NANO}/cross", text=TEXT)
    ask(client, f"{NANO}/find", q=TEXT, by="sentence")
    code, problem = refused(client, f"{NANO}/cross", text=TEXT)
    assert code == 429 and "within a minute" in problem.found and problem.do.startswith("wait")
    ask(client, f"{NANO}/features/7")
    demonstration.GATE.forget()


def test_who_asks_too_soon_is_told_when_to_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second that Retry-After names is the first that is answered."""
    clock = [1000.0]
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    monkeypatch.setenv("STITCHLENS_DEMO_RUNS", "1")
    monkeypatch.setattr(demonstration, "GATE", demonstration.Gate(lambda: clock[0]))
    asked = {"text": TEXT, "control": "none"}
    assert client.get(f"{NANO}/cross", params=asked).status_code == 200

    clock[0] += 12.5
    reply = client.get(f"{NANO}/cross", params=asked)
    assert reply.status_code == 429 and reply.headers["Retry-After"] == "48"
    clock[0] += 47
    reply = client.get(f"{NANO}/cross", params=asked)
    assert reply.status_code == 429 and reply.headers["Retry-After"] == "1"
    clock[0] += 1
    assert client.get(f"{NANO}/cross", params=asked).status_code == 200

    monkeypatch.setattr(live, "MOST_WAITING", 0)
    monkeypatch.setattr(live, "MODELS", live.Turns("the models"))
    clock[0] += 60
    reply = client.get(f"{NANO}/cross", params=asked)
    assert reply.status_code == 429 and "Retry-After" not in reply.headers


def test_questions_to_models_take_turns_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_WAITING", 3)
    turns = live.Turns("the models")
    inside, most, refusals = 0, 0, []
    free = threading.Event()

    def one() -> None:
        nonlocal inside, most
        try:
            with turns.turn():
                inside += 1
                most = max(most, inside)
                free.wait(10)
                time.sleep(0.01)
                inside -= 1
        except Busy as busy:
            refusals.append(busy)

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    while len(refusals) < 2:
        time.sleep(0.01)
    free.set()
    for thread in threads:
        thread.join()
    assert (most, len(refusals)) == (1, 2)
    with turns.turn():
        pass


def test_too_many_questions_are_429(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_WAITING", 1)
    monkeypatch.setattr(live, "MODELS", live.Turns("the models"))
    with live.MODELS.turn():
        code, problem = refused(client, f"{NANO}/cross", text=TEXT)
    assert code == 429 and "to the models" in problem.found
    ask(client, f"{NANO}/cross", text=TEXT)


# its page, and the command


def test_the_page_lists_every_address_and_its_examples_work(client: TestClient) -> None:
    html = client.get("/").text
    shown = unescape(html)
    openapi = ask(client, "/openapi.json")
    assert len(openapi["paths"]) == 6
    for path, methods in openapi["paths"].items():
        get = methods["get"]
        assert f"GET {path}" in shown and get["description"] in shown
        for part in get.get("parameters", []):
            assert part["description"] in shown
        address = page.example(path, get["operationId"])
        assert client.get(address).status_code == 200, address

    assert not re.search(r"<(script|img|link)|https?://", html), "nothing asks the web"
    assert set(openapi["paths"]["/pairs"]["get"]["responses"]) >= {"200", "400", "404", "429"}


def test_fastapis_own_pages_are_not_there(client: TestClient) -> None:
    """They would fetch scripts from the web."""
    for path in ("/docs", "/redoc"):
        assert refused(client, path)[0] == 404


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind((serve.LOOPBACK, 0))
        taken.listen()
        with pytest.raises(StitchLensError, match="--port"):
            serve.bound(taken.getsockname()[1])
    listener = serve.bound(None)
    assert listener.getsockname()[0] == "127.0.0.1"
    listener.close()


def test_the_command_prints_its_address_and_answers(nano_home: Path) -> None:
    command = [sys.executable, "-m", "core", "api"]
    with socket.socket() as free:
        free.bind((serve.LOOPBACK, 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address and address[0] == f"http://127.0.0.1:{port}/"
        with urlopen(f"{address[0]}pairs", timeout=60) as reply:
            assert answers.Pairs.model_validate_json(reply.read()).pairs

        text = quote("本" * LONGEST_TEXT + "本")
        with pytest.raises(HTTPError) as fault:
            urlopen(f"{address[0]}pairs/nano/cross?text={text}", timeout=60)
        assert fault.value.code == 422
        assert "text" in Problem.model_validate_json(fault.value.read()).found
    finally:
        process.terminate()
        _, faults = process.communicate(timeout=60)
    assert "Traceback" not in faults
