"""Functions and classes of a module: what they are said to do, and what they do."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

_WORDS = 4  # fewer say nothing ("Return it.")


def pairs(source: str) -> Iterator[tuple[str, str]]:
    """The first line of each docstring, and the code without it; nothing of code is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in old strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # a file of another version of Python
            return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        summary = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        said = node.body[0]
        code = lines[node.lineno - 1 : said.lineno - 1] + lines[said.end_lineno : node.end_lineno]
        if len(summary.split()) >= _WORDS and len(node.body) > 1:
            yield summary, "\n".join(code)
