"""Print and parse the units that people read: bytes, seconds, rates."""

from soberano.core.errors import InputError

_STEPS = ["B", "kB", "MB", "GB", "TB"]


def bytes_text(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit.

    >>> bytes_text(98_362_432)
    '98.4 MB'
    """
    step = 0
    while abs(count) >= 999.5 and step < len(_STEPS) - 1:
        count, step = count / 1000, step + 1
    digits = 0 if step == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {_STEPS[step]}"


def seconds_text(seconds: float) -> str:
    """Write a duration as a person would say it.

    >>> seconds_text(0.0123), seconds_text(75)
    ('12.3 ms', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def parse_bytes(text: str) -> int:
    """Read '512', '16 kB' or '2GB' as a number of bytes. Raises InputError for anything else.

    >>> parse_bytes("2GB")
    2000000000
    """
    for step in reversed(range(len(_STEPS))):
        if text.upper().endswith(_STEPS[step].upper()):
            number, scale = text[: -len(_STEPS[step])], 1000**step
            break
    else:
        number, scale = text, 1
    try:
        return int(float(number) * scale)
    except ValueError:
        raise InputError(f"{text!r} is not a number of bytes; write it like 512, 16kB or 2GB") from None
