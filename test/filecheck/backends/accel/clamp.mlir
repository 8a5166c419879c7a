// RUN: vit-opt %s -t vit-asm | filecheck %s

// ReLU behind a rescaling is limits of the shifters, two clamps are one; behind nothing it is the
// table unit's.

// CHECK:     table.clamp {{.*}} low=0 high=127
// CHECK:     shift.requant {{.*}} dst_type=i8 shift=2 low=0 high=96
// CHECK-NOT: table
func.func @main(%x: tensor<2x4x!vit.fixed<i8, 3>>) -> tensor<2x3x!vit.fixed<i8, 1>> {
  %r = vit.clamp %x {min = 0 : i64, max = 127 : i64} : (tensor<2x4x!vit.fixed<i8, 3>>) -> tensor<2x4x!vit.fixed<i8, 3>>
  %w = vit.constant {value = dense<1> : tensor<3x4xi8>} : tensor<3x4x!vit.fixed<i8, 0>>
  %a = vit.linear %r, %w : (tensor<2x4x!vit.fixed<i8, 3>>, tensor<3x4x!vit.fixed<i8, 0>>) -> tensor<2x3x!vit.fixed<i32, 3>>
  %y = vit.pot_requant %a : (tensor<2x3x!vit.fixed<i32, 3>>) -> tensor<2x3x!vit.fixed<i8, 1>>
  %b = vit.clamp %y {min = -5 : i64, max = 96 : i64} : (tensor<2x3x!vit.fixed<i8, 1>>) -> tensor<2x3x!vit.fixed<i8, 1>>
  %z = vit.clamp %b {min = 0 : i64, max = 100 : i64} : (tensor<2x3x!vit.fixed<i8, 1>>) -> tensor<2x3x!vit.fixed<i8, 1>>
  func.return %z : tensor<2x3x!vit.fixed<i8, 1>>
}
