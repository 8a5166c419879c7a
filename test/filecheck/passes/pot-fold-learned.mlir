// RUN: vit-opt %s -p pot-fold | filecheck %s
// RUN: vit-opt %s -p 'pot-fold{weights=learned}' | filecheck %s
// RUN: not vit-opt %s -p 'pot-fold{weights=guessed}' 2>&1 | filecheck %s --check-prefix=KNOWN

// Without second moments of the inputs both ways of rounding are to nearest: 0.3 * 2^8 = 76.8.
// CHECK: vit.constant {value = dense<{{\[\[}}77, 64]]> : tensor<1x2xi8>{{.*}}} : tensor<1x2x!vit.fixed<i8, [8], axis = 0>>
// KNOWN: error: pot-fold: weights 'guessed' is not one of compensated, nearest, learned
builtin.module attributes {vit.stage = "quantized"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> {
    %0 = vit.quantize %x : (tensor<1x2xf32>) -> tensor<1x2x!vit.scaled<i8, 0.02>>
    %w = vit.constant {value = dense<[[127, 106]]> : tensor<1x2xi8>, master = dense<[[0.3, 0.25]]> : tensor<1x2xf32>} : tensor<1x2x!vit.scaled<i8, [0.00236], axis = 0>>
    %y = vit.linear %0, %w : (tensor<1x2x!vit.scaled<i8, 0.02>>, tensor<1x2x!vit.scaled<i8, [0.00236], axis = 0>>) -> tensor<1x1x!vit.scaled<i32, [4.72e-05], axis = 1>>
    %q = vit.requant %y : (tensor<1x1x!vit.scaled<i32, [4.72e-05], axis = 1>>) -> tensor<1x1x!vit.scaled<i8, 0.04>>
    %r = vit.dequantize %q : (tensor<1x1x!vit.scaled<i8, 0.04>>) -> tensor<1x1xf32>
    func.return %r : tensor<1x1xf32>
  }
}
