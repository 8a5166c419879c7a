// The stock driver of xDSL knows our dialects, passes and targets by the entry point of the package.
// RUN: xdsl-opt %s -p vit-verify-integer,vit-prove-ranges,canonicalize | filecheck %s
// RUN: xdsl-opt %s -t vit-c | filecheck %s --check-prefix=C
// RUN: xdsl-opt %s -t vit-asm | filecheck %s --check-prefix=ASM

// CHECK-LABEL: func.func @main
// CHECK:       vit.constant
// CHECK-NEXT:  vit.linear
// CHECK-NEXT:  vit.pot_requant

// C: int model_run(const void *weights, void *arena, const int8_t *{{.*}}, int8_t *{{.*}})

// ASM: .input "x" {{.*}} i8 1x4 frac=7
// ASM: .output "y" {{.*}} i8 1x2 frac=3
// ASM: mac.matmul

func.func @main(%x: tensor<1x4x!vit.fixed<i8, 7>>) -> tensor<1x2x!vit.fixed<i8, 3>>
    attributes {vit.input_names = ["x"], vit.output_names = ["y"]} {
  %w = vit.constant {value = dense<[[1, -2, 3, 4], [5, 6, 7, 8]]> : tensor<2x4xi8>} : tensor<2x4x!vit.fixed<i8, 5>>
  %a = vit.linear %x, %w : (tensor<1x4x!vit.fixed<i8, 7>>, tensor<2x4x!vit.fixed<i8, 5>>) -> tensor<1x2x!vit.fixed<i32, 12>>
  %y = vit.pot_requant %a : (tensor<1x2x!vit.fixed<i32, 12>>) -> tensor<1x2x!vit.fixed<i8, 3>>
  return %y : tensor<1x2x!vit.fixed<i8, 3>>
}
