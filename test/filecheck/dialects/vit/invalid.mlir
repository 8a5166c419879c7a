// RUN: vit-opt %s --parsing-diagnostics --verify-diagnostics --split-input-file | filecheck %s

// Storage i12 does not exist.
// CHECK: storage i12 is not one of i4, i8, ui8, i16, ui16, i32, ui32, i64
func.func private @f(!vit.fixed<i12, 3>)

// -----

// Storage si8 does not exist.
// CHECK: storage si8 is not one of i4, i8, ui8, i16, ui16, i32, ui32, i64
func.func private @f(!vit.fixed<si8, 3>)

// -----

// Storage ui4 does not exist.
// CHECK: storage ui4 is not one of i4, i8, ui8, i16, ui16, i32, ui32, i64
func.func private @f(!vit.fixed<ui4, 3>)

// -----

// Storage ui64 does not exist.
// CHECK: storage ui64 is not one of i4, i8, ui8, i16, ui16, i32, ui32, i64
func.func private @f(!vit.fixed<ui64, 3>)

// -----

// The storage is an integer type.
// CHECK: the storage of a number format is an integer type, got f32
func.func private @f(!vit.fixed<f32, 3>)

// -----

// The zero point is a code.
// CHECK: zp 128 lies outside of i8
func.func private @f(!vit.fixed<i8, 3, zp = 128>)

// -----

// Accumulators are symmetric.
// CHECK: zp 1 of storage i32: accumulators have zero point 0, only storage of up to 16 bits may have another
func.func private @f(!vit.fixed<i32, 3, zp = 1>)

// -----

// A list needs an axis.
// CHECK: a list of fractional bits needs an axis, and an axis a list
func.func private @f(!vit.fixed<i8, [3, 4]>)

// -----

// An axis needs a list.
// CHECK: a list of fractional bits needs an axis, and an axis a list
func.func private @f(!vit.fixed<i8, 3, axis = 0>)

// -----

// The same for scales.
// CHECK: a list of scales needs an axis, and an axis a list
func.func private @f(!vit.scaled<i8, [0.5, 0.25]>)

// -----

// Fractional bits are limited.
// CHECK: frac of magnitude 127 exceeds 126
func.func private @f(!vit.fixed<i8, -127>)

// -----

// So are those of each channel.
// CHECK: frac of magnitude 70000 exceeds 126
func.func private @f(!vit.fixed<i8, [1, 70000], axis = 0>)

// -----

// Scales are positive.
// CHECK: scale -0.5 is not a positive finite number
func.func private @f(!vit.scaled<i8, -0.5>)

// -----

// Each of them.
// CHECK: scale 0.0 is not a positive finite number
func.func private @f(!vit.scaled<i8, [0.5, 0.0], axis = 0>)

// -----

// Unknown fields are refused.
// CHECK: unknown field 'zero' of a number format, expected axis or zp
func.func private @f(!vit.fixed<i8, 3, zero = 1>)

// -----

// A long channel vector lies in the weight file.
// CHECK: a channel vector of a type (digest 0123456789abcdef) is not loaded; name its weight file with --weights-in
func.func private @f(!vit.fixed<i8, [192 x "0123456789abcdef"], axis = 0>)

// -----

// An asset has a tensor type.
// CHECK: the type of an asset is a tensor, got i8
"test.op"() {w = #vit.asset<"w", "d", i8>} : () -> ()

// -----

// Rounding has a name.
// CHECK: rounding 'up' is not one of rhu, rhe, floor
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 {rounding = "up"} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Result shapes follow from the operands.
// CHECK: result has shape [3], but the operands imply [2]
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// So do the formats of accumulators.
// CHECK: result has format !vit.fixed<i32, 9>, but the operands imply !vit.fixed<i32, 10>
func.func @f(%0 : tensor<1x4x!vit.fixed<i8, 5>>, %1 : tensor<2x4x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x4x!vit.fixed<i8, 5>>, tensor<2x4x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i32, 9>>
  return
}

// -----

// Shapes are static.
// CHECK: expected a static shape without empty dimensions, got tensor<?x!vit.fixed<i8, 5>>
func.func @f(%0 : tensor<?x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<?x!vit.fixed<i8, 5>>) -> tensor<?x!vit.fixed<i8, 5>>
  return
}

// -----

// Nothing is empty.
// CHECK: expected a static shape without empty dimensions, got tensor<0x!vit.fixed<i8, 5>>
func.func @f(%0 : tensor<0x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<0x!vit.fixed<i8, 5>>) -> tensor<0x!vit.fixed<i8, 5>>
  return
}

// -----

// Integers have a format.
// CHECK: expected elements of !vit.fixed or !vit.scaled, got i8
func.func @f(%0 : tensor<2xi8>) {
  %r0 = vit.pot_requant %0 : (tensor<2xi8>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// The channel axis of a result is one of its dimensions.
// CHECK: format has axis 1, but the tensor has 1 dimensions
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, [3, 4], axis = 1>>
  return
}

// -----

// There are as many scales as channels.
// CHECK: format has 2 channels, but dimension 0 has size 3
func.func @f(%0 : tensor<3x!vit.fixed<i8, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<3x!vit.fixed<i8, 5>>) -> tensor<3x!vit.fixed<i8, [3, 4], axis = 0>>
  return
}

// -----

// Of operands too.
// CHECK: format has 2 channels, but dimension 0 has size 3
func.func @f(%0 : tensor<3x!vit.fixed<i8, [3, 4], axis = 0>>) {
  %r0 = vit.pot_requant %0 : (tensor<3x!vit.fixed<i8, [3, 4], axis = 0>>) -> tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// The value of a constant has its shape.
// CHECK: value has shape [2], the result [3]
func.func @f() {
  %r0 = vit.constant {value = dense<1> : tensor<2xi8>} : tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// And so has the master.
// CHECK: master has shape [2], the result [3]
func.func @f() {
  %r0 = vit.constant {value = dense<1> : tensor<3xi8>, master = dense<1.0> : tensor<2xf32>} : tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// A master is real.
// CHECK: master has elements i8, expected f32 or f64
func.func @f() {
  %r0 = vit.constant {value = dense<1> : tensor<3xi8>, master = dense<1> : tensor<3xi8>} : tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// Codes are stored in the storage type.
// CHECK: value has elements i16, but the result stores i8
func.func @f() {
  %r0 = vit.constant {value = dense<1> : tensor<3xi16>} : tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// An asset of i4 has one byte per code.
// CHECK: value has elements i16, but the result stores i8
func.func @f() {
  %r0 = vit.constant {value = #vit.asset<"w", "d", tensor<3xi16>>} : tensor<3x!vit.fixed<i4, 3>>
  return
}

// -----

// Quantize gives codes.
// CHECK: expected elements of !vit.fixed or !vit.scaled, got f32
func.func @f(%0 : tensor<2xf32>) {
  %r0 = vit.quantize %0 : (tensor<2xf32>) -> tensor<2xf32>
  return
}

// -----

// Dequantize takes codes.
// CHECK: x has elements f32, expected !vit.fixed or !vit.scaled
func.func @f(%0 : tensor<2xf32>) {
  %r0 = vit.dequantize %0 : (tensor<2xf32>) -> tensor<2xf32>
  return
}

// -----

// The reduced dimensions agree.
// CHECK: x has shape [1, 4] and weight [2, 3]; expected [..., K] and [N, K]
func.func @f(%0 : tensor<1x4x!vit.fixed<i8, 5>>, %1 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x4x!vit.fixed<i8, 5>>, tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i32, 10>>
  return
}

// -----

// Accumulators are not multiplied.
// CHECK: x has storage i32, expected i4 or i8 or ui8 or i16 or ui16
func.func @f(%0 : tensor<1x4x!vit.fixed<i32, 5>>, %1 : tensor<2x4x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x4x!vit.fixed<i32, 5>>, tensor<2x4x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i32, 10>>
  return
}

// -----

// The scale of x does not vary along the sum.
// CHECK: x has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x2x!vit.fixed<i8, [1, 2], axis = 1>>, %1 : tensor<2x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x2x!vit.fixed<i8, [1, 2], axis = 1>>, tensor<2x2x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i32, [6, 7], axis = 1>>
  return
}

// -----

// Weights are signed.
// CHECK: weight has storage ui8, expected i4 or i8 or i16
func.func @f(%0 : tensor<1x4x!vit.fixed<i8, 5>>, %1 : tensor<2x4x!vit.fixed<ui8, 5>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x4x!vit.fixed<i8, 5>>, tensor<2x4x!vit.fixed<ui8, 5>>) -> tensor<1x2x!vit.fixed<i32, 10>>
  return
}

// -----

// Weights vary per output channel.
// CHECK: weight has channel axis 1, expected 0
func.func @f(%0 : tensor<1x2x!vit.fixed<i8, 5>>, %1 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.linear %0, %1 : (tensor<1x2x!vit.fixed<i8, 5>>, tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<1x2x!vit.fixed<i32, [6, 7], axis = 1>>
  return
}

// -----

// A bias has an entry per output channel.
// CHECK: bias has shape [3], expected [2]
func.func @f(%0 : tensor<1x4x!vit.fixed<i8, 5>>, %1 : tensor<2x4x!vit.fixed<i8, 5>>, %2 : tensor<3x!vit.fixed<i32, 10>>) {
  %r0 = vit.linear %0, %1, %2 : (tensor<1x4x!vit.fixed<i8, 5>>, tensor<2x4x!vit.fixed<i8, 5>>, tensor<3x!vit.fixed<i32, 10>>) -> tensor<1x2x!vit.fixed<i32, 10>>
  return
}

// -----

// A bias lies on the accumulator's grid.
// CHECK: bias has format !vit.fixed<i32, 9>, the accumulator !vit.fixed<i32, 10>
func.func @f(%0 : tensor<1x4x!vit.fixed<i8, 5>>, %1 : tensor<2x4x!vit.fixed<i8, 5>>, %2 : tensor<2x!vit.fixed<i32, 9>>) {
  %r0 = vit.linear %0, %1, %2 : (tensor<1x4x!vit.fixed<i8, 5>>, tensor<2x4x!vit.fixed<i8, 5>>, tensor<2x!vit.fixed<i32, 9>>) -> tensor<1x2x!vit.fixed<i32, 10>>
  return
}

// -----

// Leading dimensions of a product agree.
// CHECK: a [2, 3, 4] and b [3, 4, 5] differ in their leading dimensions
func.func @f(%0 : tensor<2x3x4x!vit.fixed<i8, 5>>, %1 : tensor<3x4x5x!vit.fixed<i8, 5>>) {
  %r0 = vit.matmul %0, %1 : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<3x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>>
  return
}

// -----

// The reduced dimensions agree.
// CHECK: a has 4 columns to reduce, b 5
func.func @f(%0 : tensor<2x3x4x!vit.fixed<i8, 5>>, %1 : tensor<2x5x4x!vit.fixed<i8, 5>>) {
  %r0 = vit.matmul %0, %1 : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x3x4x!vit.fixed<i32, 10>>
  return
}

// -----

// Transposed, too.
// CHECK: a has 4 columns to reduce, b 5
func.func @f(%0 : tensor<2x3x4x!vit.fixed<i8, 5>>, %1 : tensor<2x4x5x!vit.fixed<i8, 5>>) {
  %r0 = vit.matmul %0, %1 {transpose_b} : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x4x!vit.fixed<i32, 10>>
  return
}

// -----

// Factors have up to 16 bits.
// CHECK: a has storage i32, expected i4 or i8 or ui8 or i16 or ui16
func.func @f(%0 : tensor<3x4x!vit.fixed<i32, 5>>, %1 : tensor<4x5x!vit.fixed<i8, 5>>) {
  %r0 = vit.matmul %0, %1 : (tensor<3x4x!vit.fixed<i32, 5>>, tensor<4x5x!vit.fixed<i8, 5>>) -> tensor<3x5x!vit.fixed<i32, 10>>
  return
}

// -----

// Both of them.
// CHECK: b has storage i64, expected i4 or i8 or ui8 or i16 or ui16
func.func @f(%0 : tensor<3x4x!vit.fixed<i8, 5>>, %1 : tensor<4x5x!vit.fixed<i64, 5>>) {
  %r0 = vit.matmul %0, %1 : (tensor<3x4x!vit.fixed<i8, 5>>, tensor<4x5x!vit.fixed<i64, 5>>) -> tensor<3x5x!vit.fixed<i32, 10>>
  return
}

// -----

// The scale of a does not vary.
// CHECK: a has a scale per channel along axis 0, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>, %1 : tensor<4x5x!vit.fixed<i8, 5>>) {
  %r0 = vit.matmul %0, %1 : (tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>, tensor<4x5x!vit.fixed<i8, 5>>) -> tensor<2x5x!vit.fixed<i32, 10>>
  return
}

// -----

// That of b only along the columns.
// CHECK: b has a scale per channel along axis 0, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<3x2x!vit.fixed<i8, 5>>, %1 : tensor<2x5x!vit.fixed<i8, [1, 2], axis = 0>>) {
  %r0 = vit.matmul %0, %1 : (tensor<3x2x!vit.fixed<i8, 5>>, tensor<2x5x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<3x5x!vit.fixed<i32, 10>>
  return
}

// -----

// Images have four dimensions.
// CHECK: x has shape [4, 4, 2], expected [N, H, W, C]
func.func @f(%0 : tensor<4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// And so have kernels.
// CHECK: weight has shape [6, 3, 2], expected [O, KH, KW, C / groups]
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Groups divide the channels.
// CHECK: groups 3 with 2 input and 6 output channels does not fit a weight of shape [6, 3, 3, 2] ([O, KH, KW, C / groups])
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, groups = 3 : i64} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// A window fits the image.
// CHECK: window [5, 5] is larger than the padded input [4, 4]
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 2, 2>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Strides are positive.
// CHECK: strides [0, 1]: expected 2 values, each >= 1
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 0, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// There are four pads.
// CHECK: pads [1, 1]: expected 4 values, each >= 0
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 1, 1>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Dilations are positive.
// CHECK: dilations [1]: expected 2 values, each >= 1
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, dilations = array<i64: 1>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Only a depthwise convolution takes scales per channel.
// CHECK: x has a scale per channel along axis 3, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, [1, 2], axis = 3>>, %1 : tensor<2x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, [1, 2], axis = 3>>, tensor<2x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x2x!vit.fixed<i32, [6, 7], axis = 3>>
  return
}

// -----

// Images are not accumulators.
// CHECK: x has storage i32, expected i4 or i8 or ui8 or i16 or ui16
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i32, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i32, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x2x2x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Output padding is smaller than the stride.
// CHECK: output_padding [1, 0]: expected two sizes smaller than strides [1, 1]
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv_transpose2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, output_padding = array<i64: 1, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x7x6x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Something is left.
// CHECK: pads [3, 3, 3, 3] leave nothing of the result
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>, %1 : tensor<6x3x3x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.conv_transpose2d %0, %1 {strides = array<i64: 1, 1>, pads = array<i64: 3, 3, 3, 3>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>, tensor<6x3x3x2x!vit.fixed<i8, 5>>) -> tensor<1x1x1x6x!vit.fixed<i32, 10>>
  return
}

// -----

// Codes and values multiply.
// CHECK: codes [2, 3, 4] and v [2, 5, 4] do not multiply
func.func @f(%0 : tensor<2x3x4x!vit.log2>, %1 : tensor<2x5x4x!vit.fixed<i8, 5>>) {
  %r0 = vit.log2_matmul %0, %1 : (tensor<2x3x4x!vit.log2>, tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x3x4x!vit.fixed<i32, 19>>
  return
}

// -----

// Values are shifted, and have 8 bits.
// CHECK: v has storage i16, expected i8
func.func @f(%0 : tensor<3x4x!vit.log2>, %1 : tensor<4x4x!vit.fixed<i16, 5>>) {
  %r0 = vit.log2_matmul %0, %1 : (tensor<3x4x!vit.log2>, tensor<4x4x!vit.fixed<i16, 5>>) -> tensor<3x4x!vit.fixed<i32, 19>>
  return
}

// -----

// Values vary along the columns only.
// CHECK: v has a scale per channel along axis 0, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<3x2x!vit.log2>, %1 : tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>) {
  %r0 = vit.log2_matmul %0, %1 : (tensor<3x2x!vit.log2>, tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<3x4x!vit.fixed<i32, 19>>
  return
}

// -----

// Tokens agree.
// CHECK: q [4, 2], k [4, 3], v [4, 3]; expected [..., N, d] thrice
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x3x!vit.fixed<i8, 5>>, %2 : tensor<4x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x3x!vit.fixed<i8, 5>>, tensor<4x3x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Linear attention works on bytes.
// CHECK: k has storage i16, expected i8 or ui8
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x2x!vit.fixed<i16, 5>>, %2 : tensor<4x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i16, 5>>, tensor<4x3x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// All operands have one scale.
// CHECK: v has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x2x!vit.fixed<i8, 5>>, %2 : tensor<4x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<4x2x!vit.fixed<i8, 5>>
  return
}

// -----

// And no zero point.
// CHECK: q has zp 3, expected 0
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5, zp = 3>>, %1 : tensor<4x2x!vit.fixed<i8, 5>>, %2 : tensor<4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5, zp = 3>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 5>>
  return
}

// -----

// The divisor has a name.
// CHECK: divisor 'exact' is not recip or pot
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x2x!vit.fixed<i8, 5>>, %2 : tensor<4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64, divisor = "exact"} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, 5>>
  return
}

// -----

// The result has one scale.
// CHECK: result has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x2x!vit.fixed<i8, 5>>, %2 : tensor<4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i8, [1, 2], axis = 1>>
  return
}

// -----

// Which differs from that of v by a shift.
// CHECK: scales of !vit.fixed<i8, 5> and !vit.scaled<i8, 0.3> do not differ by a power of two; requantise with vit.requant
func.func @f(%0 : tensor<4x2x!vit.fixed<i8, 5>>, %1 : tensor<4x2x!vit.fixed<i8, 5>>, %2 : tensor<4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.linear_attn %0, %1, %2 {kv_shift = 3 : i64, ksum_shift = 2 : i64} : (tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.scaled<i8, 0.3>>
  return
}

// -----

// A reshape keeps the number of elements.
// CHECK: [2, 3] has 6 elements, [5] has 5
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.reshape %0 : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<5x!vit.fixed<i8, 5>>
  return
}

// -----

// It keeps the channels together.
// CHECK: reshape [2, 6] to [2, 2, 3] breaks up dimension 1, along which the scale varies
func.func @f(%0 : tensor<2x6x!vit.fixed<i8, [1, 2, 3, 4, 5, 6], axis = 1>>) {
  %r0 = vit.reshape %0 : (tensor<2x6x!vit.fixed<i8, [1, 2, 3, 4, 5, 6], axis = 1>>) -> tensor<2x2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// A permutation names every dimension.
// CHECK: permutation [0, 0] does not order the 2 dimensions of x
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.transpose %0 {permutation = array<i64: 0, 0>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// The channel axis moves with its dimension.
// CHECK: result has format !vit.fixed<i8, [1, 2, 3], axis = 1>, but the operands imply !vit.fixed<i8, [1, 2, 3], axis = 0>
func.func @f(%0 : tensor<3x3x!vit.fixed<i8, [1, 2, 3], axis = 1>>) {
  %r0 = vit.transpose %0 {permutation = array<i64: 1, 0>} : (tensor<3x3x!vit.fixed<i8, [1, 2, 3], axis = 1>>) -> tensor<3x3x!vit.fixed<i8, [1, 2, 3], axis = 1>>
  return
}

// -----

// A slice says something of each dimension.
// CHECK: offsets, sizes and strides must have 2 entries each
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.slice %0 {offsets = array<i64: 0>, sizes = array<i64: 2, 1>, strides = array<i64: 1, 1>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x1x!vit.fixed<i8, 5>>
  return
}

// -----

// A slice lies inside.
// CHECK: dimension 1 of size 3 has no 2 elements from 1 by 2
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.slice %0 {offsets = array<i64: 0, 1>, sizes = array<i64: 2, 2>, strides = array<i64: 1, 2>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Concatenation is along a dimension.
// CHECK: axis 2 is not a dimension of the operands
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>, %1 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.concat %0, %1 {axis = 2 : i64} : (tensor<2x3x!vit.fixed<i8, 5>>, tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// The other dimensions agree.
// CHECK: operands [2, 3] and [2, 4] differ beside axis 0
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>, %1 : tensor<2x4x!vit.fixed<i8, 5>>) {
  %r0 = vit.concat %0, %1 {axis = 0 : i64} : (tensor<2x3x!vit.fixed<i8, 5>>, tensor<2x4x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Channels are not joined.
// CHECK: cannot join along axis 0, where scales vary
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, [1, 2], axis = 0>>, %1 : tensor<2x3x!vit.fixed<i8, [1, 2], axis = 0>>) {
  %r0 = vit.concat %0, %1 {axis = 0 : i64} : (tensor<2x3x!vit.fixed<i8, [1, 2], axis = 0>>, tensor<2x3x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Operands have one format.
// CHECK: operands have formats !vit.fixed<i8, 5> and !vit.fixed<i8, 4>; requantise to one first
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>, %1 : tensor<2x3x!vit.fixed<i8, 4>>) {
  %r0 = vit.concat %0, %1 {axis = 0 : i64} : (tensor<2x3x!vit.fixed<i8, 5>>, tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Pads are sizes.
// CHECK: low and high must be 2 non-negative sizes each
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.pad %0 {low = array<i64: 0, -1>, high = array<i64: 0, 0>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// No channels are invented.
// CHECK: cannot pad dimension 1, along which the scale varies
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.pad %0 {low = array<i64: 0, 1>, high = array<i64: 0, 0>} : (tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// There is no code of zero to pad with.
// CHECK: expected elements of !vit.fixed or !vit.scaled, got f32
func.func @f(%0 : tensor<2xf32>) {
  %r0 = vit.pad %0 {low = array<i64: 1>, high = array<i64: 0>} : (tensor<2xf32>) -> tensor<3xf32>
  return
}

// -----

// Gather is along a dimension.
// CHECK: axis 2 is not a dimension of [2, 3]
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.gather %0 {axis = 2 : i64, indices = array<i64: 0>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Indices lie inside.
// CHECK: indices [0, 3] leave dimension 1 of [2, 3]
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.gather %0 {axis = 1 : i64, indices = array<i64: 0, 3>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Rows have a length.
// CHECK: s is a scalar, expected rows along a last dimension
func.func @f(%0 : tensor<!vit.fixed<i8, 5>>) {
  %r0, %r1 = vit.softmax_exp %0 : (tensor<!vit.fixed<i8, 5>>) -> (tensor<!vit.fixed<ui8, 0>>, tensor<1x!vit.fixed<ui32, 0>>)
  return
}

// -----

// Exponentials need a power-of-two scale.
// CHECK: s has format !vit.scaled<i8, 0.3>, expected !vit.fixed
func.func @f(%0 : tensor<2x3x!vit.scaled<i8, 0.3>>) {
  %r0, %r1 = vit.softmax_exp %0 : (tensor<2x3x!vit.scaled<i8, 0.3>>) -> (tensor<2x3x!vit.fixed<ui8, 0>>, tensor<2x1x!vit.fixed<ui32, 0>>)
  return
}

// -----

// Scores have up to 32 bits.
// CHECK: s has storage i64, expected i8 or ui8 or i16 or i32
func.func @f(%0 : tensor<2x3x!vit.fixed<i64, 5>>) {
  %r0, %r1 = vit.softmax_exp %0 : (tensor<2x3x!vit.fixed<i64, 5>>) -> (tensor<2x3x!vit.fixed<ui8, 0>>, tensor<2x1x!vit.fixed<ui32, 0>>)
  return
}

// -----

// Scores are compared along the row.
// CHECK: s has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0, %r1 = vit.softmax_exp %0 : (tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> (tensor<2x2x!vit.fixed<ui8, 0>>, tensor<2x1x!vit.fixed<ui32, 0>>)
  return
}

// -----

// Exponentials have frac 0.
// CHECK: result has format !vit.fixed<ui8, 8>, but the operands imply !vit.fixed<ui8, 0>
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0, %r1 = vit.softmax_exp %0 : (tensor<2x3x!vit.fixed<i8, 5>>) -> (tensor<2x3x!vit.fixed<ui8, 8>>, tensor<2x1x!vit.fixed<ui32, 0>>)
  return
}

// -----

// One sum a row.
// CHECK: sum has shape [2, 3], expected [2, 1]
func.func @f(%0 : tensor<2x3x!vit.fixed<i32, 5>>, %1 : tensor<2x3x!vit.fixed<ui32, 0>>) {
  %r0 = vit.normalize %0, %1 : (tensor<2x3x!vit.fixed<i32, 5>>, tensor<2x3x!vit.fixed<ui32, 0>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Only accumulators are divided.
// CHECK: acc has storage i16, expected i32
func.func @f(%0 : tensor<2x3x!vit.fixed<i16, 5>>, %1 : tensor<2x1x!vit.fixed<ui32, 0>>) {
  %r0 = vit.normalize %0, %1 : (tensor<2x3x!vit.fixed<i16, 5>>, tensor<2x1x!vit.fixed<ui32, 0>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// A sum counts.
// CHECK: sum has format !vit.fixed<ui32, 3>, expected !vit.fixed<ui32, 0>
func.func @f(%0 : tensor<2x3x!vit.fixed<i32, 5>>, %1 : tensor<2x1x!vit.fixed<ui32, 3>>) {
  %r0 = vit.normalize %0, %1 : (tensor<2x3x!vit.fixed<i32, 5>>, tensor<2x1x!vit.fixed<ui32, 3>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Normalisation shifts.
// CHECK: scales of !vit.fixed<i32, 5> and !vit.scaled<i8, 0.3> do not differ by a power of two; requantise with vit.requant
func.func @f(%0 : tensor<2x3x!vit.fixed<i32, 5>>, %1 : tensor<2x1x!vit.fixed<ui32, 0>>) {
  %r0 = vit.normalize %0, %1 : (tensor<2x3x!vit.fixed<i32, 5>>, tensor<2x1x!vit.fixed<ui32, 0>>) -> tensor<2x3x!vit.scaled<i8, 0.3>>
  return
}

// -----

// Along one axis.
// CHECK: operand varies along axis 1, result along 0
func.func @f(%0 : tensor<2x2x!vit.fixed<i32, [1, 2], axis = 1>>, %1 : tensor<2x1x!vit.fixed<ui32, 0>>) {
  %r0 = vit.normalize %0, %1 : (tensor<2x2x!vit.fixed<i32, [1, 2], axis = 1>>, tensor<2x1x!vit.fixed<ui32, 0>>) -> tensor<2x2x!vit.fixed<i8, [1, 2], axis = 0>>
  return
}

// -----

// Modes have names.
// CHECK: mode 'exact' is not standard or ivit
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.shiftmax %0 {mode = "exact"} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x3x!vit.fixed<i8, 7>>
  return
}

// -----

// The standard form shifts.
// CHECK: s has format !vit.scaled<i8, 0.3>, expected !vit.fixed
func.func @f(%0 : tensor<2x3x!vit.scaled<i8, 0.3>>) {
  %r0 = vit.shiftmax %0 : (tensor<2x3x!vit.scaled<i8, 0.3>>) -> tensor<2x3x!vit.fixed<i8, 7>>
  return
}

// -----

// Probabilities have 8 or 16 bits.
// CHECK: result has storage i32, expected i8 or i16
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.shiftmax %0 : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x3x!vit.fixed<i32, 31>>
  return
}

// -----

// Octaves are counted.
// CHECK: n 0 is not 1 to 31 octaves
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.shiftmax %0 {n = 0 : i64} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x3x!vit.fixed<i8, 7>>
  return
}

// -----

// The row sum has 31 bits.
// CHECK: frac 12 + n 15 + log2 of length 32 needs 32 bits; the row sum has 31 (frac must be 0 or more)
func.func @f(%0 : tensor<2x32x!vit.fixed<i16, 12>>) {
  %r0 = vit.shiftmax %0 : (tensor<2x32x!vit.fixed<i16, 12>>) -> tensor<2x32x!vit.fixed<i8, 7>>
  return
}

// -----

// Here, too.
// CHECK: frac 12 needs 32 bits for the row sum, which has 31
func.func @f(%0 : tensor<2x32x!vit.fixed<i16, 12>>) {
  %r0 = vit.log2_softmax %0 : (tensor<2x32x!vit.fixed<i16, 12>>) -> tensor<2x32x!vit.log2>
  return
}

// -----

// A table fits its codes.
// CHECK: x has 8 bits and the table shape [257]; expected [256] for 8 bits, [257] for 16
func.func @f(%0 : tensor<3x!vit.fixed<i8, 5>>, %1 : tensor<257x!vit.fixed<i8, 5>>) {
  %r0 = vit.lut %0, %1 : (tensor<3x!vit.fixed<i8, 5>>, tensor<257x!vit.fixed<i8, 5>>) -> tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// A table has one scale.
// CHECK: x has a scale per channel along axis 0, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<2x!vit.fixed<i8, [1, 2], axis = 0>>, %1 : tensor<256x!vit.fixed<i8, 5>>) {
  %r0 = vit.lut %0, %1 : (tensor<2x!vit.fixed<i8, [1, 2], axis = 0>>, tensor<256x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Entries have 8 or 16 bits.
// CHECK: table has storage i32, expected i8 or ui8 or i16 or ui16
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>, %1 : tensor<256x!vit.fixed<i32, 5>>) {
  %r0 = vit.lut %0, %1 : (tensor<2x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i32, 5>>) -> tensor<2x!vit.fixed<i32, 5>>
  return
}

// -----

// Interpolation is between signed knots.
// CHECK: table has storage i8, expected i16
func.func @f(%0 : tensor<2x!vit.fixed<i16, 5>>, %1 : tensor<257x!vit.fixed<i8, 5>>) {
  %r0 = vit.lut %0, %1 : (tensor<2x!vit.fixed<i16, 5>>, tensor<257x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Of signed codes.
// CHECK: x has storage ui16, expected i16
func.func @f(%0 : tensor<2x!vit.fixed<ui16, 5>>, %1 : tensor<257x!vit.fixed<i16, 5>>) {
  %r0 = vit.lut %0, %1 : (tensor<2x!vit.fixed<ui16, 5>>, tensor<257x!vit.fixed<i16, 5>>) -> tensor<2x!vit.fixed<i16, 5>>
  return
}

// -----

// GELU by shifts takes signed codes.
// CHECK: x has storage ui8, expected i8 or i16
func.func @f(%0 : tensor<2x!vit.fixed<ui8, 5>>) {
  %r0 = vit.shift_gelu %0 : (tensor<2x!vit.fixed<ui8, 5>>) -> tensor<2x!vit.fixed<i16, 12>>
  return
}

// -----

// Symmetric ones.
// CHECK: x has zp 3, expected 0
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5, zp = 3>>) {
  %r0 = vit.shift_gelu %0 : (tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i16, 12>>
  return
}

// -----

// With up to 15 fractional bits.
// CHECK: x has frac -1, expected 0 to 15
func.func @f(%0 : tensor<2x!vit.fixed<i8, -1>>) {
  %r0 = vit.shift_gelu %0 : (tensor<2x!vit.fixed<i8, -1>>) -> tensor<2x!vit.fixed<i16, 6>>
  return
}

// -----

// Gamma has an entry per channel.
// CHECK: gamma has shape [3], expected [4]
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<3x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<3x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// And so has beta.
// CHECK: beta has shape [3], expected [4]
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<3x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<3x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// Rows are limited.
// CHECK: x has 32768 channels; sums fit 64 bits up to 32767 of them
func.func @f(%0 : tensor<1x32768x!vit.fixed<i8, 5>>, %1 : tensor<32768x!vit.fixed<i8, 6>>, %2 : tensor<32768x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<1x32768x!vit.fixed<i8, 5>>, tensor<32768x!vit.fixed<i8, 6>>, tensor<32768x!vit.fixed<i32, 10>>) -> tensor<1x32768x!vit.fixed<i8, 5>>
  return
}

// -----

// A row of accumulators would not fit.
// CHECK: x has storage i32, expected i8 or ui8 or i16
func.func @f(%0 : tensor<2x4x!vit.fixed<i32, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i32, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// Channels are the last dimension.
// CHECK: x has channel axis 0, expected 1
func.func @f(%0 : tensor<4x4x!vit.fixed<i8, [1, 2, 3, 4], axis = 0>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<4x4x!vit.fixed<i8, [1, 2, 3, 4], axis = 0>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<4x4x!vit.fixed<i8, 5>>
  return
}

// -----

// Of the result as well.
// CHECK: result has channel axis 0, expected 1
func.func @f(%0 : tensor<4x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<4x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<4x4x!vit.fixed<i8, [1, 2, 3, 4], axis = 0>>
  return
}

// -----

// Gamma is narrow.
// CHECK: gamma has storage i32, expected i8 or i16
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i32, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i32, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// Beta is wide.
// CHECK: beta has storage i16, expected i32
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i16, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i16, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// And no finer than the product.
// CHECK: beta has frac 17, at most 10 + frac of gamma allowed
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 17>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 17>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// The result is shifted.
// CHECK: result has format !vit.scaled<i8, 0.3>, expected !vit.fixed
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.scaled<i8, 0.3>>
  return
}

// -----

// Channels are aligned by shifts.
// CHECK: x, which has a scale per channel, has format !vit.scaled<i8, [0.1, 0.2, 0.3, 0.4], axis = 1>, expected !vit.fixed
func.func @f(%0 : tensor<2x4x!vit.scaled<i8, [0.1, 0.2, 0.3, 0.4], axis = 1>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 : (tensor<2x4x!vit.scaled<i8, [0.1, 0.2, 0.3, 0.4], axis = 1>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// The published form has wide results.
// CHECK: result has storage i8, expected i32
func.func @f(%0 : tensor<2x4x!vit.fixed<i8, 5>>, %1 : tensor<4x!vit.fixed<i8, 6>>, %2 : tensor<4x!vit.fixed<i32, 10>>) {
  %r0 = vit.layernorm %0, %1, %2 {mode = "ivit"} : (tensor<2x4x!vit.fixed<i8, 5>>, tensor<4x!vit.fixed<i8, 6>>, tensor<4x!vit.fixed<i32, 10>>) -> tensor<2x4x!vit.fixed<i8, 5>>
  return
}

// -----

// Rows flow.
// CHECK: rows 0 must be positive
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    vit.yield %x : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 0>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Lanes hold rows or columns.
// CHECK: lanes 'depth' is not one of rows, columns
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = #vit.loops<depth, [1, 1, 1], none, [row]>} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Something known stays resident.
// CHECK: resident 'all' is not one of weight, rows, none
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = #vit.loops<rows, [1, 1, 1], all, [row]>} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Blocks have three sizes.
// CHECK: block [1, 1] is not three positive sizes
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = #vit.loops<rows, [1, 1], none, [row]>} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Needs have names.
// CHECK: need 'column' is not one of row, halo, window, all, constant
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = #vit.loops<rows, [1, 1, 1], none, [column]>} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Each operand has a need.
// CHECK: vit.pot_requant: loops has 2 needs for 1 operands
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = #vit.loops<rows, [1, 1, 1], none, [row, row]>} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Loops are loops.
// CHECK: vit.pot_requant: loops is 3 : i64, expected #vit.loops
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    %q = vit.pot_requant %x {loops = 3 : i64} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
    vit.yield %q : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// A pipeline ends in a yield.
// CHECK: the body of a pipeline ends in vit.yield
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    "test.termop"() : () -> ()
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Of values that are its results.
// CHECK: yield has types tensor<2x!vit.fixed<i8, 5>>, the results tensor<3x!vit.fixed<i8, 5>>
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.pipeline {
    vit.yield %x : tensor<2x!vit.fixed<i8, 5>>
  } {schedule = #vit.schedule<"p2vit", 4>} : tensor<3x!vit.fixed<i8, 5>>
  return
}

// -----

// Its body has no arguments.
// CHECK: the body of a pipeline takes no arguments
func.func @f() {
  %y = "vit.pipeline"() <{schedule = #vit.schedule<"p2vit", 4>}> ({
  ^bb0(%x : tensor<2x!vit.fixed<i8, 5>>):
    "vit.yield"(%x) : (tensor<2x!vit.fixed<i8, 5>>) -> ()
  }) : () -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Means are over dimensions.
// CHECK: axes [1, 1] are not distinct dimensions of [2, 3]
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>) {
  %r0 = vit.mean %0 {axes = array<i64: 1, 1>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Of one scale.
// CHECK: x has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.mean %0 {axes = array<i64: 1>} : (tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// With one result scale.
// CHECK: result has a scale per channel along axis 0, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.mean %0 {axes = array<i64: 1>} : (tensor<2x2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, [1, 2], axis = 0>>
  return
}

// -----

// Means shift.
// CHECK: scales of !vit.fixed<i8, 5> and !vit.scaled<i8, 0.3> do not differ by a power of two; requantise with vit.requant
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.mean %0 {axes = array<i64: 1>} : (tensor<2x2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.scaled<i8, 0.3>>
  return
}

// -----

// A kernel has two sizes.
// CHECK: kernel [0, 2]: expected two positive sizes
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.avg_pool2d %0 {kernel = array<i64: 0, 2>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x3x3x2x!vit.fixed<i8, 5>>
  return
}

// -----

// A window is not all padding.
// CHECK: pads [2, 0, 0, 0] must be smaller than kernel [2, 2]
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.max_pool2d %0 {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, pads = array<i64: 2, 0, 0, 0>} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x3x3x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Pixels of one image have one scale.
// CHECK: x has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.max_pool2d %0 {kernel = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>
  return
}

// -----

// Averages have one scale.
// CHECK: x has a scale per channel along axis 3, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 3>>) {
  %r0 = vit.avg_pool2d %0 {kernel = array<i64: 1, 1>, strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>} : (tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 3>>) -> tensor<1x2x2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// A mode has a name.
// CHECK: mode 'cubic' is not one of nearest, linear
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.resize %0 {mode = "cubic"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Coordinates have a name.
// CHECK: coordinates 'centre' is not one of half_pixel, pytorch_half_pixel, align_corners, asymmetric
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.resize %0 {mode = "linear", coordinates = "centre"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Nearest has a name.
// CHECK: nearest 'up' is not one of round_prefer_floor, round_prefer_ceil, floor, ceil
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, 5>>) {
  %r0 = vit.resize %0 {mode = "nearest", nearest = "up"} : (tensor<1x4x4x2x!vit.fixed<i8, 5>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Interpolated pixels have one scale.
// CHECK: x has a scale per channel along axis 3, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x4x4x2x!vit.fixed<i8, [1, 2], axis = 3>>) {
  %r0 = vit.resize %0 {mode = "linear"} : (tensor<1x4x4x2x!vit.fixed<i8, [1, 2], axis = 3>>) -> tensor<1x8x8x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Repeated ones vary along the channels only.
// CHECK: x has a scale per channel along axis 1, which is reduced; use one scale for the tensor
func.func @f(%0 : tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.resize %0 {mode = "nearest"} : (tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<1x2x2x2x!vit.fixed<i8, [1, 2], axis = 1>>
  return
}

// -----

// A shift takes power-of-two scales.
// CHECK: x has format !vit.scaled<i32, 0.3>; pot_requant needs power-of-two scales (!vit.fixed), use vit.requant or run pot-fold first
func.func @f(%0 : tensor<2x!vit.scaled<i32, 0.3>>) {
  %r0 = vit.pot_requant %0 : (tensor<2x!vit.scaled<i32, 0.3>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// And gives them.
// CHECK: result has format !vit.scaled<i8, 0.3>; pot_requant needs power-of-two scales (!vit.fixed), use vit.requant or run pot-fold first
func.func @f(%0 : tensor<2x!vit.fixed<i32, 5>>) {
  %r0 = vit.pot_requant %0 : (tensor<2x!vit.fixed<i32, 5>>) -> tensor<2x!vit.scaled<i8, 0.3>>
  return
}

// -----

// Channels stay channels.
// CHECK: x varies along axis 0, the result along axis 1
func.func @f(%0 : tensor<2x2x!vit.fixed<i32, [1, 2], axis = 0>>) {
  %r0 = vit.pot_requant %0 : (tensor<2x2x!vit.fixed<i32, [1, 2], axis = 0>>) -> tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>
  return
}

// -----

// With multipliers, too.
// CHECK: x varies along axis 0, the result along axis 1
func.func @f(%0 : tensor<2x2x!vit.scaled<i32, [0.1, 0.2], axis = 0>>) {
  %r0 = vit.requant %0 : (tensor<2x2x!vit.scaled<i32, [0.1, 0.2], axis = 0>>) -> tensor<2x2x!vit.scaled<i8, [0.1, 0.2], axis = 1>>
  return
}

// -----

// Shapes broadcast.
// CHECK: shapes [2, 3] and [2] do not broadcast
func.func @f(%0 : tensor<2x3x!vit.fixed<i8, 5>>, %1 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.add %0, %1 : (tensor<2x3x!vit.fixed<i8, 5>>, tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  return
}

// -----

// Channel axes count from the result's dimensions.
// CHECK: operand 1 has a scale per channel and must have rank 2
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, 5>>, %1 : tensor<2x!vit.fixed<i8, [1, 2], axis = 0>>) {
  %r0 = vit.mul %0, %1 : (tensor<2x2x!vit.fixed<i8, 5>>, tensor<2x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// There is one channel axis.
// CHECK: operands and result vary along different axes [0, 1]
func.func @f(%0 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 0>>, %1 : tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) {
  %r0 = vit.add %0, %1 : (tensor<2x2x!vit.fixed<i8, [1, 2], axis = 0>>, tensor<2x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return
}

// -----

// Limits are ordered.
// CHECK: min 5 is greater than max 4
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.clamp %0 {min = 5 : i64, max = 4 : i64} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// Limits are codes.
// CHECK: min 0 and max 200 must be codes of x, -128 to 127
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.clamp %0 {min = 0 : i64, max = 200 : i64} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}

// -----

// A factor stays in range.
// CHECK: frac of magnitude 205 exceeds 126
func.func @f(%0 : tensor<2x!vit.fixed<i8, 5>>) {
  %r0 = vit.reinterpret %0 {exponent = -200 : i64} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}
