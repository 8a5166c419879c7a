// RUN: not vit-opt %s -t vit-asm 2>&1 | filecheck %s

// Scales that are not powers of two need a multiplier, which the shifters are not.
// CHECK: error: {{.*}}!vit.scaled<i8, 0.3> is not !vit.fixed; run pot-fold first
func.func @main(%x: tensor<2x!vit.scaled<i8, 0.3>>) -> tensor<2x!vit.scaled<i8, 0.7>> {
  %y = vit.requant %x : (tensor<2x!vit.scaled<i8, 0.3>>) -> tensor<2x!vit.scaled<i8, 0.7>>
  func.return %y : tensor<2x!vit.scaled<i8, 0.7>>
}
