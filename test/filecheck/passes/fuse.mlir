// RUN: vit-opt %s -p fuse --split-input-file | filecheck %s

// The second factor is read by rows instead of being turned.
func.func @transpose_into_matmul(%a : tensor<2x3x4x!vit.fixed<i8, 5>>, %b : tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>> {
  %t = vit.transpose %b {permutation = array<i64: 0, 2, 1>} : (tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x4x5x!vit.fixed<i8, 5>>
  %y = vit.matmul %a, %t {range = array<i64: -7, 7>} : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>>
  return %y : tensor<2x3x5x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @transpose_into_matmul(
// CHECK-NEXT: %[[y:.*]] = vit.matmul %a, %b {range = array<i64: -7, 7>, transpose_b} : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x5x4x!vit.fixed<i8, 5>>)
// CHECK-NEXT: func.return %[[y]]

// -----

// Heads are still split, but their rows stay contiguous.
func.func @heads_into_matmul(%a : tensor<2x3x4x!vit.fixed<i8, 5>>, %b : tensor<5x2x4x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>> {
  %t = vit.transpose %b {permutation = array<i64: 1, 2, 0>} : (tensor<5x2x4x!vit.fixed<i8, 5>>) -> tensor<2x4x5x!vit.fixed<i8, 5>>
  %y = vit.matmul %a, %t : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>>
  return %y : tensor<2x3x5x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @heads_into_matmul(
// CHECK-NEXT: %[[t:.*]] = vit.transpose %b {permutation = array<i64: 1, 0, 2>}
// CHECK-NEXT: %[[y:.*]] = vit.matmul %a, %[[t]] {transpose_b}

// -----

// A transpose that transpose_b undoes.
func.func @transposed_twice(%a : tensor<3x4x!vit.fixed<i8, 5>>, %b : tensor<4x5x!vit.fixed<i8, 5>>) -> tensor<3x5x!vit.fixed<i32, 10>> {
  %t = vit.transpose %b {permutation = array<i64: 1, 0>} : (tensor<4x5x!vit.fixed<i8, 5>>) -> tensor<5x4x!vit.fixed<i8, 5>>
  %y = vit.matmul %a, %t {transpose_b} : (tensor<3x4x!vit.fixed<i8, 5>>, tensor<5x4x!vit.fixed<i8, 5>>) -> tensor<3x5x!vit.fixed<i32, 10>>
  return %y : tensor<3x5x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @transposed_twice(
// CHECK-NEXT: %[[y:.*]] = vit.matmul %a, %b : (tensor<3x4x!vit.fixed<i8, 5>>, tensor<4x5x!vit.fixed<i8, 5>>)

// -----

// Here the last dimension stays the last: nothing to gain.
func.func @heads_stay(%a : tensor<2x3x4x!vit.fixed<i8, 5>>, %b : tensor<4x2x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>> {
  %t = vit.transpose %b {permutation = array<i64: 1, 0, 2>} : (tensor<4x2x5x!vit.fixed<i8, 5>>) -> tensor<2x4x5x!vit.fixed<i8, 5>>
  %y = vit.matmul %a, %t : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>>
  return %y : tensor<2x3x5x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @heads_stay(
// CHECK-NEXT: %[[t:.*]] = vit.transpose %b
// CHECK-NEXT: %[[y:.*]] = vit.matmul %a, %[[t]] :

// -----

// A scale per column of the turned factor is a scale per row of the factor.
func.func @per_channel(%a : tensor<3x4x!vit.fixed<i8, 5>>, %b : tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<3x2x!vit.fixed<i32, [6, 7], axis = 1>> {
  %t = vit.transpose %b {permutation = array<i64: 1, 0>} : (tensor<2x4x!vit.fixed<i8, [1, 2], axis = 0>>) -> tensor<4x2x!vit.fixed<i8, [1, 2], axis = 1>>
  %y = vit.matmul %a, %t : (tensor<3x4x!vit.fixed<i8, 5>>, tensor<4x2x!vit.fixed<i8, [1, 2], axis = 1>>) -> tensor<3x2x!vit.fixed<i32, [6, 7], axis = 1>>
  return %y : tensor<3x2x!vit.fixed<i32, [6, 7], axis = 1>>
}
// CHECK-LABEL: @per_channel(
// CHECK-NEXT: %[[y:.*]] = vit.matmul %a, %b {transpose_b}

// -----

// One row of a block's end instead of all: gather, LayerNorm, linear, requantisation, table, sum.
func.func @class_token(%a : tensor<1x5x4x!vit.fixed<i16, 8>>, %b : tensor<4x!vit.fixed<i8, 3>>, %c : tensor<4x!vit.fixed<i32, 8>>, %d : tensor<4x4x!vit.fixed<i8, 5>>, %e : tensor<256x!vit.fixed<i8, 4>>) -> tensor<1x1x4x!vit.fixed<i16, 8>> {
  %n = vit.layernorm %a, %b, %c : (tensor<1x5x4x!vit.fixed<i16, 8>>, tensor<4x!vit.fixed<i8, 3>>, tensor<4x!vit.fixed<i32, 8>>) -> tensor<1x5x4x!vit.fixed<i8, 5>>
  %l = vit.linear %n, %d : (tensor<1x5x4x!vit.fixed<i8, 5>>, tensor<4x4x!vit.fixed<i8, 5>>) -> tensor<1x5x4x!vit.fixed<i32, 10>>
  %q = vit.pot_requant %l : (tensor<1x5x4x!vit.fixed<i32, 10>>) -> tensor<1x5x4x!vit.fixed<i8, 5>>
  %t = vit.lut %q, %e : (tensor<1x5x4x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i8, 4>>) -> tensor<1x5x4x!vit.fixed<i8, 4>>
  %s = vit.add %a, %t : (tensor<1x5x4x!vit.fixed<i16, 8>>, tensor<1x5x4x!vit.fixed<i8, 4>>) -> tensor<1x5x4x!vit.fixed<i16, 8>>
  %y = vit.gather %s {axis = 1 : i64, indices = array<i64: 0>} : (tensor<1x5x4x!vit.fixed<i16, 8>>) -> tensor<1x1x4x!vit.fixed<i16, 8>>
  return %y : tensor<1x1x4x!vit.fixed<i16, 8>>
}
// CHECK-LABEL: @class_token(
// CHECK-NEXT: %[[X:.*]] = vit.slice %a {offsets = array<i64: 0, 0, 0>, sizes = array<i64: 1, 1, 4>, strides = array<i64: 1, 1, 1>}
// CHECK-NEXT: %[[N:.*]] = vit.layernorm %[[X]], %b, %c
// CHECK-NEXT: %[[L:.*]] = vit.linear %[[N]], %d
// CHECK-NEXT: %[[Q:.*]] = vit.pot_requant %[[L]]
// CHECK-NEXT: %[[T:.*]] = vit.lut %[[Q]], %e
// CHECK-NEXT: %[[y:.*]] = vit.add %[[X]], %[[T]]
// CHECK-NEXT: func.return %[[y]]

// -----

// What is broadcast along a cut dimension is not cut.
func.func @broadcast(%a : tensor<4x3x!vit.fixed<i8, 5>>, %b : tensor<3x!vit.fixed<i8, 5>>, %c : tensor<1x3x!vit.fixed<i8, 4>>) -> tensor<2x2x!vit.fixed<i8, 5>> {
  %s = vit.add %a, %b : (tensor<4x3x!vit.fixed<i8, 5>>, tensor<3x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  %m = vit.mul %s, %c : (tensor<4x3x!vit.fixed<i8, 5>>, tensor<1x3x!vit.fixed<i8, 4>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  %y = vit.slice %m {offsets = array<i64: 1, 0>, sizes = array<i64: 2, 2>, strides = array<i64: 1, 1>} : (tensor<4x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return %y : tensor<2x2x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @broadcast(
// CHECK-NEXT: %[[A:.*]] = vit.slice %a {offsets = array<i64: 1, 0>, sizes = array<i64: 2, 2>
// CHECK-NEXT: %[[B:.*]] = vit.slice %b {offsets = array<i64: 0>, sizes = array<i64: 2>
// CHECK-NEXT: %[[S:.*]] = vit.add %[[A]], %[[B]]
// CHECK-NEXT: %[[C:.*]] = vit.slice %c {offsets = array<i64: 0, 0>, sizes = array<i64: 1, 2>
// CHECK-NEXT: %[[y:.*]] = vit.mul %[[S]], %[[C]]

// -----

// A cut along the channels takes their exponents along.
func.func @channels(%a : tensor<2x3x!vit.fixed<i32, [3, 4, 5], axis = 1>>) -> tensor<2x2x!vit.fixed<i8, 5>> {
  %q = vit.pot_requant %a : (tensor<2x3x!vit.fixed<i32, [3, 4, 5], axis = 1>>) -> tensor<2x3x!vit.fixed<i8, 5>>
  %y = vit.slice %q {offsets = array<i64: 0, 1>, sizes = array<i64: 2, 2>, strides = array<i64: 1, 1>} : (tensor<2x3x!vit.fixed<i8, 5>>) -> tensor<2x2x!vit.fixed<i8, 5>>
  return %y : tensor<2x2x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @channels(
// CHECK-NEXT: %[[A:.*]] = vit.slice %a {{.*}} -> tensor<2x2x!vit.fixed<i32, [4, 5], axis = 1>>
// CHECK-NEXT: %[[y:.*]] = vit.pot_requant %[[A]]

// -----

// A cut along the reduced dimension of a row stays where it is.
func.func @not_columns(%a : tensor<4x4x!vit.fixed<i8, 5>>, %b : tensor<3x4x!vit.fixed<i8, 5>>) -> tensor<4x2x!vit.fixed<i32, 10>> {
  %l = vit.linear %a, %b : (tensor<4x4x!vit.fixed<i8, 5>>, tensor<3x4x!vit.fixed<i8, 5>>) -> tensor<4x3x!vit.fixed<i32, 10>>
  %y = vit.slice %l {offsets = array<i64: 0, 1>, sizes = array<i64: 4, 2>, strides = array<i64: 1, 1>} : (tensor<4x3x!vit.fixed<i32, 10>>) -> tensor<4x2x!vit.fixed<i32, 10>>
  return %y : tensor<4x2x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @not_columns(
// CHECK-NEXT: %[[l:.*]] = vit.linear %a, %b
// CHECK-NEXT: %[[y:.*]] = vit.slice %[[l]]

// -----

// Rows that another operation reads are computed anyway.
func.func @not_shared(%a : tensor<4x3x!vit.fixed<i32, 9>>) -> (tensor<1x3x!vit.fixed<i8, 5>>, tensor<4x3x!vit.fixed<i8, 5>>) {
  %q = vit.pot_requant %a : (tensor<4x3x!vit.fixed<i32, 9>>) -> tensor<4x3x!vit.fixed<i8, 5>>
  %y = vit.slice %q {offsets = array<i64: 1, 0>, sizes = array<i64: 1, 3>, strides = array<i64: 1, 1>} : (tensor<4x3x!vit.fixed<i8, 5>>) -> tensor<1x3x!vit.fixed<i8, 5>>
  return %y, %q : tensor<1x3x!vit.fixed<i8, 5>>, tensor<4x3x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @not_shared(
// CHECK-NEXT: %[[q:.*]] = vit.pot_requant %a
// CHECK-NEXT: %[[y:.*]] = vit.slice %[[q]]

// -----

// One query: its scores, exponentials and product only; heads are split and joined on the way.
func.func @attention_row(%a : tensor<1x5x8x!vit.fixed<i8, 5>>, %b : tensor<2x5x4x!vit.fixed<i8, 5>>, %c : tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x1x4x!vit.fixed<i8, 5>> {
  %h = vit.reshape %a : (tensor<1x5x8x!vit.fixed<i8, 5>>) -> tensor<1x5x2x4x!vit.fixed<i8, 5>>
  %q = vit.transpose %h {permutation = array<i64: 0, 2, 1, 3>} : (tensor<1x5x2x4x!vit.fixed<i8, 5>>) -> tensor<1x2x5x4x!vit.fixed<i8, 5>>
  %r = vit.reshape %q : (tensor<1x2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x5x4x!vit.fixed<i8, 5>>
  %s = vit.matmul %r, %b {transpose_b} : (tensor<2x5x4x!vit.fixed<i8, 5>>, tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x5x5x!vit.fixed<i32, 10>>
  %p, %t = vit.softmax_exp %s : (tensor<2x5x5x!vit.fixed<i32, 10>>) -> (tensor<2x5x5x!vit.fixed<ui8, 0>>, tensor<2x5x1x!vit.fixed<ui32, 0>>)
  %v = vit.matmul %p, %c : (tensor<2x5x5x!vit.fixed<ui8, 0>>, tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x5x4x!vit.fixed<i32, 5>>
  %n = vit.normalize %v, %t : (tensor<2x5x4x!vit.fixed<i32, 5>>, tensor<2x5x1x!vit.fixed<ui32, 0>>) -> tensor<2x5x4x!vit.fixed<i8, 5>>
  %y = vit.slice %n {offsets = array<i64: 0, 2, 0>, sizes = array<i64: 2, 1, 4>, strides = array<i64: 1, 1, 1>} : (tensor<2x5x4x!vit.fixed<i8, 5>>) -> tensor<2x1x4x!vit.fixed<i8, 5>>
  return %y : tensor<2x1x4x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @attention_row(
// CHECK-NEXT: %[[h:.*]] = vit.reshape %a
// CHECK-NEXT: %[[q:.*]] = vit.transpose %[[h]]
// CHECK-NEXT: %[[r:.*]] = vit.reshape %[[q]]
// CHECK-NEXT: %[[R:.*]] = vit.slice %[[r]] {offsets = array<i64: 0, 2, 0>, sizes = array<i64: 2, 1, 4>
// CHECK-NEXT: %[[S:.*]] = vit.matmul %[[R]], %b {transpose_b}
// CHECK-NEXT: %[[P:.*]], %[[T:.*]] = vit.softmax_exp %[[S]] : (tensor<2x1x5x
// CHECK-NEXT: %[[V:.*]] = vit.matmul %[[P]], %c
// CHECK-NEXT: %[[y:.*]] = vit.normalize %[[V]], %[[T]]
// CHECK-NEXT: func.return %[[y]]

// -----

// Slices pass transposes and reshapes of other dimensions.
func.func @through_movement(%a : tensor<1x5x8x!vit.fixed<i32, 9>>) -> tensor<1x2x2x4x!vit.fixed<i8, 5>> {
  %q = vit.pot_requant %a : (tensor<1x5x8x!vit.fixed<i32, 9>>) -> tensor<1x5x8x!vit.fixed<i8, 5>>
  %h = vit.reshape %q : (tensor<1x5x8x!vit.fixed<i8, 5>>) -> tensor<1x5x2x4x!vit.fixed<i8, 5>>
  %t = vit.transpose %h {permutation = array<i64: 0, 2, 1, 3>} : (tensor<1x5x2x4x!vit.fixed<i8, 5>>) -> tensor<1x2x5x4x!vit.fixed<i8, 5>>
  %y = vit.slice %t {offsets = array<i64: 0, 0, 3, 0>, sizes = array<i64: 1, 2, 2, 4>, strides = array<i64: 1, 1, 1, 1>} : (tensor<1x2x5x4x!vit.fixed<i8, 5>>) -> tensor<1x2x2x4x!vit.fixed<i8, 5>>
  return %y : tensor<1x2x2x4x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @through_movement(
// CHECK-NEXT: %[[A:.*]] = vit.slice %a {offsets = array<i64: 0, 3, 0>, sizes = array<i64: 1, 2, 8>
// CHECK-NEXT: %[[Q:.*]] = vit.pot_requant %[[A]]
// CHECK-NEXT: %[[H:.*]] = vit.reshape %[[Q]]
// CHECK-NEXT: %[[y:.*]] = vit.transpose %[[H]] {permutation = array<i64: 0, 2, 1, 3>}

// -----

// A dimension that a reshape makes cannot be cut before it.
func.func @not_reshape(%a : tensor<5x8x!vit.fixed<i8, 5>>) -> tensor<5x1x4x!vit.fixed<i8, 5>> {
  %h = vit.reshape %a : (tensor<5x8x!vit.fixed<i8, 5>>) -> tensor<5x2x4x!vit.fixed<i8, 5>>
  %y = vit.slice %h {offsets = array<i64: 0, 1, 0>, sizes = array<i64: 5, 1, 4>, strides = array<i64: 1, 1, 1>} : (tensor<5x2x4x!vit.fixed<i8, 5>>) -> tensor<5x1x4x!vit.fixed<i8, 5>>
  return %y : tensor<5x1x4x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @not_reshape(
// CHECK-NEXT: %[[h:.*]] = vit.reshape %a
// CHECK-NEXT: %[[y:.*]] = vit.slice %[[h]]

// -----

// Nor does a cut of heads pass a product.
func.func @not_matmul_batch(%a : tensor<2x3x4x!vit.fixed<i8, 5>>, %b : tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<1x3x5x!vit.fixed<i32, 10>> {
  %m = vit.matmul %a, %b : (tensor<2x3x4x!vit.fixed<i8, 5>>, tensor<2x4x5x!vit.fixed<i8, 5>>) -> tensor<2x3x5x!vit.fixed<i32, 10>>
  %y = vit.slice %m {offsets = array<i64: 1, 0, 0>, sizes = array<i64: 1, 3, 5>, strides = array<i64: 1, 1, 1>} : (tensor<2x3x5x!vit.fixed<i32, 10>>) -> tensor<1x3x5x!vit.fixed<i32, 10>>
  return %y : tensor<1x3x5x!vit.fixed<i32, 10>>
}
// CHECK-LABEL: @not_matmul_batch(
// CHECK-NEXT: %[[m:.*]] = vit.matmul %a, %b
// CHECK-NEXT: %[[y:.*]] = vit.slice %[[m]]

// -----

// Exponentials whose sums are all needed are all computed.
func.func @not_softmax(%a : tensor<3x5x!vit.fixed<i8, 5>>) -> (tensor<1x5x!vit.fixed<ui8, 0>>, tensor<3x1x!vit.fixed<ui32, 0>>) {
  %p, %t = vit.softmax_exp %a : (tensor<3x5x!vit.fixed<i8, 5>>) -> (tensor<3x5x!vit.fixed<ui8, 0>>, tensor<3x1x!vit.fixed<ui32, 0>>)
  %y = vit.slice %p {offsets = array<i64: 0, 0>, sizes = array<i64: 1, 5>, strides = array<i64: 1, 1>} : (tensor<3x5x!vit.fixed<ui8, 0>>) -> tensor<1x5x!vit.fixed<ui8, 0>>
  return %y, %t : tensor<1x5x!vit.fixed<ui8, 0>>, tensor<3x1x!vit.fixed<ui32, 0>>
}
// CHECK-LABEL: @not_softmax(
// CHECK-NEXT: %[[p:.*]], %[[t:.*]] = vit.softmax_exp %a
// CHECK-NEXT: %[[y:.*]] = vit.slice %[[p]]

// -----

// Indices that are not consecutive are not a slice.
func.func @not_gather(%a : tensor<3x5x!vit.fixed<i8, 5>>) -> tensor<2x5x!vit.fixed<i8, 5>> {
  %y = vit.gather %a {axis = 0 : i64, indices = array<i64: 2, 0>} : (tensor<3x5x!vit.fixed<i8, 5>>) -> tensor<2x5x!vit.fixed<i8, 5>>
  return %y : tensor<2x5x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @not_gather(
// CHECK-NEXT: %[[y:.*]] = vit.gather %a

// -----

// Limits of limits; limits that every code keeps.
func.func @clamps(%a : tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 5>> {
  %0 = vit.clamp %a {min = -128 : i64, max = 127 : i64} : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 5>>
  %1 = vit.clamp %0 {min = -50 : i64, max = 20 : i64} : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 5>>
  %y = vit.clamp %1 {min = 0 : i64, max = 100 : i64} : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 5>>
  return %y : tensor<4x!vit.fixed<i8, 5>>
}
// CHECK-LABEL: @clamps(
// CHECK-NEXT: %[[y:.*]] = vit.clamp %a {min = 0 : i64, max = 20 : i64}
// CHECK-NEXT: func.return %[[y]]

// -----

// ReLU before a table is part of it; so is a shift of 8-bit codes.
func.func @table_of_function(%a : tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 4>> {
  %t = vit.constant {value = dense<7> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 4>>
  %0 = vit.clamp %a {min = 0 : i64, max = 127 : i64} : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 5>>
  %1 = vit.pot_requant %0 : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 3>>
  %y = vit.lut %1, %t : (tensor<4x!vit.fixed<i8, 3>>, tensor<256x!vit.fixed<i8, 4>>) -> tensor<4x!vit.fixed<i8, 4>>
  return %y : tensor<4x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @table_of_function(
// CHECK-NEXT: %[[T:.*]] = vit.constant
// CHECK-NEXT: %[[Y:.*]] = vit.lut %a, %[[T]]
// CHECK-NEXT: func.return %[[Y]]

// -----

// What is done to each entry is done to the table: 7 * 2^-4 is 14 * 2^-5, limited to 12.
func.func @function_of_table(%a : tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i16, 5>> {
  %t = vit.constant {value = dense<7> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 4>>
  %0 = vit.lut %a, %t : (tensor<4x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i8, 4>>) -> tensor<4x!vit.fixed<i8, 4>>
  %1 = vit.pot_requant %0 : (tensor<4x!vit.fixed<i8, 4>>) -> tensor<4x!vit.fixed<i16, 5>>
  %y = vit.clamp %1 {min = 0 : i64, max = 12 : i64} : (tensor<4x!vit.fixed<i16, 5>>) -> tensor<4x!vit.fixed<i16, 5>>
  return %y : tensor<4x!vit.fixed<i16, 5>>
}
// CHECK-LABEL: @function_of_table(
// CHECK-NEXT: %[[T:.*]] = vit.constant {value = #vit.asset<"vit.clamp", "{{.*}}", tensor<256xi16>>
// CHECK-NEXT: %[[Y:.*]] = vit.lut %a, %[[T]]
// CHECK-NEXT: func.return %[[Y]]

// -----

// An accumulator has too many codes for a table.
func.func @not_table_accumulator(%a : tensor<4x!vit.fixed<i32, 9>>) -> tensor<4x!vit.fixed<i8, 4>> {
  %t = vit.constant {value = dense<7> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 4>>
  %0 = vit.pot_requant %a : (tensor<4x!vit.fixed<i32, 9>>) -> tensor<4x!vit.fixed<i8, 5>>
  %y = vit.lut %0, %t : (tensor<4x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i8, 4>>) -> tensor<4x!vit.fixed<i8, 4>>
  return %y : tensor<4x!vit.fixed<i8, 4>>
}
// CHECK-LABEL: @not_table_accumulator(
// CHECK-NEXT: %[[t:.*]] = vit.constant
// CHECK-NEXT: %[[Q:.*]] = vit.pot_requant %a
// CHECK-NEXT: %[[y:.*]] = vit.lut %[[Q]], %[[t]]

// -----

// Shifts per channel are not a function of the code alone.
func.func @not_table_channels(%a : tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, [3, 2], axis = 0>> {
  %t = vit.constant {value = dense<7> : tensor<256xi8>} : tensor<256x!vit.fixed<i8, 4>>
  %0 = vit.lut %a, %t : (tensor<2x!vit.fixed<i8, 5>>, tensor<256x!vit.fixed<i8, 4>>) -> tensor<2x!vit.fixed<i8, 4>>
  %y = vit.pot_requant %0 : (tensor<2x!vit.fixed<i8, 4>>) -> tensor<2x!vit.fixed<i8, [3, 2], axis = 0>>
  return %y : tensor<2x!vit.fixed<i8, [3, 2], axis = 0>>
}
// CHECK-LABEL: @not_table_channels(
// CHECK-NEXT: %[[t:.*]] = vit.constant
// CHECK-NEXT: %[[Q:.*]] = vit.lut %a, %[[t]]
// CHECK-NEXT: %[[y:.*]] = vit.pot_requant %[[Q]]

// -----

// What depends on constants only is computed once: [13, -14] shifted by 2, turned, cut.
func.func @constants() -> tensor<1x1x!vit.fixed<i8, 3>> {
  %c = vit.constant {value = dense<[[13], [-14]]> : tensor<2x1xi32>} : tensor<2x1x!vit.fixed<i32, 5>>
  %0 = vit.pot_requant %c : (tensor<2x1x!vit.fixed<i32, 5>>) -> tensor<2x1x!vit.fixed<i8, 3>>
  %1 = vit.transpose %0 {permutation = array<i64: 1, 0>} : (tensor<2x1x!vit.fixed<i8, 3>>) -> tensor<1x2x!vit.fixed<i8, 3>>
  %y = vit.slice %1 {offsets = array<i64: 0, 1>, sizes = array<i64: 1, 1>, strides = array<i64: 1, 1>} : (tensor<1x2x!vit.fixed<i8, 3>>) -> tensor<1x1x!vit.fixed<i8, 3>>
  return %y : tensor<1x1x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @constants(
// CHECK-NEXT: %{{.*}} = vit.constant {value = dense<-3> : tensor<1x1xi8>
// CHECK-NEXT: func.return

// -----

// Equal operations are one, dead ones none.
func.func @equal(%a : tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 3>> {
  %0 = vit.pot_requant %a : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 4>>
  %1 = vit.pot_requant %a : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 4>>
  %2 = vit.pot_requant %a : (tensor<4x!vit.fixed<i8, 5>>) -> tensor<4x!vit.fixed<i8, 3>>
  %y = vit.add %0, %1 : (tensor<4x!vit.fixed<i8, 4>>, tensor<4x!vit.fixed<i8, 4>>) -> tensor<4x!vit.fixed<i8, 3>>
  return %y : tensor<4x!vit.fixed<i8, 3>>
}
// CHECK-LABEL: @equal(
// CHECK-NEXT: %[[q:.*]] = vit.pot_requant %a
// CHECK-NEXT: %[[y:.*]] = vit.add %[[q]], %[[q]]
