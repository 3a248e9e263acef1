/* Frames: COBS( payload, CRC ) 0x00, as docs/firmware.md describes them. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stdint.h>

#ifndef FRAME_LONGEST_RECEIVED
#define FRAME_LONGEST_RECEIVED 256 /* bytes of payload and CRC; longer frames are passed over */
#endif

/* CRC-16/CCITT-FALSE, begun with CRC16_START. */
#define CRC16_START 0xFFFFu
uint16_t crc16(uint16_t crc, uint8_t byte);

/* Writes one frame into memory of the caller's. */
struct frame_writer {
    uint8_t *bytes;
    uint16_t capacity;
    uint16_t size;
    uint16_t count_at; /* where the count of the current COBS block goes */
    uint16_t crc;
};

void frame_begin(struct frame_writer *writer, uint8_t *bytes, uint16_t capacity);
void frame_put(struct frame_writer *writer, uint8_t byte);
/* Returns the size of the frame with its 0x00, or 0 if it did not fit. */
uint16_t frame_end(struct frame_writer *writer);

/* Puts together one frame after the other from the bytes of a wire. All zero is its beginning. */
struct frame_reader {
    uint8_t payload[FRAME_LONGEST_RECEIVED];
    uint16_t size;
    uint8_t block_left;   /* bytes that the current COBS block still has */
    bool zero_is_due;     /* that block stands for a zero at its end, unless the frame ends */
    bool useless;         /* the frame is too long */
};

/* Takes a byte. Returns the size of the payload when it ends a good frame, and 0 otherwise. The
 * payload is good until the next byte is taken. */
uint16_t frame_take(struct frame_reader *reader, uint8_t byte);

#endif
