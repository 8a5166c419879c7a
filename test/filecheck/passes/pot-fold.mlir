// RUN: vit-opt %s -p pot-fold --split-input-file | filecheck %s
// RUN: vit-opt %s -p 'pot-fold{rounding=rhe}' --split-input-file | filecheck %s --check-prefix=RHE
// RUN: vit-opt %s -p 'pot-fold{bias=plain inputs=float}' --split-input-file | filecheck %s
// RUN: not vit-opt %s -p 'pot-fold{bias=none}' 2>&1 | filecheck %s --check-prefix=BIAS
// BIAS: error: pot-fold: bias 'none' is not one of corrected, plain
// RUN: not vit-opt %s -p 'pot-fold{inputs=real}' 2>&1 | filecheck %s --check-prefix=KNOWN
// KNOWN: error: pot-fold: inputs 'real' is not one of integer, float
// Without calibration data all ways of rounding are to nearest.

// Scales become the powers of two that cover the same range: 127 * 0.02 = 2.54 needs frac 5. The
// weight is rounded from its master (0.3 * 2^8 = 77), not from its codes, the bias follows the
// accumulator's grid, the dyadic requantisation becomes a shift.
// CHECK:       vit.quantize %x {{.*}} -> tensor<1x2x!vit.fixed<i8, 5>>
// CHECK-NEXT:  %[[W:.*]] = vit.constant {value = dense<{{\[\[}}77, 64], [64, -102]]> : tensor<2x2xi8>{{.*}}} : tensor<2x2x!vit.fixed<i8, [8, 7], axis = 0>>
// CHECK-NEXT:  %[[B:.*]] = vit.constant {value = dense<[4096, -4096]> : tensor<2xi32>{{.*}}} : tensor<2x!vit.fixed<i32, [13, 12], axis = 0>>
// CHECK-NEXT:  %[[Y:.*]] = vit.linear %{{.*}}, %[[W]], %[[B]] {{.*}} -> tensor<1x2x!vit.fixed<i32, [13, 12], axis = 1>>
// CHECK-NEXT:  vit.pot_requant %[[Y]] : {{.*}} -> tensor<1x2x!vit.fixed<i8, 4>>
// RHE:         vit.pot_requant %{{.*}} {rounding = "rhe"}
builtin.module attributes {vit.stage = "quantized"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x2xf32> {
    %0 = vit.quantize %x : (tensor<1x2xf32>) -> tensor<1x2x!vit.scaled<i8, 0.02>>
    %w = vit.constant {value = dense<[[127, 106], [79, -127]]> : tensor<2x2xi8>, master = dense<[[0.3, 0.25], [0.5, -0.8]]> : tensor<2x2xf32>} : tensor<2x2x!vit.scaled<i8, [0.00236, 0.0063], axis = 0>>
    %b = vit.constant {value = dense<[10593, -7937]> : tensor<2xi32>, master = dense<[0.5, -1.0]> : tensor<2xf32>} : tensor<2x!vit.scaled<i32, [4.72e-05, 0.000126], axis = 0>>
    %y = vit.linear %0, %w, %b : (tensor<1x2x!vit.scaled<i8, 0.02>>, tensor<2x2x!vit.scaled<i8, [0.00236, 0.0063], axis = 0>>, tensor<2x!vit.scaled<i32, [4.72e-05, 0.000126], axis = 0>>) -> tensor<1x2x!vit.scaled<i32, [4.72e-05, 0.000126], axis = 1>>
    %q = vit.requant %y : (tensor<1x2x!vit.scaled<i32, [4.72e-05, 0.000126], axis = 1>>) -> tensor<1x2x!vit.scaled<i8, 0.04>>
    %r = vit.dequantize %q : (tensor<1x2x!vit.scaled<i8, 0.04>>) -> tensor<1x2xf32>
    func.return %r : tensor<1x2xf32>
  }
}

// -----

// A requantisation between grids that fold to the same one disappears; a clamp keeps its real
// bounds (20 * 0.1 = 2.0 is 16 at frac 3) and an open side stays open.
// CHECK:       %[[X:.*]] = vit.quantize %x {{.*}} -> tensor<4x!vit.fixed<i8, 3>>
// CHECK-NEXT:  vit.clamp %[[X]] {min = -128 : i64, max = 16 : i64}
// RHE:         vit.clamp
builtin.module attributes {vit.stage = "quantized"} {
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = vit.quantize %x : (tensor<4xf32>) -> tensor<4x!vit.scaled<i8, 0.1>>
    %1 = vit.requant %0 : (tensor<4x!vit.scaled<i8, 0.1>>) -> tensor<4x!vit.scaled<i8, 0.11>>
    %2 = vit.clamp %1 {min = -128 : i64, max = 18 : i64} : (tensor<4x!vit.scaled<i8, 0.11>>) -> tensor<4x!vit.scaled<i8, 0.11>>
    %r = vit.dequantize %2 : (tensor<4x!vit.scaled<i8, 0.11>>) -> tensor<4xf32>
    func.return %r : tensor<4xf32>
  }
}
