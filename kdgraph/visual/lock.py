"""The spec with everything resolved: merged, defaults written out, adapters chosen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kdgraph.runtime.report import Report
from kdgraph.spec.calls import OWN_KEYS
from kdgraph.spec.entry import LossEntry
from kdgraph.spec.language import ModelSpec
from kdgraph.spec.scalars import ScalarError, resolve
from kdgraph.visual.words import adapters


def lock(report: Report, folder: Path) -> str:
    """YAML text of a spec that compiles to the same graph, whatever defaults change later.

    Args:
        report: of a compilation.
        folder: where the text will lie; the paths of weights are written relative to it.
    """
    spec = report.spec
    written = _plain(spec)
    for name, model in written["models"].items():
        model["input"] = spec.inputs(name)
        if spec.models[name].same_as is None:
            model["trainable"] = spec.is_trainable(name)
        else:
            model = {key: model[key] for key in OWN_KEYS if key in model}
        if "weights" in model:
            model["weights"] = os.path.relpath(spec.folder / model["weights"], folder)
        keys = (k for k in ModelSpec.model_fields if k in model)
        written["models"][name] = {k: model[k] for k in keys}
    for name, adapter in adapters(report).items():
        written["links"][name]["adapter"] = _plain(adapter)
    return yaml.dump(written, Dumper=_Flow, sort_keys=False, width=100, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Values that YAML knows; what is not set is left out."""
    if isinstance(value, BaseModel):
        given = {key: getattr(value, key) for key in type(value).model_fields}
        if isinstance(value, LossEntry) and value.link is not None:
            given = {k: v for k, v in given.items() if k not in ("student", "teacher")}
        value = {**given, **(value.model_extra or {})}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None and v != {} and v != ()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


class _Flow(yaml.SafeDumper):
    """Lists on one line, no aliases, and quotes where our reader would see no text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        return super().represent_sequence(tag, sequence, flow_style=True)

    def represent_str(self, data: str) -> Any:
        try:
            style = None if isinstance(resolve(data), str) else "'"
        except ScalarError:
            style = "'"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Flow.add_representer(str, _Flow.represent_str)
