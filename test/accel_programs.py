"""Strategies for instructions and programs of the accelerator."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import strategies as st

from vit_opt.backends.accel.image import Image, Port, Segment
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    AddrField,
    EnumField,
    Field,
    Inst,
    IntField,
    SetField,
    Space,
    layout,
)
from vit_opt.dialects.vit_accel.isa import INSTRUCTIONS

SPACES = [space for space in Space if space is not Space.NONE]


def addresses(limit: int = (1 << 33) - 1) -> st.SearchStrategy[Addr]:
    """Addresses in every space, absent ones included."""
    present = st.builds(Addr, st.sampled_from(SPACES), st.integers(0, limit), st.integers(0, 15))
    return present | st.just(NO_ADDR)


def values(field: Field) -> st.SearchStrategy[object]:
    """Every value that a field can hold."""
    if isinstance(field, IntField):
        return st.integers(*field.bounds())
    if isinstance(field, EnumField):
        return st.sampled_from(list(field.members))
    if isinstance(field, SetField):
        return st.sets(st.sampled_from(list(field.members))).map(lambda found: tuple(sorted(found)))
    assert isinstance(field, AddrField)
    return addresses()


def of_class(cls: type[Inst]) -> st.SearchStrategy[Inst]:
    """Instructions of a class with arbitrary fields."""
    form = layout(cls)
    assert {slot.name for slot in form.slots} == {item.name for item in fields(cls)}
    return st.builds(cls, **{slot.name: values(slot.field) for slot in form.slots})


def small_of_class(cls: type[Inst]) -> st.SearchStrategy[Inst]:
    """Instructions of a class whose sizes and offsets are small enough to often be legal."""
    parts: dict[str, st.SearchStrategy[object]] = {}
    for slot in layout(cls).slots:
        if isinstance(slot.field, IntField):
            low, high = slot.field.bounds()
            parts[slot.name] = st.integers(max(low, -2), min(high, 9))
        elif isinstance(slot.field, AddrField):
            parts[slot.name] = st.builds(
                Addr, st.sampled_from(SPACES), st.integers(0, 999), st.just(0)
            )
        else:
            parts[slot.name] = values(slot.field)
    return st.builds(cls, **parts)


instructions = st.one_of([of_class(cls) for cls in INSTRUCTIONS])
small_instructions = st.one_of([small_of_class(cls) for cls in INSTRUCTIONS])

names = st.text(min_size=1, max_size=8)


@st.composite
def ports(draw: st.DrawFn) -> Port:
    """Inputs and outputs within 4 KiB of DRAM."""
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    axis = draw(st.none() | st.integers(0, len(shape) - 1)) if shape else None
    count = 1 if axis is None else shape[axis]
    fracs = tuple(draw(st.lists(st.integers(-20, 20), min_size=count, max_size=count)))
    dtype = draw(st.sampled_from([DType.I8, DType.UI8, DType.I16, DType.I32]))
    return Port(
        draw(names), draw(st.integers(0, 1000)), dtype, shape, fracs, draw(st.integers(-3, 3)), axis
    )


segments = st.builds(Segment, st.integers(0, 1000), st.binary(max_size=200))


def images(code: st.SearchStrategy[Inst], size: int = 12) -> st.SearchStrategy[Image]:
    """Images for p2vit with 4 KiB of DRAM."""
    return st.builds(
        Image,
        st.just("p2vit"),
        st.lists(code, max_size=size).map(tuple),
        st.lists(segments, max_size=3).map(tuple),
        st.lists(ports(), max_size=2).map(tuple),
        st.lists(ports(), max_size=2).map(tuple),
        st.just(4096),
        st.integers(0, 10**12),
    )
