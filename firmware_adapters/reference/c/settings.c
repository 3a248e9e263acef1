#include "settings.h"

#include <stddef.h>

#include "frame.h"

static uint16_t check_of(const struct settings *settings)
{
    const uint8_t *bytes = (const uint8_t *)settings;
    uint16_t crc = CRC16_START;

    for (uint8_t at = 0; at < offsetof(struct settings, check); at++)
        crc = crc16(crc, bytes[at]);
    return crc;
}

bool settings_choose(struct settings *settings, const struct settings copies[2])
{
    bool found = false;

    for (uint8_t copy = 0; copy < 2; copy++) {
        if (copies[copy].check != check_of(&copies[copy]))
            continue;
        if (!found || copies[copy].written > settings->written)
            *settings = copies[copy];
        found = true;
    }
    return found;
}

uint8_t settings_seal(struct settings *settings)
{
    settings->written++;
    settings->check = check_of(settings);
    return settings->written & 1;
}
