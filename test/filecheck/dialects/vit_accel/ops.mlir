// RUN: vit-opt %s | filecheck %s
// RUN: ROUNDTRIP

// A program: where inputs and outputs lie, initial data, instructions. Every unit and every kind of
// field once: addresses with and without register, absent operands, enumerations, defaults left out.

// CHECK-LABEL: vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 4096 : i64, macs = 24 : i64} {
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 4096 : i64, macs = 24 : i64} {
  // CHECK-NEXT: vit_accel.port {kind = "input", label = "x", address = 0 : i64, dtype = "i8", shape = array<i64: 2, 4>, fracs = array<i64: 3>, zp = 0 : i64}
  vit_accel.port {kind = "input", label = "x", address = 0 : i64, dtype = "i8", shape = array<i64: 2, 4>, fracs = array<i64: 3>, zp = 0 : i64}
  // CHECK-NEXT: fracs = array<i64: 3, 4, 5>, zp = 2 : i64, axis = 1 : i64}
  vit_accel.port {kind = "output", label = "y", address = 64 : i64, dtype = "i8", shape = array<i64: 2, 3>, fracs = array<i64: 3, 4, 5>, zp = 2 : i64, axis = 1 : i64}
  // CHECK-NEXT: vit_accel.data {address = 128 : i64, value = dense<[1, 2]> : tensor<2xui8>}
  vit_accel.data {address = 128 : i64, value = dense<[1, 2]> : tensor<2xui8>}

  // Control: engines, semaphores, hardware loops with address registers.
  // CHECK-NEXT: vit_accel.base engine = ld, areg = 1, value = 64
  vit_accel.base engine = ld, areg = 1, value = 64
  // CHECK-NEXT: vit_accel.step engine = ld, areg = 1, depth = 0, step = -16
  vit_accel.step engine = ld, areg = 1, depth = 0, step = -16
  // CHECK-NEXT: vit_accel.loop engine = ld, count = 4
  vit_accel.loop engine = ld, count = 4
  // CHECK-NEXT: vit_accel.ld.copy dst = abuf[a1 + 32], src = dram[a2 + 0], run = 16
  vit_accel.ld.copy dst = abuf[a1 + 32], src = dram[a2 + 0], run = 16, n0 = 1
  // CHECK-NEXT: vit_accel.end engine = ld
  vit_accel.end engine = ld
  // CHECK-NEXT: vit_accel.signal engine = ld, sem = 2
  vit_accel.signal engine = ld, sem = 2
  // CHECK-NEXT: vit_accel.ld.copy wait = mac + shift, signal = st, dst = abuf[0], src = dram[0], run = 1
  vit_accel.ld.copy dst = abuf[0], src = dram[0], run = 1, signal = st, wait = mac + shift
  // CHECK-NEXT: vit_accel.wait engine = mac, sem = 2, count = 3
  vit_accel.wait engine = mac, sem = 2, count = 3

  // Units.
  // CHECK-NEXT: vit_accel.ld.fill dst = abuf[0], count = 8, value = -3, type = i8
  vit_accel.ld.fill dst = abuf[0], count = 8, value = -3, type = i8
  // CHECK-NEXT: vit_accel.mac.matmul acc = obuf[0], a = abuf[0], b = bbuf[0], m = 2, n = 3, k = 4, acc_row = 12, a_row = 4, b_row = 4, b_type = i4x2, bias = pbuf[0], accumulate = on, map = mk
  vit_accel.mac.matmul acc = obuf[0], a = abuf[0], b = bbuf[0], m = 2, n = 3, k = 4, acc_row = 12, a_row = 4, b_row = 4, b_type = i4x2, bias = pbuf[0], accumulate = on, map = mk
  // CHECK-NEXT: vit_accel.dw.matmul acc = obuf[0], a = abuf[0], b = bbuf[0], m = 2, n = 3, k = 4, acc_row = 12, a_row = 4, b_row = 4, batch = 5, acc_batch = 24, a_batch = 8
  vit_accel.dw.matmul acc = obuf[0], a = abuf[0], b = bbuf[0], m = 2, n = 3, k = 4, acc_row = 12, a_row = 4, b_row = 4, batch = 5, acc_batch = 24, a_batch = 8, b_batch = 0
  // CHECK-NEXT: vit_accel.dw.divide rows = 2, cols = 3, dst = obuf[0], acc = obuf[64], div = obuf[128], dst_row = 3, acc_row = 12, div_row = 4, shift = -2, dst_type = i8, mode = pot, batch = 2, dst_batch = 6, acc_batch = 24, div_batch = 8
  vit_accel.dw.divide rows = 2, cols = 3, dst = obuf[0], acc = obuf[64], div = obuf[128], dst_row = 3, acc_row = 12, div_row = 4, shift = -2, dst_type = i8, mode = pot, batch = 2, dst_batch = 6, acc_batch = 24, div_batch = 8
  // CHECK-NEXT: vit_accel.shift.requant rows = 2, cols = 3, dst = obuf[0], src = obuf[64], dst_row = 3, src_row = 12, src_type = i32, dst_type = ui8, shifts = pbuf[16], zp_out = 7, rounding = floor, low = 7, high = 100
  vit_accel.shift.requant rows = 2, cols = 3, dst = obuf[0], src = obuf[64], dst_row = 3, src_row = 12, src_type = i32, dst_type = ui8, shifts = pbuf[16], zp_out = 7, rounding = floor, low = 7, high = 100
  // CHECK-NEXT: vit_accel.softmax.exp rows = 2, cols = 3, p = obuf[0], sum = obuf[16], src = obuf[64], p_row = 3, sum_row = 4, src_row = 12, src_type = i32, frac = -1
  vit_accel.softmax.exp rows = 2, cols = 3, p = obuf[0], sum = obuf[16], src = obuf[64], p_row = 3, sum_row = 4, src_row = 12, src_type = i32, frac = -1
  // CHECK-NEXT: vit_accel.table.lut rows = 2, cols = 3, dst = obuf[0], src = obuf[64], dst_row = 3, src_row = 3, src_type = i8, dst_type = i8, table = pbuf[0]
  vit_accel.table.lut rows = 2, cols = 3, dst = obuf[0], src = obuf[64], dst_row = 3, src_row = 3, src_type = i8, dst_type = i8, table = pbuf[0]
  // CHECK-NEXT: vit_accel.st.copy dst = dram[64], src = obuf[0], run = 6
  vit_accel.st.copy dst = dram[64], src = obuf[0], run = 6
}
