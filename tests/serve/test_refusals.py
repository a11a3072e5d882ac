# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Addresses, secrets and rules that are refused before anything is asked or written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_diffrecon.errors import ConfigError, InputError
from monai_diffrecon.serve.connection import Connection, ServerAwayError, ServerRefusesError
from monai_diffrecon.serve.rules import Rules, read_rules
from monai_diffrecon.serve.server import OrthancServer, Series

from ..io.conftest import make_enhanced, stored
from ..raising import raises
from .fake_orthanc import orthanc_id


def secret(path: Path, content: Any, mode: int = 0o600) -> str:
    path.write_text(json.dumps(content))
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    "url",
    ["", "server", "ftp://server", "http://", "https://user:s3cret@server", "http://server:8042", "https://x?y=1"],
)
def test_addresses(url: str) -> None:
    with raises(ConfigError, where="--orthanc") as caught:
        Connection(url)
    assert "s3cret" not in str(caught.value)


def test_addresses_that_are_allowed() -> None:
    for url, options in (("http://localhost:1", {}), ("https://a:1", {}), ("http://a:1", {"plain_http": True})):
        Connection(url, **options)


def test_credentials_come_from_a_private_file(orthanc: Any, tmp_path: Path) -> None:
    orthanc.password = "me:secret word"
    good = {"user": "me", "password": "secret word"}
    OrthancServer(Connection(orthanc.url, credentials=secret(tmp_path / "c.json", good))).check(set())
    with raises(ConfigError, where="--credentials"):
        OrthancServer(Connection(orthanc.url)).check(set())
    with raises(ConfigError, where="--credentials", mend="chmod 600 c.json") as caught:
        Connection(orthanc.url, credentials=secret(tmp_path / "c.json", good, 0o644))
    with raises(ConfigError, where="--client-certificate"):
        Connection(orthanc.url, client_certificate=secret(tmp_path / "key.pem", "", 0o640))
    with raises(ConfigError, where="--credentials#password"):
        Connection(orthanc.url, credentials=secret(tmp_path / "d.json", {"user": "me"}))
    with raises(InputError, where="--ca-file"):
        Connection(orthanc.url, ca_file=str(tmp_path / "none.pem"))
    assert "secret" not in str(caught.value)


def test_passwords_in_any_script(orthanc: Any, tmp_path: Path) -> None:
    orthanc.password = "jörg:пароль"
    said = {"user": "jörg", "password": "пароль"}
    OrthancServer(Connection(orthanc.url, credentials=secret(tmp_path / "c.json", said))).check(set())


def test_a_client_certificate_that_cannot_be_used(orthanc: Any, tmp_path: Path) -> None:
    with raises(ConfigError, where="--client-certificate"):
        Connection(orthanc.url, client_certificate=secret(tmp_path / "key.pem", "junk"))


def test_an_answer_that_is_too_long(orthanc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_diffrecon.serve.connection._LONGEST", 16)
    with raises(ConfigError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).check(set())


def test_a_redirection_is_not_followed(orthanc: Any) -> None:
    asked: list[str] = []
    orthanc.hook = lambda verb, path: asked.append(path) or 302
    with raises(ConfigError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).check(set())
    assert asked == ["/system"]


@pytest.mark.parametrize("said", [None, [], {"Last": 1}, {"Changes": 5}, {"Changes": [[]], "Last": 1, "Done": True}])
def test_an_answer_of_another_structure(orthanc: Any, monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    monkeypatch.setattr(orthanc, "reply", lambda *request: said)
    with raises(ConfigError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).changes(0)


@pytest.mark.parametrize("said", [None, [], {"Status": "Success"}, {"Status": "Success", "ParentSeries": "../x"}])
def test_an_answer_to_an_upload_of_another_structure(
    orthanc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: Any
) -> None:
    monkeypatch.setattr(orthanc, "reply", lambda *request: said)
    (tmp_path / "image.dcm").touch()
    with raises(ServerRefusesError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).upload(tmp_path / "image.dcm")


def test_answers_to_posts_that_are_too_long(orthanc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("monai_diffrecon.serve.connection._LONGEST", 16)
    (tmp_path / "image.dcm").touch()
    monkeypatch.setattr(orthanc, "reply", lambda *request: {"Status": "Success"})
    with raises(ServerRefusesError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).upload(tmp_path / "image.dcm")
    with raises(ServerRefusesError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).send(orthanc_id("x"), "PACS")


def test_a_page_is_not_taken_for_an_answer(orthanc: Any) -> None:
    orthanc.kind = "text/html; charset=utf-8"
    with raises(ServerRefusesError, where="--orthanc"):
        Connection(orthanc.url).text("/modalities")


@pytest.mark.parametrize("shared", [True, False])
def test_the_thickness_of_enhanced_images(orthanc: Any, shared: bool) -> None:
    image = make_enhanced(stored())
    if not shared:
        measures = image.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence").value
        for frame in image.PerFrameFunctionalGroupsSequence:
            frame.PixelMeasuresSequence = measures
    series = OrthancServer(Connection(orthanc.url)).series(orthanc.receive([image]))
    assert series is not None
    assert series.thickness == 3


def test_a_server_that_speaks_no_tls_and_one_that_is_not_there(orthanc: Any) -> None:
    with raises(ConfigError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url.replace("http:", "https:"))).check(set())
    orthanc.close()
    with raises(ServerAwayError, where="--orthanc"):
        OrthancServer(Connection(orthanc.url)).check(set())


GOOD = {"name": "a", "modality": "MR", "bundle": "brain_mr"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"modality": "US"}, "modality"),
        ({"bundle": None}, "bundle"),
        ({"thickness": 0}, "thickness"),
        ({"thickness": "3"}, "thickness"),
        ({"description": "("}, "description"),
        ({"sender": ["MR1"]}, "sender"),
        ({"keep_identity": "no"}, "keep_identity"),
        ({"senders": "MR1"}, "senders"),
    ],
)
def test_rules_are_checked(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"rules": [GOOD, GOOD | {"name": "b"} | change]}))
    with raises(ConfigError, where=f"rules.json#rules#1#{place}"):
        read_rules(path)


def test_files_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    for content, where in (
        ({"rules": []}, "rules.json#rules"),
        ({"rules": [GOOD, GOOD]}, "rules.json#rules#1#name"),
        ({"rules": [GOOD], "metadata": 7}, "rules.json#metadata"),
        ({"rule": [GOOD]}, "rules.json#rule"),
    ):
        path.write_text(json.dumps(content))
        with raises(ConfigError, where=where):
            read_rules(path)
    with raises(InputError, where="none.json"):
        read_rules(tmp_path / "none.json")
    path.write_text(json.dumps({"rules": [GOOD]}))
    assert read_rules(path).metadata == 4100


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"bundle": "no_such_bundle"}, ...),
        ({"task": "no_such_task"}, ...),
        ({"modality": "CT"}, "rules#0#bundle"),
        ({"overrides": {"image": "x"}}, "rules#0: overrides#image"),
        ({"overrides": {"sampler#stepz": 2}}, ...),
        ({"overrides": {"sampler#steps": -1}}, ...),
        ({"send_to": ["NOWHERE"]}, "send_to"),
    ],
)
def test_rules_that_cannot_be_fulfilled_end_the_worker_at_its_start(
    rule: dict[str, Any], where: Any, orthanc: Any, series: Any, serve: Callable[..., int], capsys: Any
) -> None:
    source = orthanc.receive(series())
    assert serve(**rule) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert where is ... or where in line
    assert source not in orthanc.states


def test_the_first_rule_that_matches_takes_a_series(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    more = [
        GOOD | {"name": "thick", "thickness": 3},
        GOOD | {"name": "ct", "modality": "CT", "description": "lung|kidney"},
    ]
    path.write_text(json.dumps({"rules": [*more, GOOD | {"senders": ["MR1", "MR2"]}]}))
    rules: Rules = read_rules(path)
    one = Series("", "MR", "T1 AX", "", "MR1", 5.0, True, ())
    for series, name in (
        (one, "thick"),
        (Series("", "MR", "", "", "MR2", None, True, ()), "a"),
        (Series("", "MR", "", "", "MR3", None, True, ()), None),
        (Series("", "CT", "LUNG 5mm", "", None, 1.0, True, ()), "ct"),
        (Series("", "CT", "head", "", None, 1.0, True, ()), None),
    ):
        rule = rules.rule_for(series)
        assert (None if rule is None else rule.name) == name
