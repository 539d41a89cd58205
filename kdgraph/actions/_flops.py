"""What one sample costs in a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdgraph.actions._flow import example_inputs, in_mode
from kdgraph.capture.record import call_module, positional_names
from kdgraph.capture.world import quiet, worlds
from kdgraph.spec.language import Spec


def flops(spec: Spec, model: str, net: nn.Module) -> int | None:
    """Floating-point operations of the forward of one sample, in eval mode.

    As torch's ``FlopCounterMode`` counts them: two for each multiplication with its addition, in
    matrix products, convolutions and attention. Other sizes that a batch leaves free are those of
    the examples by which shapes are found.

    Returns:
        None where the network does not run on such an example.
    """
    inputs, _ = example_inputs(spec, model, net, batch=1)
    with in_mode(net, training=False), quiet():
        for world in worlds(net, inputs):
            copy = world.model()
            try:
                with world.running(), torch.no_grad(), FlopCounterMode(display=False) as counter:
                    call_module(copy, world.inputs, positional_names(net, inputs))
                return int(counter.get_total_flops())
            except Exception:  # whatever the network's code raises on tensors without values
                continue
    return None
