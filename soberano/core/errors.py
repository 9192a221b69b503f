"""The exceptions that callers meet. A message says what is wrong, with the value; what would be right; what to do.

A package may refine one for its own use (server/errors.py does, to choose a status); it stays one of these.

SoberanoError
  InputError          an argument, request or prompt that cannot be served          (also a ValueError)
    ShapeError        arrays whose shapes do not fit together
    ContextError      a prompt longer than the model's context
  FileError           a file that is missing, unreadable, truncated or malformed    (also a ValueError)
  UnsupportedModel    a well-formed model that names something we do not know       (also a ValueError)
  OfflineError        an outbound connection refused because SOBERANO_OFFLINE is set
  FetchError          an outbound transfer that failed or whose hash is wrong
  Unsupported         a kernel declines its arguments; the meaning runs instead
  NativeError         native code is required and cannot be had
  CapacityError       memory, pages or a queue that is full
"""


class SoberanoError(Exception):
    """The root of every error that the project raises on purpose."""


class InputError(SoberanoError, ValueError):
    """An argument, request or prompt that cannot be served."""


class ShapeError(InputError):
    """Arrays whose shapes do not fit together."""


class ContextError(InputError):
    """A prompt longer than the context of the model."""


class FileError(SoberanoError, ValueError):
    """A file that is missing, unreadable, truncated or malformed."""


class UnsupportedModel(SoberanoError, ValueError):
    """A well-formed model that names an architecture, type or key which we do not know."""


class OfflineError(SoberanoError):
    """An outbound connection, refused because the process is offline."""


class FetchError(SoberanoError):
    """An outbound transfer that failed, or that brought other bytes than were promised."""


class Unsupported(SoberanoError):
    """A kernel declines these arguments. The message says why; the meaning runs instead."""


class NativeError(SoberanoError):
    """Native code is required (SOBERANO_NATIVE=require) and cannot be had. The message holds the cure."""


class CapacityError(SoberanoError):
    """Memory, cache pages or a queue is full. The message holds the numbers."""
