"""What actions see and change: the networks of a spec, and what follows their parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple, NoReturn

from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from kdgraph.errors import ActionError, Span, near
from kdgraph.spec.language import Spec

Pick = Callable[[Tensor], Tensor]
Batches = Callable[[], Iterable[Mapping[str, Tensor]]]


class Found(NamedTuple):
    """A module of a network, by its path in it (empty for the network itself)."""

    model: str
    path: str
    module: nn.Module

    @property
    def name(self) -> str:
        """As patterns see it: ``student.layer1.0``."""
        return f"{self.model}.{self.path}" if self.path else self.model


class Moved(NamedTuple):
    """A parameter that took the place of another.

    Attributes:
        pick: makes of a tensor shaped like the old one (a moment of the optimiser) one shaped
            like the new one; None where the optimiser starts afresh with it.
    """

    old: nn.Parameter
    new: nn.Parameter
    pick: Pick | None


@dataclass
class World:
    """The networks of a spec while actions are done to them.

    Attributes:
        spec: the whole spec, with all its stages.
        nets: every network by the name of its model. Actions change what is inside of them.
        adapters: the adapters of links that there are so far, by link.
        skeleton: the networks hold no values, only shapes; there is no data either.
        batches: gives the batches of the training data, once, in order, without augmentation;
            None where there is no data (in a module that somebody else trains).
        span: where the action is written.
        moved: parameters that were replaced, so that an optimiser can follow.
    """

    spec: Spec
    nets: Mapping[str, nn.Module]
    adapters: Mapping[str, nn.Module] = field(default_factory=dict)
    skeleton: bool = False
    batches: Batches | None = None
    span: Span | None = None
    moved: list[Moved] = field(default_factory=list)

    def wrong(self, message: str, help: str | None = None) -> NoReturn:
        """Refuses an action, with its place in the spec.

        Raises:
            ActionError: KD751.
        """
        raise ActionError.of("KD751", message, span=self.span, help=help)

    def network(self, model: str) -> nn.Module:
        """The network of a model, by the name that a pattern starts with.

        Raises:
            ActionError: KD751 for a model that is another call of a network.
        """
        if model not in self.nets:
            written = self.spec.models.get(model)
            owner = written.same_as if written else None
            help = f"it is `same_as` {owner!r}; write that" if owner else near(model, self.nets)
            self.wrong(f"{model!r} has no network of its own", help)
        return self.nets[model]

    def find(
        self, patterns: Iterable[str], types: Collection[str] = (), *, inside: bool = False
    ) -> list[Found]:
        """The modules that patterns name, in the order of the networks.

        Args:
            patterns: ``student`` (the whole network), ``student.layer1.*`` (shell patterns over
                module paths; ``*`` also goes over dots).
            types: only modules of these classes, by class name.
            inside: also the modules inside of those that match.

        Raises:
            ActionError: KD751 for a pattern that matches no module.
        """
        found: dict[str, Found] = {}
        for pattern in patterns:
            model, _, path = pattern.partition(".")
            every = [Found(model, p, m) for p, m in self.network(model).named_modules()]
            # `student.*` is what is inside of the student
            roots = [f for f in every if bool(f.path) == bool(path) and fnmatchcase(f.path, path)]
            if inside:
                own = tuple(f"{f.path}." for f in roots if f.path)
                whole = any(not f.path for f in roots)
                roots = [f for f in every if whole or f in roots or f.path.startswith(own)]
            kept = [f for f in roots if not types or _kind(f.module) in types]
            if not kept:
                of = f" of {' or '.join(types)}" if types else ""
                fit = [f for f in every if f.path and (not types or _kind(f.module) in types)]
                help = near(pattern, [f.name for f in fit])
                self.wrong(f"no module{of} matches {pattern!r}", help)
            found |= {f.name: f for f in kept}
        return list(found.values())

    def replace(
        self, module: nn.Module, name: str, value: Tensor, pick: Pick | None = None
    ) -> nn.Parameter:
        """Gives a module another parameter under the name of one it has.

        Args:
            module: the very module that holds it.
            name: of the parameter.
            value: what the new one holds.
            pick: see ``Moved``.
        """
        old = getattr(module, name)
        new = nn.Parameter(value.detach(), requires_grad=old.requires_grad)
        setattr(module, name, new)
        self.moved.append(Moved(old, new, pick))
        return new


def _kind(module: nn.Module) -> str:
    """The name of a module's class; parametrised modules have one of their own."""
    return type_before_parametrizations(module).__name__
