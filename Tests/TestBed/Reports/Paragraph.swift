/// Breaks a text at spaces into lines of at most so many characters, each behind so many spaces, the first two fewer than
/// the others. A longer word has a line of its own.
package func paragraph(_ text: String, width: Int = 120, indent: Int = 4) -> String {
    var lines: [String] = []
    var line = String(repeating: " ", count: max(0, indent - 2))
    var isEmpty = true
    for word in text.split(separator: " ") {
        if !isEmpty, line.count + 1 + word.count > width {
            lines.append(line)
            line = String(repeating: " ", count: max(0, indent))
            isEmpty = true
        }
        line += (isEmpty ? "" : " ") + word
        isEmpty = false
    }
    return (lines + [line]).joined(separator: "\n")
}
