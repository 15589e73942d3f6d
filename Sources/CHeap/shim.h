// The settings of the C library's heap (mallopt(3)), which Swift's Glibc module lacks. Imported by `godwit` alone.
#ifndef GODWIT_CHEAP_SHIM_H
#define GODWIT_CHEAP_SHIM_H

#include <malloc.h>

#endif
