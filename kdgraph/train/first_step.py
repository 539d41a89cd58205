"""What each loss edge says at the start: one step on random weights and random data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdgraph.compiler import compile
from kdgraph.errors import KDGraphError
from kdgraph.graph import DistillGraph
from kdgraph.graph.example import letter_sizes
from kdgraph.graph.ops import total
from kdgraph.models.load import build_untrained, is_pretrained
from kdgraph.passes.base import PASSES
from kdgraph.spec.language import Spec
from kdgraph.visual.advice import Sight
from kdgraph.visual.start import Part, Start

ROWS = 16  # at most
FLOPS = 60e9  # of the forward; some seconds of one core
PARAMETERS = 60_000_000  # of all networks, which have to be made up


def first_step(
    spec: Spec, sight: Sight, cost: Mapping[str, Any], *, trust: Collection[str] = ()
) -> Start:
    """The values of the edges before training; nothing is downloaded and no weights are read.

    Args:
        spec: as written, with all its stages.
        sight: of the stage that is explained.
        cost: of its step, as ``visual.costs`` has it.
        trust: modules that ``python/`` models may come from.
    """
    why = _why_not(spec, sight)
    if why is not None:
        return Start(0, {}, why)
    rows, why = _rows(sight, cost)
    if why is not None:
        return Start(rows, {}, why)
    try:
        values = _values(spec, sight, rows, trust)
    except KDGraphError as error:
        return Start(rows, {}, error.diagnostics[0].message)
    except Exception as error:  # models' own code, on random numbers
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Start(rows, {}, f"a step on random numbers fails: {lines[0][:160]}")
    return _shares(sight, values, rows)


def _why_not(spec: Spec, sight: Sight) -> str | None:
    """Why random weights would not be those of the start, or cannot be had."""
    if spec.stages and sight.spec.leg != spec.stages[0].legs[0]:
        return f"stage {sight.spec.leg!r} starts from what stages before it have trained"
    if len(sight.edges) < 2:
        return "there is one edge only"
    for name in sight.spec.networks:
        model = spec.models[name]
        if model.snapshot_of is not None:
            continue
        if model.source is None:
            return f"model {name!r} was handed over as a module"
        if sight.spec.is_trainable(name) and _has_weights(spec, name):
            return f"model {name!r} starts from trained weights, and `explain` reads none"
    return None


def _has_weights(spec: Spec, name: str) -> bool:
    model = spec.models[name]
    if model.start_from is not None:
        return True
    return model.weights is not None or is_pretrained(model.source or "", model.args)


def _rows(sight: Sight, cost: Mapping[str, Any]) -> tuple[int, str | None]:
    """The rows of the batch; and why the step would take too long."""
    root = sight.report.graph.root
    nets = (root.get_submodule(f"models.{name}") for name in sight.spec.networks)
    size = sum(p.numel() for net in nets for p in net.parameters())
    if size > PARAMETERS:
        return (
            0,
            f"the models have {size / 1e6:,.0f} M parameters, more than {PARAMETERS / 1e6:g} M",
        )
    if "unknown" in cost:
        return 0, f"what a step costs is not known: {cost['unknown']}"
    fixed = not any(isinstance(s, str) for e in sight.spec.batch.values() for s in e.shape[:1])
    each = cost["before_passes"]["total"]["flops_forward"] / cost["batch"]
    rows = cost["batch"] if fixed else min(ROWS, sight.rows or ROWS)
    if not fixed and each * rows > FLOPS:
        rows = max(2, int(FLOPS / each))
    if each * rows > FLOPS:
        giga = each * rows / 1e9
        return rows, f"a forward of {rows} rows takes {giga:,.0f} GFLOP, more than {FLOPS / 1e9:g}"
    return rows, None


def _values(
    spec: Spec, sight: Sight, rows: int, trust: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Of each edge its value, and what it adds to the total."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        models = {
            name: build_untrained(str(model.source), model.args, trust=trust)
            for name, model in spec.models.items()
            if name in spec.networks and model.snapshot_of is None
        }
        graph = _filled(sight, models)
        if spec.stages or graph is None:  # whose actions change models, or other names of weights
            optional = [name for name, p in PASSES.items() if p.default]
            step = compile(spec, models=models, trust=trust, without=optional)
            graph = step.report.graph
        run, batch = _Terms(graph), _random_batch(spec, rows)
        entries = [batch[str(n.target)] for n in graph.graph.find_nodes(op="placeholder")]
        with _batch_statistics(graph.root, rows):
            out = run.run(*entries, enable_io_processing=False)
    return {
        name: (float(value), float(term))
        for (name, value), term in zip(out["losses"].items(), run.terms, strict=True)
    }


def _filled(sight: Sight, models: Mapping[str, nn.Module]) -> DistillGraph | None:
    """The graph of the plan, before optional passes, with weights; None where they do not fit.

    To capture the models a second time may take longer than the step.
    """
    graph = next(r.after for r in sight.report.records if r.name == "attach_losses")
    for name in sight.spec.networks:
        source = models[sight.spec.models[name].snapshot_of or name]
        empty, state = graph.root.get_submodule(f"models.{name}"), source.state_dict()
        if empty.state_dict().keys() != state.keys():
            return None
        empty.load_state_dict(state)
    return graph


@contextmanager
def _batch_statistics(root: nn.Module, rows: int) -> Iterator[None]:
    """Frozen batch norms normalise by the batch, as trained ones do by what they have seen.

    With the statistics that they start from they do nothing, and what a deep network of random
    weights gives is thousands of times as large.
    """
    norms = [m for m in root.modules() if isinstance(m, _BatchNorm) and not m.training]
    for norm in norms:
        norm.training = rows > 1
    try:
        yield
    finally:
        for norm in norms:
            norm.training = False


class _Terms(fx.Interpreter):
    """Keeps what the edges add to the total."""

    def __init__(self, graph: DistillGraph) -> None:
        super().__init__(graph.root, graph=graph.graph)
        self.terms: list[Any] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is total:
            self.terms = [value * weight for value, weight in zip(*args, strict=True)]
        return super().call_function(target, args, kwargs)


def _random_batch(spec: Spec, rows: int) -> dict[str, Tensor]:
    """Normal numbers, shares between a half and 1, and labels of all classes."""
    sizes = letter_sizes(spec, rows)
    found: dict[str, Tensor] = {}
    for name, entry in spec.batch.items():
        shape = [sizes[s] if isinstance(s, str) else s for s in entry.shape]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        if dtype.is_floating_point:  # one number for each row or class is a share or a weight
            found[name] = torch.randn(shape) if len(shape) > 1 else 0.5 + torch.rand(shape) / 2
            found[name] = found[name].to(dtype)
        elif entry.classes is None and len(shape) == 1:  # a length
            found[name] = torch.ones(shape, dtype=dtype)
        else:
            found[name] = torch.randint(0, entry.classes or 2, shape).to(dtype)
    return found


def _shares(sight: Sight, values: Mapping[str, tuple[float, float]], rows: int) -> Start:
    whole = sum(abs(term) for _, term in values.values())
    if not all(map(_finite, values.values())) or whole == 0:
        shown = ", ".join(f"{name} {value:.3g}" for name, (value, _) in values.items())
        return Start(rows, {}, f"random numbers give no sum to take shares of: {shown}")
    return Start(
        rows,
        {
            name: Part(value, term, abs(term) / whole, _is_task(sight, name))
            for name, (value, term) in values.items()
        },
    )


def _finite(pair: tuple[float, float]) -> bool:
    return all(abs(number) < float("inf") for number in pair)


def _is_task(sight: Sight, name: str) -> bool:
    """Whether an edge learns labels: it names no teacher, and class numbers stand behind it."""
    edge, spec = sight.spec.losses[name], sight.spec
    if "teacher" in edge.ref_fields():
        return False
    read = {r for _, ref in edge.references() for r in sight.batch_behind(ref)}
    return any(not spec.batch[r].dtype.startswith(("float", "bfloat")) for r in read)
