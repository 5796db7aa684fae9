"""The base of all settings: type, range and choices of every field are checked in one place.

    @dataclass(frozen=True)
    class Settings(Checked):
        samples: int = setting(250, at_least=2)
        proposals: tuple[str, ...] = setting(("noise",), choices=("noise", "texture"))

A wrong value is a ValueError that names the field and says what it is and what it may be. Needs
nothing but Python, so that a panel reads settings before torch is installed.
"""

from __future__ import annotations

import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeVar, Union

Self = TypeVar("Self", bound="Checked")

LARGEST = sys.float_info.max
MOST_LETTERS = 80
"""Of a wrong value that are shown."""

LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "at_least": ("at least", operator.ge),
    "at_most": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
    "other_than": ("other than", operator.ne),
}
"""Limits of a number: how a sentence says it, and the comparison."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if _is_whole(value):
        return abs(int(value)) <= LARGEST
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


KINDS: dict[type, tuple[Callable[[Any], bool], str, str]] = {
    str: (lambda value: isinstance(value, str), "text", "words"),
    bool: (lambda value: isinstance(value, bool), "true or false", "true or false"),
    int: (_is_whole, "a whole number", "whole numbers"),
    float: (_is_finite, "a finite number", "finite numbers"),
}
"""Types of a value: whether one fits, and what one and what several are called. True and False are
no numbers.
"""


@dataclass(frozen=True)
class Rule:
    """What a field may be beside its type.

    Attributes:
        choices: The only values there are; of a list, those of its items.
        limits: Of a number, or of each number in a list, by ``LIMITS``.
        filled: Of a list: at least one item.
        infinite: Of a number that is no whole one: infinity is one too.
        because: Why, for the end of the sentence.
        formerly: Older values by what they are called now.
    """

    choices: tuple[str, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    filled: bool = False
    infinite: bool = False
    because: str = ""
    formerly: tuple[tuple[str, str], ...] = ()

    def problem_free(self, item: Any) -> bool:
        """Whether a value of the right type is among the choices and within the limits."""
        if self.choices and item not in self.choices:
            return False
        return all(LIMITS[name][1](item, bound) for name, bound in self.limits)

    def limits_in_words(self) -> str:
        """The limits, to stand behind a type."""
        return " and ".join(f"{LIMITS[name][0]} {bound:g}" for name, bound in self.limits)


def setting(
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    filled: bool = False,
    infinite: bool = False,
    because: str = "",
    formerly: Mapping[str, str] | None = None,
    **limits: float,
) -> Any:
    """A field of ``Checked`` settings.

    Args:
        default: Its value where nothing is given.
        choices: The only values there are; of a list, those of its items.
        filled: Of a list: at least one item.
        infinite: Of a number: infinity is one too.
        because: Why it may only be that; ends the sentence that refuses a value.
        formerly: Values of older settings, each with what it is called now.
        limits: "at_least", "at_most", "above", "below" or "other_than" with a number.

    Returns:
        The field, as ``dataclasses.field`` makes it.
    """
    unknown = set(limits) - set(LIMITS)
    if unknown:
        raise TypeError(f"no such limits: {', '.join(sorted(unknown))}")
    rule = Rule(
        choices=choices,
        limits=tuple(limits.items()),
        filled=filled,
        infinite=infinite,
        because=because,
        formerly=tuple((formerly or {}).items()),
    )
    return field(default=default, metadata={"rule": rule})


class Checked:
    """Base of frozen dataclasses of settings.

    Fields are of the types ``str``, ``bool``, ``int``, ``float``, of tuples of these, of any tuple,
    another dataclass, or of these or None; lists, as JSON has them, become tuples.

    Raises:
        ValueError: A value of another type, not among the choices or out of range; the sentence
            names the field, what it may be and what it is.
    """

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for one in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            rule = one.metadata.get("rule", Rule())
            value = _current(getattr(self, one.name), rule)
            object.__setattr__(self, one.name, value)
            if not _fits(value, kinds[one.name], rule):
                because = f": {rule.because}" if rule.because else ""
                raise ValueError(
                    f"{one.name} must be {_may_be(kinds[one.name], rule)},"
                    f" not {_told(value)}{because}"
                )
        self.check()

    def check(self) -> None:
        """Raise ValueError where fields, each right by itself, contradict each other."""

    @classmethod
    def in_todays_names(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a saved result, with values called as they are now.

        Nothing is checked.
        """
        rules = {one.name: one.metadata.get("rule", Rule()) for one in fields(cls)}  # type: ignore[arg-type]
        return {name: _current(value, rules.get(name, Rule())) for name, value in settings.items()}

    @classmethod
    def from_json(cls: type[Self], settings: Mapping[str, Any]) -> Self:
        """Settings from JSON's values.

        Args:
            settings: Values by field; lists stand for tuples.

        Raises:
            ValueError: It is no object, names what is no setting, or holds a wrong value.
        """
        known = [one.name for one in fields(cls)]  # type: ignore[arg-type]
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"settings must be a JSON object with any of {', '.join(known)}, not"
                f" {_told(settings)}"
            )
        unknown = set(settings) - set(known)
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(map(str, unknown)))}")
        return cls(**settings)


def _current(value: Any, rule: Rule) -> Any:
    """A value with lists as tuples, and older names replaced."""
    renamed = dict(rule.formerly)
    if isinstance(value, (list, tuple)):
        return tuple(_current(item, rule) for item in value)
    return renamed.get(value, value) if isinstance(value, str) else value


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _fits(value: Any, kind: Any, rule: Rule) -> bool:
    return any(_fits_one(value, option, rule) for option in kinds_of(kind))


def _fits_one(value: Any, kind: Any, rule: Rule) -> bool:
    if kind is type(None):
        return value is None
    if kind is tuple or isinstance(kind, type) and is_dataclass(kind):
        return isinstance(value, kind)
    if typing.get_origin(kind) is not tuple:
        infinite = rule.infinite and kind is float and value in (math.inf, -math.inf)
        return (KINDS[kind][0](value) or infinite) and rule.problem_free(value)
    items = typing.get_args(kind)
    if not isinstance(value, tuple) or (rule.filled and not value):
        return False
    if items[-1] is not Ellipsis and len(value) != len(items):
        return False
    return all(KINDS[items[0]][0](item) and rule.problem_free(item) for item in value)


def _may_be(kind: Any, rule: Rule) -> str:
    """What a field may be, in words."""
    return " or ".join(may_be_one(option, rule) for option in kinds_of(kind))


def may_be_one(kind: Any, rule: Rule) -> str:
    """What one value of a type may be, in words: "a whole number at least 2"."""
    if kind is type(None):
        return "none (null)"
    if kind is tuple:
        return "a list"
    if isinstance(kind, type) and is_dataclass(kind):
        return f"of the class {kind.__name__}"
    if typing.get_origin(kind) is tuple:
        return _list_may_be(typing.get_args(kind), rule)
    if rule.choices:
        return f"one of {', '.join(rule.choices)}"
    called = "a number" if rule.infinite else KINDS[kind][1]
    return f"{called} {rule.limits_in_words()}".rstrip()


def _list_may_be(items: tuple[Any, ...], rule: Rule) -> str:
    several = KINDS[items[0]][2]
    if rule.choices:
        several = f"any of {', '.join(rule.choices)}"
    count = "" if items[-1] is Ellipsis else f"{len(items)} "
    limits = f", each {rule.limits_in_words()}" if rule.limits else ""
    at_least = " (at least one)" if rule.filled else ""
    return f"a list of {count}{several}{limits}{at_least}"


def _told(value: Any) -> str:
    """A value as a sentence shows it: what JSON has as a list is one, and nothing is long."""
    if value == ():
        return "an empty list"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 3] + "..."
