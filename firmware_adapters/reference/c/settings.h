/* What a node keeps when its power goes. Two copies take turns, so that a power cut while one is
 * being written leaves the other. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

struct settings {
    uint32_t written;     /* how often settings were written: the newer copy has more */
    uint32_t interval_ms;
    uint16_t board;       /* tells boards apart whose counters are alike */
    uint16_t check;
};

/* Chooses the newer of the good copies. False if none is good. */
bool settings_choose(struct settings *settings, const struct settings copies[2]);

/* Makes settings ready to be written, and returns over which copy, 0 or 1. */
uint8_t settings_seal(struct settings *settings);

#endif
