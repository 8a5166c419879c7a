// RUN: vit-opt %s -p canonicalize | filecheck %s

// Neighbouring waits (signals) of one engine on one semaphore take (give) their tokens at once.
// CHECK-LABEL: macs = 1 : i64
// CHECK-NEXT:    vit_accel.wait engine = mac, sem = 1, count = 6
// CHECK-NEXT:    vit_accel.signal engine = mac, sem = 2, count = 2
// CHECK-NEXT:  }
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 1 : i64} {
  vit_accel.wait engine = mac, sem = 1
  vit_accel.wait engine = mac, sem = 1, count = 2
  vit_accel.wait engine = mac, sem = 1, count = 3
  vit_accel.signal engine = mac, sem = 2
  vit_accel.signal engine = mac, sem = 2
}

// Another engine, another semaphore, a token count that would not fit, and a wait beside a signal
// stay as they are.
// CHECK-LABEL: macs = 2 : i64
// CHECK-NEXT:    vit_accel.wait engine = mac, sem = 1
// CHECK-NEXT:    vit_accel.wait engine = ld, sem = 1
// CHECK-NEXT:    vit_accel.wait engine = ld, sem = 2, count = 255
// CHECK-NEXT:    vit_accel.wait engine = ld, sem = 2
// CHECK-NEXT:    vit_accel.signal engine = ld, sem = 2
// CHECK-NEXT:  }
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 2 : i64} {
  vit_accel.wait engine = mac, sem = 1
  vit_accel.wait engine = ld, sem = 1
  vit_accel.wait engine = ld, sem = 2, count = 255
  vit_accel.wait engine = ld, sem = 2
  vit_accel.signal engine = ld, sem = 2
}
