"""Choose how a model runs: the plan for a backend's name, and with `auto` the best backend of this machine."""

from importlib.util import find_spec

from soberano.backends import native
from soberano.backends.homes import home
from soberano.backends.plan import Plan, Weights
from soberano.core.errors import InputError, Unsupported
from soberano.core.memory import free_memory
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings


def choose(backend: str | None = None, *, weights: int = 0, progress: Progress = silent) -> Plan:
    """The plan for a backend (SOBERANO_BACKEND if None) and a model of `weights` weights.

    Builds the native kernels if the plan wants them. Raises InputError for an unknown or absent backend, NativeError
    where SOBERANO_NATIVE=require cannot be met.
    """
    name = backend or settings().backend
    if name == "auto":
        return _auto(weights, progress)
    if name == "numpy":
        return Plan(
            "numpy", "numpy", weights=_unpacked(weights), reasons=("asked for: the reference, without kernels",)
        )
    if name == "cpu":
        return _cpu(weights, progress, ("asked for",))
    if name == "xla":
        platform = _jax_platform()
        form: Weights = _unpacked(weights) if platform == "cpu" else "blocks"
        return Plan("xla", "jax", platform, weights=form, reasons=(f"asked for: XLA alone, on {platform}",))
    if name == "cuda":
        why = _no_cuda()
        if why:
            raise InputError(
                f"backend cuda: {why}; choose cpu, or on a machine with an NVIDIA GPU run: pip install -e '.[cuda13]'"
            )
        return Plan("cuda", "cupy", "gpu", weights="blocks", reasons=("asked for",))
    return Plan(name, home(name).name, weights=_unpacked(weights), reasons=("asked for: a backend by entry point",))


def tiles_expected(backend: str | None = None, progress: Progress = silent) -> bool:
    """Whether `choose` will want tiles, as far as it can be known before JAX is imported. Builds the kernels if so."""
    name = backend or settings().backend
    accelerator = any(map(find_spec, ("cupy", "jax_plugins", "libtpu")))
    if name != "cpu" and (name != "auto" or accelerator):
        return False
    try:
        native.library(progress)
    except Unsupported:
        return False
    return True


def _auto(weights: int, progress: Progress) -> Plan:
    why = _no_cuda(auto=True)
    if why is None:
        return Plan("cuda", "cupy", "gpu", weights="blocks", reasons=("auto: an NVIDIA GPU and CuPy are here",))
    platform = _jax_platform()
    if platform != "cpu":
        return Plan(
            "xla", "jax", platform, weights="blocks", reasons=(f"auto: not cuda ({why}); JAX has a {platform}",)
        )
    return _cpu(weights, progress, (f"auto: not cuda ({why})", "auto: JAX has no GPU or TPU"))


def _cpu(weights: int, progress: Progress, reasons: tuple[str, ...]) -> Plan:
    _jax_platform()
    try:
        native.library(progress)
    except Unsupported as lost:
        form = _unpacked(weights)
        return Plan("cpu", "jax", weights=form, reasons=(*reasons, f"without native kernels, so much slower: {lost}"))
    how = f"native kernels for {native.isa()}"
    return Plan(
        "cpu", "jax", native=True, isa=native.isa(), threads=native.threads(), weights="tiles", reasons=(*reasons, how)
    )


def _unpacked(weights: int) -> Weights:
    """What serves where no kernel reads packed weights: float32 if half of the free memory holds it, else blocks."""
    return "dense" if 4 * weights <= free_memory() // 2 else "blocks"


def _no_cuda(auto: bool = False) -> str | None:
    """Why CuPy cannot be used, or None if it can."""
    if find_spec("cupy") is None:
        return "CuPy is not installed"
    if auto and find_spec("soberano.ops.linear_cupy") is None:
        return "its kernels are not written yet"
    try:
        devices = home("cupy").devices()
    except Exception as error:  # CuPy raises many classes for a missing driver or library
        return f"CuPy finds no usable GPU ({error})"
    return None if devices else "CuPy finds no GPU"


def _jax_platform() -> str:
    if find_spec("jax") is None:
        raise InputError("JAX is not installed; pip install soberano again, or choose the backend numpy")
    return home("jax").platform()
