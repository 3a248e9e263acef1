#include "cbor.h"

#include <string.h>

#define FALSE_VALUE 20
#define NULL_VALUE 22
/* The additional information that says how wide the number after the head is. */
#define ONE_BYTE 24
#define TWO_BYTES 25
#define FOUR_BYTES 26
#define EIGHT_BYTES 27

static void put_first(struct frame_writer *writer, enum cbor_major major, uint8_t minor)
{
    frame_put(writer, (uint8_t)(major << 5 | minor));
}

static void put_two_bytes(struct frame_writer *writer, uint16_t number)
{
    frame_put(writer, (uint8_t)(number >> 8));
    frame_put(writer, (uint8_t)number);
}

static void put_four_bytes(struct frame_writer *writer, uint32_t number)
{
    put_two_bytes(writer, (uint16_t)(number >> 16));
    put_two_bytes(writer, (uint16_t)number);
}

void cbor_put_head(struct frame_writer *writer, enum cbor_major major, uint32_t number)
{
    if (number < ONE_BYTE) {
        put_first(writer, major, (uint8_t)number);
    } else if (number <= 0xFF) {
        put_first(writer, major, ONE_BYTE);
        frame_put(writer, (uint8_t)number);
    } else if (number <= 0xFFFF) {
        put_first(writer, major, TWO_BYTES);
        put_two_bytes(writer, (uint16_t)number);
    } else {
        put_first(writer, major, FOUR_BYTES);
        put_four_bytes(writer, number);
    }
}

void cbor_put_long(struct frame_writer *writer, uint32_t high, uint32_t low)
{
    if (high == 0) {
        cbor_put_head(writer, CBOR_UNSIGNED, low);
        return;
    }
    put_first(writer, CBOR_UNSIGNED, EIGHT_BYTES);
    put_four_bytes(writer, high);
    put_four_bytes(writer, low);
}

void cbor_put_integer(struct frame_writer *writer, int32_t value)
{
    if (value >= 0)
        cbor_put_head(writer, CBOR_UNSIGNED, (uint32_t)value);
    else
        cbor_put_head(writer, CBOR_NEGATIVE, (uint32_t)(-1 - value));
}

void cbor_put_text(struct frame_writer *writer, const char *text)
{
    cbor_put_head(writer, CBOR_TEXT, (uint32_t)strlen(text));
    while (*text != '\0')
        frame_put(writer, (uint8_t)*text++);
}

void cbor_put_null(struct frame_writer *writer)
{
    cbor_put_head(writer, CBOR_SIMPLE, NULL_VALUE);
}

static uint16_t bytes_left(const struct cbor_reader *reader)
{
    return (uint16_t)(reader->end - reader->at);
}

static bool is_within(const struct cbor_reader *reader, const struct cbor_item *item)
{
    return item->high == 0 && item->number <= bytes_left(reader);
}

bool cbor_get(struct cbor_reader *reader, struct cbor_item *item)
{
    uint8_t first, minor;

    if (reader->at == reader->end)
        return false;
    first = *reader->at++;
    minor = first & 31;
    item->major = (enum cbor_major)(first >> 5);
    item->number = minor;
    item->high = 0;
    item->text = NULL;
    if (minor > EIGHT_BYTES)
        return false;
    if (minor >= ONE_BYTE) {
        uint8_t width = (uint8_t)(1 << (minor - ONE_BYTE));

        if (bytes_left(reader) < width)
            return false;
        item->number = 0;
        while (width-- > 0) {
            item->high = item->high << 8 | item->number >> 24;
            item->number = item->number << 8 | *reader->at++;
        }
    }
    switch (item->major) {
    case CBOR_TEXT:
        if (!is_within(reader, item))
            return false;
        item->text = reader->at;
        reader->at += item->number;
        return true;
    case CBOR_SIMPLE: /* false, true, null, and floats */
        return (FALSE_VALUE <= minor && minor <= NULL_VALUE) || minor >= TWO_BYTES;
    case CBOR_ARRAY: /* each member takes a byte at least */
    case CBOR_MAP:
        return is_within(reader, item);
    case CBOR_UNSIGNED:
    case CBOR_NEGATIVE:
        return true;
    }
    return false;
}

bool cbor_skip_members(struct cbor_reader *reader, const struct cbor_item *item)
{
    struct cbor_item member = *item;
    uint32_t left = 0; /* items that are still to come, in all that is open */

    for (;;) {
        if (member.major == CBOR_ARRAY)
            left += member.number;
        else if (member.major == CBOR_MAP)
            left += 2 * member.number;
        if (left == 0)
            return true;
        if (left > bytes_left(reader) || !cbor_get(reader, &member))
            return false;
        left--;
    }
}

bool cbor_is_map(const uint8_t *bytes, uint16_t size)
{
    struct cbor_reader reader = {bytes, bytes + size};
    struct cbor_item map, item;

    if (!cbor_get(&reader, &map) || map.major != CBOR_MAP)
        return false;
    for (; map.number > 0; map.number--) {
        if (!cbor_get(&reader, &item) || item.major != CBOR_TEXT)
            return false;
        if (!cbor_get(&reader, &item) || !cbor_skip_members(&reader, &item))
            return false;
    }
    return reader.at == reader.end;
}

bool cbor_text_is(const struct cbor_item *item, const char *text)
{
    return item->major == CBOR_TEXT && item->number == strlen(text) &&
           memcmp(item->text, text, item->number) == 0;
}
