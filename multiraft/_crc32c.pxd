# CRC-32C in C, for `_core.pyx` and nobody else: others call `_core.crc32c_update`.
#
# The SSE4.2 or ARM instruction where the machine has one, else a table that takes eight bytes a step. `state` is the register:
# the caller inverts it before and after. The tables must be filled once before the first sum.
#
# The instruction gives its result after three cycles but can be issued in each, so long data is cut into three lanes that
# are summed side by side and then joined: the register after lane A and then B is that after A, driven on through as many
# zero bytes as B has, xor that of B alone.

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "multiraft reads its little-endian formats in place: a big-endian machine is not supported"
    #endif

    /* CRC-32C, polynomial 0x82f63b78 (reflected). `state` is the register: inverted by the caller, before and after. */

    static uint32_t multiraft_crc_table[8][256];

    static void multiraft_crc_fill(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t value = byte;
            for (int bit = 0; bit < 8; bit++)
                value = (value >> 1) ^ (0x82f63b78u & (0u - (value & 1)));
            multiraft_crc_table[0][byte] = value;
        }
        for (int slice = 1; slice < 8; slice++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t value = multiraft_crc_table[slice - 1][byte];
                multiraft_crc_table[slice][byte] = (value >> 8) ^ multiraft_crc_table[0][value & 255];
            }
    }

    static uint32_t multiraft_crc_by_table(uint32_t state, const unsigned char* data, size_t length) {
        while (length >= 8) {
            uint32_t low, high;
            memcpy(&low, data, 4);
            memcpy(&high, data + 4, 4);
            low ^= state;
            state = multiraft_crc_table[7][low & 255] ^ multiraft_crc_table[6][(low >> 8) & 255]
                  ^ multiraft_crc_table[5][(low >> 16) & 255] ^ multiraft_crc_table[4][low >> 24]
                  ^ multiraft_crc_table[3][high & 255] ^ multiraft_crc_table[2][(high >> 8) & 255]
                  ^ multiraft_crc_table[1][(high >> 16) & 255] ^ multiraft_crc_table[0][high >> 24];
            data += 8;
            length -= 8;
        }
        while (length--)
            state = (state >> 8) ^ multiraft_crc_table[0][(state ^ *data++) & 255];
        return state;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    #include <nmmintrin.h>
    #define MULTIRAFT_CRC_TARGET __attribute__((target("sse4.2")))
    #define MULTIRAFT_CRC_AVAILABLE __builtin_cpu_supports("sse4.2")
    #define MULTIRAFT_CRC_8(state, word) ((uint32_t)_mm_crc32_u64(state, word))
    #define MULTIRAFT_CRC_1(state, byte) _mm_crc32_u8(state, byte)
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    #define MULTIRAFT_CRC_TARGET
    #define MULTIRAFT_CRC_AVAILABLE 1
    #define MULTIRAFT_CRC_8(state, word) __crc32cd(state, word)
    #define MULTIRAFT_CRC_1(state, byte) __crc32cb(state, byte)
    #endif

    #ifdef MULTIRAFT_CRC_TARGET
    #define MULTIRAFT_CRC_LANE 256

    static uint32_t multiraft_crc_zeros[4][256];    /* by byte of the register: the register after a lane of zeros */

    static void multiraft_crc_fill_zeros(void) {
        static const unsigned char lane[MULTIRAFT_CRC_LANE];
        for (int place = 0; place < 4; place++)
            for (uint32_t byte = 0; byte < 256; byte++)
                multiraft_crc_zeros[place][byte] = multiraft_crc_by_table(byte << (8 * place), lane, sizeof lane);
    }

    static inline uint32_t multiraft_crc_past_lane(uint32_t state) {
        return multiraft_crc_zeros[0][state & 255] ^ multiraft_crc_zeros[1][(state >> 8) & 255]
             ^ multiraft_crc_zeros[2][(state >> 16) & 255] ^ multiraft_crc_zeros[3][state >> 24];
    }

    MULTIRAFT_CRC_TARGET
    static uint32_t multiraft_crc_by_instruction(uint32_t state, const unsigned char* data, size_t length) {
        for (; length >= 3 * MULTIRAFT_CRC_LANE; length -= 3 * MULTIRAFT_CRC_LANE) {
            uint32_t second = 0, third = 0;
            for (const unsigned char* end = data + MULTIRAFT_CRC_LANE; data < end; data += 8) {
                uint64_t words[3];
                memcpy(&words[0], data, 8);
                memcpy(&words[1], data + MULTIRAFT_CRC_LANE, 8);
                memcpy(&words[2], data + 2 * MULTIRAFT_CRC_LANE, 8);
                state = MULTIRAFT_CRC_8(state, words[0]);
                second = MULTIRAFT_CRC_8(second, words[1]);
                third = MULTIRAFT_CRC_8(third, words[2]);
            }
            data += 2 * MULTIRAFT_CRC_LANE;
            state = multiraft_crc_past_lane(state) ^ second;
            state = multiraft_crc_past_lane(state) ^ third;
        }
        for (; length >= 8; data += 8, length -= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            state = MULTIRAFT_CRC_8(state, word);
        }
        while (length--)
            state = MULTIRAFT_CRC_1(state, *data++);
        return state;
    }
    #else
    #define MULTIRAFT_CRC_AVAILABLE 0
    #define multiraft_crc_by_instruction multiraft_crc_by_table
    #define multiraft_crc_fill_zeros()
    #endif

    static void multiraft_crc_prepare(void) {
        multiraft_crc_fill();
        multiraft_crc_fill_zeros();
    }

    static inline uint32_t multiraft_crc(uint32_t state, const unsigned char* data, size_t length) {
        return MULTIRAFT_CRC_AVAILABLE ? multiraft_crc_by_instruction(state, data, length)
                                       : multiraft_crc_by_table(state, data, length);
    }
    """
    void multiraft_crc_prepare() noexcept nogil
    uint32_t multiraft_crc(uint32_t state, const unsigned char* data, size_t length) noexcept nogil
    uint32_t multiraft_crc_by_table(uint32_t state, const unsigned char* data, size_t length) noexcept nogil
    bint MULTIRAFT_CRC_AVAILABLE
