// RUN: vit-opt %s -p fold-scales | filecheck %s

// Without the statistics of a calibration there is nothing to balance: the graph stays as it is.
// (What folding does with them is in test/test_fold_scales.py, since statistics are not IR.)
// CHECK-LABEL: @main
// CHECK:       onnx.Linear %x, %wq
// CHECK-NEXT:  onnx.Linear %x, %wk
// CHECK:       onnx.MatMul
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> {
    %wq = onnx.Constant dense<[[1.0, 0.25], [1.0, 1.0]]> : tensor<2x2xf32>
    %wk = onnx.Constant dense<[[8.0, 0.25], [1.0, 1.0]]> : tensor<2x2xf32>
    %q = onnx.Linear %x, %wq : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    %k = onnx.Linear %x, %wk : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    %t = onnx.Transpose %k {perm = array<i64: 1, 0>} : (tensor<1x2xf32>) -> tensor<2x1xf32>
    %s = onnx.MatMul %q, %t : (tensor<1x2xf32>, tensor<2x1xf32>) -> tensor<1x1xf32>
    func.return %s : tensor<1x1xf32>
  }
}
