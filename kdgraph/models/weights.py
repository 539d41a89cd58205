"""Weights of a model on disk: read strictly, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdgraph.errors import ModelError
from kdgraph.models.bounded import bounded
from kdgraph.spec.files import WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROWS = 8  # names shown of each kind of mismatch


def load_weights(module: nn.Module, path: Path) -> None:
    """Copies the weights in a file into ``module``; either all of them fit or none is touched.

    Args:
        module: Its names and shapes must be those of the file. Names of one tied parameter count
            as one. The dtype may differ.
        path: ``.safetensors``, or ``.pt``/``.pth`` that holds tensors only: a state dict, bare or
            under the key ``state_dict`` or ``model``. Code in a pickle is never run.

    Raises:
        ModelError: KD415 the file cannot be read; KD416 it does not fit.
    """
    load_tensors(module, read_weights(Path(path), module), str(path))


def load_tensors(module: nn.Module, given: Mapping[str, Any], origin: str) -> None:
    """Copies tensors into ``module`` by their names; either all of them fit or none is touched.

    Args:
        module: As for ``load_weights``.
        given: The tensors.
        origin: What they are, for the error.

    Raises:
        ModelError: KD416 they do not fit.
    """
    check_tensors(module, given, origin)
    module.load_state_dict(given, strict=False)


def check_tensors(
    module: nn.Module,
    given: Mapping[str, Any],
    origin: str,
    same: Callable[[Any, Any], bool] | None = None,
) -> None:
    """Refuses tensors that ``load_tensors`` could not copy into ``module``.

    Args:
        module: As for ``load_weights``.
        given: The tensors.
        origin: What they are, for the error.
        same: Whether two tensors given for one tied parameter are the same; left out: when their
            values are.

    Raises:
        ModelError: KD416 they do not fit.
    """
    own = _named_tensors(module)
    unlike = {
        name: (given[name], tensor)
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    }
    unexpected = {name: tensor for name, tensor in given.items() if name not in own}
    missing = _missing(own, given)
    whole = {  # without their scales, which are not here, they are no weights
        name: tensor
        for name, tensor in given.items()
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
    }
    apart = _tied_apart(own, given, same or _equal)
    if missing or unexpected or unlike or whole or apart:
        rows = [
            *_rows("missing", {n: _shape(t) for n, t in missing.items()}),
            *_rows("unexpected", {n: _shape(t) for n, t in unexpected.items()}),
            *_rows(
                "shape",
                {n: f"file {_shape(f)}, model {_shape(t)}" for n, (f, t) in unlike.items()},
            ),
            *_rows(
                "type", {n: f"file {_type(f)}, model {_type(own[n])}" for n, f in whole.items()}
            ),
            *_rows("tied", {n: f"in the model the same tensor as {o}" for n, o in apart.items()}),
        ]
        counts = f"{len(missing)} missing, {len(unexpected)} unexpected"
        counts += f", {len(unlike)} of another shape"
        counts += f", {len(whole)} of another type" if whole else ""
        counts += f", {len(apart)} tied in the model alone" if apart else ""
        raise ModelError.of(
            "KD416",
            "\n".join([f"{origin} does not fit the model: {counts}", *rows]),
            help="was it saved from another model, or with other `args`?",
        )


def check_finite(module: nn.Module, path: Path) -> None:
    """Refuses weights with which no number that comes out would mean anything.

    Buffers may be infinite, as masks are.

    Raises:
        ModelError: KD417 with the first tensor that is nan or infinite.
    """
    import torch

    parameters = {id(p) for p in module.parameters()}
    wrong: list[tuple[str, str]] = []
    for name, tensor in _named_tensors(module).items():
        if tensor.is_meta or not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            continue
        total = tensor.detach().sum(dtype=torch.float64)  # takes no copy, unlike isfinite
        if torch.isfinite(total):
            continue
        if torch.isnan(tensor).any():
            wrong.append((name, "nan"))
        elif id(tensor) in parameters and torch.isinf(tensor).any():
            wrong.append((name, "inf"))
    if wrong:
        (name, what), more = wrong[0], len(wrong) - 1
        others = f", as {more} more tensors do" if more else ""
        others = ", as 1 more tensor does" if more == 1 else others
        message = f"{path}: {name!r} holds {what}{others}"
        raise ModelError.of("KD417", message, help="was the training that wrote it diverging?")


def read_weights(path: Path, module: nn.Module) -> Mapping[str, Tensor]:
    """The tensors of a file by name, as ``load_weights`` of this module would take them.

    Raises:
        ModelError: KD415 the file cannot be read.
    """
    return _without_wrapper(_read(path), module)


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the state dict of ``module`` as safetensors.

    The file appears whole or not at all. A tied parameter is written once, under its first name,
    as is the custom of the format: ``load_weights``, ``safetensors.torch.load_model`` and
    ``from_pretrained`` all read it back. Of a sharded module every rank has to ask for it, and
    the first one writes.

    Raises:
        ModelError: KD415 when the file cannot be written.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError.of("KD415", f"{path}: weights are written as .safetensors")
    if not path.parent.is_dir():
        raise ModelError.of("KD415", f"{path} cannot be written: there is no folder {path.parent}")
    own = _named_tensors(module)
    first = {id(tensor): name for name, tensor in reversed(own.items())}
    memory: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name in first.values():
        tensor = _whole(own[name].detach()).contiguous()
        address = tensor.untyped_storage().data_ptr()
        # Views of one memory are no ties: each is written by itself.
        tensors[name] = tensor.clone() if address in memory else tensor
        memory.add(address)
    if not _writes(own.values()):
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(path)
    except Exception as error:
        raise ModelError.of("KD415", f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, on every rank; any other as it is."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _writes(tensors: Iterable[Tensor]) -> bool:
    """Whether this process writes them: of those that hold shards, the first does."""
    from torch import distributed

    sharded = any(hasattr(tensor, "full_tensor") for tensor in tensors)
    return not sharded or distributed.get_rank() == 0


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with the very tensors of the module, so that tied ones are one object."""
    import torch

    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in WEIGHTS:
        raise ModelError.of(
            "KD415", f"{path} is no weights file: its name must end in .safetensors, .pt or .pth"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(bounded(path))
        import torch

        data = torch.load(bounded(path), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError.of("KD415", f"there is no weights file {path}") from error
    except pickle.UnpicklingError as error:
        raise ModelError.of(
            "KD415",
            f"{path} is damaged, or holds more than tensors, which could run code when it is read",
            help="save model.state_dict(), best with safetensors.torch.save_file",
        ) from error
    except Exception as error:  # a damaged file can make a reader raise anything
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ModelError.of("KD415", f"{path} cannot be read: {said}") from error
    for key in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    return _tensors(path, data)


def _tensors(path: Path, data: object) -> Mapping[str, Any]:
    import torch

    if not isinstance(data, Mapping):
        raise ModelError.of("KD415", f"{path} holds a {type(data).__name__}, not a state dict")
    for name, value in data.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise ModelError.of("KD415", f"{path} is no state dict: {name!r} is a {kind}")
    return data


def _without_wrapper(given: Mapping[str, Any], module: nn.Module) -> Mapping[str, Any]:
    """Drops the ``module.`` that DistributedDataParallel puts before every name."""
    prefix = "module."
    if not all(name.startswith(prefix) for name in given) or hasattr(module, "module"):
        return given
    return {name.removeprefix(prefix): tensor for name, tensor in given.items()}


def _missing(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the file lacks, but for other names of a tied parameter that it holds."""
    held = {id(tensor) for name, tensor in own.items() if name in given}
    return {
        name: tensor
        for name, tensor in own.items()
        # Batch counters are absent from old files and frozen norms; torch lets them be, too.
        if id(tensor) not in held and not name.endswith("num_batches_tracked")
    }


def _tied_apart(
    own: Mapping[str, Any], given: Mapping[str, Any], same: Callable[[Any, Any], bool]
) -> dict[str, str]:
    """Names of tied parameters that get something else than their first name does; and that."""
    first: dict[int, str] = {}
    apart: dict[str, str] = {}
    for name, tensor in own.items():
        known = first.setdefault(id(tensor), name) if name in given else name
        if known != name and not same(given[known], given[name]):
            apart[name] = known
    return apart


def _equal(one: Tensor, other: Tensor) -> bool:
    # of one memory also where it holds nan, which is another error
    alike = one.shape == other.shape
    return alike and (one.data_ptr() == other.data_ptr() or bool((one == other).all()))


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _rows(kind: str, facts: Mapping[str, str]) -> Iterator[str]:
    shown = dict(list(facts.items())[:_ROWS])
    width = max((len(name) for name in shown), default=0)
    for name, fact in shown.items():
        yield f"  {kind:<10}  {name:<{width}}  {fact}"
    if len(facts) > len(shown):
        yield f"  {kind:<10}  ... and {len(facts) - len(shown)} more"
