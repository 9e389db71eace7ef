"""What pages share to show: background jobs, what a person brought, doors, refusals, warnings."""

import time
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from core import jobs
from core.errors import StitchLensError
from core.workspace import artifacts, demonstration, uploads
from core.workspace.store import Workspace
from pages.shared.frame import mine, section
from pages.shared.words import count, duration, named, plain, sentence

STALE = 3600
"""Seconds after which a job that is over is no longer news."""


def job_panel(pair: str) -> None:
    """The pair's latest job: progress, time left and cancel while it runs, then what came of it
    until dismissed. A demonstration has no jobs."""
    job = None if demonstration.active() else jobs.latest(pair)
    if job is None or (job.over and (time.time() - job.ended > STALE or not _visible(job))):
        return
    st.fragment(_job, run_every=None if job.over else 1.0)(pair, job.id, not job.over)


def _visible(job: jobs.Job) -> bool:
    """Whether it is everyone's, or this browser's own."""
    return job.record.private in (None, str(mine()))


def _job(pair: str, shown: str, was_running: bool) -> None:
    job = jobs.latest(pair)
    if job is None or job.id != shown:
        st.rerun()
    state = job.state
    title = sentence(job.record.title)
    if was_running and job.over:
        if state == "done" and _visible(job) and job.record.makes.startswith("stitches/"):
            st.session_state["show_stitch"] = job.record.makes.removeprefix("stitches/")
        st.rerun()
    with st.container(border=True, key="job"):
        if not _visible(job):
            st.markdown(
                ":material/hourglass_top: Somebody's private job is running; yours can start"
                " after it."
            )
        elif not job.over:
            _progress(job, title)
        elif state == "done":
            st.markdown(f":material/check: **{title}** is done, in {duration(job.seconds)}.")
        elif state == "cancelled":
            st.markdown(f":material/block: **{title}**: {sentence(job.message)}")
        else:
            st.error(f"**{title}** {state}. {sentence(job.message)}", icon=":material/error:")
            if job.log.strip():
                with st.expander("Its last output"):
                    st.code(job.log[-4000:], language=None, wrap_lines=True)
        if job.over:
            with st.container(horizontal=True):
                if state != "done" and st.button(
                    "Go on", key=f"again-{job.id}", help="From where it was."
                ):
                    with section():
                        job.again()
                        st.rerun()
                if st.button("Dismiss", key=f"dismiss-{job.id}"):
                    job.forget()
                    st.rerun()


def _progress(job: jobs.Job, title: str) -> None:
    now = job.progress
    done, total, unit = now.get("done") or 0, now.get("total"), now.get("unit", "")
    parts = [sentence(now.get("step") or "Starting")]
    if done or total:  # a total is an estimate: work may go past it
        parts.append(
            f"{count(done)}{f' of {count(total)}' if total and done <= total else ''}"
            f" {sentence(unit)}"
        )
    if rate := now.get("rate"):
        parts.append(f"{count(rate)} {sentence(unit)}/s")
    if (left := now.get("seconds_left")) is not None and left >= 0:
        parts.append(f"{duration(left)} left in this step")
    words, action = st.columns([4, 1], vertical_alignment="center")
    share, paused = min(1.0, done / total) if total else 0.0, job.state == "paused"
    if paused:
        parts.insert(0, "**paused**")
    words.progress(share, text=f"**{title}**, {duration(job.seconds)}. {' · '.join(parts)}")
    with action.container(horizontal=True):
        st.button(
            "Resume" if paused else "Pause",
            key=f"pause-{job.id}",
            on_click=_toggle,
            args=(job,),
            help="A paused job keeps its memory and gives its cores away.",
        )
        if st.button(
            "Cancel", key=f"cancel-{job.id}", help="What it has made and read so far is kept."
        ):
            job.cancel()
            st.rerun()


def _toggle(job: jobs.Job) -> None:
    if job.state == "paused":
        job.go_on()
    else:
        job.pause()


def yours(ws: Workspace) -> None:
    """What was brought to this workspace: private to this browser, or kept for all; to keep and to
    remove. A demonstration keeps nothing of anyone's."""
    if demonstration.active():
        return

    found: list[uploads.Brought] = []
    with section():
        found = uploads.brought(ws)
    if not found:
        return
    with st.expander(f"Brought here ({len(found)})", icon=":material/inventory_2:"):
        for one in found:
            key = f"{ws.pair}-{one.kind}-{one.name}"
            st.markdown(
                f"{':material/lock:' if one.private else ':material/group:'} **{plain(one.name)}** "
                f" \n:small[{artifacts.KINDS[one.kind]}, {one.bytes / 1e6:.2g} MB,"
                f" {'private to this browser' if one.private else 'kept in the workspace'}]"
            )
            with st.container(horizontal=True):
                if one.private:
                    st.button(
                        "Keep in workspace",
                        key=f"keep-{key}",
                        on_click=_moved,
                        args=(uploads.keep, ws, one),
                        help="Everyone who opens this workspace sees it then.",
                    )
                    st.button(
                        "Remove",
                        key=f"remove-{key}",
                        on_click=_moved,
                        args=(uploads.remove, ws, one),
                    )
                else:
                    with st.popover("Remove", key=f"ask-{key}"):
                        st.markdown("For everyone who uses this workspace.")
                        st.button(
                            "Remove it",
                            key=f"remove-{key}",
                            on_click=_moved,
                            args=(uploads.remove, ws, one),
                        )
        st.caption("Private ones are removed a day after this browser was last here.")


def _moved(
    change: Callable[[Workspace, artifacts.Kind, str], None], ws: Workspace, one: uploads.Brought
) -> None:
    attempt(lambda: change(ws, one.kind, one.name))


def warnings(found: Sequence[Mapping[str, str]], names: Mapping[str, str] | None = None) -> None:
    """What a report card warns of, each with the test behind it; `names` of both models by side."""
    for warning in found:
        says, test = warning["says"], warning["test"]
        if names is not None:
            says, test = named(says, names), named(test, names)
        st.warning(f"{plain(says)} :small[{plain(test)}]", icon=":material/warning:")
    if not found:
        st.markdown(":material/check: Nothing looks wrong.")


def attempt(change: Callable[[], object]) -> None:
    """Start a job or change something from a button's callback; a refusal is kept for the rerun
    that follows, see `refusal`."""
    try:
        change()
    except StitchLensError as e:
        st.session_state["refusal"] = sentence(e)


def refusal() -> None:
    """Show, once, why something was not done."""
    if said := st.session_state.pop("refusal", None):
        st.error(said, icon=":material/error:")


def door(
    what: str, command: str, label: str = "", start: Callable[[], jobs.Job] | None = None
) -> None:
    """An empty state: what is missing, the command that makes it and, where it is short work, a
    button that runs it. In a demonstration the command is for an installation of one's own."""
    with st.container(border=True):
        st.markdown(what)
        shut = closed("Computing it")
        st.code(command, language=None)
        if start is not None and not shut:
            st.button(label, on_click=attempt, args=(start,), key=f"door-{command}")


def closed(what: str) -> bool:
    """Whether this is a demonstration; then a sentence stands where `what`, such as 'Fitting a
    stitch', would."""
    if not demonstration.active():
        return False

    st.markdown(
        f":material/lock: :small[{what} is not part of this demonstration: an installation of your"
        " own does it.]"
    )
    return True


def about_demonstration() -> None:
    """What visitors may do, in the sidebar."""
    if demonstration.active():
        with section():
            st.info(plain(demonstration.in_words()), icon=":material/public:")
