// RUN: vit-opt %s -p migrate --split-input-file | filecheck %s
// RUN: not vit-opt %s -p "migrate{headroom=0.5}" --split-input-file 2>&1 | filecheck %s --check-prefix ERROR

// Without the statistics and batches of a calibration nothing is known of any channel: the graph stays
// as it is. (What the pass does with them is in test/test_migrate.py, since they are not IR.)
// CHECK-LABEL: @main
// CHECK:       onnx.LayerNormalization %x, %g, %b
// CHECK-NEXT:  onnx.Linear %n, %w, %c
// ERROR: migrate: headroom 0.5 is not from 1 to below 16
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> {
    %g = onnx.Constant dense<[1.0, 2.0]> : tensor<2xf32>
    %b = onnx.Constant dense<[0.0, 0.5]> : tensor<2xf32>
    %w = onnx.Constant dense<[[1.0, 0.25]]> : tensor<1x2xf32>
    %c = onnx.Constant dense<[1.0]> : tensor<1xf32>
    %n = onnx.LayerNormalization %x, %g, %b : (tensor<1x2xf32>, tensor<2xf32>, tensor<2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %n, %w, %c : (tensor<1x2xf32>, tensor<1x2xf32>, tensor<1xf32>) -> tensor<1x1xf32>
    func.return %y : tensor<1x1xf32>
  }
}

// -----

// CHECK-LABEL: @main
// CHECK:       onnx.Conv %x, %w
// CHECK-NEXT:  onnx.Conv %h, %d
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x1x2x2xf32>) -> tensor<1x2x2x2xf32> {
    %w = onnx.Constant dense<[[[[1.0]]], [[[64.0]]]]> : tensor<2x1x1x1xf32>
    %d = onnx.Constant dense<1.0> : tensor<2x1x1x1xf32>
    %h = onnx.Conv %x, %w : (tensor<1x1x2x2xf32>, tensor<2x1x1x1xf32>) -> tensor<1x2x2x2xf32>
    %y = onnx.Conv %h, %d {group = 2 : i64} : (tensor<1x2x2x2xf32>, tensor<2x1x1x1xf32>) -> tensor<1x2x2x2xf32>
    func.return %y : tensor<1x2x2x2xf32>
  }
}
