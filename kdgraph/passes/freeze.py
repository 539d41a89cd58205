"""Makes frozen models cheap: ``conv, bn, add, relu, dropout -> one convolution``."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from kdgraph.capture.record import one_line
from kdgraph.graph import DistillGraph
from kdgraph.graph.conv import FusedConv2d
from kdgraph.passes._constants import fold_constants
from kdgraph.passes._effects import DRAWS, effect
from kdgraph.passes._fold import layer_of, norm_of
from kdgraph.passes._frozen import FrozenModel
from kdgraph.passes._fuse_conv import fold_and_fuse, fusable
from kdgraph.passes._layout import convert_input, settle
from kdgraph.passes._open import open_modules
from kdgraph.passes.base import Context, register_pass


@register_pass("freeze", after="merge")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``relu(bn(conv(x)) + y), dropout`` of a frozen model -> ``conv'(x, y)``.

    What a frozen model computes is opened where that pays, batch norms go into the layer before
    them, dropout and the like go, and what depends on no batch entry is computed once. A
    convolutional model then runs with channels last, each convolution together with the
    addition and the activation behind it; its taps keep their layout. What is trained is for the
    pass ``layout``.
    """
    for name in context.constants():
        graph = _freeze(FrozenModel(graph, context, name))
    return graph


def _freeze(model: FrozenModel) -> DistillGraph:
    if not model.nodes():
        return model.graph  # its part is done by another one
    if any(str(n.target).endswith(".kd_ports") for n in model.nodes()):
        model.keep("it was captured through ports, so it runs as it is", "")
        model.report()
        return model.graph
    with torch.no_grad():
        open_modules(model)
        _strip(model)
        fold_constants(model)
        _rewrite(model)
    _tell_norms(model)
    model.report()
    return model.graph


def _rewrite(model: FrozenModel) -> None:
    """Folds and fuses; with channels last where the model is convolutional and allows it."""
    layers = [x for x in (layer_of(model, n) for n in model.nodes()) if x is not None]
    if sum(fusable(x) for x in layers) >= 2 and not _draws_on_maps(model):
        undo = model.trial()
        try:
            fold_and_fuse(model, fuse=True)
            convert_input(model)
            settle(model)
        except Exception as error:  # whatever the model's own code raises in another layout
            undo()
            model.keep(f"it does not run with channels last: {one_line(error)}", "")
        else:
            model.done["channels last from its input on"] += 1
            return
    fold_and_fuse(model, fuse=False)


def _draws_on_maps(model: FrozenModel) -> bool:
    """Whether the numbers that a model draws would be others with channels last, and says so."""
    if not model.context.spec.models[model.name].dropout:
        return False
    for node in model.nodes():
        value, known = node.meta.get("val"), _function(node) in _SWITCHED
        plain = known or isinstance(model.module(node), _DropoutNd)
        if plain and isinstance(value, Tensor) and value.dim() < 4:
            continue
        if node.op.startswith("call") and effect(node, model.graph) == DRAWS:
            reason = (
                "it draws random numbers for a map, in an order that channels last would change"
            )
            model.keep(reason, str(node.meta.get("kd_path", "")))
            return True
    return False


def _strip(model: FrozenModel) -> None:
    """Removes what does nothing in eval mode."""
    for node in model.nodes():
        value = node.args[0] if node.args else None
        if isinstance(value, fx.Node) and _does_nothing(model, node):
            model.replace(node, value)
            if node.target != "type_as":
                model.done["# layer* without effect in eval mode removed"] += 1
    model.drop_unread()


# functions that are switched off by an argument, and where it stands
_SWITCHED = {
    "dropout": 2,
    "dropout1d": 2,
    "dropout2d": 2,
    "dropout3d": 2,
    "alpha_dropout": 2,
    "feature_dropout": 2,
    "feature_alpha_dropout": 2,
    "stochastic_depth": 3,
}


def _does_nothing(model: FrozenModel, node: fx.Node) -> bool:
    if node.op == "call_method" and node.target == "type_as":
        return _same_type(node, *node.all_input_nodes)
    if (module := model.module(node)) is not None:
        hooks = module._forward_hooks or module._forward_pre_hooks
        dropout = isinstance(module, _DropoutNd) and not module.training
        return (dropout or type(module) is nn.Identity) and not hooks
    name = _function(node)
    if name not in _SWITCHED:
        return False
    given = node.args[_SWITCHED[name] :][:1]
    return (*given, node.kwargs.get("training", node.kwargs.get("train", True)))[0] is False


def _function(node: fx.Node) -> str:
    """The name of the function that a node calls."""
    return getattr(node.target, "__name__", "").split(".")[0] if node.op == "call_function" else ""


def _same_type(node: fx.Node, value: fx.Node, *like: fx.Node) -> bool:
    """Whether ``(a + b).type_as(a)``, which is how ``a += b`` is written, changes no type."""
    read = [n.meta.get("val") for n in (node, *value.all_input_nodes, *like)]
    return len({t.dtype if isinstance(t, Tensor) else None for t in read}) == 1


def _tell_norms(model: FrozenModel) -> None:
    """Says of every batch norm that is left why it is."""
    for node in model.nodes():
        module, path = model.module(node), str(node.meta.get("kd_path", ""))
        if norm_of(model, node) is not None:
            before = node.all_input_nodes[0]
            fused = isinstance(model.module(before), FusedConv2d)
            if not fused and layer_of(model, before) is None:
                reason = "no convolution or linear layer stands right before this batch norm"
            elif len(before.users) > 1:
                reason = "what this batch norm reads is read elsewhere too"
            else:
                reason = "this batch norm does not work on the channels of the layer before it"
            model.keep(reason, path)
        elif isinstance(module, _BatchNorm):
            reason = (
                "this batch norm is in train mode"
                if module.training
                else ("this batch norm has no running statistics or has hooks")
            )
            model.keep(reason, path)
