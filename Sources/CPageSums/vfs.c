#include "page_sums.h"

#include <pthread.h>
#include <sqlite3.h>
#include <string.h>

// https://sqlite.org/fileformat2.html
enum {
    SUM_SIZE = 8,
    DATABASE_HEADER_SIZE = 100,
    LOG_HEADER_SIZE = 32,
    FRAME_HEADER_SIZE = 24,
    SALTS_SIZE = 8,
    SMALLEST_PAGE = 512,
    LARGEST_PAGE = 65536,
    // The page with this byte is never written: SQLite's locks are there.
    LOCK_BYTE = 1 << 30,
    LOG_MAGIC = 0x377f0682,
    WRITER_LOCK = 0,
};
#define NOWHERE ((sqlite3_int64)INT64_MAX)

enum keeping { NOT_KNOWN, NO_SUMS, SUMS };

// A database or its log. Used by one thread at a time, as the connection is that has opened it. The host's file follows.
struct gw_file {
    sqlite3_file base;
    // The other one of the two, while both are open.
    struct gw_file *partner;
    int is_log;
    // 0: not known yet.
    uint32_t page_size;
    uint8_t *buffer;
    uint32_t buffer_size;

    // Of a database.
    enum keeping keeping;
    // What was written before it was known whether sums are kept: pages leave memory before page 1 where a transaction is large.
    sqlite3_int64 unsummed_end;
    uint32_t damaged_page;
    int is_damage_in_log;

    // Of a log. Where the frame begins of which only the header was written.
    sqlite3_int64 begun_frame;
    // The first frame whose page the open transaction has written over: until it ends checksums from there on do not fit.
    sqlite3_int64 first_rewritten;
    int is_big_endian;
    // New whenever the log is begun anew: frames with others are what is left of an earlier one.
    uint8_t salts[SALTS_SIZE];
    // A transaction or a checkpoint has begun since the header was read: before that the log may have been begun anew, as long as
    // it goes on it is not.
    int is_header_old;
};

static sqlite3_vfs *host, ours;
static int registration = SQLITE_ERROR;
static pthread_once_t registered = PTHREAD_ONCE_INIT;

static sqlite3_file *host_file(struct gw_file *file) { return (sqlite3_file *)(file + 1); }

static int host_read(struct gw_file *file, void *bytes, int count, sqlite3_int64 offset) {
    return host_file(file)->pMethods->xRead(host_file(file), bytes, count, offset);
}

static int host_write(struct gw_file *file, const void *bytes, int count, sqlite3_int64 offset) {
    return host_file(file)->pMethods->xWrite(host_file(file), bytes, count, offset);
}

// Returns null without memory.
static uint8_t *buffer_of(struct gw_file *file, uint32_t size) {
    if (file->buffer_size < size) {
        sqlite3_free(file->buffer);
        file->buffer = sqlite3_malloc64(size);
        file->buffer_size = file->buffer ? size : 0;
    }
    return file->buffer;
}

static uint32_t big_endian(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint32_t little_endian(const uint8_t *bytes) {
    return (uint32_t)bytes[3] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[1] << 8 | bytes[0];
}

static int is_page_size(uint32_t size) {
    return size >= SMALLEST_PAGE && size <= LARGEST_PAGE && (size & (size - 1)) == 0;
}

// MARK: sums

static uint64_t stored_sum(const uint8_t *page, uint32_t size) {
    const uint8_t *end = page + size - SUM_SIZE;
    return (uint64_t)little_endian(end + 4) << 32 | little_endian(end);
}

static void put_sum(uint8_t *page, uint32_t size, uint64_t sum) {
    for (int byte = 0; byte < SUM_SIZE; byte++) page[size - SUM_SIZE + byte] = (uint8_t)(sum >> 8 * byte);
}

static int damaged(struct gw_file *database, uint32_t number, int is_in_log) {
    if (database) {
        database->damaged_page = number;
        database->is_damage_in_log = is_in_log;
    }
    return SQLITE_CORRUPT;
}

// code: of the read. A page that the file ends before, SQLite would take for zeros.
static int verify(struct gw_file *file, const uint8_t *page, uint32_t number, int code) {
    if (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ) return code;
    uint32_t size = file->page_size;
    if (code == SQLITE_OK && stored_sum(page, size) == gw_page_sum(page, size, number, 0)) return SQLITE_OK;
    return damaged(file, number, 0);
}

// Gives the pages that are in the file the sums that fit, from page 2 to `end`.
static int seal(struct gw_file *file, sqlite3_int64 end) {
    uint32_t size = file->page_size;
    uint8_t *page = buffer_of(file, size);
    if (!page) return SQLITE_IOERR_NOMEM;
    for (sqlite3_int64 offset = size; offset + size <= end; offset += size) {
        if (offset <= LOCK_BYTE && LOCK_BYTE < offset + size) continue;
        int code = host_read(file, page, (int)size, offset);
        if (code != SQLITE_OK) return code;
        uint64_t sum = gw_page_sum(page, size, (uint32_t)(offset / size) + 1, 0);
        if (stored_sum(page, size) == sum) continue;
        put_sum(page, size, sum);
        code = host_write(file, page + size - SUM_SIZE, SUM_SIZE, offset + size - SUM_SIZE);
        if (code != SQLITE_OK) return code;
    }
    return SQLITE_OK;
}

// MARK: databases

// Returns 0 where it is not the header of a database.
static uint32_t page_size_in(const uint8_t *header) {
    if (memcmp(header, "SQLite format 3", 16) != 0) return 0;
    uint32_t size = (uint32_t)header[16] << 8 | header[17];
    if (size == 1) size = LARGEST_PAGE;
    return is_page_size(size) ? size : 0;
}

// Of what is read. Once sums are known of, no later header makes anybody forget them: a bit of it may have flipped. For the same
// reason only the log, which has sums of its own, makes them known of where none were: they would be put over what pages hold.
static void learn(struct gw_file *database, const uint8_t *header) {
    if (database->keeping == SUMS) return;
    uint32_t size = page_size_in(header);
    if (size == 0) return;
    database->keeping = header[20] == SUM_SIZE ? SUMS : NO_SUMS;
    database->page_size = size;
}

// Of what is written, which is as SQLite wants it.
static int follow(struct gw_file *database, const uint8_t *header) {
    uint32_t size = page_size_in(header);
    if (size == 0) return SQLITE_OK;
    sqlite3_int64 end = database->keeping == NOT_KNOWN ? database->unsummed_end : 0;
    database->unsummed_end = 0;
    database->keeping = header[20] == SUM_SIZE ? SUMS : NO_SUMS;
    database->page_size = size;
    return database->keeping == SUMS ? seal(database, end) : SQLITE_OK;
}

static int read_database(struct gw_file *file, void *bytes, int count, sqlite3_int64 offset) {
    if (offset == 0 && count >= DATABASE_HEADER_SIZE) {
        int code = host_read(file, bytes, count, offset);
        if (code == SQLITE_OK && file->keeping == NOT_KNOWN) learn(file, bytes);
        // The header by itself tells how to read page 1, and nothing else.
        if (file->keeping != SUMS || (uint32_t)count != file->page_size) return code;
        return verify(file, bytes, 1, code);
    }
    uint32_t size = file->page_size;
    if (file->keeping != SUMS || offset + count <= DATABASE_HEADER_SIZE) return host_read(file, bytes, count, offset);
    sqlite3_int64 start = offset - offset % size;
    uint32_t number = (uint32_t)(start / size) + 1;
    if (start == offset && (uint32_t)count == size) {
        return verify(file, bytes, number, host_read(file, bytes, count, offset));
    }
    // SQLite reads nothing of several pages. A part of one, as of a long value, is as good as all of it.
    if (offset + count > start + size) return host_read(file, bytes, count, offset);
    uint8_t *page = buffer_of(file, size);
    if (!page) return SQLITE_IOERR_NOMEM;
    int code = verify(file, page, number, host_read(file, page, (int)size, start));
    if (code == SQLITE_OK) memcpy(bytes, page + (offset - start), (size_t)count);
    return code;
}

static int write_database(struct gw_file *file, const void *bytes, int count, sqlite3_int64 offset) {
    if (offset == 0 && count >= DATABASE_HEADER_SIZE) {
        int code = follow(file, bytes);
        if (code != SQLITE_OK) return code;
    }
    uint32_t size = file->page_size;
    if (file->keeping != SUMS || (uint32_t)count != size || offset % size != 0) {
        int code = host_write(file, bytes, count, offset);
        if (code == SQLITE_OK && file->keeping == NOT_KNOWN && offset + count > file->unsummed_end) {
            file->unsummed_end = offset + count;
        }
        return code;
    }
    // SQLite's own memory stays as it is.
    uint8_t *page = buffer_of(file, size);
    if (!page) return SQLITE_IOERR_NOMEM;
    memcpy(page, bytes, size - SUM_SIZE);
    put_sum(page, size, gw_page_sum(page, size, (uint32_t)(offset / size) + 1, 0));
    return host_write(file, page, count, offset);
}

// MARK: logs

static void add(int is_big_endian, const uint8_t *bytes, uint32_t count, uint32_t sums[2]) {
    uint32_t one = sums[0], two = sums[1];
    if (is_big_endian) {
        for (uint32_t place = 0; place < count; place += 8) {
            one += big_endian(bytes + place) + two;
            two += big_endian(bytes + place + 4) + one;
        }
    } else {
        for (uint32_t place = 0; place < count; place += 8) {
            one += little_endian(bytes + place) + two;
            two += little_endian(bytes + place + 4) + one;
        }
    }
    sums[0] = one;
    sums[1] = two;
}

// Of a header that is damaged nothing is learnt.
static void learn_log(struct gw_file *log, const uint8_t *header) {
    uint32_t magic = big_endian(header), size = big_endian(header + 8), sums[2] = {0, 0};
    if ((magic | 1) != (LOG_MAGIC | 1) || !is_page_size(size)) return;
    add(magic & 1, header, LOG_HEADER_SIZE - 8, sums);
    if (sums[0] != big_endian(header + 24) || sums[1] != big_endian(header + 28)) return;
    log->page_size = size;
    log->is_big_endian = magic & 1;
    memcpy(log->salts, header + 16, SALTS_SIZE);
}

static int read_log_header(struct gw_file *log) {
    uint8_t header[LOG_HEADER_SIZE];
    int code = host_read(log, header, LOG_HEADER_SIZE, 0);
    if (code == SQLITE_OK) learn_log(log, header);
    if (code == SQLITE_OK) log->is_header_old = 0;
    return code == SQLITE_IOERR_SHORT_READ ? SQLITE_OK : code;
}

// before: the checksum of the frame before, or of the log's header, from which this one's goes on.
static int fits(const struct gw_file *log, const uint8_t *frame, const uint8_t *before) {
    if (memcmp(frame + 8, log->salts, SALTS_SIZE) != 0) return 0;
    uint32_t sums[2] = {big_endian(before), big_endian(before + 4)};
    add(log->is_big_endian, frame, 8, sums);
    add(log->is_big_endian, frame + FRAME_HEADER_SIZE, log->page_size, sums);
    return sums[0] == big_endian(frame + 16) && sums[1] == big_endian(frame + 20);
}

// The frame at `start`, which has come to `frame`. No frame is written over while somebody reads it or one after it.
static int verify_frame(struct gw_file *log, const uint8_t *frame, sqlite3_int64 start) {
    uint8_t before[8];
    sqlite3_int64 place = start == LOG_HEADER_SIZE ? 24 : start - log->page_size - FRAME_HEADER_SIZE + 16;
    int code = host_read(log, before, sizeof before, place);
    if (code != SQLITE_OK && code != SQLITE_IOERR_SHORT_READ) return code;
    if (code == SQLITE_OK) {
        if (fits(log, frame, before)) return SQLITE_OK;
        // Another connection may have begun the log anew since: not while this one may read of the one before.
        uint32_t size = log->page_size;
        code = read_log_header(log);
        if (code != SQLITE_OK) return code;
        if (log->page_size == size && fits(log, frame, before)) return SQLITE_OK;
    }
    return damaged(log->partner, big_endian(frame), 1);
}

static int read_log(struct gw_file *log, void *bytes, int count, sqlite3_int64 offset) {
    if (count >= SMALLEST_PAGE && (log->page_size == 0 || log->is_header_old)) {
        int code = read_log_header(log);
        if (code != SQLITE_OK) return code;
    }
    uint32_t size = log->page_size;
    sqlite3_int64 start = offset - FRAME_HEADER_SIZE;
    // A page, and what there is to hold it against is gone.
    if (size == 0 && is_page_size((uint32_t)count)) return damaged(log->partner, 0, 1);
    // All else is what SQLite verifies itself; but not where it computes checksums anew, at the end of a transaction that has
    // written over pages which had left memory.
    if ((uint32_t)count != size || start < LOG_HEADER_SIZE
        || (start - LOG_HEADER_SIZE) % (FRAME_HEADER_SIZE + size) != 0 || start >= log->first_rewritten) {
        int code = host_read(log, bytes, count, offset);
        if (code == SQLITE_OK && offset == 0 && count == LOG_HEADER_SIZE) learn_log(log, bytes);
        return code;
    }
    uint8_t *frame = buffer_of(log, FRAME_HEADER_SIZE + size);
    if (!frame) return SQLITE_IOERR_NOMEM;
    int code = host_read(log, frame, (int)(FRAME_HEADER_SIZE + size), start);
    if (code == SQLITE_IOERR_SHORT_READ) return damaged(log->partner, big_endian(frame), 1);
    if (code == SQLITE_OK) code = verify_frame(log, frame, start);
    if (code != SQLITE_OK) return code;
    memcpy(bytes, frame + FRAME_HEADER_SIZE, size);
    if (big_endian(frame) == 1 && log->partner) learn(log->partner, bytes);
    return SQLITE_OK;
}

static int write_log(struct gw_file *log, const void *bytes, int count, sqlite3_int64 offset) {
    if (count >= SMALLEST_PAGE && log->page_size == 0) {
        int code = read_log_header(log);
        if (code != SQLITE_OK) return code;
    }
    if (offset == 0 && count == LOG_HEADER_SIZE) {
        learn_log(log, bytes);
    } else if (count == FRAME_HEADER_SIZE) {
        log->begun_frame = offset;
    } else if ((uint32_t)count == log->page_size) {
        sqlite3_int64 start = offset - FRAME_HEADER_SIZE;
        if (start != log->begun_frame && start < log->first_rewritten) log->first_rewritten = start;
        log->begun_frame = NOWHERE;
    }
    return host_write(log, bytes, count, offset);
}

// MARK: what SQLite calls

static int gw_read(sqlite3_file *file, void *bytes, int count, sqlite3_int64 offset) {
    struct gw_file *mine = (struct gw_file *)file;
    return mine->is_log ? read_log(mine, bytes, count, offset) : read_database(mine, bytes, count, offset);
}

static int gw_write(sqlite3_file *file, const void *bytes, int count, sqlite3_int64 offset) {
    struct gw_file *mine = (struct gw_file *)file;
    return mine->is_log ? write_log(mine, bytes, count, offset) : write_database(mine, bytes, count, offset);
}

static int gw_close(sqlite3_file *file) {
    struct gw_file *mine = (struct gw_file *)file;
    if (mine->partner) mine->partner->partner = 0;
    mine->partner = 0;
    sqlite3_free(mine->buffer);
    mine->buffer = 0;
    mine->buffer_size = 0;
    return host_file(mine)->pMethods->xClose(host_file(mine));
}

static int gw_lock_shared_memory(sqlite3_file *file, int first, int count, int flags) {
    struct gw_file *mine = (struct gw_file *)file;
    // What a transaction has written over has its checksums by its end, or counts no longer.
    int is_end = first == WRITER_LOCK && flags & SQLITE_SHM_UNLOCK && flags & SQLITE_SHM_EXCLUSIVE;
    if (is_end && mine->partner) mine->partner->first_rewritten = NOWHERE;
    if (flags & SQLITE_SHM_LOCK && first != WRITER_LOCK && mine->partner) mine->partner->is_header_old = 1;
    return host_file(mine)->pMethods->xShmLock(host_file(mine), first, count, flags);
}

#define HOST(file) host_file((struct gw_file *)(file))

static int gw_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct gw_file *mine = (struct gw_file *)file;
    int code = HOST(file)->pMethods->xTruncate(HOST(file), size);
    if (code == SQLITE_OK && mine->unsummed_end > size) mine->unsummed_end = size;
    return code;
}

static int gw_sync(sqlite3_file *file, int flags) { return HOST(file)->pMethods->xSync(HOST(file), flags); }

static int gw_file_size(sqlite3_file *file, sqlite3_int64 *size) {
    return HOST(file)->pMethods->xFileSize(HOST(file), size);
}

static int gw_lock(sqlite3_file *file, int lock) { return HOST(file)->pMethods->xLock(HOST(file), lock); }

static int gw_unlock(sqlite3_file *file, int lock) { return HOST(file)->pMethods->xUnlock(HOST(file), lock); }

static int gw_check_reserved_lock(sqlite3_file *file, int *is_held) {
    return HOST(file)->pMethods->xCheckReservedLock(HOST(file), is_held);
}

static int gw_file_control(sqlite3_file *file, int operation, void *argument) {
    return HOST(file)->pMethods->xFileControl(HOST(file), operation, argument);
}

static int gw_sector_size(sqlite3_file *file) { return HOST(file)->pMethods->xSectorSize(HOST(file)); }

static int gw_device_characteristics(sqlite3_file *file) {
    return HOST(file)->pMethods->xDeviceCharacteristics(HOST(file));
}

static int gw_map_shared_memory(sqlite3_file *file, int part, int size, int extends, void volatile **memory) {
    return HOST(file)->pMethods->xShmMap(HOST(file), part, size, extends, memory);
}

static void gw_shared_memory_barrier(sqlite3_file *file) { HOST(file)->pMethods->xShmBarrier(HOST(file)); }

static int gw_unmap_shared_memory(sqlite3_file *file, int deletes) {
    return HOST(file)->pMethods->xShmUnmap(HOST(file), deletes);
}

// Version 2: a file that is mapped into memory would be read without anybody looking at it.
static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = gw_close,
    .xRead = gw_read,
    .xWrite = gw_write,
    .xTruncate = gw_truncate,
    .xSync = gw_sync,
    .xFileSize = gw_file_size,
    .xLock = gw_lock,
    .xUnlock = gw_unlock,
    .xCheckReservedLock = gw_check_reserved_lock,
    .xFileControl = gw_file_control,
    .xSectorSize = gw_sector_size,
    .xDeviceCharacteristics = gw_device_characteristics,
    .xShmMap = gw_map_shared_memory,
    .xShmLock = gw_lock_shared_memory,
    .xShmBarrier = gw_shared_memory_barrier,
    .xShmUnmap = gw_unmap_shared_memory,
};

static int gw_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *opened, int flags, int *flags_out) {
    (void)vfs;
    // Journals hold pages for a moment, with checksums of SQLite's own; other files are nobody's but this process's.
    if (!(flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL))) return host->xOpen(host, name, opened, flags, flags_out);
    struct gw_file *file = (struct gw_file *)opened;
    memset(file, 0, sizeof *file + sizeof(sqlite3_file));
    int code = host->xOpen(host, name, host_file(file), flags, flags_out);
    if (code != SQLITE_OK) {
        if (host_file(file)->pMethods) host_file(file)->pMethods->xClose(host_file(file));
        return code;
    }
    file->begun_frame = file->first_rewritten = NOWHERE;
    if (flags & SQLITE_OPEN_WAL) {
        file->is_log = 1;
        sqlite3_file *database = sqlite3_database_file_object(name);
        if (database && database->pMethods == &methods) {
            file->partner = (struct gw_file *)database;
            file->partner->partner = file;
        }
    }
    file->base.pMethods = &methods;
    return SQLITE_OK;
}

// MARK: what Swift calls

static void register_once(void) {
    registration = sqlite3_initialize();
    if (registration != SQLITE_OK) return;
    host = sqlite3_vfs_find(0);
    if (!host) {
        registration = SQLITE_NOTFOUND;
        return;
    }
    // All but the opening is the host's own, which looks at nothing of the VFS that it is called by.
    ours = *host;
    ours.pNext = 0;
    ours.zName = GW_PAGE_SUMS_VFS;
    ours.szOsFile = (int)sizeof(struct gw_file) + host->szOsFile;
    ours.xOpen = gw_open;
    registration = sqlite3_vfs_register(&ours, 0);
}

int gw_page_sums_register(void) {
    pthread_once(&registered, register_once);
    return registration;
}

static struct gw_file *main_file(sqlite3 *database) {
    sqlite3_file *file = 0;
    if (sqlite3_file_control(database, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK) return 0;
    return file && file->pMethods == &methods ? (struct gw_file *)file : 0;
}

int gw_page_sums_reserve(sqlite3 *database) {
    int byte_count = SUM_SIZE;
    return sqlite3_file_control(database, "main", SQLITE_FCNTL_RESERVE_BYTES, &byte_count);
}

int gw_page_sums_are_kept(sqlite3 *database) {
    struct gw_file *file = main_file(database);
    return file && file->keeping == SUMS;
}

uint32_t gw_page_sums_take_damage(sqlite3 *database, int *is_in_log) {
    *is_in_log = 0;
    struct gw_file *file = main_file(database);
    if (!file) return 0;
    uint32_t page = file->damaged_page;
    *is_in_log = file->is_damage_in_log;
    file->damaged_page = 0;
    return page;
}
