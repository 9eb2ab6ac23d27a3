"""The help of `marlin-ckpt` itself: its commands, in a section for each folder of `commands/`."""

from typing import Any

from typer.core import TyperGroup

from marlin_ckpt.cli.commands.registry import Registry

ALIASES = {"ls": "list"}  # names that commands have besides their own; no help lists them
_LONGEST_SUMMARY = 200  # characters, which a narrow terminal has in several lines
_SECTIONS = {"run": "Run", "look": "Look", "check": "Check", "change": "Change"}


class Commands(TyperGroup):
    """The commands, each in the section of the folder that its module is in."""

    def __init__(self, **attributes: Any) -> None:
        """Takes what Typer has for a group, which knows no commands of its own."""
        super().__init__(**attributes)
        known: Any = Registry()  # Typer asks for what can be added to, and adds nothing
        self.commands = known

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # Typer's types are private
        """The command of a name or an alias; None if there is none."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as Typer calls it
        """The names, without making the commands."""
        return [*self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections, with the summaries of all in one column."""
        width = max(map(len, self.commands))
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS.values()}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            if not command.hidden:
                summary = command.get_short_help_str(_LONGEST_SUMMARY)
                sections[_section_of(command)].append((name.ljust(width), summary))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def _section_of(command: Any) -> str:
    """The section of a command; of a group of commands, that of its first."""
    while isinstance(command, TyperGroup):
        command = next(iter(command.commands.values()))
    return _SECTIONS[command.callback.__module__.split(".")[-2]]
