"""The JAX home: arrays on a CPU, GPU or TPU, compiled by XLA. Tells JAX about every tree node of the project."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from soberano.backends import native, tree
from soberano.backends.base import Home
from soberano.backends.plan import Plan, active
from soberano.backends.recorder import record
from soberano.core.errors import Unsupported
from soberano.core.types import Array


def _register(kind: type, data: list[str], static: list[str]) -> None:
    jax.tree_util.register_dataclass(kind, data, static)


tree.on_node(_register)


class JaxHome(Home):
    """Arrays are jax.Array, or tracers of one while a function is compiled."""

    name = "jax"
    xp = jnp
    compiles = True

    def owns(self, kind: type) -> bool:
        return kind.__module__.partition(".")[0] in ("jax", "jaxlib")

    def asarray(self, array: Any) -> Array:
        # jnp.asarray compiles a program for each shape, and copies; device_put takes an aligned array over as it is.
        return jax.device_put(array) if isinstance(array, np.ndarray) else jnp.asarray(array)

    def zeros(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Array]:
        try:
            native_plan()
        except Unsupported:
            return super().zeros(shapes, dtype)
        results = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        return list(jax.ffi.ffi_call(native.target("soberano_zeros_ffi"), results)())

    def synchronize(self, array: Array) -> None:
        jax.block_until_ready(array)

    def intact(self, array: Array) -> bool:
        try:
            jax.block_until_ready(array)
        except Exception:  # a deleted array raises RuntimeError; a failed computation what it failed with
            return False
        return not array.is_deleted()

    def concrete(self, array: Array) -> bool:
        return not isinstance(array, jax.core.Tracer)

    def bitcast(self, array: Array, dtype: Any) -> Array:
        size = np.dtype(dtype).itemsize
        if size > 1:
            array = array.reshape(*array.shape[:-1], array.shape[-1] // size, size)
        return lax.bitcast_convert_type(array, dtype)

    def put(self, array: Array, index: tuple[Array, ...], values: Array) -> Array:
        return array.at[index].set(values, mode="drop")

    def loop(self, count: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
        return lax.fori_loop(0, count, body, carry)

    def switch(self, index: Any, branches: Sequence[Callable[..., Any]], *args: Any) -> Any:
        return lax.switch(index, branches, *args)

    def at(self, stack: Array, index: Any) -> Array:
        return lax.dynamic_index_in_dim(stack, index, keepdims=False)

    def compile(
        self, function: Callable[..., Any], *, static: tuple[int, ...] = (), donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        return jax.jit(function, static_argnums=static, donate_argnums=donate)

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def ruled(*args: Any) -> Any:
            with record(_with_rule):
                return function(*args)

        return jax.value_and_grad(ruled)

    def spread(self, array: Array, count: int, axis: int | None) -> Array:
        devices = jax.devices()
        if count > len(devices):
            raise Unsupported(f"there are {len(devices)} devices of JAX, {devices[0].platform}, and not {count}")
        if count == 1:
            return array
        mesh = jax.sharding.Mesh(np.array(devices[:count]), ("data",))
        cut = [] if axis is None else [None] * axis + ["data"]
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*cut)))

    def checkpoint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.checkpoint(function)

    def constant(self, array: Array) -> Array:
        return lax.stop_gradient(array)

    def persist(self, folder: Path) -> None:
        if jax.config.values["jax_compilation_cache_dir"] is None:  # else the user has chosen a place
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def platform(self) -> str:
        found = jax.default_backend()
        return "gpu" if found in ("cuda", "rocm") else found

    def devices(self) -> list[str]:
        return [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]


HOME = JaxHome()


def _with_rule(op: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run an op so that JAX differentiates it by its rule; one that has none, by the rules of the ops inside it."""
    rule = op.rule
    if rule is None:
        return op.meaning(*args, **options)

    leaves, whole = jax.tree.flatten(args)
    # An array that comes twice, as the layer of two weights does, stays one: kernels ask whether it is the same.
    distinct = {id(leaf): leaf for leaf in leaves}
    place = {key: i for i, key in enumerate(distinct)}
    order = [place[id(leaf)] for leaf in leaves]

    def args_of(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(jax.tree.unflatten(whole, [arrays[i] for i in order]))

    def plain(*arrays: Any) -> Any:
        with record(None):
            return op(*args_of(arrays), **options)

    def forward(*arrays: Any) -> tuple[Any, Any]:
        result = plain(*arrays)
        return result, (arrays, result)

    def backward(saved: Any, grad: Any) -> Any:
        arrays, result = saved
        with record(None):
            found = rule(grad, result, *args_of(arrays), **options)[: len(args)]  # it knows those that may be left out
        sums: list[Any] = [None] * len(arrays)
        each = [g for arg, g in zip(args, found, strict=True) for g in _gradients(arg, g)]
        for i, g in zip(order, each, strict=True):
            if g is not None:
                sums[i] = g if sums[i] is None else sums[i] + g
        return tuple(sums)

    call = jax.custom_vjp(plain)
    call.defvjp(forward, backward)
    return call(*distinct.values())


def _gradients(arg: Any, grad: Any) -> list[Any]:
    """The gradient of each array of an argument, where None stands for none of all of it, or of one of them."""
    if grad is None:
        return [None] * len(jax.tree.leaves(arg))
    if isinstance(arg, tuple):  # some parts of which may be None, and then are no arrays
        return [g for part, given in zip(arg, grad, strict=True) for g in _gradients(part, given)]
    return jax.tree.leaves(grad, is_leaf=lambda part: part is None)


def with_gradient_of(meaning: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, differentiated as `meaning` is: kernels called through FFI have no gradient of their own.

    Both take the same positional arrays. Arguments that are integers get no gradient, as JAX requires.
    """
    return with_gradient(lambda arrays, grad: jax.vjp(meaning, *arrays)[1](grad), kernel)


def with_gradient(backward: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel` with a gradient by rule: backward(arrays, grad) gives that of each array, None for one that has none."""
    fast = jax.custom_vjp(kernel)

    def forward(*arrays: Any) -> tuple[Any, Any]:
        return fast(*arrays), arrays  # not the kernel, so that a gradient has a gradient

    fast.defvjp(forward, backward)
    return fast


def native_plan() -> Plan | None:
    """Return the plan in force if our native kernels are to serve this call; raise Unsupported, with the reason, if
    not.

    Under a plan the plan decides. Outside of any, an eager op uses them wherever JAX's default device is a CPU.
    """
    plan = active()
    if plan is None:
        if jax.default_backend() != "cpu":
            raise Unsupported(f"native kernels serve the CPU, and this is {jax.default_backend()}")
        native.library()
    elif not plan.native:
        raise Unsupported(f"the plan for {plan.backend} runs without native kernels")
    return plan
