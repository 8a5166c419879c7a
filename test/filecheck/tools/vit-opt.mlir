// Short and published names of a pass are the same pass, options included.
// RUN: vit-opt %s -p verify-integer,canonicalize --print-between-passes | filecheck %s --check-prefix=SHORT
// RUN: vit-opt %s -p vit-verify-integer,cse --print-between-passes | filecheck %s --check-prefix=LONG
// RUN: vit-opt %s --print-op-generic | vit-opt | filecheck %s
// RUN: vit-opt < %s | filecheck %s

// SHORT: IR after verify-integer:
// LONG: IR after vit-verify-integer:

// CHECK:      func.func @main(%x: tensor<4x!vit.fixed<i32, 7>>)
// CHECK-NEXT:   vit.pot_requant %x : (tensor<4x!vit.fixed<i32, 7>>) -> tensor<4x!vit.fixed<i8, 5, zp = 3>>

func.func @main(%x: tensor<4x!vit.fixed<i32, 7>>) -> tensor<4x!vit.fixed<i8, 5, zp = 3>> {
  %y = vit.pot_requant %x : (tensor<4x!vit.fixed<i32, 7>>) -> tensor<4x!vit.fixed<i8, 5, zp = 3>>
  return %y : tensor<4x!vit.fixed<i8, 5, zp = 3>>
}
