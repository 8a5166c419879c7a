// RUN: vit-opt %s -p prove-ranges --verify-diagnostics --split-input-file | filecheck %s

// The accumulator of x in -128..127 with the weights [[3, -2], [1, 1]] and bias [10, -5]:
// row 0 is 127*3 + 128*2 + 10 at most and -128*3 - 127*2 + 10 at least.
func.func @linear(%x : tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i32, 8>> {
  %w = vit.constant {value = dense<[[3, -2], [1, 1]]> : tensor<2x2xi8>} : tensor<2x2x!vit.fixed<i8, 3>>
  %b = vit.constant {value = dense<[10, -5]> : tensor<2xi32>} : tensor<2x!vit.fixed<i32, 8>>
  %a = vit.linear %x, %w, %b : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<2x2x!vit.fixed<i8, 3>>, tensor<2x!vit.fixed<i32, 8>>) -> tensor<4x2x!vit.fixed<i32, 8>>
  return %a : tensor<4x2x!vit.fixed<i32, 8>>
}
// CHECK-LABEL: @linear
// CHECK: vit.linear %x, %w, %b {range = array<i64: -628, 647>}

// -----

// A zero point moves the interval of x to -3..252, a clamp narrows it to 0..7.
func.func @zero_point(%x : tensor<4x2x!vit.fixed<ui8, 5, zp = 3>>) {
  %w = vit.constant {value = dense<[[1, 1]]> : tensor<1x2xi8>} : tensor<1x2x!vit.fixed<i8, 3>>
  %a = vit.linear %x, %w : (tensor<4x2x!vit.fixed<ui8, 5, zp = 3>>, tensor<1x2x!vit.fixed<i8, 3>>) -> tensor<4x1x!vit.fixed<i32, 8>>
  %c = vit.clamp %x {min = 3 : i64, max = 10 : i64} : (tensor<4x2x!vit.fixed<ui8, 5, zp = 3>>) -> tensor<4x2x!vit.fixed<ui8, 5, zp = 3>>
  %d = vit.linear %c, %w : (tensor<4x2x!vit.fixed<ui8, 5, zp = 3>>, tensor<1x2x!vit.fixed<i8, 3>>) -> tensor<4x1x!vit.fixed<i32, 8>>
  "test.op"(%a, %d) : (tensor<4x1x!vit.fixed<i32, 8>>, tensor<4x1x!vit.fixed<i32, 8>>) -> ()
  return
}
// CHECK-LABEL: @zero_point
// CHECK: vit.linear %x, %w {range = array<i64: -6, 504>}
// CHECK: vit.linear %c, %w {range = array<i64: 0, 14>}

// -----

// Unknown weights may all be -128: 3 * 3 * 4 * 128 * 128.
func.func @convolution(%x : tensor<1x4x4x4x!vit.fixed<i8, 5>>, %w : tensor<2x3x3x4x!vit.fixed<i8, 5>>) {
  %a = vit.conv2d %x, %w {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x4x!vit.fixed<i8, 5>>, tensor<2x3x3x4x!vit.fixed<i8, 5>>) -> tensor<1x2x2x2x!vit.fixed<i32, 10>>
  "test.op"(%a) : (tensor<1x2x2x2x!vit.fixed<i32, 10>>) -> ()
  return
}
// CHECK-LABEL: @convolution
// CHECK: vit.conv2d %x, %w {range = array<i64: -585216, 589824>

// -----

// Attention: exponentials are at most 255, the product with the reciprocal is acc * 2^16.
func.func @attention(%s : tensor<2x3x5x!vit.fixed<i32, 6>>, %v : tensor<2x5x4x!vit.fixed<i8, 5>>) {
  %p, %sum = vit.softmax_exp %s : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> (tensor<2x3x5x!vit.fixed<ui8, 0>>, tensor<2x3x1x!vit.fixed<ui32, 0>>)
  %a = vit.matmul %p, %v : (tensor<2x3x5x!vit.fixed<ui8, 0>>, tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x3x4x!vit.fixed<i32, 5>>
  %y = vit.normalize %a, %sum : (tensor<2x3x4x!vit.fixed<i32, 5>>, tensor<2x3x1x!vit.fixed<ui32, 0>>) -> tensor<2x3x4x!vit.fixed<i8, 4>>
  "test.op"(%y) : (tensor<2x3x4x!vit.fixed<i8, 4>>) -> ()
  return
}
// CHECK-LABEL: @attention
// CHECK: vit.matmul %p, %v {range = array<i64: -163200, 161925>}
// CHECK: vit.normalize %a, %sum {range = array<i64: -10695475200, 10611916800>}

// -----

// A sum is aligned to the finer grid; per channel to that of each channel. Tables and shifts
// bound what comes after them.
func.func @elementwise(%a : tensor<4x2x!vit.fixed<i8, [5, 7], axis = 1>>, %r : tensor<4x2x!vit.fixed<i16, 7>>, %x : tensor<2x!vit.fixed<i8, 4>>) {
  %s = vit.add %a, %r : (tensor<4x2x!vit.fixed<i8, [5, 7], axis = 1>>, tensor<4x2x!vit.fixed<i16, 7>>) -> tensor<4x2x!vit.fixed<i16, 6>>
  %t = vit.constant {value = dense<7> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 5>>
  %l = vit.lut %x, %t : (tensor<2x!vit.fixed<i8, 4>>, tensor<256x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  %q = vit.pot_requant %x : (tensor<2x!vit.fixed<i8, 4>>) -> tensor<2x!vit.fixed<i8, 1>>
  %m = vit.mul %l, %q : (tensor<2x!vit.fixed<i8, 5>>, tensor<2x!vit.fixed<i8, 1>>) -> tensor<2x!vit.fixed<i8, 2>>
  %e = vit.mean %x {axes = array<i64: 0>} : (tensor<2x!vit.fixed<i8, 4>>) -> tensor<!vit.fixed<i8, 5>>
  "test.op"(%s, %m, %e) : (tensor<4x2x!vit.fixed<i16, 6>>, tensor<2x!vit.fixed<i8, 2>>, tensor<!vit.fixed<i8, 5>>) -> ()
  return
}
// CHECK-LABEL: @elementwise
// CHECK: vit.add %a, %r {range = array<i64: -33280, 33275>}
// CHECK: vit.mul %l, %q {range = array<i64: -112, 112>}
// CHECK: vit.mean %x {range = array<i64: -256, 254>

// -----

// |N| <= 1024 sqrt(3) * 64/63 + 2 = 1803; 1803 * 2 + (5 << 2).
func.func @layernorm(%x : tensor<3x4x!vit.fixed<i16, 8>>) {
  %g = vit.constant {value = dense<[1, -2, 1, 1]> : tensor<4xi8>} : tensor<4x!vit.fixed<i8, 0>>
  %b = vit.constant {value = dense<[0, 5, 0, 0]> : tensor<4xi32>} : tensor<4x!vit.fixed<i32, 8>>
  %y = vit.layernorm %x, %g, %b : (tensor<3x4x!vit.fixed<i16, 8>>, tensor<4x!vit.fixed<i8, 0>>, tensor<4x!vit.fixed<i32, 8>>) -> tensor<3x4x!vit.fixed<i8, 5>>
  "test.op"(%y) : (tensor<3x4x!vit.fixed<i8, 5>>) -> ()
  return
}
// CHECK-LABEL: @layernorm
// CHECK: vit.layernorm %x, %g, %b {range = array<i64: -3586, 3626>}

// -----

// Values of a pipeline are those of its body.
func.func @pipeline(%x : tensor<4x2x!vit.fixed<i8, 5>>, %y : tensor<4x2x!vit.fixed<i8, 5>>) {
  %c = vit.pipeline {
    %0 = vit.clamp %x {min = 0 : i64, max = 3 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 5>>
    vit.yield %0 : tensor<4x2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<4x2x!vit.fixed<i8, 5>>
  %a = vit.add %c, %c : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 4>>
  "test.op"(%a) : (tensor<4x2x!vit.fixed<i8, 4>>) -> ()
  return
}
// CHECK-LABEL: @pipeline
// CHECK: vit.add %c, %c {range = array<i64: 0, 6>}

// -----

// 16-bit factors of 8 columns fill 33 bits.
func.func @overflow(%x : tensor<4x8x!vit.fixed<i16, 5>>, %w : tensor<2x8x!vit.fixed<i16, 5>>) {
  %a = vit.linear %x, %w {node_name = "head"} : (tensor<4x8x!vit.fixed<i16, 5>>, tensor<2x8x!vit.fixed<i16, 5>>) -> tensor<4x2x!vit.fixed<i32, 10>>
  return
}
// CHECK: prove-ranges: vit.linear "head": the sum before the bias may reach -8589672448 to 8589934592, but has 32 bits; use narrower operands or exponents closer to each other

// -----

// The bias alone may push a sum over the edge.
func.func @overflow_bias(%x : tensor<1x1x!vit.fixed<i8, 5>>) {
  %w = vit.constant {value = dense<1> : tensor<1x1xi8>} : tensor<1x1x!vit.fixed<i8, 5>>
  %b = vit.constant {value = dense<2147483600> : tensor<1xi32>} : tensor<1x!vit.fixed<i32, 10>>
  %a = vit.linear %x, %w, %b : (tensor<1x1x!vit.fixed<i8, 5>>, tensor<1x1x!vit.fixed<i8, 5>>, tensor<1x!vit.fixed<i32, 10>>) -> tensor<1x1x!vit.fixed<i32, 10>>
  return
}
// CHECK: vit.linear: the accumulator may reach 2147483472 to 2147483727, but has 32 bits

// -----

func.func @overflow_matmul(%x : tensor<4x8x!vit.fixed<i16, 5>>) {
  %a = vit.matmul %x, %x {transpose_b, node_name = "scores"} : (tensor<4x8x!vit.fixed<i16, 5>>, tensor<4x8x!vit.fixed<i16, 5>>) -> tensor<4x4x!vit.fixed<i32, 10>>
  return
}
// CHECK: vit.matmul "scores": the accumulator may reach

// -----

// Exponents 60 apart cannot be aligned in 64 bits.
func.func @overflow_add(%a : tensor<2x!vit.fixed<i8, 60>>, %b : tensor<2x!vit.fixed<i8, 0>>) {
  %s = vit.add %a, %b {node_name = "residual"} : (tensor<2x!vit.fixed<i8, 60>>, tensor<2x!vit.fixed<i8, 0>>) -> tensor<2x!vit.fixed<i8, 0>>
  return
}
// CHECK: vit.add "residual": an aligned operand may reach {{.*}}, but has 64 bits

// -----

func.func @overflow_mul(%a : tensor<2x!vit.fixed<i64, 0>>) {
  %s = vit.mul %a, %a : (tensor<2x!vit.fixed<i64, 0>>, tensor<2x!vit.fixed<i64, 0>>) -> tensor<2x!vit.fixed<i8, 0>>
  return
}
// CHECK: vit.mul: the product may reach {{.*}}, but has 64 bits

// -----

// Channels of 16 bits fit, with a spread of exponents they do not.
func.func @overflow_layernorm(%x : tensor<1x2x!vit.fixed<i16, [0, 20], axis = 1>>, %g : tensor<2x!vit.fixed<i8, 0>>, %b : tensor<2x!vit.fixed<i32, 0>>) {
  %y = vit.layernorm %x, %g, %b : (tensor<1x2x!vit.fixed<i16, [0, 20], axis = 1>>, tensor<2x!vit.fixed<i8, 0>>, tensor<2x!vit.fixed<i32, 0>>) -> tensor<1x2x!vit.fixed<i8, 5>>
  return
}
// CHECK: vit.layernorm: C * sum X^2 may reach {{.*}}, but has 64 bits

// -----

// A variance that fits is enough: V << 12, which is never formed, needs 66 bits here.
func.func @wide_variance(%x : tensor<1x2x!vit.fixed<i16, [0, 11], axis = 1>>, %g : tensor<2x!vit.fixed<i8, 0>>, %b : tensor<2x!vit.fixed<i32, 0>>) {
  %y = vit.layernorm %x, %g, %b : (tensor<1x2x!vit.fixed<i16, [0, 11], axis = 1>>, tensor<2x!vit.fixed<i8, 0>>, tensor<2x!vit.fixed<i32, 0>>) -> tensor<1x2x!vit.fixed<i8, 5>>
  return
}
// CHECK-LABEL: @wide_variance

// -----

// Linear attention divides by a sum of products, which must not be negative.
func.func @linear_attn(%q : tensor<4x2x!vit.fixed<i8, 5>>) {
  %y = vit.linear_attn %q, %q, %q {kv_shift = 3 : i64, ksum_shift = 2 : i64, node_name = "attn"} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 4>>
  return
}
// CHECK: vit.linear_attn "attn": q may reach -128, but must not be negative; put vit.clamp with min 0 before it

// -----

// After ReLU it may run: num = 2 * 127 * 128 at most.
func.func @linear_attn_relu(%x : tensor<4x2x!vit.fixed<i8, 5>>) {
  %q = vit.clamp %x {min = 0 : i64, max = 127 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 5>>
  %y = vit.linear_attn %q, %q, %x {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 4>>
  return
}
// CHECK-LABEL: @linear_attn_relu
// CHECK: vit.linear_attn %q, %q, %x {range = array<i64: -2130706432, 2114060288>
