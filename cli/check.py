"""``kdgraph check``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kdgraph.cli._options import SpecPath, format_option, overrides
from kdgraph.cli._show import dims, print_json, tell
from kdgraph.errors import Diagnostic, KDGraphError

if TYPE_CHECKING:
    from kdgraph.runtime.report import Report


@click.command("check")
@click.argument("specs", nargs=-1, required=True, type=SpecPath(), metavar="SPEC...")
@overrides
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    specs: tuple[str, ...],
    overrides: tuple[str, ...],
    trust: tuple[str, ...],
    form: str,
) -> None:
    r"""Says everything that is wrong with specs, before anything runs.

    First the text and its names; if they are right, models are built without weights and every
    tap, shape, adapter and loss is checked. Nothing is downloaded and no GPU is needed. Warnings
    (KD6xx) tell what looks unwise; `kdgraph explain` has more of them.

    \b
    Examples:
      kdgraph check kd.yaml
      kdgraph check specs/*.yaml
      kdgraph check kd.yaml --set losses.soft.tau=2 --format json
    """
    results = [_check(path, overrides, trust, form) for path in specs]
    if form == "json":
        print_json(results)
    if not all(r["fine"] for r in results):
        ctx.exit(1)


def _check(path: str, overrides: tuple[str, ...], trust: tuple[str, ...], form: str) -> Any:
    found, report, stages = _plan(path, overrides, trust)
    fine = report is not None
    facts = _facts(report, stages) if report else None
    if form == "text":
        tell(found)
        if facts is not None:
            click.echo(f"{path}: {click.style('fine', fg='green')}")
            if facts["stages"]:
                click.echo(f"  in the first of the stages {', '.join(facts['stages'])}:")
            _print(facts)
    return {
        "spec": path,
        "fine": fine,
        "diagnostics": [d.as_dict() for d in found],
        "summary": facts,
    }


def _plan(
    path: str, overrides: tuple[str, ...], trust: tuple[str, ...]
) -> tuple[list[Diagnostic], Report | None, list[str]]:
    """All findings; where none is an error, the plan of the first stage and the names of all."""
    from kdgraph.spec.files import check_weights
    from kdgraph.spec.read import diagnose

    spec, found = diagnose(path, set=overrides)
    if spec is None:
        return found, None, []
    if any(d.severity == "error" for d in found):
        return found, None, []
    absent = check_weights(spec)
    found = [*found, *absent]
    from kdgraph.compiler import plans  # torch from here on
    from kdgraph.visual.advice import advise_of_plan

    first, advice = None, []
    try:
        for report in plans(spec, trust=trust):
            first = first or report
            advice += advise_of_plan(report)
    except KDGraphError as error:
        return [*found, *error.diagnostics], None, []
    stages = [leg for stage in spec.stages for leg in stage.legs]
    return [*found, *dict.fromkeys(advice)], None if absent else first, stages


def _facts(report: Report, stages: list[str]) -> dict[str, Any]:
    """What is told of the first stage, and the names of all."""
    from kdgraph.visual import manifest

    facts = manifest(report, cost=False)
    shown = {key: facts[key] for key in ("name", "models", "links", "signals", "losses")}
    return {"stages": stages, **shown}


def _print(facts: dict[str, Any]) -> None:
    rows = []
    for name, model in facts["models"].items():
        taps = ", ".join(f"{t} {dims(i['shape'])}" for t, i in model["taps"].items())
        how = "trained" if model["trainable"] else "frozen"
        what = f"{model['source'] or 'given'}, {how}, {model['capture']}"
        if "same_as" in model:
            what = f"another call of {model['same_as']}"
        elif "snapshot_of" in model:
            what = f"snapshot of {model['snapshot_of']}"
        rows.append((name, f"{what}: {taps}"))
    rows += [
        (name, f"{link['adapter']}: {link['student']} to {link['teacher']}")
        for name, link in facts["links"].items()
    ]
    rows += [
        (name, ": ".join([signal["use"], *filter(None, [", ".join(signal["reads"])])]))
        for name, signal in facts["signals"].items()
    ]
    rows += [
        (name, f"{loss['use']}, weight {_number(loss['weight'])}: {', '.join(loss['reads'])}")
        for name, loss in facts["losses"].items()
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"  {click.style(f'{name:{width}}', bold=True)}  {text}")


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
