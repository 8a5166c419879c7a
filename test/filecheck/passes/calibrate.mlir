// RUN: vit-opt %s -p calibrate 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p calibrate 2>&1 >/dev/null | filecheck %s --check-prefix=WARNING
// RUN: not vit-opt %s -p calibrate,calibrate 2>&1 | filecheck %s --check-prefix=TWICE

// Every value gets its range, the function those of its inputs; inputs of linear layers also get
// statistics in the asset store. Without --calib the batches are synthetic, which is said.
// CHECK:      vit.stage = "calibrated"
// CHECK:      vit.input_ranges = array<f64: -{{[0-9.]+}}
// CHECK:      onnx.Gelu %x {vit.range = array<f64: {{.*}}>, vit.stats = "gelu_{{[0-9]+}}"}
// CHECK:      onnx.Linear %y, %w {vit.range =
// WARNING:    warning: no calibration data (--calib)
// TWICE:      error: calibrate works on a module at stage float, this one is at stage calibrated
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x1xf32> {
    %w = onnx.Constant dense<1.0> : tensor<1x4xf32>
    %y = onnx.Gelu %x : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %z = onnx.Linear %y, %w : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x1xf32>
    func.return %z : tensor<1x1xf32>
  }
}
