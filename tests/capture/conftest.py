"""What the captures are compared to: a reference written with forward hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdgraph.capture import Captured, capture, parse_tap
from kdgraph.capture.record import reach


@pytest.fixture(name="assert_same")
def _assert_same() -> Callable[..., Captured]:
    return assert_same


def hooked(
    module: nn.Module, inputs: Mapping[str, Tensor], taps: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tapped values as hooks see them, each copied at the moment of the call."""
    found: dict[str, Tensor] = {}
    calls: dict[str, int] = dict.fromkeys(taps, 0)
    handles = []
    for name, text in taps.items():
        tap = parse_tap(text)

        def before(_: Any, args: Any, kwargs: Any, name: str = name, tap: Any = tap) -> None:
            calls[name] += 1
            if calls[name] == tap.call:
                given = [*args, *kwargs.values()]
                found[name] = reach(given[tap.index], tap).clone()

        def after(_: Any, args: Any, result: Any, name: str = name, tap: Any = tap) -> None:
            calls[name] += 1
            if calls[name] == tap.call:
                found[name] = reach(result, tap).clone()

        target = module.get_submodule(tap.path)
        if tap.side == "in":
            handles.append(target.register_forward_pre_hook(before, with_kwargs=True))
        else:
            handles.append(target.register_forward_hook(after))
    try:
        module(**{k: v.clone() for k, v in inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    return found


def assert_same(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, str],
    rung: str,
    *,
    grad: bool = True,
) -> Captured:
    """Captures by ``rung``; values, gradients, buffers and inputs must equal the hooks'."""
    other = copy.deepcopy(module)
    captured = capture(module, inputs, taps, rungs=(rung,))
    assert captured.rung == rung
    run = captured.graph_module()
    given = {name: value.clone() for name, value in inputs.items()}
    torch.manual_seed(1)
    got = run(**given)
    torch.manual_seed(1)
    expected = hooked(other, inputs, taps)
    assert list(got) == list(taps)
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-6, atol=1e-6, msg=partial(_named, name)
        )
    for name, value in given.items():
        assert torch.equal(value, inputs[name]), f"input {name} was changed"
    if grad:
        _loss(got).backward()
        _loss(expected).backward()
        for (name, ours), theirs in zip(module.named_parameters(), other.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(
                    ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=partial(_named, name)
                )
    for (name, ours), theirs in zip(module.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=partial(_named, name))
    return captured


def _named(name: str, text: str) -> str:
    return f"{name}: {text}"


def _loss(values: Mapping[str, Tensor]) -> Tensor:
    torch.manual_seed(2)
    return sum(
        ((v * torch.randn_like(v)).sin().sum() for _, v in sorted(values.items())), torch.zeros(())
    )
