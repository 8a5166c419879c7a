// RUN: vit-opt %s -p simplify-graph --split-input-file | filecheck %s

// Operations without effect go.
// CHECK-LABEL: @no_ops
func.func @no_ops(%x: tensor<1x4xf32>) -> tensor<1x4xf32> {
  %one = onnx.Constant dense<1.0> : tensor<f32>
  %zero = onnx.Constant dense<0.0> : tensor<1x4xf32>
  %0 = onnx.Identity %x : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %1 = onnx.Cast %0 : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %2 = onnx.Expand %1 : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %3 = onnx.Concat %2 {axis = 1} : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %4 = onnx.Mul %one, %3 : (tensor<f32>, tensor<1x4xf32>) -> tensor<1x4xf32>
  %5 = onnx.Add %4, %zero : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
  %6 = onnx.Slice %5 {starts = [0], ends = [4], axes = [1], steps = [1]} : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %7 = onnx.Transpose %6 {perm = [1, 0]} : (tensor<1x4xf32>) -> tensor<4x1xf32>
  %y = onnx.Transpose %7 {perm = [1, 0]} : (tensor<4x1xf32>) -> tensor<1x4xf32>
  func.return %y : tensor<1x4xf32>
}
// CHECK-NEXT: func.return %x

// -----

// These change values, or the shape by broadcasting, and stay.
// CHECK-LABEL: @effects
func.func @effects(%x: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<3x4xf32>) {
  %ones = onnx.Constant dense<1.0> : tensor<3x4xf32>
  %0 = onnx.Slice %x {starts = [3], ends = [-5], axes = [1], steps = [-1]} : (tensor<1x4xf32>) -> tensor<1x4xf32>
  %1 = onnx.Mul %x, %ones : (tensor<1x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
  func.return %0, %1 : tensor<1x4xf32>, tensor<3x4xf32>
}
// CHECK: onnx.Slice
// CHECK-NEXT: onnx.Mul

// -----

// Data movement in one form: Reshape, merged Transposes, Slice.
// CHECK-LABEL: @movement
func.func @movement(%x: tensor<1x2x6xf32>) -> (tensor<6x2xf32>, tensor<1x6xf32>, tensor<1x1x6xf32>) {
  %i = onnx.Constant dense<-1> : tensor<i64>
  %0 = onnx.Transpose %x {perm = [1, 0, 2]} : (tensor<1x2x6xf32>) -> tensor<2x1x6xf32>
  %1 = onnx.Squeeze %0 : (tensor<2x1x6xf32>) -> tensor<2x6xf32>
  %2 = onnx.Transpose %1 {perm = [1, 0]} : (tensor<2x6xf32>) -> tensor<6x2xf32>
  %3 = onnx.Gather %x, %i {axis = 1} : (tensor<1x2x6xf32>, tensor<i64>) -> tensor<1x6xf32>
  %4, %5 = onnx.Split %x {axis = 1} : (tensor<1x2x6xf32>) -> (tensor<1x1x6xf32>, tensor<1x1x6xf32>)
  func.return %2, %3, %5 : tensor<6x2xf32>, tensor<1x6xf32>, tensor<1x1x6xf32>
}
// CHECK-NEXT: %[[R:.*]] = onnx.Reshape %x : (tensor<1x2x6xf32>) -> tensor<2x6xf32>
// CHECK-NEXT: %[[T:.*]] = onnx.Transpose %[[R]] {perm = [1, 0]}
// CHECK-NEXT: %[[S:.*]] = onnx.Slice %x {starts = [1], ends = [2], axes = [1], steps = [1]}
// CHECK-NEXT: %[[Q:.*]] = onnx.Reshape %[[S]] : (tensor<1x1x6xf32>) -> tensor<1x6xf32>
// CHECK-NEXT: %[[P:.*]] = onnx.Slice %x {starts = [1], ends = [2], axes = [1], steps = [1]}
// CHECK-NEXT: func.return %[[T]], %[[Q]], %[[P]]

// -----

// A division by a constant is a product; a rounding of what is rounded alike already goes.
// CHECK-LABEL: @division_and_roundings
func.func @division_and_roundings(%x: tensor<2x4xf32>) -> tensor<4x2xf32> {
  %c = onnx.Constant dense<4.0> : tensor<f32>
  %s = onnx.Constant dense<0.5> : tensor<f32>
  %0 = onnx.Div %x, %c : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32>
  %1 = onnx.QuantizeLinear %0, %s : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xui8>
  %2 = onnx.DequantizeLinear %1, %s : (tensor<2x4xui8>, tensor<f32>) -> tensor<2x4xf32>
  %3 = onnx.Transpose %2 {perm = [1, 0]} : (tensor<2x4xf32>) -> tensor<4x2xf32>
  %4 = onnx.QuantizeLinear %3, %s : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xui8>
  %y = onnx.DequantizeLinear %4, %s : (tensor<4x2xui8>, tensor<f32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}
// CHECK: %[[C:.*]] = onnx.Constant dense<2.500000e-01>
// CHECK: %[[M:.*]] = onnx.Mul %x, %[[C]]
// CHECK-NEXT: %[[Q:.*]] = onnx.QuantizeLinear %[[M]]
// CHECK-NEXT: %[[D:.*]] = onnx.DequantizeLinear %[[Q]]
// CHECK-NEXT: %[[Y:.*]] = onnx.Transpose %[[D]]
// CHECK-NEXT: func.return %[[Y]]

// -----

// Softmax runs over the last axis; the transpose behind it merges with the model's own.
// CHECK-LABEL: @softmax
func.func @softmax(%x: tensor<1x5x2xf32>) -> tensor<1x2x5xf32> {
  %0 = onnx.Softmax %x {axis = 1} : (tensor<1x5x2xf32>) -> tensor<1x5x2xf32>
  %y = onnx.Transpose %0 {perm = [0, 2, 1]} : (tensor<1x5x2xf32>) -> tensor<1x2x5xf32>
  func.return %y : tensor<1x2x5xf32>
}
// CHECK-NEXT: %[[T:.*]] = onnx.Transpose %x {perm = [0, 2, 1]}
// CHECK-NEXT: %[[Y:.*]] = onnx.Softmax %[[T]] {axis = 2} : (tensor<1x2x5xf32>) -> tensor<1x2x5xf32>
// CHECK-NEXT: func.return %[[Y]]

// -----

// A constant is added rather than subtracted; a difference of two values stays.
// CHECK-LABEL: @differences
func.func @differences(%x: tensor<2x4xf32>, %z: tensor<2x4xf32>) -> tensor<2x4xf32> {
  %c = onnx.Constant dense<4.0> : tensor<f32>
  %0 = onnx.Sub %x, %c : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32>
  %y = onnx.Sub %0, %z : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  func.return %y : tensor<2x4xf32>
}
// CHECK: %[[C:.*]] = onnx.Constant dense<-4.000000e+00>
// CHECK: %[[S:.*]] = onnx.Add %x, %[[C]]
// CHECK-NEXT: onnx.Sub %[[S]], %z
