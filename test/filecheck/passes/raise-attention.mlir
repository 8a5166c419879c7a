// RUN: vit-opt %s -p raise-attention --split-input-file | filecheck %s

// Two tokens of one channel, two heads of width two. The fused layer has four rows for each of q, k
// and v. The factor 0.75 becomes 2^0 on the scores (nothing) and 0.75 on the rows of q.
// CHECK-LABEL: @fused
func.func @fused(%x: tensor<1x2x1xf32>) -> tensor<1x2x2x2xf32> {
  %w = onnx.Constant dense<[[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0], [9.0], [10.0], [11.0], [12.0]]> : tensor<12x1xf32>
  %c = onnx.Constant dense<0.75> : tensor<f32>
  %s = onnx.Linear %x, %w {node_name = "qkv"} : (tensor<1x2x1xf32>, tensor<12x1xf32>) -> tensor<1x2x12xf32>
  %r = onnx.Reshape %s : (tensor<1x2x12xf32>) -> tensor<1x2x3x2x2xf32>
  %t = onnx.Transpose %r {perm = [2, 0, 3, 1, 4]} : (tensor<1x2x3x2x2xf32>) -> tensor<3x1x2x2x2xf32>
  %q0, %k0, %v0 = onnx.Split %t {axis = 0} : (tensor<3x1x2x2x2xf32>) -> (tensor<1x1x2x2x2xf32>, tensor<1x1x2x2x2xf32>, tensor<1x1x2x2x2xf32>)
  %q = onnx.Squeeze %q0 : (tensor<1x1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %k = onnx.Squeeze %k0 : (tensor<1x1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %v = onnx.Squeeze %v0 : (tensor<1x1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %kt = onnx.Transpose %k {perm = [0, 1, 3, 2]} : (tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %m = onnx.MatMul %q, %kt : (tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %d = onnx.Mul %m, %c : (tensor<1x2x2x2xf32>, tensor<f32>) -> tensor<1x2x2x2xf32>
  %p = onnx.Softmax %d {axis = 3} : (tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  %y = onnx.MatMul %p, %v : (tensor<1x2x2x2xf32>, tensor<1x2x2x2xf32>) -> tensor<1x2x2x2xf32>
  func.return %y : tensor<1x2x2x2xf32>
}
// CHECK-NEXT: %[[WQ:.*]] = onnx.Constant dense<{{\[}}[7.500000e-01], [1.500000e+00], [2.250000e+00], [3.000000e+00]]>
// CHECK-NEXT: %[[Q:.*]] = onnx.Linear %x, %[[WQ]] {node_name = "qkv.q"}
// CHECK-NEXT: %[[QR:.*]] = onnx.Reshape %[[Q]] {node_name = "qkv.q.split"} : (tensor<1x2x4xf32>) -> tensor<1x2x2x2xf32>
// CHECK-NEXT: %[[QT:.*]] = onnx.Transpose %[[QR]] {perm = [0, 2, 1, 3], node_name = "qkv.q.heads"}
// CHECK-NEXT: %[[WK:.*]] = onnx.Constant dense<{{\[}}[5.000000e+00], [6.000000e+00], [7.000000e+00], [8.000000e+00]]>
// CHECK-NEXT: %[[K:.*]] = onnx.Linear %x, %[[WK]] {node_name = "qkv.k"}
// CHECK-NEXT: %[[KR:.*]] = onnx.Reshape %[[K]]
// CHECK-NEXT: %[[KT:.*]] = onnx.Transpose %[[KR]] {perm = [0, 2, 3, 1]
// CHECK-NEXT: %[[M:.*]] = onnx.MatMul %[[QT]], %[[KT]]
// CHECK-NEXT: %[[P:.*]] = onnx.Softmax %[[M]]
// CHECK-NEXT: %[[WV:.*]] = onnx.Constant dense<{{\[}}[9.000000e+00], [1.000000e+01], [1.100000e+01], [1.200000e+01]]>
// CHECK-NEXT: %[[V:.*]] = onnx.Linear %x, %[[WV]] {node_name = "qkv.v"}
// CHECK-NEXT: %[[VR:.*]] = onnx.Reshape %[[V]]
// CHECK-NEXT: %[[VT:.*]] = onnx.Transpose %[[VR]] {perm = [0, 2, 1, 3]
// CHECK-NEXT: onnx.MatMul %[[P]], %[[VT]]

// -----

// Factors on both sides become one power of two on the scores; here 0.5 * 0.5 without a rest.
// Operands that no linear layer makes keep their layout.
// CHECK-LABEL: @factors
func.func @factors(%q: tensor<1x3x4xf32>, %kt: tensor<1x4x3xf32>, %v: tensor<1x3x4xf32>) -> tensor<1x3x4xf32> {
  %c = onnx.Constant dense<0.5> : tensor<f32>
  %0 = onnx.Mul %q, %c : (tensor<1x3x4xf32>, tensor<f32>) -> tensor<1x3x4xf32>
  %1 = onnx.Mul %c, %kt : (tensor<f32>, tensor<1x4x3xf32>) -> tensor<1x4x3xf32>
  %2 = onnx.MatMul %0, %1 : (tensor<1x3x4xf32>, tensor<1x4x3xf32>) -> tensor<1x3x3xf32>
  %3 = onnx.Softmax %2 {axis = 2} : (tensor<1x3x3xf32>) -> tensor<1x3x3xf32>
  %y = onnx.MatMul %3, %v : (tensor<1x3x3xf32>, tensor<1x3x4xf32>) -> tensor<1x3x4xf32>
  func.return %y : tensor<1x3x4xf32>
}
// CHECK: %[[M:.*]] = onnx.MatMul %q, %kt
// CHECK-NEXT: %[[C:.*]] = onnx.Constant dense<2.500000e-01>
// CHECK-NEXT: %[[D:.*]] = onnx.Mul %[[M]], %[[C]]
// CHECK-NEXT: onnx.Softmax %[[D]]
