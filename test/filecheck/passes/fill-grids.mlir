// RUN: vit-opt %s -p 'fill-grids{headroom=1.0}' | filecheck %s
// RUN: vit-opt %s -p 'fill-grids{headroom=1.0},quantize,pot-fold' | filecheck %s --check-prefix=POT
// RUN: not vit-opt %s -p 'fill-grids{headroom=0.5}' 2>&1 | filecheck %s --check-prefix=WRONG
// WRONG: error: fill-grids: headroom 0.5 is not at least 1 and below 2

// A largest value of 4 takes the grid of 7.9: the results are multiplied by nearly 2, the weights
// behind divided by it, and the factor is part of the table.
// CHECK:      %[[F:.*]] = onnx.Constant dense<1.8{{.*}}> : tensor<f32>
// CHECK:      %[[M:.*]] = onnx.Mul %g, %[[F]]
// CHECK:      %[[W:.*]] = onnx.Constant dense<0.52{{[0-9]+}}>
// CHECK:      onnx.Linear %[[M]], %[[W]]
// POT:        vit.lut {{.*}} {function = "gelu*1.8{{.*}} -> tensor<1x2x!vit.fixed<ui8, 5, zp = 10>>
// POT-NEXT:   vit.constant
// POT-NEXT:   vit.linear
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> attributes {vit.input_ranges = array<f64: -4.0, 4.0>} {
    %w = onnx.Constant dense<1.0> : tensor<1x2xf32>
    %g = onnx.Gelu %x {vit.range = array<f64: -0.17, 4.0>} : (tensor<1x2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %g, %w {vit.range = array<f64: -0.4, 8.0>} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
    func.return %y : tensor<1x1xf32>
  }
}
