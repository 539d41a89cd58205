"""What compiling gives: programs, and the parts that they call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, fx, nn

from kdgraph.runtime.report import Report
from kdgraph.spec.language import Spec


class Built(NamedTuple):
    """A spec, or one leg of it, as programs.

    Attributes:
        spec: what was compiled; of a leg, as if it had been written by itself.
        programs: by mode, whether it trains.
        parts: adapters, signals and losses (``adapters.mid``), and the steered numbers.
        report: the graph, and how it came about.
        sources: tensors of frozen models that the programs hold in another form.
    """

    spec: Spec
    programs: Mapping[bool, fx.GraphModule]
    parts: Mapping[str, nn.Module]
    report: Report
    sources: Mapping[str, tuple[Tensor, int]]

    def part(self, name: str) -> nn.ModuleDict:
        """The parts of one kind: ``adapters`` by link, ``losses`` by edge."""
        prefix = f"{name}."
        return nn.ModuleDict(
            {k.removeprefix(prefix): m for k, m in self.parts.items() if k.startswith(prefix)}
        )

    def frozen(self) -> list[nn.Module]:
        """What programs hold beside trained modules: frozen models and captured constants."""
        found: dict[int, nn.Module] = {}
        for program in self.programs.values():
            for part, all_of_it in (("models", False), ("captured", True), ("frozen", True)):
                if hasattr(program, part):
                    for name, module in program.get_submodule(part).named_children():
                        if all_of_it or self.spec.is_constant(name):
                            found[id(module)] = module
        return list(found.values())
