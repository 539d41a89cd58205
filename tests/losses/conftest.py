"""Example tensors for every registered loss, so that a new loss is tested without a list.

The tests in ``test_generic.py`` run over *cases*: a loss, a variant of its keys, and a form of
features that its shape rule takes (vectors, tokens, maps). Tensors follow from the loss's ``Ref``
fields: ``student`` and ``teacher`` are normal numbers of that form. What a loss needs beyond
that, its own test file ``test_<use>.py`` says:

    VARIANTS = [{}, {"variant": "paper"}]   # keys to run it with; default: only [{}]
    LOGITS = True                           # its inputs are logits, where -inf masks a class
    MASKED = ("student", "both")            # who may mask it; default: also "teacher" alone
    ZERO_AT_EQUAL = False                   # student == teacher is not where it is 0 and least
    CONSTANT_PART = True                    # part of it has no gradient, on purpose

    def further(student):                   # tensors for other required references
        return {"target": torch.randint(0, 2, student.shape[:1])}

Numbers that a loss learns have their start values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from kdgraph.losses.base import RowLoss
from kdgraph.spec.entry import LOSSES
from kdgraph.spec.frontier import of_logits
from kdgraph.spec.shapes import Shape, ShapeMismatch

FORMS = {"vectors": (3, 4), "tokens": (3, 2, 4), "maps": (3, 4, 2, 2)}


@dataclass(frozen=True)
class Case:
    """A loss with the shapes that its student and teacher have."""

    loss: Any
    student: Shape
    teacher: Shape

    def __str__(self) -> str:
        form = next(f for f, s in FORMS.items() if len(s) == len(self.student))
        keys = self.loss.model_dump(exclude={"use", *self.loss.ref_fields()}, exclude_unset=True)
        return "-".join([self.loss.use, *(f"{k}={v}" for k, v in keys.items()), form])

    @property
    def helper(self) -> ModuleType:
        return helper_of(self.loss.use)

    def with_keys(self, **keys: Any) -> Case:
        return replace(self, loss=self.loss.model_copy(update=keys))

    def shapes(self) -> dict[str, Shape]:
        return {n: tuple(v.shape) for n, v in self.tensors().items()}

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """The same random numbers at each call; no gradient is asked for."""
        random = torch.Generator().manual_seed(1)
        tensors = {
            side: torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
            for side, shape in (("student", self.student), ("teacher", self.teacher))
            if side in self.loss.ref_fields()
        }
        if hasattr(self.helper, "further"):
            tensors |= self.helper.further(tensors["student"])
        return tensors

    def learned(self) -> dict[str, Tensor]:
        """Start values, as float64, of the numbers that the loss learns itself."""
        return {n: v.double() for n, v in self.loss.parameters(**self.shapes()).items()}

    def value(self, **tensors: Any) -> Any:
        return evaluate(self.loss, **tensors)


def evaluate(loss: Any, learned: Mapping[str, Tensor] | None = None, **inputs: Any) -> Any:
    """The loss as its module computes it, with its own constants where none are given.

    ``learned`` takes the place of the start values of what the loss learns itself.
    """
    constants = {
        f: getattr(loss, f) for f in loss.steer_fields() if isinstance(getattr(loss, f), float)
    }
    del constants["weight"]
    shapes = {n: tuple(inputs[n].shape) for n in loss.ref_fields() if n in inputs}
    return functional_call(loss.module(**shapes), dict(learned or {}), (), {**constants, **inputs})


@cache
def helper_of(use: str) -> ModuleType:
    """The module ``test_<use>.py`` beside this file; empty where another package brings a loss."""
    path = Path(__file__).with_name(f"test_{use}.py")
    assert path.exists(), f"loss {use!r} needs a test file, {path.name}"
    spec = importlib.util.spec_from_file_location(f"example_of_{use}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def cases() -> tuple[Case, ...]:
    return tuple(case for _, cls in LOSSES.items() for case in cases_of(cls))


def cases_of(cls: Any) -> Iterator[Case]:
    required = {n: f"some.{n}" for n in cls.ref_fields() if cls.model_fields[n].is_required()}
    for keys in getattr(helper_of(cls.model_fields["use"].default), "VARIANTS", [{}]):
        for shape in FORMS.values():
            case = Case(cls(**required, **keys), shape, shape)
            try:
                case.loss.shapes(**case.shapes())
            except ShapeMismatch:
                continue
            yield case


CASES: dict[str, Callable[[Case], bool]] = {
    "case": lambda case: True,
    "paired_case": lambda case: "teacher" in case.loss.ref_fields(),
    "zero_case": lambda case: (
        "teacher" in case.loss.ref_fields() and getattr(case.helper, "ZERO_AT_EQUAL", True)
    ),
    "smooth_case": lambda case: not getattr(case.helper, "CONSTANT_PART", False),
    "row_case": lambda case: isinstance(case.loss, RowLoss),
    "logit_case": lambda case: getattr(case.helper, "LOGITS", False),
    "closed_case": lambda case: case.loss.has_closed_form(),
    "tempered_case": lambda case: "tau" in case.loss.steer_fields(),
    "softmax_case": lambda case: of_logits(case.loss),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Arguments that run over cases, and ``first_case``, which runs over one for each loss."""
    for name, fits in CASES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [c for c in cases() if fits(c)], ids=str)
    for name, kind in (("first_case", "case"), ("first_paired_case", "paired_case")):
        if name in metafunc.fixturenames:
            firsts = {c.loss.use: c for c in reversed(cases()) if CASES[kind](c)}
            metafunc.parametrize(name, list(firsts.values())[::-1], ids=str)
    if "loss_class" in metafunc.fixturenames:
        metafunc.parametrize("loss_class", [c for _, c in LOSSES.items()], ids=LOSSES.names())


@pytest.fixture
def value_of() -> Callable[..., Any]:
    return evaluate
