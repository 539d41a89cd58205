"""Where a capture may run the model's code: on fake tensors, or on copies of the real ones.

Fake tensors cost no arithmetic. Code that asks for a value (``if mask.any()``) cannot run on
them; then one small real forward on copies answers the same questions.
"""

from __future__ import annotations

import functools
import io
import logging
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kdgraph.capture.record import Declined
from kdgraph.capture.twin import fake_like, fake_twin, twin


@dataclass(frozen=True)
class World:
    """A model and its inputs in one of the two forms.

    Attributes:
        mode: the fake mode that shapes are told in, in either form.
        fake: whether runs use fake tensors.
        inputs: argument name to tensor.
    """

    module: nn.Module
    mode: FakeTensorMode
    fake: bool
    inputs: Mapping[str, Tensor]

    def model(self) -> nn.Module:
        """A fresh twin to run; whatever a run changes is seen by no other run."""
        return twin(self._blank) if self.fake else twin(self.module, _copied)

    @functools.cached_property
    def _blank(self) -> nn.Module:
        return fake_twin(self.module, self.mode)  # fake tensors hold no numbers: made once

    def tensor(self, value: Tensor) -> Tensor:
        """A constant, as this world runs it."""
        return fake_like(value, self.mode) if self.fake else value

    def described(self, value: Any) -> Any:
        """A value with its tensors replaced by fake ones that hold no history."""
        with self.mode:
            return pytree.tree_map_only(Tensor, lambda t: fake_like(t.detach(), self.mode), value)

    @contextmanager
    def running(self) -> Iterator[Counter[str]]:
        """Runs code in this world; yields what operators it called, with their shapes."""
        calls: Counter[str] = Counter()
        with ExitStack() as stack:
            stack.enter_context(untouched_random_state())
            stack.enter_context(torch.enable_grad())
            if self.fake:
                stack.enter_context(self.mode)
            stack.enter_context(OperatorLog(calls))
            yield calls


def worlds(module: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[World]:
    """The fake world, and then the real one."""
    found = next((t.fake_mode for t in inputs.values() if hasattr(t, "fake_mode")), None)
    mode = found or FakeTensorMode(allow_non_fake_inputs=True)
    yield World(module, mode, True, {n: fake_like(t, mode) for n, t in inputs.items()})
    if all(p.device.type != "meta" for p in module.parameters()):
        yield World(module, mode, False, {n: example(t) for n, t in inputs.items()})


def example(value: Tensor, batch: int | None = None) -> Tensor:
    """A real tensor of the size of ``value`` (its first size replaced by ``batch``)."""
    size = list(value.shape)
    if batch is not None and size:
        size[0] = batch
    elif not hasattr(value, "fake_mode") and not value.is_meta:
        return value.detach().clone()
    device = torch.device("cpu") if value.is_meta else value.device
    return torch.zeros(size, dtype=value.dtype, device=device)


def _copied(value: Tensor) -> Tensor:
    copy = value.detach().clone()
    if isinstance(value, nn.Parameter):
        return nn.Parameter(copy, requires_grad=value.requires_grad)
    return copy


class OperatorLog(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Counts operators by name, tensor sizes and plain arguments."""

    def __init__(self, calls: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls[f"{func} {_told(args)} {_told(kwargs)}"] += 1
        return func(*args, **kwargs)


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_told(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_told(v)}' for k, v in value.items())}}}"
    return repr(value)


@contextmanager
def untouched_random_state() -> Iterator[Callable[[], bool]]:
    """Leaves every random generator as it was; yields a test for whether the CPU's were used."""
    devices = range(torch.cuda.device_count()) if _cuda_runs() else ()
    with torch.random.fork_rng(devices=devices):
        before = _torch_state(), random.getstate(), _numpy_state()

        def changed() -> bool:
            return (
                before[0] != _torch_state()
                or before[1] != random.getstate()
                or before[2] != _numpy_state()
            )

        try:
            yield changed
        finally:
            random.setstate(before[1])
            if before[2] is not None:
                sys.modules["numpy"].random.set_state(before[2])


@contextmanager
def no_custom_backward() -> Iterator[None]:
    """Declines code with a backward of its own, of which a graph would keep the forward only."""

    def apply(*args: Any, **kwargs: Any) -> None:
        raise Declined("the code has a backward of its own (torch.autograd.Function)")

    with replaced(torch.autograd.Function, "apply", apply):
        yield


@contextmanager
def replaced(owner: type, name: str, value: Any) -> Iterator[None]:
    """Puts ``value`` in the place of an attribute of a class for a while."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _cuda_runs() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # untyped there


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _numpy_state() -> Any:
    if "numpy" not in sys.modules:
        return None
    name, keys, *rest = sys.modules["numpy"].random.get_state()
    return (name, tuple(keys), *rest)


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what torch logs and prints about a failure: the reason is in the error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
