from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdgraph.errors import SpecError
from kdgraph.importers._tagged import At, read_tagged
from kdgraph.importers.base import Imported
from kdgraph.spec.read import load_spec
from kdgraph.spec.tree import dotted
from tests.importers.files import Read, config, pair, place, term, weighted

LABEL = {"input": place("."), "target": {"uses_label": True}}
CE = term("CrossEntropyLoss", 1.0, LABEL, reduction="mean")
INPUTS = {
    **{f"{r}_module_path": "fc" for r in ("student", "teacher")},
    **{f"{r}_module_io": "output" for r in ("student", "teacher")},
    "temperature": 1.0,
    "alpha": 0,
}
KD = {
    **{f"{r}_module_path": "." for r in ("student", "teacher")},
    **{f"{r}_module_io": "output" for r in ("student", "teacher")},
    "temperature": 4.0,
    "alpha": 0.5,
}

WHOLE = (Path(__file__).parent / "whole.yaml").read_text()


def tree(imported: Imported) -> dict[str, Any]:
    load_spec(imported.text)  # it is a spec
    found: dict[str, Any] = yaml.safe_load(imported.text)
    return found


def leaves(at: At) -> list[At]:
    children = list(at.children())
    return [leaf for child in children for leaf in leaves(child)] or ([] if children else [at])


def test_a_whole_file(read: Read) -> None:
    imported = read(WHOLE)
    spec = tree(imported)
    assert spec["models"] == {
        "teacher": {
            "source": "torchvision/resnet50",
            "args": {"num_classes": 1000, "weights": "IMAGENET1K_V2"},
            "weights": "teacher.pt",
            "taps": {"layer1": "layer1", "logits": "output"},
        },
        "student": {
            "source": "torchvision/resnet18",
            "args": {"num_classes": 1000, "zero_init_residual": True},
            "taps": {"layer1": "layer1", "logits": "output"},
        },
    }
    adapter = {"use": "conv1x1", "norm": "batch", "activation": "relu"}
    assert spec["links"]["reg"]["adapter"] == adapter
    assert {n: e["weight"] for n, e in spec["losses"].items()} == {
        "hint": 1, "kd_label": 0.2, "kd_soft": 1.8
    }  # fmt: skip
    first, second = spec["stages"]
    assert first["losses"] == {"kd_label": 0, "kd_soft": 0}
    assert first["before"] == [{"use": "freeze", "modules": ["student.conv1"]}]
    assert first["after"] == [{"use": "unfreeze", "modules": ["student.conv1"]}]
    assert (second["epochs"], second["losses"]) == (15, {"hint": 0})
    assert second["scheduler"] == {
        "use": "PolynomialLR", "total_iters": "auto", "power": 0.5, "interval": "step"
    }  # fmt: skip
    assert spec["data"] == {
        "use": "imagefolder", "path": "/data/toy", "size": 64,
        "augment": {"shift": 4, "flip": True}, "normalise": {"mean": [0.5], "std": [0.5]},
        "batch_size": 32, "workers": 4,
    }  # fmt: skip
    assert spec["train"] == {
        "epochs": 5, "optimizer": {"use": "Adam", "lr": 0.001}, "grad_clip": 2.0,
        "scheduler": {"use": "MultiStepLR", "milestones": [3], "gamma": 0.1},
        "accumulate": 2, "log_every": 100,
    }  # fmt: skip
    told = {left.where: left.why for left in imported.left}
    assert "memory banks" in told["train.stage2.criterion.kwargs.sub_terms.crd"]
    assert told["unheard_of"] == "this importer does not know it"
    assert "kdgraph book build" in told["train.stage1.train_data_loader.cache_output"]


def test_every_value_is_carried_or_left(read: Read) -> None:
    """No value of the file is passed over: it, or what holds it, is in one of the two lists."""
    imported = read(WHOLE)
    told = {entry.where for entry in (*imported.carried, *imported.left)}
    for leaf in leaves(read_tagged(WHOLE, "toy.yaml")):
        above = {dotted(leaf.path[:end]) for end in range(1, len(leaf.path) + 1)}
        assert leaf.is_empty or told & above, leaf.where


def test_no_tag_is_run(read: Read, tmp_path: Path) -> None:
    """Each of torchdistill's tags and Python's own, on calls that would leave a file behind."""
    file = "init: {args: ['FILE']}"
    opened = "!import_call {key: builtins.open, init: {args: ['FILE', w]}}"
    method = "method_name: touch"
    calls = [
        f"!import_call {{key: pathlib.Path.touch, {file}}}",
        f"!import_call_method {{package: pathlib, class_name: Path, {method}, {file}}}",
        f"!call_method {{data: !import_call {{key: pathlib.Path, {file}}}, {method}}}",
        f"!getattr [{opened}, name]",
        f"!setattr [{opened}, a, 1]",
        f"!access_by_index_or_key {{data: {opened}, index_or_key: 0}}",
        f"!import_call {{key: os.mkdir, {file}}}",
        "!!python/object/apply:os.mkdir ['FILE']",
        "!!python/object/new:os.mkdir ['FILE']",
        "!!python/name:os.mkdir",
        "!anything {key: os.mkdir}",
    ]
    folder = tmp_path / "made"
    folder.mkdir()
    rows = [
        f"  k{n}: {call.replace('FILE', str(folder / str(n)))}\n" for n, call in enumerate(calls)
    ]
    more = calls[0].replace("FILE", str(folder / "lr"))
    text = config(weighted(ce=CE)).replace("lr: 0.1", f"lr: 0.1\n      more: {more}")
    text += "extra:\n" + "".join(rows)
    imported = read(text)
    tree(imported)
    assert list(folder.iterdir()) == []
    told = {left.where: left.why for left in imported.left}
    assert "pathlib.Path.touch" in told["train.optimizer.kwargs.more"]
    assert "extra" in told


def test_earlier_words(read: Read) -> None:
    """``type``, ``params``, ``factor``, ``org_term`` and ``GeneralizedCustomLoss``."""
    criterion = {
        "type": "GeneralizedCustomLoss",
        "org_term": {
            "criterion": {"type": "CrossEntropyLoss", "params": {"reduction": "mean"}},
            "factor": 0.5,
        },
        "sub_terms": {
            "at": {
                "criterion": {
                    "type": "ATLoss",
                    "params": {"at_pairs": {"one": {**pair("a", "b"), "factor": 2}}},
                },
                "factor": 10.0,
            },
            "hint": {
                "criterion": {"type": "MSELoss", "params": {"reduction": "sum"}},
                "params": {"input": place("a"), "target": place("b", teacher=True)},
                "factor": 3,
            },
        },
    }
    del criterion["sub_terms"]["at"]["criterion"]["params"]["at_pairs"]["one"]["weight"]
    text = config(criterion).replace("key:", "type:").replace("kwargs:", "params:")
    edges = tree(read(text))["losses"]
    assert {name: (e["use"], e["weight"]) for name, e in edges.items()} == {
        "org": ("cross_entropy", 0.5), "at": ("attention_transfer", 20), "hint": ("hint", 3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "path", "tap"),
    [
        ("resnet18", "layer1.-1", "layer1.1"),
        ("resnet50", "layer3.-2.bn1", "layer3.4.bn1"),
        ("resnet18", "layer1.-1.relu", "layer1.1.relu@2:in"),
        ("resnet50", "layer4.0.relu", "layer4.0.relu@3:in"),
        ("resnet20", "layer2.-1.relu", "layer2.2.relu2:in"),
        ("resnet18", "fc", "fc:in"),
    ],
)
def test_paths_of_hooks(read: Read, model: str, path: str, tap: str) -> None:
    """Places from the end are counted; a block's one ReLU is hooked at its last call."""
    hint = term(
        "MSELoss", 1.0,
        {"input": place(path, io="input" if tap.endswith(":in") else "output"),
         "target": place("x", teacher=True)},
    )  # fmt: skip
    text = config(weighted(hint=hint)).replace("key: 'tiny'", f"key: '{model}'")
    imported = read(text)
    (found,) = tree(imported)["models"]["student"]["taps"].values()
    assert found == tap
    assert ("in place" in str(imported.left)) == ("relu" in path)


SUM = "train.criterion.kwargs.sub_terms"
NONE = "this is no configuration of torchdistill: it has no section"


@pytest.mark.parametrize(
    ("old", "new", "place", "message", "hint"),
    [
        ("models:", "kdgraph: 1\nmodels:", "KD123 1:1", "a spec of kdgraph already", None),
        ("models:", "model:", "KD123 1:1", f"{NONE} 'models'", "'model'"),
        ("train:", "trian:", "KD123 1:1", f"{NONE} 'train'", "'trian'"),
        ("num_epochs:", "num_epoch:", "KD123 12:1", "train has no 'num_epochs'", "'num_epoch'"),
        ("epochs: 3", "epochs: ten", "KD124 14:15", "must be a number, not 'ten'", None),
        ("epochs: 3", "epochs: !f {key: a.b}", "KD124 14:3", "only running !f a.b would", None),
        ("epochs: 3", "epochs: 0", "KD124 14:15", "must be a whole number above 0, not 0", None),
        ("weight: 1.0", "weight: x", "KD124 39:19", f"{SUM}.ce.weight must be a number", None),
        ("student_model:", "pupil:", "KD123 1:1", "neither a 'student_model' nor a 'model'", None),
        ("CrossEn", "CrosEn", "KD125 12:1", "no loss of this file can be an edge", None),
        ("kwargs:\n      num", "kwargs: 3\n#", "KD124 4:13", "must be a mapping, not 3", None),
    ],
)
def test_mistakes(
    read: Read, old: str, new: str, place: str, message: str, hint: str | None
) -> None:
    text = config(weighted(ce=CE))
    assert old in text
    with pytest.raises(SpecError) as caught:
        read(text.replace(old, new))
    first = caught.value.diagnostics[0]
    assert first.span is not None
    assert f"{first.code} {first.span.line}:{first.span.column}" == place
    assert message in first.message
    assert hint is None or hint in str(first.help)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"weight": -1}, "attention_transfer does not take weight: -1"),
        ({"criterion_wrapper": {"key": "SimpleLossWraper"}}, "did you mean 'SimpleLossWrapper'?"),
        ({"criterion": {"key": "ATLoss", "kwargs": {}}}, "it has no at_pairs"),
        ({"criterion": {"key": "Contrast", "kwargs": {}}}, "it may be code of the user"),
    ],
)
def test_a_term_that_cannot_be_is_left_and_the_rest_carried(
    read: Read, change: dict[str, Any], why: str
) -> None:
    at = term("ATLoss", at_pairs={"one": pair("a", "b")}) | change
    imported = read(config(weighted(at=at, ce=CE)))
    assert list(tree(imported)["losses"]) == ["ce"]
    (left,) = [left for left in imported.left if left.what.startswith("at (")]
    assert why in left.why
    assert f"# Without an edge here: {left.what}." in imported.text


CONV = {"in_channels": 3, "out_channels": 3, "kernel_size": 1}


@pytest.mark.parametrize(
    ("row", "wrapper"),
    [
        (["."], {}),
        ([], {"c": {"path": "connector_dict.c", "io": "output", "conv2d_kwargs": CONV}}),
        ([], {"c": {"path": ".", "io": "output", "conv2d_kwargs": CONV}}),
        ([], {"c": {"path": "layer\u00b2.-1", "io": "output", "conv2d_kwargs": CONV}}),
    ],
)
def test_places_that_lead_nowhere(read: Read, row: list[str], wrapper: dict[str, Any]) -> None:
    feature_pairs = {"one": pair("connector_dict.c" if wrapper else ".", "layer1")}
    dab = term("AltActTransferLoss", feature_pairs=feature_pairs, margin=1.0, reduction="mean")
    auxiliary = {"key": "Connector4DAB", "kwargs": {"connectors": wrapper}}
    student = {"auxiliary_model_wrapper": auxiliary} if wrapper else {}
    text = config(weighted(dab=dab, kd=term("KDLoss", 1.0, **INPUTS)), student)
    text = text.replace("sequential: []\n    requires_grad: True", f"sequential: {row}")
    imported = read(text)
    assert not {"dab"} & set(tree(imported)["losses"])


def test_a_number_behind_a_tag_is_left_with_its_term(read: Read) -> None:
    text = config(weighted(ce=CE, kd=term("KDLoss", **KD)))
    imported = read(text.replace("temperature: 4.0", "temperature: !import_call {key: a.b}"))
    assert list(tree(imported)["losses"]) == ["ce"]
    assert "only running !import_call a.b would tell" in str(imported.left)


def test_a_loss_with_a_wrong_name_is_told_with_a_near_one(read: Read) -> None:
    imported = read(config(weighted(ce=CE, at=term("ATLos", at_pairs={}))))
    assert "did you mean 'ATLoss'" in str(imported.left)
    assert list(tree(imported)["losses"]) == ["ce"]


TEXT = """\
models:
  model:
    key: &key 'bert-base-uncased'
    model_name_or_path: *key
    config_kwargs: {pretrained_model_name_or_path: *key, num_labels: 3}
    tokenizer_kwargs: {pretrained_model_name_or_path: *key}
train:
  num_epochs: 3
  model: {forward_proc: 'forward_batch_as_kwargs', requires_grad: True}
  optimizer:
    key: 'optimizer_no_decay'
    kwargs: {optimizer_key: 'AdamW', lr: 1.0e-4, weight_decay: 0.01}
    filters_params: False
  scheduler:
    key: 'get_linear_schedule_with_warmup'
    kwargs: {num_warmup_steps: 0, num_training_steps: }
    scheduling_step: 1
  criterion:
    key: 'WeightedSumLoss'
    kwargs:
      sub_terms:
        ce:
          criterion: {key: 'CrossEntropyLoss', kwargs: {reduction: 'mean'}}
          criterion_wrapper:
            key: 'SimpleLossWrapper'
            kwargs:
              input: {is_from_teacher: False, module_path: '.classifier', io: 'output'}
              target: {uses_label: True}
          weight: 1.0
"""


def test_a_text_classifier_without_a_teacher(read: Read) -> None:
    imported = read(TEXT)
    spec = tree(imported)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    assert spec["models"] == {
        "student": {
            "source": "hf/google-bert/bert-base-uncased",
            "args": {"head": "sequence-classification", "num_labels": 3},
            "input": {name: name for name in names},
            "taps": {"logits": "output.logits"},
        }
    }
    assert list(spec["batch"]) == [*names, "label"]
    assert spec["batch"]["label"]["classes"] == 3
    assert spec["train"]["optimizer"]["groups"] == [
        {"params": ["*bias", "*LayerNorm.weight"], "weight_decay": 0.0}
    ]
    assert spec["train"]["scheduler"]["use"] == "LinearLR"
    assert "a tokenizer" in {left.what for left in imported.left}
    warmed = tree(read(TEXT.replace("num_warmup_steps: 0", "num_warmup_steps: 9")))
    assert "scheduler" not in warmed["train"]


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("resnet20", "cifar/resnet20"),
        ("wide_resnet40_4", None),
        ("densenet_bc_k12_depth100", None),
        ("fasterrcnn_resnet50_fpn", None),
        ("mobilenet_v3_large", "torchvision/mobilenet_v3_large"),
    ],
)
def test_networks_by_name(read: Read, key: str, source: str | None) -> None:
    imported = read(config(weighted(ce=CE)).replace("key: 'tiny'", f"key: '{key}'"))
    assert tree(imported)["models"]["student"].get("source") == source
    given = "compile(..., models={'student': net})" in imported.text.replace("\n  #  ", "")
    assert given == (source is None)


def test_a_data_set_that_there_is_not_is_sketched(read: Read) -> None:
    """The older form of ``datasets``; what a block by hand would say stands in a comment."""
    parts = """\
datasets:
  cifar10:
    name: 'cifar10'
    key: 'CIFAR10'
    splits:
      train:
        dataset_id: 'toy/train'
        kwargs:
          transform_configs:
            - {key: 'RandomCrop', kwargs: {size: 32, padding: 4}}
            - {key: 'ToTensor', kwargs: }
"""
    imported = read(parts + config(weighted(ce=CE)))
    spec = tree(imported)
    assert "data" not in spec
    assert "# data: {use: ..., augment: {shift: 4}, batch_size: 8}" in imported.text
    assert spec["batch"]["image"]["shape"] == ["B", 3, 32, 32]
    assert "no data set CIFAR10" in str(imported.left)
