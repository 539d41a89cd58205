from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kdgraph.spec.entry import ADAPTERS, LOSSES, SIGNALS
from kdgraph.spec.jsonschema import json_schema
from kdgraph.spec.lines import Lines
from kdgraph.spec.read import diagnose
from kdgraph.spec.text import parse
from kdgraph.spec.tree import plain

ROOT = Path(__file__).parents[2]
BAD = Path(__file__).parent / "bad"


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def data(text: str) -> Any:
    return plain(parse(text, Lines("f", text)))[0]


def test_knows_every_entry_and_describes_it(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    for registry in (LOSSES, SIGNALS, ADAPTERS):
        for name, cls in registry.items():
            assert definitions[name]["properties"]["use"]["const"] == name
            assert definitions[name]["description"]
            assert "``" not in definitions[name]["description"]
            assert definitions[name]["title"] == name
            assert set(definitions[name]["properties"]) <= set(cls.model_fields)


def test_accepts_a_good_spec(validator: jsonschema.Draft202012Validator, good: str) -> None:
    validator.validate(data(good))


@pytest.mark.parametrize(
    "file", sorted((ROOT / "specs").rglob("*.yaml")), ids=lambda f: str(f.relative_to(ROOT))
)
def test_accepts_shipped_specs(validator: jsonschema.Draft202012Validator, file: Path) -> None:
    validator.validate(data(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("adapter: conv1x1", "adapter: {use: conv1x1}"),
        ("adapter: conv1x1", "adapter: [resize, {use: conv1x1}]"),
        (", adapter: conv1x1", ""),
        ("link: mid", "student: mid.student, teacher: mid.teacher"),
        ("tau: 4", "tau: target"),
        ("tau: 4", "tau: {cosine: [4, 1], iterations: [0, 100]}"),
        ("tau: 4", "tau: 4.5, tau_student: null"),
        ("input: {x: image}", "input: image"),
        ("input: {x: image}", "trainable: true"),
        ("[B, 3, 32, 32]", "[B, C, H1, 32]"),
        ("name: good", "name: good\ndescription: words"),
        ("    source: timm/resnet26\n", ""),
    ],
)
def test_accepts_what_the_reader_accepts(
    validator: jsonschema.Draft202012Validator, good: str, old: str, new: str
) -> None:
    assert old in good
    text = good.replace(old, new, 1)
    assert diagnose(text)[0] is not None
    validator.validate(data(text))


@pytest.mark.parametrize(
    "text",
    [
        "extends: base.yaml\n",
        "extends: [a.yaml, b.yaml]\nlosses: {soft: {tau: 2}, hint: null}\n",
        "extends: a.yaml\nmodels: {student: {taps: {mid: null}}}\nlinks: null\n",
        "extends: a.yaml\nlosses: {soft: {weight: {linear: [0, 1], epochs: [0, 9]}}}\n",
    ],
)
def test_accepts_parts_over_another(validator: jsonschema.Draft202012Validator, text: str) -> None:
    validator.validate(data(text))


@pytest.mark.parametrize(
    "text",
    [
        "extends: 3\n",
        "extends: a.yaml\nlosss: {}\n",
        "extends: a.yaml\nlosses: {soft: {tua: 2}}\n",
        "extends: a.yaml\nlosses: {soft: {weight: -2}}\n",
    ],
)
def test_refuses_wrong_parts(validator: jsonschema.Draft202012Validator, text: str) -> None:
    assert not validator.is_valid(data(text))


STRUCTURE = [
    "choices", "key_form", "link_and_side", "link_not_read", "list_or_mapping", "many",
    "missing_key_loss", "missing_sections", "missing_use", "not_a_schedule", "null_values",
    "number_as_text", "out_of_range", "reference_form", "shape_entries", "source_form",
    "unknown_adapter", "unknown_adapter_mapping", "unknown_key_batch", "unknown_key_loss",
    "unknown_key_model", "unknown_key_top", "unknown_loss", "unknown_schedule", "unknown_signal",
    "version", "version_as_text", "yes_and_no",
]  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURE)
def test_refuses_mistakes_of_structure(
    validator: jsonschema.Draft202012Validator, name: str
) -> None:
    assert not validator.is_valid(data((BAD / f"{name}.yaml").read_text(encoding="utf-8")))
