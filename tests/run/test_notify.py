"""`--notify-url`: what is posted, that nothing waits or fails for it, and that the address is written nowhere."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lmplay_tui.run.events import Event, LossSpiked, RunDone, RunFailed, RunStopped, StageDone, Stalled, Warned
from lmplay_tui.run.notify import Notifier, Patience, post

pytestmark = pytest.mark.enable_socket  # the server is in this process, on 127.0.0.1

SPIKE = LossSpiked(step=7, stage="topics", loss=8.25, usual_loss=3.1, z=21.0, first_row=60, last_row=69)
NEWS: list[tuple[Event, str, str]] = [
    (StageDone("topics", 0, 12, 1200, 9000, 61.0), "stage done", "stage topics done at step 12, 1 min 01 s"),
    (RunDone(30, "m.lmp", 100.0), "finished", "the plan is done at step 30, saved m.lmp"),
    (RunStopped(5, "m.lmp", "lmp_trainer", "asked"), "stopped", "stopped at step 5, saved m.lmp"),
    (RunFailed("no memory", 3, 5, None), "failed", "failed: no memory"),
    (SPIKE, "loss spike", "loss spike at step 7: 8.250 after 3.100 (rows 60 to 69 of stage topics)"),
    (Stalled("step", 30.0, 0.2, 4), "stalled", "step 4 took 30 s, the steps before it 0.2 s"),
]


class Server:
    """Takes posts and keeps them; `answer` is what it says, `holds` makes it wait."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.answer = 200
        self.holds = threading.Event()
        self.holds.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts.append((self.path, dict(self.headers), body))
                outer.holds.wait(20)
                self.send_response(outer.answer)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self) -> None:
                outer.posts.append((self.path, {}, b""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/topic-s3cret?auth=t0ken"

    def close(self) -> None:
        self.holds.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize(("event", "title", "text"), NEWS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_posted(server: Server, event: Event, title: str, text: str) -> None:
    notifier = Notifier(server.url, "my_run")
    notifier.hear(event)
    notifier.close()
    [(path, headers, body)] = server.posts
    assert path == "/topic-s3cret?auth=t0ken"
    assert headers["Title"] == f"my_run: {title}"
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["Priority"] == ("high" if title in ("failed", "loss spike", "stalled") else "default")
    assert body.decode("utf-8") == text
    assert notifier.complaint() is None


def test_ordinary_events_and_no_address_send_nothing(server: Server) -> None:
    notifier = Notifier(server.url, "r")
    notifier.hear(Warned("the disk is slow", 3))
    notifier.close()
    silent = Notifier(None, "r")
    silent.hear(SPIKE)
    silent.close()
    assert server.posts == []


def test_a_name_and_a_password_are_sent_as_such_and_a_foreign_title_is_plain(server: Server) -> None:
    url = f"http://an%C3%AFa:p%40ss@127.0.0.1:{server.port}/grüße"
    assert post(url, "run\r\nX-Evil: 1 ü", "schön", urgent=False) is None
    [(path, headers, body)] = server.posts
    assert path == "/gr%C3%BC%C3%9Fe"
    assert headers["Authorization"] == "Basic " + base64.b64encode("anïa:p@ss".encode()).decode()
    assert "X-Evil" not in headers
    assert body.decode("utf-8") == "schön"


def closed_port(server: Server) -> str:
    return "http://user:s3cret@127.0.0.1:1/s3cret?s3cret"


def refusing(server: Server) -> str:
    server.answer = 403
    return server.url


def redirecting(server: Server) -> str:
    server.answer = 302
    return server.url


def no_address(server: Server) -> str:
    return "http://[s3cret/"


def no_port(server: Server) -> str:
    return "http://127.0.0.1:s3cret/"


@pytest.mark.parametrize("wrong", [closed_port, refusing, redirecting, no_address, no_port])
def test_a_failure_is_told_once_without_the_address(server: Server, wrong: Callable[[Server], str]) -> None:
    notifier = Notifier(wrong(server), "r")
    notifier.hear(SPIKE)
    notifier.hear(RunDone(1, "m.lmp", 1.0))
    notifier.close()
    complaint = notifier.complaint()
    assert complaint is not None
    assert complaint.message.startswith("--notify-url: ")
    assert "s3cret" not in complaint.message
    assert "t0ken" not in complaint.message
    assert notifier.complaint() is None
    assert all(path != "/elsewhere" for path, _, _ in server.posts), "a redirected POST would lose its text"


def test_a_silent_server_holds_nothing_up(server: Server) -> None:
    server.holds.clear()
    notifier = Notifier(server.url, "r", Patience(answer_s=0.3, last_words_s=0.2))
    begun = time.monotonic()
    for _ in range(100):
        notifier.hear(RunDone(1, "m.lmp", 1.0))
    assert time.monotonic() - begun < 0.2, "the trainer's thread never waits"
    notifier.close()
    assert time.monotonic() - begun < 5
    complaint = notifier.complaint()
    assert complaint is not None


def test_the_end_of_a_run_waits_for_no_answer_for_long(server: Server) -> None:
    server.holds.clear()
    notifier = Notifier(server.url, "r", Patience(last_words_s=0.2))
    notifier.hear(RunDone(1, "m.lmp", 1.0))
    begun = time.monotonic()
    notifier.close()
    assert time.monotonic() - begun < Patience().answer_s / 2
    complaint = notifier.complaint()
    assert complaint is not None and "longer than the end of the run waits" in complaint.message


def test_an_answer_that_does_not_come_is_called_so(server: Server) -> None:
    server.holds.clear()
    assert post(server.url, "t", "b", urgent=False, answer_s=0.2) == "127.0.0.1: no answer in 0 s"


def test_warnings_are_not_a_flood(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    notifier = Notifier(server.url, "r")
    for _ in range(5):
        notifier.hear(SPIKE)
    later = time.monotonic() + Patience().warnings_every_s
    monkeypatch.setattr(time, "monotonic", lambda: later)
    notifier.hear(SPIKE)
    notifier.close()
    assert len(server.posts) == 2
    assert server.posts[1][2].endswith(b"(4 more in the minutes before)")
