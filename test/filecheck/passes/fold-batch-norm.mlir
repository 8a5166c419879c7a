// RUN: vit-opt %s -p fold-batch-norm --split-input-file | filecheck %s

// scale / sqrt(var + eps) = [2, 0.5]; bias - mean * that = [1 - 2, 4 - 1].
// CHECK-LABEL: @into_conv
func.func @into_conv(%x: tensor<1x1x2x2xf32>) -> tensor<1x2x2x2xf32> {
  %w = onnx.Constant dense<[[[[1.0]]], [[[3.0]]]]> : tensor<2x1x1x1xf32>
  %s = onnx.Constant dense<[2.0, 1.0]> : tensor<2xf32>
  %t = onnx.Constant dense<[1.0, 4.0]> : tensor<2xf32>
  %m = onnx.Constant dense<[1.0, 2.0]> : tensor<2xf32>
  %v = onnx.Constant dense<[0.5, 3.5]> : tensor<2xf32>
  %0 = onnx.Conv %x, %w {node_name = "conv"} : (tensor<1x1x2x2xf32>, tensor<2x1x1x1xf32>) -> tensor<1x2x2x2xf32>
  %y = onnx.BatchNormalization %0, %s, %t, %m, %v {epsilon = 0.5, node_name = "bn"} : (tensor<1x2x2x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32>
  func.return %y : tensor<1x2x2x2xf32>
}
// CHECK-DAG: %[[W:.*]] = onnx.Constant dense<{{.*}}2.000000e+00{{.*}}1.500000e+00{{.*}}> : tensor<2x1x1x1xf32>
// CHECK-DAG: %[[B:.*]] = onnx.Constant dense<[-1.000000e+00, 3.000000e+00]> : tensor<2xf32>
// CHECK: %[[Y:.*]] = onnx.Conv %x, %[[W]], %[[B]] {node_name = "bn"}
// CHECK-NEXT: func.return %[[Y]]

// -----

// Without a convolution before it: a Mul and an Add per channel.
// CHECK-LABEL: @alone
func.func @alone(%x: tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32> {
  %s = onnx.Constant dense<[2.0, 1.0]> : tensor<2xf32>
  %t = onnx.Constant dense<[1.0, 4.0]> : tensor<2xf32>
  %m = onnx.Constant dense<[1.0, 2.0]> : tensor<2xf32>
  %v = onnx.Constant dense<[0.5, 3.5]> : tensor<2xf32>
  %y = onnx.BatchNormalization %x, %s, %t, %m, %v {epsilon = 0.5, node_name = "bn"} : (tensor<1x2x2x2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32>
  func.return %y : tensor<1x2x2x2xf32>
}
// CHECK: %[[M:.*]] = onnx.Mul %x, %{{.*}} {node_name = "bn.scale"} : (tensor<1x2x2x2xf32>, tensor<1x2x1x1xf32>)
// CHECK-NEXT: onnx.Add %[[M]], %{{.*}} {node_name = "bn"}
