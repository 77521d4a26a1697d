"""Messages of the core and the model in the words of the command line."""

from __future__ import annotations

import logging
import re

import click


def in_options(text: str, command: click.Command) -> str:
    """``text`` with the parameters in it written as the options of ``command``.

    The core and the model name a parameter in backquotes: "give `overwrite`" becomes "give
    --overwrite". The options are those of the command itself, so none is named that it lacks.
    """
    options = {p.name: max(p.opts, key=len) for p in command.params if isinstance(p, click.Option)}
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[1]), text)


class OneLine(logging.Formatter):
    """Log records of a command: one line each, with its options in place of parameters."""

    def __init__(self, command: click.Command):
        super().__init__("%(levelname)s: %(message)s")
        self._command = command

    def formatMessage(self, record: logging.LogRecord) -> str:
        return in_options(super().formatMessage(record), self._command)
