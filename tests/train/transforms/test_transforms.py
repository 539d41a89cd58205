"""What holds for every transform, and how a spec with some is checked and run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.errors import DataError
from kdgraph.spec.jsonschema import json_schema
from kdgraph.spec.transforms import TRANSFORMS
from kdgraph.train.data._load import eval_loader, train_loader
from kdgraph.train.data._open import open_data
from kdgraph.train.data._split import TensorSplit, seeded
from kdgraph.train.data.base import DataSet
from kdgraph.train.data.transforms.base import ImageTransform, Transform


def rows(count: int) -> dict[str, Tensor]:
    chance = seeded("rows")
    image = torch.rand(count, 3, 9, 9, generator=chance)
    features = torch.rand(count, 12, 5, generator=chance)
    return {
        "image": image, "label": torch.arange(count) % 3,
        "features": features, "frames": torch.arange(count) % 12 + 1,
    }  # fmt: skip


def made(use: str) -> Transform:
    """The transform as a spec without further keys has it, fitted."""
    transform: Transform = TRANSFORMS.get(use)()
    return transform.fitted(TensorSplit(rows(12)))


@pytest.fixture(params=TRANSFORMS.names())
def transform(request: pytest.FixtureRequest) -> Transform:
    return made(request.param)


def test_it_adds_what_it_says(transform: Transform) -> None:
    before = rows(6)
    added = transform.columns(tuple(before))
    after = transform.apply(dict(before), seeded("t"))
    assert set(after) == {*before, *added}
    for name, value in before.items():
        assert after[name].shape == value.shape
        assert after[name].dtype == value.dtype
        assert torch.isfinite(after[name]).all()
    assert float(after["image"].min()) >= 0
    assert float(after["image"].max()) <= 1


def test_its_randomness_is_the_generators_alone(transform: Transform) -> None:
    before = rows(6)
    kept = {name: value.clone() for name, value in before.items()}
    torch.manual_seed(0)
    first = transform.apply(dict(before), seeded("t"))
    torch.manual_seed(1)
    second = transform.apply(dict(before), seeded("t"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], value) for name, value in kept.items())


def test_a_row_depends_on_what_its_scope_says(transform: Transform) -> None:
    assert transform.scope() in ("row", "none", "mix")
    before, other = rows(6), rows(6)
    for value in other.values():
        value[3:] = value[3:].flip(0)
    first, second = (transform.apply(dict(batch), seeded("t")) for batch in (before, other))
    if transform.scope() == "mix":
        whole = transform.along(dict(before) | {"more": before["image"]}, seeded("t"), ["more"])
        assert torch.equal(whole["image"], first["image"])
        assert torch.equal(whole["more"], first["image"])
    elif transform.scope() == "row":
        assert all(torch.equal(first[name][:3], second[name][:3]) for name in first)
    else:
        assert all(torch.equal(first[name], second[name]) for name in transform.adds())
        assert all(torch.equal(first[name], before[name]) for name in before)


def test_a_column_that_is_not_there(transform: Transform) -> None:
    with pytest.raises(DataError, match="KD711"):
        transform.columns(("images", "labels"))
    added = transform.adds()
    if added:
        with pytest.raises(DataError, match=f"KD711.*add '{added[0]}'"):
            transform.columns(("image", "label", added[0]))


def test_near_match(darker: type[ImageTransform]) -> None:
    with pytest.raises(DataError, match=r"KD711\]: darker reads 'image'.*\n.*'images'"):
        darker().columns(("images", "label"))


def test_the_schema_knows_it(transform: Transform) -> None:
    schema = json_schema()["$defs"][transform.use]
    assert schema["properties"]["use"]["const"] == transform.use
    assert schema["description"]


def two_views(make_spec: Any, **data: Any) -> dict[str, Any]:
    text: dict[str, Any] = make_spec(data={
        "transforms": [{"use": "mixup"}, {"use": "view"}], "augment": {"shift": 1}, **data,
    })  # fmt: skip
    text["batch"] |= {
        "view": {"shape": ["B", 1, 8, 8]},
        "label_b": {"shape": ["B"], "dtype": "int64", "classes": 10},
        "mix": {"shape": ["B"]},
    }
    text["train"]["evaluate"] = {"target": "label"}
    return text


def test_a_spec_with_transforms(make_spec: Any) -> None:
    data, splits = open_data(kdgraph.load_spec(two_views(make_spec)))
    batch = next(iter(train_loader(splits.train, data, seed=1)))
    assert set(batch) == {"image", "label", "view", "label_b", "mix"}
    later = list(train_loader(splits.train, data, seed=1, epoch=1))
    again = next(iter(train_loader(splits.train, data, seed=1, epoch=1, done=2)))
    assert all(torch.equal(again[name], later[2][name]) for name in again)
    assert set(next(iter(eval_loader(splits.val, data)))) == {"image", "label"}


def test_workers_change_nothing(make_spec: Any) -> None:
    batches = []
    for workers in (0, 2):
        data, splits = open_data(kdgraph.load_spec(two_views(make_spec, workers=workers)))
        batches.append(list(train_loader(splits.val, data, seed=0))[1])
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"use": "mixip"}], r"KD201\]: unknown transform 'mixip'.*\n(.*\n)*.*'mixup'"),
        ([{"use": "mixup", "alpha": 0}], "KD113"),
        ([{"use": "mixup", "label": "lable"}], r"KD711.*'lable'.*\n(.*\n)*.*'label'"),
        ([{"use": "mixup"}, {"use": "mixup"}], r"KD711.*'label_b', which is there"),
        ([{"use": "view"}], r"KD711.*'label_b'"),
        (
            [{"use": "mixup"}, {"use": "view"}, {"use": "view", "of": "image", "name": "other"}],
            r"KD711\]: view adds 'other',.*no batch entry.*\n(.*\n)*.*an entry `other` in `batch`",
        ),
    ],
)
def test_mistakes(make_spec: Any, tmp_path: Any, steps: list[Any], said: str) -> None:
    import yaml

    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(two_views(make_spec, transforms=steps), sort_keys=False))
    with pytest.raises(kdgraph.KDGraphError, match=said) as error:
        open_data(kdgraph.load_spec(file))
    assert all(d.span is not None and d.span.line > 1 for d in error.value.diagnostics)


def test_no_added_column_is_lost(make_spec: Any) -> None:
    """Images would be mixed with others, and their labels not."""
    text = two_views(make_spec, transforms=[{"use": "mixup"}])
    for name in ("view", "label_b", "mix"):
        del text["batch"][name]
    with pytest.raises(DataError, match=r"adds 'label_b'.*\n.*\n.*adds 'mix'") as error:
        open_data(kdgraph.load_spec(text))
    assert [d.code for d in error.value.diagnostics] == ["KD711", "KD711"]
    # a view that another view is of is not lost
    text["data"]["transforms"] = [
        {"use": "view", "name": "first"}, {"use": "view", "of": "first"},
    ]  # fmt: skip
    text["batch"]["view"] = {"shape": ["B", 1, 8, 8]}
    open_data(kdgraph.load_spec(text))


def test_nothing_is_scored_on_what_a_transform_made(make_spec: Any) -> None:
    text = two_views(make_spec)
    text["models"]["student"]["input"] = "view"
    with pytest.raises(DataError, match=r"KD711\]: 'view' comes from a transform"):
        open_data(kdgraph.load_spec(text))


def test_what_a_spec_holds_is_what_runs(make_spec: Any) -> None:
    spec = kdgraph.load_spec(two_views(make_spec))
    assert isinstance(spec.data, DataSet)
    assert [step.use for step in spec.data.steps()] == ["mixup", "view"]
