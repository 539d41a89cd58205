"""Weights of frozen models that live on in folded copies, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdgraph.capture.observe import version_of
from kdgraph.errors import InputError
from kdgraph.spec.language import Spec


class Sources:
    """The tensors that folded weights were made of, each with its version at that time.

    Moving or casting a model makes no new version; writing to its weights does. A copy of a step
    watches its own copies of the tensors.

    Args:
        found: the tensors by name (``teacher.conv1.weight``).
    """

    def __init__(self, found: Mapping[str, tuple[Tensor, int]]) -> None:
        self._found = dict(found)

    @classmethod
    def now(cls, tensors: Mapping[str, Tensor]) -> Sources:
        """Tensors as they are at this moment."""
        return cls({name: (tensor, version_of(tensor)) for name, tensor in tensors.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return Sources.now, ({name: tensor for name, (tensor, _) in self._found.items()},)

    def check(self, spec: Spec) -> None:
        """Makes sure that nothing was written to them.

        Raises:
            InputError: KD709 for the first that was.
        """
        for name, (value, version) in self._found.items():
            if version_of(value) != version:
                model, _, path = name.partition(".")
                raise InputError.of(
                    "KD709",
                    f"{path!r} of frozen model {model!r} was written to after compilation: "
                    "the step still has what was made of its old values",
                    help='compile again; or, if it is to change, without=["freeze", "precision"]',
                    span=spec.span("models", model),
                )
