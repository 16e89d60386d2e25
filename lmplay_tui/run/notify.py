"""What a run does for a user who is away: `--notify-url` posts its news, `--on-done` runs a command at its end.

The body of a message is plain text and its title a header, as ntfy takes them. Everything is sent from a thread:
training neither waits nor fails for it. The address may hold a secret (ntfy's topic is one), so it is never written
anywhere; messages name its host alone.
"""

import base64
import math
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lmplay_tui.process import users_environment
from lmplay_tui.run.events import (
    ActivityChanged,
    Event,
    LogLine,
    LossSpiked,
    RunDone,
    RunFailed,
    RunStopped,
    StageDone,
    Stalled,
    Warned,
)
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.text import one_line

NOTIFY_URL = "LMPLAY_TUI_NOTIFY_URL"  # environment: the address that a process which hands over passes on
ANSWER_WITHIN_S = 10.0
MAX_WAITING = 20
_URL_SIGNS = "%/:?#[]@!$&'()*+,;=~"

_TITLES: dict[type[Event], str] = {
    StageDone: "stage done",
    RunDone: "finished",
    RunStopped: "stopped",
    RunFailed: "failed",
    LossSpiked: "loss spike",
    Stalled: "stalled",
}


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST arrives as a GET without its text: better a failure that is told."""

    def redirect_request(  # noqa: PLR0917  (the library's own signature)
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


@dataclass(frozen=True)
class Patience:
    """How long an address is waited for."""

    answer_s: float = ANSWER_WITHIN_S
    last_words_s: float = 10.0  # the end of a run waits no longer for what is still to be sent
    warnings_every_s: float = 300.0  # spikes and stalls in between are counted, not sent


class Notifier:
    """Posts a run's news to an address; `url` None: it does nothing."""

    def __init__(self, url: str | None, name: str, patience: Patience = Patience()) -> None:
        self._patience = patience
        self._url = url
        self._name = name
        self._queue: queue.Queue[tuple[str, str, bool] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._complained = False
        self._warned_at = -math.inf
        self._left_out = 0

    def hear(self, event: Event) -> None:
        """Take in an event; what is worth a message is sent soon. Never waits, never raises."""
        title = _TITLES.get(type(event))
        if self._url is None or title is None:
            return
        warning = isinstance(event, LossSpiked | Stalled)
        if warning and time.monotonic() - self._warned_at < self._patience.warnings_every_s:
            self._left_out += 1
            return
        sentence = sentence_of(event)
        text = sentence.text if sentence else title
        if warning:
            self._warned_at = time.monotonic()
            text += f" ({self._left_out} more in the minutes before)" if self._left_out else ""
            self._left_out = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="notify", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((f"{self._name}: {title}", text, warning or isinstance(event, RunFailed)))
        except queue.Full:
            self._problem = "takes the messages too slowly"

    def complaint(self) -> Warned | None:
        """The first failure, once."""
        if self._problem is None or self._complained:
            return None
        self._complained = True
        return Warned(f"--notify-url: {self._problem}; training does not need it, and this is said once")

    def close(self) -> None:
        """Wait some seconds for what is still to be sent."""
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(self._patience.last_words_s)
        if self._thread.is_alive():
            self._problem = self._problem or "took longer than the end of the run waits"

    # ---- in the thread

    def _send_all(self) -> None:
        assert self._url is not None
        while (message := self._queue.get()) is not None:
            problem = post(self._url, *message, self._patience.answer_s)
            self._problem = self._problem or problem


def post(url: str, title: str, text: str, urgent: bool, answer_s: float = ANSWER_WITHIN_S) -> str | None:
    """Post a message; gives what hindered it, in words that do not hold the address, None if it was taken."""
    host = "the address"
    try:
        parts = urlsplit(quote(url, safe=_URL_SIGNS))
        host = one_line(parts.hostname or host, 80)
        headers = {
            "Title": one_line(title).encode("ascii", "replace").decode("ascii"),
            "Priority": "high" if urgent else "default",
            "Content-Type": "text/plain; charset=utf-8",
            "User-Agent": "lmplay-tui",
        }
        if parts.username is not None:
            who = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(who).decode("ascii")
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        request = Request(parts.geturl(), text.encode("utf-8", "replace"), headers, method="POST")  # noqa: S310
        with build_opener(_NoRedirect).open(request, timeout=answer_s):
            return None
    except HTTPError as error:
        error.close()
        return f"{host} answered with {error.code}"
    except URLError as error:
        return f"{host}: {_in_our_words(error.reason, answer_s)}"
    except Exception as error:
        return f"{host}: {_in_our_words(error, answer_s)}"


def _in_our_words(error: object, answer_s: float) -> str:
    """What went wrong, without the error's own words: they may hold the address."""
    if isinstance(error, TimeoutError):
        return f"no answer in {answer_s:.0f} s"
    said = getattr(error, "strerror", None)
    return one_line(said if isinstance(said, str) else type(error).__name__, 80)


WAIT_S = 10.0  # for its exit status; what takes longer goes on without us
_STATES = {RunDone: "finished", RunStopped: "stopped", RunFailed: "failed"}


def facts(run: RunFolder, end: RunDone | RunStopped | RunFailed) -> dict[str, str]:
    """What the command finds in its environment."""
    sentence = sentence_of(end)
    return {
        "LMP_STATE": _STATES[type(end)],
        "LMP_EXIT_STATUS": str(end.exit_code if isinstance(end, RunFailed) else 0),
        "LMP_RUN": run.name,
        "LMP_CHECKPOINT": end.path or "",
        "LMP_STEP": str(end.step),
        "LMP_MESSAGE": one_line(sentence.text if sentence else "", 1000),
    }


def run_on_done(
    command: str, run: RunFolder, end: RunDone | RunStopped | RunFailed, wait_s: float = WAIT_S
) -> Iterator[Event]:
    """Run the command in a session of its own, its output at the end of `log.txt`; a failure is one warning.

    Its end is waited for `wait_s` seconds. An upload that takes an hour is neither waited for nor ended.
    """
    yield ActivityChanged("ending", "--on-done")
    yield LogLine("--on-done begins")
    try:
        process = _started(command, run, users_environment() | facts(run, end))
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        yield Warned(f"--on-done: could not be started ({one_line(error)})", end.step)
        return
    try:
        status = process.wait(wait_s)
    except subprocess.TimeoutExpired:
        yield LogLine(f"--on-done goes on by itself in process {process.pid}")
        process.returncode = 0  # it outlives us: not a forgotten child in the eyes of `subprocess`
        return
    if status:
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        yield Warned(f"--on-done: ended {how}; what it said is in {run.log}", end.step)
    else:
        yield LogLine("--on-done is done")


def _started(command: str, run: RunFolder, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    try:
        log: BinaryIO | None = os.fdopen(run.files.append(run.log.name), "ab")
    except OSError:  # a full disk, a folder that is gone: the command may be what tells of it
        log = None
    try:
        out = log if log is not None else subprocess.DEVNULL
        return subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env=environment,
        )  # fmt: skip
    finally:
        if log is not None:
            log.close()
