/* As much of CBOR (RFC 8949) as frames need: docs/firmware.md says what that is. */
#ifndef CBOR_H
#define CBOR_H

#include "frame.h"

enum cbor_major {
    CBOR_UNSIGNED = 0,
    CBOR_NEGATIVE = 1,
    CBOR_TEXT = 3,
    CBOR_ARRAY = 4,
    CBOR_MAP = 5,
    CBOR_SIMPLE = 7
};

/* Writing: a map is its head and then, one after the other, its keys and values. */
void cbor_put_head(struct frame_writer *writer, enum cbor_major major, uint32_t number);
void cbor_put_long(struct frame_writer *writer, uint32_t high, uint32_t low);
void cbor_put_integer(struct frame_writer *writer, int32_t value);
void cbor_put_text(struct frame_writer *writer, const char *text);
void cbor_put_null(struct frame_writer *writer);

/* Reading: one item after the other. Members of arrays and maps are items of their own. */
struct cbor_reader {
    const uint8_t *at;
    const uint8_t *end;
};

struct cbor_item {
    enum cbor_major major;
    uint32_t number;     /* the value; of a negative one -1 - value; members; bytes of text */
    uint32_t high;       /* what the value has beyond 32 bits */
    const uint8_t *text; /* of CBOR_TEXT; not terminated */
};

/* Reads the next item. False: there is none, or none of the kind that frames hold. */
bool cbor_get(struct cbor_reader *reader, struct cbor_item *item);

/* Passes over what an item that was read contains. */
bool cbor_skip_members(struct cbor_reader *reader, const struct cbor_item *item);

/* Whether bytes are exactly one map whose keys are text. */
bool cbor_is_map(const uint8_t *bytes, uint16_t size);

bool cbor_text_is(const struct cbor_item *item, const char *text);

#endif
