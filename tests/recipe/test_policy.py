"""One declaration a key: what `option` keeps."""

from dataclasses import dataclass

import pytest

from llava_mocle.recipe.policy import Policy, declared, option


@dataclass
class Group:
    first: int = option(1, "One.", resume="free", excludes="second")
    second: str = option("a", "Two.", resume="same", choices=("a", "b"), secret=True)
    plain: int = 0


def test_a_declaration_is_kept_beside_the_field() -> None:
    assert declared(Group) == {
        "first": Policy("free", excludes="second"),
        "second": Policy("same", secret=True),
    }
    assert (Group().first, Group().second) == (1, "a")
    assert Group.__dataclass_fields__["second"].metadata["choices"] == ["a", "b"]


def test_a_key_must_be_decided_on() -> None:
    with pytest.raises(TypeError, match="resume"):
        option(1, "May it change?")
    with pytest.raises(TypeError, match="exclude"):
        option(1, "Misspelt.", resume="free", exclude="other")
