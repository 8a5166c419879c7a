    .section .rodata
    .globl input, expected
    .balign 64
input:
    .incbin "input.bin"
    .balign 64
expected:
    .incbin "expected.bin"
