# Licensed under the Apache License, Version 2.0 (the "License"); see the file LICENSE.
# SPDX-License-Identifier: Apache-2.0
"""The registry on distributions written to disk as pip would install them."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest

from monai_diffrecon import registry
from monai_diffrecon.errors import ConfigError, PluginError
from monai_diffrecon.protocols import Regularizer, Sampler

from ..raising import raises

Install = Callable[..., None]

SHRINK = '''
from monai_diffrecon.errors import ConfigError
from monai_diffrecon.protocols import Regularizer


class Shrink(Regularizer):
    """Shrink the voxels.

    More words.
    """

    def __init__(self, threshold: float = 0.1, *, mode: str = "soft") -> None:
        if mode == "wild":
            raise ConfigError("unknown mode", where="shrink#mode")
        if threshold < 0:
            raise ValueError("threshold below 0")
        self.threshold, self.mode = threshold, mode

    def transform(self, x):
        return x

    def adjoint(self, v):
        return v

    def prox(self, v, step):
        return v
'''

RELAY = '''
from monai_diffrecon.protocols import Sampler


class Relay(Sampler):
    """Hand on."""

    plugin_options = {"start": "samplers", "penalties": "regularizers"}
    plugin_literals = {"start": ("noise", "initial")}

    def __init__(self, steps: int, start="noise", penalties=None) -> None:
        self.steps, self.start, self.penalties = steps, start, penalties

    def begin(self, noise, *, seed, case): ...
    def schedule(self, state): ...
    def step(self, state, denoise, consistency, noise): ...
'''


@pytest.fixture
def shrink(install: Install) -> None:
    install("acme-shrink", "regularizers", {"shrink": "Shrink"}, SHRINK)


@pytest.fixture
def relay(install: Install) -> None:
    install("acme-relay", "samplers", {"relay": "Relay"}, RELAY)


def admm(*regularizers: object) -> dict[str, object]:
    return {"name": "admm", "regularizers": list(regularizers)}


def info(kind: str, name: str, **options: bool) -> registry.PluginInfo:
    return next(i for i in registry.available(kind, **options) if i.name == name)


def test_lists_what_is_installed_without_importing_it(shrink: None) -> None:
    assert info("regularizers", "shrink") == registry.PluginInfo(
        "shrink", "regularizers", "acme-shrink", "2.1", "Shrink the voxels.", None
    )
    assert "plug_acme_shrink" not in sys.modules


def test_lists_all_kinds_and_the_built_in_plugins() -> None:
    found = {(i.kind, i.name): i.distribution for i in registry.available()}
    assert found["regularizers", "z_tv"] == "monai-diffrecon"
    assert found["regularizers", "wavelet_l1"] == "diffrecon-wavelets"
    assert {kind for kind, _ in found} == set(registry.KINDS)


def test_every_installed_plugin_keeps_the_contract() -> None:
    assert [i for i in registry.available(check=True) if i.error] == []


def test_every_installed_plugin_has_a_summary() -> None:
    assert [i.name for i in registry.available() if not i.summary] == []


def test_listing_imports_neither_torch_nor_monai() -> None:
    code = """
        import sys
        from monai_diffrecon.registry import available
        assert available()
        assert not {"torch", "monai", "numpy", "diffrecon_wavelets"} & sys.modules.keys()
    """
    result = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_summary_of_a_module_in_a_package_is_read_without_running_the_package(install: Install, tmp_path: Path) -> None:
    package = tmp_path / "plug_heavy"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner.py").write_text('class Heavy:\n    """Weigh much."""\n')
    install("heavy", "regularizers", {"heavy": "Heavy"}, "")
    points = tmp_path / "heavy-2.1.dist-info" / "entry_points.txt"
    points.write_text("[monai_diffrecon.regularizers]\nheavy = plug_heavy.inner:Heavy\n")
    registry.refresh()
    assert info("regularizers", "heavy").summary == "Weigh much."


def test_a_regularizer_among_the_priors_works_for_one_release_with_a_warning(install: Install, relay: None) -> None:
    source = SHRINK.replace("Shrink", "Older")
    install("acme-older", "priors", {"older": "Older"}, source)
    assert info("priors", "older").distribution == registry.distribution_of("regularizers", "older") == "acme-older"
    with pytest.warns(DeprecationWarning, match="acme-older declares the regularizer 'older'.*regularizers only"):
        built = registry.build("regularizers", {"name": "older", "threshold": 0.3})
    assert built.threshold == 0.3
    # As its own tests ask for it, as a prior, and as an older consistency step takes it.
    assert isinstance(registry.create("priors", "acme-older:older"), Regularizer)
    assert registry.build("priors", built, where="prior") is built
    sampler = registry.create("samplers", "relay", steps=1, penalties=["older"])
    assert isinstance(sampler.penalties[0], Regularizer)


def test_an_older_package_finds_the_regularizers_among_the_priors(shrink: None, install: Install) -> None:
    install("acme-relay", "samplers", {"relay": "Relay"}, RELAY.replace('"regularizers"', '"priors"'))
    sampler = registry.create("samplers", "relay", steps=1, penalties=["shrink", "acme-shrink:shrink"])
    assert [type(p).__name__ for p in sampler.penalties] == ["Shrink", "Shrink"]
    assert isinstance(registry.create("priors", "shrink"), Regularizer)


def test_a_score_prior_is_no_regularizer(relay: None) -> None:
    with pytest.raises(PluginError) as caught:
        registry.create("samplers", "relay", steps=1, penalties=["slices"])
    assert caught.value.where == "sampler#penalties#0"
    assert "'slices' is one of the priors" in str(caught.value.mend)


def test_creates_with_options(shrink: None) -> None:
    plugin = registry.create("regularizers", "shrink", threshold=0.5, mode="hard")
    assert isinstance(plugin, Regularizer)
    assert (plugin.threshold, plugin.mode) == (0.5, "hard")  # type: ignore[attr-defined]
    assert registry.load("regularizers", "shrink") is type(plugin)


def test_builds_from_an_instance_a_name_and_a_spec(shrink: None) -> None:
    plugin = registry.build("regularizers", {"name": "shrink", "threshold": 0.2}, where="regularizer")
    assert plugin.threshold == 0.2
    assert registry.build("regularizers", plugin, where="regularizer") is plugin
    assert registry.build("regularizers", "shrink", where="regularizer").threshold == 0.1


def test_building_leaves_the_users_spec_untouched(relay: None, shrink: None) -> None:
    spec = {"name": "relay", "steps": 3, "penalties": [{"name": "shrink"}]}
    registry.build("samplers", spec, where="sampler")
    assert spec == {"name": "relay", "steps": 3, "penalties": [{"name": "shrink"}]}


def test_context_is_given_beside_the_options(shrink: None) -> None:
    assert registry.build("regularizers", {"name": "shrink", "threshold": 0.2}, where="p", mode="hard").mode == "hard"
    with raises(ConfigError, where="p#mode", expected="one of threshold"):
        registry.check_options("regularizers", {"name": "shrink", "mode": "x"}, where="p", context=("mode",))
    with raises(PluginError, where="regularizer") as caught:
        registry.build("regularizers", "shrink", where="regularizer", geometry=None)
    assert "'geometry'" in caught.value.what


def test_builds_nested_plugins(relay: None, shrink: None) -> None:
    spec = {
        "name": "relay",
        "steps": 3,
        "start": {"name": "relay", "steps": 1},
        "penalties": ["shrink", {"name": "shrink", "threshold": 0.7}],
    }
    sampler = registry.build("samplers", spec, where="sampler")
    assert isinstance(sampler.start, Sampler)
    assert [p.threshold for p in sampler.penalties] == [0.1, 0.7]


@pytest.mark.parametrize("start", ["noise", "initial"])
def test_literals_of_an_option_win_over_plugin_names(relay: None, start: str) -> None:
    """``initial`` is a literal of the option and the name of a sampler too."""
    assert registry.build("samplers", {"name": "relay", "steps": 1, "start": start}, where="s").start == start


def test_none_stays_none_in_a_plugin_option(relay: None) -> None:
    assert registry.build("samplers", {"name": "relay", "steps": 1, "start": None}, where="s").start is None


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (
            {"step": 3},
            {"where": "sampler#step", "expected": "one of steps, start, penalties", "mend": "did you mean 'steps'?"},
        ),
        ({}, {"where": "sampler", "expected": "the required steps", "got": "no options"}),
        ({"steps": 1, "penalties": [{"name": "shrink", "treshold": 1}]}, {"where": "sampler#penalties#0#treshold"}),
        ({"steps": 1, "penalties": {"name": "shrink", "threshold": -1}}, {"where": "sampler#penalties"}),
        ({"steps": 1, "penalties": {"name": "shrink", "mode": "wild"}}, {"where": "sampler#penalties#mode"}),
        ({"steps": 1, "start": 7}, {"where": "sampler#start", "got": "int 7"}),
        ({"steps": 1, "start": {"steps": 1}}, {"where": "sampler#start", "got": "dict {'steps': 1}"}),
    ],
)
def test_wrong_options_say_where(relay: None, shrink: None, spec: dict[str, object], fields: dict[str, str]) -> None:
    with raises(ConfigError, **fields) as caught:
        registry.build("samplers", {"name": "relay", **spec}, where="sampler")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "spec", "where"),
    [
        ("samplers", {"name": "admm_tv", "rho": -1}, "sampler#rho"),
        ("samplers", {"name": "ddim", "start": {"name": "admm_tv", "rho": -1}}, "sampler#start#rho"),
        ("samplers", {"name": "pnp_hqs", "start": "ddim"}, "sampler#start"),
        ("consistency", admm({"name": "z_tv", "threshold": -1}), "#regularizers#0#threshold"),
        ("consistency", admm("z_tv", {"name": "wavelet_l1", "level": 0}), "#regularizers#1#level"),
        ("priors", {"name": "perpendicular", "K": -1}, "prior#K"),
    ],
)
@pytest.mark.parametrize("at", ["", "methods#2#"])
def test_errors_of_constructors_carry_the_full_id(kind: str, spec: dict[str, object], where: str, at: str) -> None:
    role = registry.KINDS[kind][0]
    full = f"{at}{role}{where.removeprefix(role)}"
    with pytest.raises(ConfigError) as caught:
        registry.build(kind, spec, where=f"{at}{role}")
    assert caught.value.where == full
    assert str(caught.value).startswith(f"{full}: ")


def test_the_mend_names_the_full_id_too(install: Install) -> None:
    source = SHRINK.replace('where="shrink#mode"', 'where="shrink#mode", mend="set shrink#mode to soft"')
    install("acme-shrink", "regularizers", {"shrink": "Shrink"}, source)
    with pytest.raises(ConfigError) as caught:
        registry.build("regularizers", {"name": "shrink", "mode": "wild"}, where="consistency#regularizers#0")
    assert caught.value.mend == "set consistency#regularizers#0#mode to soft"


def test_a_component_that_is_no_id_keeps_its_name(install: Install) -> None:
    source = SHRINK.replace('where="shrink#mode"', 'where="the cache"')
    install("acme-shrink", "regularizers", {"shrink": "Shrink"}, source)
    with pytest.raises(ConfigError) as caught:
        registry.create("regularizers", "shrink", mode="wild")
    assert caught.value.where == "the cache"


def test_an_unknown_nested_name_lists_the_literals(relay: None) -> None:
    with raises(PluginError, where="sampler#start", mend="did you mean 'noise'?"):
        registry.build("samplers", {"name": "relay", "steps": 1, "start": "nois"}, where="sampler")


def test_checks_options_before_the_required_ones_are_known(relay: None, shrink: None) -> None:
    registry.check_options("samplers", {"name": "relay", "start": "noise"}, where="sampler")
    with raises(ConfigError, where="sampler#penalties#treshold"):
        registry.check_options("samplers", {"name": "relay", "penalties": {"name": "shrink", "treshold": 1}})


@pytest.mark.parametrize("spec", [None, 3, {}, {"name": 3}, ["relay"]])
def test_what_is_no_spec(spec: object) -> None:
    with raises(ConfigError, where="sampler", expected='a Sampler, its name, or {"name": ..., options}'):
        registry.build("samplers", spec, where="sampler")


def test_a_plugin_of_another_kind_is_no_spec(shrink: None) -> None:
    with raises(ConfigError, where="sampler", expected='a Sampler, its name, or {"name": ..., options}'):
        registry.build("samplers", registry.create("regularizers", "shrink"), where="sampler")


def test_unknown_names_are_mended(shrink: None) -> None:
    with raises(PluginError, where="regularizer", mend="did you mean 'shrink'?") as caught:
        registry.create("regularizers", "schrink")
    assert caught.value.exit_code == 7
    with raises(PluginError, where="sampler", mend="'shrink' is one of the regularizers; give one of the samplers"):
        registry.create("samplers", "shrink")
    with raises(PluginError, where="regularizer", mend="use 'acme-shrink:shrink'"):
        registry.create("regularizers", "other-dist:shrink")
    with raises(ConfigError, where=None, expected=...) as caught:
        registry.create("prior", "shrink")
    assert caught.value.expected.startswith("one of denoisers, priors")


def test_an_unknown_name_names_the_package_known_to_provide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.get_group_all", lambda group: [])
    registry.refresh()
    for (kind, name), package in registry.KNOWN_PROVIDERS.items():
        with pytest.raises(PluginError) as caught:
            registry.create(kind, name)
        assert caught.value.where == registry.KINDS[kind][0]
        assert str(caught.value.mend).endswith(package)
    assert registry.KNOWN_PROVIDERS["operators", "rotation_ct"] == "diffrecon-published"
    assert registry.KNOWN_PROVIDERS["noises", "sequential"] == "diffrecon-published"
    registry.refresh()


def test_known_providers_are_right() -> None:
    found = {(i.kind, i.name): i.distribution for i in registry.available()}
    known = {key: name for key, name in registry.KNOWN_PROVIDERS.items() if find_spec(name.replace("-", "_"))}
    assert len(known) > 5
    assert {key: found[key] for key in known} == known


def test_one_name_in_two_distributions_needs_the_qualified_name(install: Install, shrink: None) -> None:
    install("rival", "regularizers", {"shrink": "Shrink"}, SHRINK)
    with pytest.raises(PluginError) as caught:
        registry.create("regularizers", "shrink")
    assert "acme-shrink" in str(caught.value)
    assert "rival:shrink" in str(caught.value)
    assert caught.value.exit_code == 7
    assert type(registry.create("regularizers", "rival:shrink")).__module__ == "plug_rival"
    assert type(registry.create("regularizers", "Acme_Shrink:shrink")).__module__ == "plug_acme_shrink"
    assert len([i for i in registry.available("regularizers") if i.name == "shrink"]) == 2


def test_a_distribution_seen_twice_on_sys_path_is_one(
    install: Install, shrink: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install: the checkout's egg-info beside the dist-info of site-packages."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.syspath_prepend(checkout)
    install("Acme-Shrink", "regularizers", {"shrink": "Shrink"}, SHRINK, folder="{}.egg-info", root=checkout)
    assert len([i for i in registry.available("regularizers") if i.name == "shrink"]) == 1
    registry.create("regularizers", "shrink")


def test_the_version_of_an_egg_info_without_one_comes_from_its_metadata(install: Install, tmp_path: Path) -> None:
    install("bare", "regularizers", {"shrink": "Shrink"}, SHRINK, folder="{}.egg-info")
    assert info("regularizers", "shrink").version == ""
    (tmp_path / "bare.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 3.4\n")
    registry.refresh()
    assert info("regularizers", "shrink").version == "3.4"


CONCRETE = "\n    def transform(self, x): ...\n    def adjoint(self, v): ...\n    def prox(self, v, step): ...\n"
BASE = "from monai_diffrecon.protocols import Regularizer, Sampler\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no licence\\nfound')", "RuntimeError: no licence found"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("class Other: ...", "has no attribute 'Bad'"),
        ("def f(:", "SyntaxError"),
        ("class Bad: ...", "Bad is not a subclass of Regularizer"),
        ("Bad = 3", "3 is not a subclass"),
        (f"{BASE}class Bad(Regularizer): ...", "Bad does not implement adjoint, prox, transform"),
        (f"{BASE}class Bad(Regularizer):\n    API_VERSION = 0{CONCRETE}", "written for API_VERSION 0"),
        (
            f"{BASE}class Bad(Regularizer):\n    def __init__(self, **kw): ...{CONCRETE}",
            "the constructor of Bad takes unnamed options: **kw",
        ),
        (
            f"{BASE}class Bad(Regularizer):\n    plugin_options = {{'x': 'regularizers'}}{CONCRETE}",
            "plugin_options of Bad names unknown options",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_stops_nothing_else(
    install: Install, shrink: None, source: str, reason: str
) -> None:
    install("broken-dist", "regularizers", {"bad": "Bad"}, source)
    assert info("regularizers", "bad").error is None
    with raises(PluginError, where="regularizer", mend="update or uninstall broken-dist") as caught:
        registry.create("regularizers", "bad")
    assert reason in " ".join(caught.value.what.split())
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    reported = info("regularizers", "bad", check=True)
    assert reported.distribution == "broken-dist"
    assert reported.error
    assert info("regularizers", "shrink", check=True).error is None
    registry.create("regularizers", "shrink")


def test_a_missing_extra_is_named(install: Install) -> None:
    install("needy", "regularizers", {"bad": "Bad [gpu]"}, "import nowhere_to_be_found")
    with raises(PluginError, where="regularizer", mend="pip install 'needy[gpu]'"):
        registry.load("regularizers", "bad")


def test_an_entry_point_that_cannot_be_read_stops_nothing_else(install: Install, shrink: None) -> None:
    install("garbled", "regularizers", {"bad": "Bad:::"}, "")
    assert "Bad:::" in str(info("regularizers", "?").error)
    registry.create("regularizers", "shrink")


def test_a_file_of_entry_points_that_cannot_be_read_is_named(install: Install, tmp_path: Path) -> None:
    install("torn", "regularizers", {}, "")
    (tmp_path / "torn-2.1.dist-info" / "entry_points.txt").write_text("no section")
    registry.refresh()
    with raises(PluginError, mend="reinstall or uninstall that distribution") as caught:
        registry.available("regularizers")
    assert "torn-2.1.dist-info" in caught.value.what


def test_refresh_sees_what_was_installed_since(install: Install) -> None:
    assert "shrink" not in [i.name for i in registry.available("regularizers")]
    install("acme-shrink", "regularizers", {"shrink": "Shrink"}, SHRINK)
    assert info("regularizers", "shrink").version == "2.1"
