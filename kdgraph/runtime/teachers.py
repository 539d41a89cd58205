"""``TeachersModule``: the teachers' side of a spec by itself, which books are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from kdgraph.errors import BookError
from kdgraph.graph.example import example_batch
from kdgraph.runtime.inputs import check_batch
from kdgraph.spec.language import Spec

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5  # rounding, which company in a batch may change


class TeachersModule(nn.Module):
    """Values of the teachers' side: batch entries in by name, values out by reference.

    The same frozen program as in a training step: folded and fused alike, in eval mode.

    Attributes:
        reads: the batch entries it takes; others are left alone.
        networks: the models, by name, as they were built.
        shapes: of each value for one row, by reference; what is free in the spec has the size it
            had in ``look``.
        dtypes: of each value.
    """

    def __init__(
        self, spec: Spec, program: fx.GraphModule, networks: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self.spec = spec
        self.reads = tuple(spec.batch)
        # out of nn.Module's sight: nothing here has a mode or is trained
        object.__setattr__(self, "networks", dict(networks))
        object.__setattr__(self, "_program", program)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._note(self(**example_batch(spec)))

    networks: dict[str, nn.Module]
    _program: fx.GraphModule

    @torch.no_grad()
    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """The values of a batch, each [B, ...].

        Raises:
            InputError: when an entry is missing, or not what the spec says.
        """
        own = {name: batch[name] for name in self.reads if name in batch}
        check_batch(self.spec, own)
        found: dict[str, Tensor] = self._program(**own)
        return found

    def look(
        self, batch: Mapping[str, Tensor], padded: tuple[int, Mapping[str, Tensor]] | None = None
    ) -> None:
        """Takes shapes from a batch, and makes sure that no row depends on another one.

        Args:
            batch: some rows.
            padded: the number of a row in it that others make longer, and it by itself.

        Raises:
            BookError: KD767 for a value that is not one of each row, or that changes where the
                other rows do; KD760 for probabilities that are to be kept as logits.
        """
        whole = self(**batch)
        rows = len(batch[self.reads[0]])
        for ref, value in whole.items():
            if value.shape[:1] != (rows,):
                message = f"{ref!r} is {list(value.shape)} for {rows} rows: it is not one value "
                message += "for each"
                raise BookError.of("KD767", message, span=self.spec.key_span("book", "store", ref))
            self._check_logits(ref, value)
        first = {name: batch[name][:1].expand_as(batch[name]) for name in self.reads}
        for ref, value in self(**first).items():
            self._check_alike(ref, value[0], whole[ref][0], "the rows beside it")
        if padded is not None:
            row, alone = padded
            for ref, value in self(**alone).items():
                how = "how far it is padded, which the rows beside it decide"
                self._check_alike(ref, value[0], whole[ref][row], how)
        self._note(whole)

    def _check_alike(self, ref: str, one: Tensor, other: Tensor, reason: str) -> None:
        if one.shape != other.shape or not torch.allclose(one, other, _RELATIVE, _ABSOLUTE, True):
            message = f"{ref!r} of a row depends on {reason}, so no book can hold it"
            help = "keep what it is made of: `book: {store: ...}`"
            span = self.spec.key_span("book", "store", ref)
            raise BookError.of("KD767", message, span=span, help=help)

    def _check_logits(self, ref: str, value: Tensor) -> None:
        """Probabilities cannot be kept as the likeliest classes of logits."""
        kept = self.spec.book.store.get(ref) if self.spec.book is not None else None
        if kept is None or kept.top_k is None or not value.dim() or not (value >= 0).all():
            return
        if torch.allclose(value.sum(-1), torch.ones(()), _RELATIVE):
            message = f"{ref!r} holds probabilities, but `top_k` keeps logits"
            help = "keep a signal `use: logits` of it, and read that"
            span = self.spec.key_span("book", "store", ref)
            raise BookError.of("KD760", message, span=span, help=help)

    def _note(self, values: Mapping[str, Tensor]) -> None:
        self.shapes = {ref: tuple(value.shape[1:]) for ref, value in values.items()}
        self.dtypes = {ref: value.dtype for ref, value in values.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TeachersModule:
        self._program._apply(fn)  # type: ignore[no-untyped-call]  # untyped there
        return self

    def extra_repr(self) -> str:
        """``teacher.logits [10], ...``."""
        return ", ".join(f"{ref} {list(shape)}" for ref, shape in self.shapes.items())
