"""The C function by which an emitted project asks for the processor that it was emitted for.

On x86 the features are bits of CPUID leaves (Intel SDM volume 2A, CPUID; names as in Linux's
/proc/cpuinfo), and XCR0 says whether the operating system saves the vector registers. On Arm, Linux
passes them in the auxiliary vector.
"""

from __future__ import annotations

from vit_opt.backends.c.levels import Level

_CPUID: dict[str, tuple[int, int, int, int]] = {
    "fma": (1, 0, 2, 12),
    "movbe": (1, 0, 2, 22),
    "osxsave": (1, 0, 2, 27),
    "avx": (1, 0, 2, 28),
    "f16c": (1, 0, 2, 29),
    "bmi1": (7, 0, 1, 3),
    "avx2": (7, 0, 1, 5),
    "bmi2": (7, 0, 1, 8),
    "avx512f": (7, 0, 1, 16),
    "avx512dq": (7, 0, 1, 17),
    "avx512cd": (7, 0, 1, 28),
    "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31),
    "avx512vbmi": (7, 0, 2, 1),
    "avx512_vnni": (7, 0, 2, 11),
    "avx_vnni": (7, 1, 0, 4),
    "abm": (0x80000001, 0, 2, 5),
}
"""Leaf, subleaf, register (eax, ebx, ecx, edx) and bit of a feature."""

_X86 = """\
/* CPUID bits the kernels rely on: leaf, subleaf, register (eax, ebx, ecx, edx), mask. */
static int cpu_has_features(void)
{
    static const unsigned needed[][4] = {
NEEDED
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; ++i) {
        unsigned r[4];
        if (!__get_cpuid_count(needed[i][0], needed[i][1], &r[0], &r[1], &r[2], &r[3]) ||
            (r[needed[i][2]] & needed[i][3]) != needed[i][3]) {
            return 0;
        }
    }
    unsigned low, high; /* of XCR0: registers that the operating system saves */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    (void)high;
    return (low & SAVED) == SAVED;
}
"""

_ARM = """\
static int cpu_has_features(void)
{
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return 1;
#endif
}
"""

_CACHED = """\
/* Asked once; every thread finds the same answer. */
static int cpu_is_supported(void)
{
    static atomic_int known; /* 0: not asked yet, 1: no, 2: yes */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == 0) {
        answer = cpu_has_features() != 0 ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}
"""


def cpu_check(level: Level) -> tuple[list[str], list[str]]:
    """Lines of #include and of C that define `cpu_is_supported`; empty if any processor will do."""
    if level.machine == "x86_64":
        includes, body = ["#include <cpuid.h>", "#include <stdatomic.h>"], _x86(level)
    elif level.machine == "aarch64":
        includes = ["#include <stdatomic.h>", "#if defined(__linux__)", "#include <asm/hwcap.h>"]
        includes, body = [*includes, "#include <sys/auxv.h>", "#endif"], _ARM
    else:
        return [], []
    return includes, [*f"{body}\n{_CACHED}".splitlines(), ""]


def _x86(level: Level) -> str:
    masks: dict[tuple[int, int, int], int] = {}
    for feature in ("osxsave", *level.features):
        *register, bit = _CPUID[feature]
        leaf, subleaf, index = register
        masks[leaf, subleaf, index] = masks.get((leaf, subleaf, index), 0) | 1 << bit
    needed = [
        f"        {{{leaf:#x}, {subleaf}, {index}, {mask:#010x}}},"
        for (leaf, subleaf, index), mask in masks.items()
    ]
    saved = 0xE6 if "avx512f" in level.features else 0x6
    return _X86.replace("NEEDED", "\n".join(needed)).replace("SAVED", f"{saved:#x}u")
