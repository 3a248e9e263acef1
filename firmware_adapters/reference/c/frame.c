#include "frame.h"

#define CRC_SIZE 2

uint16_t crc16(uint16_t crc, uint8_t byte)
{
    crc = (uint16_t)(crc ^ (uint16_t)byte << 8);
    for (uint8_t bit = 0; bit < 8; bit++)
        crc = (uint16_t)(crc & 0x8000u ? crc << 1 ^ 0x1021 : crc << 1);
    return crc;
}

static void append(struct frame_writer *writer, uint8_t byte)
{
    if (writer->size < writer->capacity)
        writer->bytes[writer->size] = byte;
    if (writer->size <= writer->capacity) /* one more says that it did not fit */
        writer->size++;
}

static void close_block(struct frame_writer *writer)
{
    if (writer->count_at < writer->capacity)
        writer->bytes[writer->count_at] = (uint8_t)(writer->size - writer->count_at);
}

static void stuff(struct frame_writer *writer, uint8_t byte)
{
    if (byte != 0)
        append(writer, byte);
    if (byte == 0 || writer->size - writer->count_at == 255) {
        close_block(writer);
        writer->count_at = writer->size;
        append(writer, 0);
    }
}

void frame_begin(struct frame_writer *writer, uint8_t *bytes, uint16_t capacity)
{
    writer->bytes = bytes;
    writer->capacity = capacity;
    writer->size = 0;
    writer->count_at = 0;
    writer->crc = CRC16_START;
    append(writer, 0);
}

void frame_put(struct frame_writer *writer, uint8_t byte)
{
    writer->crc = crc16(writer->crc, byte);
    stuff(writer, byte);
}

uint16_t frame_end(struct frame_writer *writer)
{
    uint16_t crc = writer->crc;

    stuff(writer, (uint8_t)(crc >> 8));
    stuff(writer, (uint8_t)crc);
    close_block(writer);
    append(writer, 0);
    return writer->size <= writer->capacity ? writer->size : 0;
}

static void keep(struct frame_reader *reader, uint8_t byte)
{
    if (reader->size < FRAME_LONGEST_RECEIVED)
        reader->payload[reader->size++] = byte;
    else
        reader->useless = true;
}

static uint16_t good_payload(const struct frame_reader *reader)
{
    uint16_t crc = CRC16_START;

    if (reader->useless || reader->block_left != 0 || reader->size <= CRC_SIZE)
        return 0;
    /* The CRC of a message and its own CRC is zero. */
    for (uint16_t at = 0; at < reader->size; at++)
        crc = crc16(crc, reader->payload[at]);
    return crc == 0 ? (uint16_t)(reader->size - CRC_SIZE) : 0;
}

uint16_t frame_take(struct frame_reader *reader, uint8_t byte)
{
    uint16_t payload = 0;

    if (byte == 0) {
        payload = good_payload(reader);
        reader->size = 0;
        reader->block_left = 0;
        reader->zero_is_due = false;
        reader->useless = false;
    } else if (reader->block_left != 0) {
        keep(reader, byte);
        reader->block_left--;
    } else {
        if (reader->zero_is_due)
            keep(reader, 0);
        reader->block_left = (uint8_t)(byte - 1);
        reader->zero_is_due = byte != 255;
    }
    return payload;
}
