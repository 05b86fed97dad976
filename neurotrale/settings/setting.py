"""Options: their names, defaults, help texts, the kinds of their values, and their conflicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

Values = Mapping[str, Any]
Given = Set[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A combination of options that is refused.

    Attributes:
        is_broken: Returns whether the options break the rule. It is called with the values of all
            options and with the keys of those on the command line: a value from the environment is
            a default, which an option on the command line may override.
        message: The problem and the fix.
    """

    is_broken: Callable[[Values, Given], bool]
    message: str


def excludes(key: str, others: tuple[str, ...], message: str) -> Rule:
    """Return the rule that an option cannot be combined with any of some others.

    Args:
        key: The key of the option.
        others: The keys of the others.
        message: The problem and the fix.
    """
    return Rule(lambda _, given: key in given and not given.isdisjoint(others), message)


def requires(key: str, other: str, message: str) -> Rule:
    """Return the rule that an option needs another one."""
    return Rule(lambda _, given: key in given and other not in given, message)


def any_of(keys: tuple[str, ...], message: str) -> Rule:
    """Return the rule that at least one of these options must be given."""
    return Rule(lambda _, given: given.isdisjoint(keys), message)


def different_files(key: str, other: str, message: str) -> Rule:
    """Return the rule that two options, if both are set, name different files."""

    def is_same_file(values: Values, _: Given) -> bool:
        paths = [values[name] for name in (key, other) if values[name] is not None]
        return len(paths) == 2 and os.path.realpath(paths[0]) == os.path.realpath(paths[1])

    return Rule(is_same_file, message)


def first_broken(rules: tuple[Rule, ...], values: Values, given: Given) -> str | None:
    """Return the message of the first rule that the options break; None when there is none."""
    return next((rule.message for rule in rules if rule.is_broken(values, given)), None)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer.

    Attributes:
        minimum: The smallest allowed value.
        maximum: The largest allowed value; None for no limit.
    """

    minimum: int = 0
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number from `minimum` to `maximum`, both included."""

    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """A switch, which is on when the option is given.

    Attributes:
        off: The opposite option, without its dashes; "" for none.
    """

    off: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Any text.

    Attributes:
        metavar: The placeholder in the help; "" for TEXT.
    """

    metavar: str = ""


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path.

    Attributes:
        of: The kind of file that the path may name.
        exists: Whether the file must exist.
        dash: Whether ``-`` means standard output.
    """

    of: Literal["file", "directory", "any"] = "any"
    exists: bool = False
    dash: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """Text that a function parses.

    Attributes:
        metavar: The placeholder in the help.
        parse: Returns the value; raises ValueError with a message for the user.
    """

    metavar: str
    parse: Callable[[str], Any]


Kind = Integer | Number | OneOf | Flag | Text | FilePath | Parsed


@dataclass(frozen=True)  # in Python 3.11, generic dataclasses cannot have slots
class Setting(Generic[T]):
    """One option of a command.

    Attributes:
        name: The option without its dashes: ``log-level``.
        default: The value when the option is not given.
        kind: The kind of its values.
        help: The help text, one or two sentences.
        reason: The reason for the default, or when to choose another value.
        variable: The environment variable that is used when the option is not given.
        letter: The letter of the short form: o for ``-o``.
        aliases: Other accepted names, without their dashes.
        computed: Computes the default from the environment, when it depends on the machine.
        default_text: The text shown for the default, when the value itself is not clear.
        required: Whether the option must be given.
        repeated: Whether the option may be given several times; the value is then a tuple.
        bare: The text of the value when the option is given without one; None if it needs one.
    """

    name: str
    default: T
    kind: Kind
    help: str
    reason: str = ""
    variable: str | None = None
    letter: str = ""
    aliases: tuple[str, ...] = ()
    computed: Callable[[Mapping[str, str]], T] | None = None
    default_text: str = ""
    required: bool = False
    repeated: bool = False
    bare: str | None = None

    @property
    def key(self) -> str:
        """The name of its value in Python: ``log_level``."""
        return self.name.replace("-", "_")

    @property
    def option(self) -> str:
        """The option on the command line, with its opposite if it has one."""
        opposite = self.kind.off if isinstance(self.kind, Flag) else ""
        return f"--{self.name}/--{opposite}" if opposite else f"--{self.name}"

    @property
    def other_options(self) -> tuple[str, ...]:
        """The aliases on the command line."""
        return tuple(f"--{name}" for name in self.aliases)

    @property
    def text(self) -> str:
        """The help text, with the aliases."""
        if not self.aliases:
            return self.help
        return f"{self.help} Alias: {', '.join(self.other_options)}."


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    Attributes:
        name: The word after ``neurotrale``.
        summary: One line for the list of commands.
        settings: The options, in the order of the help.
        examples: Example command lines.
        rules: The combinations of options that are refused.
        serves: Whether the command runs the service, whose log lines have times.
    """

    name: str
    summary: str
    settings: tuple[Setting[Any], ...]
    examples: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    serves: bool = False
