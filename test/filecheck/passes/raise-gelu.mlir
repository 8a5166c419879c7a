// RUN: vit-opt %s -p raise-gelu --split-input-file | filecheck %s

// The erf form, as the TorchScript exporter writes it. The raised operation has the name of the
// one whose value it computes.
// CHECK-LABEL: @erf
func.func @erf(%x: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %root2 = onnx.Constant dense<1.4142135> : tensor<f32>
  %one = onnx.Constant dense<1.0> : tensor<f32>
  %half = onnx.Constant dense<0.5> : tensor<f32>
  %0 = onnx.Div %x, %root2 : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>
  %1 = onnx.Erf %0 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %2 = onnx.Add %1, %one : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>
  %3 = onnx.Mul %x, %2 : (tensor<2x8xf32>, tensor<2x8xf32>) -> tensor<2x8xf32>
  %y = onnx.Mul %3, %half {node_name = "act"} : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>
  func.return %y : tensor<2x8xf32>
}
// CHECK-SAME: (%x: tensor<2x8xf32>)
// CHECK-NEXT: %{{.*}} = onnx.Gelu %x {node_name = "act"} : (tensor<2x8xf32>) -> tensor<2x8xf32>
// CHECK-NEXT: func.return

// -----

// The tanh form keeps its own definition.
// CHECK-LABEL: @tanh
func.func @tanh(%x: tensor<8xf32>) -> tensor<8xf32> {
  %three = onnx.Constant dense<3.0> : tensor<f32>
  %a = onnx.Constant dense<0.044715> : tensor<f32>
  %b = onnx.Constant dense<0.7978846> : tensor<f32>
  %one = onnx.Constant dense<1.0> : tensor<f32>
  %half = onnx.Constant dense<0.5> : tensor<f32>
  %0 = onnx.Pow %x, %three : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %1 = onnx.Mul %0, %a : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %2 = onnx.Add %x, %1 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %3 = onnx.Mul %2, %b : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %4 = onnx.Tanh %3 : (tensor<8xf32>) -> tensor<8xf32>
  %5 = onnx.Add %one, %4 : (tensor<f32>, tensor<8xf32>) -> tensor<8xf32>
  %6 = onnx.Mul %half, %x : (tensor<f32>, tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Mul %6, %5 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK: onnx.Gelu %x {approximate = "tanh"}

// -----

// The sigmoid approximation is another function.
// CHECK-LABEL: @sigmoid
func.func @sigmoid(%x: tensor<8xf32>) -> tensor<8xf32> {
  %c = onnx.Constant dense<1.702> : tensor<f32>
  %0 = onnx.Mul %x, %c : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %1 = onnx.Sigmoid %0 : (tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Mul %x, %1 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK-NOT: Gelu
// CHECK: onnx.Sigmoid
