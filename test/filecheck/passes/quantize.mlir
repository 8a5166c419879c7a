// RUN: vit-opt %s -p quantize --split-input-file | filecheck %s

// A linear layer reads 8 bits; its accumulator goes straight into the 16-bit residual sum, and the
// weights keep their float master.
// CHECK:       %[[X:.*]] = vit.quantize %x {{.*}}!vit.scaled<i16
// CHECK-NEXT:  %[[X8:.*]] = vit.requant %[[X]] {{.*}} -> tensor<1x2x!vit.scaled<i8, 0.00787
// CHECK-NEXT:  %[[W:.*]] = vit.constant {value = dense<{{\[\[}}127, -64], [127, 64]]> {{.*}} master = dense
// CHECK-NEXT:  %[[B:.*]] = vit.constant {value = dense<[8065, -16129]> : tensor<2xi32>
// CHECK-NEXT:  %[[Y:.*]] = vit.linear %[[X8]], %[[W]], %[[B]] {{.*}}!vit.scaled<i32
// CHECK-NEXT:  vit.add %[[X]], %[[Y]] {{.*}} -> tensor<1x2x!vit.scaled<i16
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x2xf32> attributes {vit.input_ranges = array<f64: -1.0, 1.0>} {
    %w = onnx.Constant dense<[[1.0, -0.5], [0.25, 0.125]]> : tensor<2x2xf32>
    %b = onnx.Constant dense<[0.5, -0.25]> : tensor<2xf32>
    %y = onnx.Linear %x, %w, %b {vit.range = array<f64: -2.0, 2.0>} : (tensor<1x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<1x2xf32>
    %r = onnx.Add %x, %y {vit.range = array<f64: -3.0, 3.0>} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x2xf32>
    func.return %r : tensor<1x2xf32>
  }
}

// -----

// Softmax is deferred: exponentials of the accumulator, a product with the values, one division.
// The score scale 1/4 moves no integer.
// CHECK:       %[[S:.*]] = vit.matmul {{.*}} -> tensor<1x4x4x!vit.fixed<i32, 10>>
// CHECK-NEXT:  %[[T:.*]] = vit.reinterpret %[[S]] {exponent = -2 : i64} {{.*}}!vit.fixed<i32, 12>>
// CHECK-NEXT:  %[[P:.*]], %[[SUM:.*]] = vit.softmax_exp %[[T]]
// CHECK-NEXT:  %[[V:.*]] = vit.requant {{.*}}!vit.fixed<i8, 6>
// CHECK-NEXT:  %[[A:.*]] = vit.matmul %[[P]], %[[V]]
// CHECK-NEXT:  vit.normalize %[[A]], %[[SUM]]
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%q: tensor<1x4x16xf32>, %k: tensor<1x16x4xf32>, %v: tensor<1x4x16xf32>) -> tensor<1x4x16xf32> attributes {vit.input_ranges = array<f64: -2.0, 2.0, -2.0, 2.0, -1.0, 1.0>} {
    %c = onnx.Constant dense<0.25> : tensor<f32>
    %s = onnx.MatMul %q, %k {vit.range = array<f64: -9.0, 9.0>} : (tensor<1x4x16xf32>, tensor<1x16x4xf32>) -> tensor<1x4x4xf32>
    %t = onnx.Mul %s, %c {vit.range = array<f64: -3.0, 3.0>} : (tensor<1x4x4xf32>, tensor<f32>) -> tensor<1x4x4xf32>
    %p = onnx.Softmax %t {vit.range = array<f64: 0.0, 1.0>} : (tensor<1x4x4xf32>) -> tensor<1x4x4xf32>
    %y = onnx.MatMul %p, %v {vit.range = array<f64: -1.0, 1.0>} : (tensor<1x4x4xf32>, tensor<1x4x16xf32>) -> tensor<1x4x16xf32>
    func.return %y : tensor<1x4x16xf32>
  }
}

// -----

// A function is a table over 8-bit codes; ReLU limits the codes.
// CHECK:       %[[T:.*]] = vit.constant {value = #vit.asset
// CHECK-NEXT:  %[[G:.*]] = vit.lut %{{.*}}, %[[T]] {function = "gelu"}
// CHECK-NEXT:  vit.clamp %[[G]] {min = 0 : i64, max = 32767 : i64}
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {vit.input_ranges = array<f64: -4.0, 4.0>} {
    %y = onnx.Gelu %x {vit.range = array<f64: -0.17, 4.0>} : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %z = onnx.Relu %y {vit.range = array<f64: 0.0, 4.0>} : (tensor<1x4xf32>) -> tensor<1x4xf32>
    func.return %z : tensor<1x4xf32>
  }
}

// -----

// Convolutions are channels last.
// CHECK:       %[[N:.*]] = vit.transpose %{{.*}} {permutation = array<i64: 0, 2, 3, 1>}
// CHECK:       vit.conv2d %[[N]], %{{.*}} {{.*}} -> tensor<1x4x4x3x!vit.scaled<i32
// CHECK:       vit.transpose %{{.*}} {permutation = array<i64: 0, 3, 1, 2>}
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2x4x4xf32>) -> tensor<1x3x16xf32> attributes {vit.input_ranges = array<f64: -1.0, 1.0>} {
    %w = onnx.Constant dense<1.0> : tensor<3x2x1x1xf32>
    %y = onnx.Conv %x, %w {vit.range = array<f64: -2.0, 2.0>} : (tensor<1x2x4x4xf32>, tensor<3x2x1x1xf32>) -> tensor<1x3x4x4xf32>
    %z = onnx.Reshape %y {vit.range = array<f64: -2.0, 2.0>} : (tensor<1x3x4x4xf32>) -> tensor<1x3x16xf32>
    func.return %z : tensor<1x3x16xf32>
  }
}
