"""Whatever is read, the outcome is a spec or diagnostics, and never another exception."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdgraph.errors import Diagnostic
from kdgraph.spec.jsonschema import json_schema
from kdgraph.spec.language import Spec
from kdgraph.spec.read import diagnose

GOOD = (Path(__file__).parent / "good.yaml").read_text(encoding="utf-8")
few = settings(
    max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
VALIDATOR = jsonschema.Draft202012Validator(json_schema())

words = st.sampled_from(
    sorted(set(re.findall(r"\w[\w.]*", GOOD)) | {"extends", "stages", "chain", "of", "yes", "null"})
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.floats(-2, 5)
    | words
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=4), inner),
    max_leaves=12,
)


def check(source: Any, overrides: list[str] | None = None) -> Spec | None:
    spec, found = diagnose(source, overrides or ())
    assert all(isinstance(d, Diagnostic) for d in found)
    assert (spec is None) == any(d.severity == "error" for d in found)
    said = "".join(str(d) for d in found)
    said.encode()  # nothing that a terminal cannot be given
    assert "Input should" not in said
    assert "pydantic" not in said
    return spec


@few
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    check(text + "\n")


@few
@given(st.text(alphabet="abk:-?[]{},&*!|>'\"%@`#~ \n\t0.1e<", max_size=60))
def test_text_of_marks(text: str) -> None:
    check(text + "\n")


@few
@given(st.data())
def test_good_text_with_changes(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = at + data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.text(max_size=3) | words) + text[end:]
    check(text + "\n")


@few
@given(values)
def test_any_structure(value: Any) -> None:
    check({"kdgraph": 1, "models": value, "losses": value})
    check(yaml.safe_dump({"kdgraph": 1, "links": value, "signals": value}) + "\n")


@few
@given(st.randoms(use_true_random=False), values)
def test_good_structure_with_one_change(chance: random.Random, value: Any) -> None:
    data = yaml.safe_load(GOOD)
    node: Any = data
    for _ in range(chance.randint(0, 3)):
        inner = [v for v in (node.values() if isinstance(node, dict) else node) if v]
        inner = [v for v in inner if isinstance(v, dict | list)]
        if inner:
            node = chance.choice(inner)
    node[chance.choice([*node] if isinstance(node, dict) else range(len(node)))] = value
    if check(data) is not None:  # what is read, an editor must not mark
        VALIDATOR.validate(data)


@few
@given(st.lists(st.sampled_from(GOOD.split()) | words, min_size=1, max_size=4), values)
def test_any_override(path: list[str], value: Any) -> None:
    check(GOOD, [".".join(path) + "=" + yaml.safe_dump(value, default_flow_style=True)])
    check(GOOD, [".".join(path)])
