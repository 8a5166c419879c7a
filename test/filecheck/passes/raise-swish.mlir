// RUN: vit-opt %s -p raise-swish --split-input-file | filecheck %s

// SiLU: x * sigmoid(x).
// CHECK-LABEL: @silu
func.func @silu(%x: tensor<8xf32>) -> tensor<8xf32> {
  %0 = onnx.Sigmoid %x : (tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Mul %x, %0 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK-NEXT: %{{.*}} = onnx.Swish %x {alpha = 1.0} : (tensor<8xf32>) -> tensor<8xf32>
// CHECK-NEXT: func.return

// -----

// The fast form of GELU, written as x / (1 + exp(-1.702 x)).
// CHECK-LABEL: @quick_gelu
func.func @quick_gelu(%x: tensor<8xf32>) -> tensor<8xf32> {
  %a = onnx.Constant dense<-1.702> : tensor<f32>
  %one = onnx.Constant dense<1.0> : tensor<f32>
  %0 = onnx.Mul %x, %a : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %1 = onnx.Exp %0 : (tensor<8xf32>) -> tensor<8xf32>
  %2 = onnx.Add %1, %one : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %y = onnx.Div %x, %2 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK-NEXT: %{{.*}} = onnx.Swish %x {alpha = 1.702}
// CHECK-NEXT: func.return

// -----

// A gate by the sigmoid of another value, and another slope, are no Swish of the list.
// CHECK-LABEL: @others
func.func @others(%x: tensor<8xf32>, %g: tensor<8xf32>) -> (tensor<8xf32>, tensor<8xf32>) {
  %a = onnx.Constant dense<1.5> : tensor<f32>
  %0 = onnx.Sigmoid %g : (tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Mul %x, %0 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %1 = onnx.Mul %x, %a : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %2 = onnx.Sigmoid %1 : (tensor<8xf32>) -> tensor<8xf32>
  %z = onnx.Mul %x, %2 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y, %z : tensor<8xf32>, tensor<8xf32>
}
// CHECK-NOT: onnx.Swish
