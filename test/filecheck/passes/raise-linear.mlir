// RUN: vit-opt %s -p raise-linear --split-input-file | filecheck %s

// MatMul, bias and LayerScale in one: weights are [N, K], scaled per row.
// CHECK-LABEL: @layer_scale
func.func @layer_scale(%x: tensor<1x3x2xf32>) -> tensor<1x3x2xf32> {
  %w = onnx.Constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
  %b = onnx.Constant dense<[1.0, -1.0]> : tensor<2xf32>
  %g = onnx.Constant dense<[0.5, 10.0]> : tensor<2xf32>
  %0 = onnx.MatMul %x, %w {node_name = "fc"} : (tensor<1x3x2xf32>, tensor<2x2xf32>) -> tensor<1x3x2xf32>
  %1 = onnx.Add %b, %0 : (tensor<2xf32>, tensor<1x3x2xf32>) -> tensor<1x3x2xf32>
  %y = onnx.Mul %1, %g {node_name = "ls"} : (tensor<1x3x2xf32>, tensor<2xf32>) -> tensor<1x3x2xf32>
  func.return %y : tensor<1x3x2xf32>
}
// CHECK-DAG: %[[W:.*]] = onnx.Constant dense<{{\[}}[5.000000e-01, 1.500000e+00], [2.000000e+01, 4.000000e+01]]>
// CHECK-DAG: %[[B:.*]] = onnx.Constant dense<[5.000000e-01, -1.000000e+01]>
// CHECK: onnx.Linear %x, %[[W]], %[[B]] {node_name = "ls"}
// CHECK-NEXT: func.return

// -----

// alpha and beta go into weights and bias.
// CHECK-LABEL: @gemm
func.func @gemm(%x: tensor<1x2xf32>) -> tensor<1x3xf32> {
  %w = onnx.Constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>
  %b = onnx.Constant dense<1.0> : tensor<f32>
  %y = onnx.Gemm %x, %w, %b {alpha = 0.5, beta = 3.0, trans_b = 1} : (tensor<1x2xf32>, tensor<3x2xf32>, tensor<f32>) -> tensor<1x3xf32>
  func.return %y : tensor<1x3xf32>
}
// CHECK-NEXT: %[[W:.*]] = onnx.Constant dense<{{\[}}[5.000000e-01, 1.000000e+00], [1.500000e+00, 2.000000e+00], [2.500000e+00, 3.000000e+00]]>
// CHECK-NEXT: %[[B:.*]] = onnx.Constant dense<3.000000e+00> : tensor<3xf32>
// CHECK-NEXT: onnx.Linear %x, %[[W]], %[[B]]

// -----

// Reshapes that only merge tokens go, also where heads are merged before.
// CHECK-LABEL: @merged_tokens
func.func @merged_tokens(%x: tensor<1x3x2x2xf32>) -> tensor<1x3x2xf32> {
  %w = onnx.Constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]> : tensor<4x2xf32>
  %0 = onnx.Reshape %x : (tensor<1x3x2x2xf32>) -> tensor<3x4xf32>
  %1 = onnx.MatMul %0, %w : (tensor<3x4xf32>, tensor<4x2xf32>) -> tensor<3x2xf32>
  %y = onnx.Reshape %1 : (tensor<3x2xf32>) -> tensor<1x3x2xf32>
  func.return %y : tensor<1x3x2xf32>
}
// CHECK: %[[X:.*]] = onnx.Reshape %x : (tensor<1x3x2x2xf32>) -> tensor<1x3x4xf32>
// CHECK-NEXT: %[[Y:.*]] = onnx.Linear %[[X]], %{{.*}} : (tensor<1x3x4xf32>, tensor<2x4xf32>) -> tensor<1x3x2xf32>
// CHECK-NEXT: func.return %[[Y]]

// -----

// A product of two activations is none.
// CHECK-LABEL: @two_activations
func.func @two_activations(%x: tensor<3x3xf32>) -> tensor<3x3xf32> {
  %y = onnx.MatMul %x, %x : (tensor<3x3xf32>, tensor<3x3xf32>) -> tensor<3x3xf32>
  func.return %y : tensor<3x3xf32>
}
// CHECK-NEXT: onnx.MatMul %x, %x
