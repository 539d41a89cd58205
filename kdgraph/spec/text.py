"""YAML text to a located tree, with bounds on everything that hostile text could blow up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn

import yaml

from kdgraph.errors import Diagnostic, Span, SpecError
from kdgraph.spec.lines import Lines
from kdgraph.spec.scalars import NOT_TEXT, ScalarError, resolve, why_no_text
from kdgraph.spec.sources import MAX_BYTES, too_large
from kdgraph.spec.syntax import as_list, explain, loose_numbers
from kdgraph.spec.tree import MAX_DEPTH, MAX_NODES, Key, Node, at_most, mapping, sequence

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str, lines: Lines, *, tagged: bool = False) -> Node:
    """The located tree of one YAML document.

    With ``tagged``, which is for other tools' files and never for specs, tags are kept as words
    beside the values that they stand before; nothing is made of them.

    Raises:
        SpecError: KD101 to KD109, for text that is not plain, bounded YAML.
    """
    if len(text) > MAX_BYTES:
        raise too_large(lines.file)
    if bad := NOT_TEXT.search(text):
        place = lines.after(text[: bad.start()])
        raise SpecError([Diagnostic("KD109", str(why_no_text(bad[0])), place)])
    composer = _Composer(lines, tagged=tagged)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        composer.problems.append(explain(error, lines))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # without libyaml, an escape of a character that there is not
        composer.problems.append(Diagnostic("KD103", f"not valid YAML: {error}", lines.span(0, 0)))
    if composer.problems:
        raise SpecError(at_most(composer.problems))
    if composer.root is None:
        raise SpecError([Diagnostic("KD106", "this spec is empty", lines.span(0, 0))])
    return composer.root


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    span: Span
    anchor: str | None
    is_mapping: bool
    in_braces: bool
    tag: str | None = None
    items: list[Node] = field(default_factory=list)
    entries: dict[Key, Node] = field(default_factory=dict)
    keys: dict[Key, Span | None] = field(default_factory=dict)
    key: tuple[Key, Span] | None = None  # of the value that comes next
    is_loose: bool = False  # whether that key is a number without a value


class _Composer:
    """Builds the tree from parser events with its own stack, so that depth cannot overflow it."""

    def __init__(self, lines: Lines, *, tagged: bool) -> None:
        self.root: Node | None = None
        self.problems: list[Diagnostic] = []
        self._lines = lines
        self._tagged = tagged
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._size = 0

    def take(self, event: yaml.Event) -> None:
        """Goes one event further."""
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self._fail("KD106", "a second document starts here; a spec is one document", event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.NodeEvent):
            self._check_tag(event)
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _place(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        assert start is not None  # events that were parsed have both
        assert end is not None
        length = end.index - start.index if end.line == start.line else 1 << 20
        return self._lines.span(start.line, start.column, max(1, length))

    def _note(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.problems.append(Diagnostic(code, message, span, help))

    def _fail(self, code: str, message: str, event: yaml.Event) -> NoReturn:
        """Ends the reading: what follows would say the same again, or not mean anything."""
        self._note(code, message, self._place(event))
        raise SpecError([*at_most(self.problems[:-1]), self.problems[-1]])

    def _check_tag(self, event: yaml.NodeEvent) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None and not self._tagged:
            shown = tag.replace("tag:yaml.org,2002:", "!!")[:60]
            message = f"the tag {shown!r} is not allowed; a spec is plain data"
            self._note("KD105", message, self._place(event))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        span = self._place(event)
        value: str | int | float | bool | None = event.value
        if (why := why_no_text(event.value)) is not None:  # by an escape
            self._note("KD109", why, span)
        elif event.implicit[0]:  # plain: neither quoted nor tagged
            try:
                value = resolve(event.value)
            except ScalarError as problem:
                self._note("KD107", str(problem), span, "put it in quotes if it is text")
        node = Node(value, span, tag=event.tag)
        self._put(node, event, plain_text=event.value if event.implicit[0] else None)

    def _alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor or ""
        node = self._anchors.get(name)
        if node is None:
            inside = any(o.anchor == name for o in self._stack)
            problem = "stands inside what it names" if inside else "names nothing before it"
            self._fail("KD108", f"'*{name}' {problem}", event)
        self._put(node, event)

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._stack) >= MAX_DEPTH:
            self._fail("KD102", f"nested deeper than {MAX_DEPTH} levels", event)
        if self._stack and self._stack[-1].is_mapping and self._stack[-1].key is None:
            self._fail("KD108", "a key must be a name, not a list or a mapping", event)
        parent = self._stack[-1] if self._stack else None
        span = parent.key[1] if parent and parent.key else replace(self._place(event), length=1)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        in_braces = is_mapping and bool(event.flow_style)
        self._stack.append(_Open(span, event.anchor, is_mapping, in_braces, event.tag))

    def _close(self) -> None:
        done = self._stack.pop()
        if done.is_mapping:
            node = mapping(done.entries, done.span, done.keys)
        else:
            node = sequence(done.items, done.span)
        if done.tag is not None:
            node = replace(node, tag=done.tag)
        self._size -= node.size - 1  # its parts are counted already
        self._put(node, None, anchor=done.anchor)

    def _put(
        self,
        node: Node,
        event: yaml.Event | None,
        *,
        anchor: str | None = None,
        plain_text: str | None = None,
    ) -> None:
        self._size += node.size
        if self._size > MAX_NODES and event is not None:
            self._fail("KD102", f"more than {MAX_NODES:,} values, aliases written out", event)
        if len(self._stack) + node.depth > MAX_DEPTH and event is not None:
            self._fail("KD102", f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        if not parent.is_mapping:
            parent.items.append(node)
        elif parent.key is None:
            assert event is not None  # a collection cannot be a key: _open refused it
            self._key(parent, node, self._place(event), plain_text)
        else:
            key, span = parent.key
            parent.key = None
            if key not in parent.entries:
                parent.entries[key] = node
                parent.keys[key] = span

    def _key(self, parent: _Open, node: Node, span: Span, plain_text: str | None) -> None:
        key = node.value
        was_loose, parent.is_loose = parent.is_loose, False
        if parent.in_braces and (numbers := loose_numbers(span)):
            parent.is_loose = True
            if not was_loose:
                self._note("KD103", "a list needs brackets", span, as_list(parent.entries, numbers))
        elif plain_text == "<<":
            self._note(
                "KD108", "merge keys are not read", span, "write the keys out, or use `extends`"
            )
        elif isinstance(key, bool) or not isinstance(key, str | int):
            shown = plain_text or "this"
            self._note("KD108", f"a key must be a name, not {shown}", span, "put it in quotes")
            key = shown
        elif key in parent.entries:
            first = parent.keys[key]
            where = f"; first written on line {first.line}" if first else ""
            self._note("KD104", f"duplicate key {key!r}{where}", span)
        assert isinstance(key, str | int)
        parent.key = (key, span)
