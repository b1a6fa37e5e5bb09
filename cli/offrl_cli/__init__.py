"""The command line of offrl: every command is a thin call into the library."""

from offrl_cli.app import main

__all__ = ["main"]
