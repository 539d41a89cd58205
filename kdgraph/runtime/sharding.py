"""FSDP2 over a compiled step: the models that it trains and the frozen ones, in shards."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import distributed, fx, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from kdgraph.capture.ports import PortModel
from kdgraph.errors import InputError
from kdgraph.runtime.module import DistillModule


def shard(
    step: DistillModule, mesh: DeviceMesh | None = None, *, frozen: bool = True, **options: Any
) -> DistillModule:
    """Shards the models of a step over the ranks of a mesh, in place (``fully_shard``).

    A wrapper gathers the weights of a module when that module is called, and a step calls the
    modules that capture has left whole. Those are sharded, and within them the elements of lists
    of modules, as the blocks of a transformer; what is left of trained models and the adapters
    belong to the step itself. Parameters that are shared between modules, and those that the graph
    reads by themselves, as it does in models that were captured by ``torch.export``, are never
    split from each other: trained ones are gathered for the whole step, frozen ones stay whole.
    Frozen modules let go of what they have gathered once they have run, unless options say
    otherwise.

    To be called where the process group is there, before an optimiser is built.

    Args:
        step: on its device; compiled in the process group.
        mesh: of one dimension, or two for hybrid sharding; left out: all ranks.
        frozen: shards frozen models too.
        options: further arguments of ``fully_shard``: ``mp_policy``, ``offload_policy``,
            ``reshard_after_forward``.

    Raises:
        InputError: KD735 without a process group, where the step is in shards already, or where a
            trained parameter has no dimension to cut.
    """
    if not distributed.is_initialized():
        message = "there are no processes to shard a step over"
        help = "start them by torchrun, and call init_process_group before compiling"
        raise InputError.of("KD735", message, help=help)
    if isinstance(step, FSDPModule):
        raise InputError.of("KD735", "the step is in shards already")
    for name, parameter in step.named_parameters():
        if parameter.dim() == 0:
            message = f"{name!r} is a parameter of one number, which FSDP2 cannot shard"
            raise InputError.of("KD735", message, help="give it the shape [1]")
    step.share()
    options |= {} if mesh is None else {"mesh": mesh}
    # all at once: sharding puts other parameters in the place of those that are counted
    # a frozen one has no module above it, and what is on top would stay gathered by default
    alone = {"reshard_after_forward": True} | options
    for module, is_frozen in list(_units(step, frozen)):
        numbers = {p for p in module.parameters() if p.dim() == 0}  # only frozen ones have any
        own: dict[str, Any] = {"ignored_params": numbers} if numbers else {}
        fully_shard(module, **own | (alone if is_frozen else options))
    fully_shard(step, **options)
    return step


def _units(step: DistillModule, frozen: bool) -> Iterator[tuple[nn.Module, bool]]:
    """The modules to shard, the inner before the outer, and whether each is frozen."""
    uses, running = _uses(step), _running(step.program)
    trained = {id(p) for p in step.parameters()}
    called = [m for m in _called(step.program) if m in running]
    for net in step.networks.values():
        whole = [m for m in net.modules() if m in called]
        inner = [b for m in whole or [net] for b in _blocks(m) if b in running and b not in whole]
        for module in [*inner, *whole]:
            own = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
            apart = own and all(uses[key] == number for key, number in own.items())
            is_frozen = not own.keys() & trained
            if apart and (own.keys() <= trained or (frozen and is_frozen)):
                yield module, is_frozen


def _running(program: fx.GraphModule) -> set[nn.Module]:
    """The modules that are called when a step runs, by the step or by each other."""
    found: set[nn.Module] = set()
    for module in _called(program):
        found.update(module.called() if isinstance(module, PortModel) else module.modules())
    return found


def _called(program: fx.GraphModule) -> list[nn.Module]:
    """The modules that a step calls, each once."""
    nodes = program.graph.find_nodes(op="call_module")
    return list({id(m): m for m in (program.get_submodule(n.target) for n in nodes)}.values())


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (block for block in child if next(block.parameters(), None) is not None)
        else:
            yield from _blocks(child)


def _uses(step: DistillModule) -> Counter[int]:
    """How often each parameter is held by a module, or read by the graph itself."""
    uses = Counter(
        id(p)
        for net in step.networks.values()
        for module in net.modules()
        for p in module.parameters(recurse=False)
    )
    for node in step.program.graph.find_nodes(op="get_attr"):
        uses[id(operator.attrgetter(str(node.target))(step.program))] += 1
    return uses
