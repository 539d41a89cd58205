"""How long a finished model takes for one sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kdgraph.train.score import Score

_WARM, _AT_MOST, _SECONDS = 3, 50, 0.5


def latency(
    model: nn.Module, score: Score, sample: Mapping[str, Tensor], device: torch.device
) -> float:
    """Median milliseconds of a prediction for a batch of one, in eager mode on ``device``.

    Takes 50 predictions, or half a second's worth; a median bears some of them being disturbed.
    Numbers in the sample are taken in the precision of the model, which training may have changed.
    The model comes back in the mode and on the device that it was handed over in.
    """
    held = [*model.parameters(), *model.buffers()]  # none where a teacher only computes
    before, place = model.training, held[0].device if held else device
    dtype = next((x.dtype for x in held if x.is_floating_point()), None)
    batch = {
        name: value[:1].to(device, dtype if value.is_floating_point() else None)
        for name, value in sample.items()
    }
    model.eval().to(device)
    try:
        with torch.inference_mode():
            return timed(lambda: score.predict(model, batch), device)
    finally:
        model.train(before).to(place)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Median milliseconds of a call."""
    times: list[float] = []
    began = time.perf_counter()
    for at in range(_WARM + _AT_MOST):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
        now = time.perf_counter()
        if at >= _WARM:
            times.append(now - start)
            if now - began > _SECONDS:
                break
    return 1000 * statistics.median(times)
