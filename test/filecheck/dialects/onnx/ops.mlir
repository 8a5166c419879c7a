// RUN: ROUNDTRIP

// Constants: inline when small, else by reference into the weight store.
// CHECK-LABEL: @constants
func.func @constants() -> (tensor<2xf32>, tensor<i64>, tensor<192x192xf32>) {
  // CHECK-NEXT: %{{.*}} = onnx.Constant dense<[1.000000e+00, 2.500000e+00]> : tensor<2xf32> {node_name = "b"}
  %b = onnx.Constant dense<[1.0, 2.5]> : tensor<2xf32> {node_name = "b"}
  // CHECK-NEXT: %{{.*}} = onnx.Constant dense<3> : tensor<i64>
  %i = onnx.Constant dense<3> : tensor<i64>
  // CHECK-NEXT: %{{.*}} = onnx.Constant #vit.asset<"qkv.weight", "9f86d081884c7d65", tensor<192x192xf32>>
  %w = onnx.Constant #vit.asset<"qkv.weight", "9f86d081884c7d65", tensor<192x192xf32>>
  func.return %b, %i, %w : tensor<2xf32>, tensor<i64>, tensor<192x192xf32>
}

// -----

// Attributes are integers, reals, strings and lists of integers.
// CHECK-LABEL: @attributes
func.func @attributes(%x: tensor<1x3x8x8xf32>, %w: tensor<4x3x2x2xf32>, %b: tensor<4xf32>) -> tensor<1x4x4x4xf32> {
  // CHECK-NEXT: %{{.*}} = onnx.Conv %x, %w, %b {strides = [2, 2], pads = [0, 0, 0, 0], group = 1, node_name = "stem"} : (tensor<1x3x8x8xf32>, tensor<4x3x2x2xf32>, tensor<4xf32>) -> tensor<1x4x4x4xf32>
  %y = onnx.Conv %x, %w, %b {strides = [2, 2], pads = [0, 0, 0, 0], group = 1, node_name = "stem"} : (tensor<1x3x8x8xf32>, tensor<4x3x2x2xf32>, tensor<4xf32>) -> tensor<1x4x4x4xf32>
  // CHECK-NEXT: %{{.*}} = onnx.HardSigmoid %{{.*}} {alpha = 1.0e-06, beta = -0.5} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  %z = onnx.HardSigmoid %y {alpha = 1.0e-06, beta = -0.5} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  // CHECK-NEXT: %{{.*}} = onnx.Gelu %{{.*}} {approximate = "tanh"} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  %g = onnx.Gelu %z {approximate = "tanh"} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  // CHECK-NEXT: %{{.*}} = onnx.Clip %{{.*}} {max = 6.0} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  %c = onnx.Clip %g {max = 6.0} : (tensor<1x4x4x4xf32>) -> tensor<1x4x4x4xf32>
  func.return %c : tensor<1x4x4x4xf32>
}

// -----

// Several results, optional operands, attributes that the dialect does not declare.
// CHECK-LABEL: @shapes
func.func @shapes(%x: tensor<1x6x4xf32>, %s: tensor<4xf32>) -> (tensor<1x2x4xf32>, tensor<1x4x4xf32>) {
  // CHECK-NEXT: %{{.*}} = onnx.LayerNormalization %x, %s {axis = -1} : (tensor<1x6x4xf32>, tensor<4xf32>) -> tensor<1x6x4xf32>
  %n = onnx.LayerNormalization %x, %s {axis = -1} : (tensor<1x6x4xf32>, tensor<4xf32>) -> tensor<1x6x4xf32>
  // CHECK-NEXT: %{{.*}}, %{{.*}} = onnx.Split %{{.*}} {axis = 1, vit.note = i8} : (tensor<1x6x4xf32>) -> (tensor<1x2x4xf32>, tensor<1x4x4xf32>)
  %a, %b = onnx.Split %n {axis = 1, vit.note = i8} : (tensor<1x6x4xf32>) -> (tensor<1x2x4xf32>, tensor<1x4x4xf32>)
  func.return %a, %b : tensor<1x2x4xf32>, tensor<1x4x4xf32>
}

// -----

// The raised operations.
// CHECK-LABEL: @raised
func.func @raised(%x: tensor<1x7x8xf32>, %w: tensor<8x8xf32>, %b: tensor<8xf32>) -> tensor<1x7x8xf32> {
  // CHECK-NEXT: %{{.*}} = onnx.Linear %x, %w, %b : (tensor<1x7x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<1x7x8xf32>
  %q = onnx.Linear %x, %w, %b : (tensor<1x7x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<1x7x8xf32>
  // CHECK-NEXT: %{{.*}} = onnx.Linear %x, %w : (tensor<1x7x8xf32>, tensor<8x8xf32>) -> tensor<1x7x8xf32>
  %k = onnx.Linear %x, %w : (tensor<1x7x8xf32>, tensor<8x8xf32>) -> tensor<1x7x8xf32>
  // CHECK-NEXT: %{{.*}} = onnx.LinearAttention %{{.*}}, %{{.*}}, %{{.*}} {eps = 1.0e-15} : (tensor<1x7x8xf32>, tensor<1x7x8xf32>, tensor<1x7x8xf32>) -> tensor<1x7x8xf32>
  %y = onnx.LinearAttention %q, %k, %q {eps = 1.0e-15} : (tensor<1x7x8xf32>, tensor<1x7x8xf32>, tensor<1x7x8xf32>) -> tensor<1x7x8xf32>
  func.return %y : tensor<1x7x8xf32>
}

// -----

// Quantisation keeps scale and zero point as operands, per tensor or per channel.
// CHECK-LABEL: @quantisation
func.func @quantisation(%x: tensor<1x7x8xf32>, %c: tensor<8x8xi8>) -> (tensor<1x7x8xui8>, tensor<8x8xf32>) {
  %s = onnx.Constant dense<0.5> : tensor<f32>
  %z = onnx.Constant dense<128> : tensor<ui8>
  %t = onnx.Constant dense<[0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]> : tensor<8xf32>
  // CHECK: onnx.QuantizeLinear %x, %s, %z {axis = 1} : (tensor<1x7x8xf32>, tensor<f32>, tensor<ui8>) -> tensor<1x7x8xui8>
  %q = onnx.QuantizeLinear %x, %s, %z {axis = 1} : (tensor<1x7x8xf32>, tensor<f32>, tensor<ui8>) -> tensor<1x7x8xui8>
  // CHECK-NEXT: onnx.DequantizeLinear %c, %t {axis = 0} : (tensor<8x8xi8>, tensor<8xf32>) -> tensor<8x8xf32>
  %d = onnx.DequantizeLinear %c, %t {axis = 0} : (tensor<8x8xi8>, tensor<8xf32>) -> tensor<8x8xf32>
  func.return %q, %d : tensor<1x7x8xui8>, tensor<8x8xf32>
}
