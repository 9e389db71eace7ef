"""A server on this machine that answers as an OpenAI-compatible one does, well or badly."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """What goes over the wire: `parts` of the body, `pause` seconds before each."""

    status: int = 200
    parts: tuple[bytes, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    pause: float = 0.0


def says(text: Any) -> Reply:
    """A good answer."""
    message = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return Reply(parts=(json.dumps(message).encode(),))


class Asked(NamedTuple):
    """A question that came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """What is asked at the end."""
        return self.body["messages"][-1]["content"]


Responder = Callable[[Asked, int], Reply]
"""(question, how many came before it) to a reply."""


class Server:
    """Where it is, and what it was asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[Asked] = []


@contextmanager
def serving(respond: Responder) -> Iterator[Server]:
    ended = threading.Event()
    known: list[Server] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            asked = Asked(self.path, dict(self.headers), body)
            server = known[0]
            server.asked.append(asked)
            reply = respond(asked, len(server.asked) - 1)
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(sum(map(len, reply.parts))))
            self.end_headers()
            for part in reply.parts:
                if ended.wait(reply.pause):
                    return
                try:
                    self.wfile.write(part)
                    self.wfile.flush()
                except OSError:  # who asked has gone
                    return

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    known.append(Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1"))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield known[0]
    finally:
        ended.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
