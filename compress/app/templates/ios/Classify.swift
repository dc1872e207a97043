// NOT RUN HERE: written against the documentation of onnxruntime-objc, neither compiled nor run by the tool that
// wrote this bundle.
//
// Podfile:  pod 'onnxruntime-objc'
// Add model.onnx and labels.txt to the app's resources.

import CoreGraphics
import Foundation
import onnxruntime_objc

final class Classifier {
    private let environment: ORTEnv
    private let session: ORTSession
    private let labels: [String]

    init(bundle: Bundle = .main) throws {
        guard let model = bundle.path(forResource: "model", ofType: "onnx"),
              let names = bundle.path(forResource: "labels", ofType: "txt") else {
            throw CocoaError(.fileNoSuchFile)
        }
        environment = try ORTEnv(loggingLevel: .error)
        session = try ORTSession(env: environment, modelPath: model, sessionOptions: nil)
        labels = try String(contentsOfFile: names, encoding: .utf8).components(separatedBy: "\n")
    }

    /// "7  99.93 %  0.11 ms": the class, its probability, and the milliseconds of this inference.
    func classify(_ image: CGImage) throws -> String {
        let shape = [image.height, image.width, 3].map { NSNumber(value: $0) }
        let input = try ORTValue(tensorData: try rgb(image), elementType: .uInt8, shape: shape)
        let start = DispatchTime.now()
        let answer = try session.run(
            withInputs: ["image": input], outputNames: ["label", "probability"], runOptions: nil)
        let milliseconds = Double(DispatchTime.now().uptimeNanoseconds - start.uptimeNanoseconds) / 1e6
        let label = try (answer["label"]!.tensorData() as Data).withUnsafeBytes { $0.load(as: Int64.self) }
        let probability = try (answer["probability"]!.tensorData() as Data).withUnsafeBytes { $0.load(as: Float.self) }
        return String(format: "%@  %.2f %%  %.2f ms", labels[Int(label)], 100 * probability, milliseconds)
    }

    private func rgb(_ image: CGImage) throws -> NSMutableData {
        var rgba = [UInt8](repeating: 0, count: 4 * image.width * image.height)
        guard let context = CGContext(
            data: &rgba, width: image.width, height: image.height, bitsPerComponent: 8,
            bytesPerRow: 4 * image.width, space: CGColorSpaceCreateDeviceRGB(),
            bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue) else {
            throw CocoaError(.fileReadUnknown)
        }
        context.draw(image, in: CGRect(x: 0, y: 0, width: image.width, height: image.height))
        let pixels = NSMutableData(capacity: 3 * image.width * image.height)!
        for start in stride(from: 0, to: rgba.count, by: 4) {
            pixels.append([rgba[start], rgba[start + 1], rgba[start + 2]], length: 3)
        }
        return pixels
    }
}
