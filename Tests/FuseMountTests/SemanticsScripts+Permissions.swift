extension SemanticsScripts {
    static let permissions = [
        "setUserIDProgramsRunAsTheirOwner": """
        cp "$(command -v id)" i; chown 1234 i; chmod 4755 i; is "$(as 999 ./i -u)" 1234
        """,
        "modesDecideWhoMay": """
        echo x > f; chown 10:20 f; chmod 640 f; as 10 cat f; fails as 20 sh -c 'echo y >> f'; as 20 cat f
        fails as 30 cat f; setpriv --reuid 30 --regid 30 --groups 20 cat f; chmod 604 f; fails as 20 cat f
        mkdir d; touch d/x; chmod 711 d; fails as 30 ls d; as 30 test -e d/x; chmod 744 d; fails as 30 stat d/x
        """,
        "stickyDirectoriesProtectNames": """
        mkdir d; chmod 1777 d; as 10 touch d/a d/b; is "$(as 11 probe unlink d/a)" EPERM
        is "$(as 11 probe rename d/a d/c)" EPERM; as 11 touch d/e; is "$(as 11 probe rename d/e d/a)" EPERM
        is "$(as 10 probe unlink d/a)" 0; rm d/b; chown 11 d; as 10 touch d/f; is "$(as 11 probe unlink d/f)" 0
        """,
        "setGroupIDDirectoriesGiveTheirGroup": """
        mkdir d; chgrp 77 d; chmod 2777 d; as 10 sh -c 'touch d/f; mkdir d/s; ln -s x d/l; mkfifo d/p'
        is "$(stat -c '%g %a' d/f)" '77 644'; is "$(stat -c '%g %a' d/s)" '77 2755'
        is "$(stat -c %g d/l d/p | tr '\\n' ' ')" '77 77 '
        is "$(as 10 probe mknod d/x 0102755 0 0)" 0; is "$(stat -c %a d/x)" 755
        """,
        "changingTheOwnerClearsSetIDs": """
        touch a b; mkdir d; chmod 6755 a; chmod 6744 b; chmod 6755 d; chown 5 a b d
        is "$(stat -c %a a b d | tr '\\n' ' ')" '755 2744 6755 '
        chmod 6755 a; chgrp 5 a; is "$(stat -c %a a)" 755
        chmod 6755 a; as 11 perl -e 'chown -1, -1, "a"'; is "$(stat -c %a a)" 6755
        perl -e 'chown -1, -1, "a"'; is "$(stat -c %a a)" 755
        """,
        "writingClearsSetIDs": """
        for mode in 6777 2767; do echo x > f; chgrp 10 f; chmod $mode f; as 10 sh -c 'echo y >> f'; stat -c %a f; rm f
        done > seen; is "$(tr '\\n' ' ' < seen)" '777 2767 '; touch g; chmod 6777 g
        is "$(as 10 probe truncate g 5)" 0; is "$(stat -c %a g)" 777
        cp /usr/bin/id p; chmod 4777 p; is "$(as 10 ./p -u)" 0; as 10 sh -c 'echo >> p'; is "$(as 10 ./p -u)" 10
        chmod 4777 p; as 10 fallocate -l 1M p; is "$(as 10 ./p -u)" 10
        chmod 4777 p; echo >> p; is "$(as 10 ./p -u)" 0
        for group in 0 10 20; do for change in 'echo y >> h' 'fallocate -l 5 h' 'fallocate -p -l 5 h' 'truncate -s 1 h'; do
        echo longer > h; chgrp $group h; chmod 6766 h
        setpriv --reuid 10 --regid 10 --groups 20 sh -c "$change"; stat -c %a h; done; done > seen
        is "$(tr '\\n' ' ' < seen)" '766 766 766 766 2766 2766 2766 2766 2766 2766 2766 2766 '
        without='--bounding-set -fsetid --inh-caps -fsetid'
        with='--reuid 10 --regid 10 --clear-groups --inh-caps +fsetid --ambient-caps +fsetid'
        other='--reuid 10 --regid 10 --clear-groups unshare -r'
        for who in "$without" "$with" "$other" ''; do
        for change in 'echo y >> h' 'fallocate -l 5 h' 'fallocate -p -l 5 h' 'truncate -s 1 h'; do
        echo longer > h; chgrp 0 h; chmod 6777 h; setpriv $who sh -c "$change"; stat -c %a h; done; done > seen
        is "$(tr '\\n' ' ' < seen)" "$(printf '%s ' 777 777 777 777 6777 6777 6777 6777 777 777 777 777 6777 6777 6777 6777)"
        """,
        "fileCapabilitiesGoWithTheBytes": """
        has() { getfattr -n security.capability --only-values f > /dev/null 2>&1 && echo yes || echo no; }
        tries() { setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 f
        is "$(has)" yes; $who sh -c "$2" > /dev/null; is "$2 as $who: $(has)" "$2 as $who: $1"; }
        echo longer > f; chown 10 f; chmod 766 f; chmod 777 .
        for again in 1 2; do for who in setpriv 'as 10'; do
        for change in 'echo y >> f' 'echo y > f' 'truncate -s 2 f' 'fallocate -l 9 f' 'fallocate -p -l 1 f' 'chown 10 f' \
        'chgrp 10 f' 'dd if=/dev/zero of=f bs=4k count=1 oflag=direct conv=notrunc status=none'; do tries no "$change"; done
        for change in 'cat f' 'touch f' 'chmod 766 f' 'mv f g; mv g f'; do tries yes "$change"; done; done; done
        """,
        "onlyOwnersChangeModes": """
        touch f; chown 10 f; as 10 chmod 600 f; fails as 11 chmod 666 f; fails as 10 chown 11 f
        fails as 11 touch -d @5 f; as 10 touch -d @5 f; chmod 666 f; as 11 touch f; fails as 11 touch -d @5 f
        setpriv --reuid 10 --regid 10 --groups 20 chgrp 20 f; fails as 10 chgrp 21 f
        setpriv --reuid 10 --regid 10 --groups 20 chmod 2755 f; is "$(stat -c %a f)" 2755
        as 10 chmod 2755 f; is "$(stat -c %a f)" 755
        """,
        "theUmaskIsTakenAway": """
        umask 027; touch f; mkdir d; mkfifo p; is "$(stat -c %a f d p | tr '\\n' ' ')" '640 750 640 '
        umask 0; is "$(probe mknod n 0106666 0 0)" 0; is "$(stat -c %a n)" 6666
        """,
        "listsDecideWhoMay": """
        echo x > f; chmod 600 f; setfacl -m u:10:rw,g:20:r f; as 10 sh -c 'echo y >> f'; as 20 cat f
        fails as 20 sh -c 'echo z >> f'; fails as 30 cat f; setfacl -m m::r f; fails as 10 sh -c 'echo y >> f'
        is "$(getfacl -cn f | tr -s '\\n\\t' ' ')" \
        'user::rw- user:10:rw- #effective:r-- group::--- group:20:r-- mask::r-- other::--- '
        """,
        "listsAndModesAgree": """
        touch f; setfacl -m u:10:rwx f; is "$(stat -c %a f)" 674; chmod 640 f
        is "$(getfacl -cn f | grep mask)" mask::r--; is "$(getfacl -cn f | grep '^group')" group::r--
        chmod 4701 f; is "$(getfacl -cn f | grep -c -e user::rwx -e mask::--- -e other::--x)" 3
        setfacl -m m::rw f; is "$(stat -c %a f)" 4761; cp -a f g; is "$(getfacl -c g)" "$(getfacl -c f)"
        """,
        "listsThatSayNoMoreThanTheModeAreTheMode": """
        touch f; setfacl -m u::rwx,g::rx,o::- f; is "$(stat -c %a f)" 750
        is "$(probe listxattr f 1000)" 0; is "$(probe getxattr f system.posix_acl_access 100)" ENODATA
        """,
        "defaultListsAreInherited": """
        mkdir d; setfacl -d -m u::rwx,u:10:rwx,g::rx,o::- d; umask 077; touch d/f; mkdir -p d/s/t; ln -s x d/l
        is "$(getfacl -cn d/f | tr -s '\\n\\t' ' ')" \
        'user::rw- user:10:rwx #effective:rw- group::r-x #effective:r-- mask::rw- other::--- '
        is "$(stat -c %a d/f d/s | tr '\\n' ' ')" '660 770 '; as 10 test -r d/f
        is "$(getfacl -cdn d/s/t)" "$(getfacl -cdn d)"; is "$(probe tmpfile d x d/t)" '0 0'
        is "$(stat -c %a d/t)" 660; setfacl -k d; touch d/g; is "$(stat -c %a d/g)" 600
        """,
        "defaultListsAreForDirectories": """
        mkdir d; touch f; setfacl -d -m u:10:r d; value=$(getfattr --absolute-names -e hex \
        --only-values -n system.posix_acl_default d | od -An -v -tx1 | tr -d ' \\n')
        setfattr -n system.posix_acl_default -v 0x$value f 2>&1 | grep -q 'Permission denied'
        """,
        "malformedListsAreRefused": """
        touch f; for value in 0x0200 0x02000000ff000700ffffffff 0x0300000001000600ffffffff \
        0x0200000001000600ffffffff04000400ffffffff 0x0200000001000600ffffffff02000600050000000400\
        0400ffffffff20000400ffffffff; do
        if setfattr -n system.posix_acl_access -v $value f 2> error; then echo "took $value"; exit 1; fi; done
        is "$(stat -c %a f)" 644
        """,
        "removingAListKeepsTheMode": """
        touch f; setfacl -m u:10:rwx f; setfacl -b f; getfacl -c f; is "$(probe listxattr f 100)" 0
        is "$(stat -c %a f)" 644; setfacl -m u:10:rwx f; setfattr -x system.posix_acl_access f
        is "$(stat -c %a f)" 674; setfattr -x system.posix_acl_access f
        """,
        "attributesAreKeptInThreeNamespaces": """
        touch f; for name in user.a trusted.a security.a; do is "$(probe setxattr f $name v 0)" 0
        is "$(probe getxattr f $name 10)" 1; done; is "$(probe listxattr f 100)" 28
        for name in other.a a system.a; do is "$(probe setxattr f $name v 0)" EOPNOTSUPP
        is "$(probe getxattr f $name 10)" EOPNOTSUPP; is "$(probe removexattr f $name)" EOPNOTSUPP; done
        is "$(probe setxattr f user. v 0)" EINVAL; long=user.$(printf '%0250d' 1)
        is "$(probe setxattr f $long v 0)" 0; is "$(probe setxattr f 1$long v 0)" ERANGE
        """,
        "userAttributesAreForFilesAndDirectories": """
        ln -s x l; mkfifo p; mkdir d; for name in l p; do is "$(probe setxattr $name user.a v 0)" EPERM
        is "$(probe setxattr $name trusted.a v 0)" 0; done; is "$(probe setxattr d user.a v 0)" 0
        """,
        "trustedAttributesAreRootsOnly": """
        touch f; chown 10 f; probe setxattr f trusted.a v 0; is "$(as 10 probe getxattr f trusted.a 9)" ENODATA
        is "$(as 10 probe listxattr f 99)" 0; is "$(as 10 probe setxattr f trusted.b v 0)" EPERM
        is "$(probe listxattr f 99)" 10; is "$(setpriv --bounding-set -sys_admin probe listxattr f 99)" 0
        is "$(as 10 probe setxattr f user.b v 0)" 0; is "$(as 11 probe setxattr f user.b v 0)" EACCES
        """,
        "attributesAreCreatedOrReplaced": """
        touch f; is "$(probe setxattr f user.a v 2)" ENODATA; is "$(probe setxattr f user.a v 1)" 0
        is "$(probe setxattr f user.a w 1)" EEXIST; is "$(probe setxattr f user.a ww 2)" 0
        is "$(getfattr --only-values -n user.a f)" ww; is "$(probe removexattr f user.a)" 0
        is "$(probe removexattr f user.a)" ENODATA; is "$(probe getxattr f user.a 9)" ENODATA
        """,
        "attributesTellTheirSizes": """
        touch f; probe setxattr f user.a 12345 0; is "$(probe getxattr f user.a 0)" 5
        is "$(probe getxattr f user.a 4)" ERANGE; is "$(probe getxattr f user.a 5)" 5
        is "$(probe listxattr f 0)" 7; is "$(probe listxattr f 6)" ERANGE; is "$(probe setxattr f user.e '' 0)" 0
        is "$(probe getxattr f user.e 9)" 0; is "$(probe bigxattr f user.b 65537)" E2BIG
        """,
        "attributesGoWithTheInode": """
        touch f; ln f g; probe setxattr f user.a v 0; is "$(getfattr --only-values -n user.a g)" v
        mv g h; rm f; is "$(getfattr --only-values -n user.a h)" v; cp -a h i
        is "$(getfattr --only-values -n user.a i)" v
        """,
    ]
}
