"""A hub that is asked again is called so, and how much it will send is said first: with a server of our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # real pauses between real requests

# 503 for the first requests of the dataset; then a card that tells its size; its only file is never sent.
PROGRAM = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import os
refusals = int(sys.argv[1])
CARD = b"---\\ndataset_info:\\n  features:\\n  - name: text\\n    dtype: string\\n  download_size: 40000000000\\n---\\n"
SHA = "a" * 40

class Hub(BaseHTTPRequestHandler):
    left = refusals

    def do_GET(self):
        status, body, headers = 404, b"", {}
        if "owner/name" in self.path and Hub.left:
            Hub.left -= 1
            status = 503
        elif self.path.endswith("README.md"):
            status, body, headers = 200, CARD, {"ETag": '"1"', "X-Repo-Commit": SHA}
        elif "/tree/" in self.path:
            status, body = 200, json.dumps([{"type": "file", "path": "rows.jsonl", "size": 40, "oid": SHA}]).encode()
        elif "/revision/" in self.path or self.path.endswith("/api/datasets/owner/name"):
            status, body = 200, json.dumps({"id": "owner/name", "sha": SHA, "siblings": [], "tags": []}).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body)), "Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"

from pathlib import Path

import pytest
from lmplay_tui.data import hub
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec

said = []
try:
    hub.read(DatasetSpec("mine", "owner/name"), lambda activity, detail, fraction: said.append(f"{activity} {detail}"))
except UserError as error:
    said.append(str(error))
print(json.dumps(list(dict.fromkeys(said))), flush=True)
os._exit(0)
"""


def said_of_hub(tmp_path: Path, refusals: int) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(refusals)], env=environment | {"HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == "", "the libraries' own lines do not reach the terminal"
    said: list[str] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_hub_that_is_asked_again_is_called_so(tmp_path: Path) -> None:
    said = said_of_hub(tmp_path, refusals=3)
    tries = [line for line in said if "does not answer" in line]
    assert tries == [
        "downloading mine: the hub does not answer; trying again (1 of 5)",
        "downloading mine: the hub does not answer; trying again (2 of 5)",
    ]


def test_how_much_will_be_sent_is_said_before_it_is(tmp_path: Path) -> None:
    said = said_of_hub(tmp_path, refusals=0)
    assert said[:2] == ["downloading mine", "downloading mine, 40 GB"]
