"""Assembly: exact round trip with the disassembler, errors that name the line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from accel_programs import images, instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.assembler import (
    AssemblyError,
    assemble,
    blobs_of,
    disassemble,
    instruction_text,
    parse_instruction,
)
from vit_opt.backends.accel.image import Image, Origins, Segment
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Inst


@settings(max_examples=200, deadline=None)
@given(instructions)
def test_instruction_round_trip(inst: Inst) -> None:
    assert parse_instruction(instruction_text(inst)) == inst


@settings(max_examples=60, deadline=None)
@given(images(instructions))
def test_image_round_trip(image: Image) -> None:
    assert assemble(disassemble(image), blobs_of(image)) == image


def test_text_is_readable() -> None:
    text = "mac.matmul acc=obuf[0x0] a=abuf[a1+0x40] b=bbuf[0x0] m=8 n=64 k=9 acc_row=256 a_row=9 b_row=9"
    assert instruction_text(parse_instruction(text)) == text
    assert instruction_text(isa.Wait(Engine.MAC, 3)) == "mac.wait sem=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mac.wait sem=1", "line 1: the text has no .arch"),
        (".arch p2vit\n\nmac.jump", "line 3: unknown instruction 'mac.jump'"),
        (".arch p2vit\nmac.wait sem=64", "line 2: wait: field 'sem': value 64 does not fit in u6"),
        (".arch p2vit\nmac.wait", "line 2: mac.wait: missing field 'sem'"),
        (".arch p2vit\nmac.wait sem", "line 2: mac.wait: expected field=value, found 'sem'"),
        (".arch p2vit\nmac.wait sem=1 sem=2", "line 2: mac.wait: field 'sem' is given twice"),
        (".arch p2vit\nmac.wait engine=ld sem=1", "line 2: mac.wait: no field 'engine'"),
        (
            ".arch p2vit\nst.copy wait=ld+ld",
            "line 2: st.copy: field 'wait': 'ld.ld' is not some of ld.st.mac.dw.shift",
        ),
        (".arch p2vit\nst.copy wait=l2", "line 2: st.copy: field 'wait': 'l2' is not some of"),
        (".arch p2vit\nst.copy dst=dram[-1]", "line 2: st.copy: field 'dst': 'dram.-1.' is not"),
        (".arch p2vit\n.data 0 xyz", "line 2: 'xyz' is not a sequence of hexadecimal bytes"),
        (".arch p2vit\n.org 5", "line 2: unknown directive '.org'"),
        (".arch p2vit\n.dram", "line 2: .dram: expected 1 to 1 words, found 0"),
        (".arch p2vit\n.isa 99", "line 2: text is for ISA version 99"),
        ('.arch p2vit\n.input "x" 0 i9 3', "line 2: 'i9' is not an element type"),
        ('.arch p2vit\n.input "x 0 i8 3', "line 2: unbalanced quotes"),
        (".arch p2vit\n.blob 0 9 sha256:" + "0" * 64, "line 2: .blob .* is not in the sidecar"),
        (".arch p2vit\n.blob 0 9 sha256:12", "line 2: 'sha256:12' is not sha256:"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        assemble(text)


def test_comments_and_blank_lines() -> None:
    image = assemble(
        '# head\n.arch p2vit # preset\n\n.input "a#b" 0 i8 2\n  ld.wait sem=1 # wait\n'
    )
    assert image.code == (isa.Wait(Engine.LD, 1),) and image.inputs[0].name == "a#b"


def test_long_data_is_not_text() -> None:
    image = Image("p2vit", (), segments=(Segment(0, bytes(range(200))),), dram_size=4096)
    text = disassemble(image)
    assert ".blob 0x0 200 sha256:" in text and "000102" not in text
    with pytest.raises(AssemblyError, match=r"\.blob .* is not in the sidecar"):
        assemble(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_an_image_or_an_error_with_a_line(text: str) -> None:
    try:
        assemble(".arch p2vit\n" + text)
    except AssemblyError as error:
        assert str(error).startswith("line ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (".dram -5", "asks for -5 bytes of DRAM"),
        (".dram 99999999999999999999", "asks for 99999999999999999999 bytes of DRAM, at most"),
        (".macs -1", "-1 MACs are not a number of 64 bits"),
        (".data -1 00", "data segment 0 lies outside the 64 B of DRAM"),
        (".data 0x40 00", "data segment 0 lies outside the 64 B of DRAM"),
        ('.input "x" 0x40 i8 1', "'x' lies outside the 64 bytes of DRAM"),
        ('.input "x" 0 i8 1x0', "'x' has shape [1, 0]"),
        ('.input "x" 0 i8 1x4 axis=2', "'x' has axis 2"),
        ('.input "x" 0 i8 1x4 frac=1,2', "'x' has 2 fracs"),
    ],
)
def test_what_no_image_can_hold_is_not_written(line: str, message: str) -> None:
    with pytest.raises(VitError) as caught:
        assemble(f".arch p2vit\n.dram 64\n{line}").to_bytes()
    assert message in str(caught.value)


def test_data_is_named_by_its_first_reader() -> None:
    """Who reads what lies behind a segment, or before it, has not read it; a long run reads two."""
    image = assemble(
        """.arch p2vit
        .dram 0x400
        .data 0x40 01
        .data 0x80 02
        .data 0x100 03
        .data 0x140 04
        ld.copy dst=abuf[0x0] src=dram[0x41] run=63
        ld.copy dst=abuf[0x0] src=dram[0x0] run=4 n2=2 s2=64
        ld.copy dst=abuf[0x0] src=dram[0x80] run=129
        ld.copy dst=abuf[0x0] src=dram[0x80] run=1
        """
    )
    named = replace(image, origins=Origins.from_names("abcd"))
    data = [line for line in disassemble(named).splitlines() if line.startswith(".data")]
    assert data == [
        ".data 0x40 01  # b",
        ".data 0x80 02  # c",
        ".data 0x100 03  # c",
        ".data 0x140 04",
    ]
    assert assemble(disassemble(named)) == image
