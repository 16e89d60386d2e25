"""`--notify-url URL`: a line to a phone or a chat when something happens that one would come back for.

The body is plain text and the title a header, as ntfy takes them. Everything is sent from a thread: training neither
waits nor fails for it. The address may hold a secret (ntfy's topic is one), so it is never written anywhere; messages
name its host alone.
"""

import base64
import queue
import threading
import time
from http.client import HTTPMessage
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lmplay_tui.run.events import Event, LossSpiked, RunDone, RunFailed, RunStopped, StageDone, Stalled, Warned
from lmplay_tui.run.telling import told
from lmplay_tui.text import one_line

NOTIFY_URL = "LMPLAY_TUI_NOTIFY_URL"  # environment: the address that a process which hands over passes on
ANSWER_WITHIN_S = 10.0
LAST_WORDS_S = 10.0  # the end of a run waits no longer for what is still to be sent
WARNINGS_EVERY_S = 300.0  # spikes and stalls in between are counted, not sent
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


class Notifier:
    """Posts a run's news to an address; `url` None: it does nothing."""

    def __init__(self, url: str | None, name: str) -> None:
        self._url = url
        self._name = name
        self._queue: queue.Queue[tuple[str, str, bool] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._complained = False
        self._warned_at = -WARNINGS_EVERY_S
        self._left_out = 0

    def hear(self, event: Event) -> None:
        """Take in an event; what is worth a message is sent soon. Never waits, never raises."""
        title = _TITLES.get(type(event))
        if self._url is None or title is None:
            return
        warning = isinstance(event, LossSpiked | Stalled)
        if warning and time.monotonic() - self._warned_at < WARNINGS_EVERY_S:
            self._left_out += 1
            return
        sentence = told(event.record())
        text = sentence[1] if sentence else title
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
        self._thread.join(LAST_WORDS_S)
        if self._thread.is_alive():
            self._problem = self._problem or "took longer than the end of the run waits"

    # ---- in the thread

    def _send_all(self) -> None:
        assert self._url is not None
        while (message := self._queue.get()) is not None:
            problem = post(self._url, *message)
            self._problem = self._problem or problem


def post(url: str, title: str, text: str, urgent: bool) -> str | None:
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
        with build_opener(_NoRedirect).open(request, timeout=ANSWER_WITHIN_S):
            return None
    except HTTPError as error:
        error.close()
        return f"{host} answered with {error.code}"
    except URLError as error:
        return f"{host}: {_in_our_words(error.reason)}"
    except Exception as error:
        return f"{host}: {_in_our_words(error)}"


def _in_our_words(error: object) -> str:
    """What went wrong, without the error's own words: they may hold the address."""
    if isinstance(error, TimeoutError):
        return f"no answer in {ANSWER_WITHIN_S:.0f} s"
    said = getattr(error, "strerror", None)
    return one_line(said if isinstance(said, str) else type(error).__name__, 80)
