"""Messages for unknown commands and options, with the words of other tools translated."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.foreign_names import COMMANDS, OPTIONS, SUBCOMMANDS, normalize_name
from resnet_tasks.foreign_text import escape_controls
from resnet_tasks.registry import find_nearest, format_suggestions

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Base class of the errors of wrong arguments; typer exports only this subclass of it."""
OVERRIDES = "overrides"
"""Name of the parameter of commands that accept `KEY=VALUE`."""


def describe_unknown_command(group: Any, ctx: Any, words: Sequence[str]) -> str:
    """Describe a word that is not a command of a group, and suggest commands.

    Args:
        group: Command group.
        ctx: Context of the group.
        words: The word and those that follow it.
    """
    word = words[0]
    names = group.list_commands(ctx)
    is_root = ctx.parent is None
    suggestions = _suggest_commands(group, ctx, words) or [
        name for name in [find_nearest(word, names, cutoff=0.6)] if name
    ]
    subject = f"unknown command {word!r}" if is_root else f"{ctx.info_name} has no command {word!r}"
    return f"{subject}; commands: {', '.join(names)}{format_suggestions(suggestions)}"


def _suggest_commands(group: Any, ctx: Any, words: Sequence[str]) -> list[str]:
    """Suggest commands for a word of other tools, a subcommand, a recipe or a format."""
    word, name = words[0], normalize_name(words[0])
    asks_for_help = "--help" in COMMANDS.get(name, ())
    if ctx.parent is not None:
        group_name = ctx.info_name
        if asks_for_help:
            return [f"{group_name} --help"]
        if group_name == "data" and name not in SUBCOMMANDS[group_name]:
            from data_tools.formats import FORMATS

            return [f"data convert {shlex.join(words)}"] if word in FORMATS else []
        return [f"{group_name} {target}" for target in SUBCOMMANDS[group_name].get(name, ())]
    if asks_for_help:
        known_words = [word for word in words[1:2] if group.get_command(ctx, word)]
        return [" ".join([*known_words, "--help"])]
    suggestions = [
        *COMMANDS.get(name, ()),
        *(
            f"{command_name} {name}"
            for command_name in group.list_commands(ctx)
            if name in getattr(group.get_command(ctx, command_name), "commands", {})
        ),
    ]
    return suggestions or _suggest_for_path(word)


def _suggest_for_path(word: str) -> list[str]:
    """Suggest commands for a run folder, a recipe, or another path."""
    from resnet_tasks.recipe.shipped_recipes import list_recipes

    path = Path(word)
    if (path / "recipe.yaml").is_file():
        return [f"{verb} {shlex.quote(word)}" for verb in ("evaluate", "predict")]
    recipe_names = {name for recipe in list_recipes() for name in (recipe.name, recipe.path.stem)}
    if path.exists() or word in recipe_names:
        return [f"finetune {shlex.quote(word)}"]
    return []


def list_placeholders(param: Any) -> list[str]:
    """List the placeholders of an argument in the help, such as `RUN`."""
    placeholder = param.metavar or param.name.upper()
    return "".join(character if character.isalnum() else " " for character in placeholder).split()


@contextmanager
def explain_unknown_options(words: Sequence[str]) -> Iterator[None]:
    """Explain options that a command does not have; other usage errors are left to typer.

    Args:
        words: All arguments of the program.

    Raises:
        ResnetTasksError: If an option is unknown; the message suggests what to write instead.
    """
    try:
        yield
    except _UsageError as error:
        if not hasattr(error, "possibilities"):  # only the error of an unknown option has them
            error.message = escape_controls(error.message)  # type: ignore[attr-defined]
            raise
        raise ResnetTasksError(_describe_unknown_option(error, words)) from None


def _describe_unknown_option(error: Any, words: Sequence[str]) -> str:
    """Describe an option that a command does not have, and suggest what to write instead."""
    option = error.option_name
    command, ctx = error.ctx.command, error.ctx
    name = "resnet-tasks" if ctx.parent is None else ctx.command_path.partition(" ")[2]
    known_options = [text for param in command.get_params(ctx) for text in param.opts]
    known_options = [text for text in known_options if text.startswith("--")]
    start = f"{name} has no option {option}"
    suggestions = _suggest_options(option, command, known_options, _find_value(option, words))
    if any("=" in suggestion for suggestion in suggestions):
        start += "; keys of a recipe are set without dashes"
    if suggestions:
        return start + format_suggestions(suggestions)
    return f"{start}; options: {', '.join(known_options)}"


def _suggest_options(
    option: str, command: Any, known_options: Sequence[str], value: str
) -> list[str]:
    """Suggest options, overrides and positional arguments of a command."""
    name = normalize_name(option.lstrip("-"))
    arguments = [
        param for param in command.params if not any(text.startswith("-") for text in param.opts)
    ]
    is_root = hasattr(command, "commands")
    takes_overrides = is_root or any(param.name == OVERRIDES for param in arguments)
    suggestions = []
    for target in OPTIONS.get(name, ()):
        if target in known_options:
            suggestions.append(f"{target} {value}".rstrip())
        elif target.isupper() and any(target in list_placeholders(param) for param in arguments):
            suggestions.append(_format_usage(command, arguments, target, value))
        elif "." in target and takes_overrides:
            suggestions.append(f"{target}={value or 'VALUE'}")
    if suggestions:
        return suggestions
    if takes_overrides:
        # Imported here, because the schema is not needed for anything else.
        from resnet_tasks.recipe.key_suggestions import suggest_override

        start = "finetune RECIPE " if is_root else ""
        suggestions = [f"{start}{override}" for override in suggest_override(name, value)]
    names = {known_option.lstrip("-"): known_option for known_option in known_options}
    close = find_nearest(option.lstrip("-"), names, cutoff=0.7)
    return suggestions or ([names[close]] if close else [])


def _format_usage(command: Any, arguments: Sequence[Any], placeholder: str, value: str) -> str:
    """Format a command with the value of an option at the place of an argument."""
    words = [command.name]
    for param in arguments:
        names = list_placeholders(param)
        if placeholder in names:
            return " ".join([*words, shlex.quote(value) if value else placeholder])
        words.append(names[0])
    return str(command.name)


def _find_value(option: str, words: Sequence[str]) -> str:
    """Return the value that follows an option; an empty text if there is none."""
    for number, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option:
            following = words[number + 1 : number + 2]
            return next((text for text in following if not text.startswith("-")), "")
    return ""
