"""The ``kdgraph`` command: finds its commands, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sysconfig
import traceback
from keyword import iskeyword
from pathlib import Path
from typing import Any

import click

import kdgraph
from kdgraph.cli._show import tell
from kdgraph.errors import Diagnostic, KDGraphError

WRONG, OUR_FAULT, INTERRUPTED = 1, 3, 130


class Commands(click.Group):
    """One command for each file of this folder, imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        package = importlib.import_module("kdgraph.cli")
        names = (m.name for m in pkgutil.iter_modules(package.__path__))
        return sorted(n.removesuffix("_") for n in names if not n.startswith("_") and n != "main")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        file = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = importlib.import_module(f"kdgraph.cli.{file}").command
        for one in (command, *getattr(command, "commands", {}).values()):
            if one.help is not None:  # in a raw docstring, what click reads as "keep these lines"
                one.help = one.help.replace("\\b\n", "\b\n")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; what it raises becomes an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except KDGraphError as error:
            tell(error.diagnostics)
            ctx.exit(WRONG)
        except OSError as error:  # a disk that is full, a folder that may not be written
            tell([Diagnostic("KD799", str(error))])
            ctx.exit(WRONG)
        except Exception as error:
            if os.environ.get("KDGRAPH_TRACEBACK") == "1":
                traceback.print_exc()
            if (place := _in_own_code(error)) is not None:
                hint = f"raised at {place}; KDGRAPH_TRACEBACK=1 shows the way there"
                tell([Diagnostic("KD798", f"{type(error).__name__}: {error}", help=hint)])
                ctx.exit(WRONG)
            hint = "a fault in kdgraph, not in your spec; KDGRAPH_TRACEBACK=1 shows where"
            tell([Diagnostic("KD599", f"{type(error).__name__}: {error}", help=hint)])
            ctx.exit(OUR_FAULT)


def _in_own_code(error: Exception) -> str | None:
    """Where an error came through a module of the user's own, the innermost such place."""
    paths = sysconfig.get_paths()
    libraries = tuple(paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    ours = (str(Path(kdgraph.__file__).parent), *libraries)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_file() and not frame.filename.startswith(ours):
            return f"{frame.filename}:{frame.lineno}, in {frame.name}"
    return None


_EPILOG = """
\b
A first run:
  kdgraph init --teacher timm/resnet50 --student timm/resnet18 -o kd.yaml
  kdgraph check kd.yaml
  kdgraph draw kd.yaml -o kd.svg

\b
Exit codes: 0 fine, 1 the spec or another input is wrong, 2 wrong usage, 3 a fault in kdgraph.

\b
Completion of commands, options and names in the shell:
  eval "$(_KDGRAPH_COMPLETE=bash_source kdgraph)"           in ~/.bashrc
  eval "$(_KDGRAPH_COMPLETE=zsh_source kdgraph)"            in ~/.zshrc
  _KDGRAPH_COMPLETE=fish_source kdgraph | source            in config.fish
"""


@click.command(
    cls=Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(kdgraph.__version__, prog_name="kdgraph")
def main() -> None:
    """Compiles knowledge distillation: from a YAML spec to one trained graph."""
