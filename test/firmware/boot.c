/* The whole firmware around an emitted model on a Cortex-M7: no operating system, no C library.
 *
 * Runs one inference on the codes in input.bin, compares with expected.bin, and leaves the emulator
 * by semihosting with 0 if all is well. */
#include <stddef.h>
#include <stdint.h>

#include "model.h"

extern const unsigned char model_weights[], input[], expected[];
extern unsigned char bss_start[], bss_end[], stack_top[];

static _Alignas(MODEL_ALIGNMENT) unsigned char arena[MODEL_ARENA_BYTES];
static _Alignas(8) unsigned char output[MODEL_OUTPUT0_BYTES];

void *memset(void *to, int value, size_t n)
{
    for (unsigned char *at = to; n > 0; --n) {
        *at++ = (unsigned char)value;
    }
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    const unsigned char *source = from;
    for (unsigned char *at = to; n > 0; --n) {
        *at++ = *source++;
    }
    return to;
}

/* SYS_EXIT_EXTENDED of Arm's semihosting: ADP_Stopped_ApplicationExit and the exit code. */
static void leave(uint32_t code)
{
    const uint32_t block[2] = {0x20026, code};
    register uint32_t operation __asm__("r0") = 0x20;
    register const uint32_t *argument __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(argument) : "memory");
    for (;;) {
    }
}

void reset(void)
{
    memset(bss_start, 0, (size_t)(bss_end - bss_start));
    const void *codes = input;
    void *result = output;
    if (model_run(model_weights, arena, codes, result) != 0) {
        leave(2);
    }
    for (size_t i = 0; i < sizeof output; ++i) {
        if (output[i] != expected[i]) {
            leave(3);
        }
    }
    leave(0);
}

/* Stack, reset, and for every fault the end. */
static void fault(void)
{
    leave(4);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, reset, fault, fault, fault, fault, fault,
};
