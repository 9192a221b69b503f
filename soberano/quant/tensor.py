"""The quantised tensor: a weight that stays packed, and looks like any array that `linear` can take.

    QTensor   one matrix (O, I), or a stack of them with the index of the one that is meant: a view, never a slice
    Stack     the matrices of one tensor name over all layers; a file may mix types, so one stack per type and a table
    Adapted   a frozen weight and a low-rank correction of it, trained beside it (LoRA)
    Choice    a layer of such a mixed stack: its format is known only when its number is
    Experts   the matrices of a layer's experts (X, O, I): so many neighbours in one stack of all layers' experts

All are trees, so they pass through jit; what is static in them (shape, format, layout) is part of the jit key.
"""

from dataclasses import dataclass, replace
from typing import Literal, Union

from soberano.backends.base import Home
from soberano.backends.tree import node
from soberano.core.types import Array
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat, format_named

Form = Literal["blocks", "tiles"]


@node(static=("shape", "format", "form"))
@dataclass(frozen=True)
class QTensor:
    """A packed weight (O, I). `data` is uint8: blocks (O, row bytes) as in the file, or tiles (O / 16, panel bytes).

    With an `index` () int32, `data` has a leading stack axis and the weight is data[index].
    """

    data: Array
    index: Array | None
    shape: tuple[int, int]
    format: str
    form: Form

    @property
    def kind(self) -> type[BlockFormat]:
        """The file's format of this weight."""
        return format_named(self.format)

    @property
    def layout(self) -> tiles.TileLayout:
        """The tile of this weight, where `form` is tiles."""
        return tiles.layout_of(self.kind)

    def at(self, index: Array | int) -> "QTensor":
        """The weight data[index] of a stack: a view."""
        return replace(self, index=index)

    def dense(self, home: Home) -> Array:
        """Decode to float32 (O, I)."""
        data = self.data if self.index is None else home.at(self.data, self.index)
        if self.form == "blocks":
            return self.kind.dequantize(home, data)
        panels = tiles.dequantize(home, self.kind, data)
        return panels.reshape(-1, self.shape[1])[: self.shape[0]]

    def rows(self, home: Home, ids: Array) -> Array:
        """Decode only the rows `ids` (...) int32 -> float32 (..., I)."""
        data = self.data if self.index is None else home.at(self.data, self.index)
        if self.form == "blocks":
            return self.kind.dequantize(home, data[ids])
        flat = ids.reshape(-1)
        panels = tiles.dequantize(home, self.kind, data[flat // tiles.ROWS])  # (n, 16, I)
        chosen = panels[home.xp.arange(flat.shape[0]), flat % tiles.ROWS]
        return chosen.reshape(*ids.shape, self.shape[1])


@node()
@dataclass(frozen=True)
class Choice:
    """The weight of layer `index` () int32, one of several of different formats: members[tag[index]].at(slot[index]).

    A view of the stack, so that a kernel can be given the whole and look up its layer by itself.
    """

    members: tuple[Array | QTensor, ...]  # each with a stack axis
    tag: Array  # (L,) int32
    slot: Array  # (L,) int32
    index: Array | int

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), as of any other weight."""
        return _shape(self.members)

    def options(self, home: Home) -> list[Array | QTensor]:
        """What each member has at this layer's slot; the member that is meant has the weight, the others anything."""
        slot = self.slot[self.index]
        return [_member(home, each, home.xp.minimum(slot, _length(each) - 1)) for each in self.members]


@node(static=("scale",))
@dataclass(frozen=True)
class Adapted:
    """A frozen weight and what was trained beside it: base + scale * b a."""

    base: "Frozen"
    a: Array  # (R, I)
    b: Array  # (O, R)
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), as of any other weight."""
        return self.base.shape


@node()
@dataclass(frozen=True)
class Stack:
    """The weights of one name over L layers: a stack per format, and for each layer its stack (tag) and place in it
    (slot).

    A member is a QTensor with a stack axis, or an array (S, O, I) or (S, D): at most one, so that vectors, which are
    never packed, have one member and no Choice, whatever formats they had in the file.
    """

    members: tuple[Array | QTensor, ...]
    tag: Array  # (L,) int32
    slot: Array  # (L,) int32

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), as of the weight of any layer."""
        return _shape(self.members)

    def layer(self, home: Home, i: Array | int) -> "Weight":
        """The weight of layer i: a view for packed members, a slice for small plain arrays."""
        if len(self.members) == 1:
            return _member(home, self.members[0], i)  # a lone stack holds every layer in order
        return Choice(self.members, self.tag, self.slot, i)


@node(static=("count",))
@dataclass(frozen=True)
class Experts:
    """The matrices of the experts of layer `index` () int32; of all layers where that is None.

    They are a Stack like any other: expert e of layer i is its matrix i * count + e, whatever its format.
    """

    matrices: Stack
    count: int  # X
    index: Array | int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, O, I), as in the file."""
        return (self.count, *self.matrices.shape)

    @property
    def first(self) -> Array | int:
        """The place of expert 0 in the stack."""
        assert self.index is not None, "these are the experts of all layers; take .layer(home, i)"
        return self.index * self.count

    def layer(self, home: Home, i: Array | int) -> "Experts":
        """The experts of layer i: a view."""
        return replace(self, index=i)

    def expert(self, home: Home, e: Array | int) -> "Weight":
        """The matrix (O, I) of expert e: a view, as of a layer of a stack."""
        return self.matrices.layer(home, self.first + e)


@node(static=("scale",))
@dataclass(frozen=True)
class AdaptedStack:
    """A Stack with what was trained beside each of its layers: a (L, R, I), b (L, O, R)."""

    base: Stack
    a: Array
    b: Array
    scale: float

    def layer(self, home: Home, i: Array | int) -> Adapted:
        """The weight of layer i."""
        return Adapted(self.base.layer(home, i), home.at(self.a, i), home.at(self.b, i), self.scale)


Frozen = Union[Array, QTensor, Choice]  # noqa: UP007 - Array is Any, which swallows a | union
Weight = Union[Frozen, Adapted]  # noqa: UP007 - Array is Any, which swallows a | union


def _shape(members: tuple[Array | QTensor, ...]) -> tuple[int, int]:
    return (members[0].shape[-2], members[0].shape[-1])


def _length(member: Array | QTensor) -> int:
    return member.data.shape[0] if isinstance(member, QTensor) else member.shape[0]


def _member(home: Home, member: Array | QTensor, i: Array | int) -> Array | QTensor:
    return member.at(i) if isinstance(member, QTensor) else home.at(member, i)
