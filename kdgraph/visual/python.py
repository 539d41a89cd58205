"""The training step as Python that a person can read and run."""

from __future__ import annotations

import importlib
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx

from kdgraph.graph import owner_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.runtime.report import Report
from kdgraph.visual.words import (
    adapters,
    entry_words,
    shape_words,
    total_words,
    weight_words,
)

_HEAD = '''"""{name}: the training step, as kdgraph compiled it; written anew by each compilation.

It runs: ``DistillStep(kdgraph.compile("spec.lock.yaml").report.graph.root)`` is a module whose
forward does what the compiled one does. Shapes in comments are those of an example batch.
"""

{imports}


class DistillStep(torch.nn.Module):
    """One distillation step; ``tree`` holds the modules that it calls."""

    def __init__(self, tree: torch.nn.Module) -> None:
        super().__init__()
        for name, part in tree.named_children():
            self.add_module(name, part)

'''


def python(report: Report) -> str:
    """Source of a module with ``DistillStep``, whose ``forward`` mirrors the final graph."""
    graph, taps = _without_markers(report)
    code = graph.python_code("self")
    body, modules = _spelled(code.src, code.globals)
    imports = "\n".join(f"import {m}" for m in sorted({"torch", *modules}))
    name = report.spec.name.replace("\\", "/").replace('"', "'")
    lines = _commented(body, graph, taps, report)
    indented = (f"    {line}".rstrip() for line in lines)
    return _HEAD.format(name=name, imports=imports) + "\n".join(indented) + "\n"


def _without_markers(report: Report) -> tuple[fx.Graph, dict[str, list[str]]]:
    """The graph with taps taken out, and the names of the taps by node."""
    graph = report.graph.copy().graph
    taps: dict[str, list[str]] = {}
    for marker in graph.find_nodes(op="call_function", target=tap):
        source = marker.all_input_nodes[0]
        taps.setdefault(source.name, []).append(str(marker.args[1]))
        marker.replace_all_uses_with(source)
        graph.erase_node(marker)
    return graph, taps


def _spelled(source: str, names: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Writes each name that fx made up as the place where the object lives.

    Returns:
        The source, and the modules that it needs.
    """
    modules: list[str] = []
    lines = source.splitlines()
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    around = zip([tokens[0], *tokens], tokens, [*tokens[1:], tokens[-1]], strict=False)
    for before, token, behind in reversed(list(around)):  # from the end, so that columns hold
        attribute, keyword = before.string == ".", behind.string == "="
        if token.type != tokenize.NAME or token.string not in names or attribute or keyword:
            continue
        module, place = _home(token.string, names[token.string])
        modules.append(module)
        row, start = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:start] + place + line[token.end[1] :]
    return "\n".join(lines), modules


def _home(name: str, value: Any) -> tuple[str, str]:
    """The module to import for a value, and how it is then written."""
    if name in ("inf", "nan"):
        return "math", f"math.{name}"
    if name == "NoneType":
        return "types", "types.NoneType"
    if hasattr(value, "__path__") or type(value).__name__ == "module":
        return str(value.__name__), str(value.__name__)
    module = str(value.__module__)
    place = str(getattr(value, "__qualname__", value.__name__))
    found: Any = importlib.import_module(module)
    for part in place.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise RuntimeError(f"{name} of the graph cannot be imported as {module}.{place}")
    return module, f"{module}.{place}"


def _commented(
    source: str, graph: fx.Graph, taps: Mapping[str, list[str]], report: Report
) -> Iterator[str]:
    """The lines of the function, with a heading for each part and the shape behind each value."""
    nodes = {n.name: n for n in graph.nodes}
    part = ""
    for line in source.strip().splitlines():
        line = line.split(";  ")[0]  # fx frees values early; a reader need not see that
        found = re.match(r"    (\w+)\b[^=]* = (.*)", line)
        node = nodes.get(found[1]) if found else None
        if found is None or node is None:
            yield from _returned(graph) if line.startswith("    return ") else [line]
            continue
        if owner_of(node) != part:
            if part:
                yield ""
            part = owner_of(node)
            yield f"    # {_heading(part, report)}"
        shape = shape_of(node)
        said = [shape_words(shape, report.spec) if shape else "", *taps.get(node.name, ())]
        comment = "  ".join(s for s in said if s)
        written = f"    {found[1]} = " + re.sub(r"\b(\w+) = ", r"\1=", found[2])
        yield f"{written}  # {comment}" if comment else written


def _heading(owner: str, report: Report) -> str:
    """``teacher: timm/resnet50, frozen`` or ``losses.soft: soft_target, tau 4, weight 0.9``."""
    spec = report.spec
    part, _, name = owner.partition(".")
    if owner in spec.models:
        learns = "trained" if spec.is_trainable(owner) else "frozen"
        copied = spec.models[owner].snapshot_of
        made = f"snapshot of {copied}" if copied else "given as a module"
        return f"{owner}: {spec.models[owner].source or made}, {learns}"
    if part == "losses":
        words = f"{entry_words(spec.losses[name])}, weight {weight_words(spec, name)}"
        return f"{owner}: {words}"
    if part == "signals":
        return f"{owner}: {entry_words(spec.signals[name])}"
    if part == "fused":
        return f"{owner}: the losses over it, computed together"
    if part == "adapters":
        return f"{owner}: {adapters(report)[name].describe()}"
    return f"{owner}: {total_words(spec)}"


def _returned(graph: fx.Graph) -> Iterator[str]:
    """The value of the function, a line each."""
    yield ""
    yield "    return {"
    value: Any = graph.output_node().args[0]
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield f'        "{key}": {{'
            yield from (f'            "{name}": {node.name},' for name, node in item.items())
            yield "        },"
        else:
            yield f'        "{key}": {item.name},'
    yield "    }"
