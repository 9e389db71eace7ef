"""Seconds from `streamlit run app.py` to the first page in Chromium, and how long a page switch
takes.

The second of two starts is timed (the first warms the disk and compiles), from the process's start
to tiles that are drawn; Chromium is open before. A switch is timed in the browser, from the click
on a page's name to the frame in which its heading stands and its own part is drawn: the tiles of
the first page, the heatmap of Stitches. A first visit is one that a server gets as soon as it
answers, from the request to the frame in which the page rests: its script is over, and nothing is
left to be drawn.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, ConsoleMessage, Page, TimeoutError, sync_playwright

from benchmarks._measure import Benchmark, Line, percentile, say
from core.workspace.places import PROJECT, workspaces_dir

PAIR = "smollm2-gemma3"
HOME = "StitchLens"
DRAWN_PARTS = {
    HOME: ".st-key-tiles [data-testid=stPageLink]:last-of-type",
    "Stitches": ".st-key-svcca .js-plotly-plot .main-svg .heatmaplayer image",
}
"""What each page has when it is drawn, by its heading, which is also its name in the sidebar."""
PAGES = (
    "overview",
    "crossing",
    "stitches",
    "features",
    "functional",
    "steering",
    "probes",
    "training",
    "paper",
    "pair",
    "glossary",
)
"""By their address, each of which may be what a server hears first; the first page has none."""
RESTS = """() => {
  const app = document.querySelector('[data-testid=stApp]');
  const plots = [...document.querySelectorAll('[data-testid=stPlotlyChart]')];
  return !!document.querySelector('[data-testid=stMain] h1')
    && app?.dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-testid=stSkeleton]')
    && plots.every(plot => plot.querySelector('.main-svg'));
}"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

DRAWN = """([heading, part]) => {
  const title = document.querySelector('[data-testid="stMain"] h1');
  const drawn = document.querySelector(part);
  return !!title && title.innerText.trim() === heading
    && !!drawn && drawn.getBoundingClientRect().height > 0;
}"""
"""The page's heading stands and its part is drawn."""
SWITCH = f"""async ([name, part]) => {{
  const drawn = {DRAWN};
  const links = [...document.querySelectorAll('[data-testid="stSidebarNav"] a')];
  const link = links.find(a => a.innerText.trim().endsWith(name));
  if (!link) throw new Error(`no page named ${{name}} in the sidebar`);
  const started = performance.now();
  link.click();
  return await new Promise((done, fail) => {{
    const look = () => {{
      if (drawn([name, part])) done(performance.now() - started);
      else if (performance.now() - started > 60000)
        fail(new Error(`${{name}} was not drawn within 60 s`));
      else requestAnimationFrame(look);
    }};
    requestAnimationFrame(look);
  }});
}}"""


def chromium() -> str:
    """STITCHLENS_CHROMIUM, or the first on PATH. Leaves with one sentence where there is none."""
    names = [os.environ.get("STITCHLENS_CHROMIUM"), *map(shutil.which, CHROMIUM)]
    found = next((name for name in names if name), None)
    if found is None:
        sys.exit(
            f"No Chromium on PATH (looked for {', '.join(CHROMIUM)}); STITCHLENS_CHROMIUM can name"
            " one."
        )
    return found


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass(frozen=True)
class Server:
    """The app: where it answers, when it was started (`time.perf_counter`), its process."""

    address: str
    started: float
    process: psutil.Process

    def rest(self) -> None:
        """Wait until the models are open and nothing is computed: two seconds in a row with less
        than a tenth of a core."""
        quiet = 0
        while quiet < 2:
            quiet = quiet + 1 if self.process.cpu_percent(1.0) < 10 else 0


@contextlib.contextmanager
def serving(workspaces: Path | None = None) -> Iterator[Server]:
    """The app in a process of its own, once it answers. Ended on leaving."""
    environment = os.environ | (
        {} if workspaces is None else {"STITCHLENS_WORKSPACES": str(workspaces)}
    )
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.address",
        "127.0.0.1",
        "--server.port",
        str(port),
        "--server.headless",
        "true",
    ]
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not _answers(address):
                if process.poll() is not None or time.perf_counter() - started > 120:
                    log.seek(0)
                    sys.exit(
                        f"The app did not start:\n{log.read().decode(errors='replace')[-2000:]}"
                    )
                time.sleep(0.02)
            yield Server(address, started, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def painted(page: Page, name: str) -> None:
    """Wait for a page to be drawn."""
    try:
        arguments = [name, DRAWN_PARTS[name]]
        page.wait_for_function(DRAWN, arg=arguments, timeout=300_000, polling="raf")
    except TimeoutError:
        shown = page.inner_text("body")[:400].replace("\n", " / ")
        sys.exit(f"{name} was not drawn within 300 s. The page shows: {shown}")


def first_paint(browser: Browser) -> float:
    """Seconds from starting the app's process to the drawn first page, in a fresh browser
    profile."""
    with serving() as server:
        page = browser.new_page()
        page.goto(f"{server.address}/?pair={PAIR}")
        painted(page, HOME)
        took = time.perf_counter() - server.started
        page.close()
    return took


def switches(browser: Browser, count: int) -> tuple[dict[str, list[float]], list[str]]:
    """Seconds of each switch by the page switched to, after one of each that warms up; and errors
    of the console."""
    times: dict[str, list[float]] = {name: [] for name in DRAWN_PARTS}
    errors: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    with serving() as server:
        page = browser.new_page()
        page.on("console", listen)
        page.goto(f"{server.address}/?pair={PAIR}")
        painted(page, HOME)
        for k in range(count + 2):
            name = ("Stitches", HOME)[k % 2]
            took = page.evaluate(SWITCH, [name, DRAWN_PARTS[name]]) / 1000
            if k >= 2:
                times[name].append(took)
            page.wait_for_timeout(300)
        page.close()
    return times, errors


def first_visit(browser: Browser, address_of_page: str) -> float:
    """Seconds from the first request to a server that has just begun to answer to the page at
    rest."""
    with serving() as server:
        page = browser.new_page()
        started = time.perf_counter()
        path = "" if address_of_page == "overview" else address_of_page
        page.goto(f"{server.address}/{path}?pair={PAIR}")
        page.wait_for_function(RESTS, timeout=300_000, polling="raf")
        took = time.perf_counter() - started
        page.close()
    return took


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Line]]:
    if not (workspaces_dir() / PAIR / "manifest.json").exists():
        sys.exit(
            f"No workspace of {PAIR} in {workspaces_dir()}: run `python -m core build {PAIR}`"
            " first."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        say("first start")
        cold = first_paint(browser)
        say("second start")
        starts = [first_paint(browser) for _ in range(args.starts)]
        say(f"{args.switches} page switches")
        times, errors = switches(browser, args.switches)
        visits = {}
        for page in PAGES:
            say(f"{page}, a server's first request")
            visits[page] = [first_visit(browser, page) for _ in range(args.starts)]
        browser.close()
    every = [t for ts in times.values() for t in ts]
    lines = [
        Line("start to first paint, the first time here", cold, "s"),
        Line.median("start to first paint, again", starts, "s", at_most=10),
        Line("page switch, p50", percentile(every, 0.5), "s"),
        Line("page switch, p95", percentile(every, 0.95), "s", at_most=1),
        *(Line.median(f"page switch to {name}", ts, "s") for name, ts in times.items()),
        Line("page switch, slowest", max(every), "s"),
        Line("errors on the console", len(errors), note=errors[0][:120] if errors else ""),
        *(
            Line.median(f"first visit of a fresh server, {page}", ts, "s", at_most=2.5)
            for page, ts in visits.items()
        ),
    ]
    return {"pair": PAIR, "switches": args.switches, "browser": Path(chromium()).name}, lines


def main() -> None:
    p = Benchmark("app", __doc__)
    p.add("--switches", type=int, default=20, help="page switches, half to each page")
    p.add("--starts", type=int, default=3, help="starts after the first")
    args = p.options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the app is ended too
    settings, lines = run(args)
    p.show("app: start to first paint, page switch", settings, lines)


if __name__ == "__main__":
    main()
