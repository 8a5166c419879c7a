"""Accelerator backend: lowering, assembler, image, emulator."""
