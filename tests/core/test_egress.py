"""Every way in which a transfer can go wrong, against a real TLS server on this machine."""

import hashlib
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from soberano.core import egress
from soberano.core.errors import FetchError, OfflineError

DATA = bytes(range(256)) * 4000
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves DATA; `plan` holds what to do with each next request, then it behaves."""

    plan: list[str]
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        how = self.server.plan.pop(0) if self.server.plan else "well"
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and how != "deaf" else 0
        if how.startswith("to "):
            self.send_response(302)
            self.send_header("Location", how[3:])
            self.end_headers()
            return
        if how.isdecimal():
            self.send_error(int(how))
            return
        body = DATA[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        if how != "endless":
            self.send_header("Content-Length", "9" * 5000 if how == "huge" else str(len(body)))
        self.end_headers()
        if how == "cut":
            body = body[: len(body) // 2]
        self.wfile.write(body + (b"more" if how == "endless" else b""))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a test certificate with")
    pem = tmp_path_factory.mktemp("tls") / "localhost.pem"
    key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(pem), "-out", f"{pem}.crt"]
    subprocess.run(["openssl", *key.split(), *name.split(), *files], check=True, capture_output=True)
    with pem.open("a") as both:
        both.write(Path(f"{pem}.crt").read_text())
    return pem


@pytest.fixture
def server(certificate: Path, setenv: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    setenv(SSL_CERT_FILE=str(certificate), SOBERANO_OFFLINE=None, no_proxy="localhost", NO_PROXY="localhost")
    monkeypatch.setattr(egress.time, "sleep", lambda seconds: None)
    server = Server(("127.0.0.1", 0), Handler)
    server.plan, server.ranges = [], []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url_of(server: Server) -> str:
    return f"https://localhost:{server.server_port}/model.gguf"


def test_fetch_brings_the_bytes_and_tells_how_far_it_is(server: Server, tmp_path: Path):
    seen: list[tuple] = []
    dest = egress.fetch(url_of(server), tmp_path / "new" / "m", sha256=SHA, progress=lambda *a: seen.append(a))
    assert dest.read_bytes() == DATA
    assert seen[-1] == ("model.gguf", len(DATA), len(DATA), "bytes")
    assert [done for _, done, _, _ in seen] == sorted({done for _, done, _, _ in seen})


@pytest.mark.parametrize("plan", [["cut"], ["cut", "cut", "cut"], ["503"], ["cut", "deaf"], ["cut", "416"]])
def test_a_broken_transfer_is_taken_up_again(server: Server, tmp_path: Path, plan: list[str]):
    server.plan = list(plan)
    assert egress.fetch(url_of(server), tmp_path / "m", sha256=SHA).read_bytes() == DATA
    if plan[0] == "cut":
        assert server.ranges[1] == f"bytes={len(DATA) // 2}-"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_later_call_goes_on_where_the_last_one_gave_up(server: Server, tmp_path: Path):
    server.plan = ["cut"] + ["500"] * 3
    with pytest.raises(FetchError, match=r"500 .*goes on from there"):
        egress.fetch(url_of(server), tmp_path / "m", sha256=SHA)
    assert not (tmp_path / "m").exists()
    egress.fetch(url_of(server), tmp_path / "m", sha256=SHA)
    assert server.ranges[-1] == f"bytes={len(DATA) // 2}-"


def test_a_spoiled_part_does_not_spoil_the_next_call(server: Server, tmp_path: Path):
    (tmp_path / f".m.{SHA[:12]}.part").write_bytes(b"x" * 1000)
    assert egress.fetch(url_of(server), tmp_path / "m", sha256=SHA).read_bytes() == DATA


def test_other_bytes_leave_nothing_behind(server: Server, tmp_path: Path):
    with pytest.raises(FetchError, match=rf"SHA-256 {SHA} instead of {'0' * 64}"):
        egress.fetch(url_of(server), tmp_path / "m", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("plan", "size", "says"),
    [
        (["404"], None, "404"),
        (["well"], 5, "instead of 5"),
        (["endless"], len(DATA), "more than"),
        (["huge"], None, "a length of 5000 digits"),
        (["to http://localhost/x"], None, "not https"),
        (["to file:///etc/passwd"], None, "302"),
    ],
)
def test_refusals_are_ours_and_final(server: Server, tmp_path: Path, plan: list[str], size: int | None, says: str):
    server.plan = plan
    with pytest.raises(FetchError, match=says):
        egress.fetch(url_of(server), tmp_path / "m", sha256=SHA, size=size)
    assert list(tmp_path.iterdir()) == [] and len(server.ranges) == 1


class Trickle:
    """A server's answer that goes on where a part ends, a kilobyte a minute."""

    status, headers = 206, {"Content-Range": "bytes 500000-999999/1000000"}

    def open(self, request: object, timeout: float) -> "Trickle":
        return self

    def __enter__(self) -> "Trickle":
        return self

    def __exit__(self, *why: object) -> None:
        pass

    def read1(self, size: int) -> bytes:
        return b"x" * 1000


def test_bytes_of_an_earlier_attempt_do_not_excuse_a_slow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    part = tmp_path / "part"
    part.write_bytes(b"x" * 500_000)
    now = iter(range(0, 6000, 60))
    monkeypatch.setattr(egress.time, "monotonic", lambda: next(now))
    with pytest.raises(OSError, match="slower than"):
        egress._attempt(Trickle(), "https://h/m", part, None, lambda *a: None)
    assert part.stat().st_size <= 502_000, "the trap springs after the first minute"


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Server, tmp_path: Path, setenv: Callable[..., None]):
    setenv(SSL_CERT_FILE="/dev/null")
    with pytest.raises(FetchError, match="certificate"):
        egress.fetch(url_of(server), tmp_path / "m", sha256=SHA)
    assert server.ranges == []


def test_offline_means_not_even_a_connection(server: Server, tmp_path: Path, setenv: Callable[..., None]):
    setenv(SOBERANO_OFFLINE="1")
    with pytest.raises(OfflineError, match=r"SOBERANO_OFFLINE=1.*soberano pull file:"):
        egress.fetch(url_of(server), tmp_path / "m", sha256=SHA)
    with pytest.raises(OfflineError, match="package a==1"):
        egress.pip_download("a==1", SHA, tmp_path)
    assert server.ranges == []


def test_messages_keep_secrets():
    assert egress._shown("https://me:secret@host:1/a?token=x#y") == "https://host:1/a"


@pytest.mark.parametrize("url", ["http://localhost/x", "ftp://localhost/x", "data:,x", "x"])
def test_only_https_and_file(tmp_path: Path, url: str):
    with pytest.raises(FetchError, match="no https: or file: URL"):
        egress.fetch(url, tmp_path / "m", sha256=SHA)


def test_file_urls_are_copied_and_checked(tmp_path: Path):
    source = tmp_path / "a b.bin"
    source.write_bytes(DATA)
    assert egress.fetch(source.as_uri(), tmp_path / "m", sha256=SHA).read_bytes() == DATA
    with pytest.raises(FetchError, match=r"cannot copy .*missing"):
        egress.fetch((tmp_path / "missing").as_uri(), tmp_path / "n", sha256=SHA)


def wheel(folder: Path, name: str = "tiny_pkg", version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(f"{name}/model.gguf", DATA)
        out.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: nonsense\n"
        )
        out.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        out.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(setenv: Callable[..., None], tmp_path: Path) -> Path:
    """A folder that serves as the user's index."""
    folder = tmp_path / "links"
    folder.mkdir()
    setenv(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder), PIP_CONFIG_FILE="/dev/null", SOBERANO_OFFLINE=None)
    return folder


def test_pip_brings_one_pinned_wheel_from_the_users_index(index: Path, tmp_path: Path):
    made = wheel(index)
    seen: list[tuple] = []
    got = egress.pip_download(
        "tiny-pkg==1.0", egress.hash_file(made), tmp_path / "out", size=10, progress=lambda *a: seen.append(a)
    )
    assert got.read_bytes() == made.read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == [made.name]
    assert seen[-1] == ("tiny-pkg==1.0", 10, 10, "bytes")


def test_pip_refuses_another_wheel_of_the_same_name(index: Path, tmp_path: Path):
    wheel(index)
    with pytest.raises(FetchError, match="other bytes than the ones we know"):
        egress.pip_download("tiny-pkg==1.0", "0" * 64, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_pip_that_finds_nothing_says_how_to_help(index: Path, tmp_path: Path):
    with pytest.raises(FetchError, match=r"tiny-pkg==2.0.*pip config list"):
        egress.pip_download("tiny-pkg==2.0", "0" * 64, tmp_path / "out")
