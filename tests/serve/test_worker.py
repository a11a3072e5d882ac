# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The worker takes each series once, returns it, and survives what the server and senders do."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_diffrecon.tracking.mlflow_client import mlflow_module
from monai_diffrecon.tracking.provenance import verify_record

from ..io.conftest import OBLIQUE, ORIGIN, PRIVATE, ROOT, SECRETS

Serve = Callable[..., int]


def runs(results: Path) -> list[str]:
    client = mlflow_module().MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow.db")
    experiment = client.get_experiment_by_name("monai_diffrecon")
    found = [] if experiment is None else client.search_runs([experiment.experiment_id])
    return sorted(run.info.status for run in found)


def left(folder: Path) -> list[str]:
    """Return what a worker must not leave: entries of its list, and files of patients."""
    return [str(p) for name in ("waiting", "series") for p in (folder / name).rglob("*") if p.is_file()]


def test_a_series_is_taken_once_and_returns_to_its_study(
    orthanc: Any, series: Any, serve: Serve, tmp_path: Path
) -> None:
    source = orthanc.receive(series())
    assert serve(send_to=["PACS"]) == 0
    ((derived, images),) = orthanc.derived().items()
    assert orthanc.state(source) | {"state": "done", "derived": derived, "rule": "thick"} == orthanc.state(source)
    assert orthanc.sent == [("PACS", derived)]
    assert len(images) == 19  # 5 slices every 4 mm without the last gap, in millimetres
    for k, image in enumerate(sorted(images, key=lambda ds: int(ds.InstanceNumber))):
        assert {word: str(image[word].value) for word in ("PatientID", "StudyInstanceUID", "PatientName")} == {
            word: SECRETS[word] for word in ("PatientID", "StudyInstanceUID", "PatientName")
        }
        position = np.array(image.ImagePositionPatient, dtype=float)
        np.testing.assert_allclose(position, ORIGIN + (k - 1.0) * OBLIQUE[:, 2], atol=1e-3)
    (record,) = (tmp_path / "work/results").glob("*.provenance.json")
    assert verify_record(record)["source"]["reader"] == "dicom"
    # Neither its own series nor the same one again.
    orthanc.settle(derived)
    orthanc.settle(source)
    before = dict(orthanc.states)
    assert serve() == 0
    assert (len(orthanc.series), orthanc.states, len(orthanc.uploads)) == (2, before, 19)
    assert runs(tmp_path / "work/results") == ["FINISHED"]
    assert not left(tmp_path / "work")


@pytest.mark.slow
def test_another_folder_finds_it_done_and_another_configuration_does_not(
    orthanc: Any, series: Any, serve: Serve
) -> None:
    source = orthanc.receive(series())
    assert serve() == 0
    first = orthanc.state(source)
    assert serve(folder="other") == 0
    assert orthanc.state(source) == first
    assert serve(folder="third", steps=3) == 0
    second = orthanc.state(source)
    assert second["configuration"] != first["configuration"]
    assert len(orthanc.derived()) == 2


@pytest.mark.slow
def test_a_folder_that_was_lost_gives_the_same_images(
    orthanc: Any, series: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFRECON_CASE_KEY", "one key for all folders")
    source = orthanc.receive(series())
    assert serve() == 0
    del orthanc.states[source]
    assert serve(folder="other") == 0
    assert len(orthanc.derived()) == 1
    assert [new for _, new in orthanc.uploads] == 19 * [True] + 19 * [False]


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"modality": "MR", "description": "^ax t1", "senders": ["MR1"], "thickness": 3}, True),
        ({"description": "t2"}, False),
        ({"senders": ["CT1"]}, False),
        ({"thickness": 3.5}, False),
        ({"keep_identity": False}, True),
    ],
)
def test_rules(rule: dict[str, Any], taken: bool, orthanc: Any, series: Any, serve: Serve, tmp_path: Path) -> None:
    source = orthanc.receive(series())
    assert serve(**rule) == 0
    assert (source in orthanc.states, len(orthanc.derived())) == (taken, int(taken))
    if "keep_identity" in rule:
        (images,) = orthanc.derived().values()
        text = str(images[0])
        assert not [value for value in [*SECRETS.values(), PRIVATE] if value in text]
        assert images[0].PatientIdentityRemoved == "YES"
    assert not left(tmp_path / "work")


@pytest.mark.slow
def test_what_fails_is_quarantined_until_its_content_or_the_rules_change(
    orthanc: Any, series: Any, serve: Serve, tmp_path: Path
) -> None:
    files, good = series(1), orthanc.receive(series(2))
    bad = orthanc.receive([files[0], files[1], files[4]])
    assert serve() == 0
    assert orthanc.state(good)["state"] == "done"
    failed = orthanc.state(bad)
    assert failed["state"] == "failed"
    assert not [value for value in SECRETS.values() if value in failed["reason"]]
    assert not left(tmp_path / "work")
    revision = orthanc.states[bad][1]
    orthanc.settle(bad)
    assert serve() == 0
    assert orthanc.states[bad][1] == revision
    assert serve("--retry") == 0
    assert orthanc.states[bad][1] > revision
    revision = orthanc.states[bad][1]
    assert serve(steps=3) == 0  # other rules
    assert orthanc.states[bad][1] > revision
    assert orthanc.state(good)["configuration"] != orthanc.state(bad)["configuration"]
    assert orthanc.receive([files[2], files[3]]) == bad
    assert serve(steps=3) == 0
    assert orthanc.state(bad)["state"] == "done"
    assert not list((tmp_path / "work/quarantine").glob("*.json"))


def test_malformed_files_stop_nothing(orthanc: Any, series: Any, serve: Serve, tmp_path: Path) -> None:
    cut, junk, good = (orthanc.receive(series(n)) for n in range(3))
    for source, change in ((cut, lambda b: b[: len(b) // 2]), (junk, lambda b: b"../../../etc/passwd" * 99)):
        instance = orthanc.series[source][1]
        content, *rest = orthanc.files[instance]
        orthanc.files[instance] = (change(content), *rest)
    assert serve() == 0
    states = [orthanc.state(source)["state"] for source in (cut, junk, good)]
    assert states == ["failed", "failed", "done"]
    assert {p.name for p in tmp_path.iterdir()} == {"work", "rules.json"}
    assert not left(tmp_path / "work")


@pytest.mark.slow
def test_a_series_that_changes_while_it_is_read_waits(orthanc: Any, series: Any, serve: Serve) -> None:
    files = series()
    source = orthanc.receive(files[:4])

    def arrives(verb: str, path: str) -> None:
        if path.endswith("/file") and len(orthanc.series[source]) == 4:
            orthanc.receive(files[4:], stable=False)

    orthanc.hook = arrives
    assert serve() == 0
    assert not orthanc.derived()
    assert orthanc.state(source)["state"] == "working"
    assert serve() == 0  # still arriving
    assert not orthanc.derived()
    orthanc.settle(source)
    assert serve() == 0
    (images,) = orthanc.derived().values()
    assert len(images) == 19


def test_an_image_that_goes_while_the_series_is_read(orthanc: Any, series: Any, serve: Serve) -> None:
    source = orthanc.receive(series())

    def goes(verb: str, path: str) -> None:
        instances = orthanc.series[source]
        if path.endswith("/file") and len(instances) == 5:
            del orthanc.files[instances.pop()]

    orthanc.hook = goes
    assert serve() == 0
    assert orthanc.state(source)["state"] == "working"
    assert serve() == 0
    assert orthanc.state(source)["state"] == "done"
    (images,) = orthanc.derived().values()
    assert len(images) == 15


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while(
    orthanc: Any, series: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_diffrecon.serve.worker._PAUSE", 0.01)
    source = orthanc.receive(series())
    count = [0]

    def trouble(verb: str, path: str) -> int | None:
        count[0] += 1
        return 503 if count[0] % 7 == 0 and count[0] < 80 else None

    orthanc.hook = trouble
    assert serve() == 0
    assert orthanc.state(source)["state"] == "done"
    assert [len(images) for images in orthanc.derived().values()] == [19]


def test_a_series_whose_file_was_lost_does_not_keep_others_waiting(
    orthanc: Any, series: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_diffrecon.serve.worker._PAUSE", 0.01)
    lost, good = orthanc.receive(series(1)), orthanc.receive(series(2))
    orthanc.hook = lambda verb, path: 500 if min(orthanc.series[lost]) in path else None
    assert serve() == 6
    assert (lost in orthanc.states, orthanc.state(good)["state"]) == (False, "done")


@pytest.mark.slow
def test_a_modality_that_refuses(orthanc: Any, series: Any, serve: Serve) -> None:
    source = orthanc.receive(series())
    orthanc.hook = lambda verb, path: 500 if path.endswith("/store") else None
    assert serve(send_to=["PACS"]) == 0
    assert (orthanc.state(source)["state"], orthanc.sent) == ("failed", [])
    orthanc.hook = lambda verb, path: None
    uploads = len(orthanc.uploads)
    assert serve("--retry", send_to=["PACS"]) == 0
    assert (orthanc.state(source)["state"], len(orthanc.sent)) == ("done", 1)
    assert not any(new for _, new in orthanc.uploads[uploads:])


@pytest.mark.slow
def test_a_derived_image_that_a_filter_of_the_server_drops(
    orthanc: Any, series: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, reply = orthanc.receive(series()), orthanc.reply

    def filtered(verb: str, *request: Any) -> Any:
        return {"ParentSeries": source, "Status": "FilteredOut"} if verb == "POST" else reply(verb, *request)

    monkeypatch.setattr(orthanc, "reply", filtered)
    assert serve() == 0
    state = orthanc.state(source)
    assert (state["state"], "does not store" in state["reason"]) == ("failed", True)


@pytest.mark.parametrize("end", ["/file", "/metadata/RemoteAET"])
def test_a_redirection_loses_no_series(orthanc: Any, series: Any, serve: Serve, end: str) -> None:
    source = orthanc.receive(series())
    orthanc.hook = lambda verb, path: 302 if path.endswith(end) else None
    assert serve(senders=["MR1"]) == 2
    orthanc.hook = lambda verb, path: None
    assert serve(senders=["MR1"]) == 0
    assert orthanc.state(source)["state"] == "done"


def test_what_a_killed_worker_has_downloaded_is_removed_though_the_series_is_gone(
    orthanc: Any, series: Any, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = orthanc.receive(series())
    orthanc.hook = lambda verb, path: 401 if verb == "POST" else None
    with monkeypatch.context() as kill:
        kill.setattr("shutil.rmtree", lambda *args, **options: None)
        assert serve() == 2
    assert list((tmp_path / "work/series").rglob("*.dcm"))
    del orthanc.series[source]
    assert serve() == 0
    assert not left(tmp_path / "work")


def test_history_can_be_left_out(orthanc: Any, series: Any, serve: Serve) -> None:
    orthanc.receive(series(1))
    assert serve("--from-now") == 0
    source = orthanc.receive(series(2))
    assert serve("--from-now") == 0
    assert list(orthanc.states) == [source]


@pytest.mark.parametrize("feed", [{"since": 10**6, "change": "x"}, {"since": 2, "change": "of another database"}])
def test_a_server_with_a_new_database_is_read_from_its_beginning(
    orthanc: Any, series: Any, serve: Serve, feed: dict[str, Any], tmp_path: Path
) -> None:
    assert serve("--from-now") == 0
    (tmp_path / "work/feed.json").write_text(json.dumps(feed))
    source = orthanc.receive(series())
    assert serve() == 0
    assert orthanc.state(source)["state"] == "done"


def test_a_server_that_refuses_the_worker_ends_it(orthanc: Any, series: Any, serve: Serve) -> None:
    source = orthanc.receive(series())
    orthanc.hook = lambda verb, path: 403 if path.endswith("/file") else None
    assert serve() == 2
    assert orthanc.state(source)["state"] == "working"


@pytest.mark.slow
def test_what_another_folder_has_taken_is_left_to_it(orthanc: Any, series: Any, serve: Serve) -> None:
    source = orthanc.receive(series())
    assert serve() == 0
    done = orthanc.state(source)
    orthanc.states[source] = (json.dumps(done | {"state": "working", "owner": "another"}), 0)
    orthanc.settle(source)
    assert serve(folder="other") == 0
    assert orthanc.state(source)["state"] == "working"
    assert serve("--retry", folder="other") == 0
    assert orthanc.state(source) | {"state": "done", "case": done["case"]} == orthanc.state(source)
    assert len(orthanc.derived()) == 1


def test_a_folder_that_was_moved_keeps_what_it_has_taken(
    orthanc: Any, series: Any, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_diffrecon.serve.worker._PAUSE", 0.01)
    source = orthanc.receive(series())
    orthanc.hook = lambda verb, path: 500 if path.endswith("/file") else None
    assert serve() == 6
    assert orthanc.state(source)["state"] == "working"
    orthanc.hook = lambda verb, path: None
    (tmp_path / "work").rename(tmp_path / "moved")
    assert serve(folder="moved") == 0
    assert orthanc.state(source)["state"] == "done"


def test_a_folder_of_somebody_else(serve: Serve, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert serve() == 2
    assert capsys.readouterr().err.startswith("error: --work: cannot be written")


def test_nothing_identifying_is_printed(
    orthanc: Any, series: Any, serve: Serve, tmp_path: Path, capfd: Any, caplog: Any
) -> None:
    orthanc.receive(series(1))
    bad = orthanc.receive(series(2)[:1])
    assert serve() == 0
    said = "".join(capfd.readouterr()) + caplog.text
    assert said.count("case series-") >= 4
    secrets = [*SECRETS.values(), PRIVATE, ROOT.rstrip("."), bad, *orthanc.files, *orthanc.series, str(tmp_path)]
    assert not [secret for secret in secrets if secret in said]
    if os.name == "posix":
        assert (tmp_path / "work").stat().st_mode & 0o077 == 0


def test_what_other_packages_say_of_headers_is_not_printed(
    orthanc: Any, series: Any, serve: Serve, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own
    with pytest.warns(UserWarning, match="Doe"):
        orthanc.receive(series(FrameOfReferenceUID="Doe, Jane"))
    capfd.readouterr()
    assert serve() == 0
    said = "".join(capfd.readouterr())
    assert ": done" in said
    assert "Doe" not in said
