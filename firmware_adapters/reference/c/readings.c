#include "readings.h"

#include <stddef.h>

uint32_t readings_next(const struct readings *readings)
{
    return readings->oldest + readings->count;
}

static void let_go(struct readings *readings, uint16_t count)
{
    readings->first = (uint16_t)((readings->first + count) % READINGS_HELD);
    readings->count = (uint16_t)(readings->count - count);
    readings->oldest += count;
}

struct reading *readings_add(struct readings *readings)
{
    if (readings->count == READINGS_HELD) {
        let_go(readings, 1);
        readings->dropped++;
    }
    readings->count++;
    return &readings->slots[(readings->first + readings->count - 1) % READINGS_HELD];
}

const struct reading *readings_find(const struct readings *readings, uint32_t number)
{
    uint32_t offset = number - readings->oldest;

    if (offset >= readings->count)
        return NULL;
    return &readings->slots[(readings->first + offset) % READINGS_HELD];
}

bool readings_release(struct readings *readings, uint32_t up_to)
{
    uint32_t released = up_to + 1 - readings->oldest;

    if (released > readings->count)
        return false;
    let_go(readings, (uint16_t)released);
    return true;
}
