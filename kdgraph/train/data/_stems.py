"""Which files belong together, by their names: pictures of one case, copies of one file."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from kdgraph.errors import DataError

# What programs put behind the name of a file when they copy, turn or augment it.
_COPY = r"[ _-]*\(\d+\)|[ _-]+copy([ _-]*\d+)?|~\d+|[._-]rf[._-][0-9a-f]{6,}"
_WORDS = (
    "aug|augm|augmented|augmentation|flip|flipped|hflip|vflip|mirror|mirrored|rot|rotate|rotated|"
    "crop|cropped|shift|shifted|zoom|zoomed|noise|noisy|blur|blurred|bright|brightness|dark|"
    "contrast|dup|duplicate"
)
_SUFFIX = re.compile(rf"({_COPY}|[ ._-]+({_WORDS})([ ._-]*\d+)*|[._-](jpe?g|png|bmp|tiff?))$")


def group_key(name: str, rule: str) -> str:
    """The group of a file: its normalised stem, or what a regular expression finds in its name.

    The normalised stem is the name in lower case, without extension and without what copying or
    augmenting adds: ``P12_04 (1).jpg``, ``p12_04_aug3.png`` and ``P12_04_flip_rot90.jpg`` are all
    of the group ``p12_04``. A bare number at the end stays, as it may tell cases apart.

    Raises:
        DataError: KD719 when the expression is not found in the name.
    """
    path = PurePath(name)
    if rule != "stem":
        found = re.search(rule, path.name)
        if found is None or not found.group(1):
            raise DataError.of("KD719", f"groups: {rule!r} finds nothing in {path.name!r}")
        return found.group(1)
    key = path.stem.lower()
    while (shorter := _SUFFIX.sub("", key)) not in (key, ""):
        key = shorter
    return key


def _rule(value: str) -> str:
    """``stem``, or a regular expression with one capture group."""
    try:
        captures = 1 if value == "stem" else re.compile(value).groups
    except re.error as error:
        said = {"said": str(error)}
        raise PydanticCustomError("regex", "is no regular expression: {said}", said) from error
    if captures != 1:
        raise PydanticCustomError(
            "captures", "write 'stem', or a regular expression with one pair of parentheses"
        )
    return value


GroupRule = Annotated[str, AfterValidator(_rule)]
