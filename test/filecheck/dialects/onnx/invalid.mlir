// RUN: vit-opt %s --parsing-diagnostics --verify-diagnostics --split-input-file | filecheck %s

// Elementwise results have the operand's shape.
// CHECK: result shape [4] differs from operand shape [3]
func.func @f(%x: tensor<3xf32>) {
  %r = onnx.Relu %x : (tensor<3xf32>) -> tensor<4xf32>
  func.return
}

// -----

// Shapes that do not broadcast.
// CHECK: operand shapes [2, 3] and [4] do not broadcast
func.func @f(%x: tensor<2x3xf32>, %y: tensor<4xf32>) {
  %r = onnx.Add %x, %y : (tensor<2x3xf32>, tensor<4xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// The result has the broadcast shape.
// CHECK: result shape [3] differs from the broadcast shape [2, 3]
func.func @f(%x: tensor<2x3xf32>, %y: tensor<3xf32>) {
  %r = onnx.Mul %x, %y : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<3xf32>
  func.return
}

// -----

// Binary operations take one element type.
// CHECK: operand element types f32 and i64 differ
func.func @f(%x: tensor<3xf32>, %y: tensor<3xi64>) {
  %r = onnx.Sub %x, %y : (tensor<3xf32>, tensor<3xi64>) -> tensor<3xf32>
  func.return
}

// -----

// ... and two operands.
// CHECK: expected 2 operands, got 1
func.func @f(%x: tensor<3xf32>) {
  %r = onnx.Div %x : (tensor<3xf32>) -> tensor<3xf32>
  func.return
}

// -----

// Where takes three.
// CHECK: expected 3 operands, got 2
func.func @f(%x: tensor<3xi1>, %y: tensor<3xf32>) {
  %r = onnx.Where %x, %y : (tensor<3xi1>, tensor<3xf32>) -> tensor<3xf32>
  func.return
}

// -----

// Two forms of GELU.
// CHECK: approximate is "none" or "tanh", got "erf"
func.func @f(%x: tensor<3xf32>) {
  %r = onnx.Gelu %x {approximate = "erf"} : (tensor<3xf32>) -> tensor<3xf32>
  func.return
}

// -----

// Inner dimensions of a product.
// CHECK: inner dimensions differ: a has K = 4, b has K = 5
func.func @f(%x: tensor<2x4xf32>, %y: tensor<5x3xf32>) {
  %r = onnx.MatMul %x, %y : (tensor<2x4xf32>, tensor<5x3xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Shape of a product.
// CHECK: result shape [2, 4] differs from [2, 3], which the operands give
func.func @f(%x: tensor<2x4xf32>, %y: tensor<4x3xf32>) {
  %r = onnx.MatMul %x, %y : (tensor<2x4xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// Gemm is two-dimensional.
// CHECK: operands of shapes [1, 2, 4] and [4, 3] are not 2-D
func.func @f(%x: tensor<1x2x4xf32>, %y: tensor<4x3xf32>) {
  %r = onnx.Gemm %x, %y : (tensor<1x2x4xf32>, tensor<4x3xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Gemm's transposition counts.
// CHECK: inner dimensions differ: a has K = 4, b has K = 3
func.func @f(%x: tensor<2x4xf32>, %y: tensor<4x3xf32>) {
  %r = onnx.Gemm %x, %y {trans_b = 1} : (tensor<2x4xf32>, tensor<4x3xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Weights of Linear are [N, K].
// CHECK: inner dimensions differ: x has K = [4], w has K = [3]
func.func @f(%x: tensor<2x4xf32>, %y: tensor<4x3xf32>) {
  %r = onnx.Linear %x, %y : (tensor<2x4xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// One bias per output channel.
// CHECK: bias has shape [4], but there are 3 output channels
func.func @f(%x: tensor<2x4xf32>, %w: tensor<3x4xf32>, %b: tensor<4xf32>) {
  %r = onnx.Linear %x, %w, %b : (tensor<2x4xf32>, tensor<3x4xf32>, tensor<4xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Operands of linear attention.
// CHECK: shapes of q [5, 4], k [5, 3] and v [5, 4] do not fit together
func.func @f(%x: tensor<5x4xf32>, %y: tensor<5x3xf32>) {
  %r = onnx.LinearAttention %x, %y, %x : (tensor<5x4xf32>, tensor<5x3xf32>, tensor<5x4xf32>) -> tensor<5x4xf32>
  func.return
}

// -----

// Einsum names its operands.
// CHECK: equation ij,jk->ik names 2 operands, got 1
func.func @f(%x: tensor<5x4xf32>) {
  %r = onnx.Einsum %x {equation = "ij,jk->ik"} : (tensor<5x4xf32>) -> tensor<5x5xf32>
  func.return
}

// -----

// Channels of a convolution.
// CHECK: x has 6 channels, w of shape [4, 6, 1, 1] with group 2 takes 12
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<4x6x1x1xf32>) {
  %r = onnx.Conv %x, %w {group = 2} : (tensor<1x6x5x5xf32>, tensor<4x6x1x1xf32>) -> tensor<1x4x5x5xf32>
  func.return
}

// -----

// Output channels divide into groups.
// CHECK: 5 output channels do not divide into 2 groups
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<5x3x1x1xf32>) {
  %r = onnx.Conv %x, %w {group = 2} : (tensor<1x6x5x5xf32>, tensor<5x3x1x1xf32>) -> tensor<1x5x5x5xf32>
  func.return
}

// -----

// Strides are two positive numbers.
// CHECK: strides [2]: want 2 > 0
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<4x6x1x1xf32>) {
  %r = onnx.Conv %x, %w {strides = [2]} : (tensor<1x6x5x5xf32>, tensor<4x6x1x1xf32>) -> tensor<1x4x5x5xf32>
  func.return
}

// -----

// Pads are four.
// CHECK: pads [1, 1]: want 4 >= 0
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<4x6x1x1xf32>) {
  %r = onnx.Conv %x, %w {pads = [1, 1]} : (tensor<1x6x5x5xf32>, tensor<4x6x1x1xf32>) -> tensor<1x4x5x5xf32>
  func.return
}

// -----

// Size of a convolution.
// CHECK: result shape [1, 4, 5, 5] differs from [1, 4, 3, 3], which the operands give
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<4x6x3x3xf32>) {
  %r = onnx.Conv %x, %w : (tensor<1x6x5x5xf32>, tensor<4x6x3x3xf32>) -> tensor<1x4x5x5xf32>
  func.return
}

// -----

// Channels of a transposed convolution.
// CHECK: x has 6 channels, w of shape [4, 6, 2, 2] takes 4
func.func @f(%x: tensor<1x6x5x5xf32>, %w: tensor<4x6x2x2xf32>) {
  %r = onnx.ConvTranspose %x, %w : (tensor<1x6x5x5xf32>, tensor<4x6x2x2xf32>) -> tensor<1x6x6x6xf32>
  func.return
}

// -----

// Axes of a reduction.
// CHECK: axes entry 3 is out of range for rank 2
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.ReduceMean %x {axes = [3]} : (tensor<2x3xf32>) -> tensor<2x1xf32>
  func.return
}

// -----

// keepdims = 0 drops the dimension.
// CHECK: result shape [2, 1] differs from [2], which the operands give
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.ReduceMax %x {axes = [1], keepdims = 0} : (tensor<2x3xf32>) -> tensor<2x1xf32>
  func.return
}

// -----

// Pooling windows.
// CHECK: kernel_shape [3]: want 2 > 0
func.func @f(%x: tensor<1x2x8x8xf32>) {
  %r = onnx.MaxPool %x {kernel_shape = [3]} : (tensor<1x2x8x8xf32>) -> tensor<1x2x6x6xf32>
  func.return
}

// -----

// Global pooling keeps N and C.
// CHECK: result shape [1, 2] differs from [1, 2, 1, 1], which the operands give
func.func @f(%x: tensor<1x2x8x8xf32>) {
  %r = onnx.GlobalAveragePool %x : (tensor<1x2x8x8xf32>) -> tensor<1x2xf32>
  func.return
}

// -----

// Axis of softmax.
// CHECK: axis 2 is out of range for rank 2
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Softmax %x {axis = 2} : (tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Scale of a layer normalisation.
// CHECK: scale has shape [2], but the normalised dimensions are [3]
func.func @f(%x: tensor<2x3xf32>, %s: tensor<2xf32>) {
  %r = onnx.LayerNormalization %x, %s : (tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x3xf32>
  func.return
}

// -----

// Parameters of a batch normalisation.
// CHECK: bias has shape [3], but x has 2 channels
func.func @f(%x: tensor<1x2x3xf32>, %s: tensor<2xf32>, %b: tensor<3xf32>) {
  %r = onnx.BatchNormalization %x, %s, %b, %s, %s : (tensor<1x2x3xf32>, tensor<2xf32>, tensor<3xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2x3xf32>
  func.return
}

// -----

// Reshape keeps the elements.
// CHECK: operand shape [2, 3] has 6 elements, result shape [4] has 4
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Reshape %x : (tensor<2x3xf32>) -> tensor<4xf32>
  func.return
}

// -----

// Permutations.
// CHECK: perm [0, 0] is no permutation of the 2 dimensions of x
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Transpose %x {perm = [0, 0]} : (tensor<2x3xf32>) -> tensor<2x2xf32>
  func.return
}

// -----

// Expand only grows dimensions of size one.
// CHECK: operand shapes [3] and [2, 4] do not broadcast
func.func @f(%x: tensor<3xf32>) {
  %r = onnx.Expand %x : (tensor<3xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// One repetition per dimension.
// CHECK: repeats [2] does not fit shape [2, 3]
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Tile %x {repeats = [2]} : (tensor<2x3xf32>) -> tensor<4x3xf32>
  func.return
}

// -----

// Parts of a concatenation.
// CHECK: operand shapes [2, 3] and [2, 4] differ beside axis 0
func.func @f(%x: tensor<2x3xf32>, %y: tensor<2x4xf32>) {
  %r = onnx.Concat %x, %y {axis = 0} : (tensor<2x3xf32>, tensor<2x4xf32>) -> tensor<4x3xf32>
  func.return
}

// -----

// Parts of a split.
// CHECK: parts have 4 along axis 1, x has 3
func.func @f(%x: tensor<2x3xf32>) {
  %r, %q = onnx.Split %x {axis = 1} : (tensor<2x3xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>)
  func.return
}

// -----

// Lists of a slice.
// CHECK: axes, starts, ends and steps differ in length
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Slice %x {starts = [0], ends = [1], axes = [0]} : (tensor<2x3xf32>) -> tensor<1x3xf32>
  func.return
}

// -----

// Steps of a slice.
// CHECK: steps contains 0
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Slice %x {starts = [0], ends = [1], axes = [0], steps = [0]} : (tensor<2x3xf32>) -> tensor<1x3xf32>
  func.return
}

// -----

// Pads of a tensor.
// CHECK: pads [1, 1] does not fit shape [2, 3]
func.func @f(%x: tensor<2x3xf32>) {
  %r = onnx.Pad %x {pads = [1, 1]} : (tensor<2x3xf32>) -> tensor<3x4xf32>
  func.return
}

// -----

// Modes of padding.
// CHECK: mode "wrap" is not constant, reflect or edge
func.func @f(%x: tensor<2xf32>) {
  %r = onnx.Pad %x {pads = [1, 1], mode = "wrap"} : (tensor<2xf32>) -> tensor<4xf32>
  func.return
}

// -----

// Resize leaves batch and channels.
// CHECK: result shape [1, 4, 8, 8] changes batch or channels of [1, 2, 4, 4]
func.func @f(%x: tensor<1x2x4x4xf32>) {
  %r = onnx.Resize %x : (tensor<1x2x4x4xf32>) -> tensor<1x4x8x8xf32>
  func.return
}

// -----

// Modes of resampling.
// CHECK: mode "cubic" is not nearest or linear
func.func @f(%x: tensor<1x2x4x4xf32>) {
  %r = onnx.Resize %x {mode = "cubic"} : (tensor<1x2x4x4xf32>) -> tensor<1x2x8x8xf32>
  func.return
}

// -----

// Blocks of channels.
// CHECK: blocksize 2 does not fit shape [1, 6, 4, 4]
func.func @f(%x: tensor<1x6x4x4xf32>) {
  %r = onnx.DepthToSpace %x {blocksize = 2} : (tensor<1x6x4x4xf32>) -> tensor<1x1x8x8xf32>
  func.return
}

// -----

// Scales per channel.
// CHECK: scale has shape [3], but dimension 0 of x has 2
func.func @f(%x: tensor<2x3xf32>, %s: tensor<3xf32>) {
  %r = onnx.QuantizeLinear %x, %s {axis = 0} : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xui8>
  func.return
}

// -----

// Zero points have the type of the codes.
// CHECK: zero point has element type i8, the codes ui8
func.func @f(%x: tensor<2x3xf32>, %s: tensor<f32>, %z: tensor<i8>) {
  %r = onnx.QuantizeLinear %x, %s, %z : (tensor<2x3xf32>, tensor<f32>, tensor<i8>) -> tensor<2x3xui8>
  func.return
}

// -----

// ... and the shape of the scales.
// CHECK: zero point has shape [2], scale []
func.func @f(%x: tensor<2x3xi8>, %s: tensor<f32>, %z: tensor<2xi8>) {
  %r = onnx.DequantizeLinear %x, %s, %z : (tensor<2x3xi8>, tensor<f32>, tensor<2xi8>) -> tensor<2x3xf32>
  func.return
}

// -----

// The value of a constant is an array.
// CHECK: value must be dense or #vit.asset, got "text"
func.func @f() {
  %c = onnx.Constant "text"
  func.return
}

// -----

// A constant has the type of its value.
// CHECK: value has type tensor<2xf32>, the result tensor<3xf32>
func.func @f() {
  %c = "onnx.Constant"() <{value = dense<1.0> : tensor<2xf32>}> : () -> tensor<3xf32>
  func.return
}

// -----

// Attributes have their declared kinds.
// CHECK: attribute alpha has the unexpected type i64
func.func @f(%x: tensor<2xf32>) {
  %y = onnx.LeakyRelu %x {alpha = 1.5 : i64} : (tensor<2xf32>) -> tensor<2xf32>
  func.return
}
