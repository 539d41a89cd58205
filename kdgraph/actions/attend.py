"""Attend: convolutions weigh virtual blocks of their input channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action
from kdgraph.spec.types import Count, Positive

if TYPE_CHECKING:
    from kdgraph.actions._attention import Convolution
    from kdgraph.actions._world import Found, World

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")


@register_action
class Attend(Action):
    """``Y_m = sum_n softmax(A_m / tau)_n (W_mn * F_n)``: attention between blocks of channels.

    The virtual attention module (VAM) of KDExplainer, Xue et al. 2021 (arXiv 2105.04181); its
    program is not published, so the form is a reconstruction. The channels of a convolution's
    input are N blocks of neighbours, those of its output M; the logits ``A`` [M, N] are trained,
    and start at 0. Saved students have plain convolutions with the kernels ``a_mn W_mn``.

    ``modules`` are convolutions, or modules in which all are meant. ``size`` is the number of
    channels in a block, ``blocks`` the number of blocks on either side. What stays as it is:
    convolutions in groups (depthwise ones too), whose channels do not mix, and those whose
    channels do not part into whole blocks, as of a stem that reads an image; quantised ones, which
    would have other levels in each block.

    ``gain: true`` (the default) multiplies the rows by N, so that ``A = 0`` is the convolution
    as it was; ``false`` is the row as it is, which shrinks what comes out by about N.

    Variants: ``weighed`` (the default) as above; ``mixed`` has one kernel for all blocks of
    inputs, ``Y_m = W_m * sum_n a_mn F_n`` (mix, then convolve in groups), which starts at the mean
    over the blocks and has N times fewer weights.

    The rows can be tapped: ``layer1.0.conv1.log_rows`` gives their logarithms, [M, N], of which
    the loss ``entropy`` with ``reduction: sum`` is the sum of row entropies.
    """

    rebuilds: ClassVar[bool] = True

    use: Literal["attend"] = "attend"
    modules: Paths
    size: Count | None = None
    blocks: Annotated[int, Field(ge=2)] | None = None
    tau: Positive = 1.0
    gain: bool = True
    variant: Literal["weighed", "mixed"] = "weighed"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.size is None) == (self.blocks is None):
            raise PydanticCustomError("attend_blocks", "give either 'size' or 'blocks'")
        return self

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        found = world.find(self.modules, _CONVOLUTIONS, inside=True)
        why = {f.name: self._why_not(f, world) for f in found}
        fit = [f for f in found if why[f.name] is None]
        if not fit:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in why.items())
            world.wrong(f"no convolution can be attended to ({reasons})")
        lines = [self._wrap(f, world) for f in fit]
        return lines + [f"{name} stays as it is: {why[name]}" for name in why if why[name]]

    def _why_not(self, found: Found, world: World) -> str | None:
        from torch.nn.utils.parametrize import is_parametrized

        from kdgraph.actions._attention import VirtualAttention

        conv: Any = found.module
        parent = world.nets[found.model].get_submodule(found.path.rpartition(".")[0])
        if isinstance(parent, VirtualAttention):
            return "attended to already"
        if not found.path:
            return "it is the network itself"
        if is_parametrized(conv, "weight"):
            return "its weight is computed already, as by `quantize`"
        if conv.groups != 1:
            return f"{conv.groups} groups"
        for side, channels in (("out", conv.out_channels), ("in", conv.in_channels)):
            if channels % (self.size or self.blocks or 1):
                return f"{channels} channels {side} are no whole number of blocks"
        if conv.in_channels == self.size:
            return "its input is a single block"
        return None

    def _wrap(self, found: Found, world: World) -> str:
        from kdgraph.actions._attention import VirtualAttention

        conv: Convolution = found.module  # type: ignore[assignment]  # found by its class
        block = self.size or conv.in_channels // (self.blocks or 1)
        outputs = self.blocks or conv.out_channels // block
        inputs = conv.in_channels // block
        if self.variant == "mixed":
            size = conv.kernel_size
            parts = conv.weight.detach().reshape(conv.out_channels, inputs, block, *size)
            world.replace(conv, "weight", parts.mean(1))
            conv.in_channels = block
        attention = VirtualAttention(conv, outputs, inputs, block, tau=self.tau, gain=self.gain)
        for net in world.nets.values():
            for parent in list(net.modules()):
                for name, child in parent._modules.items():
                    if child is conv and parent is not attention:
                        setattr(parent, name, attention)
        return f"{found.name}: {outputs} x {inputs} virtual blocks"
