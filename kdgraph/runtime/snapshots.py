"""Frozen copies of trained models, brought up to date in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from kdgraph.actions._snapshots import copy_values, same_tensors
from kdgraph.errors import InputError, near
from kdgraph.spec.language import Spec


class Snapshots(nn.Module):
    """Holds the copies where an optimiser does not find them, but a checkpoint does.

    A copy is no child in the sense of ``nn.Module``: its tensors stay the parameters and buffers
    that the code of a model may ask itself for (``next(self.parameters()).dtype``), while
    ``parameters()`` and ``train()`` of the step do not reach them. Moving, saving and loading do.

    Args:
        spec: says what each is a copy of.
        models: all models by name.
    """

    def __init__(self, spec: Spec, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        found = {n: m.snapshot_of for n, m in spec.models.items() if m.snapshot_of is not None}
        vars(self).update(_spec=spec, _of=found, _copies={name: models[name] for name in found})

    _spec: Spec
    _of: dict[str, str]
    _copies: dict[str, nn.Module]

    def take(self, models: Mapping[str, nn.Module], name: str | None) -> None:
        """Copies parameters and buffers of trained models, in place: no graph changes.

        Args:
            models: the trained models by name.
            name: the snapshot to take; None takes all.

        Raises:
            InputError: KD702 for a name that is no snapshot, KD704 for a model that by now has
                other tensors than when it was compiled.
        """
        if name is not None and name not in self._of:
            help = near(name, self._of) or f"there is {', '.join(self._of) or 'none'}"
            raise InputError.of("KD702", f"no model {name!r} is a snapshot", help=help)
        for one in self._of if name is None else (name,):
            source, copy = models[self._of[one]], self._copies[one]
            if not same_tensors(source, copy):
                message = f"{self._of[one]!r} has other tensors than its snapshot {one!r}"
                span = self._spec.span("models", one)
                raise InputError.of("KD704", message, help="compile again", span=span)
            copy_values(source, copy)

    def __getattr__(self, name: str) -> Any:
        """A copy by its name, as distributed checkpoints look it up."""
        copies = vars(self).get("_copies", {})
        return copies[name] if name in copies else super().__getattr__(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Snapshots:
        for copy in self._copies.values():
            copy._apply(fn)  # type: ignore[no-untyped-call]  # untyped there
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, copy in self._copies.items():
            copy.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        for name, copy in self._copies.items():
            start = f"{prefix}{name}."
            own = {k.removeprefix(start): v for k, v in state_dict.items() if k.startswith(start)}
            try:
                found = copy.load_state_dict(own, strict=False)
            except RuntimeError as error:  # sizes that differ
                error_msgs.append(str(error))
                continue
            missing_keys += [start + key for key in found.missing_keys]
            unexpected_keys += [start + key for key in found.unexpected_keys]
        starts = tuple(f"{prefix}{name}." for name in self._copies)
        own_keys = (k for k in state_dict if k.startswith(prefix) and not k.startswith(starts))
        unexpected_keys += own_keys

    def extra_repr(self) -> str:
        """``past of student``, and so on."""
        return ", ".join(f"{name} of {copied}" for name, copied in self._of.items())
