/// A script for each sentence of the guide that a shell can test, by the sentence's name.
enum SemanticsScripts {
    static let all = names.merging(permissions) { _, new in new }.merging(bytes) { _, new in new }
        .merging(others) { _, new in new }.merging(different) { _, new in new }

    /// Those that hold on ext4 too.
    static let asOnExt4 = all.filter { different[$0.key] == nil }

    /// Small words for the scripts: `is` compares, `fails` wants a failure, `as` runs something as a user.
    static func prelude(probe: String) -> String {
        """
        PATH='\(probe)':$PATH; umask 022; export LC_ALL=C
        is() { [ "$1" = "$2" ] || { echo "found '$1' where '$2' should be (line ${BASH_LINENO[0]})"; exit 1; }; }
        fails() { if "$@" >/dev/null 2>&1; then echo "succeeded: $*"; exit 1; fi; }
        as() { local user=$1; shift; setpriv --reuid $user --regid $user --clear-groups "$@"; }

        """
    }

    private static let names = [
        "everyKindOfFileCanBeMade": """
        touch r; mkdir d; ln -s r l; mkfifo p; is "$(probe socket s)" 0
        is "$(probe mknod c 020600 4 77777)" 0; is "$(probe mknod b 060600 255 1048575)" 0
        is "$(probe mknod f 0100640 0 0)" 0; is "$(stat -c '%F %a' f)" 'regular empty file 640'
        is "$(stat -c %F r d l p s | tr '\\n' ,)" 'regular empty file,directory,symbolic link,fifo,socket,'
        is "$(stat -c '%F %Hr %Lr' c)" 'character special file 4 77777'
        is "$(stat -c '%F %Hr %Lr' b)" 'block special file 255 1048575'
        """,
        "fifosCarryBytesBetweenProcesses": """
        mkfifo p; echo through > p & is "$(cat p)" through; wait; is "$(stat -c %s p)" 0
        """,
        "deviceFilesOpenTheirDevices": """
        mknod z c 1 5; is "$(head -c 3 z | od -An -tx1 | tr -d ' ')" 000000; mknod n c 1 3; echo x > n
        """,
        "makingWhatExistsIsRefused": """
        touch f; mkdir d; ln -s nowhere l; for name in f d l; do
        is "$(probe mkdir $name)" EEXIST; is "$(probe symlink x $name)" EEXIST
        is "$(probe link f $name)" EEXIST; is "$(probe mknod $name 010600 0 0)" EEXIST
        is "$(probe open $name wcx)" EEXIST; done
        """,
        "namesMayBeAnyBytes": """
        long=$(printf 'n%.0s' {1..255}); touch $long; test -e $long; is "$(ls)" $long; rm $long
        is "$(probe mkdir n$long)" ENAMETOOLONG; is "$(probe open x$long r)" ENAMETOOLONG
        for byte in $(seq 1 255); do [ $byte = 47 ] || [ $byte = 46 ] && continue
        name=$(printf "\\\\x$(printf %x $byte)."); touch -- "$name"; test -e "./$name"; done
        is "$(ls -f | tr -cd . | wc -c)" 256; is "$(find . -mindepth 1 -print0 | tr -cd '\\0' | wc -c)" 253
        """,
        "longPathsWork": """
        part=$(printf 'd%.0s' {1..200}); top=$PWD
        for i in $(seq 1 30); do mkdir $part; cd -P $part; done; echo deep > f
        cd "$top"; path=$part; for i in $(seq 2 20); do path=$path/$part; done
        tail=$(printf 'e%.0s' {1..75}); is ${#path} 4019; touch "$path/$tail"; test -e "$path/$tail"
        is "$(probe open "$path/${tail}e" r)" ENAMETOOLONG; rm -r $part
        """,
        "hardLinksShareAnInode": """
        echo one > a; ln a b; mkdir d; ln a d/c; is "$(stat -c %h a)" 3; is "$(stat -c %i a)" "$(stat -c %i d/c)"
        echo two >> b; is "$(cat d/c)" "$(printf 'one\\ntwo')"; chmod 600 d/c; is "$(stat -c %a a)" 600
        rm a; is "$(stat -c %h b)" 2; is "$(cat b | wc -l)" 2
        """,
        "directoriesAreNotLinked": """
        mkdir d; is "$(probe link d e)" EPERM; is "$(probe link nothing e)" ENOENT
        """,
        "symbolicLinksHoldAnyTarget": """
        is "$(probe symlink '' e)" ENOENT; long=$(printf '%04095d' 1); is "$(probe symlink $long l)" 0
        is "$(readlink l)" $long; is "$(stat -c %s l)" 4095; is "$(probe symlink 1$long m)" ENAMETOOLONG
        ln -s b a; ln -s a b; is "$(probe open a r)" ELOOP; ln -s f g; is "$(probe open g rn)" ELOOP
        """,
        "hardLinksToSymbolicLinksWork": """
        ln -s target s; is "$(probe link s t)" 0; is "$(readlink t)" target; is "$(stat -c %h s)" 2
        """,
        "unlinkedFilesLiveUntilClosed": """
        is "$(probe unlinked f)" 'before+after 0 12'; test -z "$(ls)"
        exec 5> g; rm g; echo x >&5; exec 5>&-; test -z "$(ls)"
        """,
        "unnamedFilesCanBeNamed": """
        is "$(probe tmpfile . hello named)" '0 0'; is "$(cat named)" hello; is "$(stat -c '%h %a' named)" '1 644'
        is "$(probe tmpfile . hello other exclusively)" '0 ENOENT'; is "$(ls)" named
        is "$(probe tmpfile . again named)" '0 EEXIST'; is "$(probe tmpfile named x y)" ENOTDIR
        """,
        "renamingReplacesAtomically": """
        echo a > a; echo b > b; inode=$(stat -c %i a); is "$(probe rename a b)" 0; is "$(cat b)" a
        is "$(stat -c %i b)" $inode; ln b c; is "$(probe rename b c)" 0; is "$(ls | tr '\\n' ' ')" 'b c '
        mkdir d e; touch d/x; is "$(probe rename d e)" 0; test -e e/x; is "$(probe rename gone b)" ENOENT
        """,
        "renamingKeepsOpenFiles": """
        echo old > f; exec 5< f; echo new > g; mv g f; is "$(cat <&5)" old; is "$(cat f)" new; exec 5<&-
        """,
        "renamingMovesDirectories": """
        mkdir -p a/d b; cd a/d; mv ../d ../../b/d; is "$(stat -c %i ..)" "$(stat -c %i ../../b)"; cd ../..
        is "$(stat -c %h a) $(stat -c %h b)" '2 3'; touch b/d/x; rmdir a; test -e b/d/x
        """,
        "renamingRefusesCycles": """
        mkdir -p a/b/c; is "$(probe rename a a/b/c/d)" EINVAL; is "$(probe rename a a/b)" EINVAL
        is "$(probe rename a a/b/c 2)" EINVAL; is "$(probe rename a/b/c a 2)" EINVAL
        """,
        "renamingRefusesUnlikeThings": """
        touch f; mkdir d e; touch e/x; is "$(probe rename f d)" EISDIR; is "$(probe rename d f)" ENOTDIR
        is "$(probe rename d e)" ENOTEMPTY; is "$(probe rename e/x e)" ENOTEMPTY
        """,
        "renamingWithoutReplacing": """
        echo a > a; touch b; is "$(probe rename a b 1)" EEXIST; ln a c; is "$(probe rename a c 1)" EEXIST
        is "$(probe rename a d 1)" 0; is "$(cat d)" a; test ! -e a
        """,
        "exchangingNames": """
        echo a > a; mkdir -p d/x e; touch d/x/y; is "$(probe rename a d/x 2)" 0; is "$(cat d/x)" a
        test -e a/y; is "$(stat -c %h d) $(stat -c %h .)" '2 5'; is "$(probe rename a none 2)" ENOENT
        is "$(probe rename a e 2)" 0; test -e e/y; rmdir a
        """,
        "listingsAreStableUnderChange": """
        mkdir d; cd d; seq -f 'k%04g' 1 2000 | xargs touch; touch g{1..50}; cd ..
        swap() { echo "probe rename d/k0$1 d/k1$1 2; mv d/n$1 d/k12$1;"; }
        probe list d 700 "rm d/g*; touch $(echo d/n{1..500}); $(for i in {10..60}; do swap $i; done)" > seen
        is "$(grep -c '^k' seen)" 2000; is "$(grep '^k' seen | sort -u | wc -l)" 2000
        """,
        "onlyEmptyDirectoriesAreRemoved": """
        mkdir -p d/e; touch f; is "$(probe rmdir d)" ENOTEMPTY; is "$(probe rmdir f)" ENOTDIR
        is "$(probe unlink d)" EISDIR; is "$(probe rmdir d/e)" 0; is "$(probe rmdir d)" 0
        is "$(probe rmdir d)" ENOENT
        """,
        "removedDirectoriesTakeNoNames": """
        mkdir d; touch f; (cd d; rmdir ../d; is "$(probe mkdir x)" ENOENT; is "$(probe open x wc)" ENOENT
        is "$(probe symlink a x)" ENOENT; is "$(probe rename ../f x)" ENOENT; is "$(probe link ../f x)" ENOENT)
        """,
        "changesAreWatched": """
        mkdir d; is "$(probe watch d 'echo x > d/f; chmod 600 d/f; mv d/f d/g; rm d/g')" \
        'create modify close attrib from to delete '
        """,
        "namesAre255BytesForStatfs": "is \"$(probe namemax .)\" 255",
    ]
}
