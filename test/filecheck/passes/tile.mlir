// RUN: vit-opt %s -p tile --split-input-file | filecheck %s
// RUN: vit-opt %s -p 'tile{target="c"}' --split-input-file | filecheck %s --check-prefix CPU
// RUN: vit-opt %s -p tile,tile --split-input-file | filecheck %s
// RUN: not vit-opt %s -p 'tile{target="abacus"}' --split-input-file 2>&1 | filecheck %s --check-prefix UNKNOWN

// UNKNOWN: vit-opt: error: unknown target 'abacus'; known: c, edge, p2vit, p2vit-large, trio, trio-large

// LayerNorm and the three products that read it are one chain; all that others read is yielded.
// Blocks of 40 rows leave no remainder but in the last one, and 192 is a multiple of 64 lanes. The
// weights stay on chip.
func.func @qkv(%a : tensor<1x197x192x!vit.fixed<i16, 8>>, %b : tensor<192x!vit.fixed<i8, 3>>, %c : tensor<192x!vit.fixed<i32, 8>>, %d : tensor<192x192x!vit.fixed<i8, 5>>, %e : tensor<192x192x!vit.fixed<i8, 5>>, %f : tensor<192x192x!vit.fixed<i8, 5>>) -> (tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<1x197x192x!vit.fixed<i8, 5>>) {
  %n = vit.layernorm %a, %b, %c : (tensor<1x197x192x!vit.fixed<i16, 8>>, tensor<192x!vit.fixed<i8, 3>>, tensor<192x!vit.fixed<i32, 8>>) -> tensor<1x197x192x!vit.fixed<i8, 5>>
  %q0 = vit.linear %n, %d : (tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<192x192x!vit.fixed<i8, 5>>) -> tensor<1x197x192x!vit.fixed<i32, 10>>
  %q1 = vit.pot_requant %q0 : (tensor<1x197x192x!vit.fixed<i32, 10>>) -> tensor<1x197x192x!vit.fixed<i8, 5>>
  %k0 = vit.linear %n, %e : (tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<192x192x!vit.fixed<i8, 5>>) -> tensor<1x197x192x!vit.fixed<i32, 10>>
  %k1 = vit.pot_requant %k0 : (tensor<1x197x192x!vit.fixed<i32, 10>>) -> tensor<1x197x192x!vit.fixed<i8, 5>>
  %v0 = vit.linear %n, %f : (tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<192x192x!vit.fixed<i8, 5>>) -> tensor<1x197x192x!vit.fixed<i32, 10>>
  %v1 = vit.pot_requant %v0 : (tensor<1x197x192x!vit.fixed<i32, 10>>) -> tensor<1x197x192x!vit.fixed<i8, 5>>
  return %q1, %k1, %v1 : tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<1x197x192x!vit.fixed<i8, 5>>, tensor<1x197x192x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @qkv(
// CHECK-NEXT: %{{.*}}, %{{.*}}, %{{.*}} = vit.pipeline {
// CHECK-NEXT: {{.*}}vit.layernorm %a, %b, %c {loops = #vit.loops<columns, [40, 192, 192], none, [row, all, all]>}
// CHECK-NEXT: {{.*}}vit.linear %{{.*}}, %d {loops = #vit.loops<reduction, [40, 32, 192], weight, [row, all]>}
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.linear %{{.*}}, %e
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.linear %{{.*}}, %f
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.yield
// CHECK-NEXT: } {schedule = #vit.schedule<"p2vit", 40>}
// CHECK-NEXT: func.return
// CPU-LABEL: @qkv(
// CPU: vit.linear %{{.*}}, %d {loops = #vit.loops<columns, [{{.*}}, 192, 192], weight, [row, all]>}
// CPU: schedule = #vit.schedule<"c",

// -----

// Keys and values are needed whole, so the first score waits for the chain that makes them.
// Scores, exponentials, product, division, projection and sum then flow row by row.
func.func @attention(%a : tensor<3x50x16x!vit.fixed<i16, 8>>, %b : tensor<3x50x16x!vit.fixed<i8, 5>>, %c : tensor<16x16x!vit.fixed<i8, 5>>, %d : tensor<16x16x!vit.fixed<i8, 5>>) -> tensor<3x50x16x!vit.fixed<i16, 8>> {
  %k0 = vit.linear %b, %c : (tensor<3x50x16x!vit.fixed<i8, 5>>, tensor<16x16x!vit.fixed<i8, 5>>) -> tensor<3x50x16x!vit.fixed<i32, 10>>
  %k = vit.pot_requant %k0 : (tensor<3x50x16x!vit.fixed<i32, 10>>) -> tensor<3x50x16x!vit.fixed<i8, 5>>
  %s = vit.matmul %b, %k {transpose_b} : (tensor<3x50x16x!vit.fixed<i8, 5>>, tensor<3x50x16x!vit.fixed<i8, 5>>) -> tensor<3x50x50x!vit.fixed<i32, 10>>
  %p, %t = vit.softmax_exp %s : (tensor<3x50x50x!vit.fixed<i32, 10>>) -> (tensor<3x50x50x!vit.fixed<ui8, 0>>, tensor<3x50x1x!vit.fixed<ui32, 0>>)
  %o = vit.matmul %p, %k : (tensor<3x50x50x!vit.fixed<ui8, 0>>, tensor<3x50x16x!vit.fixed<i8, 5>>) -> tensor<3x50x16x!vit.fixed<i32, 5>>
  %n = vit.normalize %o, %t : (tensor<3x50x16x!vit.fixed<i32, 5>>, tensor<3x50x1x!vit.fixed<ui32, 0>>) -> tensor<3x50x16x!vit.fixed<i8, 5>>
  %r = vit.linear %n, %d : (tensor<3x50x16x!vit.fixed<i8, 5>>, tensor<16x16x!vit.fixed<i8, 5>>) -> tensor<3x50x16x!vit.fixed<i32, 10>>
  %y = vit.add %a, %r : (tensor<3x50x16x!vit.fixed<i16, 8>>, tensor<3x50x16x!vit.fixed<i32, 10>>) -> tensor<3x50x16x!vit.fixed<i16, 8>>
  return %y : tensor<3x50x16x!vit.fixed<i16, 8>>
}
// CHECK-LABEL: @attention(
// CHECK-NEXT: %[[K:.*]] = vit.pipeline {
// CHECK-NEXT: {{.*}}vit.linear %b, %c
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.yield
// CHECK-NEXT: {{.*}}schedule
// CHECK-NEXT: %[[Y:.*]] = vit.pipeline {
// CHECK-NEXT: {{.*}}vit.matmul %b, %[[K]] {loops = #vit.loops<{{.*}}, weight, [row, all]>, transpose_b}
// CHECK-NEXT: {{.*}}vit.softmax_exp
// CHECK-NEXT: {{.*}}vit.matmul %{{.*}}, %[[K]] {{.*}}[row, all]
// CHECK-NEXT: {{.*}}vit.normalize {{.*}}[row, row]
// CHECK-NEXT: {{.*}}vit.linear
// CHECK-NEXT: {{.*}}vit.add
// CHECK-NEXT: {{.*}}vit.yield
// CHECK-NEXT: {{.*}}schedule
// CHECK-NEXT: func.return %[[Y]]

// -----

// Depthwise and pointwise convolutions follow within a halo of rows; a fourth product begins
// a new chain. A small table of weights stays on chip.
func.func @convolutions(%a : tensor<1x8x8x16x!vit.fixed<i8, 5>>, %b : tensor<16x2x2x16x!vit.fixed<i8, 5>>, %c : tensor<16x3x3x1x!vit.fixed<i8, 5>>, %d : tensor<32x1x1x16x!vit.fixed<i8, 5>>, %e : tensor<8x1x1x32x!vit.fixed<i8, 5>>) -> tensor<1x4x4x8x!vit.fixed<i8, 5>> {
  %0 = vit.conv2d %a, %b {strides = array<i64: 2, 2>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x8x8x16x!vit.fixed<i8, 5>>, tensor<16x2x2x16x!vit.fixed<i8, 5>>) -> tensor<1x4x4x16x!vit.fixed<i32, 10>>
  %1 = vit.pot_requant %0 : (tensor<1x4x4x16x!vit.fixed<i32, 10>>) -> tensor<1x4x4x16x!vit.fixed<i8, 5>>
  %2 = vit.conv2d %1, %c {strides = array<i64: 1, 1>, pads = array<i64: 1, 1, 1, 1>, groups = 16 : i64} : (tensor<1x4x4x16x!vit.fixed<i8, 5>>, tensor<16x3x3x1x!vit.fixed<i8, 5>>) -> tensor<1x4x4x16x!vit.fixed<i32, 10>>
  %3 = vit.pot_requant %2 : (tensor<1x4x4x16x!vit.fixed<i32, 10>>) -> tensor<1x4x4x16x!vit.fixed<i8, 5>>
  %4 = vit.conv2d %3, %d {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x16x!vit.fixed<i8, 5>>, tensor<32x1x1x16x!vit.fixed<i8, 5>>) -> tensor<1x4x4x32x!vit.fixed<i32, 10>>
  %5 = vit.pot_requant %4 : (tensor<1x4x4x32x!vit.fixed<i32, 10>>) -> tensor<1x4x4x32x!vit.fixed<i8, 5>>
  %6 = vit.conv2d %5, %e {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x32x!vit.fixed<i8, 5>>, tensor<8x1x1x32x!vit.fixed<i8, 5>>) -> tensor<1x4x4x8x!vit.fixed<i32, 10>>
  %y = vit.pot_requant %6 : (tensor<1x4x4x8x!vit.fixed<i32, 10>>) -> tensor<1x4x4x8x!vit.fixed<i8, 5>>
  return %y : tensor<1x4x4x8x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @convolutions(
// CHECK-NEXT: {{.*}}vit.pipeline {
// CHECK-NEXT: {{.*}}vit.conv2d %a, %b {{.*}}, [window, all]>
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.conv2d {{.*}}, [halo, all]>
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.conv2d {{.*}}, [row, all]>
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.yield
// CHECK-NEXT: {{.*}}schedule
// CHECK-NEXT: {{.*}}vit.pipeline {
// CHECK-NEXT: {{.*}}vit.conv2d
// CHECK-NEXT: {{.*}}vit.pot_requant

// -----

// A table stands between two products; constants stay outside. The sum reads an outer value.
func.func @mlp(%a : tensor<197x64x!vit.fixed<i16, 8>>, %b : tensor<197x64x!vit.fixed<i8, 5>>) -> tensor<197x64x!vit.fixed<i16, 8>> {
  %w = vit.constant {value = dense<1> : tensor<256x64xi8>} : tensor<256x64x!vit.fixed<i8, 5>>
  %t = vit.constant {value = dense<3> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 5>>
  %u = vit.constant {value = dense<1> : tensor<64x256xi8>} : tensor<64x256x!vit.fixed<i8, 5>>
  %0 = vit.linear %b, %w : (tensor<197x64x!vit.fixed<i8, 5>>, tensor<256x64x!vit.fixed<i8, 5>>) -> tensor<197x256x!vit.fixed<i32, 10>>
  %1 = vit.pot_requant %0 : (tensor<197x256x!vit.fixed<i32, 10>>) -> tensor<197x256x!vit.fixed<i8, 5>>
  %2 = vit.lut %1, %t : (tensor<197x256x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i8, 5>>) -> tensor<197x256x!vit.fixed<i8, 5>>
  %3 = vit.linear %2, %u : (tensor<197x256x!vit.fixed<i8, 5>>, tensor<64x256x!vit.fixed<i8, 5>>) -> tensor<197x64x!vit.fixed<i32, 10>>
  %y = vit.add %a, %3 : (tensor<197x64x!vit.fixed<i16, 8>>, tensor<197x64x!vit.fixed<i32, 10>>) -> tensor<197x64x!vit.fixed<i16, 8>>
  return %y : tensor<197x64x!vit.fixed<i16, 8>>
}
// CHECK-LABEL: @mlp(
// CHECK-COUNT-3: vit.constant
// CHECK-NEXT: {{.*}}vit.pipeline {
// CHECK-NEXT: {{.*}}vit.linear {{.*}}weight, [row, constant]>
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.lut {{.*}}[row, constant]>
// CHECK-NEXT: {{.*}}vit.linear
// CHECK-NEXT: {{.*}}vit.add %a, {{.*}}[row, row]>
// CHECK-NEXT: {{.*}}vit.yield

// -----

// A value that leaves a chain and comes back through one that needs it whole splits the chain.
func.func @circle(%a : tensor<8x8x!vit.fixed<i8, 5>>, %b : tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<8x8x!vit.fixed<i8, 5>> {
  %0 = vit.linear %a, %b : (tensor<8x8x!vit.fixed<i8, 5>>, tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<8x8x!vit.fixed<i32, 10>>
  %1 = vit.pot_requant %0 : (tensor<8x8x!vit.fixed<i32, 10>>) -> tensor<8x8x!vit.fixed<i8, 5>>
  %2 = vit.matmul %a, %1 : (tensor<8x8x!vit.fixed<i8, 5>>, tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<8x8x!vit.fixed<i32, 10>>
  %3 = vit.pot_requant %2 : (tensor<8x8x!vit.fixed<i32, 10>>) -> tensor<8x8x!vit.fixed<i8, 5>>
  %y = vit.add %3, %1 : (tensor<8x8x!vit.fixed<i8, 5>>, tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<8x8x!vit.fixed<i8, 5>>
  return %y : tensor<8x8x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @circle(
// CHECK-NEXT: %[[ONE:.*]] = vit.pipeline {
// CHECK-NEXT: {{.*}}vit.linear
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.yield
// CHECK-NEXT: {{.*}}schedule
// CHECK-NEXT: {{.*}}vit.pipeline {
// CHECK-NEXT: {{.*}}vit.matmul %a, %[[ONE]]
// CHECK-NEXT: {{.*}}vit.pot_requant
// CHECK-NEXT: {{.*}}vit.add %{{.*}}, %[[ONE]]

// -----

// An operation alone needs no pipeline, movement alone none either.
func.func @alone(%a : tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<4x8x!vit.fixed<i8, 5>> {
  %0 = vit.transpose %a {permutation = array<i64: 1, 0>} : (tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<8x8x!vit.fixed<i8, 5>>
  %1 = vit.slice %0 {offsets = array<i64: 0, 0>, sizes = array<i64: 4, 8>, strides = array<i64: 1, 1>} : (tensor<8x8x!vit.fixed<i8, 5>>) -> tensor<4x8x!vit.fixed<i8, 5>>
  return %1 : tensor<4x8x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @alone(
// CHECK-NEXT: {{.*}}vit.transpose
// CHECK-NEXT: {{.*}}vit.slice
// CHECK-NEXT: func.return

// -----

// The stage is recorded where a module has one.
builtin.module attributes {vit.stage = "pot"} {
}
// CHECK: vit.stage = "scheduled"
