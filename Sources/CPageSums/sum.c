#include "page_sums.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#endif

// Castagnoli's polynomial, as the processors' instructions have it: the lowest bit is the highest power.
static const uint32_t POLYNOMIAL = 0x82f63b78;

// What a byte adds that has 0 to 7 bytes after it in its word.
static uint32_t tables[8][256];
static int has_instruction;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++) rest = rest >> 1 ^ (rest & 1 ? POLYNOMIAL : 0);
        tables[0][byte] = rest;
    }
    for (int after = 1; after < 8; after++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t rest = tables[after - 1][byte];
            tables[after][byte] = rest >> 8 ^ tables[0][rest & 0xff];
        }
    }
#if defined(__x86_64__)
    unsigned int a, b, c, d;
    has_instruction = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2) != 0;
#endif
}

static inline uint64_t word_at(const uint8_t *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline uint32_t advance(uint32_t rest, uint64_t word) {
    word ^= rest;
    rest = 0;
    for (int byte = 0; byte < 8; byte++) rest ^= tables[7 - byte][word >> 8 * byte & 0xff];
    return rest;
}

static uint64_t sum_by_tables(const uint8_t *bytes, uint32_t byte_count, uint32_t first, uint32_t second) {
    uint32_t place = 0;
    for (; place + 16 <= byte_count; place += 16) {
        first = advance(first, word_at(bytes + place));
        second = advance(second, word_at(bytes + place + 8));
    }
    if (place + 8 <= byte_count) first = advance(first, word_at(bytes + place));
    return (uint64_t)second << 32 | first;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint64_t sum_by_instruction(const uint8_t *bytes, uint32_t byte_count,
                                                                     uint64_t first, uint64_t second) {
    uint32_t place = 0;
    for (; place + 16 <= byte_count; place += 16) {
        first = _mm_crc32_u64(first, word_at(bytes + place));
        second = _mm_crc32_u64(second, word_at(bytes + place + 8));
    }
    if (place + 8 <= byte_count) first = _mm_crc32_u64(first, word_at(bytes + place));
    return second << 32 | first;
}
#endif

uint64_t gw_page_sum(const uint8_t *page, uint32_t byte_count, uint32_t number, int is_portable) {
    pthread_once(&prepared, prepare);
    // Neither is 0 for any page: a page of zeros has no sum of zeros. Of two pages both are different.
    uint32_t first = ~number, second = number * 0x9e3779b1u;
    uint32_t covered = byte_count < 8 ? 0 : byte_count - 8;
#if defined(__x86_64__)
    if (has_instruction && !is_portable) return sum_by_instruction(page, covered, first, second);
#endif
    return sum_by_tables(page, covered, first, second);
}
