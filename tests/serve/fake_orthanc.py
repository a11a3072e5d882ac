# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The part of Orthanc's REST API that the worker uses, in memory; it answers as Orthanc 1.10 does."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread
from pydicom.dataset import FileDataset


def orthanc_id(*parts: str) -> str:
    """Return an id as Orthanc makes it: the SHA-1 of UIDs."""
    digits = hashlib.sha1("|".join(parts).encode()).hexdigest()
    return "-".join(digits[i : i + 8] for i in range(0, 40, 8))


class FakeOrthanc:
    """A server in a thread of its own.

    Attributes:
        series: id -> ids of its instances.
        files: id of an instance -> its bytes, the id of its content, and its sender.
        states: id of a series -> its metadata, and how often they were replaced.
        changes: number, kind and id of each change.
        unstable: series to which instances are still arriving.
        uploads: ids of instances that were uploaded, and whether they were new.
        sent: modality and series of each transfer.
        hook: called with verb and path of each request; may return a status to answer with.
        password: what the basic authentication must be, or None.
        kind: Content-Type of the answers, or None.
    """

    def __init__(self) -> None:
        self.series: dict[str, list[str]] = {}
        self.files: dict[str, tuple[bytes, str, str]] = {}
        self.states: dict[str, tuple[str, int]] = {}
        self.changes: list[tuple[int, str, str]] = []
        self.unstable: set[str] = set()
        self.uploads: list[tuple[str, bool]] = []
        self.sent: list[tuple[str, str]] = []
        self.hook: Callable[[str, str], int | None] = lambda verb, path: None
        self.password: str | None = None
        self.kind: str | None = None
        self.lock = threading.RLock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the worker was killed
                    self.close_connection = True

            def do_GET(self) -> None:
                outer.answer(self, "GET")

            def do_PUT(self) -> None:
                outer.answer(self, "PUT")

            def do_POST(self) -> None:
                outer.answer(self, "POST")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.block_on_close = False  # connections may stay open
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def receive(self, series: list[FileDataset], sender: str = "MR1", *, stable: bool = True) -> str:
        """Take files as by DICOM, and return the id of their series."""
        for dataset in series:
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            series_id = self.store(buffer.getvalue(), sender)[1]
        if stable:
            self.settle(series_id)
        else:
            self.unstable.add(series_id)
        return series_id

    def settle(self, series: str) -> None:
        self.unstable.discard(series)
        self.note("StableSeries", series)

    def note(self, kind: str, id_: str) -> None:
        with self.lock:
            self.changes.append((len(self.changes) + 1, kind, id_))

    def store(self, content: bytes, sender: str) -> tuple[str, str, bool]:
        ds = dcmread(io.BytesIO(content), stop_before_pixels=True)
        parts = [str(ds.get(k, "")) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
        series, instance = orthanc_id(*parts[:3]), orthanc_id(*parts)
        with self.lock:
            new = instance not in self.files
            if new:
                if series not in self.series:
                    self.note("NewSeries", series)
                self.files[instance] = (content, str(uuid.uuid4()), sender)
                self.series.setdefault(series, []).append(instance)
                self.note("NewInstance", instance)
        return instance, series, new

    def dataset(self, instance: str) -> FileDataset:
        return dcmread(io.BytesIO(self.files[instance][0]))

    def derived(self) -> dict[str, list[FileDataset]]:
        """Return the series that the package made."""
        found = {series: [self.dataset(i) for i in instances] for series, instances in self.series.items()}
        return {
            series: images for series, images in found.items() if images[0].get("Manufacturer") == "monai_diffrecon"
        }

    def state(self, series: str) -> dict[str, Any]:
        return json.loads(self.states[series][0])

    def answer(self, request: BaseHTTPRequestHandler, verb: str) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = urlsplit(request.path)
        status = self.hook(verb, path.path)
        given = request.headers.get("Authorization", "")
        if self.password is not None and given != "Basic " + base64.b64encode(self.password.encode()).decode():
            status = 401
        headers = {} if self.kind is None else {"Content-Type": self.kind}
        content = b""
        if status is None:
            with self.lock:
                try:
                    said = self.reply(verb, path.path.strip("/").split("/"), parse_qs(path.query, True), body, request)
                except KeyError:
                    said = 404
            if isinstance(said, tuple):
                said, headers["ETag"] = said
            status = said if isinstance(said, int) else 200
            content = said if isinstance(said, bytes) else b"" if isinstance(said, int) else json.dumps(said).encode()
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    def reply(self, verb: str, path: list[str], query: dict[str, list[str]], body: bytes, request: Any) -> Any:
        match verb, *path:
            case "GET", "system":
                return {"ApiVersion": 16, "Version": "1.10.1"}
            case "GET", "modalities":
                return ["PACS"]
            case "GET", "changes":
                since = len(self.changes) - 1 if "last" in query else int(query["since"][0])
                page = self.changes[since : since + 3]  # a short page, so that there are several
                last = page[-1][0] if page else len(self.changes)
                listed = [{"Seq": n, "ChangeType": kind, "ID": id_, "Date": "20260101T000000"} for n, kind, id_ in page]
                return {"Changes": listed, "Last": last, "Done": last == len(self.changes)}
            case "GET", "series", id_:
                first = self.dataset(self.series[id_][0])
                keys = ("Modality", "SeriesDescription", "Manufacturer", "SeriesInstanceUID")
                tags = {k: str(first[k].value) for k in keys if k in first}
                return {"ID": id_, "IsStable": id_ not in self.unstable, "MainDicomTags": tags}
            case "GET", "series", id_, "instances":
                return [
                    {"ID": i, "FileUuid": self.files[i][1], "FileSize": len(self.files[i][0])} for i in self.series[id_]
                ]
            case "GET", "instances", id_, "file":
                return self.files[id_][0]
            case "GET", "instances", id_, "metadata", "RemoteAET":
                return self.files[id_][2].encode()
            case "GET", "instances", id_, "content", "0018-0050":
                return str(self.dataset(id_)["SliceThickness"].value).encode() + b" "
            case "GET", "instances", id_, "content", groups, "0", "0028-9110", "0", "0018-0050":
                frames = self.dataset(id_)[groups.replace("-", "")][0]
                return str(frames["PixelMeasuresSequence"][0]["SliceThickness"].value).encode()
            case "POST", "instances":
                instance, series, new = self.store(body, "")
                self.uploads.append((instance, new))
                return {"ID": instance, "ParentSeries": series, "Status": "Success" if new else "AlreadyStored"}
            case "POST", "modalities", name, "store":
                self.sent += [(name, id_) for id_ in json.loads(body)["Resources"]]
                return {"FailedInstancesCount": 0}
            case "GET", "series", id_, "metadata", "4100":
                return (self.states[id_][0].encode(), self.etag(id_))
            case "PUT", "series", id_, "metadata", "4100":
                if id_ in self.states and request.headers.get("If-Match") != self.etag(id_):
                    return 409
                assert id_ in self.series
                count = self.states[id_][1] + 1 if id_ in self.states else 0
                self.states[id_] = (body.decode(), count)
                # SQLite keeps no revisions: it answers with the next one, and then with 0 again.
                return (200, self.etag(id_, min(count, 1)))
        return 404

    def etag(self, series: str, revision: int = 0) -> str:
        value, _ = self.states[series]
        return f'"{revision}-{hashlib.md5(value.encode()).hexdigest()}"'
