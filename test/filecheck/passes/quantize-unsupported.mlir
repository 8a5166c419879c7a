// RUN: not vit-opt %s -p quantize 2>&1 | filecheck %s

// Everything without an integer form is named at once.
// CHECK: error: quantize: 2 operations have no integer form: Log (a), Sqrt (b)
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {vit.input_ranges = array<f64: -4.0, 4.0>} {
    %y = onnx.Log %x {node_name = "a", vit.range = array<f64: -0.17, 4.0>} : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %z = onnx.Sqrt %y {node_name = "b", vit.range = array<f64: 0.0, 4.0>} : (tensor<1x4xf32>) -> tensor<1x4xf32>
    func.return %z : tensor<1x4xf32>
  }
}
