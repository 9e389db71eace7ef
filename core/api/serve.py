"""The API on a port of this machine, for this machine alone."""

import socket
from collections.abc import Callable

from core.errors import StitchLensError

LOOPBACK = "127.0.0.1"
USUAL = 8601
TRIES = 20
"""Ports from USUAL on that are tried."""
LONGEST_HEAD = 256 * 1024
"""Bytes of an address: a text of 20,000 letters in any script, escaped."""


def bound(port: int | None) -> socket.socket:
    """A socket that listens on `port`, or on the first free one from USUAL on. Raises
    StitchLensError where it is taken."""
    ports = range(USUAL, USUAL + TRIES) if port is None else (port,)
    for one in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, one))
        except OSError:
            listener.close()
            continue
        return listener

    raise StitchLensError(
        f"port {ports[0]} that cannot be had",
        "a free one above 1023",
        "name another by --port (PORT with make)",
    )


def serve(port: int | None, told: Callable[[str], None]) -> None:
    """Answer until it is stopped; `told` hears the address once it is open."""
    import uvicorn

    from core.api.app import create_app

    listener = bound(port)
    config = uvicorn.Config(
        create_app(),
        http="h11",
        ws="none",
        log_level="warning",
        server_header=False,
        h11_max_incomplete_event_size=LONGEST_HEAD,
    )
    listener.listen()
    told(f"http://{LOOPBACK}:{listener.getsockname()[1]}/")
    uvicorn.Server(config).run(sockets=[listener])
