from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kdgraph.errors import ModelError
from kdgraph.models.weights import load_weights, save_weights


def net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, classes))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def assert_same(one: nn.Module, other: nn.Module) -> None:
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("make", [net, Tied])
def test_round_trip(make: type[nn.Module], tmp_path: Path) -> None:
    saved, loaded = make(), make()
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert_same(saved, loaded)
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_safetensors_itself_reads_what_was_saved(tmp_path: Path) -> None:
    saved, loaded = Tied(), Tied()
    save_weights(saved, tmp_path / "w.safetensors")
    safetensors.torch.load_model(loaded, tmp_path / "w.safetensors")
    assert_same(saved, loaded)
    plain = net()
    save_weights(plain, tmp_path / "p.safetensors")
    net().load_state_dict(safetensors.torch.load_file(tmp_path / "p.safetensors"))


def test_tied_embeddings_of_transformers_go_both_ways(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20, n_positions=8)
    theirs = transformers.GPT2LMHeadModel(config)
    theirs.save_pretrained(tmp_path)
    ours = transformers.GPT2LMHeadModel(config)
    load_weights(ours, tmp_path / "model.safetensors")
    assert_same(theirs, ours)
    assert ours.lm_head.weight is ours.transformer.wte.weight

    fresh = transformers.GPT2LMHeadModel(config)
    save_weights(fresh, tmp_path / "model.safetensors")
    assert_same(fresh, transformers.GPT2LMHeadModel.from_pretrained(tmp_path))


def test_two_values_for_one_tied_tensor_are_refused(tmp_path: Path) -> None:
    untied, tied = Tied(), Tied()
    untied.head.weight = nn.Parameter(untied.embed.weight.detach().clone())
    file = tmp_path / "w.pt"
    torch.save(untied.state_dict(), file)
    load_weights(tied, file)  # equal values are no contradiction
    with torch.no_grad():
        untied.head.weight.add_(1)
    torch.save(untied.state_dict(), file)
    before = tied.embed.weight.detach().clone()
    with pytest.raises(ModelError, match=r"KD416.*1 tied in the model alone\n *tied +head.weight"):
        load_weights(tied, file)
    assert torch.equal(tied.embed.weight, before)


def test_a_tied_tensor_of_nan_is_no_two_values(tmp_path: Path) -> None:
    model = Tied()
    torch.nn.init.constant_(model.embed.weight, float("nan"))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(Tied(), tmp_path / "w.pt")


def test_views_and_other_memory_formats_are_saved_whole(tmp_path: Path) -> None:
    saved, loaded = net().to(memory_format=torch.channels_last), net()
    both = torch.randn(4)
    for model in (saved, loaded):
        model.register_buffer("low", both[:2] if model is saved else torch.zeros(2))
        model.register_buffer("high", both[1:3] if model is saved else torch.zeros(2))
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert_same(saved, loaded)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_files(wrap: Any, suffix: str, tmp_path: Path) -> None:
    saved, loaded = net(), net()
    torch.save(wrap(saved.state_dict()), tmp_path / f"w{suffix}")
    load_weights(loaded, tmp_path / f"w{suffix}")
    assert_same(saved, loaded)


def test_a_prefix_that_only_some_names_carry_stays(tmp_path: Path) -> None:
    state = net().state_dict()
    state["module.0.weight"] = state.pop("0.weight")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"missing +0.weight[^!]*unexpected +module.0.weight"):
        load_weights(net(), tmp_path / "w.pt")


def test_batch_counters_may_be_absent(tmp_path: Path) -> None:
    state = {n: t for n, t in net().state_dict().items() if not n.endswith("num_batches_tracked")}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    load_weights(net(), tmp_path / "w.safetensors")


def test_a_mismatch_is_a_table_and_changes_nothing(tmp_path: Path) -> None:
    state: dict[str, Tensor] = net(classes=4).state_dict()
    state["extra.weight"] = state.pop("0.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as error:
        load_weights(model, tmp_path / "w.safetensors")
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "KD416"
    assert diagnostic.message.splitlines() == [
        f"{tmp_path / 'w.safetensors'} does not fit the model: "
        "1 missing, 1 unexpected, 2 of another shape",
        "  missing     0.weight  [2, 1, 3, 3]",
        "  unexpected  extra.weight  [2, 1, 3, 3]",
        "  shape       2.weight  file [4, 4], model [3, 4]",
        "  shape       2.bias    file [4], model [3]",
    ]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_long_table_is_cut(tmp_path: Path) -> None:
    safetensors.torch.save_file({}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"missing +\.\.\. and 12 more"):
        load_weights(
            nn.Sequential(*(nn.Linear(1, 1) for _ in range(10))), tmp_path / "w.safetensors"
        )


class Exploit:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("pwned",))


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": Exploit()}))


def _torch_with_code(path: Path) -> None:
    torch.save({"w": torch.zeros(1), "hook": Exploit()}, path)


def _truncated(path: Path) -> None:
    whole = path.with_name("whole" + path.suffix)
    if path.suffix == ".pt":
        torch.save(net().state_dict(), whole)
    else:
        save_weights(net(), whole)
    path.write_bytes(whole.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("code.pt", _pickle),
        ("code.pt", _torch_with_code),
        ("code.pth", _torch_with_code),
        ("code.safetensors", _pickle),
        ("short.safetensors", _truncated),
        ("short.pt", _truncated),
        ("empty.safetensors", Path.touch),
        ("empty.pt", Path.touch),
        ("noise.pt", lambda path: path.write_bytes(bytes(range(256)))),
        ("absent.safetensors", lambda path: None),
        ("absent.pt", lambda path: None),
        ("folder.pt", Path.mkdir),
        ("folder.safetensors", Path.mkdir),
        ("list.pt", lambda path: torch.save([torch.zeros(1)], path)),
        ("number.pt", lambda path: torch.save({"state_dict": {"w": 3}}, path)),
        ("weights.bin", Path.touch),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_and_runs_nothing(
    name: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(ModelError, match="KD415") as error:
        load_weights(net(), tmp_path / name)
    assert name in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(net(), path)
    before = path.read_bytes()

    def full(_tensors: object, part: Path, **_kwargs: object) -> None:
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ModelError, match=r"KD415.*disk full"):
        save_weights(net(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", ["w.pt", "no/folder/w.safetensors"])
def test_a_place_that_cannot_be_written_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="KD415"):
        save_weights(net(), tmp_path / name)
