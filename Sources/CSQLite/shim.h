// Debian's libsqlite3 for Swift. Imported by the Swift target SQLite and by nothing else.
#ifndef GODWIT_CSQLITE_SHIM_H
#define GODWIT_CSQLITE_SHIM_H

#include <sqlite3.h>

// SQLITE_TRANSIENT is a cast that Swift cannot import: SQLite copies the bytes before these return.
// `bytes` may be null only if `byte_count` is 0; an empty value is then bound, never NULL.
static inline int gw_sqlite_bind_blob(sqlite3_stmt *statement, int index, const void *bytes, sqlite3_uint64 byte_count) {
    return sqlite3_bind_blob64(statement, index, bytes ? bytes : "", byte_count, SQLITE_TRANSIENT);
}

static inline int gw_sqlite_bind_text(sqlite3_stmt *statement, int index, const char *text, int byte_count) {
    return sqlite3_bind_text(statement, index, text, byte_count, SQLITE_TRANSIENT);
}

// Swift cannot call functions with a variable number of arguments.
static inline int gw_sqlite_no_checkpoint_on_close(sqlite3 *database, int is_set) {
    return sqlite3_db_config(database, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, is_set, (int *)0);
}

// The first bytes of the database's file, by SQLite's own descriptor and without a lock. SQLITE_IOERR_SHORT_READ: there are
// fewer, and the rest of `bytes` is zeros.
static inline int gw_sqlite_read_start(sqlite3 *database, void *bytes, int byte_count) {
    sqlite3_file *file = 0;
    int code = sqlite3_file_control(database, "main", SQLITE_FCNTL_FILE_POINTER, &file);
    if (code != SQLITE_OK) return code;
    if (!file || !file->pMethods) return SQLITE_CANTOPEN;
    return file->pMethods->xRead(file, bytes, byte_count, 0);
}

#endif
