// RUN: ROUNDTRIP

// Number formats: per tensor, zero point, per channel, real scales, log2.
func.func private @formats(tensor<4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<ui8, -2, zp = 3>>, tensor<3x!vit.fixed<i16, [5, -6, 7], axis = 0>>, tensor<2x!vit.scaled<i8, 0.0173, zp = -3>>, tensor<2x!vit.scaled<i32, [0.5, 1.0e-07], axis = 0>>, tensor<4x!vit.log2>, tensor<!vit.fixed<i4, 0>>, tensor<!vit.fixed<ui16, 0>>, tensor<!vit.fixed<ui32, 0>>, tensor<!vit.fixed<i64, 0>>)
// CHECK: func.func private @formats(tensor<4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<ui8, -2, zp = 3>>, tensor<3x!vit.fixed<i16, [5, -6, 7], axis = 0>>, tensor<2x!vit.scaled<i8, 0.0173, zp = -3>>, tensor<2x!vit.scaled<i32, [0.5, 1.0e-07], axis = 0>>, tensor<4x!vit.log2>, tensor<!vit.fixed<i4, 0>>, tensor<!vit.fixed<ui16, 0>>, tensor<!vit.fixed<ui32, 0>>, tensor<!vit.fixed<i64, 0>>) -> ()

// Model border, constants (inline, by digest, with float master).
func.func @border(%x : tensor<1x2xf32>) -> tensor<1x2xf32> {
// CHECK-LABEL: @border
  %q = vit.quantize %x {node_name = "input"} : (tensor<1x2xf32>) -> tensor<1x2x!vit.fixed<i8, 5>>
  // CHECK: vit.quantize %x {node_name = "input"} : (tensor<1x2xf32>) -> tensor<1x2x!vit.fixed<i8, 5>>
  %r = vit.dequantize %q : (tensor<1x2x!vit.fixed<i8, 5>>) -> tensor<1x2xf32>
  // CHECK: vit.dequantize %q : (tensor<1x2x!vit.fixed<i8, 5>>) -> tensor<1x2xf32>
  %w = vit.constant {value = dense<[[1, -2]]> : tensor<1x2xi8>} : tensor<1x2x!vit.fixed<i8, 5>>
  // CHECK: vit.constant {value = dense<{{\[\[}}1, -2]]> : tensor<1x2xi8>} : tensor<1x2x!vit.fixed<i8, 5>>
  %v = vit.constant {value = dense<7> : tensor<1x2xi4>, master = dense<[[0.5, 0.25]]> : tensor<1x2xf32>} : tensor<1x2x!vit.fixed<i4, 3>>
  // CHECK: vit.constant {value = dense<7> : tensor<1x2xi4>, master = dense<{{\[\[}}5.000000e-01, 2.500000e-01]]> : tensor<1x2xf32>} : tensor<1x2x!vit.fixed<i4, 3>>
  %a = vit.constant {value = #vit.asset<"w", "9f86d081884c7d65", tensor<8x16xi8>>} : tensor<8x16x!vit.fixed<i4, 3>>
  // CHECK: vit.constant {value = #vit.asset<"w", "9f86d081884c7d65", tensor<8x16xi8>>} : tensor<8x16x!vit.fixed<i4, 3>>
  "test.op"(%w, %v, %a) : (tensor<1x2x!vit.fixed<i8, 5>>, tensor<1x2x!vit.fixed<i4, 3>>, tensor<8x16x!vit.fixed<i4, 3>>) -> ()
  return %r : tensor<1x2xf32>
}

// Products: the accumulator's frac is the sum, per channel where the weight is.
func.func @products(%x : tensor<1x3x4x!vit.fixed<i8, 3>>, %w : tensor<2x4x!vit.fixed<i8, [5, 6], axis = 0>>, %b : tensor<2x!vit.fixed<i32, [8, 9], axis = 0>>, %s : tensor<1x3x4x!vit.scaled<ui8, 0.5, zp = 7>>, %sw : tensor<2x4x!vit.scaled<i8, 0.25>>) {
// CHECK-LABEL: @products
  %0 = vit.linear %x, %w, %b : (tensor<1x3x4x!vit.fixed<i8, 3>>, tensor<2x4x!vit.fixed<i8, [5, 6], axis = 0>>, tensor<2x!vit.fixed<i32, [8, 9], axis = 0>>) -> tensor<1x3x2x!vit.fixed<i32, [8, 9], axis = 2>>
  // CHECK: vit.linear %x, %w, %b : (tensor<1x3x4x!vit.fixed<i8, 3>>, tensor<2x4x!vit.fixed<i8, [5, 6], axis = 0>>, tensor<2x!vit.fixed<i32, [8, 9], axis = 0>>) -> tensor<1x3x2x!vit.fixed<i32, [8, 9], axis = 2>>
  %1 = vit.linear %s, %sw : (tensor<1x3x4x!vit.scaled<ui8, 0.5, zp = 7>>, tensor<2x4x!vit.scaled<i8, 0.25>>) -> tensor<1x3x2x!vit.scaled<i32, 0.125>>
  // CHECK: vit.linear %s, %sw : (tensor<1x3x4x!vit.scaled<ui8, 0.5, zp = 7>>, tensor<2x4x!vit.scaled<i8, 0.25>>) -> tensor<1x3x2x!vit.scaled<i32, 0.125>>
  %2 = vit.matmul %x, %x {transpose_b} : (tensor<1x3x4x!vit.fixed<i8, 3>>, tensor<1x3x4x!vit.fixed<i8, 3>>) -> tensor<1x3x3x!vit.fixed<i32, 6>>
  // CHECK: vit.matmul %x, %x {transpose_b} : (tensor<1x3x4x!vit.fixed<i8, 3>>, tensor<1x3x4x!vit.fixed<i8, 3>>) -> tensor<1x3x3x!vit.fixed<i32, 6>>
  "test.op"(%0, %1, %2) : (tensor<1x3x2x!vit.fixed<i32, [8, 9], axis = 2>>, tensor<1x3x2x!vit.scaled<i32, 0.125>>, tensor<1x3x3x!vit.fixed<i32, 6>>) -> ()
  return
}

func.func @matmul(%p : tensor<2x3x4x!vit.fixed<ui8, 0>>, %v : tensor<2x4x2x!vit.fixed<i8, [3, 4], axis = 2>>, %codes : tensor<2x3x4x!vit.log2>) {
// CHECK-LABEL: @matmul
  %0 = vit.matmul %p, %v : (tensor<2x3x4x!vit.fixed<ui8, 0>>, tensor<2x4x2x!vit.fixed<i8, [3, 4], axis = 2>>) -> tensor<2x3x2x!vit.fixed<i32, [3, 4], axis = 2>>
  // CHECK: vit.matmul %p, %v : (tensor<2x3x4x!vit.fixed<ui8, 0>>, tensor<2x4x2x!vit.fixed<i8, [3, 4], axis = 2>>) -> tensor<2x3x2x!vit.fixed<i32, [3, 4], axis = 2>>
  %1 = vit.log2_matmul %codes, %v : (tensor<2x3x4x!vit.log2>, tensor<2x4x2x!vit.fixed<i8, [3, 4], axis = 2>>) -> tensor<2x3x2x!vit.fixed<i32, [17, 18], axis = 2>>
  // CHECK: vit.log2_matmul %codes, %v : (tensor<2x3x4x!vit.log2>, tensor<2x4x2x!vit.fixed<i8, [3, 4], axis = 2>>) -> tensor<2x3x2x!vit.fixed<i32, [17, 18], axis = 2>>
  "test.op"(%0, %1) : (tensor<2x3x2x!vit.fixed<i32, [3, 4], axis = 2>>, tensor<2x3x2x!vit.fixed<i32, [17, 18], axis = 2>>) -> ()
  return
}

func.func @convolutions(%x : tensor<1x8x8x4x!vit.fixed<i8, 3>>, %c : tensor<1x8x8x2x!vit.fixed<i8, [3, 4], axis = 3>>, %w : tensor<6x3x3x4x!vit.fixed<i8, 5>>, %d : tensor<2x3x3x1x!vit.fixed<i8, 5>>, %b : tensor<6x!vit.fixed<i32, 8>>) {
// CHECK-LABEL: @convolutions
  %0 = vit.conv2d %x, %w, %b {strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x8x8x4x!vit.fixed<i8, 3>>, tensor<6x3x3x4x!vit.fixed<i8, 5>>, tensor<6x!vit.fixed<i32, 8>>) -> tensor<1x4x4x6x!vit.fixed<i32, 8>>
  // CHECK: vit.conv2d %x, %w, %b {strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>} : (tensor<1x8x8x4x!vit.fixed<i8, 3>>, tensor<6x3x3x4x!vit.fixed<i8, 5>>, tensor<6x!vit.fixed<i32, 8>>) -> tensor<1x4x4x6x!vit.fixed<i32, 8>>
  %1 = vit.conv2d %c, %d {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 2, 2>, groups = 2 : i64} : (tensor<1x8x8x2x!vit.fixed<i8, [3, 4], axis = 3>>, tensor<2x3x3x1x!vit.fixed<i8, 5>>) -> tensor<1x4x4x2x!vit.fixed<i32, [8, 9], axis = 3>>
  // CHECK: vit.conv2d %c, %d {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 2, 2>, groups = 2 : i64} : (tensor<1x8x8x2x!vit.fixed<i8, [3, 4], axis = 3>>, tensor<2x3x3x1x!vit.fixed<i8, 5>>) -> tensor<1x4x4x2x!vit.fixed<i32, [8, 9], axis = 3>>
  %2 = vit.conv_transpose2d %x, %w {strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>, output_padding = array<i64: 1, 1>} : (tensor<1x8x8x4x!vit.fixed<i8, 3>>, tensor<6x3x3x4x!vit.fixed<i8, 5>>) -> tensor<1x16x16x6x!vit.fixed<i32, 8>>
  // CHECK: vit.conv_transpose2d %x, %w {strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>, output_padding = array<i64: 1, 1>} : (tensor<1x8x8x4x!vit.fixed<i8, 3>>, tensor<6x3x3x4x!vit.fixed<i8, 5>>) -> tensor<1x16x16x6x!vit.fixed<i32, 8>>
  "test.op"(%0, %1, %2) : (tensor<1x4x4x6x!vit.fixed<i32, 8>>, tensor<1x4x4x2x!vit.fixed<i32, [8, 9], axis = 3>>, tensor<1x16x16x6x!vit.fixed<i32, 8>>) -> ()
  return
}

// Requantisation and elementwise sums, products, limits.
func.func @requantisation(%a : tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>, %s : tensor<1x2x!vit.scaled<i32, 0.001>>, %r : tensor<1x2x!vit.fixed<i16, 7>>, %q : tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) {
// CHECK-LABEL: @requantisation
  %0 = vit.pot_requant %a : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>) -> tensor<1x2x!vit.fixed<i8, 4, zp = -5>>
  // CHECK: vit.pot_requant %a : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>) -> tensor<1x2x!vit.fixed<i8, 4, zp = -5>>
  %1 = vit.pot_requant %a {rounding = "rhe"} : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>) -> tensor<1x2x!vit.fixed<i8, [3, 5], axis = 1>>
  // CHECK: vit.pot_requant %a {rounding = "rhe"} : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>) -> tensor<1x2x!vit.fixed<i8, [3, 5], axis = 1>>
  %2 = vit.requant %s : (tensor<1x2x!vit.scaled<i32, 0.001>>) -> tensor<1x2x!vit.scaled<i8, 0.1, zp = 3>>
  // CHECK: vit.requant %s : (tensor<1x2x!vit.scaled<i32, 0.001>>) -> tensor<1x2x!vit.scaled<i8, 0.1, zp = 3>>
  %3 = vit.add %a, %r {rounding = "floor"} : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>, tensor<1x2x!vit.fixed<i16, 7>>) -> tensor<1x2x!vit.fixed<i16, 6>>
  // CHECK: vit.add %a, %r {rounding = "floor"} : (tensor<1x2x!vit.fixed<i32, [8, 9], axis = 1>>, tensor<1x2x!vit.fixed<i16, 7>>) -> tensor<1x2x!vit.fixed<i16, 6>>
  %4 = vit.mul %q, %q : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>, tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<i16, 8>>
  // CHECK: vit.mul %q, %q : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>, tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<i16, 8>>
  %5 = vit.clamp %q {min = 9 : i64, max = 200 : i64} : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>
  // CHECK: vit.clamp %q {min = 9 : i64, max = 200 : i64} : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>
  %6 = vit.reinterpret %q {exponent = -3 : i64} : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<ui8, 7, zp = 9>>
  // CHECK: vit.reinterpret %q {exponent = -3 : i64} : (tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>) -> tensor<1x2x!vit.fixed<ui8, 7, zp = 9>>
  "test.op"(%0, %1, %2, %3, %4, %5, %6) : (tensor<1x2x!vit.fixed<i8, 4, zp = -5>>, tensor<1x2x!vit.fixed<i8, [3, 5], axis = 1>>, tensor<1x2x!vit.scaled<i8, 0.1, zp = 3>>, tensor<1x2x!vit.fixed<i16, 6>>, tensor<1x2x!vit.fixed<i16, 8>>, tensor<1x2x!vit.fixed<ui8, 4, zp = 9>>, tensor<1x2x!vit.fixed<ui8, 7, zp = 9>>) -> ()
  return
}

// Softmaxes, activations, normalisation, linear attention.
func.func @nonlinear(%s : tensor<2x3x5x!vit.fixed<i32, 6>>, %o : tensor<2x3x4x!vit.fixed<i32, 5>>, %g : tensor<2x4x!vit.fixed<i8, 4>>, %t : tensor<256x!vit.fixed<i8, 5, zp = -100>>, %w : tensor<2x4x!vit.fixed<i16, 8>>, %t16 : tensor<257x!vit.fixed<i16, 8>>) {
// CHECK-LABEL: @nonlinear
  %0, %1 = vit.softmax_exp %s : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> (tensor<2x3x5x!vit.fixed<ui8, 0>>, tensor<2x3x1x!vit.fixed<ui32, 0>>)
  // CHECK: vit.softmax_exp %s : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> (tensor<2x3x5x!vit.fixed<ui8, 0>>, tensor<2x3x1x!vit.fixed<ui32, 0>>)
  %2 = vit.normalize %o, %1 {rounding = "rhe"} : (tensor<2x3x4x!vit.fixed<i32, 5>>, tensor<2x3x1x!vit.fixed<ui32, 0>>) -> tensor<2x3x4x!vit.fixed<i8, 4>>
  // CHECK: vit.normalize %o, %1 {rounding = "rhe"} : (tensor<2x3x4x!vit.fixed<i32, 5>>, tensor<2x3x1x!vit.fixed<ui32, 0>>) -> tensor<2x3x4x!vit.fixed<i8, 4>>
  %3 = vit.shiftmax %s {n = 12 : i64, mode = "ivit"} : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> tensor<2x3x5x!vit.fixed<i16, 15>>
  // CHECK: vit.shiftmax %s {n = 12 : i64, mode = "ivit"} : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> tensor<2x3x5x!vit.fixed<i16, 15>>
  %4 = vit.log2_softmax %s : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> tensor<2x3x5x!vit.log2>
  // CHECK: vit.log2_softmax %s : (tensor<2x3x5x!vit.fixed<i32, 6>>) -> tensor<2x3x5x!vit.log2>
  %5 = vit.lut %g, %t {function = "gelu"} : (tensor<2x4x!vit.fixed<i8, 4>>, tensor<256x!vit.fixed<i8, 5, zp = -100>>) -> tensor<2x4x!vit.fixed<i8, 5, zp = -100>>
  // CHECK: vit.lut %g, %t {function = "gelu"} : (tensor<2x4x!vit.fixed<i8, 4>>, tensor<256x!vit.fixed<i8, 5, zp = -100>>) -> tensor<2x4x!vit.fixed<i8, 5, zp = -100>>
  %6 = vit.lut %w, %t16 : (tensor<2x4x!vit.fixed<i16, 8>>, tensor<257x!vit.fixed<i16, 8>>) -> tensor<2x4x!vit.fixed<i16, 8>>
  // CHECK: vit.lut %w, %t16 : (tensor<2x4x!vit.fixed<i16, 8>>, tensor<257x!vit.fixed<i16, 8>>) -> tensor<2x4x!vit.fixed<i16, 8>>
  %7 = vit.shift_gelu %g {mode = "ivit"} : (tensor<2x4x!vit.fixed<i8, 4>>) -> tensor<2x4x!vit.fixed<i16, 11>>
  // CHECK: vit.shift_gelu %g {mode = "ivit"} : (tensor<2x4x!vit.fixed<i8, 4>>) -> tensor<2x4x!vit.fixed<i16, 11>>
  "test.op"(%2, %3, %4, %5, %6, %7) : (tensor<2x3x4x!vit.fixed<i8, 4>>, tensor<2x3x5x!vit.fixed<i16, 15>>, tensor<2x3x5x!vit.log2>, tensor<2x4x!vit.fixed<i8, 5, zp = -100>>, tensor<2x4x!vit.fixed<i16, 8>>, tensor<2x4x!vit.fixed<i16, 11>>) -> ()
  return
}

func.func @rows(%x : tensor<3x2x!vit.fixed<i8, [5, 4], axis = 1>>, %g : tensor<2x!vit.fixed<i8, 6>>, %b : tensor<2x!vit.fixed<i32, [10, 12], axis = 0>>, %q : tensor<1x4x2x!vit.fixed<ui8, 4>>, %v : tensor<1x4x3x!vit.fixed<i8, 5>>) {
// CHECK-LABEL: @rows
  %0 = vit.layernorm %x, %g, %b {eps_q = 5 : i64} : (tensor<3x2x!vit.fixed<i8, [5, 4], axis = 1>>, tensor<2x!vit.fixed<i8, 6>>, tensor<2x!vit.fixed<i32, [10, 12], axis = 0>>) -> tensor<3x2x!vit.fixed<i8, [4, 5], axis = 1>>
  // CHECK: vit.layernorm %x, %g, %b {eps_q = 5 : i64} : (tensor<3x2x!vit.fixed<i8, [5, 4], axis = 1>>, tensor<2x!vit.fixed<i8, 6>>, tensor<2x!vit.fixed<i32, [10, 12], axis = 0>>) -> tensor<3x2x!vit.fixed<i8, [4, 5], axis = 1>>
  %1 = vit.linear_attn %q, %q, %v {kv_shift = 3 : i64, ksum_shift = 2 : i64, divisor = "pot"} : (tensor<1x4x2x!vit.fixed<ui8, 4>>, tensor<1x4x2x!vit.fixed<ui8, 4>>, tensor<1x4x3x!vit.fixed<i8, 5>>) -> tensor<1x4x3x!vit.fixed<i8, 4>>
  // CHECK: vit.linear_attn %q, %q, %v {kv_shift = 3 : i64, ksum_shift = 2 : i64, divisor = "pot"} : (tensor<1x4x2x!vit.fixed<ui8, 4>>, tensor<1x4x2x!vit.fixed<ui8, 4>>, tensor<1x4x3x!vit.fixed<i8, 5>>) -> tensor<1x4x3x!vit.fixed<i8, 4>>
  "test.op"(%0, %1) : (tensor<3x2x!vit.fixed<i8, [4, 5], axis = 1>>, tensor<1x4x3x!vit.fixed<i8, 4>>) -> ()
  return
}

// Reductions and resampling of NHWC images.
func.func @images(%x : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
// CHECK-LABEL: @images
  %0 = vit.mean %x {axes = array<i64: 1, 2>, keepdims} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x1x1x2x!vit.fixed<i8, 6>>
  // CHECK: vit.mean %x {axes = array<i64: 1, 2>, keepdims} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x1x1x2x!vit.fixed<i8, 6>>
  %1 = vit.avg_pool2d %x {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>, count_include_pad} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x3x3x2x!vit.fixed<i8, 5>>
  // CHECK: vit.avg_pool2d %x {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, pads = array<i64: 1, 1, 1, 1>, count_include_pad} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x3x3x2x!vit.fixed<i8, 5>>
  %2 = vit.max_pool2d %x {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x2x!vit.fixed<i8, 5>>
  // CHECK: vit.max_pool2d %x {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x2x!vit.fixed<i8, 5>>
  %3 = vit.resize %x {mode = "linear", coordinates = "align_corners"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x7x7x2x!vit.fixed<i8, 4>>
  // CHECK: vit.resize %x {mode = "linear", coordinates = "align_corners"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x7x7x2x!vit.fixed<i8, 4>>
  %4 = vit.resize %x {mode = "nearest", nearest = "floor"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  // CHECK: vit.resize %x {mode = "nearest", nearest = "floor"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  "test.op"(%0, %1, %2, %3, %4) : (tensor<1x1x1x2x!vit.fixed<i8, 6>>, tensor<1x3x3x2x!vit.fixed<i8, 5>>, tensor<1x2x2x2x!vit.fixed<i8, 5>>, tensor<1x7x7x2x!vit.fixed<i8, 4>>, tensor<1x8x8x2x!vit.fixed<i8, 5>>) -> ()
  return
}

// Movement takes a channel axis with it.
func.func @movement(%x : tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>, %y : tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>) {
// CHECK-LABEL: @movement
  %0 = vit.reshape %x : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<1x2x3x2x2x!vit.fixed<i8, [5, 6, 7], axis = 2>>
  // CHECK: vit.reshape %x : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<1x2x3x2x2x!vit.fixed<i8, [5, 6, 7], axis = 2>>
  %1 = vit.transpose %x {permutation = array<i64: 2, 0, 1>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<4x2x3x!vit.fixed<i8, [5, 6, 7], axis = 2>>
  // CHECK: vit.transpose %x {permutation = array<i64: 2, 0, 1>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<4x2x3x!vit.fixed<i8, [5, 6, 7], axis = 2>>
  %2 = vit.slice %x {offsets = array<i64: 0, 0, 1>, sizes = array<i64: 2, 2, 3>, strides = array<i64: 1, 2, 1>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<2x2x3x!vit.fixed<i8, [5, 7], axis = 1>>
  // CHECK: vit.slice %x {offsets = array<i64: 0, 0, 1>, sizes = array<i64: 2, 2, 3>, strides = array<i64: 1, 2, 1>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<2x2x3x!vit.fixed<i8, [5, 7], axis = 1>>
  %3 = vit.gather %x {axis = 1 : i64, indices = array<i64: 2, 0>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<2x2x4x!vit.fixed<i8, [7, 5], axis = 1>>
  // CHECK: vit.gather %x {axis = 1 : i64, indices = array<i64: 2, 0>} : (tensor<2x3x4x!vit.fixed<i8, [5, 6, 7], axis = 1>>) -> tensor<2x2x4x!vit.fixed<i8, [7, 5], axis = 1>>
  %4 = vit.concat %y, %y {axis = 0 : i64} : (tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>, tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>) -> tensor<4x3x!vit.fixed<ui8, 5, zp = 4>>
  // CHECK: vit.concat %y, %y {axis = 0 : i64} : (tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>, tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>) -> tensor<4x3x!vit.fixed<ui8, 5, zp = 4>>
  %5 = vit.pad %y {low = array<i64: 0, 1>, high = array<i64: 2, 0>} : (tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>) -> tensor<4x4x!vit.fixed<ui8, 5, zp = 4>>
  // CHECK: vit.pad %y {low = array<i64: 0, 1>, high = array<i64: 2, 0>} : (tensor<2x3x!vit.fixed<ui8, 5, zp = 4>>) -> tensor<4x4x!vit.fixed<ui8, 5, zp = 4>>
  "test.op"(%0, %1, %2, %3, %4, %5) : (tensor<1x2x3x2x2x!vit.fixed<i8, [5, 6, 7], axis = 2>>, tensor<4x2x3x!vit.fixed<i8, [5, 6, 7], axis = 2>>, tensor<2x2x3x!vit.fixed<i8, [5, 7], axis = 1>>, tensor<2x2x4x!vit.fixed<i8, [7, 5], axis = 1>>, tensor<4x3x!vit.fixed<ui8, 5, zp = 4>>, tensor<4x4x!vit.fixed<ui8, 5, zp = 4>>) -> ()
  return
}

// A pipeline works on whole tensors; its attributes only schedule it.
func.func @pipeline(%x : tensor<4x2x!vit.fixed<i8, 5>>, %w : tensor<2x2x!vit.fixed<i8, 6>>) -> tensor<4x2x!vit.fixed<i8, 4>> {
// CHECK-LABEL: @pipeline
  %y = vit.pipeline {
  // CHECK: %y = vit.pipeline {
    %a = vit.linear %x, %w {loops = #vit.loops<columns, [4, 2, 2], weight, [row, constant]>} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<2x2x!vit.fixed<i8, 6>>) -> tensor<4x2x!vit.fixed<i32, 11>>
    // CHECK: vit.linear %x, %w {loops = #vit.loops<columns, [4, 2, 2], weight, [row, constant]>} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<2x2x!vit.fixed<i8, 6>>) -> tensor<4x2x!vit.fixed<i32, 11>>
    %q = vit.pot_requant %a {loops = #vit.loops<rows, [4, 2, 1], none, [row]>} : (tensor<4x2x!vit.fixed<i32, 11>>) -> tensor<4x2x!vit.fixed<i8, 4>>
    // CHECK: vit.pot_requant %a {loops = #vit.loops<rows, [4, 2, 1], none, [row]>} : (tensor<4x2x!vit.fixed<i32, 11>>) -> tensor<4x2x!vit.fixed<i8, 4>>
    vit.yield %q : tensor<4x2x!vit.fixed<i8, 4>>
    // CHECK-NEXT: vit.yield %q : tensor<4x2x!vit.fixed<i8, 4>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<4x2x!vit.fixed<i8, 4>>
  // CHECK-NEXT: } {schedule = #vit.schedule<"p2vit", 4>} : tensor<4x2x!vit.fixed<i8, 4>>
  return %y : tensor<4x2x!vit.fixed<i8, 4>>
}
