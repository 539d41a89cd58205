from __future__ import annotations

import pytest
import yaml

from kdgraph.errors import SpecError
from kdgraph.spec.lines import Lines
from kdgraph.spec.text import parse
from kdgraph.spec.tree import Places, plain


def read(text: str) -> tuple[object, Places]:
    return plain(parse(text, Lines("f.yaml", text)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-12", -12),
        ("+3", 3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-.5e+2", -50.0),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("information", "information"),
        ("nano", "nano"),
        ("9" * 40, int("9" * 40)),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read(f"k: {text}\n")[0]
    assert found == {"k": value}
    assert type(found["k"]) is type(value)  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["nan", ".NaN", ".inf", "-.INF", "inf", "Infinity", "1e999", "-1e999", "9" * 41]
)
def test_numbers_that_no_spec_may_hold(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(f"a: 1\nk: {text}\n")
    (found,) = caught.value.diagnostics
    assert found.code == "KD107"
    assert str(found.span) == "f.yaml:2:4"
    assert found.span is not None
    assert found.span.length == len(text)


def test_places_of_values_and_keys() -> None:
    text = "a:\n  b: [x, {c: 'd e'}]\n  f:\n    - g: 1\n"
    places = read(text)[1]
    where = {path: (s.line, s.column, s.length) for path, s in places.values.items()}
    assert where == {
        (): (1, 1, 1),
        ("a",): (1, 1, 1),  # a collection is where its key is
        ("a", "b"): (2, 3, 1),
        ("a", "b", 0): (2, 7, 1),
        ("a", "b", 1): (2, 10, 1),
        ("a", "b", 1, "c"): (2, 14, 5),
        ("a", "f"): (3, 3, 1),
        ("a", "f", 0): (4, 7, 1),
        ("a", "f", 0, "g"): (4, 10, 1),
    }
    assert str(places.keys["a", "b", 1, "c"]) == "f.yaml:2:11"
    assert places.value(("a", "f", 0, "nothing", "here")) == places.values["a", "f", 0]


def test_places_count_characters_not_bytes() -> None:
    places = read('"é日": "𝄞" # note\r\nb: 1\r\n')[1]
    assert str(places.values[("é日",)]) == "f.yaml:1:7"
    assert str(places.values[("b",)]) == "f.yaml:2:4"


def test_aliases_share_what_they_name() -> None:
    data, places = read("a: &x [1, &y 2]\nb: *x\nc: *y\n")
    assert data == {"a": [1, 2], "b": [1, 2], "c": 2}
    assert str(places.values["b", 1]) == "f.yaml:1:11"


def test_anchor_may_be_given_again() -> None:
    assert read("a: &x 1\nb: &x 2\nc: *x\n")[0] == {"a": 1, "b": 2, "c": 2}


@pytest.mark.parametrize("levels", [64, 65])
def test_depth(levels: int) -> None:
    text = "a: " + "[" * (levels - 1) + "]" * (levels - 1)
    if levels <= 64:
        assert parse(text, Lines("f", text)).depth == levels
        return
    with pytest.raises(SpecError, match="deeper than 64 levels"):
        read(text)


def test_depth_counts_aliases() -> None:
    deep = "[" * 40 + "]" * 40
    with pytest.raises(SpecError, match="deeper than 64 levels"):
        read(f"a: &a {deep}\nb: {'[' * 30}*a{']' * 30}\n")


def test_number_of_values() -> None:
    assert isinstance(read("a: [" + "1," * 19_000 + "]")[0], dict)
    with pytest.raises(SpecError, match="more than 20,000 values"):
        read("a: [" + "1," * 21_000 + "]")


def test_size_of_text() -> None:
    with pytest.raises(SpecError, match="more than 256 KiB"):
        read("# " + "x" * 270_000)


def test_several_problems_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        read("a: !!int 1\na: .nan\n<<: {x: 1}\nnull: 3\n")
    assert [d.code for d in caught.value.diagnostics] == [
        "KD105", "KD104", "KD107", "KD108", "KD108",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("a: {b: x[0].y}", "text that stands in braces or brackets cannot hold '['", "'x[0].y'"),
        ("a: [x:in[0], y]", "text that stands in braces or brackets cannot hold '['", "'x:in[0]'"),
        ("a: {b: x{c}}", "text that stands in braces or brackets cannot hold '{'", "'x{c}'"),
        ("a: {b: x[0}", "this '{' is not closed", "add the missing"),
        ("a: [[1, 2] [3]]", "this '[' is not closed", "add the missing"),
        ("a: {b: 1, 2, 3}", "a list needs brackets", "`b: [1, 2, 3]`"),
        ("a: {1, 1}", "a list needs brackets", "`[1, 1]`"),
        ("a: {b: [x], 1, c: 2}", "a list needs brackets", "`[1]`"),
        ("a: {b: x, b: y}", "duplicate key 'b'; first written on line 1", None),
    ],
)
def test_marks_inside_braces(text: str, message: str, help: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    (found,) = caught.value.diagnostics
    assert found.message == message
    assert (help or "") in (found.help or "")


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="the parser in Python takes it for null")
@pytest.mark.parametrize("text", ["a: {b:}", "a: {x: 1, b:, c: 2}", "a: [b:]"])
def test_a_key_without_a_value_in_braces(text: str) -> None:
    with pytest.raises(SpecError, match="'b' has no value"):
        read(text)
