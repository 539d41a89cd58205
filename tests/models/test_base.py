from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from kdgraph.errors import ModelError, Span
from kdgraph.models import SOURCES, Source
from kdgraph.models.load import build_model, build_skeleton


def code_of(error: pytest.ExceptionInfo[ModelError]) -> str:
    (diagnostic,) = error.value.diagnostics
    return diagnostic.code


def test_every_source_is_found() -> None:
    assert SOURCES.names() == ["cifar", "hf", "python", "timm", "torchvision"]


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
