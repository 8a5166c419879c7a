// RUN: vit-opt %s -p split-channels | filecheck %s

// Without the statistics of a calibration no channel is known to be loud: the graph stays as it is.
// (What splitting does with them is in test/test_split_channels.py, since statistics are not IR.)
// CHECK-LABEL: @main
// CHECK:       onnx.Linear
// CHECK-NEXT:  onnx.Gelu
// CHECK-NEXT:  onnx.Linear
// CHECK-NEXT:  onnx.Add
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x2xf32> {
    %w = onnx.Constant dense<[[1.0, 0.25], [8.0, 1.0]]> : tensor<2x2xf32>
    %h = onnx.Linear %x, %w : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    %g = onnx.Gelu %h : (tensor<1x2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %g, %w : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    %s = onnx.Add %x, %y : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x2xf32>
    func.return %s : tensor<1x2xf32>
  }
}
