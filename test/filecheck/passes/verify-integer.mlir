// RUN: vit-opt %s -p verify-integer --verify-diagnostics --split-input-file | filecheck %s
// RUN: vit-opt %s -p 'verify-integer{pot=false}' --verify-diagnostics --split-input-file | filecheck %s --check-prefix DYADIC

// Floats at the border, integers between; the float master of a weight may stay.
func.func @main(%x : tensor<2xf32>) -> tensor<2xf32> {
  %q = vit.quantize %x : (tensor<2xf32>) -> tensor<2x!vit.fixed<i8, 5>>
  %w = vit.constant {value = dense<1> : tensor<2xi8>, master = dense<0.03> : tensor<2xf32>} : tensor<2x!vit.fixed<i8, 5>>
  %a = vit.add %q, %w : (tensor<2x!vit.fixed<i8, 5>>, tensor<2x!vit.fixed<i8, 5>>) -> tensor<2x!vit.fixed<i8, 4>>
  %y = vit.dequantize %a : (tensor<2x!vit.fixed<i8, 4>>) -> tensor<2xf32>
  return %y : tensor<2xf32>
}
// CHECK: func.func @main
// CHECK: vit.dequantize

// -----

// A float inside.
func.func @f() {
  %x = "test.op"() : () -> tensor<2xf32>
  return
}
// CHECK: the result of test.op is a float

// -----

// An input that is read before it is quantised.
func.func @f(%x : tensor<2x1xf32>) {
  %y = vit.reshape %x {node_name = "flatten"} : (tensor<2x1xf32>) -> tensor<2xf32>
  return
}
// CHECK: vit.reshape "flatten" reads the float argument 0, which only vit.quantize may

// -----

// A result that goes on as a float.
func.func @f(%x : tensor<2x!vit.fixed<i8, 5>>) {
  %y = vit.dequantize %x {node_name = "out"} : (tensor<2x!vit.fixed<i8, 5>>) -> tensor<2xf32>
  %z = vit.quantize %y : (tensor<2xf32>) -> tensor<2x!vit.fixed<i8, 5>>
  return
}
// CHECK: vit.quantize reads the float the result of vit.dequantize "out", which only func.return may

// -----

// An operation of the float graph.
func.func @f(%x : tensor<2xf32>) {
  %y = "onnx.Relu"(%x) {node_name = "relu1"} : (tensor<2xf32>) -> tensor<2xf32>
  return
}
// CHECK: onnx.Relu "relu1" has not been quantised; run quantize first

// -----

// A scale that is not a power of two.
func.func @f(%x : tensor<2x!vit.fixed<i32, 5>>) -> tensor<2x!vit.scaled<i8, 0.3>> {
  %y = vit.requant %x : (tensor<2x!vit.fixed<i32, 5>>) -> tensor<2x!vit.scaled<i8, 0.3>>
  return %y : tensor<2x!vit.scaled<i8, 0.3>>
}
// CHECK: the result of vit.requant has format !vit.scaled<i8, 0.3>, which is not a power of two; run pot-fold first
// DYADIC: vit.requant %x

// -----

// Many findings are counted.
func.func @f() {
  %0, %1, %2, %3 = "test.op"() : () -> (tensor<2xf32>, tensor<2xf32>, tensor<2xf64>, f32)
  return
}
// CHECK: ; and 1 more
