// Sums of the pages of SQLite databases, so that no flipped bit in one is read as something else. Imported by the Swift
// target SQLite and by nothing else.
//
// A VFS of SQLite's (https://sqlite.org/vfs.html) that leaves all to the host's own, but for what passes through it:
// - A database whose header reserves 8 bytes at the end of each page has a sum there, made when the page is written to
//   the file and held against the page whenever it is read. It covers the page's number.
// - Pages in a write-ahead log have a checksum in any case, which SQLite looks at only when it opens the log first. Here it is
//   looked at whenever a page is read from there, also to be moved into the database, so that nothing wrong gets a sum.
//
// What does not fit is SQLITE_CORRUPT, and not SQLITE_IOERR_DATA: that would take back the whole open transaction of
// whoever only reads a damaged page, and end an integrity check at the first one.
//
// With auto_vacuum SQLite may read pages behind the file's end, which is damage here: it must not be used.
//
// What a program writes that does not know of these sums has none that fit. A whole page as it was earlier fits.
#ifndef GODWIT_PAGE_SUMS_H
#define GODWIT_PAGE_SUMS_H

#include <stdint.h>

struct sqlite3;

// The name for sqlite3_open_v2.
#define GW_PAGE_SUMS_VFS "godwit"

// Makes the VFS known to SQLite. May be called again, and from several threads. Returns one of SQLite's result codes, as do
// the others that return int, if nothing else is said.
int gw_page_sums_register(void);

// From now on what is made through the connection keeps sums: the database itself, if nothing was ever written to it, and
// what VACUUM INTO makes.
int gw_page_sums_reserve(struct sqlite3 *_Nonnull database);

// Whether the database keeps sums, by what was read of it last: 0 or 1.
int gw_page_sums_are_kept(struct sqlite3 *_Nonnull database);

// The page that was found damaged last, and forgets it; 0: none since.
//
// is_in_log: takes whether it is in the write-ahead log.
uint32_t gw_page_sums_take_damage(struct sqlite3 *_Nonnull database, int *_Nonnull is_in_log);

// The sum of a page but for its last 8 bytes, which stand for it in little-endian order: the CRC-32C of every other word of
// 8 bytes in the lower half, and of the others in the upper one, each begun with the page's number. Two, for a
// processor computes them side by side; so each change of up to three bits is noticed, and of others all but one in 2^32
// (where all is in one half) or 2^64.
//
// byte_count: of the page, a multiple of 8.
// is_portable: whether not to use the processor's own instruction; the result is the same.
uint64_t gw_page_sum(const uint8_t *_Nonnull page, uint32_t byte_count, uint32_t number, int is_portable);

#endif
