// Debian's libzstd for Swift. Imported by the Swift target Compression and by nothing else.
#ifndef GODWIT_CZSTD_SHIM_H
#define GODWIT_CZSTD_SHIM_H

#include <zstd.h>

#endif
