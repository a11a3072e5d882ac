# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""What diffrecon-slicer sends over HTTP, and what it makes of the answers; against a server of the standard library."""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from diffrecon_slicer_lib.client import Job, Server, ServerError

VOLUME = gzip.compress(b"a volume")
INFO = {
    "models": {
        "brain": {
            "type": "others",
            "description": "For research only",
            "config": {
                "device": ["cpu"],
                "task": ["default", "mri"],
                "steps": 0,
                "flag": True,
                "result_dtype": "float32",
            },
        },
        "spleen": {"type": "segmentation", "config": {}},
    }
}


class Handler(BaseHTTPRequestHandler):
    seen: dict[str, Any]

    def do_GET(self) -> None:
        known = {"/info/": INFO, "/datastore/?output=all": {"objects": {"b": {}, "a": {}}}}
        self.answer(200 if self.path in known else 404, json.dumps(known.get(self.path)).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = list(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body).iter_parts())
        Handler.seen = {
            "path": self.path,
            "parts": {p.get_param("name", header="content-disposition"): p for p in parts},
        }
        answers = {
            "refused": (422, b'{"detail": "scan: missing slices"}'),
            "broken": (500, b"Internal Server Error"),
            "json": (200, b"{}"),
        }
        self.answer(*answers.get(self.path.split("/")[2].split("?")[0], (200, VOLUME)))

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield Server(f"http://127.0.0.1:{http.server_address[1]}/ ")
        http.shutdown()


def _content(part: email.message.Message) -> bytes:
    return bytes(part.get_payload(decode=True))  # type: ignore[arg-type]


def test_only_models_that_reconstruct_are_listed_with_their_choices(server: Server) -> None:
    (model,) = server.models()
    assert (model.name, model.description) == ("brain", "For research only")
    assert model.choices == {"task": ["default", "mri"], "steps": 0}
    assert server.images() == ["a", "b"]


def test_a_file_is_sent_as_it_is_and_without_its_name(server: Server, tmp_path: Path) -> None:
    scan = tmp_path / "Doe^Jane.nii.gz"
    scan.write_bytes(bytes(range(256)) + b"\r\n--x\r\n")
    done = server.reconstruct("brain", {"steps": 3}, scan, tmp_path / "out.nii.gz")
    assert done.read_bytes() == VOLUME
    seen = Handler.seen
    assert seen["path"] == "/infer/brain?output=image"
    assert _content(seen["parts"]["file"]) == scan.read_bytes()
    assert seen["parts"]["file"].get_filename() == "scan.nii.gz"
    asked = json.loads(_content(seen["parts"]["params"]))
    assert asked == {"steps": 3, "result_extension": ".nii.gz", "result_dtype": "float32"}


def test_a_scan_of_the_server_is_named(server: Server, tmp_path: Path) -> None:
    server.reconstruct("brain", {}, "1.2 3", tmp_path / "out.nii.gz")
    assert Handler.seen["path"] == "/infer/brain?output=image&image=1.2+3"
    assert set(Handler.seen["parts"]) == {"params"}


@pytest.mark.parametrize(
    ("model", "said"), [("refused", "scan: missing slices"), ("broken", "500"), ("json", "no compressed NIfTI")]
)
def test_what_the_server_refuses_is_one_line(server: Server, tmp_path: Path, model: str, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        server.reconstruct(model, {}, "a", tmp_path / "out.nii.gz")
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", ""])
def test_no_server_is_one_line(url: str) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        Server(url).models()


def test_a_job_keeps_its_result_or_its_error() -> None:
    good, bad = Job(lambda: 3), Job(lambda: 1 / 0)
    for job in (good, bad):
        job.start()
        assert job.done(10.0)
    assert (good.result, good.error) == (3, None)
    assert isinstance(bad.error, ZeroDivisionError)
