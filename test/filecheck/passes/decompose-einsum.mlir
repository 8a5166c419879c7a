// RUN: vit-opt %s -p decompose-einsum --split-input-file | filecheck %s

// CHECK-LABEL: @scores
func.func @scores(%q: tensor<1x2x3x4xf32>, %k: tensor<1x2x5x4xf32>) -> tensor<1x2x3x5xf32> {
  %y = onnx.Einsum %q, %k {equation = "bhid,bhjd->bhij"} : (tensor<1x2x3x4xf32>, tensor<1x2x5x4xf32>) -> tensor<1x2x3x5xf32>
  func.return %y : tensor<1x2x3x5xf32>
}
// CHECK-NEXT: %[[T:.*]] = onnx.Transpose %k {perm = [0, 1, 3, 2]}
// CHECK-NEXT: onnx.MatMul %q, %[[T]]

// -----

// Several letters to sum over or to keep are merged around the product.
// CHECK-LABEL: @merged
func.func @merged(%x: tensor<2x3x4xf32>, %w: tensor<3x4x5x6xf32>) -> tensor<2x5x6xf32> {
  %y = onnx.Einsum %x, %w {equation = "nhd,hdab->nab"} : (tensor<2x3x4xf32>, tensor<3x4x5x6xf32>) -> tensor<2x5x6xf32>
  func.return %y : tensor<2x5x6xf32>
}
// CHECK-NEXT: %[[X:.*]] = onnx.Reshape %x : (tensor<2x3x4xf32>) -> tensor<2x12xf32>
// CHECK-NEXT: %[[W:.*]] = onnx.Reshape %w : (tensor<3x4x5x6xf32>) -> tensor<12x30xf32>
// CHECK-NEXT: %[[M:.*]] = onnx.MatMul %[[X]], %[[W]]
// CHECK-NEXT: onnx.Reshape %[[M]] : (tensor<2x30xf32>) -> tensor<2x5x6xf32>
