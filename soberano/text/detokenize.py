"""Turn tokens into text one at a time: a character comes out when its last byte is in, and never as half of one."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """Decode a stream of tokens. All that `push` returned, joined with `finish`, is the text of the whole.

    Bytes that can no longer become UTF-8 are U+FFFD, exactly as bytes.decode(errors="replace") would write them.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one token; return the text that is now certain, which may be empty."""
        return self._decoder.decode(self._bytes_of(token))

    def finish(self) -> str:
        """Return what is left: U+FFFD for an unfinished character, else nothing."""
        rest = self._decoder.decode(b"", True)
        self._decoder.reset()
        return rest
