"""A chat address that is down, slow, or answers nonsense is said in words after a few tries; a key
and a text go where they were meant to, and nowhere else."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import StitchLensError
from core.features import chat
from core.features.chat import Remote
from tests.helpers.chatting import Reply, says, serving

MESSAGES = [{"role": "user", "content": "hello"}]


def asker(address: str, waits: list[float] | None = None, seconds: float = 5.0) -> Remote:
    pause: Callable[[float], None] = (waits if waits is not None else []).append
    return Remote(address, "a-model", seconds=seconds, pause=pause)


def test_a_server_that_is_down_is_said_after_a_few_tries() -> None:
    with serving(lambda asked, n: says("x")) as server:
        address = server.address
    waits: list[float] = []
    with pytest.raises(StitchLensError, match=r"in 5 tries \(.*refused") as refusal:
        asker(address, waits).ask(MESSAGES, 10)
    assert waits == [1, 2, 4, 8] and "same command again" in refusal.value.todo


BAD: dict[str, tuple[Reply, str]] = {
    "500": (Reply(500, (b"oops",)), "status 500: oops"),
    "HTML": (Reply(parts=(b"<html>hello</html>",)), "no JSON but '<html>"),
    "empty": (Reply(), "an empty answer"),
    "nothing": (says(""), "without a text"),
    "null": (says(None), "without a text"),
    "a list": (says(["x"]), "without a text"),
    "other JSON": (Reply(parts=(b'{"choices": []}',)), "JSON without choices"),
    "a number": (Reply(parts=(b"7",)), "JSON without choices"),
    "nested": (Reply(parts=(b"[" * 100_000,)), "no JSON but"),
    "huge": (Reply(parts=(b"x" * (2**20 + 1),)), "more than 1,048,576 bytes"),
    "slow": (Reply(parts=(b"{}",), pause=30), "(?i)timed out"),
    "dripping": (Reply(parts=(b" ",) * 100, pause=0.1), "not whole after 0.5 s"),
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_is_asked_for_again_and_then_said(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, words = BAD[what]
    monkeypatch.setattr(chat, "TRIES", 2)
    waits: list[float] = []
    with serving(lambda asked, n: reply) as server:
        with pytest.raises(StitchLensError, match=words):
            asker(server.address, waits, seconds=0.5 if reply.pause else 20).ask(MESSAGES, 10)
        assert len(server.asked) == 2 and waits == [1]


def test_a_server_that_recovers_is_believed() -> None:
    bad = [Reply(503), Reply(parts=(b"<p>",)), Reply(429, headers=(("Retry-After", "7"),))]
    waits: list[float] = []
    with serving(lambda asked, n: bad[n] if n < 3 else says("well")) as server:
        assert asker(server.address, waits).ask(MESSAGES, 10) == "well"
    assert waits == [1, 2, 7]
    sent = server.asked[0]
    assert sent.path == "/v1/chat/completions" and "Authorization" not in sent.headers
    assert sent.body == {
        "model": "a-model",
        "messages": MESSAGES,
        "max_tokens": 10,
        "temperature": 0,
    }


def test_a_long_wait_is_left_to_the_person() -> None:
    for header in ("3600", "Wed, 01 Jan 2200 00:00:00 GMT"):
        reply = Reply(429, headers=(("Retry-After", header),))
        with (
            serving(lambda asked, n, reply=reply: reply) as server,
            pytest.raises(StitchLensError, match=r"asks to wait [\d,]+ s"),
        ):
            asker(server.address).ask(MESSAGES, 10)
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 422])
def test_what_will_not_go_well_is_not_tried_again(status: int) -> None:
    secret = "sk-very-secret"
    body = json.dumps({"error": {"message": f"wrong key {secret}"}}).encode()

    with serving(lambda asked, n: says("x")) as elsewhere:
        reply = Reply(status, (body,), (("Location", f"{elsewhere.address}/chat/completions"),))
        with serving(lambda asked, n: reply) as server:
            one = Remote(server.address, "a-model", secret, pause=lambda seconds: None)
            with pytest.raises(StitchLensError, match=f"status {status}") as refusal:
                one.ask(MESSAGES, 10)
        assert len(server.asked) == 1 and not elsewhere.asked, "nothing goes to another place"
    assert server.asked[0].headers["Authorization"] == f"Bearer {secret}"
    assert secret not in str(refusal.value) and "wrong key" in str(refusal.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:8000",
        "ftp://localhost/v1",
        "http://",
        "http://a:b@localhost/v1",
        "http://localhost:99999/v1",
        "http://local host/v1",
        "http://localhost/v1?key=x",
        "file:///etc/passwd",
        "http://[::1/v1",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(StitchLensError):
        chat.endpoint(address)


def test_a_key_does_not_go_over_the_net_in_the_open() -> None:
    with pytest.raises(StitchLensError, match="in the open"):
        Remote("http://example.com/v1", "x", "key")
    Remote("https://example.com/v1", "x", "key")
    Remote("http://[::1]:80/v1", "x", "key")
    assert chat.endpoint("http://localhost/v1/chat/completions/").count("chat") == 1
    for wrong in ("a b", "a\nb", "ключ"):
        with pytest.raises(StitchLensError, match="blanks or special"):
            Remote("http://localhost/v1", "x", wrong)


def test_an_answer_may_be_packed_or_come_in_pieces() -> None:
    (whole,) = says("well").parts
    packed = gzip.compress(whole)
    pieces = tuple(whole[k : k + 5] for k in range(0, len(whole), 5))
    for reply in (
        Reply(parts=(packed,), headers=(("Content-Encoding", "gzip"),)),
        Reply(parts=pieces, pause=0.01),
    ):
        with serving(lambda asked, n, reply=reply: reply) as server:
            assert asker(server.address).ask(MESSAGES, 10) == "well"


def test_a_line_that_was_cut_short_is_asked_again(tmp_path: Path) -> None:
    with serving(lambda asked, n: says(f"answer {n}")) as server:
        path = tmp_path / "answers.jsonl"
        one = asker(server.address)
        for _ in range(2):
            answers = chat.Answers(one, path)
            answer, key = answers.ask(MESSAGES, 10)
            answers.keep(key, answer)
        assert len(server.asked) == 1

        path.write_bytes(path.read_bytes()[:-3])
        answers = chat.Answers(one, path)
        answer, key = answers.ask(MESSAGES, 10)
        answers.keep(key, answer)
        assert (answer, len(server.asked)) == ("answer 1", 2)
        assert chat.Answers(one, path).ask(MESSAGES, 10)[0] == "answer 1"
