// RUN: vit-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// A value that its field cannot hold: the message names field, value and width.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: wait: field 'sem': value 64 does not fit in u6 (0..63)
  vit_accel.wait engine = mac, sem = 64
}

// -----

// An address register that does not exist.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: ld.copy: field 'dst': address register 16 is not one of a0..a15
  vit_accel.ld.copy dst = abuf[a16 + 0], src = dram[0], run = 1
}

// -----

// An enumeration member that does not exist.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: field 'type': 'i9' is not one of i4|i8|ui8|i16|ui16|i32|ui32|i64|i4x2|log2
  vit_accel.ld.fill dst = abuf[0], count = 1, value = 0, type = i9
}

// -----

// An engine that does not exist, one given twice, and engines in another order than theirs.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: field 'wait': 'ld + l2' is not some of ld|st|mac|dw|shift|softmax|norm|table
  vit_accel.ld.copy wait = ld + l2, dst = abuf[0], src = dram[0], run = 1
}

// -----

vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: field 'wait': 'ld + ld' is not some of
  vit_accel.ld.copy wait = ld + ld, dst = abuf[0], src = dram[0], run = 1
}

// -----

// A property of the wrong kind, as the generic syntax allows.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: "wait" should be of base attribute integer
  "vit_accel.wait"() <{engine = "mac", sem = "wait", count = 1 : i64}> : () -> ()
}

// -----

// An address space that does not exist.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: address space 'zbuf' does not exist
  vit_accel.ld.copy dst = zbuf[0], src = dram[0], run = 1
}

// -----

// A missing field.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: missing field 'run'
  vit_accel.ld.copy dst = abuf[0], src = dram[0]
}

// -----

// A field given twice.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: 'sem' is not a field, or given twice
  vit_accel.wait engine = mac, sem = 1, sem = 2
}

// -----

// Instructions live in programs.
// CHECK: 'vit_accel.wait' expects parent op 'vit_accel.program'
vit_accel.wait engine = mac, sem = 1

// -----

// A port is an input or an output.
vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: kind 'inout' is not input or output
  vit_accel.port {kind = "inout", label = "x", address = 0 : i64, dtype = "i8", shape = array<i64: 1>, fracs = array<i64: 0>, zp = 0 : i64}
}

// -----

vit_accel.program attributes {arch = "p2vit", digest = "00", dram = 0 : i64, macs = 0 : i64} {
  // CHECK: dtype 'f32' is not an element type
  vit_accel.port {kind = "input", label = "x", address = 0 : i64, dtype = "f32", shape = array<i64: 1>, fracs = array<i64: 0>, zp = 0 : i64}
}
