/* kernel: one element of any storage type, as int64
 * layout: element `at` of an array
 * in:     any type but VIT_S4
 * out:    its value; unsigned 32-bit codes keep theirs
 * method: a switch: for the paths that are never hot (64-bit codes, means, pools, resizes)
 * scratch: none
 */
#include "vit_arith.h"

int64_t vit_load_one(const void *x, vit_type type, size_t at)
{
    switch (type) {
    case VIT_S8:
        return ((const int8_t *)x)[at];
    case VIT_S16:
        return ((const int16_t *)x)[at];
    case VIT_U16:
        return ((const uint16_t *)x)[at];
    case VIT_S32:
        return ((const int32_t *)x)[at];
    case VIT_U32:
        return ((const uint32_t *)x)[at];
    case VIT_S64:
        return ((const int64_t *)x)[at];
    default:
        return ((const uint8_t *)x)[at];
    }
}

void vit_store_one(int64_t value, void *y, vit_type type, size_t at)
{
    switch (type) {
    case VIT_S8:
        ((int8_t *)y)[at] = (int8_t)value;
        break;
    case VIT_S16:
        ((int16_t *)y)[at] = (int16_t)value;
        break;
    case VIT_U16:
        ((uint16_t *)y)[at] = (uint16_t)value;
        break;
    case VIT_S32:
        ((int32_t *)y)[at] = (int32_t)value;
        break;
    case VIT_U32:
        ((uint32_t *)y)[at] = (uint32_t)value;
        break;
    case VIT_S64:
        ((int64_t *)y)[at] = value;
        break;
    default:
        ((uint8_t *)y)[at] = (uint8_t)value;
        break;
    }
}
