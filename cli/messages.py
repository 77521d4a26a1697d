"""Translation of messages of the core and the model into the terms of the command line."""

from __future__ import annotations

import logging
import re

import click


def in_options(text: str, command: click.Command) -> str:
    """Replace the parameters named in ``text`` by the options of ``command``.

    The core and the model name a parameter in backquotes: "give `overwrite`" becomes "give
    --overwrite". Only options that the command has are named.
    """
    options = {p.name: max(p.opts, key=len) for p in command.params if isinstance(p, click.Option)}
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[1]), text)


class OneLine(logging.Formatter):
    """A formatter that writes each log record of a command as one line and names its options."""

    def __init__(self, command: click.Command):
        super().__init__("%(levelname)s: %(message)s")
        self._command = command

    def formatMessage(self, record: logging.LogRecord) -> str:
        return in_options(super().formatMessage(record), self._command)
