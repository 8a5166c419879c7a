// RUN: vit-opt %s -p refine | filecheck %s
// RUN: not vit-opt %s -p 'pot-fold' 2>&1 | filecheck %s --check-prefix=STAGE

// Without the float graph and the batches of a calibration there is nothing to compare with: the
// formats stay. (What refining does with them is in test/test_refine.py.)
// CHECK:       vit.pot_requant %{{.*}} : (tensor<4x!vit.fixed<i16, 8>>) -> tensor<4x!vit.fixed<i8, 3>>
// STAGE:       error: pot-fold works on a module at stage quantized, this one is at stage pot
builtin.module attributes {vit.stage = "pot"} {
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = vit.quantize %x : (tensor<4xf32>) -> tensor<4x!vit.fixed<i16, 8>>
    %1 = vit.pot_requant %0 : (tensor<4x!vit.fixed<i16, 8>>) -> tensor<4x!vit.fixed<i8, 3>>
    %r = vit.dequantize %1 : (tensor<4x!vit.fixed<i8, 3>>) -> tensor<4xf32>
    func.return %r : tensor<4xf32>
  }
}
