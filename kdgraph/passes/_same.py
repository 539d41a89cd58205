"""Whether two modules compute the same: equal code, settings and values."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def same_module(a: nn.Module, b: nn.Module, look: bool = True) -> bool:
    """Whether two modules are equal in everything that they hold, in train and eval mode alike.

    What cannot be compared (a generator, an object without ``==``) counts as different.

    Without ``look`` the values of tensors are not compared: only the very same tensor is equal.
    """
    return _Comparison(look).same(a, b)


def same_value(a: Any, b: Any) -> bool:
    """Whether two settings, or containers of them, are equal; modules and tensors as above."""
    return _Comparison(look=True).same(a, b)


def same_tensor(a: Any, b: Any, look: bool = True) -> bool:
    """Whether two attributes hold bit-equal tensors in the same layout."""
    if a is b:
        return True
    if not look or type(a) is not type(b) or type(a) not in (Tensor, nn.Parameter):
        return False
    for fact in ("dtype", "shape", "device", "layout", "requires_grad"):
        if getattr(a, fact) != getattr(b, fact):
            return False
    if a.is_meta or a.layout is not torch.strided or a.stride() != b.stride():
        return False
    return bool(torch.equal(a, b))


class _Comparison:
    def __init__(self, look: bool) -> None:
        self._look = look
        self._met: set[tuple[int, int]] = set()  # pairs found equal, or being compared

    def same(self, a: Any, b: Any) -> bool:
        if a is b or (id(a), id(b)) in self._met:
            return True
        if type(a) is not type(b):
            return False
        if isinstance(a, Tensor):
            return same_tensor(a, b, self._look)
        self._met.add((id(a), id(b)))
        if isinstance(a, nn.Module):
            return self.same(vars(a), vars(b))
        if isinstance(a, Mapping):
            return list(a) == list(b) and all(self.same(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(self.same, a, b))
        if isinstance(a, functools.partial):
            return self.same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
        if isinstance(a, types.MethodType):
            return a.__func__ is b.__func__ and self.same(a.__self__, b.__self__)
        equal = a == b
        return equal if isinstance(equal, bool) else False
