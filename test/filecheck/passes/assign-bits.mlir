// RUN: vit-opt %s -p assign-bits | filecheck %s --check-prefix=WIDE
// RUN: vit-opt %s -p 'assign-bits{bits=4}' | filecheck %s --check-prefix=NARROW
// RUN: vit-opt %s -p 'assign-bits{bits=4},quantize,pot-fold' | filecheck %s --check-prefix=POT
// RUN: vit-opt %s -p 'assign-bits{bits=4 form=group},quantize,pot-fold' | filecheck %s --check-prefix=GRID
// RUN: not vit-opt %s -p 'assign-bits{budget=0.8}' 2>&1 | filecheck %s --check-prefix=DATA

// By default every weight has 8 bits and nothing is written. With 4 everywhere the layer says so.
// WIDE-NOT:    vit.weight_bits
// NARROW:      onnx.Linear %x, %w {{{.*}}vit.weight_bits = 4}

// Layers of 4 bits have their own storage; 0.7 is 7 at frac 3 and would be 11 at frac 4: the finer
// grid clips it and is worse. Groups of weights lie on the row's 8-bit grid: 0.7 is 89.6 there, and
// the nearest multiple of the step 2^4 that its group needs is 96.
// POT:         vit.constant {value = dense<{{\[\[}}6, -3], [4, 7]]> : tensor<2x2xi4>{{.*}}} : tensor<2x2x!vit.fixed<i4, [3, 5], axis = 0>>
// GRID:        vit.constant {vit.byte_groups = array<i64>, value = dense<{{\[\[}}96, -48], [64, 112]]> : tensor<2x2xi8>{{.*}}} : tensor<2x2x!vit.fixed<i8, [7, 9], axis = 0>>

// DATA:   assign-bits: a budget needs calibration data; give it with --calib
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x2xf32> attributes {vit.input_ranges = array<f64: -1.0, 1.0>} {
    %w = onnx.Constant dense<[[0.7, -0.35], [0.12, 0.21]]> : tensor<2x2xf32>
    %y = onnx.Linear %x, %w {vit.range = array<f64: -1.0, 1.0>} : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
