"""`soberano chat MODEL`: a conversation in the terminal."""

import argparse
import contextlib
import sys
from typing import Any

from soberano.cli._sampling import add_long_chats, add_model, add_sampling, options_from
from soberano.core.printable import printable

HELP = "talk to a model in the terminal"

COMMANDS = {
    "/help": "show this",
    "/reset": "forget the conversation",
    "/system TEXT": "set the system message, and forget the conversation; without TEXT, remove it",
    "/retry": "ask the last question again",
    "/quit": "leave; so does Ctrl-D",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    add_long_chats(parser)
    add_sampling(parser)


def run(args: argparse.Namespace) -> int:
    from soberano.cli._loading import load_model

    options = options_from(args)
    model = load_model(args)
    try:
        return Chat(model, options, args.system, args.long_chats).loop()
    finally:
        model.close()


class Chat:
    """One conversation: the messages so far, and what a line typed by the user does to them."""

    def __init__(self, model: Any, options: Any, system: str | None, long_chats: str = "refuse") -> None:
        self.model, self.options, self.system, self.long_chats = model, options, system, long_chats
        self.messages: list[dict[str, str]] = []
        self.person = sys.stdin.isatty()

    def loop(self) -> int:
        """Read and answer lines until there are no more."""
        if self.person:
            with contextlib.suppress(ImportError):  # line editing and history; not on every platform
                import readline  # noqa: F401
            name = printable(self.model.name, lines=False)
            print(f"{name} on {self.model.plan.backend}. Ctrl-C stops an answer; /help shows the commands.")
        while True:
            try:
                line = input("> " if self.person else "").strip()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                print("\n(/quit or Ctrl-D leaves)")
                continue
            if line in ("/quit", "/exit"):
                return 0
            if line:
                self.take(line)

    def take(self, line: str) -> None:
        """Carry out a command, or answer."""
        word, _, rest = line.partition(" ")
        if word == "/help":
            print("\n".join(f"{name:<14} {what}" for name, what in COMMANDS.items()))
        elif word == "/reset":
            self.messages.clear()
        elif word == "/system":
            self.system = rest.strip() or None
            self.messages.clear()
        elif word == "/retry":
            while self.messages and self.messages[-1]["role"] != "user":
                self.messages.pop()
            if self.messages:
                self.answer()
            else:
                print("there is no question yet")
        elif word.startswith("/") and word[1:].isalpha():
            print(f"no command is called {word}; /help shows them")
        else:
            self.messages.append({"role": "user", "content": line})
            self.answer()

    def answer(self) -> None:
        """Answer the last message. Ctrl-C stops the answer, and what was said stays in the conversation."""
        from soberano.cli.run import stats
        from soberano.core.errors import SoberanoError

        system = [{"role": "system", "content": self.system}] if self.system else []
        said = []
        try:
            fitted = self.model.fit_chat([*system, *self.messages], self.long_chats, answer=self.options.max_tokens)
            generation = self.model.start(fitted.tokens, self.options)
        except SoberanoError as error:
            print(f"soberano: {printable(str(error), lines=False)}; /reset starts over", file=sys.stderr)
            self.messages.pop()
            return
        if fitted.dropped:
            self.messages = fitted.messages[len(system) :]
            print(f"({fitted.dropped} of the oldest messages no longer fit and were left out)", file=sys.stderr)
        try:
            for piece in generation:
                said.append(piece.text)
                print(printable(piece.text), end="", flush=True)
            print()
        except KeyboardInterrupt:
            print(" (stopped)")
        finally:
            generation.close()
        self.messages.append({"role": "assistant", "content": "".join(said)})
        if self.person and sys.stderr.isatty():
            print(f"\x1b[2m{stats(generation)}\x1b[0m", file=sys.stderr)
