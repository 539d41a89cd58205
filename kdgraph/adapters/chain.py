"""Chain: several adapters, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, WithJsonSchema

from kdgraph.adapters.base import Adapter
from kdgraph.adapters.identity import Identity
from kdgraph.spec.entry import ADAPTERS, AdapterEntry, register_adapter
from kdgraph.spec.one_of import OneOf
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import nn

# Written out, because the schema of "any adapter" holds the schema of a chain.
_STEP = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["use"]}]}
Step = Annotated[AdapterEntry, OneOf(ADAPTERS, short=True), WithJsonSchema(_STEP)]


@register_adapter
class Chain(Adapter):
    """Adapters in a row; ``adapter: [resize, conv1x1]`` stands for ``{use: chain, of: [...]}``.

    Each one sees what the one before it made, and the link's teacher.
    """

    use: Literal["chain"] = "chain"
    of: Annotated[
        tuple[Step, ...], Field(min_length=1, strict=False, examples=[["map_to_tokens", "linear"]])
    ]

    def resolve(self, student: Shape, teacher: Shape) -> Adapter:
        steps: list[Adapter] = []
        for step in self._steps():
            chosen = step.resolve(student, teacher)
            student = chosen.shape(student, teacher)
            steps += chosen._steps() if isinstance(chosen, Chain) else [chosen]
        return chained([s for s in steps if s.use != "identity"])

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        for step in self._steps():
            student = step.shape(student, teacher)
        return student

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from torch import nn

        modules = []
        for step in self._steps():
            modules.append(step.build(student, teacher))
            student = step.shape(student, teacher)
        return nn.Sequential(*modules)

    def describe(self) -> str:
        return ", then ".join(s.describe() for s in self._steps())

    def _steps(self) -> list[Adapter]:
        return [s for s in self.of if isinstance(s, Adapter)]


def chained(steps: list[Adapter]) -> Adapter:
    """One adapter that does all of ``steps``, in the simplest form."""
    if not steps:
        return Identity()
    return steps[0] if len(steps) == 1 else Chain(of=tuple(steps))
