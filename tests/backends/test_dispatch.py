"""How an op finds its kernel, what it does when there is none or it declines, and who may listen."""

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from soberano.backends import homes
from soberano.backends.dispatch import Op, declined, op, watch
from soberano.core.errors import InputError, Unsupported

PLACE = "soberano_tests_doubling"
"""A pretended ops file: its kernel for NumPy would be soberano_tests_doubling_numpy."""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The file beside the op, for NumPy: empty until a test puts a kernel there."""
    module = types.ModuleType(f"{PLACE}_numpy")
    module.__spec__ = types.SimpleNamespace(name=module.__name__)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module


def make(place: str = PLACE) -> Op:
    def double(x: Any) -> Any:
        """Double x."""
        return x * 2

    double.__module__ = place
    return op(double)


def test_the_meaning_runs_where_no_kernel_lies() -> None:
    double = make("soberano_tests_without_kernels")
    assert double(np.ones(2)).tolist() == [2, 2]
    assert double.__doc__ == "Double x."
    assert repr(double) == "<op soberano_tests_without_kernels.double>"
    with pytest.raises(Unsupported, match="double has no kernel for numpy"):
        double(np.ones(2), impl="kernel")


def test_the_kernel_beside_is_found(kernels: types.ModuleType) -> None:
    kernels.double = lambda x: x * 200
    double = make()
    assert double(np.ones(1)).tolist() == [200]
    assert double(np.ones(1), impl="kernel").tolist() == [200]
    assert double(np.ones(1), impl="meaning").tolist() == [2]


def test_another_name_in_that_file_is_no_kernel(kernels: types.ModuleType) -> None:
    kernels.triple = lambda x: x * 3
    assert make()(np.ones(1)).tolist() == [2]


def test_a_kernel_may_decline_and_its_reason_is_kept(kernels: types.ModuleType) -> None:
    def kernel(x: Any) -> Any:
        if x.ndim > 1:
            raise Unsupported(f"serves vectors, not {x.ndim} axes")
        return x * 200

    kernels.double = kernel
    double = make()
    assert double(np.ones(1)).tolist() == [200]
    before = {(name, home, why): times for name, home, why, times in declined()}
    entry = ("double", "numpy", "serves vectors, not 2 axes")
    assert double(np.ones((1, 1))).tolist() == [[2]]
    assert double(np.ones((1, 1))).tolist() == [[2]]
    after = {(name, home, why): times for name, home, why, times in declined()}
    assert after[entry] == before.get(entry, 0) + 2
    with pytest.raises(Unsupported, match="serves vectors"):
        double(np.ones((1, 1)), impl="kernel")


def test_another_error_of_a_kernel_is_not_hidden(kernels: types.ModuleType) -> None:
    def kernel(x: Any) -> Any:
        raise ValueError("a bug")

    kernels.double = kernel
    with pytest.raises(ValueError, match="a bug"):
        make()(np.ones(1))


def test_the_meaning_means_no_kernel_at_any_depth(kernels: types.ModuleType) -> None:
    kernels.double = lambda x: x * 200
    double = make()
    quadruple = op(lambda x: double(double(x)))
    assert quadruple(np.ones(1)).tolist() == [40_000]
    assert quadruple(np.ones(1), impl="meaning").tolist() == [4]
    assert quadruple(np.ones(1)).tolist() == [40_000], "the meaning outlived its call"
    failing = op(lambda x: double(x).no_such_attribute)
    with pytest.raises(AttributeError):
        failing(np.ones(1), impl="meaning")
    assert double(np.ones(1)).tolist() == [200], "the meaning outlived its error"


def test_wrong_calls_are_refused() -> None:
    double = make()
    with pytest.raises(InputError, match="double: impl is 'fast'; pass 'auto', 'meaning' or 'kernel'"):
        double(np.ones(1), impl="fast")
    with pytest.raises(TypeError, match="an op got no array, only int, list"):
        homes.home_of(1, [2])
    with pytest.raises(TypeError, match="an op got no array, only nothing"):
        double()
    jnp = pytest.importorskip("jax.numpy")
    add = op(lambda a, b: a + b)
    with pytest.raises(TypeError, match="arrays of numpy and of jax; move them to one home"):
        add(np.ones(1), jnp.ones(1))
    assert homes.home_of(np.ones(1), 2, None, np.float32(3)) is homes.home("numpy")


def test_home_names() -> None:
    with pytest.raises(InputError, match="no backend is called 'torch'"):
        homes.home("torch")
    assert homes.home("numpy").xp is np


def test_watch_sees_every_op_inside() -> None:
    double = make("soberano_tests_without_kernels")
    twice = op(lambda x: double(double(x)))
    seen: list[tuple[Op, float]] = []

    def watcher(ran: Op, args: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        seen.append((ran, float(result[0])))

    with watch(watcher):
        twice(np.ones(1))
    twice(np.ones(1))
    assert seen == [(double, 2.0), (double, 4.0), (twice, 4.0)]


def test_jax_tracers_live_in_jax() -> None:
    jax = pytest.importorskip("jax")
    seen = []

    def function(x: Any) -> Any:
        seen.append(homes.home_of(x))
        return (x * x).sum()

    x = jax.numpy.ones(3)
    jax.jit(jax.grad(function))(x)
    jax.vmap(function)(x[None])
    assert all(home is homes.home("jax") for home in seen)


def test_jax_knows_which_arrays_are_gone() -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    jax, here = pytest.importorskip("jax"), homes.home("jax")
    given, kept = (here.asarray(np.ones((4, 4), np.float32)) for _ in range(2))
    here.compile(lambda x: x + 1, donate=(0,))(given)
    assert not here.intact(given) and here.intact(kept)
    broken = here.compile(lambda x: jax.pure_callback(fail, x, x) + 1)
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # raised now, or by whoever looks at the result
        assert not here.intact(broken(kept))
    assert here.intact(kept)


def test_with_gradient_of() -> None:
    jax = pytest.importorskip("jax")
    from soberano.backends.jax_ import with_gradient_of

    def meaning(x: Any, scale: Any, count: Any) -> Any:
        return (x * x * scale).sum() * count

    def kernel(x: Any, scale: Any, count: Any) -> Any:
        """The same value, from code that has no gradient of its own."""
        return jax.lax.stop_gradient(meaning(x, scale, count))

    x, scale, count = jax.numpy.arange(3.0), jax.numpy.float32(2), jax.numpy.int32(5)
    fast = with_gradient_of(meaning, kernel)
    assert float(fast(x, scale, count)) == float(meaning(x, scale, count))
    assert (jax.grad(kernel)(x, scale, count) == 0).all()
    got = jax.jit(jax.grad(fast, argnums=(0, 1)))(x, scale, count)
    assert got[0].tolist() == [0, 20, 40]
    assert float(got[1]) == 25
