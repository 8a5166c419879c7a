// RUN: vit-opt %s -p 'quantize{softmax=int16}' --split-input-file | filecheck %s --check-prefix=INT16
// RUN: vit-opt %s -p 'quantize{softmax=log2}' --split-input-file | filecheck %s --check-prefix=LOG2
// RUN: vit-opt %s -p 'quantize{residual=int8}' --split-input-file | filecheck %s --check-prefix=INT8
// RUN: vit-opt %s -p 'quantize{gelu=shift}' --split-input-file | filecheck %s --check-prefix=SHIFT
// RUN: vit-opt %s -p 'quantize{wide=gelu,input}' --split-input-file | filecheck %s --check-prefix=WIDE
// RUN: vit-opt %s -p 'quantize{divisor=pot}' --split-input-file | filecheck %s --check-prefix=POT
// RUN: not vit-opt %s -p 'quantize{softmax=best}' 2>&1 | filecheck %s --check-prefix=WRONG
// WRONG: error: quantize: softmax 'best' is not one of deferred, int8, int16, log2, auto

// Probabilities of 16 bits or of 4-bit exponents in place of exponentials and their sum.
// INT16:  vit.shiftmax {{.*}} -> tensor<1x2x2x!vit.fixed<i16, 15>>
// INT16:  vit.matmul {{.*}} : (tensor<1x2x2x!vit.fixed<i16, 15>>, tensor<1x2x2x!vit.fixed<i8,
// LOG2:   vit.log2_softmax {{.*}} -> tensor<1x2x2x!vit.log2>
// LOG2:   vit.log2_matmul
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%s: tensor<1x2x2xf32>, %v: tensor<1x2x2xf32>) -> tensor<1x2x2xf32> attributes {vit.input_ranges = array<f64: -4.0, 4.0, -1.0, 1.0>} {
    %p = onnx.Softmax %s {axis = 2 : i64, vit.range = array<f64: 0.0, 1.0>} : (tensor<1x2x2xf32>) -> tensor<1x2x2xf32>
    %y = onnx.MatMul %p, %v {vit.range = array<f64: -1.0, 1.0>} : (tensor<1x2x2xf32>, tensor<1x2x2xf32>) -> tensor<1x2x2xf32>
    func.return %y : tensor<1x2x2xf32>
  }
}

// -----

// A sum that a LayerNorm reads stays in 8 bits; it has 16 otherwise.
// INT8:      vit.add {{.*}} -> tensor<1x2x!vit.scaled<i8,
// INT8:      vit.layernorm {{.*}} : (tensor<1x2x!vit.scaled<i8,
// INT16:     vit.add {{.*}} -> tensor<1x2x!vit.scaled<i16,
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%a: tensor<1x2xf32>, %b: tensor<1x2xf32>) -> tensor<1x2xf32> attributes {vit.input_ranges = array<f64: -4.0, 4.0, -1.0, 1.0>} {
    %g = onnx.Constant dense<1.0> : tensor<2xf32>
    %s = onnx.Add %a, %b {vit.range = array<f64: -5.0, 5.0>} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x2xf32>
    %y = onnx.LayerNormalization %s, %g, %g {vit.range = array<f64: -2.0, 2.0>} : (tensor<1x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}

// -----

// GELU by shifts; or, read in 16 bits by the product behind it, an interpolated table.
// SHIFT:     vit.shift_gelu {{.*}} : (tensor<1x2x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i16, 12>>
// WIDE:      vit.lut {{.*}} {function = "gelu"} {{.*}} -> tensor<1x2x!vit.scaled<i16,
// WIDE:      vit.linear {{.*}} : (tensor<1x2x!vit.scaled<i16,
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> attributes {vit.input_ranges = array<f64: -3.0, 3.0>} {
    %w = onnx.Constant dense<1.0> : tensor<1x2xf32>
    %g = onnx.Gelu %x {vit.range = array<f64: -0.17, 3.0>} : (tensor<1x2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %g, %w {vit.range = array<f64: -0.4, 6.0>} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
    func.return %y : tensor<1x1xf32>
  }
}

// -----

// Linear attention divides by a power of two.
// POT: vit.linear_attn {{.*}}, divisor = "pot"
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%q: tensor<1x4x2xf32>, %k: tensor<1x4x2xf32>, %v: tensor<1x4x2xf32>) -> tensor<1x4x2xf32> attributes {vit.input_ranges = array<f64: -1.0, 1.0, -1.0, 1.0, -1.0, 1.0>} {
    %y = onnx.LinearAttention %q, %k, %v {eps = 1.0e-6 : f64, vit.state = array<f64: 4.0, 4.0>, vit.range = array<f64: -1.0, 1.0>} : (tensor<1x4x2xf32>, tensor<1x4x2xf32>, tensor<1x4x2xf32>) -> tensor<1x4x2xf32>
    func.return %y : tensor<1x4x2xf32>
  }
}
