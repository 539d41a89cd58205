"""Students that actions changed, in all three forms, used where kdgraph cannot be imported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.models.weights import load_weights

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SPECS = Path(__file__).parents[2] / "specs" / "methods"
FORMS = {  # an .onnx is made of the same program as a .pt2
    "vam": (".safetensors", ".pt2", ".onnx"),
    "netgraft": (".safetensors", ".pt2"),
    "gslr_qdnn": (".safetensors", ".pt2"),
    "kddp": (".safetensors", ".pt2"),
}
IMAGE = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
VGG = {"in_channels": 1, "num_classes": 10, "widths": [8, 8, 16, 16, 16], "pools": 2}

# Loads a file and runs it on IMAGE, with nothing of kdgraph.
ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kdgraph":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy, onnxruntime, torch
from pathlib import Path

folder = Path(sys.argv[1])
image = torch.load(folder / "image.pt")
for file in [*folder.glob("*.pt2"), *folder.glob("*.onnx")]:
    if file.suffix == ".pt2":
        result = torch.export.load(file).module()(image)
    else:
        session = onnxruntime.InferenceSession(file)
        result = torch.from_numpy(session.run(["output"], {"x": image.numpy()})[0])
    torch.save(result.detach(), folder / f"{file.name}.out")
assert not [name for name in sys.modules if name.partition(".")[0] == "kdgraph"]
"""


class Done(NamedTuple):
    """What was exported of a student at the end of its stages, and what the student gives."""

    folder: Path
    told: dict[str, kdgraph.Exported]
    expected: Tensor


def finished(name: str) -> kdgraph.DistillModule:
    """Stages gone through without training, but with values that make every action count."""
    torch.manual_seed(0)
    step = kdgraph.compile(SPECS / f"{name}.yaml")
    assert step.stages is not None
    step.stages.batches = batches
    with torch.no_grad():
        if name == "kddp":
            step.student.get_parameter("fc1.bias")[::3] = -100.0
            step.after_epoch(5)
        for leg in list(step.stages.legs()):
            if leg != step.stages.leg:
                step.set_stage(leg)
        step.finish()
        for path, parameter in step.student.named_parameters():
            if path.endswith("log_rows.logits"):
                parameter.normal_()
        for module in step.student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.3)
                module.get_buffer("running_var").uniform_(0.5, 2)
    return step


def batches() -> Iterator[dict[str, Tensor]]:
    yield {"image": IMAGE, "label": torch.zeros(3, dtype=torch.int64)}


def export(name: str, folder: Path) -> Done:
    step = finished(name)
    torch.save(step.state_dict(), folder / f"{name}.pt")
    told = {
        form: kdgraph.export(
            SPECS / f"{name}.yaml", folder / f"{name}.pt", folder / f"{name}{form}"
        )
        for form in FORMS[name]
    }
    with torch.no_grad():
        return Done(folder, told, step.student.eval()(IMAGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actions")


@pytest.fixture(scope="module")
def attended(folder: Path) -> Done:
    return export("vam", folder)


@pytest.fixture(scope="module")
def grafted(folder: Path) -> Done:
    return export("netgraft", folder)


@pytest.fixture(scope="module")
def quantised(folder: Path) -> Done:
    return export("gslr_qdnn", folder)


@pytest.fixture(scope="module")
def pruned(folder: Path) -> Done:
    return export("kddp", folder)


def test_the_numbers_told_are_small_and_checked_at_two_sizes(attended: Done) -> None:
    for form, told in attended.told.items():
        assert told.relative <= told.tolerance
        assert told.checked == ({"B": 1}, {"B": 5})
        assert told.bytes == (attended.folder / f"vam{form}").stat().st_size


def test_folded_attention_loads_into_the_plain_network(attended: Done) -> None:
    plain = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.5})
    assert_equal(plain, attended, "vam")
    assert attended.told[".safetensors"].notes == ()


def test_quantised_weights_are_floats_of_three_values(quantised: Done) -> None:
    plain = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.5})
    assert_equal(plain, quantised, "gslr_qdnn")
    assert len(plain.get_parameter("layer3.0.conv2.weight").unique()) == 3
    program = torch.export.load(quantised.folder / "gslr_qdnn.pt2")
    assert len(program.state_dict["layer3.0.conv2.weight"].unique()) == 3


def test_a_grafted_network_is_that_of_the_scion(grafted: Done) -> None:
    args = {"widths": [16, 32, 64, 64, 64], "pools": 1, "in_channels": 1}
    assert_equal(build_model("cifar/vgg8", args), grafted, "netgraft")
    (note,) = grafted.told[".safetensors"].notes
    assert "'scion'" in note
    assert "64, 64, 64" in note


def test_pruned_widths_are_told_and_others_hold_them(pruned: Done) -> None:
    (note,) = pruned.told[".safetensors"].notes
    hidden = len(load_file(pruned.folder / "kddp.safetensors")["fc1.bias"])
    assert hidden < 86
    assert f"fc1.bias [128] -> [{hidden}]" in note
    assert "fit_widths" in note
    assert_equal(build_model("cifar/vgg8", {**VGG, "hidden": hidden}), pruned, "kddp")
    assert pruned.told[".pt2"].notes == ()


def assert_equal(plain: nn.Module, done: Done, name: str) -> None:
    """Whether a plain network with the weights of the file gives what the student gives."""
    load_weights(plain, done.folder / f"{name}.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(IMAGE), done.expected)


def test_files_are_used_where_kdgraph_cannot_be_imported(
    attended: Done, grafted: Done, quantised: Done, pruned: Done
) -> None:
    torch.save(IMAGE, attended.folder / "image.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, attended.folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    given = {"vam": attended, "netgraft": grafted, "gslr_qdnn": quantised, "kddp": pruned}
    for name, student in given.items():
        for form in FORMS[name][1:]:
            found = torch.load(student.folder / f"{name}{form}.out")
            torch.testing.assert_close(found, student.expected, rtol=1e-4, atol=1e-5)


def test_no_file_tells_of_the_machine_that_wrote_it(attended: Done) -> None:
    here = str(Path(kdgraph.__file__).parent).encode()
    for form in (".safetensors", ".onnx"):
        assert here not in (attended.folder / f"vam{form}").read_bytes()
    with zipfile.ZipFile(attended.folder / "vam.pt2") as archive:
        assert not [name for name in archive.namelist() if here in archive.read(name)]
