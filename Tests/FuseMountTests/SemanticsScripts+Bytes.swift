extension SemanticsScripts {
    static let bytes = [
        "appendingGoesToTheEnd": """
        printf abc > f; is "$(probe write f wa 0 de)" 2; is "$(cat f)" abcde; exec 5>> f 6>> f
        for i in 1 2 3; do printf x >&5; printf y >&6; done; is "$(cat f)" abcdexyxyxy
        for i in $(seq 1 8); do (for j in $(seq 1 50); do echo $i >> g; done) & done; wait
        is "$(wc -l < g)" 400
        """,
        "exclusiveCreationHappensOnce": """
        is "$(probe open f wcx)" 0; is "$(probe open f wcx)" EEXIST; ln -s gone l
        is "$(probe open l wcx)" EEXIST; test ! -e gone; is "$(probe open l wc)" 0; test -e gone
        for i in $(seq 1 20); do (probe open once wcx >> won) & done; wait; is "$(grep -c '^0$' won)" 1
        """,
        "directInputOutputWorks": """
        is "$(probe direct f | tr '\\n' ' ')" '4096 0 '; cat f > /dev/null
        dd if=/dev/zero of=f bs=4096 count=1 oflag=direct conv=notrunc status=none
        is "$(head -c 4097 f | tr '\\0' z | tail -c 2)" zd
        printf y | dd of=f conv=notrunc status=none; is "$(dd if=f iflag=direct bs=4096 count=1 status=none | head -c 1)" y
        is "$(probe asynchronous g)" 0
        """,
        "synchronousWritesWork": """
        is "$(probe write f wcs 0 abc)" 3; for name in f .; do is "$(probe fsync $name)" 0
        is "$(probe fdatasync $name)" 0; is "$(probe syncfs $name)" 0; done
        dd if=/dev/zero of=g bs=4k count=3 oflag=dsync status=none; is "$(stat -c %s g)" 12288
        """,
        "writesExtendWithZeros": """
        printf abc > f; is "$(probe write f w 6 x)" 1; is "$(tr '\\0' z < f)" abczzzx
        truncate -s 2 f; truncate -s 5 f; is "$(tr '\\0' z < f)" abzzz; is "$(probe write f w 9000 e)" 1
        is "$(tail -c +3 f | tr -d '\\0')" e; truncate -s 1 f; is "$(probe write f w 3 q)" 1
        is "$(tr '\\0' z < f)" azzq
        """,
        "filesAreSparseUpTo16TiB": """
        limit=$(((1 << 44) - 4096)); touch f; is "$(probe truncate f $limit)" 0
        is "$(probe truncate f $((limit + 1)))" EFBIG; is "$(probe write f w $limit x)" EFBIG
        is "$(probe write f w $((limit - 1)) xyz)" 1; is "$(stat -c %s f)" $limit; test "$(stat -c %b f)" -le 64
        is "$(tail -c 2 f | tr '\\0' z)" zx; is "$(probe seek f 3 0)" $((limit - 4096))
        """,
        "allocationExtendsOrKeepsTheSize": """
        printf abc > f; is "$(probe fallocate f 1 0 100000)" 0; is "$(stat -c %s f)" 3
        test "$(stat -c %b f)" -ge 195; is "$(probe fallocate f 0 0 100000)" 0; is "$(stat -c %s f)" 100000
        is "$(head -c 4 f | tr '\\0' z)" abcz; is "$(probe fallocate f 0 -1 5)" EINVAL
        is "$(probe fallocate f 0 0 0)" EINVAL; is "$(probe fallocate f 0 $((1 << 45)) 4)" EFBIG
        """,
        "roomBeyondTheEndGoesWhenAFileIsCut": """
        for size in 0 3 5000; do head -c $size /dev/urandom > f; cp f g
        is "$(probe fallocate f 1 0 1000000)" 0; test "$(stat -c %b f)" -ge 1953
        is "$(probe truncate f $size)" 0; is "$(stat -c %s f)" $size; test "$(stat -c %b f)" -le 16; cmp f g
        is "$(probe fallocate f 1 0 1000000)" 0; is "$(probe truncate f 10000)" 0; test "$(stat -c %b f)" -ge 1953
        is "$(probe truncate f 9000)" 0; test "$(stat -c %b f)" -le 24; cmp -n $size f g; done
        """,
        "holesArePunched": """
        head -c 40000 /dev/zero | tr '\\0' d > f; before=$(stat -c %b f)
        is "$(probe fallocate f 3 4096 20000)" 0; is "$(stat -c %s f)" 40000
        test "$(stat -c %b f)" -lt $before; is "$(tr -d '\\0' < f | wc -c)" 20000
        is "$(head -c 4097 f | tail -c 2 | tr '\\0' z)" dz; is "$(probe fallocate f 2 0 5)" EOPNOTSUPP
        is "$(probe fallocate f 3 39999 999999)" 0; is "$(stat -c %s f)" 40000
        """,
        "rangesAreZeroed": """
        printf abcdef > f; is "$(probe fallocate f 16 1 2)" 0; is "$(tr '\\0' z < f)" azzdef
        is "$(probe fallocate f 17 5 10)" 0; is "$(tr '\\0' z < f)" azzdez
        is "$(probe fallocate f 16 5 10)" 0; is "$(stat -c %s f)" 15; is "$(tr '\\0' z < f)" azzdezzzzzzzzzz
        """,
        "holesAndDataAreToldApart": """
        truncate -s 1M f; printf x | dd of=f bs=64k seek=4 conv=notrunc status=none
        is "$(probe seek f 3 0)" 262144; is "$(probe seek f 4 0)" 0
        hole=$(probe seek f 4 262144); test $hole -gt 262144 -a $hole -le 327680
        is "$(probe seek f 3 327680)" ENXIO; is "$(probe seek f 4 600000)" 600000
        is "$(probe seek f 4 1048576)" ENXIO; is "$(probe seek f 3 -1)" ENXIO; printf abc > g; is "$(probe seek g 4 1)" 3
        """,
        "rangesAreCopied": """
        seq 1 50000 > f; touch g; size=$(stat -c %s f); is "$(probe copy f 0 g 0 $size)" $size; cmp f g
        is "$(probe copy f 100 g 7 1000)" 1000; cmp -n 1000 -i 100:7 f g; is "$(probe copy f $size g 0 9)" 0
        cp --sparse=always f h; cmp f h; cp --reflink=auto f i; cmp f i
        """,
        "sharedMappingsWriteTheFile": """
        truncate -s 4096 f; is "$(probe map f shared stored)" stored; is "$(tr -d '\\0' < f)" stored
        is "$(probe map f private hidden)" stored; is "$(tr -d '\\0' < f)" stored
        is "$(probe write f w 0 STORED)" 6; is "$(probe map f private hidden)" STORED
        """,
        "locksExcludeOtherProcesses": """
        touch f; for kind in flock fcntl ofd; do
        is "$(probe lock f $kind | tr '\\n' ' ')" '0 EAGAIN '; done; flock -n f true
        """,
    ]

    static let others = [
        "handlesOutliveTheCache": """
        empty='sync; echo 2 > /proc/sys/vm/drop_caches'; echo x > f; mkdir -p d/e; touch d/g
        is "$(probe handle f "$empty")" "$(stat -c %i f)"; is "$(probe handle d/e "$empty")" "$(stat -c %i d/e)"
        number=$(stat -c %i d/g); is "$(probe handle d/g "mv d/g h; $empty")" $number
        number=$(stat -c %i d/e); is "$(probe handle d/e "mv d/e .; $empty")" $number
        is "$(probe handle f "rm f; $empty")" ESTALE; is "$(probe handle d "rmdir d; $empty")" ESTALE
        """,
        "timesHaveNanoseconds": """
        touch f; ln -s x l; for name in f l; do
        is "$(probe times $name 1000000000.123456789 -5.000000001)" 0
        is "$(stat -c '%.9X' $name)" 1000000000.123456789; is "$(probe times $name 4000000000.000000007 omit)" 0
        is "$(stat -c '%.9X %Y' $name)" '4000000000.000000007 -5'; done; is "$(probe times f now omit)" 0
        test $(($(date +%s) - $(stat -c %X f))) -lt 100; is "$(stat -c %Y f)" -5
        is "$(probe times f omit now)" 0; test $(($(date +%s) - $(stat -c %Y f))) -lt 100
        """,
        "changesMoveTheRightTimes": """
        moved() { local now=$(stat -c '%.9Y %.9Z' $1); [ "${now% *}" = "${2% *}" ] && m=- || m=m
        [ "${now#* }" = "${2#* }" ] && c=- || c=c; echo $m$c; }
        touch f; mkdir d; after() { old=$(stat -c '%.9Y %.9Z' $1); sleep 0.02; eval "$2"; moved $1 "$old"; }
        is "$(after f 'echo x >> f')" mc; is "$(after f 'chmod 600 f')" -c; is "$(after f 'ln f g')" -c
        is "$(after f 'rm g')" -c; is "$(after d 'touch d/x')" mc; is "$(after d 'echo y > d/x')" --
        is "$(after d 'mv d/x d/y')" mc; is "$(after d 'rm d/y')" mc; is "$(after f 'truncate -s 1 f')" mc
        is "$(after f 'setfattr -n user.a -v b f')" -c; is "$(after f 'touch -a f')" -c
        is "$(after f 'cat f')" "$(cat f)--"; mv f h; ln h f; is "$(after f 'mv h i')" -c
        """,
        "readingMovesTheAccessTimeAsRelatime": """
        echo x > f; probe times f 1000.5 2000; sync f; cat f; test "$(stat -c %X f)" -gt 3000; echo y > g
        probe times g 1000.5 2000; dd if=g iflag=noatime status=none; is "$(stat -c %X g)" 1000
        """,
        "listingAndFollowingMoveTheAccessTimeAsRelatime": """
        mkdir d e; touch d/x; echo x > x; ln -s x l; ln -s x m; use() { sleep 0.02; ls d; readlink l; cat m; }
        for name in d e l m; do is "$(probe times $name 1000.5 2000)" 0; done; use; probe list e 0 '' quietly
        is "$(stat -c %X e)" 1000; for name in d l m; do test "$(stat -c %X $name)" -gt 3000; done
        times() { stat -c %.9X d l m | tr '\\n' ' '; }; old=$(times); use; is "$(times)" "$old"
        touch d/y; ls d; fails test "$(stat -c %.9X d)" = "${old%% *}"
        """,
    ]

    /// What ext4 does otherwise, or need not do so.
    static let different = [
        "attributesMayBe64KiBEach": """
        touch f; is "$(probe bigxattr f user.a 65536)" 0; is "$(probe bigxattr f user.b 65536)" 0
        is "$(probe getxattr f user.b 65536)" 65536; touch g; for i in $(seq 1 255); do
        probe setxattr g user.$(printf %0250d $i) v 0; done | sort -u > seen; is "$(cat seen)" 0
        is "$(probe listxattr g 0)" 65280; is "$(probe setxattr g user.$(printf %0250d 256) v 0)" 0
        is "$(probe setxattr g user.b v 0)" ENOSPC; fails setfacl -m u:10:r g; is "$(stat -c %a g)" 644
        is "$(probe listxattr g 65536)" 65536
        touch h; for i in $(seq 1 64); do probe bigxattr h user.$i 65536; done | sort -u > seen; is "$(cat seen)" 0
        is "$(probe setxattr h user.a v 0)" ENOSPC; is "$(probe setxattr h user.1 v 0)" 0
        is "$(probe setxattr h user.a v 0)" 0
        """,
        "labelsThatNobodyReadsAreNotSupported": """
        touch f g; without=EOPNOTSUPP; if grep -q selinuxfs /proc/filesystems; then without=ENODATA; fi
        is "$(probe getxattr f security.selinux 9)" $without; is "$(probe getxattr f security.other 9)" ENODATA
        is "$(probe setxattr f security.selinux v 2)" ENODATA; is "$(probe setxattr f security.selinux v 0)" 0
        is "$(probe getxattr f security.selinux 9)" 1; is "$(probe getxattr g security.selinux 9)" $without
        is "$(probe removexattr f security.selinux)" 0; is "$(probe removexattr f security.selinux)" ENODATA
        ls -l . > list; is "$(grep -c ' [fg]$' list)" 2
        """,
        "directInputOutputNeedsNoAlignment": """
        seq 1 1000 > f; dd if=f of=g iflag=direct oflag=direct bs=7 status=none; cmp f g
        """,
        "rangesAreNeitherCollapsedNorInserted": """
        head -c 65536 /dev/zero > f; for mode in 8 32; do
        is "$(probe fallocate f $mode 4096 4096)" EOPNOTSUPP; done
        """,
        "accessTimesAreRelatimeWhateverTheMountSays": """
        echo x > f; mkdir d; for name in f d; do is "$(probe times $name 1000.5 2000)" 0; done; sync f
        mount -i -o remount,bind,noatime "$PWD"; cat f; mount -i -o remount,bind,ro,nodiratime "$PWD"; ls d
        for name in f d; do test "$(stat -c %X $name)" -gt 3000; done; mount -i -o remount,bind,rw,relatime "$PWD"
        """,
        "birthTimesAndExtentsAreNotTold": """
        echo x > f; is "$(stat -c %W f)" 0; is "$(probe fiemap f)" EOPNOTSUPP
        """,
        "whiteoutsAreRefused": """
        touch a; is "$(probe rename a b 4)" EINVAL; test -e a
        """,
        "directoriesHaveNoSize": """
        mkdir d; touch d/{1..100}; is "$(stat -c '%s %b' d)" '0 0'
        """,
    ]
}
