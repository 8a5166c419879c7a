// RUN: vit-opt %s -p fold-constants --split-input-file | filecheck %s

// An int8 weight becomes its float master, under its own name.
// CHECK-LABEL: @dequantised
func.func @dequantised(%x: tensor<1x2xf32>) -> tensor<1x2xf32> {
  %q = onnx.Constant dense<[[4, -8], [2, 6]]> : tensor<2x2xi8> {node_name = "fc_quantized"}
  %s = onnx.Constant dense<[0.5, 2.0]> : tensor<2xf32>
  %w = onnx.DequantizeLinear %q, %s {axis = 1} : (tensor<2x2xi8>, tensor<2xf32>) -> tensor<2x2xf32>
  %t = onnx.Transpose %w {perm = [1, 0], node_name = "t"} : (tensor<2x2xf32>) -> tensor<2x2xf32>
  %0 = onnx.MatMul %x, %w : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
  %y = onnx.MatMul %0, %t : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
  func.return %y : tensor<1x2xf32>
}
// CHECK-NEXT: %[[W:.*]] = onnx.Constant dense<{{\[}}[2.000000e+00, -1.600000e+01], [1.000000e+00, 1.200000e+01]]> : tensor<2x2xf32> {node_name = "fc"}
// CHECK-NEXT: %[[T:.*]] = onnx.Constant dense<{{\[}}[2.000000e+00, 1.000000e+00], [-1.600000e+01, 1.200000e+01]]> : tensor<2x2xf32> {node_name = "t"}
// CHECK-NEXT: %[[M:.*]] = onnx.MatMul %x, %[[W]]
// CHECK-NEXT: onnx.MatMul %[[M]], %[[T]]

// -----

// A constant is not blown up beyond 2^20 elements.
// CHECK-LABEL: @large
func.func @large() -> tensor<2048x1024xf32> {
  %c = onnx.Constant dense<1.0> : tensor<f32>
  %y = onnx.Expand %c : (tensor<f32>) -> tensor<2048x1024xf32>
  func.return %y : tensor<2048x1024xf32>
}
// CHECK: onnx.Expand
