// RUN: vit-opt %s -p raise-layer-norm --split-input-file | filecheck %s

// As the TorchScript exporter writes it below opset 17. The model's own weights are kept.
// CHECK-LABEL: @decomposed
func.func @decomposed(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %w = onnx.Constant dense<[1.0, 0.5, -2.0, 4.0]> : tensor<4xf32>
  %b = onnx.Constant dense<[0.0, 1.0, -1.0, 3.0]> : tensor<4xf32>
  %two = onnx.Constant dense<2.0> : tensor<f32>
  %eps = onnx.Constant dense<0.001> : tensor<f32>
  %m = onnx.ReduceMean %x {axes = [1]} : (tensor<2x4xf32>) -> tensor<2x1xf32>
  %d = onnx.Sub %x, %m : (tensor<2x4xf32>, tensor<2x1xf32>) -> tensor<2x4xf32>
  %s = onnx.Pow %d, %two : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32>
  %v = onnx.ReduceMean %s {axes = [1]} : (tensor<2x4xf32>) -> tensor<2x1xf32>
  %e = onnx.Add %v, %eps : (tensor<2x1xf32>, tensor<f32>) -> tensor<2x1xf32>
  %r = onnx.Sqrt %e : (tensor<2x1xf32>) -> tensor<2x1xf32>
  %n = onnx.Div %d, %r : (tensor<2x4xf32>, tensor<2x1xf32>) -> tensor<2x4xf32>
  %g = onnx.Mul %n, %w : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  %y = onnx.Add %g, %b {node_name = "norm"} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}
// CHECK-NEXT: %[[W:.*]] = onnx.Constant dense<[1.000000e+00, 5.000000e-01, -2.000000e+00, 4.000000e+00]> : tensor<4xf32> {node_name = "norm.weight"}
// CHECK-NEXT: %[[B:.*]] = onnx.Constant dense<[0.000000e+00, 1.000000e+00, -1.000000e+00, 3.000000e+00]> : tensor<4xf32> {node_name = "norm.bias"}
// CHECK-NEXT: onnx.LayerNormalization %x, %[[W]], %[[B]] {axis = 1, epsilon = 0.0010000000474974513, node_name = "norm"}
// CHECK-NEXT: func.return

// -----

// Over the channels of an image: between transposes.
// CHECK-LABEL: @channels_first
func.func @channels_first(%x: tensor<1x4x2x2xf32>) -> tensor<1x4x2x2xf32> {
  %eps = onnx.Constant dense<0.001> : tensor<f32>
  %m = onnx.ReduceMean %x {axes = [1]} : (tensor<1x4x2x2xf32>) -> tensor<1x1x2x2xf32>
  %d = onnx.Sub %x, %m : (tensor<1x4x2x2xf32>, tensor<1x1x2x2xf32>) -> tensor<1x4x2x2xf32>
  %s = onnx.Mul %d, %d : (tensor<1x4x2x2xf32>, tensor<1x4x2x2xf32>) -> tensor<1x4x2x2xf32>
  %v = onnx.ReduceMean %s {axes = [1]} : (tensor<1x4x2x2xf32>) -> tensor<1x1x2x2xf32>
  %e = onnx.Add %v, %eps : (tensor<1x1x2x2xf32>, tensor<f32>) -> tensor<1x1x2x2xf32>
  %r = onnx.Sqrt %e : (tensor<1x1x2x2xf32>) -> tensor<1x1x2x2xf32>
  %y = onnx.Div %d, %r : (tensor<1x4x2x2xf32>, tensor<1x1x2x2xf32>) -> tensor<1x4x2x2xf32>
  func.return %y : tensor<1x4x2x2xf32>
}
// CHECK: %[[T:.*]] = onnx.Transpose %x {perm = [0, 2, 3, 1]}
// CHECK-NEXT: %[[N:.*]] = onnx.LayerNormalization %[[T]], %{{.*}}, %{{.*}} {axis = 3
// CHECK-NEXT: %[[Y:.*]] = onnx.Transpose %[[N]] {perm = [0, 3, 1, 2]}
// CHECK-NEXT: func.return %[[Y]]

// -----

// Without the mean it is no LayerNorm.
// CHECK-LABEL: @rms_norm
func.func @rms_norm(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %eps = onnx.Constant dense<0.001> : tensor<f32>
  %s = onnx.Mul %x, %x : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  %v = onnx.ReduceMean %s {axes = [1]} : (tensor<2x4xf32>) -> tensor<2x1xf32>
  %e = onnx.Add %v, %eps : (tensor<2x1xf32>, tensor<f32>) -> tensor<2x1xf32>
  %r = onnx.Sqrt %e : (tensor<2x1xf32>) -> tensor<2x1xf32>
  %y = onnx.Div %x, %r : (tensor<2x4xf32>, tensor<2x1xf32>) -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}
// CHECK-NOT: LayerNormalization
// CHECK: onnx.Div
