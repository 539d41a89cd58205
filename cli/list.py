"""``kdgraph list``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import click

from kdgraph.cli._describe import doc, first_line, keys, paper, shown
from kdgraph.cli._options import format_option
from kdgraph.cli._show import console, print_json
from kdgraph.registry import Registry


def _entries(name: str) -> Callable[[], Registry[Any]]:
    def find() -> Registry[Any]:
        from kdgraph.spec import entry

        found: Registry[Any] = getattr(entry, name)
        return found

    return find


def _schedules() -> Registry[Any]:
    from kdgraph.spec.steer import SCHEDULES

    return SCHEDULES


def _data() -> Registry[Any]:
    from kdgraph.spec.data import DATA

    return DATA


def _transforms() -> Registry[Any]:
    from kdgraph.spec.transforms import TRANSFORMS

    return TRANSFORMS


def _models() -> Registry[Any]:
    from kdgraph.models import SOURCES

    return SOURCES


def _passes() -> Registry[Any]:
    from kdgraph.passes.base import PASSES

    return PASSES


def _kernels() -> Registry[Any]:
    from kdgraph.kernels.base import KERNELS

    return KERNELS


def _advice() -> Registry[Any]:
    from kdgraph.visual.advice import ADVICE

    return ADVICE


def _importers() -> Registry[Any]:
    from kdgraph.importers.base import IMPORTERS

    return IMPORTERS


def _checks() -> Registry[Any]:
    from kdgraph.verify import CHECKS

    return CHECKS


_KINDS: dict[str, Callable[[], Registry[Any]]] = {
    "losses": _entries("LOSSES"),
    "signals": _entries("SIGNALS"),
    "adapters": _entries("ADAPTERS"),
    "actions": _entries("ACTIONS"),
    "models": _models,
    "passes": _passes,
    "kernels": _kernels,
    "schedules": _schedules,
    "data": _data,
    "transforms": _transforms,
    "advice": _advice,
    "verify": _checks,
    "importers": _importers,
}


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    kind = ctx.params.get("kind")
    names = _KINDS[kind]().names() if kind in _KINDS else []
    return [n for n in names if n.startswith(incomplete)]


@click.command("list")
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.argument("name", required=False, shell_complete=_complete)
@format_option
def command(kind: str, name: str | None, form: str) -> None:
    r"""Lists what a spec can name, or says all about one of them.

    \b
    Examples:
      kdgraph list losses
      kdgraph list losses soft_target
      kdgraph list models 'timm/resnet*'
    """
    registry = _KINDS[kind]()
    if kind == "models" and name is not None:
        _list_models(registry, name, form)
    elif name is not None:
        _detail(name, registry.get(name), form)
    else:
        _list(registry, form)


def _list(registry: Registry[Any], form: str) -> None:
    if form == "json":
        print_json(
            [
                {
                    "name": name,
                    "summary": first_line(value),
                    **({"paper": cited} if (cited := paper(value)) else {}),
                    "keys": keys(value),
                    **_when(value),
                    **({"losses": losses} if (losses := _losses(value)) else {}),
                    **({"code": code} if (code := getattr(value, "code", None)) else {}),
                }
                for name, value in registry.items()
            ]
        )
        return
    lines = {name: _summary(value) for name, value in registry.items()}
    if not lines:
        click.echo(f"this version has no {registry.kind}")
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        click.echo(f"{click.style(f'{name:{width}}', bold=True)}  {line}".rstrip())


def _summary(value: Any) -> str:
    """What an entry is and whose, in one line.

    Of a pass also whether it has to be asked for, of a kernel the losses that it computes, and of
    a warning its code.
    """
    if code := getattr(value, "code", None):
        return f"{code}  {first_line(value)}"
    if losses := _losses(value):
        return f"{', '.join(losses)}: {first_line(value)}"
    if _when(value).get("default") is False:
        return f"{first_line(value)} Off by default: --also runs it."
    cited = paper(value)
    return f"{first_line(value)}  [{cited}]" if cited else first_line(value)


def _losses(value: Any) -> list[str]:
    """The losses of a kernel; nothing for other entries."""
    return [] if inspect.isclass(value) else list(getattr(value, "losses", ()))


def _when(value: Any) -> dict[str, bool]:
    """Whether a pass runs by default; nothing for other entries."""
    return {"default": value.default} if hasattr(value, "default") else {}


def _list_models(registry: Registry[Any], pattern: str, form: str) -> None:
    """Names of a source: ``timm``, ``timm/`` or ``timm/resnet*``."""
    prefix, _, wanted = pattern.partition("/")
    names = [n for n in registry.get(prefix).names() if fnmatch(n, wanted or "*")]
    if form == "json":
        print_json([f"{prefix}/{n}" for n in names])
        return
    for name in names:
        click.echo(f"{prefix}/{name}")
    if not names:
        click.echo(f"no name of {prefix}/ fits {wanted!r}", err=True)


def _detail(name: str, value: Any, form: str) -> None:
    known = keys(value)
    if form == "json":
        print_json({"name": name, "doc": doc(value), "keys": known})
        return
    click.echo(f"{click.style(name, bold=True)}\n\n{doc(value)}\n")
    if not known:
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("key", "value", "default", ""):
        table.add_column(column)
    for key, facts in known.items():
        default = "required" if facts["required"] else escape(shown(facts["default"]))
        told = facts.get("doc", "").replace("``", "`")
        table.add_row(key, escape(facts["value"]), default, escape(told))
    console().print(table)
