"""What `--help` says of every command, compared with the text in tests/data/help, so that a change of it is seen.

To write the texts anew: `python -m tests.cli.test_help`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import pytest
from typer.main import get_command

from surelock.cli.main import app

FOLDER: Final = Path(__file__).parents[1] / "data" / "help"
WIDTH: Final = 100
_INDENT: Final = " " * 6
_BREAK: Final = "\n\n"


def commands() -> dict[str, Any]:
    """Each command by its name, as click's object: what versions of Typer and Rich draw from it differs."""
    root: Any = get_command(app)

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for each, subcommand in getattr(command, "commands", {}).items():
            yield from below(f"{name} {each}", subcommand)

    return dict(below("surelock", root))


def help_text(name: str, command: Any) -> str:
    """Everything a user can read of a command and its options."""
    paragraphs = [fill(" ".join(each.split()), WIDTH) for each in command.help.split(_BREAK)]
    text = f"{name}\n\n" + _BREAK.join(paragraphs) + "\n"
    for each, subcommand in getattr(command, "commands", {}).items():
        summary = f"{each}: {' '.join(subcommand.help.partition(_BREAK)[0].split())}"
        text += "\n" + fill(summary, WIDTH, initial_indent="  ", subsequent_indent=_INDENT)
    # Versions of Typer keep types and limits in different places; what the function declares is the same in all.
    hints = get_type_hints(command.callback.__wrapped__, include_extras=True) if command.callback else {}
    panels: dict[str, list[str]] = {}
    # Typer adds --install-completion and --show-completion to the root, with words of its own.
    for parameter in (each for each in command.params if each.name in hints):
        is_option = parameter.param_type_name == "option"
        entry = _entry(parameter, hints[parameter.name], is_option=is_option)
        panels.setdefault(parameter.rich_help_panel or ("Options" if is_option else "Arguments"), []).append(entry)
    return text.rstrip() + "\n" + "".join(f"\n{panel}\n{''.join(entries)}" for panel, entries in panels.items())


def _entry(parameter: Any, hint: Any, *, is_option: bool) -> str:
    option = hint.__metadata__[0]
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else []
    shown = parameter.metavar if parameter.metavar is not None else _kind(hint.__origin__)
    limits = f"from {option.min} to {option.max}" if (option.min, option.max) != (None, None) else ""
    first = " ".join(each for each in (*names, shown, limits, _default(parameter)) if each)
    return f"  {first}\n{fill(parameter.help, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)}\n"


def _kind(hint: Any) -> str:
    """The form of a value on the command line."""
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    kinds = [each for each in get_args(hint) if each is not type(None)]
    return " ".join(_kind(each) for each in kinds) if kinds else f"<{hint.__name__.lower()}>"


def _default(parameter: Any) -> str:
    shown = getattr(parameter, "show_default", None)
    if parameter.required:
        return "[required]"
    if shown is False or parameter.default is False or (parameter.default is None and not isinstance(shown, str)):
        return ""
    return f"[default: {shown if isinstance(shown, str) else parameter.default}]"


def file_of(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '-')}.txt"


@pytest.mark.parametrize("name", commands())
def test_help_is_as_it_was(name: str) -> None:
    assert help_text(name, commands()[name]) == file_of(name).read_text(), (
        "the command line has changed; if that is meant: python -m tests.cli.test_help"
    )


def test_no_text_of_a_command_that_is_gone() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {file_of(name).name for name in commands()}


if __name__ == "__main__":
    for old in FOLDER.iterdir():
        old.unlink()
    for each, found in commands().items():
        file_of(each).write_text(help_text(each, found))
