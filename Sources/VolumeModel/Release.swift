/// Which release this is.
package enum Release {
    package static let current = "0.1.0"
}
