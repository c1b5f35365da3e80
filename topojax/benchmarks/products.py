"""How many matrix products a program makes: its jaxpr, run with a counter in every loop.

XLA's own count (`compiled.cost_analysis()`) takes the body of a loop once, whether a scan of 200 steps or a solver that
iterates until it has converged, and takes both sides of a branch. Here a scan counts its length; a `while` or `cond`
that holds products carries a vector of counts, so that trips and branches are those of the data at hand.

Counted are `dot_general`s, 2·M·N·K each. Elementwise work, reductions, gathers and factorisations (svd, inverse) are
not; a product whose result is never used is counted although XLA drops it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from topojax.types import Array


class Product(NamedTuple):
    """`batch` independent products [M, K] × [K, N]."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n

    def __str__(self) -> str:
        """[256,784]×[784,64], or 10·[256,2]×[2,8]."""
        repeated = f"{self.batch}·" if self.batch > 1 else ""
        return f"{repeated}[{self.m},{self.k}]×[{self.k},{self.n}]"


def counting(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], tuple[Product, ...]]:
    """Make a function count its products while it runs.

    Args:
      function: of pytrees, traceable.
      arguments: what it is called with, or `jax.ShapeDtypeStruct`s.

    Returns:
      `counted`, (*arguments) → (result, counts int32 [number of products]), to be jitted; and the products, in the
      order of the counts.

    Raises:
      NotImplementedError: products inside a primitive that this module does not know.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    products = tuple(sorted(set(_products(closed.jaxpr))))
    counter = _Counter(products)

    def counted(*args: Any) -> tuple[Any, Array]:
        out, counts = counter.run(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), out), counts

    return counted, products


def product_of(eqn: core.JaxprEqn) -> Product:
    """The shape of a `dot_general`."""
    (contracted, _), (batched, _) = eqn.params["dimension_numbers"]
    shapes: list[Any] = [v.aval for v in eqn.invars]
    left, right = (aval.shape for aval in shapes)
    batch, k = (math.prod(left[i] for i in axes) for axes in (batched, contracted))
    inner = max(batch * k, 1)
    return Product(batch, math.prod(left) // inner, k, math.prod(right) // inner)


_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}
"""Primitives that do what one jaxpr says, once → the parameter that holds it."""


def _bodies(eqn: core.JaxprEqn) -> tuple[core.ClosedJaxpr | core.Jaxpr, ...]:
    """The jaxprs that an equation runs, of those it holds: an implicit solve holds its matvec and transpose too."""
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS:
        return (params[_CALLS[name]],)
    if name == "scan":
        return (params["jaxpr"],)
    if name == "while":
        return (params["cond_jaxpr"], params["body_jaxpr"])
    if name == "cond":
        return tuple(params["branches"])
    if name == "custom_linear_solve":
        return (params["jaxprs"].solve,)
    inside = tuple(core.jaxprs_in_params(params))
    if any(next(_products(body), None) for body in inside):
        raise NotImplementedError(f"matrix products inside {name!r} are not counted")
    return ()


def _open(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> core.Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def _products(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Iterator[Product]:
    for eqn in _open(jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            yield product_of(eqn)
        for body in _bodies(eqn):
            yield from _products(body)


def _varies(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> bool:
    return any(_decided_by_data(eqn) for eqn in _open(jaxpr).eqns)


def _decided_by_data(eqn: core.JaxprEqn) -> bool:
    """Whether data decide how many products an equation makes."""
    bodies = _bodies(eqn)
    if eqn.primitive.name in ("while", "cond"):
        return any(next(_products(body), None) is not None for body in bodies)
    return any(map(_varies, bodies))


def _apply(eqn: core.JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    """What an equation computes."""
    name, params = eqn.primitive.name, eqn.params
    if name in _CALLS and name != "jit":  # these hold functions beside jaxprs, which cannot be bound again
        body = params[_CALLS[name]]
        return core.jaxpr_as_fun(body if isinstance(body, core.ClosedJaxpr) else core.ClosedJaxpr(body, ()))(*inputs)
    out = eqn.primitive.bind(*inputs, **params)
    return out if eqn.primitive.multiple_results else [out]


class _Counter:
    """An interpreter of jaxprs; values are traced, so what it does is a program itself."""

    def __init__(self, products: Sequence[Product]):
        self.index = {product: i for i, product in enumerate(products)}

    def fixed(self, jaxpr: core.ClosedJaxpr | core.Jaxpr) -> np.ndarray:
        """Counts of all but the equations that data decide."""
        counts = np.zeros(len(self.index), np.int32)
        for eqn in _open(jaxpr).eqns:
            if eqn.primitive.name == "dot_general":
                counts[self.index[product_of(eqn)]] += 1
            elif not _decided_by_data(eqn):
                times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
                counts += times * sum((self.fixed(body) for body in _bodies(eqn)), np.zeros_like(counts))
        return counts

    def run(
        self, jaxpr: core.ClosedJaxpr | core.Jaxpr, args: Sequence[Any], consts: Sequence[Any] = ()
    ) -> tuple[list[Any], Array]:
        """Results of a jaxpr, and the counts on the way."""
        consts = jaxpr.consts if isinstance(jaxpr, core.ClosedJaxpr) else consts
        body = _open(jaxpr)
        values: dict[Any, Any] = dict(zip((*body.constvars, *body.invars), (*consts, *args), strict=True))
        counts = jnp.asarray(self.fixed(body))

        def read(v: Any) -> Any:
            return v.val if isinstance(v, core.Literal) else values[v]

        for eqn in body.eqns:
            inputs = [read(v) for v in eqn.invars]
            if _decided_by_data(eqn):
                out, more = self._descend(eqn, inputs)
                counts = counts + more
            else:
                out = list(_apply(eqn, inputs))
            values.update(zip(eqn.outvars, out, strict=True))
        return [read(v) for v in body.outvars], counts

    def _descend(self, eqn: core.JaxprEqn, inputs: list[Any]) -> tuple[list[Any], Array]:
        name, params = eqn.primitive.name, eqn.params
        if name in _CALLS:
            return self.run(params[_CALLS[name]], inputs)
        if name == "custom_linear_solve":
            matvec, vecmat, solve, transposed = params["const_lengths"]
            start, b = matvec + vecmat, matvec + vecmat + solve + transposed
            return self.run(params["jaxprs"].solve, inputs[start : start + solve] + inputs[b:])
        return {"scan": self._scan, "while": self._while, "cond": self._cond}[name](params, inputs)

    def _scan(self, params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Array]:
        consts, carried = params["num_consts"], params["num_consts"] + params["num_carry"]

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], tuple[list[Any], Array]]:
            out, counts = self.run(params["jaxpr"], [*inputs[:consts], *carry, *x])
            return out[: params["num_carry"]], (out[params["num_carry"] :], counts)

        carry, (ys, counts) = jax.lax.scan(
            body, inputs[consts:carried], inputs[carried:], length=params["length"], reverse=params["reverse"]
        )
        return [*carry, *ys], jnp.sum(counts, axis=0, dtype=jnp.int32)

    def _while(self, params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Array]:
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]

        def unfinished(carry: tuple[list[Any], Array]) -> Array:
            return self.run(params["cond_jaxpr"], [*inputs[:first], *carry[0]])[0][0]

        def body(carry: tuple[list[Any], Array]) -> tuple[list[Any], Array]:
            asked = self.fixed(params["cond_jaxpr"])  # the last time, which says no, is left out
            out, counts = self.run(params["body_jaxpr"], [*inputs[first:second], *carry[0]])
            return out, carry[1] + counts + asked

        start = (inputs[second:], jnp.zeros(len(self.index), jnp.int32))
        return jax.lax.while_loop(unfinished, body, start)

    def _cond(self, params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Array]:
        branches = [lambda *args, b=branch: self.run(b, args) for branch in params["branches"]]
        return jax.lax.switch(inputs[0], branches, *inputs[1:])
