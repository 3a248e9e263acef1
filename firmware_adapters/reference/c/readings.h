/* The readings that the gateway has not acknowledged: a ring, of which the oldest gives way. */
#ifndef READINGS_H
#define READINGS_H

#include <stdbool.h>
#include <stdint.h>

#ifndef SENSORS
#define SENSORS 2
#endif
#ifndef READINGS_HELD
#define READINGS_HELD 32
#endif

#ifndef VALUE_BITS
#define VALUE_BITS 32
#endif

#if VALUE_BITS == 16
typedef int16_t value_t;
#define NO_VALUE INT16_MIN /* a sensor without a value at present */
#else
typedef int32_t value_t;
#define NO_VALUE INT32_MIN
#endif

/* One value of each sensor, and when they were taken, in milliseconds since the start. */
struct reading {
    uint32_t taken_ms;
    value_t values[SENSORS];
};

/* Sequence numbers run on through 4294967295 to 0. All zero is an empty ring. */
struct readings {
    struct reading slots[READINGS_HELD];
    uint16_t first; /* the slot of the oldest */
    uint16_t count;
    uint32_t oldest;  /* the number of the oldest, or of the next if there is none */
    uint32_t dropped; /* how many gave way */
};

/* The number that the next reading gets. */
uint32_t readings_next(const struct readings *readings);

/* Adds a reading, and returns where to write it. */
struct reading *readings_add(struct readings *readings);

/* Returns the reading of a number, or NULL if it is not held. */
const struct reading *readings_find(const struct readings *readings, uint32_t number);

/* Lets go of all up to a number. False, and nothing happens, if that number was not given. */
bool readings_release(struct readings *readings, uint32_t up_to);

#endif
