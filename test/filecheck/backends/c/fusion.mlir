// RUN: vit-opt %s --split-input-file -t vit-c | filecheck %s

// A linear layer, its requantisation and the table behind it are one call; shifts that differ per
// channel come from the weights.

// CHECK:       int model_run(const void *weights, void *arena, const int8_t *input0, int8_t *output0)
// CHECK:       /* vit.linear fc1 + vit.pot_requant + vit.clamp: 2x2 s8 */
// CHECK:       const vit_linear_shape shape = {.m = 2, .n = 2, .k = 3, .block = 2, .x_type = VIT_S8,
// CHECK-NEXT:    .w_type = VIT_S8, .x_zp = 3};
// CHECK:       {.kind = VIT_REQUANT, .shift_c = (const void *)(w + {{[0-9]+}}), .lo = -128, .hi = 127},
// CHECK-NEXT:  {.kind = VIT_CLAMP, .hi = 127},
// CHECK:       const vit_epilogue epilogue = {.stages = stages, .count = 2, .type = VIT_S8,
// CHECK-NEXT:    .y = output0, .ld = 2};
// CHECK-NEXT:  vit_linear_s16(&shape, input0, {{.*}}, NULL, &epilogue, {{.*}});
// CHECK:       return 0;

func.func @main(%x: tensor<2x3x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x2x!vit.fixed<i8, 4>> {
  %w = vit.constant {value = dense<[[1, 2, 3], [4, 5, 6]]> : tensor<2x3xi8>} : tensor<2x3x!vit.fixed<i8, [6, 7], axis = 0>>
  %acc = vit.linear %x, %w {node_name = "fc1"} : (tensor<2x3x!vit.fixed<i8, 5, zp = 3>>, tensor<2x3x!vit.fixed<i8, [6, 7], axis = 0>>) -> tensor<2x2x!vit.fixed<i32, [11, 12], axis = 1>>
  %y = vit.pot_requant %acc : (tensor<2x2x!vit.fixed<i32, [11, 12], axis = 1>>) -> tensor<2x2x!vit.fixed<i8, 4>>
  %z = vit.clamp %y {min = 0, max = 127} : (tensor<2x2x!vit.fixed<i8, 4>>) -> tensor<2x2x!vit.fixed<i8, 4>>
  func.return %z : tensor<2x2x!vit.fixed<i8, 4>>
}

// -----

// An accumulator that two operations read is never stored: each format of it is a branch of the call.

// CHECK:       /* vit.matmul + vit.pot_requant + vit.pot_requant: 1x2x2 s32 */
// CHECK:       {.stages = stages, .count = 1, .type = VIT_S8, .y = output0, .ld = 2},
// CHECK-NEXT:  {.stages = stages2, .count = 1, .type = VIT_S16, .y = output1, .ld = 2},
// CHECK:       .type = VIT_S32, .y = NULL,
// CHECK-NEXT:    .ld = 2, .branch = epilogues, .branches = 2};

func.func @main(%a: tensor<1x2x3x!vit.fixed<i8, 5>>, %b: tensor<1x3x2x!vit.fixed<i8, 5>>) -> (tensor<1x2x2x!vit.fixed<i8, 4>>, tensor<1x2x2x!vit.fixed<i16, 4>>) {
  %acc = vit.matmul %a, %b : (tensor<1x2x3x!vit.fixed<i8, 5>>, tensor<1x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x!vit.fixed<i32, 10>>
  %y = vit.pot_requant %acc : (tensor<1x2x2x!vit.fixed<i32, 10>>) -> tensor<1x2x2x!vit.fixed<i8, 4>>
  %z = vit.pot_requant %acc : (tensor<1x2x2x!vit.fixed<i32, 10>>) -> tensor<1x2x2x!vit.fixed<i16, 4>>
  func.return %y, %z : tensor<1x2x2x!vit.fixed<i8, 4>>, tensor<1x2x2x!vit.fixed<i16, 4>>
}

// -----

// A pipeline is flattened: its schedule changes no result. Reshapes share memory.

// CHECK:       /* vit.transpose: 3x2 s8 */
// CHECK:       vit_copy(&shape, input0, (void *)(a + 0));
// CHECK-NOT:   vit.reshape
// CHECK:       /* vit.clamp: 6 s8 */
// CHECK:       vit_map(&shape, (void *)(a + 0), &epilogue);

func.func @main(%x: tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<6x!vit.fixed<i8, 5>> {
  %p = vit.pipeline {
    %t = vit.transpose %x {permutation = array<i64: 1, 0>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<3x2x!vit.fixed<i8, 5>>
    %r = vit.reshape %t : (tensor<3x2x!vit.fixed<i8, 5>>) -> tensor<6x!vit.fixed<i8, 5>>
    %c = vit.clamp %r {min = 0, max = 127} : (tensor<6x!vit.fixed<i8, 5>>) -> tensor<6x!vit.fixed<i8, 5>>
    vit.yield %c : tensor<6x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"host", 64>} : tensor<6x!vit.fixed<i8, 5>>
  func.return %p : tensor<6x!vit.fixed<i8, 5>>
}
