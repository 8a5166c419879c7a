// RUN: vit-opt %s -t vit-asm | filecheck %s

// Panels of weights are the iterations of a loop in every queue: the loads move along DRAM and the
// chip alike, products along weights and accumulators, the shifters along both sides.

// CHECK:      ld.step areg=1 depth=0 step={{[0-9]+}}  # vit.linear
// CHECK-NEXT: ld.loop count={{[0-9]+}}  # vit.linear
// CHECK-NEXT:   ld.copy signal=mac dst=bbuf[a1+0x{{[0-9a-f]+}}] src=dram[a1+0x{{[0-9a-f]+}}] run={{[0-9]+}}
// CHECK-NEXT: ld.end
// CHECK:      mac.loop count=
// CHECK:        mac.matmul wait=ld signal=shift acc=obuf[a2+0x{{[0-9a-f]+}}] a=abuf[0x0] b=bbuf[a1+0x{{[0-9a-f]+}}] m=48 n={{[0-9]+}} k=64
// CHECK:      mac.end
// CHECK:      shift.loop count={{[0-9]+}}  # vit.pot_requant
// CHECK:        shift.requant wait=mac rows=48 cols={{[0-9]+}} dst=obuf[a1+0x{{[0-9a-f]+}}] src=obuf[a2+0x
// CHECK:      shift.end
func.func @main(%x: tensor<48x64x!vit.fixed<i8, 3>>) -> tensor<48x1024x!vit.fixed<i8, 2>> {
  %w = vit.constant {value = dense<1> : tensor<1024x64xi8>} : tensor<1024x64x!vit.fixed<i8, 0>>
  %a = vit.linear %x, %w : (tensor<48x64x!vit.fixed<i8, 3>>, tensor<1024x64x!vit.fixed<i8, 0>>) -> tensor<48x1024x!vit.fixed<i32, 3>>
  %y = vit.pot_requant %a : (tensor<48x1024x!vit.fixed<i32, 3>>) -> tensor<48x1024x!vit.fixed<i8, 2>>
  func.return %y : tensor<48x1024x!vit.fixed<i8, 2>>
}
