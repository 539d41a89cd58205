"""What a kernel is: another way to compute a loss, on a GPU, from the same raw tensors.

A file that registers a kernel imports torch, and Triton only when it runs one. Each works through
operators of its own (``torch.library.custom_op``), which compilers take as one node; on the CPU
an operator computes what the loss computes, or runs its Triton program in the interpreter.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kdgraph.losses.base import Loss
from kdgraph.registry import Registry
from kdgraph.spec.shapes import Shape

HALVES = (torch.float16, torch.bfloat16)


class Kernel:
    """A way to compute some losses; ``run`` gives what ``rows`` or ``forward`` of them would.

    Attributes:
        losses: the ``use`` names of the losses it computes.
        sides: the inputs that are read in the precision they arrive in.
    """

    losses: ClassVar[tuple[str, ...]]
    sides: ClassVar[tuple[str, ...]] = ("student", "teacher")

    def declines(self, loss: Loss, **shapes: Shape) -> str | None:
        """Why it does not compute this loss at these shapes; None where it does."""
        return None

    def run(self, loss: Loss, **inputs: Any) -> Tensor:
        """One unweighted float32 value per row of a ``RowLoss``, else a 0-dim tensor.

        ``sides`` arrive in float32, float16 or bfloat16, with any strides; ``mask`` and
        ``row_weight`` are left out. Differentiable once with respect to ``sides``, and not with
        respect to anything else.
        """
        raise NotImplementedError  # every registered kernel defines it

    def takes(self, **inputs: Any) -> bool:
        """Whether these very tensors can be computed: where they lie, and of which type."""
        tensors = {name: v for name, v in inputs.items() if isinstance(v, Tensor)}
        here = all(interpreted() if v.device.type == "cpu" else v.is_cuda for v in tensors.values())
        steer = (v for name, v in tensors.items() if name not in self.sides)
        return (
            here
            and all(tensors[s].dtype in (torch.float32, *HALVES) for s in self.sides)
            and not any(v.requires_grad for v in steer)
        )


KERNELS: Registry[Kernel] = Registry("kernel", "kdgraph.kernels")
K = TypeVar("K", bound=Kernel)


def register_kernel(name: str) -> Any:
    """Makes a kernel known under a name; its class takes no arguments."""

    def register(cls: type[K]) -> type[K]:
        KERNELS.add(name, cls())
        return cls

    return register


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: that of ``x`` inside this context."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def transformed() -> bool:
    """Whether ``torch.func`` looks on, which operators of our own do not know."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def interpreted() -> bool:
    """Whether Triton programs run on the CPU, as ``TRITON_INTERPRET=1`` asks for."""
    return os.environ.get("TRITON_INTERPRET") == "1"
