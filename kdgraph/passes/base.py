"""What a pass is, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from kdgraph.errors import Diagnostic, Span
from kdgraph.graph import DistillGraph, Role
from kdgraph.registry import Registry
from kdgraph.spec.language import Spec

Rewrite = Callable[[DistillGraph, "Context"], DistillGraph]


@dataclass(frozen=True)
class Pass:
    """A registered rewrite. A pass with ``after`` is optional and runs behind the one named.

    Attributes:
        default: whether it runs unless it is switched off; False for one that is asked for.
    """

    name: str
    run: Rewrite
    after: str | None = None
    default: bool = True

    @property
    def optional(self) -> bool:
        """Whether it can be switched off; mandatory passes have their place in the pipeline."""
        return self.after is not None


PASSES: Registry[Pass] = Registry("pass", "kdgraph.passes")


def register_pass(
    name: str, *, after: str | None = None, default: bool = True
) -> Callable[[Rewrite], Rewrite]:
    """Makes a rewrite known as an optional pass that runs ``after`` another."""

    def register(run: Rewrite) -> Rewrite:
        PASSES.add(name, Pass(name, run, after, default))
        return run

    return register


@dataclass
class Context:
    """What passes share: the modules they made, what they found wrong, what they did.

    Modules are kept by key, so that a second graph of the same spec (another mode or stage)
    trains the same adapters.

    Attributes:
        skeleton: the models hold no weights, only shapes: values must not be looked at.
        sources: the tensors of frozen models that new modules were made of, by name, each with
            its version at that time.
        opened: modules of frozen models as graphs, by what they were opened on; a second plan over
            the same networks opens none of them again.
    """

    spec: Spec
    skeleton: bool = False
    modules: dict[str, nn.Module] = field(default_factory=dict)
    sources: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    opened: dict[Hashable, Any] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)

    def module(self, key: str, make: Callable[[], nn.Module]) -> nn.Module:
        """The module kept under ``key``, made on first use."""
        if key not in self.modules:
            self.modules[key] = make()
        return self.modules[key]

    def constants(self) -> list[str]:
        """The frozen models whose weights never change; says why a snapshot is left alone."""
        for name, model in self.spec.models.items():
            if model.snapshot_of is not None:
                self.declined.append(f"{name}: left alone, as each snapshot gives it other weights")
        return [name for name in self.spec.networks if self.spec.is_constant(name)]

    def wrong(self, code: str, message: str, span: Span | None, help: str | None = None) -> None:
        """Notes a user's mistake; all of them are raised together once the pass is over."""
        self.diagnostics.append(Diagnostic(code, message, span, help))


def tagged(
    node: fx.Node, role: Role, owner: str, span: Span | None, shape: tuple[int, ...] | None = None
) -> fx.Node:
    """Fills in the meta data that every node has."""
    node.meta |= {"kd_role": role, "kd_owner": owner, "kd_span": span}
    if shape is not None:
        node.meta["kd_shape"] = shape
    return node
