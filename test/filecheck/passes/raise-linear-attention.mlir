// RUN: vit-opt %s -p raise-linear-attention --split-input-file | filecheck %s

// Tokens as rows, the divisor from a column of ones in v.
// CHECK-LABEL: @rows
func.func @rows(%q: tensor<2x5x4xf32>, %k: tensor<2x5x4xf32>, %v: tensor<2x5x4xf32>) -> tensor<2x5x4xf32> {
  %eps = onnx.Constant dense<1.0e-5> : tensor<f32>
  %qr = onnx.Relu %q : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
  %kr = onnx.Relu %k : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
  %kt = onnx.Transpose %kr {perm = [0, 2, 1]} : (tensor<2x5x4xf32>) -> tensor<2x4x5xf32>
  %v1 = onnx.Pad %v {pads = [0, 0, 0, 0, 0, 1], value = 1.0} : (tensor<2x5x4xf32>) -> tensor<2x5x5xf32>
  %s = onnx.MatMul %kt, %v1 : (tensor<2x4x5xf32>, tensor<2x5x5xf32>) -> tensor<2x4x5xf32>
  %m = onnx.MatMul %qr, %s : (tensor<2x5x4xf32>, tensor<2x4x5xf32>) -> tensor<2x5x5xf32>
  %n = onnx.Slice %m {starts = [0], ends = [4], axes = [2], steps = [1]} : (tensor<2x5x5xf32>) -> tensor<2x5x4xf32>
  %d = onnx.Slice %m {starts = [4], ends = [5], axes = [2], steps = [1]} : (tensor<2x5x5xf32>) -> tensor<2x5x1xf32>
  %de = onnx.Add %d, %eps : (tensor<2x5x1xf32>, tensor<f32>) -> tensor<2x5x1xf32>
  %y = onnx.Div %n, %de {node_name = "mla"} : (tensor<2x5x4xf32>, tensor<2x5x1xf32>) -> tensor<2x5x4xf32>
  func.return %y : tensor<2x5x4xf32>
}
// CHECK-NEXT: %[[Y:.*]] = onnx.LinearAttention %q, %k, %v {eps = 1.0e-05, node_name = "mla"}
// CHECK-NEXT: func.return %[[Y]]

// -----

// Tokens as columns, no epsilon, the division as a product with the reciprocal.
// CHECK-LABEL: @columns
func.func @columns(%q: tensor<1x4x6xf32>, %k: tensor<1x4x6xf32>, %v: tensor<1x3x6xf32>) -> tensor<1x3x6xf32> {
  %ones = onnx.Constant dense<1.0> : tensor<1x1x6xf32>
  %qr = onnx.Relu %q : (tensor<1x4x6xf32>) -> tensor<1x4x6xf32>
  %kr = onnx.Relu %k : (tensor<1x4x6xf32>) -> tensor<1x4x6xf32>
  %kt = onnx.Transpose %kr {perm = [0, 2, 1]} : (tensor<1x4x6xf32>) -> tensor<1x6x4xf32>
  %v1 = onnx.Concat %v, %ones {axis = 1} : (tensor<1x3x6xf32>, tensor<1x1x6xf32>) -> tensor<1x4x6xf32>
  %s = onnx.MatMul %v1, %kt : (tensor<1x4x6xf32>, tensor<1x6x4xf32>) -> tensor<1x4x4xf32>
  %m = onnx.MatMul %s, %qr : (tensor<1x4x4xf32>, tensor<1x4x6xf32>) -> tensor<1x4x6xf32>
  %n = onnx.Slice %m {starts = [0], ends = [3], axes = [1], steps = [1]} : (tensor<1x4x6xf32>) -> tensor<1x3x6xf32>
  %d = onnx.Slice %m {starts = [3], ends = [4], axes = [1], steps = [1]} : (tensor<1x4x6xf32>) -> tensor<1x1x6xf32>
  %r = onnx.Reciprocal %d : (tensor<1x1x6xf32>) -> tensor<1x1x6xf32>
  %y = onnx.Mul %n, %r : (tensor<1x3x6xf32>, tensor<1x1x6xf32>) -> tensor<1x3x6xf32>
  func.return %y : tensor<1x3x6xf32>
}
// CHECK:      %[[Q:.*]] = onnx.Transpose %q {perm = [0, 2, 1]}
// CHECK-NEXT: %[[K:.*]] = onnx.Transpose %k {perm = [0, 2, 1]}
// CHECK-NEXT: %[[V:.*]] = onnx.Transpose %v {perm = [0, 2, 1]}
// CHECK-NEXT: %[[A:.*]] = onnx.LinearAttention %[[Q]], %[[K]], %[[V]] {eps = 0.0}
// CHECK-NEXT: %[[Y:.*]] = onnx.Transpose %[[A]] {perm = [0, 2, 1]}
// CHECK-NEXT: func.return %[[Y]]

// -----

// Without a ReLU on k it is something else, and so it is with a divisor that counts tokens.
// CHECK-LABEL: @others
func.func @others(%q: tensor<1x5x4xf32>, %k: tensor<1x5x4xf32>, %v: tensor<1x5x4xf32>) -> (tensor<1x5x4xf32>, tensor<1x5x4xf32>) {
  %qr = onnx.Relu %q : (tensor<1x5x4xf32>) -> tensor<1x5x4xf32>
  %kr = onnx.Relu %k : (tensor<1x5x4xf32>) -> tensor<1x5x4xf32>
  %kt = onnx.Transpose %k {perm = [0, 2, 1]} : (tensor<1x5x4xf32>) -> tensor<1x4x5xf32>
  %ks = onnx.ReduceSum %k {axes = [1], keepdims = 1} : (tensor<1x5x4xf32>) -> tensor<1x1x4xf32>
  %p = onnx.Mul %qr, %ks : (tensor<1x5x4xf32>, tensor<1x1x4xf32>) -> tensor<1x5x4xf32>
  %d = onnx.ReduceSum %p {axes = [2], keepdims = 1} : (tensor<1x5x4xf32>) -> tensor<1x5x1xf32>
  %s = onnx.MatMul %kt, %v : (tensor<1x4x5xf32>, tensor<1x5x4xf32>) -> tensor<1x4x4xf32>
  %m = onnx.MatMul %qr, %s : (tensor<1x5x4xf32>, tensor<1x4x4xf32>) -> tensor<1x5x4xf32>
  %y = onnx.Div %m, %d : (tensor<1x5x4xf32>, tensor<1x5x1xf32>) -> tensor<1x5x4xf32>
  %kt2 = onnx.Transpose %kr {perm = [0, 2, 1]} : (tensor<1x5x4xf32>) -> tensor<1x4x5xf32>
  %s2 = onnx.MatMul %kt2, %v : (tensor<1x4x5xf32>, tensor<1x5x4xf32>) -> tensor<1x4x4xf32>
  %m2 = onnx.MatMul %qr, %s2 : (tensor<1x5x4xf32>, tensor<1x4x4xf32>) -> tensor<1x5x4xf32>
  %d2 = onnx.ReduceSum %qr {axes = [2], keepdims = 1} : (tensor<1x5x4xf32>) -> tensor<1x5x1xf32>
  %z = onnx.Div %m2, %d2 : (tensor<1x5x4xf32>, tensor<1x5x1xf32>) -> tensor<1x5x4xf32>
  func.return %y, %z : tensor<1x5x4xf32>, tensor<1x5x4xf32>
}
// CHECK-NOT: onnx.LinearAttention
