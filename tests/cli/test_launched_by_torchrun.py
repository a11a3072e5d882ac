# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""Commands and devices in a process that ``torchrun`` started."""

from __future__ import annotations

import pytest
import torch

from monai_diffrecon.cli import main as cli
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.errors.options import check_device


@pytest.mark.parametrize(
    "argv", [["evaluate", "--config", "none.json"], ["rerun", "none.json", "--image", "a", "--bundle", "b"]]
)
def test_commands_that_do_not_share_out_their_work_are_refused(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) != 0  # there is no such file
    assert f"diffrecon {argv[0]}" not in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(argv) == ConfigError.exit_code
    assert f"diffrecon {argv[0]}" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    cli.main(argv)
    assert f"diffrecon {argv[0]}" not in capsys.readouterr().err


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert check_device("cuda", "device") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert check_device("cuda", "device") == check_device(torch.device("cuda"), "device") == "cuda:3"
    assert [check_device(device, "device") for device in ("cuda:1", "cpu", None)] == ["cuda:1", "cpu", None]
