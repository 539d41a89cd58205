"""Runs frozen models in the precision that the spec gives them: ``float32 -> bf16, fp16, int8``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kdgraph.capture.observe import version_of
from kdgraph.capture.record import one_line
from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import cast, tap
from kdgraph.passes._copies import Copies, Held, Whole, size, tensors_of
from kdgraph.passes._int8 import (
    NoTorchao,
    is_linear_weight,
    is_quantised,
    linears,
    quantised,
    quantised_weight,
)
from kdgraph.passes._retype import Retyped, is_floating
from kdgraph.passes.base import Context, register_pass, tagged

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@register_pass("precision", after="freeze")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``layer(x)`` of a bf16 teacher -> ``cast(layer_bf16(cast(x, bfloat16)), float32)``.

    bf16 and fp16: the parameters and buffers that the graph reads are copied in that type, which
    halves what the frozen model takes on the device. Floating inputs are cast where they enter
    the model; its taps come back as float32, in which losses compute and which the user sees.
    int8: the weights of linear layers are kept as int8 with a scale for each row, by torchao;
    everything else stays as it is. The model that was handed over is never changed.
    """
    lowered = [name for name, model in context.spec.models.items() if model.precision is not None]
    for name in context.constants() if lowered else ():
        precision = context.spec.models[name].precision
        if precision is None:
            continue
        lowering = _Lowering(graph, context, name, precision)
        if not lowering.nodes:
            context.declined.append(f"{name}: nothing of it is left in the graph")
        elif any("kd_precision" in n.meta for n in lowering.nodes):
            continue  # done before
        elif (reason := lowering.plan()) is not None:
            context.declined.append(f"{name}: stays as it is: {reason}")
        elif not context.diagnostics:
            lowering.apply()
    return graph


class _Lowering:
    """One frozen model: first all is tried on fake tensors, then the graph is changed.

    Attributes:
        nodes: the model's, in order, without tap markers.
    """

    def __init__(self, graph: DistillGraph, context: Context, name: str, precision: str) -> None:
        self.graph, self.context, self.name, self.precision = graph, context, name, precision
        self.dtype = _TYPES.get(precision)
        self.nodes = [
            n
            for n in graph
            if n.op != "output"
            and role_of(n) == "teacher"
            and owner_of(n) == name
            and n.target is not tap
        ]
        self._own = set(self.nodes)
        self._copies = Copies(self.dtype, context.skeleton)
        self._new: dict[fx.Node, Whole | Held] = {}  # in the place of the weights of a node

    def plan(self) -> str | None:
        """Makes the copies and finds the casts; the reason if that cannot be, else None."""
        if any(str(n.target).endswith(".kd_ports") for n in self.nodes):
            return "captured through ports, it runs as its own code"
        try:
            for node in self.nodes:
                self._copy(node)
        except NoTorchao as error:
            span = self.context.spec.span("models", self.name, "precision")
            message = f"model {self.name!r}: precision int8 needs {error}"
            self.context.wrong("KD414", message, span, "pip install 'kdgraph[int8]'")
            return None
        if not self._new:
            return "it has no linear layers" if self.dtype is None else "it has no weights"
        try:
            self._seen = Retyped(self.graph, self.nodes, self._new, self.dtype)
        except Exception as error:  # the model's own code may raise anything
            return f"it does not run in {self.precision}: {one_line(error)}"
        return None

    def _copy(self, node: fx.Node) -> None:
        if node.op == "call_module":
            module = self.graph.root.get_submodule(str(node.target))
            floating = any(t.is_floating_point() for t in tensors_of(module))
            if linears(module) if self.dtype is None else floating:
                self._make(node, lambda: self._whole(module))
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.graph.root)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return
            if self.dtype is not None:
                self._make(node, lambda: Held(self._copies.tensor(value)))
            elif is_linear_weight(node):
                self._make(node, lambda: Held(quantised_weight(value)))

    def _whole(self, module: nn.Module) -> Whole:
        copy = self._copies.module(module)
        return Whole(copy, self.dtype) if self.dtype else Whole(quantised(copy), torch.float32)

    def _make(self, node: fx.Node, make: Callable[[], Whole | Held]) -> None:
        made = self.context.module(f"frozen.{node.target}.{self.precision}", make)
        assert isinstance(made, Whole | Held)
        self._new[node] = made
        self._note_sources(node)

    def _note_sources(self, node: fx.Node) -> None:
        """Says which tensors of the model a copy was made of, which then must not change."""
        part, _, path = str(node.target).partition(".")
        if part != "models" or self.context.skeleton:
            return
        value = operator.attrgetter(str(node.target))(self.graph.root)
        if isinstance(value, Tensor):
            tensors = {path: value}
        else:
            tensors = {f"{path}.{n}": t for n, t in value.state_dict(keep_vars=True).items()}
        for name, tensor in tensors.items():
            self.context.sources.setdefault(name, (tensor, version_of(tensor)))

    def apply(self) -> None:
        """Puts the copies in their places and the casts around them, and says so."""
        self._report()
        outside = {s: None for n in self.nodes for s in n.all_input_nodes if s not in self._own}
        for source in outside:
            if self.dtype is not None and is_floating(self._seen.values[source]):
                readers = [n for n in self.nodes if source in n.all_input_nodes]
                self._cast(source, self.dtype, readers, readers[0])
        for node, sources in self._seen.casts.items():
            for source in (s for s in sources if s in self._own):
                assert self.dtype is not None
                self._cast(source, self.dtype, [node], node)
        for node in self.nodes:
            self._settle(node)

    def _cast(
        self, source: fx.Node, dtype: torch.dtype, readers: list[fx.Node], before: fx.Node
    ) -> None:
        """Gives some readers of a value another type of it."""
        with self.graph.graph.inserting_before(before):
            node = self.graph.graph.call_function(cast, (source, dtype))
        span = self.context.spec.span("models", self.name, "precision")
        tagged(node, "teacher", self.name, span, shape_of(source))
        own = source in self._own
        node.meta["kd_path"] = source.meta.get("kd_path", "") if own else ""
        node.meta |= {"kd_precision": self.precision, "val": self._seen.values[source].to(dtype)}
        for reader in readers:
            reader.replace_input_with(source, node)

    def _settle(self, node: fx.Node) -> None:
        """A node over the new weights, its value in float32 for those that read it outside."""
        node.meta |= {"kd_precision": self.precision, "val": self._seen.values[node]}
        readers = [u for u in node.users if u not in self._own and "kd_precision" not in u.meta]
        if self.dtype is not None and readers and is_floating(node.meta["val"]):
            self._cast(node, torch.float32, readers, node.next)
        if node not in self._new:
            return
        target = self._place(node)
        if node.op == "call_module":
            node.target = target
            return
        with self.graph.graph.inserting_before(node):
            call = self.graph.graph.call_module(target)
        call.meta = dict(node.meta)
        for reader in node.users if self.dtype is None else ():
            reader.target = functional.linear  # what torchao knows, which aten.linear is not
        node.replace_all_uses_with(call)
        self.graph.graph.erase_node(node)

    def _place(self, node: fx.Node) -> str:
        """Where the new module of a node is kept, named after the old."""
        frozen, made = self.graph.root.get_submodule("frozen"), self._new[node]
        path = str(node.target).partition(".")[2].replace(".", "_")
        name = plain = f"{path}_{self.precision}"
        number = 1
        while getattr(frozen, name, made) is not made:  # two paths may differ in a dot only
            number += 1
            name = f"{plain}_{number}"
        frozen.add_module(name, made)
        return f"frozen.{name}"

    def _report(self) -> None:
        old = [t for n in self.nodes for t in self._read(n)]
        new = [t for n in self.nodes for t in self._read(n, self._new)]
        sizes = f"weights {size(old) / 1e6:.3g} MB to {size(new) / 1e6:.3g} MB"
        if self.dtype is not None:
            line = f"{self.precision}, {sizes}, taps come back as float32"
        else:
            count = len({id(t) for t in new if is_quantised(t)})
            line = f"int8 in {count} linear layer{'s' * (count > 1)}, {sizes}"
        self.context.did.append(f"{self.name}: {line}")

    def _read(self, node: fx.Node, new: Mapping[fx.Node, nn.Module] | None = None) -> list[Tensor]:
        """The parameters and buffers that a node reads, or will read with ``new``."""
        if new is not None and node in new:
            return tensors_of(new[node])
        if node.op == "call_module":
            return tensors_of(self.graph.root.get_submodule(str(node.target)))
        value = (
            operator.attrgetter(str(node.target))(self.graph.root)
            if node.op == "get_attr"
            else None
        )
        return [value] if isinstance(value, Tensor) else []
