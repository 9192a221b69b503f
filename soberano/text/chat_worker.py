"""The process that renders chat templates: programs by strangers, so they run here, with nothing around them.

Started by soberano.text.chat_process as `python -I chat_worker.py`; imports the standard library and jinja2, nothing of
ours. It reads one JSON object a line and answers with one a line. After start-up it gives up what a template could
abuse: it can open no file and no socket (no free descriptor, and an audit hook), start no process, grow past its memory
limit or compute past its processor time; jinja2's own sandbox comes before all that. Where the `resource` module is
missing (Windows), or a limit is not enforced (memory on macOS), the parent's wall-clock limit still holds.
"""

import datetime
import json
import sys
import textwrap  # noqa: F401  jinja2 imports it late
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# The parent says where it found jinja2, for installations that an isolated interpreter does not look into.
sys.path += [folder for folder in sys.argv[1:] if folder not in sys.path]

import jinja2
import jinja2.debug
from jinja2 import nodes, sandbox
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

_STATEMENTS = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)
_HARMLESS = ("compile", "exec", "object.__getattr__", "sys._getframe", "code.__new__", "builtins.id", "sys.excepthook")


class Refused(Exception):
    """The template asks for something that no chat template needs."""


class Raised(Exception):
    """The template called raise_exception."""


class TooLong(Exception):
    """The output outgrew its limit."""


class Generation(Extension):
    """{% generation %}…{% endgeneration %} marks what the assistant says for training code: renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def environment() -> jinja2.Environment:
    """jinja2 as Hugging Face's chat templates expect it, less what only an attacker would miss."""
    env = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    for name in ("attr", "xmlattr", "pprint", "urlize"):
        env.filters.pop(name, None)
    for name in ("lipsum", "cycler", "joiner"):
        env.globals.pop(name, None)
    return env


def tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is: unlike jinja2's own filter, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: Any) -> NoReturn:
    """What templates call when a conversation is not for them."""
    raise Raised(str(message))


def check(tree: nodes.Template) -> None:
    """Refuse a template by what it says, before it runs. Raises Refused."""
    for node in tree.find_all(nodes.Node):
        if isinstance(node, _STATEMENTS):
            raise Refused(f"it uses {{% {type(node).__name__.lower()} %}} in line {node.lineno}")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise Refused(f"it reads the private attribute {node.attr!r} in line {node.lineno}")
        if isinstance(node, nodes.Const) and isinstance(node.value, str) and node.value.startswith("__"):
            raise Refused(f"it names {node.value!r} in line {node.lineno}")
        if isinstance(node, nodes.Name) and node.name == "self":
            raise Refused(f"it reads 'self' in line {node.lineno}")


class Limits:
    """What one render may use."""

    def __init__(self, memory: int, seconds: float) -> None:
        self.seconds = seconds
        if resource is not None:
            _limit(resource.RLIMIT_AS, memory)
            _limit(resource.RLIMIT_CORE, 0)
            _limit(resource.RLIMIT_FSIZE, 0)
            _limit(resource.RLIMIT_NPROC, 0)
            _limit(resource.RLIMIT_NOFILE, 3)  # the three that are open

    def arm(self) -> None:
        """Allow `seconds` of processor time from now on."""
        if resource is not None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            soft = int(used.ru_utime + used.ru_stime + self.seconds) + 2
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit(what: int, value: int) -> None:
    # A system that does not know or not enforce a limit refuses it; the others still hold.
    with suppress(ValueError, OSError):
        resource.setrlimit(what, (value, value))


def refuse_events(event: str, args: Any) -> None:
    """Audit hook: nothing but computing from here on."""
    arming = event == "resource.setrlimit" and args[0] == resource.RLIMIT_CPU
    if event not in _HARMLESS and not arming:
        raise Refused(f"it tried {event}")


def joined(parts: Iterator[str], most: int) -> str:
    """Join what a template yields, up to `most` characters. Raises TooLong."""
    out: list[str] = []
    for part in parts:
        most -= len(part)
        if most < 0:
            raise TooLong
        out.append(part)
    return "".join(out)


def answer(env: jinja2.Environment, templates: dict[str, jinja2.Template], request: dict[str, Any]) -> dict[str, str]:
    """Render one request: {"source", "values", "most"} -> {"text"} or {"error": kind, "message"}."""
    source = request["source"]
    try:
        if source not in templates:
            check(env.parse(source))
            templates.clear()
            templates[source] = env.from_string(source)
        return {"text": joined(templates[source].generate(request["values"]), request["most"])}
    except Raised as why:
        return {"error": "raised", "message": str(why)}
    except (Refused, jinja2.exceptions.SecurityError) as why:
        return {"error": "refused", "message": str(why)}
    except jinja2.TemplateSyntaxError as why:
        return {"error": "syntax", "message": f"{why.message} in line {why.lineno}"}
    except TooLong:
        return {"error": "limit", "message": f"its output is longer than {request['most']} characters"}
    except MemoryError:
        return {"error": "limit", "message": "it used up its memory"}
    except RecursionError:
        return {"error": "limit", "message": "it calls itself without end"}
    except OverflowError as why:
        return {"error": "limit", "message": str(why)}
    except Exception as why:  # whatever a stranger's program may raise: it concerns these messages
        return {"error": "failed", "message": f"{type(why).__name__}: {why}"[:500]}


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    first = json.loads(sys.stdin.buffer.readline() or b"{}")
    env = environment()
    # Run everything once, so that what Python and jinja2 load late is loaded while files can still be opened.
    warm = "{% for a in [1] %}{{ a | tojson }}{{ strftime_now('%Y') }}{{ undefined_ }}{% endfor %}{{ 1 / 0 }}"
    answer(env, {}, {"source": warm, "values": {}, "most": 100})
    time.strptime("2000", "%Y")
    templates: dict[str, jinja2.Template] = {}
    limits = Limits(first["memory"], first["seconds"])
    sys.addaudithook(refuse_events)
    out = sys.stdout.buffer
    out.write(b'{"ready": true}\n')
    out.flush()
    while line := sys.stdin.buffer.readline():
        limits.arm()
        reply = answer(env, templates, json.loads(line))
        out.write(json.dumps(reply).encode() + b"\n")
        out.flush()
        if reply.get("error") == "limit":
            return  # what is left of this process is not worth keeping


if __name__ == "__main__":
    main()
