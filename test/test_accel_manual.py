"""The manual of the instruction set is the one that the declaration gives."""

from pathlib import Path

from vit_opt.backends.accel.manual import manual
from vit_opt.dialects.vit_accel.fields import layout
from vit_opt.dialects.vit_accel.isa import INSTRUCTIONS

DOCS = Path(__file__).parent.parent / "docs" / "isa.md"


def test_manual_is_up_to_date() -> None:
    assert DOCS.read_text(encoding="utf-8") == manual(), (
        "run: python -m vit_opt.backends.accel.manual > docs/isa.md"
    )


def test_manual_names_every_field() -> None:
    text = manual()
    for cls in INSTRUCTIONS:
        section = text[text.index(f"{cls.mnemonic}`\n") :]
        assert all(f"| `{slot.name}` |" in section for slot in layout(cls).slots)
