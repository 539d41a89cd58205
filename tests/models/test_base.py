"""What every model source has to hold; a new one is picked up by its prefix.

Its own test file ``test_<prefix>.py`` names a small model of it, to be built twice:

    EXAMPLE = ("resnet8", {"num_classes": 4})   # name and args
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from kdgraph.errors import ModelError, Span
from kdgraph.models import SOURCES, Source
from kdgraph.models.load import build_model, build_skeleton


def code_of(error: pytest.ExceptionInfo[ModelError]) -> str:
    (diagnostic,) = error.value.diagnostics
    return diagnostic.code


every_source = pytest.mark.parametrize("prefix", SOURCES.names())


def example_of(prefix: str) -> tuple[str, dict[str, Any], list[str]]:
    """Source, args and what has to be trusted of the model that ``test_<prefix>.py`` names."""
    path = Path(__file__).with_name(f"test_{prefix}.py")
    assert path.exists(), f"model source {prefix!r} needs a test file, {path.name}"
    spec = importlib.util.spec_from_file_location(f"example_of_{prefix}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "EXAMPLE"), f'{path.name} lacks EXAMPLE = ("name", {{args}})'
    name, args = module.EXAMPLE
    foreign = SOURCES.get(prefix).foreign_module(name)
    return f"{prefix}/{name}", args, [foreign] if foreign else []


def test_every_source_is_found() -> None:
    assert {"cifar", "hf", "python", "timm", "torchvision"} <= set(SOURCES.names())


@every_source
def test_a_source_lists_its_names(prefix: str) -> None:
    names = SOURCES.get(prefix).names()  # may be empty, where names are free
    assert all(isinstance(name, str) and name for name in names)
    assert len(set(names)) == len(names)


@every_source
def test_a_name_that_is_not_there_is_the_users_mistake(prefix: str) -> None:
    for build in (build_model, build_skeleton):
        with pytest.raises(ModelError, match="no such model") as error:
            build(f"{prefix}/no such model", {}, span=Span("kd.yaml", 7, 13))
        (diagnostic,) = error.value.diagnostics
        # KD410: a form of name that cannot be; KD412: nothing untrusted is even looked at
        assert diagnostic.code in ("KD410", "KD411", "KD412")
        assert diagnostic.help
        assert diagnostic.span == Span("kd.yaml", 7, 13)


@every_source
def test_a_skeleton_has_the_shapes_of_the_model(prefix: str) -> None:
    source, args, trust = example_of(prefix)
    built, skeleton = (
        {
            name: (value.shape, value.dtype)
            for name, value in build(source, args, trust=trust).state_dict().items()
        }
        for build in (build_model, build_skeleton)
    )
    assert built == skeleton


@every_source
def test_a_source_says_what_it_is(prefix: str) -> None:
    doc = type(SOURCES.get(prefix)).__doc__
    assert doc
    assert doc.strip().splitlines()[0].endswith(".")


def test_finding_sources_imports_no_library() -> None:
    heavy = "{'torch', 'timm', 'torchvision', 'transformers', 'safetensors'}"
    script = (
        "import sys, kdgraph.models.load as load; load.SOURCES.names()\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("source", ["resnet50", "timm/", ""])
def test_a_source_without_a_name_says_the_form(source: str) -> None:
    with pytest.raises(ModelError, match=r"PREFIX/NAME.*timm/") as error:
        build_model(source, {})
    assert code_of(error) == "KD410"


def test_unknown_prefix_has_a_near_match_and_the_place_in_the_spec() -> None:
    span = Span("kd.yaml", 7, 13)
    with pytest.raises(ModelError, match="did you mean 'timm'") as error:
        build_model("tim/resnet50", {}, span=span)
    assert code_of(error) == "KD201"
    assert error.value.diagnostics[0].span == span


class _Missing(Source):
    prefix = "missing"
    extra = "vision"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        raise NotImplementedError

    def names(self) -> list[str]:
        return list(self.library("no_such_library.models").names())


def test_a_missing_library_names_the_command_that_installs_it() -> None:
    with pytest.raises(ModelError, match=r"pip install 'kdgraph\[vision\]'") as error:
        _Missing().names()
    assert code_of(error) == "KD414"


def test_an_unknown_name_has_a_near_match_and_a_command_that_lists_all() -> None:
    with pytest.raises(ModelError) as error:
        build_model("cifar/resnet9", {})
    assert code_of(error) == "KD411"
    help = error.value.diagnostics[0].help
    assert help is not None
    assert help.startswith("did you mean 'resnet")
    assert help.endswith("`kdgraph list models cifar` shows all")


def test_bad_arguments_repeat_what_the_library_says() -> None:
    for build in (build_model, build_skeleton):
        with pytest.raises(ModelError, match="num_clases") as error:
            build("cifar/resnet8", {"num_clases": 10})
        assert code_of(error) == "KD413"
