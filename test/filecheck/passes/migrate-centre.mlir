// RUN: python -c "import numpy as np; np.savez('%t.npz', x=np.ones((2, 2, 2, 2), 'f') * np.reshape([1, -1], (2, 1, 1, 1)))"
// RUN: vit-opt %s -p 'calibrate{augment=none},migrate{equalize=false}' --calib %t.npz | filecheck %s
// RUN: vit-opt %s -p 'calibrate{augment=none},migrate{equalize=false centre=false}' --calib %t.npz | filecheck %s --check-prefix OFF

// Filter-wise shifting: channels around 6 and -6 are centred by the bias of the convolution that makes
// them, and the one that reads them gets 1 * 6 + 0.5 * -6 = 3 back in a bias of its own.
// CHECK:       %[[B:.*]] = onnx.Constant dense<0.0
// CHECK-NEXT:  %h = onnx.Conv %x, %w, %[[B]] {vit.range = array<f64: -1.000000e+00, 1.000000e+00>
// CHECK-NEXT:  %[[C:.*]] = onnx.Constant dense<3.0
// CHECK-NEXT:  onnx.Conv %h, %v, %[[C]] {vit.range = array<f64: 1.500000e+00, 4.500000e+00>
// OFF:         %h = onnx.Conv %x, %w, %b {vit.range = array<f64: -7.000000e+00, 7.000000e+00>
// OFF-NEXT:    onnx.Conv %h, %v {vit.range
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x2x2x2xf32>) -> tensor<1x1x2x2xf32> attributes {vit.input_names = ["x"], vit.output_names = ["y"]} {
    %w = onnx.Constant dense<[[[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]]]> : tensor<2x2x1x1xf32>
    %b = onnx.Constant dense<[6.0, -6.0]> : tensor<2xf32>
    %v = onnx.Constant dense<[[[[1.0]], [[0.5]]]]> : tensor<1x2x1x1xf32>
    %h = onnx.Conv %x, %w, %b : (tensor<1x2x2x2xf32>, tensor<2x2x1x1xf32>, tensor<2xf32>) -> tensor<1x2x2x2xf32>
    %y = onnx.Conv %h, %v : (tensor<1x2x2x2xf32>, tensor<1x2x1x1xf32>) -> tensor<1x1x2x2xf32>
    func.return %y : tensor<1x1x2x2xf32>
  }
}
