"""One browser session without the browser: it speaks Streamlit's protocol (BackMsg and ForwardMsg
over a websocket)."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

PATIENCE = 300.0
"""Seconds in which a script must end."""


@dataclass
class Run:
    """What a script drew."""

    seconds: float = 0.0
    """From the request to the end of the script."""
    elements: dict[tuple[int, ...], Element] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Exceptions, errors and warnings on the page, and whatever else should not come from the
    server."""

    def of(self, kind: str) -> list[Any]:
        return [getattr(e, kind) for e in self.elements.values() if e.WhichOneof("type") == kind]

    def headings(self) -> list[str]:
        return [h.body for h in self.of("heading")]

    def widget(self, kind: str, label: str) -> Any:
        """The widget with this label, or None."""
        return next((w for w in self.of(kind) if w.label == label), None)


class Session:
    """A tab: a websocket and the pages that its server told of."""

    def __init__(self, url: str, socket: ClientConnection) -> None:
        self.url, self.socket = url, socket
        self.pages: dict[str, str] = {}
        """Script hash by page name; the first page's is ''."""
        self.page = ""
        self.last = Run()

    async def ask(
        self,
        page: str | None = None,
        query: str = "",
        widgets: Iterable[WidgetState] = (),
        back: bool = False,
        heard: Callable[[Run], None] = lambda run: None,
    ) -> Run:
        """Rerun the script, on another `page` if one is named, and wait for its end; `back` is the
        browser's Back or Forward to this address. `heard` is called after every message."""
        message = BackMsg()
        message.rerun_script.query_string = query
        message.rerun_script.widget_states.widgets.extend(widgets)
        message.rerun_script.is_history_navigation = back
        message.rerun_script.context_info.url = f"{self.url}/{page or self.page}"
        if page is not None:
            self.page = page
        if self.page in self.pages:
            message.rerun_script.page_script_hash = self.pages[self.page]
        else:
            message.rerun_script.page_name = self.page
        run, began = Run(), time.perf_counter()
        try:
            await self.socket.send(message.SerializeToString())
            async with asyncio.timeout(PATIENCE):
                await self._listen(run, heard)
        except TimeoutError:
            run.faults.append(f"no end of the script within {PATIENCE:.0f} s")
        run.seconds = time.perf_counter() - began
        run.faults += [f"exception: {e.type} {e.message}" for e in run.of("exception")]
        shown = [a for a in run.of("alert") if a.format in (Alert.ERROR, Alert.WARNING)]
        run.faults += [f"on the page: {a.body[:200]}" for a in shown]
        self.last = run
        return run

    async def _listen(self, run: Run, heard: Callable[[Run], None]) -> None:
        """Until the script is over, and those that it starts itself by a rerun."""
        async for data in self.socket:
            assert isinstance(data, bytes)
            message = ForwardMsg.FromString(data)
            match message.WhichOneof("type"):
                case "new_session":
                    run.elements.clear()
                case "navigation":
                    self.pages = {
                        p.url_pathname: p.page_script_hash for p in message.navigation.app_pages
                    }
                    first = next((p for p in message.navigation.app_pages if p.is_default), None)
                    if first is not None:
                        self.pages[""] = first.page_script_hash
                case "delta":
                    path = tuple(message.metadata.delta_path)
                    if message.delta.WhichOneof("type") == "new_element":
                        run.elements[path] = message.delta.new_element
                    elif (
                        message.delta.WhichOneof("type") == "add_block"
                    ):  # what was below it is gone
                        run.elements = {
                            p: e for p, e in run.elements.items() if p[: len(path)] != path
                        }
                case "page_not_found":
                    run.faults.append(f"no page '{message.page_not_found.page_name}'")
                case "session_event" if message.session_event.HasField(
                    "script_compilation_exception"
                ):
                    run.faults.append(
                        "did not compile:"
                        f" {message.session_event.script_compilation_exception.message}"
                    )
                case "script_finished":
                    if message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                        run.faults.append("the script did not compile")
                    if message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                        return
            heard(run)
        run.faults.append("the server closed the connection")

    async def fetch(self, path: str) -> bytes:
        """A file that the page offers."""
        return await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"{self.url}{path}", timeout=30).read()
        )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Session]:
    address = url.replace("http", "ws", 1) + "/_stcore/stream"
    async with connect(address, subprotocols=["streamlit"], max_size=None, origin=url) as socket:  # type: ignore[arg-type]
        yield Session(url, socket)
