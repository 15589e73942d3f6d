internal import Foundation
internal import TestBed

/// Workload 3: what people do with trees of files, by the programs that they do it with.
struct TreeWorks: Sendable {
    let plan: BenchPlan
    let archive: String

    /// A tree like a source's: many small files, some large.
    static func makeArchive(_ archive: String, count: Int) async throws {
        let tree = archive + ".d"
        for number in stride(from: 0, to: count, by: 50) {
            try BenchFiles.makeDirectory("\(tree)/d\(number / 50)")
        }
        for number in 0..<count {
            let size = number % 40 == 0 ? 200_000 : 2000 + number % 7 * 1500
            try BenchFiles.write(
                "\(tree)/d\(number / 50)/file\(number).c",
                Array(repeatElement(UInt8(ascii: "a") + UInt8(number % 26), count: size)))
        }
        try await ChildProcess.check(Program("tar", ["-C", tree, "-cf", archive, "."]), limit: .seconds(120))
    }

    var all: [FileWork] {
        let count = plan.treeFileCount
        return [
            FileWork(
                workload: 3, title: "untar \(BenchText.count(plan.treeFileCount)) files", unit: "file",
                count: count,
                aim: .atMost(4, "4"),
                prepare: FileWork.shell("rm -rf tree; mkdir tree"),
                run: FileWork.shell("tar -C tree -xf '\(archive)'")),
            FileWork(
                workload: 3, title: "tar it", unit: "file", count: count, aim: nil,
                run: FileWork.shell("tar -C tree -cf - . | wc -c > /dev/null")),
            FileWork(
                workload: 3, title: "git add and status", unit: "file", count: count, aim: nil,
                prepare: FileWork.shell("rm -rf tree/.git"),
                run: FileWork.shell(
                    "cd tree; git init -q; git add -A; git status --short | wc -l > /dev/null")),
            FileWork(
                workload: 3, title: "git status, cold", unit: "file", count: count, aim: .atMost(2.5, "2.5"),
                isCold: true,
                run: FileWork.shell("cd tree; git status --short | wc -l > /dev/null")),
            FileWork(
                workload: 3, title: "git status, warm", unit: "file", count: count, aim: .atMost(1.3, "1.3"),
                prepare: FileWork.shell("cd tree; git status --short | wc -l > /dev/null"),
                run: FileWork.shell("cd tree; git status --short | wc -l > /dev/null")),
            FileWork(
                workload: 3, title: "rm -rf of a copy, and cp -r to make it", unit: "file", count: count,
                aim: nil,
                run: FileWork.shell("cp -r tree copy; rm -rf copy")),
            FileWork(
                workload: 3,
                title: "build \(BenchText.count(plan.sourceFileCount)) C files with gcc, two at a time",
                unit: "file", count: plan.sourceFileCount, width: 2,
                aim: nil,
                prepare: { try await Self.makeSources("\($0)/source", count: plan.sourceFileCount) },
                run: FileWork.shell(
                    "cd source; ls *.c | xargs -P 2 -n 8 gcc -O1 -c; gcc -o program *.o; ./program")),
        ]
    }

    /// A program of many small sources, each of which reads several headers; anew each time.
    private static func makeSources(_ path: String, count: Int) async throws {
        try await ChildProcess.check(Program("rm", ["-rf", path]), limit: .seconds(60))
        try BenchFiles.makeDirectory(path)
        for number in 0..<20 {
            let text = "#pragma once\n#include <stdio.h>\n#include <stdlib.h>\nint f\(number)(int);\n"
            try BenchFiles.write("\(path)/h\(number).h", Array(text.utf8))
        }
        for number in 0..<count {
            let includes = (0..<20).map { "#include \"h\($0).h\"\n" }.joined()
            let text = includes + "int f\(number)(int x) { return printf(\"\") + x * \(number); }\n"
            try BenchFiles.write("\(path)/s\(number).c", Array(text.utf8))
        }
        try BenchFiles.write("\(path)/main.c", Array("int f0(int);\nint main(void) { return f0(0); }\n".utf8))
    }
}
