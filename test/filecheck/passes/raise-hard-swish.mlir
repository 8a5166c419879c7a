// RUN: vit-opt %s -p raise-hard-swish --split-input-file | filecheck %s

// x * relu6(x + 3) / 6
// CHECK-LABEL: @relu6
func.func @relu6(%x: tensor<8xf32>) -> tensor<8xf32> {
  %three = onnx.Constant dense<3.0> : tensor<f32>
  %six = onnx.Constant dense<6.0> : tensor<f32>
  %0 = onnx.Add %x, %three : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %1 = onnx.Clip %0 {min = 0.0, max = 6.0} : (tensor<8xf32>) -> tensor<8xf32>
  %2 = onnx.Mul %x, %1 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Div %2, %six : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK-NEXT: %{{.*}} = onnx.HardSwish %x : (tensor<8xf32>) -> tensor<8xf32>
// CHECK-NEXT: func.return

// -----

// x * HardSigmoid(x), with the slope that is meant; the default slope 0.2 is no HardSwish.
// CHECK-LABEL: @hard_sigmoid
func.func @hard_sigmoid(%x: tensor<8xf32>) -> (tensor<8xf32>, tensor<8xf32>) {
  %0 = onnx.HardSigmoid %x {alpha = 0.16666667, beta = 0.5} : (tensor<8xf32>) -> tensor<8xf32>
  %y = onnx.Mul %x, %0 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %1 = onnx.HardSigmoid %x {alpha = 0.2, beta = 0.5} : (tensor<8xf32>) -> tensor<8xf32>
  %z = onnx.Mul %1, %x : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return %y, %z : tensor<8xf32>, tensor<8xf32>
}
// CHECK-NEXT: %[[Y:.*]] = onnx.HardSwish %x
// CHECK-NEXT: %[[S:.*]] = onnx.HardSigmoid %x {alpha = 0.2
// CHECK-NEXT: %[[Z:.*]] = onnx.Mul %[[S]], %x
// CHECK-NEXT: func.return %[[Y]], %[[Z]]

// -----

// relu6(x + 3) / 6 alone.
// CHECK-LABEL: @alone
func.func @alone(%x: tensor<8xf32>) -> tensor<8xf32> {
  %three = onnx.Constant dense<3.0> : tensor<f32>
  %six = onnx.Constant dense<6.0> : tensor<f32>
  %0 = onnx.Add %x, %three : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %1 = onnx.Relu %0 : (tensor<8xf32>) -> tensor<8xf32>
  %2 = onnx.Min %1, %six : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  %y = onnx.Div %2, %six : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
  func.return %y : tensor<8xf32>
}
// CHECK-NEXT: onnx.HardSigmoid %x {alpha = 0.16666666666666666, beta = 0.5}
// CHECK-NEXT: func.return
