"""Options from the fields of settings: name, type, limits, meaning and default, in one place.

A field ``max_evaluations: int = setting(200, at_least=1)`` becomes ``--max-evaluations``, whose
help is what the settings' docstring says about the field. A file for ``--config`` has the same
names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.settings import Rule, kinds_of, may_be_one
from ..core.text import shown

METAVARS = {str: "NAME", int: "N", float: "X"}
HEAD = re.compile(r"(?<![\w`.])(`{0,2}\w+`{0,2}(?:(?:,| and) `{0,2}\w+`{0,2})*):(?= )")
"""Names of fields before a colon, where a docstring explains them."""


# Options ------------------------------------------------------------------------------------------


def add_fields(
    parser: argparse.ArgumentParser,
    kind: type,
    leave_out: Iterable[str] = (),
    also: Mapping[str, str] | None = None,
) -> None:
    """Options for the fields of a dataclass; only those that are given get into the namespace.

    Args:
        kind: A dataclass of settings; fields of types that no option has are left out.
        leave_out: Fields that have an option of another kind.
        also: Fields with a second name, such as {"epsilon_hu": "--epsilon"}.
    """
    types = typing.get_type_hints(kind)
    meaning = meanings(kind)
    group = parser.add_argument_group("settings")
    for one in dataclasses.fields(kind):
        if one.name in leave_out:
            continue
        shape = _shape(types[one.name], one.metadata.get("rule", Rule()))
        if shape is None:
            continue
        flags = [*([also[one.name]] if also and one.name in also else []), flag(one.name)]
        told = f"{meaning.get(one.name, '')} (default: {_told(one.default)})".strip()
        group.add_argument(
            *flags,
            dest=one.name,
            default=argparse.SUPPRESS,
            help=told.replace("%", "%%"),
            **shape,
        )


def given(options: argparse.Namespace, kind: type, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of ``kind`` that a command line or its ``--config`` gives, by name."""
    names = [one.name for one in dataclasses.fields(kind) if one.name not in leave_out]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def _shape(kind: Any, rule: Rule) -> dict[str, Any] | None:
    """What argparse is told about a field's type; None for a type without an option."""
    kind = next(one for one in kinds_of(kind) if one is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        shape = _shape(items[0], rule)
        several = items[-1] is Ellipsis
        if shape is None:
            return None
        return {**shape, "nargs": ("+" if rule.filled else "*") if several else len(items)}
    if kind not in METAVARS:
        return None
    metavar = "{" + ",".join(rule.choices) + "}" if rule.choices else METAVARS[kind]
    # Choices and limits are the settings' own to check: their sentences say why, too.
    return {"type": _reader(kind, Rule()), "metavar": metavar}


def _reader(kind: type, rule: Rule) -> Callable[[str], Any]:
    """A function that reads one word of an option, or says what it must be."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value != value or not rule.problem_free(value):
            raise argparse.ArgumentTypeError(
                f"must be {may_be_one(kind, rule)}, not {shown(text)!r}"
            )
        return value

    return read


def number(kind: type = int, **limits: float) -> Callable[[str], Any]:
    """The type of an option that is a number within limits, such as ``number(at_least=1)``."""
    return _reader(kind, Rule(limits=tuple(limits.items())))


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


# What fields mean ---------------------------------------------------------------------------------


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of settings says about each field.

    It names fields before a colon: "``samples``: how many." in running text, or "samples: How
    many." in a list of attributes; several may share one explanation. A field that stands in the
    middle of another's ("``tile`` voxels wide") has the words around it.
    """
    names = {one.name for one in dataclasses.fields(kind)}
    text = " ".join((kind.__doc__ or "").split())
    heads = []
    for found in HEAD.finditer(text):
        head = re.findall(r"\w+", found[1].replace(" and ", " "))
        if set(head) <= names:
            heads.append((head, found.start(), found.end()))
    ends = [start for _, start, _ in heads[1:]] + [len(text)]
    explained: dict[str, str] = {}
    for (head, _, begin), end in zip(heads, ends):
        words = re.split(r" Raises:| Attributes:", text[begin:end])[0].strip().strip(".;")
        for name in head:
            explained.setdefault(name, words.replace("``", ""))
    for name in names - set(explained):
        clauses = [c for c in re.split(r"[.;:] ", text) if f"``{name}``" in c]
        explained[name] = clauses[0].replace("``", "").strip() if clauses else ""
    return explained


# Files of options ---------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser whose sentences are safe for a terminal, and which takes ``--config FILE``."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        if args is not None and any(action.dest == "config" for action in self._actions):
            for path in _configs(list(args)):
                self._take(path)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> typing.NoReturn:
        super().error(shown(message))

    def _take(self, path: str) -> None:
        """Make a file's values the defaults."""
        actions = {
            name: action
            for action in self._actions
            for name in (action.dest, *(s.lstrip("-") for s in action.option_strings))
            if action.dest not in ("help", "version", "config")
        }
        for key, value in _read(path, self.error).items():
            action = actions.get(key) or actions.get(key.replace("-", "_"))
            if action is None:
                self.error(
                    f"{path}: '{key}' is no option of {self.prog}; there are"
                    f" {', '.join(sorted({one.dest for one in actions.values()}))}"
                )
            if value is None:
                continue
            try:
                action.default = self._converted(action, value)
            except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
                self.error(f"{path}: {error}")
            action.required = False

    def _converted(self, action: argparse.Action, value: Any) -> Any:
        """A file's value as the option gives it."""
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            if not isinstance(value, bool):
                raise argparse.ArgumentError(action, f"must be true or false, not {value!r}")
            return value
        repeated = isinstance(action, argparse._AppendAction)
        if action.nargs in (None, "?") and not repeated:
            return self._get_values(action, [_word(action, value)])
        if action.type is json_fields and isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            raise argparse.ArgumentError(action, f"must be a list, not {value!r}")
        if isinstance(action.nargs, int) and len(value) != action.nargs:
            raise argparse.ArgumentError(action, f"must be a list of {action.nargs}")
        return [self._get_value(action, _word(action, one)) for one in value]


def _word(action: argparse.Action, value: Any) -> str:
    """A value as it would stand on a command line."""
    if isinstance(value, (dict, list, bool)) and action.type is not json_fields:
        raise argparse.ArgumentError(action, f"must be one value, not {json.dumps(value)}")
    return value if isinstance(value, str) else json.dumps(value)


def _configs(words: list[str]) -> list[str]:
    """The files that a command line names with ``--config``."""
    following = [b for a, b in zip(words, words[1:]) if a == "--config"]
    return [*following, *(w.partition("=")[2] for w in words if w.startswith("--config="))]


def _read(path: str, refuse: Callable[[str], typing.NoReturn]) -> dict[str, Any]:
    """Names and values of a JSON or TOML file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        found = _toml(text) if path.lower().endswith(".toml") else json.loads(text)
    except OSError as error:
        refuse(f"--config {path}: {error.strerror or error}")
    except (ValueError, RecursionError) as error:
        refuse(f"--config {path} is neither JSON nor TOML ({error})")
    if not isinstance(found, dict):
        refuse(f"--config {path} has no names; it must hold option names and values")
    return found


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    return tomllib.loads(text)


def json_fields(text: str) -> dict:
    """Names and values given as JSON on the command line, or as NAME=VALUE."""
    name, equals, value = text.partition("=")
    if equals and re.fullmatch(r"\w+", name):
        try:
            return {name: json.loads(value)}
        except ValueError:
            return {name: value}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not JSON ({error}); write names in double quotes, such as '{{\"name\": 1}}'"
        ) from error
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(
            f"{text} has no names; write names and values, such as '{{\"name\": 1}}'"
        )
    return fields
