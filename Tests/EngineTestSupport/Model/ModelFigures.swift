import Foundation

/// GODWIT_MODEL_STEPS makes the model's runs longer, GODWIT_MODEL_SEED repeats them.
package enum ModelFigures {
    package static let steps =
        ProcessInfo.processInfo.environment["GODWIT_MODEL_STEPS"].flatMap { Int($0) } ?? 500

    /// Whether somebody has said how many steps, or from where.
    package static let areSet = ["GODWIT_MODEL_STEPS", "GODWIT_MODEL_SEED"].contains {
        ProcessInfo.processInfo.environment[$0] != nil
    }

    /// The runs' own come after it.
    package static let seed: UInt64 = {
        let given = ProcessInfo.processInfo.environment["GODWIT_MODEL_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0..<1 << 32)
        print("model runs: GODWIT_MODEL_SEED=\(seed)")
        // Also of a run that ends in a trap.
        fflush(nil)
        return seed
    }()
}
