// RUN: vit-opt %s -p calibrate 2>/dev/null | filecheck %s
// RUN: vit-opt %s -p 'calibrate{moments=false}' 2>/dev/null | filecheck %s --check-prefix=WITHOUT

// The windows of convolutions have second moments of their own, which rounding will look up.
// CHECK:       onnx.Conv %x, %w {{.*}}vit.moments = "windows_{{[0-9]+}}"
// CHECK:       onnx.ConvTranspose %y, %v {{.*}}vit.moments = "windows_{{[0-9]+}}"
// WITHOUT-NOT: vit.moments
builtin.module attributes {vit.stage = "float"} {
  func.func @main(%x: tensor<1x2x4x4xf32>) -> tensor<1x3x8x8xf32> {
    %w = onnx.Constant dense<1.0> : tensor<2x1x3x3xf32>
    %v = onnx.Constant dense<1.0> : tensor<2x3x2x2xf32>
    %y = onnx.Conv %x, %w {group = 2, pads = [1, 1, 1, 1]} : (tensor<1x2x4x4xf32>, tensor<2x1x3x3xf32>) -> tensor<1x2x4x4xf32>
    %z = onnx.ConvTranspose %y, %v {strides = [2, 2]} : (tensor<1x2x4x4xf32>, tensor<2x3x2x2xf32>) -> tensor<1x3x8x8xf32>
    func.return %z : tensor<1x3x8x8xf32>
  }
}
