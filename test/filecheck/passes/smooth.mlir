// RUN: vit-opt %s -p smooth --split-input-file | filecheck %s

// Without the statistics of a calibration there is nothing to balance: the graph stays as it is.
// (What smoothing does with them is in test/test_smooth.py, since statistics are not IR.)
// CHECK-LABEL: @main
// CHECK:       onnx.LayerNormalization %x, %g, %b
// CHECK-NEXT:  onnx.Linear
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> {
    %g = onnx.Constant dense<[1.0, 2.0]> : tensor<2xf32>
    %b = onnx.Constant dense<[0.0, 0.5]> : tensor<2xf32>
    %w = onnx.Constant dense<[[1.0, 0.25]]> : tensor<1x2xf32>
    %n = onnx.LayerNormalization %x, %g, %b : (tensor<1x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %n, %w : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
    func.return %y : tensor<1x1xf32>
  }
}
