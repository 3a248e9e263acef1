/* A sensor node: takes readings when they are due, sends them, and holds them until the gateway
 * says that they are durable. It does no I/O and has no clock: the port asks it what to do.
 *
 * Times are milliseconds since the start, modulo 2^32; ask at least once in 49 days. */
#ifndef NODE_H
#define NODE_H

#include "frame.h"
#include "readings.h"

#ifndef NODE_FRAME
#define NODE_FRAME 128 /* bytes of the longest frame that is sent: names and units of all sensors */
#endif

#define NODE_SHORTEST_INTERVAL_MS 10u
#define NODE_LONGEST_INTERVAL_MS 86400000u
#define NODE_INTERVALS "10 to 86400000" /* the same for people */

struct sensor {
    const char *name;
    const char *unit; /* NULL: it has none */
};

struct node {
    uint32_t interval_ms; /* may be changed by a command; the port stores it */
    uint8_t frame[NODE_FRAME];

    const struct sensor *sensors; /* SENSORS of them */
    uint32_t board; /* the boot id is board * 2^32 + boot */
    uint32_t boot;
    struct readings readings;
    struct frame_reader command;
    char answer[64]; /* what to say about commands, or empty */
    uint32_t answers; /* the number of the command that a report answers */
    uint8_t report;   /* what to say of the settings; 0: nothing */

    uint32_t now_ms; /* as of the last call */
    uint32_t wraps;  /* how often the clock went through 0 */
    uint32_t taken_ms;

    uint32_t unsent;    /* the first number that has never been sent */
    uint32_t again;     /* the numbers from here on that the gateway has asked for, */
    uint32_t again_end; /* up to here */
    uint32_t again_ms;  /* when the last of them was sent */
    uint32_t sent_ms;   /* when any was */
    uint32_t patience_ms;
};

/* `board` and `boot` together have to differ from those of any other start, of this board or of
 * another one; `board` is at most 2^21 - 1. */
void node_start(struct node *node, const struct sensor *sensors, uint32_t board, uint32_t boot,
                uint32_t interval_ms, uint32_t now_ms);

/* Whether to take readings now; then hand them to `node_record`, one value for each sensor. */
bool node_is_due(struct node *node, uint32_t now_ms);
void node_record(struct node *node, const value_t values[SENSORS], uint32_t now_ms);

/* Takes a byte from the wire. */
void node_receive(struct node *node, uint8_t byte, uint32_t now_ms);

/* Makes the frame to send next, in `node->frame`, and returns its size; 0: there is none now.
 * Call it when the wire has taken the one before. */
uint16_t node_send(struct node *node, uint32_t now_ms);

#endif
