"""Layout of help texts: commands by workflow, options by subject."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import click

EVERYDAY = "Options"


class Option(click.Option):
    """An option with a heading in its command's help."""

    def __init__(self, *arguments: Any, group: str = EVERYDAY, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.group = group


option = functools.partial(click.option, cls=Option)


class Command(click.Command):
    """A command whose help lists its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the everyday options, then one section for each other heading."""
        sections: dict[str, list[tuple[str, str]]] = {EVERYDAY: []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "group", EVERYDAY), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


command = functools.partial(click.command, cls=Command)


class Workflow(click.Group):
    """A group of commands whose help lists them by step of the workflow."""

    def __init__(
        self, *arguments: Any, steps: Mapping[str, Sequence[click.Command]], **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.steps = steps
        for item in (item for items in steps.values() for item in items):
            self.add_command(item)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each step."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for heading, items in self.steps.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(item.name), item.get_short_help_str(limit)) for item in items]
                )
