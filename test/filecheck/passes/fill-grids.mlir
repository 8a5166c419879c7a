// RUN: vit-opt %s -p 'fill-grids{headroom=1.0}' --split-input-file | filecheck %s
// RUN: vit-opt %s -p 'fill-grids{headroom=1.0},quantize,pot-fold' --split-input-file | filecheck %s --check-prefix=POT
// RUN: vit-opt %s -p 'fill-grids{headroom=1.0 operands=false}' --split-input-file | filecheck %s --check-prefix=APART
// RUN: not vit-opt %s -p 'fill-grids{headroom=0.5}' --split-input-file 2>&1 | filecheck %s --check-prefix=WRONG
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

// -----

// What a table reads is scaled by the layer in front: Hardswish changes between -3 and the largest
// value of 5.2, which as a range of 8.2 would take the grid of 15.9.
// CHECK:        onnx.Constant dense<1.9{{.*}}> : tensor<2x2xf32>
// CHECK-NEXT:   %h = onnx.Linear %x, {{.*}}vit.range = array<f64: -7.7{{[0-9]*}}, 10.0{{[0-9]*}}>
// CHECK-NEXT:   %[[I:.*]] = onnx.Constant dense<0.51{{.*}}> : tensor<f32>
// CHECK-NEXT:   %[[S:.*]] = onnx.Mul %h, %[[I]] {{.*}}vit.range = array<f64: -4.000000e+00, 5.2
// CHECK:        onnx.HardSwish %[[S]]
// POT:          vit.pot_requant {{.*}} -> tensor<1x2x!vit.fixed<ui8, 4, zp = {{[0-9]+}}>>
// POT:          vit.lut {{.*}} {function = "hardswish(x*0.51{{[0-9]+}})*1.41{{[0-9]+}}"
// APART-LABEL:  vit.range = array<f64: -4.000000e+00, 5.2
// APART-NEXT:   onnx.HardSwish %h
builtin.module attributes {vit.stage = "calibrated"} {
  func.func @main(%x: tensor<1x2xf32>) -> tensor<1x1xf32> attributes {vit.input_ranges = array<f64: -1.0, 1.0>} {
    %w = onnx.Constant dense<1.0> : tensor<2x2xf32>
    %v = onnx.Constant dense<1.0> : tensor<1x2xf32>
    %h = onnx.Linear %x, %w {vit.range = array<f64: -4.0, 5.2>} : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
    %g = onnx.HardSwish %h {vit.range = array<f64: -0.375, 5.2>} : (tensor<1x2xf32>) -> tensor<1x2xf32>
    %y = onnx.Linear %g, %v {vit.range = array<f64: -0.7, 9.0>} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
    func.return %y : tensor<1x1xf32>
  }
}
