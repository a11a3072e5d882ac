# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""``diffrecon plugins`` and the frame of the command line."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_diffrecon import __version__, errors, registry
from monai_diffrecon.cli import main as cli
from monai_diffrecon.registry import PluginInfo

GOOD = PluginInfo("z_tv", "priors", "monai-diffrecon", "0.1.0", "Total variation along z.")
BROKEN = PluginInfo("bad", "samplers", "acme", "2.1", "Be bad.", "ImportError: no acme")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(*infos: PluginInfo) -> None:
        monkeypatch.setattr(registry, "available", lambda kind, check: [i for i in infos if kind in (None, i.kind)])

    return use


def test_table(found: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    found(GOOD, BROKEN)
    assert cli.main(["plugins"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KIND      NAME  DISTRIBUTION           SUMMARY",
        "priors    z_tv  monai-diffrecon 0.1.0  Total variation along z.",
        "samplers  bad   acme 2.1               BROKEN: ImportError: no acme",
    ]


def test_a_name_in_two_distributions_is_shown_in_full(found: Callable[..., None]) -> None:
    table = cli.plugin_table([GOOD, PluginInfo("z_tv", "priors", "acme", "1", "")])
    assert [line.split()[1] for line in table] == ["NAME", "monai-diffrecon:z_tv", "acme:z_tv"]


def test_nothing_found_says_what_to_do(found: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    found()
    assert cli.main(["plugins"]) == 0
    assert "install monai-diffrecon" in capsys.readouterr().out


def test_kind(found: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    found(GOOD, BROKEN)
    assert cli.main(["plugins", "--kind", "priors"]) == 0
    assert "bad" not in capsys.readouterr().out


def test_json(found: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    found(GOOD, BROKEN)
    assert cli.main(["plugins", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert PluginInfo(**first) == GOOD
    assert second["error"] == "ImportError: no acme"


@pytest.mark.parametrize(("infos", "code"), [([GOOD], 0), ([GOOD, BROKEN], 7)])
def test_check_fails_when_a_plugin_is_broken(
    found: Callable[..., None], capsys: pytest.CaptureFixture[str], infos: list[PluginInfo], code: int
) -> None:
    found(*infos)
    assert cli.main(["plugins", "--check"]) == code


def test_installed_plugins_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [errors.ConfigError, errors.IntegrityError, errors.NumericalError, errors.PluginError]
)
def test_an_error_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[errors.DiffReconError]
) -> None:
    def fail(parser: argparse.ArgumentParser) -> cli.Run:
        """Fail."""

        def run(arguments: argparse.Namespace) -> int:
            raise error("it is\nwrong", where="prior#K", mend="set it right")

        return run

    monkeypatch.setitem(cli.COMMANDS, "fail", fail)
    assert cli.main(["fail"]) == error.exit_code
    captured = capsys.readouterr()
    assert captured.err == "error: prior#K: it is wrong. Fix: set it right\n"
    assert captured.out == ""


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(parser: argparse.ArgumentParser) -> cli.Run:
        """Fail."""
        return lambda arguments: 1 // 0

    monkeypatch.setitem(cli.COMMANDS, "fail", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"])


@pytest.mark.parametrize("arguments", [[], ["plugins", "--kind", "prior"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: diffrecon" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in text
        assert (command.__doc__ or "").strip().splitlines()[0].rstrip(".") in " ".join(text.split())


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "monai_diffrecon"], [str(Path(sys.executable).with_name("diffrecon"))]]
)
def test_both_ways_to_call_it(command: list[str]) -> None:
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert result.stdout == f"diffrecon {__version__}\n", result.stderr


def test_listing_stays_quick() -> None:
    """Not by the clock: what would make it slow is not imported."""
    code = (
        "import sys; from monai_diffrecon.cli import main as m; m.main(['plugins']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "run"])  # MONAI's words are no options
def test_every_command_prints_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A per cent sign in a text of help would be taken for a format."""
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"diffrecon {name}" in capsys.readouterr().out
