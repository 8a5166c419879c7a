// RUN: vit-opt %s -p canonicalize --split-input-file | filecheck %s

// Identity, and movements that change nothing, go; an unused operation goes.
// CHECK-LABEL: @no_effect
// CHECK-NEXT: func.return %x, %x, %x, %x : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>
func.func @no_effect(%x: tensor<2x3xf32>) -> (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>) {
  %a = onnx.Identity %x : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %b = onnx.Transpose %a {perm = [0, 1]} : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %c = onnx.Slice %b {starts = [0], ends = [3], axes = [1], steps = [1]} : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %d = onnx.Concat %c {axis = 1} : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %unused = onnx.Exp %d : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %a, %b, %c, %d : tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>, tensor<2x3xf32>
}

// -----

// A reversing slice has the same shape, and stays; so does a concatenation of two.
// CHECK-LABEL: @effect
// CHECK-NEXT: onnx.Slice
// CHECK-NEXT: onnx.Concat
// CHECK-NEXT: func.return
func.func @effect(%x: tensor<3xf32>) -> tensor<6xf32> {
  %a = onnx.Slice %x {starts = [2], ends = [-4], axes = [0], steps = [-1]} : (tensor<3xf32>) -> tensor<3xf32>
  %b = onnx.Concat %a, %x {axis = 0} : (tensor<3xf32>, tensor<3xf32>) -> tensor<6xf32>
  func.return %b : tensor<6xf32>
}

// -----

// Flatten, Squeeze and Unsqueeze are reshapes; consecutive ones merge and keep the last name.
// CHECK-LABEL: @reshapes
// CHECK-NEXT: %{{.*}} = onnx.Reshape %x {node_name = "last"} : (tensor<1x2x3x4xf32>) -> tensor<2x1x12xf32>
// CHECK-NEXT: func.return
func.func @reshapes(%x: tensor<1x2x3x4xf32>) -> tensor<2x1x12xf32> {
  %a = onnx.Squeeze %x {node_name = "first"} : (tensor<1x2x3x4xf32>) -> tensor<2x3x4xf32>
  %b = onnx.Flatten %a : (tensor<2x3x4xf32>) -> tensor<2x12xf32>
  %c = onnx.Unsqueeze %b {node_name = "last"} : (tensor<2x12xf32>) -> tensor<2x1x12xf32>
  func.return %c : tensor<2x1x12xf32>
}

// -----

// Consecutive transposes compose: dimension i of the result is dimension p[q[i]] of x.
// CHECK-LABEL: @transposes
// CHECK-NEXT: %{{.*}} = onnx.Transpose %x {perm = [2, 1, 0]} : (tensor<2x3x4xf32>) -> tensor<4x3x2xf32>
// CHECK-NEXT: func.return
func.func @transposes(%x: tensor<2x3x4xf32>) -> tensor<4x3x2xf32> {
  %a = onnx.Transpose %x {perm = [1, 2, 0]} : (tensor<2x3x4xf32>) -> tensor<3x4x2xf32>
  %b = onnx.Transpose %a {perm = [1, 0, 2]} : (tensor<3x4x2xf32>) -> tensor<4x3x2xf32>
  func.return %b : tensor<4x3x2xf32>
}

// -----

// Opposite transposes cancel.
// CHECK-LABEL: @inverse
// CHECK-NEXT: func.return %x : tensor<2x3x4xf32>
func.func @inverse(%x: tensor<2x3x4xf32>) -> tensor<2x3x4xf32> {
  %a = onnx.Transpose %x {perm = [1, 2, 0]} : (tensor<2x3x4xf32>) -> tensor<3x4x2xf32>
  %b = onnx.Transpose %a {perm = [2, 0, 1]} : (tensor<3x4x2xf32>) -> tensor<2x3x4xf32>
  func.return %b : tensor<2x3x4xf32>
}

// -----

// Moving dimensions of size one is a reshape; moving others is not.
// CHECK-LABEL: @ones
// CHECK-NEXT: %{{.*}} = onnx.Reshape %x : (tensor<1x3x1x4xf32>) -> tensor<3x1x1x4xf32>
// CHECK-NEXT: %{{.*}} = onnx.Transpose %x {perm = [0, 3, 2, 1]} : (tensor<1x3x1x4xf32>) -> tensor<1x4x1x3xf32>
func.func @ones(%x: tensor<1x3x1x4xf32>) -> (tensor<3x1x1x4xf32>, tensor<1x4x1x3xf32>) {
  %a = onnx.Transpose %x {perm = [1, 0, 2, 3]} : (tensor<1x3x1x4xf32>) -> tensor<3x1x1x4xf32>
  %b = onnx.Transpose %x {perm = [0, 3, 2, 1]} : (tensor<1x3x1x4xf32>) -> tensor<1x4x1x3xf32>
  func.return %a, %b : tensor<3x1x1x4xf32>, tensor<1x4x1x3xf32>
}
