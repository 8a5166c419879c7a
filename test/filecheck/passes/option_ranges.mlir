// Options of the accuracy passes that make no sense are one line, and nothing is written.

// RUN: rm -f %t.mlir
// RUN: not vit-opt %s -p 'calibrate,migrate{headroom=0}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=FIRST
// FIRST-NOT: warning
// FIRST: vit-opt: error: migrate: headroom 0 is not from 1 to below 16
// RUN: not vit-opt %s -p 'calibrate,fill-grids{headroom=0}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=HEADROOM
// HEADROOM: vit-opt: error: fill-grids: headroom 0 is not at least 1 and below 2
// RUN: not vit-opt %s -p 'calibrate,fill-grids{headroom=nan}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=NAN
// NAN: vit-opt: error: -p: fill-grids: headroom is a number, not 'nan'
// RUN: not vit-opt %s -p 'calibrate,smooth{alpha=2}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=ALPHA
// ALPHA: vit-opt: error: smooth: alpha 2 is not between 0 and 1
// RUN: not vit-opt %s -p 'calibrate,fold-scales{alpha=-1}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=FOLD
// FOLD: vit-opt: error: fold-scales: alpha -1 is not between 0 and 1
// RUN: not vit-opt %s -p 'calibrate,split-channels{parts=0}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=PARTS
// PARTS: vit-opt: error: split-channels: 0 parts; expected 1 or more
// RUN: not vit-opt %s -p 'calibrate{fraction=2}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=FRACTION
// FRACTION: vit-opt: error: calibrate: fraction 2 is not above 0 and at most 1
// RUN: not vit-opt %s -p 'calibrate{power=0 observer=mse}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=POWER
// POWER: vit-opt: error: calibrate: power 0 is not above 0 and at most 16
// RUN: not vit-opt %s -p 'calibrate,assign-bits{bits=5}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=BITS
// BITS: vit-opt: error: assign-bits: bits 5 is not 4 or 8
// RUN: not vit-opt %s -p 'calibrate,quantize{residual=int9}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=RESIDUAL
// RESIDUAL: vit-opt: error: quantize: residual 'int9' is not one of int16, int8, int8-ptf
// RUN: not vit-opt %s -p 'calibrate,quantize,pot-fold{wieghts=nearest}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=NAME
// NAME: vit-opt: error: -p: pot-fold has no option 'wieghts'; did you mean 'weights'?
// RUN: not vit-opt %s -p 'calibrate,quantize,pot-fold,refine{sweeps=0}' -o %t.mlir 2>&1 | filecheck %s --check-prefix=SWEEPS
// SWEEPS: vit-opt: error: refine: sweeps 0 is not at least 1
// RUN: not ls %t.mlir

// A whole number where a real one is meant is taken.
// RUN: vit-opt %s -p 'calibrate,fill-grids{headroom=1},split-channels{gain=6}' 2>/dev/null | filecheck %s --check-prefix=WHOLE
// WHOLE: vit.stage = "calibrated"

builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x4x4xf32>) -> tensor<1x4x1xf32> {
    %w = onnx.Constant dense<1.0> : tensor<1x4xf32>
    %y = onnx.Gelu %x : (tensor<1x4x4xf32>) -> tensor<1x4x4xf32>
    %z = onnx.Linear %y, %w : (tensor<1x4x4xf32>, tensor<1x4xf32>) -> tensor<1x4x1xf32>
    func.return %z : tensor<1x4x1xf32>
  }
}
