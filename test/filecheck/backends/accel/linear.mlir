// RUN: vit-opt %s -t vit-asm | filecheck %s

// A linear layer, requantised as it leaves the array: only codes are stored, and the zero point of
// the input is in the bias. Engines wait for each other.

// CHECK:      .arch p2vit sha256:
// CHECK-NEXT: .dram 0x100
// CHECK-NEXT: .macs 24
// CHECK-NEXT: .input "pixels" 0x0 ui8 2x4 frac=3 zp=2
// CHECK-NEXT: .output "logits" 0x80 i8 2x3 frac=2
// CHECK-NEXT: .data 0x40 0102030405060708090a0b0c  # vit.linear
// CHECK-NEXT: .data 0xc0 ecffffffccffffffacffffff  # vit.linear
// CHECK-NEXT: ld.copy dst=abuf[0x0] src=dram[0x0] run=8  # vit.linear
// CHECK-NEXT: ld.copy dst=bbuf[0x0] src=dram[0x40] run=12  # vit.linear
// CHECK-NEXT: ld.copy signal=mac dst=pbuf[0x0] src=dram[0xc0] run=12  # vit.linear
// CHECK-NEXT: mac.matmul wait=ld signal=shift acc=obuf[0x0] a=abuf[0x0] b=bbuf[0x0] m=2 n=3 k=4 acc_row=12 a_row=4 b_row=4 a_type=ui8 bias=pbuf[0x0] map=nk  # vit.linear
// CHECK-NEXT: shift.requant wait=mac signal=st rows=2 cols=3 dst=obuf[0x1aff0] src=obuf[0x0] dst_row=3 src_row=12 src_type=i32 dst_type=i8 shift=1  # vit.pot_requant
// CHECK-NEXT: st.copy wait=shift dst=dram[0x80] src=obuf[0x1aff0] run=3 n2=2 d2=3 s2=3  # outputs
func.func @main(%x: tensor<2x4x!vit.fixed<ui8, 3, zp = 2>>) -> tensor<2x3x!vit.fixed<i8, 2>> attributes {vit.input_names = ["pixels"], vit.output_names = ["logits"]} {
  %w = vit.constant {value = dense<[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]> : tensor<3x4xi8>} : tensor<3x4x!vit.fixed<i8, 0>>
  %a = vit.linear %x, %w : (tensor<2x4x!vit.fixed<ui8, 3, zp = 2>>, tensor<3x4x!vit.fixed<i8, 0>>) -> tensor<2x3x!vit.fixed<i32, 3>>
  %y = vit.pot_requant %a : (tensor<2x3x!vit.fixed<i32, 3>>) -> tensor<2x3x!vit.fixed<i8, 2>>
  func.return %y : tensor<2x3x!vit.fixed<i8, 2>>
}
