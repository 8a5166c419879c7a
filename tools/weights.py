"""The weight file beside a module's text: `X.weights.npz` for `X.mlir`.

It holds the arrays that `#vit.asset` attributes of the module name, and the channel vectors of
types that are too long to be spelled out.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp
from xdsl.ir import Attribute, Operation, ParametrizedAttribute

from vit_opt.dialects.assets import AssetAttr, AssetStore, digest_of


def sidecar_of(path: Path) -> Path:
    """The weight file that belongs to a text file."""
    return path.with_suffix(".weights.npz")


def referenced_digests(module: ModuleOp, store: AssetStore) -> set[str]:
    """Digests of all arrays that the text of a module refers to.

    Channel vectors, which live in types while in memory, are put into the store.
    """
    from vit_opt.dialects.vit.attributes import FixedType, ScaledType

    seen: set[Attribute] = set()
    digests: set[str] = set()
    for op in module.walk():
        for attribute in _attributes(op):
            for part in _parts(attribute, seen):
                if isinstance(part, AssetAttr):
                    digests.add(part.digest.data)
                elif isinstance(part, FixedType | ScaledType):
                    vector = part.channel_vector()
                    if vector is not None:
                        digests.add(digest_of(vector))
                        store.arrays.setdefault(digest_of(vector), vector)
    return digests


def release_weights(module: ModuleOp, store: AssetStore) -> None:
    """Forget the arrays that neither a module nor the float graph kept for reports refers to."""
    graphs = [module, *(each for each in store.statistics.values() if isinstance(each, ModuleOp))]
    store.keep(set[str]().union(*(referenced_digests(graph, store) for graph in graphs)))


def return_memory() -> None:
    """Hand freed memory back to the operating system.

    The C library of Linux keeps what small and middle-sized arrays (up to 32 MB) leave behind, of
    a large model as much again as the model has weights.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _attributes(op: Operation) -> Iterator[Attribute]:
    yield from op.attributes.values()
    yield from op.properties.values()
    yield from op.result_types
    for region in op.regions:
        for block in region.blocks:
            yield from block.arg_types


def _parts(attribute: Attribute, seen: set[Attribute]) -> Iterator[Attribute]:
    """An attribute and everything inside of it, each only once."""
    if attribute in seen:
        return
    seen.add(attribute)
    yield attribute
    inner: tuple[Attribute, ...] = ()
    if isinstance(attribute, ArrayAttr):
        inner = tuple(cast("ArrayAttr[Attribute]", attribute).data)
    elif isinstance(attribute, DictionaryAttr):
        inner = tuple(attribute.data.values())
    elif isinstance(attribute, ParametrizedAttribute):
        inner = tuple(attribute.parameters)
    for part in inner:
        yield from _parts(part, seen)
