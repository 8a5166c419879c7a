// RUN: vit-opt %s -p 'calibrate{observer=percentile fraction=0.9}' 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p 'calibrate{observer=mse power=2.4}' 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p 'calibrate{observer=entropy augment=flips}' 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p 'calibrate{observer=minmax}' 2>/dev/null | filecheck %s --check-prefix=ALL
// RUN: not vit-opt %s -p 'calibrate{observer=average}' 2>&1 | filecheck %s --check-prefix=WRONG

// An observer that may leave values out writes its choice beside the range; minmax needs none.
// CHECK:      vit.input_ranges = array<f64:
// CHECK-SAME: vit.input_clips = array<f64:
// CHECK:      onnx.Gelu %x {vit.range = array<f64: {{.*}}>, vit.clip = array<f64: {{.*}}>
// ALL-NOT:    vit.clip
// WRONG:      error: calibrate: observer 'average' is not one of minmax, percentile, mse, entropy
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x1xf32> {
    %w = onnx.Constant dense<1.0> : tensor<1x4xf32>
    %y = onnx.Gelu %x : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %z = onnx.Linear %y, %w : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x1xf32>
    func.return %z : tensor<1x1xf32>
  }
}
