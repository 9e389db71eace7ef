"""Ask a model behind an OpenAI-compatible chat address, within bounds: of time, of the answer's
size, of how often it is tried again. What was answered is kept in the user's cache, so that the
same questions are not asked twice.
"""

import contextlib
import email.utils
import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from core.errors import StitchLensError, printable
from core.features.delphi import Messages
from core.workspace import demonstration
from core.workspace.disk import disk_faults, fingerprint, only_one
from core.workspace.places import user_cache
from core.workspace.untrusted import first_line

TRIES = 5
"""Of one question, before it is given up."""
CONNECT_SECONDS = 10.0
LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait."""
LARGEST_ANSWER = 2**20
"""Bytes."""
LATER = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses of what may go well the next time."""
ENDPOINT = "/chat/completions"
AGAIN = "what was answered is kept: give the same command again"


@runtime_checkable
class Asker(Protocol):
    """Whoever answers a chat."""

    @property
    def who(self) -> dict[str, Any]:
        """What its answers depend on."""
        ...

    @property
    def title(self) -> str:
        """As a person reads who said it."""
        ...

    def ask(self, messages: Messages, tokens: int) -> str:
        """Its answer, of at most so many tokens. Raises StitchLensError."""
        ...


class Fault(Exception):
    """Why there is no answer this time; `wait`, seconds that the server asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def endpoint(address: str) -> str:
    """Where questions to an address go. Raises StitchLensError for what is none."""
    wanted = "an address such as http://localhost:8000/v1"
    try:
        parts = urlsplit(address)
        _ = parts.port  # out of range, it raises
    except ValueError as e:
        raise StitchLensError(f"address '{address}' ({e})", wanted, "check it") from None
    if parts.username or parts.password:
        raise StitchLensError(
            "an address with a name or password in it",
            wanted,
            "put the key into a variable and name that with --key-from-env",
        )
    usual = parts.scheme in ("http", "https") and parts.hostname
    if not usual or parts.query or parts.fragment or not address.isprintable() or " " in address:
        raise StitchLensError(f"address '{address}'", wanted, "check it")
    return address.rstrip("/").removesuffix(ENDPOINT) + ENDPOINT


def is_local(address: str) -> bool:
    """Whether it is an address of this machine."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class _Key(AuthBase):
    """The key, and nothing that the system's .netrc says of the host."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _Session(requests.Session):
    """It goes nowhere else."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: else it would read a redirection's text, however long."""
        return


class Remote:
    """A model behind a chat address. Redirections are not followed: nothing goes to another
    place.

    Raises StitchLensError for an address that is none, and for a key that would go over the net in
    the open.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None = None,
        seconds: float = 120.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """An answer may take so many `seconds`; between two tries it waits by `pause`."""
        self.endpoint = endpoint(address)
        self.address, self.model = address, model
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise StitchLensError(
                "a key with blanks or special characters",
                "letters, digits and signs alone",
                "check the variable that --key-from-env names",
            )
        if key and not is_local(address) and not address.startswith("https:"):
            raise StitchLensError(
                f"a key for {address}, over the net in the open",
                "an address that begins with https:",
                "use that, or leave --key-from-env out",
            )
        self._key, self._seconds, self._pause = key, seconds, pause
        self._session = _Session()
        self._session.auth = _Key(key)
        self._session.trust_env = not is_local(address)  # no proxy between this machine and itself

    @property
    def who(self) -> dict[str, Any]:
        return {"address": self.endpoint, "model": self.model}

    @property
    def title(self) -> str:
        return printable(f"{self.model} at {urlsplit(self.address).netloc}", 120)

    def ask(self, messages: Messages, tokens: int) -> str:
        demonstration.refuse("a question to a model elsewhere")
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
        }
        why = ""
        for attempt in range(TRIES):
            try:
                return self._once(body)
            except Fault as fault:
                why, wait = str(fault), fault.wait
            if wait is not None and wait > LONGEST_WAIT:
                raise StitchLensError(
                    f"{self.address}, which asks to wait {wait:,.0f} s ({why})",
                    "an answer",
                    f"wait as long; {AGAIN}",
                )
            if attempt + 1 < TRIES:
                self._pause(2.0**attempt if wait is None else wait)
        raise StitchLensError(
            f"no answer of {self.endpoint} in {TRIES} tries ({why})",
            "one of an OpenAI-compatible server",
            f"check that it runs there and knows model {self.model}; {AGAIN}",
        )

    def _once(self, body: dict[str, Any]) -> str:
        """Raises Fault for what may go well the next time, StitchLensError for what will not."""
        ends = time.monotonic() + self._seconds
        try:
            with self._session.post(
                self.endpoint,
                json=body,
                timeout=(CONNECT_SECONDS, self._seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                raw = self._bounded(response, ends)
        except (requests.RequestException, HTTPError, OSError, ValueError) as e:
            raise Fault(self._quote(_first_cause(e))) from None

        if response.status_code in LATER:
            why = f"status {response.status_code}: {self._quote(_message(raw))}"
            raise Fault(why, _seconds_of(response.headers.get("Retry-After")))
        if response.status_code != 200:
            to = ", a redirection, which is not followed" if response.is_redirect else ""
            raise StitchLensError(
                f"status {response.status_code} of {self.endpoint}{to}"
                f" ({self._quote(_message(raw))})",
                "an answer of an OpenAI-compatible server",
                "check --address, --model and --key-from-env",
            )
        return _content(raw)

    def _bounded(self, response: requests.Response, ends: float) -> bytes:
        """The whole of an answer. Raises Fault where it is too long, or comes too slowly."""
        raw = bytearray()
        while part := response.raw.read1(2**14, decode_content=True):  # what is there, no more
            raw += part
            if len(raw) > LARGEST_ANSWER:
                raise Fault(f"more than {LARGEST_ANSWER:,} bytes")
            if time.monotonic() > ends:
                raise Fault(f"not whole after {self._seconds:g} s")
        return bytes(raw)

    def _quote(self, text: str) -> str:
        """What a server says, without the key."""
        if self._key:
            text = text.replace(self._key, "…")
        return printable(text, 120)


def _first_cause(e: BaseException) -> str:
    """What went wrong at the bottom of it, as the system says it."""
    while (cause := e.__cause__ or e.__context__) is not None:
        e = cause
    return first_line(e)


def _message(raw: bytes) -> str:
    """The server's own words for a fault."""
    try:
        error = json.loads(raw)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw[:200].decode("utf-8", "replace")


def _content(raw: bytes) -> str:
    """The text of an answer. Raises Fault."""
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        start = printable(raw[:60].decode("utf-8", "replace"), 60)
        raise Fault(f"no JSON but '{start}'" if raw else "an empty answer") from None
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise Fault("JSON without choices[0].message.content") from None
    if not isinstance(content, str) or not content.strip():
        raise Fault("an answer without a text")
    return content


def _seconds_of(retry_after: str | None) -> float | None:
    """Of the header Retry-After, a number or a date; None where it says nothing."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        when = email.utils.parsedate_to_datetime(retry_after)
        return max(0.0, when.timestamp() - time.time())
    return None


# what was answered


class Answers:
    """An asker's answers, kept in a file that only grows; a line that a kill cut short is left
    out."""

    def __init__(self, asker: Asker, path: Path) -> None:
        self._asker, self._path = asker, path
        self._known = dict(_answers(path))
        self.understood: Callable[[], None] = lambda: None
        """Called after each answer that made sense."""

    @staticmethod
    def key(messages: Messages) -> str:
        return fingerprint(messages)

    def ask(self, messages: Messages, tokens: int) -> tuple[str, str]:
        """(answer, key): the answer is kept by `keep` once it was understood."""
        key = self.key(messages)
        return self._known.get(key) or self._asker.ask(messages, tokens), key

    def keep(self, key: str, answer: str) -> None:
        if key in self._known:
            return
        self._known[key] = answer
        line = "\n" + json.dumps({"key": key, "answer": answer})  # the line before may be cut short
        with disk_faults(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)


def _answers(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        return
    with disk_faults(path), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                yield str(record["key"]), str(record["answer"])


@contextlib.contextmanager
def kept_answers(asker: Asker, pair: str) -> Iterator[Answers]:
    """An asker's answers on a pair; one process at a time writes to them."""
    with only_one(pair, "explainer"):
        name = f"{pair}-{fingerprint(asker.who)}.jsonl"
        yield Answers(asker, user_cache() / "explainer" / name)
