"""What changes training batches: the entries of ``data: {transforms: [...]}``. No torch."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ConfigDict

from kdgraph.registry import Registry
from kdgraph.spec.entry import Entry, use_name


class TransformEntry(Entry):
    """A random or fixed change of training batches; none at evaluation."""

    model_config = ConfigDict(use_attribute_docstrings=True)


TRANSFORMS: Registry[type[Any]] = Registry("transform", "kdgraph.train.data.transforms")
T = TypeVar("T", bound=TransformEntry)


def register_transform(cls: type[T]) -> type[T]:
    """Makes a transform known under its ``use`` name."""
    return TRANSFORMS.add(use_name(cls), cls)
