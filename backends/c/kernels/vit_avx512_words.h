/* Stages on codes of 16 bits in registers: what is left of an epilogue after its first stage, when the
 * accumulators have become saturated words in the order of their columns. */
#ifndef VIT_AVX512_WORDS_H
#define VIT_AVX512_WORDS_H

#include "vit_avx512.h"

enum { VIT_WORD_STEPS = 16 };

typedef enum {
    VIT_WORD_ADDS,    /* saturated sum with words of the same grid */
    VIT_WORD_ADD,     /* aligned sum by way of 32 bits */
    VIT_WORD_REQUANT, /* to the right by 1 to 15 bits */
    VIT_WORD_OFFSET,  /* a zero point */
    VIT_WORD_LUT16,
    VIT_WORD_CLAMP,
    VIT_WORD_STORE1, /* as bytes */
    VIT_WORD_STORE2, /* as words */
    VIT_WORD_KEEP,   /* for the next branch */
    VIT_WORD_BACK,   /* to what was kept */
    VIT_WORD_SECOND  /* to the words of the second branch */
} vit_word_kind;

typedef struct {
    vit_word_kind kind;
    char *at;      /* other operand, table or result; from the first row and column on */
    size_t ld;     /* bytes from row to row */
    __m512i a, b;  /* factors of words and of the other operand in turn, and a constant; bounds */
    __m128i shift;
} vit_word_step;

typedef struct {
    int32_t count;
    vit_word_step steps[VIT_WORD_STEPS];
} vit_word_plan;

/* The steps of an epilogue whose first stage has become words, from row p->row and column `col` on.
 * `split`: the first stages of its two branches have, one each. */
void vit_plan_words_avx512vnni(const vit_epilogue *e, int32_t row, int32_t col, int split,
                               vit_word_plan *plan);

/* All steps on `rows` rows, `row` rows behind the first one of the plan, of 64 or 32 columns each
 * (`vectors` = 2 or 1), of which those in `mask` exist. */
void vit_apply_words_avx512vnni(const vit_word_plan *plan, size_t row, int32_t rows,
                                int32_t vectors, __mmask64 mask, const __m512i *words,
                                const __m512i *second);

#endif
