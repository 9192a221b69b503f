"""The command `soberano`: find the command by its file name, run it, and turn every failure into one line and a status.

A command is a module of this package without a leading underscore. It has `HELP`, `add_arguments(parser)` and
`run(args) -> int`, and imports what is heavy inside `run`, so that `soberano --help` answers at once.

Exit status: 0 done, 1 what was checked does not hold, 2 refused or failed with a reason, 70 an internal error (please
report it), 130 interrupted, 141 nobody reads on.
"""

import argparse
import difflib
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import soberano.cli as package
from soberano.core.errors import InputError, SoberanoError
from soberano.core.printable import printable
from soberano.core.settings import settings

REFUSED = 2
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130
BROKEN_PIPE = 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that says which flags there are when one is not known."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it; beside what is unknown, `flags` of the innermost parser, which comes back first."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and "flags" not in found:
            found.flags = re.findall(r"--[a-z][a-z-]+", self.format_help())
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(REFUSED, f"soberano: {printable(message, lines=False)}; see `{self.prog} --help`\n")


def names() -> list[str]:
    """The commands there are: the modules of this package, by file name."""
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if not name.startswith("_") and name != "main")


def command(name: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"soberano.cli.{name}")


def parser(only: str | None = None) -> Parser:
    """The parser of every command, or of one of them: then no other module is imported."""
    from soberano import __version__

    top = Parser(
        prog="soberano",
        description="Run, serve and inspect AI models on machines you own.",
        epilog="MODEL is a path, or the name of a model that was pulled. `soberano doctor` shows what was chosen.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"soberano {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in names():
        if only in (None, name):
            module = command(name)
            sub = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. Never raises for what a user can cause."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else ""
    if first not in ("-h", "--help", "--version", *names()):
        close = difflib.get_close_matches(first, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}; see `soberano --help`"
        return _refuse(f"no command is called {first!r}; {hint}" if first else f"which command? {hint}")
    try:
        top = parser(first if first in names() else None)
        args, unknown = top.parse_known_args(arguments)
        if unknown:
            where = f"soberano {args.command}" + (f" {args.kind}" if "kind" in args else "")
            said = printable(" ".join(unknown), lines=False)
            return _refuse(f"unrecognised arguments: {said}; {_meant(unknown[0], args.flags)}see `{where} --help`")
        status = args.run(args)
        sys.stdout.flush()
        return status
    except SystemExit as leave:  # argparse has said what there was to say
        return leave.code if isinstance(leave.code, int) else 0
    except SoberanoError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter from complaining when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError):
            return _refuse("there is not enough memory for this; take a smaller model or a shorter --context")
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}; check the path and its permissions")
    except Exception as error:  # whatever its class: it should have been one of the above
        return _internal(error)


def _meant(word: str, flags: Sequence[str]) -> str:
    """A guess at what an argument that nobody knows was to be, or nothing."""
    if not word.startswith("-"):
        return "quote a text of several words; "
    close = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _refuse(message: str, status: int = REFUSED) -> int:
    print(f"soberano: {printable(' '.join(message.split()), lines=False)}", file=sys.stderr)
    return status


def _internal(error: Exception) -> int:
    """Say that this is our fault in one line; the traceback is for those who ask for it."""
    try:
        debug = settings().debug
    except InputError:  # another setting is wrong
        debug = False
    said = f"internal error: {type(error).__name__}: {str(error)[:300]}"
    if not debug:
        return _refuse(f"{said}; run with SOBERANO_DEBUG=1 for the traceback", INTERNAL)
    print(printable("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return _refuse(said, INTERNAL)
