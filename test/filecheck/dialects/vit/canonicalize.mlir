// RUN: vit-opt %s -p canonicalize --split-input-file | filecheck %s

// The same format on both sides: no requantisation.
func.func @identity_requant(%x : tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i8, 5, zp = 3>> {
  %y = vit.pot_requant %x : (tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i8, 5, zp = 3>>
  return %y : tensor<2x!vit.fixed<i8, 5, zp = 3>>
}
// CHECK-LABEL: @identity_requant
// CHECK-NEXT:    func.return %x

// -----

// Another storage, another zero point: these saturate or move codes, and stay.
func.func @not_identity(%x : tensor<2x!vit.fixed<i16, 5>>) -> tensor<2x!vit.fixed<i8, 5, zp = 1>> {
  %y = vit.pot_requant %x : (tensor<2x!vit.fixed<i16, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  %z = vit.pot_requant %y : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5, zp = 1>>
  return %z : tensor<2x!vit.fixed<i8, 5, zp = 1>>
}
// CHECK-LABEL: @not_identity
// CHECK-NEXT:    %y = vit.pot_requant %x
// CHECK-NEXT:    %z = vit.pot_requant %y
// CHECK-NEXT:    func.return %z

// -----

// A left shift into storage that holds every result merges with the shift behind it.
func.func @merge(%x : tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i8, 3>> {
  %y = vit.pot_requant %x {rounding = "floor"} : (tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i16, 12>>
  %z = vit.pot_requant %y {rounding = "rhe"} : (tensor<2x!vit.fixed<i16, 12>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %z : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @merge
// CHECK-NEXT:    %z = vit.pot_requant %x {rounding = "rhe"} : (tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i8, 3>>
// CHECK-NEXT:    func.return %z

// -----

// One bit more would saturate (131 << 8 > 32767).
func.func @not_merge_saturating(%x : tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i8, 3>> {
  %y = vit.pot_requant %x : (tensor<2x!vit.fixed<i8, 5, zp = 3>>) -> tensor<2x!vit.fixed<i16, 13>>
  %z = vit.pot_requant %y : (tensor<2x!vit.fixed<i16, 13>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %z : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @not_merge_saturating
// CHECK-NEXT:    %y = vit.pot_requant %x
// CHECK-NEXT:    %z = vit.pot_requant %y

// -----

// Two right shifts round twice.
func.func @not_merge_rounding(%x : tensor<2x!vit.fixed<i32, 9>>) -> tensor<2x!vit.fixed<i8, 3>> {
  %y = vit.pot_requant %x : (tensor<2x!vit.fixed<i32, 9>>) -> tensor<2x!vit.fixed<i32, 7>>
  %z = vit.pot_requant %y : (tensor<2x!vit.fixed<i32, 7>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %z : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @not_merge_rounding
// CHECK-NEXT:    %y = vit.pot_requant %x
// CHECK-NEXT:    %z = vit.pot_requant %y

// -----

// In one channel the first of the two shifts right.
func.func @not_merge_one_channel(%x : tensor<2x!vit.fixed<i8, [5, 9], axis = 0>>) -> tensor<2x!vit.fixed<i8, 3>> {
  %y = vit.pot_requant %x : (tensor<2x!vit.fixed<i8, [5, 9], axis = 0>>) -> tensor<2x!vit.fixed<i32, 8>>
  %z = vit.pot_requant %y : (tensor<2x!vit.fixed<i32, 8>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %z : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @not_merge_one_channel
// CHECK-NEXT:    %y = vit.pot_requant %x
// CHECK-NEXT:    %z = vit.pot_requant %y

// -----

// Channels of source and target along different axes have no single shift per channel.
func.func @not_merge_axes(%x : tensor<2x2x!vit.fixed<i8, [5, 4], axis = 0>>) -> tensor<2x2x!vit.fixed<i8, [3, 4], axis = 1>> {
  %y = vit.pot_requant %x : (tensor<2x2x!vit.fixed<i8, [5, 4], axis = 0>>) -> tensor<2x2x!vit.fixed<i32, 8>>
  %z = vit.pot_requant %y : (tensor<2x2x!vit.fixed<i32, 8>>) -> tensor<2x2x!vit.fixed<i8, [3, 4], axis = 1>>
  return %z : tensor<2x2x!vit.fixed<i8, [3, 4], axis = 1>>
}
// CHECK-LABEL: @not_merge_axes
// CHECK-NEXT:    %y = vit.pot_requant %x
// CHECK-NEXT:    %z = vit.pot_requant %y

// -----

// 13 / 4 = 3.25, -14 / 4 = -3.5 rounds up to -3.
func.func @fold_constant() -> tensor<2x!vit.fixed<i8, 3>> {
  %c = vit.constant {value = dense<[13, -14]> : tensor<2xi32>} : tensor<2x!vit.fixed<i32, 5>>
  %y = vit.pot_requant %c : (tensor<2x!vit.fixed<i32, 5>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %y : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @fold_constant
// CHECK-NEXT:    %y = vit.constant {value = dense<[3, -3]> : tensor<2xi8>} : tensor<2x!vit.fixed<i8, 3>>
// CHECK-NEXT:    func.return %y

// -----

// A weight outside of the text stays.
func.func @not_fold_asset() -> tensor<2x!vit.fixed<i8, 3>> {
  %c = vit.constant {value = #vit.asset<"c", "0123456789abcdef", tensor<2xi32>>} : tensor<2x!vit.fixed<i32, 5>>
  %y = vit.pot_requant %c : (tensor<2x!vit.fixed<i32, 5>>) -> tensor<2x!vit.fixed<i8, 3>>
  return %y : tensor<2x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @not_fold_asset
// CHECK-NEXT:    %c = vit.constant
// CHECK-NEXT:    %y = vit.pot_requant %c

// -----

// Two tables are one: t[s[x]].
func.func @compose_tables(%x : tensor<2x!vit.fixed<i8, 4>>) -> tensor<2x!vit.fixed<i16, 6>> {
  %s = vit.constant {value = dense<-128> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 5>>
  %t = vit.constant {value = dense<7> : tensor<256xi16>} : tensor<256x!vit.fixed<i16, 6>>
  %y = vit.lut %x, %s {function = "gelu"} : (tensor<2x!vit.fixed<i8, 4>>, tensor<256x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 5>>
  %z = vit.lut %y, %t : (tensor<2x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i16, 6>>) -> tensor<2x!vit.fixed<i16, 6>>
  return %z : tensor<2x!vit.fixed<i16, 6>>
}
// CHECK-LABEL: @compose_tables
// CHECK:         %[[T:.*]] = vit.constant {value = dense<{{.*}}> : tensor<256xi16>}
// CHECK-NEXT:    %[[Z:.*]] = vit.lut %x, %[[T]] : (tensor<2x!vit.fixed<i8, 4>>, tensor<256x!vit.fixed<i16, 6>>)
// CHECK-NEXT:    func.return %[[Z]]

// -----

// A table behind an interpolated one stays: the knots do not say it all.
func.func @not_compose_interpolated(%x : tensor<2x!vit.fixed<i16, 4>>, %s : tensor<257x!vit.fixed<i16, 5>>) -> tensor<2x!vit.fixed<i16, 6>> {
  %t = vit.constant {value = dense<7> : tensor<257xi16>} : tensor<257x!vit.fixed<i16, 6>>
  %y = vit.lut %x, %s : (tensor<2x!vit.fixed<i16, 4>>, tensor<257x!vit.fixed<i16, 5>>) -> tensor<2x!vit.fixed<i16, 5>>
  %z = vit.lut %y, %t : (tensor<2x!vit.fixed<i16, 5>>, tensor<257x!vit.fixed<i16, 6>>) -> tensor<2x!vit.fixed<i16, 6>>
  return %z : tensor<2x!vit.fixed<i16, 6>>
}
// CHECK-LABEL: @not_compose_interpolated
// CHECK:         %y = vit.lut %x
// CHECK-NEXT:    %z = vit.lut %y

// -----

// Movements that move nothing go.
func.func @identity_movement(%x : tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>> {
  %0 = vit.reshape %x : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  %1 = vit.transpose %0 {permutation = array<i64: 0, 1>} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  %2 = vit.slice %1 {offsets = array<i64: 0, 0>, sizes = array<i64: 2, 3>, strides = array<i64: 1, 1>} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  %3 = vit.concat %2 {axis = 0 : i64} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  %4 = vit.pad %3 {low = array<i64: 0, 0>, high = array<i64: 0, 0>} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  %5 = vit.gather %4 {axis = 1 : i64, indices = array<i64: 0, 1, 2>} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  return %5 : tensor<2x3x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @identity_movement
// CHECK-NEXT:    func.return %x

// -----

// Movements that move something stay.
func.func @movement(%x : tensor<2x2x!vit.fixed<i8, 4>>) -> tensor<3x2x!vit.fixed<i8, 4>> {
  %0 = vit.transpose %x {permutation = array<i64: 1, 0>} : (tensor<2x2x!vit.fixed<i8, 4>>) -> tensor<2x2x!vit.fixed<i8, 4>>
  %1 = vit.gather %0 {axis = 1 : i64, indices = array<i64: 1, 0>} : (tensor<2x2x!vit.fixed<i8, 4>>) -> tensor<2x2x!vit.fixed<i8, 4>>
  %2 = vit.pad %1 {low = array<i64: 1, 0>, high = array<i64: 0, 0>} : (tensor<2x2x!vit.fixed<i8, 4>>) -> tensor<3x2x!vit.fixed<i8, 4>>
  return %2 : tensor<3x2x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @movement
// CHECK-NEXT:    %0 = vit.transpose %x
// CHECK-NEXT:    %1 = vit.gather %0
// CHECK-NEXT:    %2 = vit.pad %1
// CHECK-NEXT:    func.return %2

// -----

// A channel axis of one channel may sit on either dimension of size 1; the type is kept.
func.func @not_identity_type(%x : tensor<1x1x!vit.fixed<i8, [4], axis = 1>>) -> tensor<1x1x!vit.fixed<i8, [4], axis = 0>> {
  %0 = vit.reshape %x : (tensor<1x1x!vit.fixed<i8, [4], axis = 1>>) -> tensor<1x1x!vit.fixed<i8, [4], axis = 0>>
  return %0 : tensor<1x1x!vit.fixed<i8, [4], axis = 0>>
}
// CHECK-LABEL: @not_identity_type
// CHECK-NEXT:    %0 = vit.reshape %x

// -----

// Consecutive reshapes and transposes are one.
func.func @merge_movement(%x : tensor<2x6x!vit.fixed<i8, 4>>, %y : tensor<2x3x4x!vit.fixed<i8, [1, 2, 3], axis = 1>>) -> (tensor<12x!vit.fixed<i8, 4>>, tensor<4x3x2x!vit.fixed<i8, [1, 2, 3], axis = 1>>) {
  %0 = vit.reshape %x : (tensor<2x6x!vit.fixed<i8, 4>>) -> tensor<4x3x!vit.fixed<i8, 4>>
  %1 = vit.reshape %0 {node_name = "flatten"} : (tensor<4x3x!vit.fixed<i8, 4>>) -> tensor<12x!vit.fixed<i8, 4>>
  %2 = vit.transpose %y {permutation = array<i64: 1, 2, 0>} : (tensor<2x3x4x!vit.fixed<i8, [1, 2, 3], axis = 1>>) -> tensor<3x4x2x!vit.fixed<i8, [1, 2, 3], axis = 0>>
  %3 = vit.transpose %2 {permutation = array<i64: 1, 0, 2>} : (tensor<3x4x2x!vit.fixed<i8, [1, 2, 3], axis = 0>>) -> tensor<4x3x2x!vit.fixed<i8, [1, 2, 3], axis = 1>>
  return %1, %3 : tensor<12x!vit.fixed<i8, 4>>, tensor<4x3x2x!vit.fixed<i8, [1, 2, 3], axis = 1>>
}
// CHECK-LABEL: @merge_movement
// CHECK-NEXT:    %0 = vit.reshape %x {node_name = "flatten"}
// CHECK-NEXT:    %1 = vit.transpose %y {permutation = array<i64: 2, 1, 0>}
// CHECK-NEXT:    func.return %0, %1

// -----

// Two transposes that undo each other vanish.
func.func @undo(%x : tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>> {
  %0 = vit.transpose %x {permutation = array<i64: 1, 0>} : (tensor<2x3x!vit.fixed<i8, 4>>) -> tensor<3x2x!vit.fixed<i8, 4>>
  %1 = vit.transpose %0 {permutation = array<i64: 1, 0>} : (tensor<3x2x!vit.fixed<i8, 4>>) -> tensor<2x3x!vit.fixed<i8, 4>>
  return %1 : tensor<2x3x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @undo
// CHECK-NEXT:    func.return %x

// -----

// Moving a dimension of size 1 is a reshape, also of reals and log2 codes.
func.func @transpose_as_reshape(%x : tensor<1x2x3x!vit.fixed<i8, [4, 5, 6], axis = 2>>, %y : tensor<2x1xf32>) -> (tensor<2x1x3x!vit.fixed<i8, [4, 5, 6], axis = 2>>, tensor<1x2xf32>) {
  %0 = vit.transpose %x {permutation = array<i64: 1, 0, 2>} : (tensor<1x2x3x!vit.fixed<i8, [4, 5, 6], axis = 2>>) -> tensor<2x1x3x!vit.fixed<i8, [4, 5, 6], axis = 2>>
  %1 = vit.transpose %y {permutation = array<i64: 1, 0>} : (tensor<2x1xf32>) -> tensor<1x2xf32>
  return %0, %1 : tensor<2x1x3x!vit.fixed<i8, [4, 5, 6], axis = 2>>, tensor<1x2xf32>
}
// CHECK-LABEL: @transpose_as_reshape
// CHECK-NEXT:    %0 = vit.reshape %x
// CHECK-NEXT:    %1 = vit.reshape %y
// CHECK-NEXT:    func.return %0, %1

// -----

// Turning an image channel first, flattening it and turning the tokens back moves nothing.
func.func @flatten_image(%x : tensor<2x4x4x3x!vit.fixed<i8, 4>>) -> tensor<2x16x3x!vit.fixed<i8, 4>> {
  %0 = vit.transpose %x {permutation = array<i64: 0, 3, 1, 2>} : (tensor<2x4x4x3x!vit.fixed<i8, 4>>) -> tensor<2x3x4x4x!vit.fixed<i8, 4>>
  %1 = vit.reshape %0 : (tensor<2x3x4x4x!vit.fixed<i8, 4>>) -> tensor<2x3x16x!vit.fixed<i8, 4>>
  %2 = vit.transpose %1 {permutation = array<i64: 0, 2, 1>} : (tensor<2x3x16x!vit.fixed<i8, 4>>) -> tensor<2x16x3x!vit.fixed<i8, 4>>
  return %2 : tensor<2x16x3x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @flatten_image
// CHECK-NEXT:    %0 = vit.reshape %x
// CHECK-NEXT:    func.return %0

// -----

// Flattened otherwise, it does move something.
func.func @not_flatten_image(%x : tensor<2x4x4x3x!vit.fixed<i8, 4>>) -> tensor<2x4x12x!vit.fixed<i8, 4>> {
  %0 = vit.transpose %x {permutation = array<i64: 0, 3, 1, 2>} : (tensor<2x4x4x3x!vit.fixed<i8, 4>>) -> tensor<2x3x4x4x!vit.fixed<i8, 4>>
  %1 = vit.reshape %0 : (tensor<2x3x4x4x!vit.fixed<i8, 4>>) -> tensor<2x12x4x!vit.fixed<i8, 4>>
  %2 = vit.transpose %1 {permutation = array<i64: 0, 2, 1>} : (tensor<2x12x4x!vit.fixed<i8, 4>>) -> tensor<2x4x12x!vit.fixed<i8, 4>>
  return %2 : tensor<2x4x12x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @not_flatten_image
// CHECK-NEXT:    %0 = vit.transpose %x
// CHECK-NEXT:    %1 = vit.reshape %0
// CHECK-NEXT:    %2 = vit.transpose %1
