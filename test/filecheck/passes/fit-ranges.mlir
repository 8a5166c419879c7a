// RUN: vit-opt %s -p 'calibrate,fit-ranges' 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p 'calibrate,fit-ranges,fill-grids,quantize,pot-fold' 2>/dev/null | filecheck %s --check-prefix=POT
// RUN: not vit-opt %s -p 'fit-ranges{batches=0}' 2>&1 | filecheck %s --check-prefix=WRONG
// RUN: not vit-opt %s -p 'fit-ranges' 2>&1 | filecheck %s --check-prefix=STAGE

// The second of four channels goes thirty times as far as the others, and nothing reads it: the part
// that 8 bits cover ends where the others do, and so does the format.
// CHECK:      onnx.Gelu %{{.*}} {vit.range = array<f64: -0.1{{[0-9]*}}, {{[0-9][0-9].*}}>, {{.*}}vit.clip = array<f64: -0.1{{[0-9]*}}, {{.*}}>
// POT:        vit.lut {{.*}} {function = "gelu*1.{{.*}} -> tensor<1x4x!vit.fixed<ui8, {{[2-9]}}, zp
// WRONG:      error: fit-ranges: batches 0 is not at least 1
// STAGE:      error: fit-ranges works on a module at stage calibrated, this one is at stage float
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> {
    %s = onnx.Constant dense<[1.0, 30.0, 1.0, 1.0]> : tensor<4xf32>
    %w = onnx.Constant dense<[[1.0, 0.0, 0.7, 0.3], [0.2, 0.0, -0.7, 0.9]]> : tensor<2x4xf32>
    %l = onnx.Mul %x, %s : (tensor<1x4xf32>, tensor<4xf32>) -> tensor<1x4xf32>
    %g = onnx.Gelu %l : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %y = onnx.Linear %g, %w : (tensor<1x4xf32>, tensor<2x4xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
